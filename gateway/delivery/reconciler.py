"""Reconciliation: compares the logs of users with a socket here with what their connections know.

This finds the changes whose hints were lost. An outage of the backplane costs a delay, never a notification.
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

HINT_DELAY_SECONDS = 0.2
"""How long a hint may take before it counts as missed. Also the minimum time between two comparisons."""


RETRY_SECONDS = 1.0
"""How long to wait before asking again after the database was unavailable."""


class Reconciler:
    """Finds users whose log is ahead of their connections, with one query, on request and on a timer.

    `interval` is in seconds. Each wait is up to a fifth shorter or longer, so that the processes of a gateway
    don't query in step. `reconciled` counts the users whose hints were missed.
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
        self._requested_users: set[int] = set()
        self._all_requested = False
        self._has_request = asyncio.Event()
        self.reconciled = 0

    def request(self, users: Collection[int] | None) -> None:
        """Request a comparison soon, for these users or (None) for all."""
        self._requested_users.update(users or ())
        self._all_requested = self._all_requested or users is None
        self._has_request.set()

    async def run(self) -> None:
        """Compare on request and on the timer, until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._interval * self._jitter()
        while True:
            try:
                async with asyncio.timeout_at(due):
                    await self._has_request.wait()
            except TimeoutError:
                self._all_requested = True
            if self._all_requested:
                due = loop.time() + self._interval * self._jitter()
            await self._reconcile()

    async def _reconcile(self) -> None:
        # Cleared before the read, so that requests made while the database answers get a read of their own.
        users = None if self._all_requested else self._requested_users
        self._requested_users, self._all_requested = set(), False
        self._has_request.clear()
        positions = self._hub.positions(users)
        if not positions:
            return
        try:
            behind = await self._database.read(users_behind.find_users_behind, positions)
        except Unavailable:
            # Request again: nothing else may report these users, and the timer may be long.
            logger.warning("the reconciliation query failed")
            self.request(users)
            await asyncio.sleep(RETRY_SECONDS)
            return
        await asyncio.sleep(HINT_DELAY_SECONDS)
        missed = [
            user_id for user_id, *known in self._hub.positions(behind) if behind[user_id].is_ahead_of(*known)
        ]
        self.reconciled += len(missed)
        self._remote_commits.hint(missed)
