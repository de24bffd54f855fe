"""Revocation: the sessions and API keys that ended lately, here and in other processes.

An end is kept in memory while a verification that read the database before it may still be under way. The
database knows of it afterwards.
"""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection
from typing import NamedTuple

import structlog
from sqlalchemy import Connection, func, select, tuple_

from gateway.auth import cutoffs
from gateway.auth.sessions import PAGE
from gateway.database.database import Database
from gateway.database.models import sessions
from gateway.errors import Unavailable

ENDED_SESSION_TTL_SECONDS = 120
"""How long an end is kept in memory: longer than a verification takes that read the database before it."""

LOOK_BACK_SECONDS = 60
"""How long before its commit an end may have been written, and by how much the clocks of processes differ."""

MAX_FORGOTTEN = 10_000
"""Maximum number of ends that one look removes from memory, once their time is over."""

logger = structlog.get_logger(__name__)


class Revocation:
    """Tells everything in this process, and the other processes, which sessions and API keys have ended.

    Both are named by a handle: the id of the session, or of the key. `on_ended` is called with those that are
    new here, to close their sockets; `publish_ended` with those of them that ended here, to tell the other
    processes. `clock` returns seconds since 1970. Call `find` now and then.
    """

    def __init__(
        self,
        database: Database,
        *,
        on_ended: Callable[[Collection[str]], None],
        publish_ended: Callable[[Collection[str]], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._listeners = [on_ended]
        self._publish_ended = publish_ended
        self._ended = Ended()
        self.finder = Finder(database)
        self._looked_at = clock()
        self._blind = False

    def __contains__(self, handle: object) -> bool:
        return handle in self._ended

    def __len__(self) -> int:
        return len(self._ended)

    def precede(self, listener: Callable[[Collection[str]], None]) -> None:
        """Call this, too, with the handles that are new here, before all listeners there are."""
        self._listeners.insert(0, listener)

    def end(self, handles: Collection[str]) -> None:
        """Stop believing the tokens of these sessions, and these API keys, here and in the other processes.

        Call it after the commit of the transaction that ended them.
        """
        if fresh := self.drop(handles):
            self._publish_ended(fresh)

    def drop(self, handles: Collection[str]) -> list[str]:
        """Do what `end` does, in this process alone, and return which of them it did not know of."""
        now = self._clock()
        fresh = [handle for handle in handles if self._ended.add(handle, now)]
        # As many as came may go, and some more: so there are never more than have ended of late.
        self._ended.forget(now, 2 * len(fresh))
        if fresh:
            for listener in self._listeners:
                listener(fresh)
        return fresh

    async def find(self) -> None:
        """Find the sessions that other processes have ended, and forget those that ended a while ago.

        A database that cannot be used now is no error: the next call looks from the same moment on.
        It is a range of one index: 0.3 ms of CPU on SQLite, 0.6 ms on Postgres, where nothing has ended.
        """
        now = self._clock()
        self._ended.forget(now, MAX_FORGOTTEN)
        try:
            async for page in self.finder.look(min(self._looked_at, now)):
                self.drop([ending.id for ending in page])
            self._looked_at, self._blind = now, False
        except Unavailable:
            if not self._blind:
                logger.warning("the database cannot be asked which sessions have ended")
            self._blind = True


class Ended:
    """Handles of sessions and API keys, each for `ENDED_KEPT_SECONDS`; the database knows of them afterwards.

    So there are as many as end in that time, however long their tokens live. Each costs some 350 bytes.
    """

    def __init__(self) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()

    def __contains__(self, handle: object) -> bool:
        return handle in self._until

    def __len__(self) -> int:
        return len(self._until)

    def add(self, handle: str, now: float) -> bool:
        """Keep a handle from `now` on, in seconds, and return whether it is new here."""
        if handle in self._until:
            return False
        self._until[handle] = now + ENDED_SESSION_TTL_SECONDS
        return True

    def forget(self, now: float, limit: int) -> None:
        """Forget the oldest whose time is over: `limit` of them at most, the rest with the next call."""
        while limit > 0 and self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
            limit -= 1

    def clear(self) -> None:
        """Forget everything."""
        self._until.clear()


class Ending(NamedTuple):
    """A session that has ended. `ended_at` is in ms."""

    id: str
    ended_at: int


class Tally(NamedTuple):
    """How many sessions have ended within a second, and the sum of their moments."""

    number: int
    moments: int


class Finder:
    """Finds in the database which sessions have ended. It does not read the same ones with every look.

    The moment of an end is written before its transaction commits, so ends do not become visible in the order
    of their moments. Hence each look counts the ends of every second of the last minute, which the database
    does on one index, and reads those seconds whose count has changed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tallies: dict[int, Tally] = {}

    async def look(self, since: float) -> AsyncIterator[list[Ending]]:
        """Yield pages of the ends that are new since a moment, in seconds. Raises `Unavailable`.

        Some of them may have been yielded before. Call it again after an error, with the same moment.
        """
        tallies = await self._database.read(tally, int(since - LOOK_BACK_SECONDS))
        for second, tallied in tallies.items():
            if self._tallies.get(second) == tallied:
                continue
            after = ""
            moment = second * 1000
            while page := await self._database.read(page_of, second, moment, after):
                yield page
                if len(page) < PAGE:
                    break
                moment, after = page[-1].ended_at, page[-1].id
        self._tallies = tallies


def tally(connection: Connection, since: int) -> dict[int, Tally]:
    """Return how many sessions have ended in each second from a second on; those with none are left out."""
    second = (sessions.c.ended_at // 1000).label("second")
    counted = select(second, func.count(), func.sum(sessions.c.ended_at)).where(
        sessions.c.ended_at >= since * 1000
    )
    found = connection.execute(counted.group_by("second"))
    return {row[0]: Tally(row[1], int(row[2])) for row in found}


def page_of(connection: Connection, second: int, moment_ms: int, after: str) -> list[Ending]:
    """Return sessions that have ended within a second, beginning behind the one with this moment and id."""
    ended = sessions.c.ended_at
    found = (
        select(sessions.c.id, ended)
        .where(ended >= moment_ms, ended < (second + 1) * 1000)
        .where(tuple_(ended, sessions.c.id) > (moment_ms, after))
        .where(sessions.c.id.not_like(f"{cutoffs.MARK}%"))
        .order_by(ended, sessions.c.id)
        .limit(PAGE)
    )
    return [Ending(*row) for row in connection.execute(found)]
