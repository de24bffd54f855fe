"""What other processes have committed, brought in: read once for all sockets here, then rung like a commit.

A hint only says whose log may have moved. Whatever is hinted while the database answers is read together the
next time, so the more there is to bring, the less each of it costs (docs/architecture.md, "The backplane").
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

PAUSE = 1.0
"""How long to wait before asking a database again that could not be used, in seconds."""


class RemoteCommits:
    """Brings the logs of hinted users into the tail, and rings their sockets."""

    def __init__(self, hub: Hub, recent: RecentEntries, database: Database) -> None:
        self._hub = hub
        self._recent = recent
        self._database = database
        self._hinted: set[int] = set()
        self._waiting = asyncio.Event()

    def hint(self, users: Collection[int]) -> None:
        """Take note that the logs of these users may have moved. Those without a socket here are nobody."""
        hinted = [user_id for user_id in users if user_id in self._hub]
        if hinted:
            self._hinted.update(hinted)
            self._waiting.set()

    async def run(self) -> None:
        """Bring what is hinted, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._waiting.wait()
            # Cleared before reading: what is hinted while the database answers is read again.
            self._waiting.clear()
            hinted, self._hinted = self._hinted, set()
            began = loop.time()
            try:
                await self._bring(hinted)
            except Unavailable:
                logger.warning("the database cannot be asked what other processes have committed")
                self.hint(hinted)
                await asyncio.sleep(PAUSE)
            # As long as it took: under load a reading then brings more, and costs no more.
            await asyncio.sleep(loop.time() - began)

    async def _bring(self, users: Collection[int]) -> None:
        positions = self._hub.positions(users)
        if not positions:
            return
        entries, counts = await self._database.read(users_behind.read_new_entries, positions)
        self._recent.record(entries, counts)
        self._hub.wake({user_id: head.seq for user_id, head in counts.items()})
