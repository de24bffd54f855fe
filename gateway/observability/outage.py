"""Outages of servers: logged once when one begins, with the reason, and once when it is over."""

import time
from collections.abc import Callable

import structlog

from gateway.observability import sqlstates
from gateway.observability.reasons import reason

logger = structlog.get_logger()

QUIET = 5.0
"""For how long after one outage the next is logged only if it lasts, in seconds: a server may flap."""


class Outage:
    """One server. `away` and `back` are the events, `facts` stand beside them; `clock` returns seconds."""

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
        """Note a failure. Call it for each: the first of an outage is logged."""
        now = self._clock()
        if not self.is_on:
            self.is_on, self._began_at = True, now
        if not self._is_logged and now >= self._quiet_until:
            self._is_logged = True
            logger.warning(self._away, reason=reason(error), **self._facts)

    def end(self) -> None:
        """Note that it works again."""
        now = self._clock()
        if self._is_logged:
            logger.info(self._back, after_seconds=round(now - self._began_at, 1), **self._facts)
            self._quiet_until = now + QUIET
        self.is_on = self._is_logged = False


class DatabaseOutage:
    """The outages of a database, which may be away, or be there and take no writes.

    `name` is its URL without a password. A unit of work that works costs a look at two marks.
    """

    def __init__(self, name: str) -> None:
        self._away = Outage("the database is away", "the database is back", database=name)
        self._refuses = Outage(
            "the database takes no writes", "the database takes writes again", database=name
        )

    def note(self, error: BaseException, *, writes: bool = False) -> None:
        """Note why a unit of work has failed, and whether it was to write. A deadlock is no outage."""
        state = getattr(getattr(error, "orig", error), "sqlstate", None)
        if state is None:
            is_sqlite = hasattr(getattr(error, "orig", error), "sqlite_errorname")
            (self._refuses if is_sqlite and writes else self._away).begin(error)
        elif sqlstates.stores_nothing(state, writes=writes):
            self._refuses.begin(error)
        elif sqlstates.is_of_no_use(state):
            self._away.begin(error)

    def over(self, *, wrote: bool) -> None:
        """Note that a unit of work has succeeded."""
        if self._away.is_on:
            self._away.end()
        if wrote and self._refuses.is_on:
            self._refuses.end()
