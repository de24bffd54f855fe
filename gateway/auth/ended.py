"""The sessions and API keys that have ended, in memory while they may still be verified as alive."""

from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import NamedTuple

from sqlalchemy import Connection, func, select, tuple_

from gateway.auth import cutoffs
from gateway.auth.sessions import PAGE
from gateway.database.database import Database
from gateway.database.models import sessions

ENDED_KEPT_SECONDS = 120
"""How long an end is kept in memory: longer than a verification takes that read the database before it."""

LOOK_BACK_SECONDS = 60
"""How long before its commit an end may have been written, and by how much the clocks of processes differ."""


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
        self._until[handle] = now + ENDED_KEPT_SECONDS
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
