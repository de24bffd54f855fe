"""The sessions and API keys that have ended, in memory, each for as long as a token of it could live."""

from collections.abc import AsyncIterator
from heapq import heappop, heappush

from gateway import endings
from gateway.database import Database
from gateway.endings import PAGE, Ending, Tally

SLOT_SECONDS = 16
"""How exactly it is kept when an entry expires: up to so long after its last token."""

SETTLE_SECONDS = 64
"""How long after an end the database may still tell that its tokens expire sooner than was thought."""

LOOK_BACK_SECONDS = 60
"""How long before its commit an end may have been written, and by how much the clocks of processes differ."""


class Ended:
    """Handles of sessions and API keys, each until a moment. Nothing here looks through all of them.

    Each handle waits in one slot of a timing wheel. One whose moment is later than its slot is moved on when
    the slot is due, so a moment can be brought forward without looking for the handle.
    """

    def __init__(self) -> None:
        self._expiry: dict[str, int] = {}
        self._waiting: dict[int, list[str]] = {}
        self._slots: list[int] = []

    def __contains__(self, handle: object) -> bool:
        return handle in self._expiry

    def __len__(self) -> int:
        return len(self._expiry)

    def add(self, handle: str, now: float, until: float) -> bool:
        """Keep a handle from `now` until a moment, in seconds, and return whether it is new here."""
        if handle in self._expiry:
            return False
        expiry = self._expiry[handle] = _slot(until)
        self._wait(handle, min(expiry, _slot(now + SETTLE_SECONDS)))
        return True

    def shorten(self, handle: str, until: float) -> None:
        """Keep a handle no longer than until this moment, in seconds."""
        expiry = _slot(until)
        if expiry < self._expiry.get(handle, 0):
            self._expiry[handle] = expiry

    def forget(self, now: float, limit: int) -> None:
        """Forget what has expired: `limit` steps at most, the rest with the next call."""
        while limit > 0 and self._slots and self._slots[0] * SLOT_SECONDS <= now:
            slot = self._slots[0]
            waiting = self._waiting[slot]
            for _ in range(min(limit, len(waiting))):
                handle = waiting.pop()
                expiry = self._expiry[handle]
                if expiry <= slot:
                    del self._expiry[handle]
                else:
                    self._wait(handle, expiry)
                limit -= 1
            if not waiting:
                del self._waiting[heappop(self._slots)]

    def clear(self) -> None:
        """Forget everything."""
        self.__init__()  # type: ignore[misc]

    def _wait(self, handle: str, slot: int) -> None:
        waiting = self._waiting.get(slot)
        if waiting is None:
            waiting = self._waiting[slot] = []
            heappush(self._slots, slot)
        waiting.append(handle)


def _slot(moment: float) -> int:
    """Return the slot that is due at a moment, or soon after."""
    return -int(-moment // SLOT_SECONDS)


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
