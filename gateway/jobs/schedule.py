"""The schedule: looks for due work, and lets the writer do it in the order of `store/due_turns`.

Every process looks, and one at a time works: whichever finds it first. A piece of work is done in the
transaction that deletes its row, so two processes at work would still do it once.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

import structlog

from gateway.database.database import LockingDatabase
from gateway.errors import GatewayError, Unavailable
from gateway.jobs.background import finished
from gateway.store import due_work
from gateway.store.due_steps import STEP, Advance
from gateway.store.due_turns import Turns, find_due
from gateway.store.due_work import Due
from gateway.store.writer import Writer

logger = structlog.get_logger()

TICK_SECONDS = 0.5
"""Maximum time between two looks: another process may have stored work, and a clock may be set."""

FOUND = 1000
"""About how many inboxes the work of one look concerns. What becomes due then waits for the next look."""

DOWNTIME_SECONDS = 10
"""How long without a look is a downtime. What became due in it is done in the order of its time."""

RETRY_SECONDS = 60
"""How long work that failed is put off."""

_LOCK = 0x736368656475
"""The advisory lock of Postgres that lets one process at a time do due work ("schedu" in ASCII)."""


class Schedule:
    """The job of due work. `clock` returns seconds since 1970."""

    def __init__(
        self, database: LockingDatabase, writer: Writer, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._turns = Turns()
        self._looked_at = self._overdue_until = 0

    def _now(self) -> int:
        return int(self._clock() * 1000)

    async def run(self) -> None:
        """Do due work as it becomes due, until cancelled. Work that fails is logged and tried again later."""
        failing = False
        # As other jobs do: the first callers of a process open the connections to its database.
        await asyncio.sleep(TICK_SECONDS)
        while True:
            try:
                await asyncio.sleep(await finished(self._delay()))
                if not await finished(self.work()):
                    # Another process works. Asking again at once would take its turns.
                    await asyncio.sleep(TICK_SECONDS)
                failing = False
            except (Unavailable, OSError) as error:
                if not failing:
                    logger.warning("due work waits for the database", reason=str(error))
                failing = True
                await asyncio.sleep(TICK_SECONDS)

    async def _delay(self) -> float:
        due_at = await self._database.read(due_work.next_due_at)
        if due_at is None:
            return TICK_SECONDS
        return min(max(due_at / 1000 - self._clock(), 0), TICK_SECONDS)

    async def work(self) -> bool:
        """Do all work that is due, or return False: another process does it. Raises `Unavailable`."""
        if not await self._find():
            return True
        async with self._database.exclusively(_LOCK) as alone:
            while alone and (found := await self._find()):
                for group in _groups(found):
                    await self._finish(group)
        return alone

    async def _find(self) -> list[Due]:
        now = self._now()
        if not 0 <= now - self._looked_at < DOWNTIME_SECONDS * 1000:
            # The process or its database was away, or the clock has been set.
            self._overdue_until = now
        waiting = await self._database.read(find_due, now, self._overdue_until, FOUND)
        self._looked_at = now
        return self._turns.take(waiting, FOUND)

    async def _finish(self, group: tuple[Due, ...]) -> None:
        """Do a group of due work, with all its steps. One piece that fails must not hold up the others."""
        try:
            rest = group
            while rest:
                rest = (await self._writer.advance(Advance(rest))).rest
        except Unavailable:
            raise
        except GatewayError:
            if len(group) > 1:
                for one in group:
                    await self._finish((one,))
                return
            logger.exception("due work failed, and is tried again later", kind=group[0].kind)
            later = self._now() + RETRY_SECONDS * 1000
            await self._database.write(due_work.put_off, group[0].id, later)


def _groups(found: Sequence[Due]) -> Iterator[tuple[Due, ...]]:
    """Put small pieces of work together, in their order, so that one transaction does as many as it may."""
    group: list[Due] = []
    size = 0
    for one in found:
        weight = one.weight(STEP)
        if group and size + weight > STEP:
            yield tuple(group)
            group, size = [], 0
        group.append(one)
        size += weight
    if group:
        yield tuple(group)
