"""Remote commits: reads the changes of other processes once for all connections here, and wakes them.

A hint only says whose log may have moved. Hints that arrive while the database answers are read together the
next time, so the cost per hint falls as the load rises (docs/architecture.md, "The backplane").
"""

import asyncio
from collections.abc import Collection

import structlog

from gateway.database.database import Database
from gateway.delivery.hub import Hub
from gateway.delivery.recent_entries import RecentEntries
from gateway.errors import Unavailable
from gateway.store import users_behind

logger = structlog.get_logger()

RETRY_SECONDS = 1.0
"""How long to wait before asking again after the database was unavailable."""


class RemoteCommits:
    """Reads the new entries of hinted users into the recent entries, and wakes their connections."""

    def __init__(self, hub: Hub, recent: RecentEntries, database: Database) -> None:
        self._hub = hub
        self._recent = recent
        self._database = database
        self._hinted: set[int] = set()
        self._waiting = asyncio.Event()

    def hint(self, users: Collection[int]) -> None:
        """Record that the logs of these users may have moved. Users without a socket here are ignored."""
        hinted = [user_id for user_id in users if user_id in self._hub]
        if hinted:
            self._hinted.update(hinted)
            self._waiting.set()

    async def run(self) -> None:
        """Read the logs of hinted users, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._waiting.wait()
            # Cleared before the read, so that hints that arrive while the database answers are read again.
            self._waiting.clear()
            hinted, self._hinted = self._hinted, set()
            began = loop.time()
            try:
                await self._read_new_entries(hinted)
            except Unavailable:
                logger.warning("the query for remote commits failed")
                self.hint(hinted)
                await asyncio.sleep(RETRY_SECONDS)
            # Rest for as long as the read took: under load the next read covers more hints at the same cost.
            await asyncio.sleep(loop.time() - began)

    async def _read_new_entries(self, users: Collection[int]) -> None:
        positions = self._hub.positions(users)
        if not positions:
            return
        entries, counts = await self._database.read(users_behind.read_new_entries, positions)
        self._recent.record(entries, counts)
        self._hub.wake({user_id: head.seq for user_id, head in counts.items()}, entries)
