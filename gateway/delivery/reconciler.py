"""Reconciliation: the logs of the users with a socket here, compared with what their sockets know of them.

A hint that is lost is made good here. So losing the backplane costs a delay, and never a notification.
"""

import asyncio
import random
from collections.abc import Callable, Collection

import structlog

from gateway.database.database import Database
from gateway.delivery.hub import Hub
from gateway.delivery.remote_commits import RemoteCommits
from gateway.errors import Unavailable
from gateway.store import users_behind

logger = structlog.get_logger()

GRACE = 0.2
"""How long a hint may be on its way before it counts as missed, and the least time between two looks, in
seconds."""


PAUSE = 1.0
"""How long to wait before asking a database again that could not be used, in seconds."""


class Reconciler:
    """Finds the users whose log is ahead of their sockets, with one query: when asked, and on a timer.

    `interval` is in seconds; each wait is up to a fifth shorter or longer, so that the processes of a
    gateway do not ask in step. `reconciled` counts the users whom no hint had told of.
    """

    def __init__(
        self,
        hub: Hub,
        remote_commits: RemoteCommits,
        database: Database,
        interval: float,
        *,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),  # noqa: S311 - it keeps no secret
    ) -> None:
        self._hub = hub
        self._remote_commits = remote_commits
        self._database = database
        self._interval = interval
        self._jitter = jitter
        self._asked_for: set[int] = set()
        self._all = False
        self._asked = asyncio.Event()
        self.reconciled = 0

    def request(self, users: Collection[int] | None) -> None:
        """Ask for these users to be looked at soon, or for all of them."""
        self._asked_for.update(users or ())
        self._all = self._all or users is None
        self._asked.set()

    async def run(self) -> None:
        """Look when asked, and on the timer, until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._interval * self._jitter()
        while True:
            try:
                async with asyncio.timeout_at(due):
                    await self._asked.wait()
            except TimeoutError:
                self._all = True
            if self._all:
                due = loop.time() + self._interval * self._jitter()
            await self._look()

    async def _look(self) -> None:
        # Cleared before reading: what is asked for while the database answers is looked at again.
        users = None if self._all else self._asked_for
        self._asked_for, self._all = set(), False
        self._asked.clear()
        positions = self._hub.positions(users)
        if not positions:
            return
        try:
            behind = await self._database.read(users_behind.find_users_behind, positions)
        except Unavailable:
            # What was asked for may be told by nothing else, and the timer may be long.
            logger.warning("the database cannot be asked what the sockets have missed")
            self.request(users)
            await asyncio.sleep(PAUSE)
            return
        await asyncio.sleep(GRACE)
        missed = [
            user_id
            for user_id, seq, seen in self._hub.positions(behind)
            if behind[user_id].seq > seq or behind[user_id].seen > seen
        ]
        self.reconciled += len(missed)
        self._remote_commits.hint(missed)
