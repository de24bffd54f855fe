"""Outages of servers: one line in the log when an outage begins, with the reason, and one when it ends."""

import time
from collections.abc import Callable

import structlog

from gateway.observability import sqlstates
from gateway.observability.reasons import reason

logger = structlog.get_logger()

QUIET_SECONDS = 5.0
"""How long after an outage a new one isn't logged, unless it lasts longer. It limits the log of a flapping
server.
"""


class Outage:
    """The outages of one server. `away` and `back` are the events to log, with `facts` as further fields.

    `clock` returns seconds.
    """

    def __init__(
        self, away: str, back: str, *, clock: Callable[[], float] = time.monotonic, **facts: str
    ) -> None:
        self._away = away
        self._back = back
        self._facts = facts
        self._clock = clock
        self._is_logged = False
        self._quiet_until = float("-inf")
        self._began_at = 0.0
        self.is_on = False

    def begin(self, error: BaseException) -> None:
        """Record a failure. Call it for each one: only the first of an outage is logged."""
        now = self._clock()
        if not self.is_on:
            self.is_on, self._began_at = True, now
        if not self._is_logged and now >= self._quiet_until:
            self._is_logged = True
            logger.warning(self._away, reason=reason(error), **self._facts)

    def end(self) -> None:
        """Record that the server works again."""
        now = self._clock()
        if self._is_logged:
            logger.info(self._back, after_seconds=round(now - self._began_at, 1), **self._facts)
            self._quiet_until = now + QUIET_SECONDS
        self.is_on = self._is_logged = False


class DatabaseOutage:
    """The outages of a database. It may be unreachable, or reachable and refuse writes.

    `name` is its URL without a password. A successful unit of work only costs a check of two flags.
    """

    def __init__(self, name: str) -> None:
        self._away = Outage("the database is unavailable", "the database is back", database=name)
        self._refuses = Outage(
            "the database refuses writes", "the database accepts writes again", database=name
        )

    def note(self, error: BaseException, *, writes: bool = False) -> None:
        """Record the error of a unit of work, and whether it was to write. A deadlock is not an outage."""
        state = getattr(getattr(error, "orig", error), "sqlstate", None)
        if state is None:
            is_sqlite = hasattr(getattr(error, "orig", error), "sqlite_errorname")
            (self._refuses if is_sqlite and writes else self._away).begin(error)
        elif sqlstates.stores_nothing(state, writes=writes):
            self._refuses.begin(error)
        elif sqlstates.is_unusable(state):
            self._away.begin(error)

    def over(self, *, wrote: bool) -> None:
        """Record that a unit of work has succeeded."""
        if self._away.is_on:
            self._away.end()
        if wrote and self._refuses.is_on:
            self._refuses.end()
