"""The sessions and API keys that have ended, in memory while they may still be verified as alive."""

from collections import OrderedDict
from collections.abc import AsyncIterator

from gateway.auth import endings
from gateway.auth.endings import PAGE, Ending, Tally
from gateway.database.database import Database

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
        tallies = await self._database.read(endings.tally, int(since - LOOK_BACK_SECONDS))
        for second, tally in tallies.items():
            if self._tallies.get(second) == tally:
                continue
            after = ""
            moment = second * 1000
            while page := await self._database.read(endings.page, second, moment, after):
                yield page
                if len(page) < PAGE:
                    break
                moment, after = page[-1].ended_at, page[-1].id
        self._tallies = tallies
