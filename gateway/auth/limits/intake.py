"""The intake of larger bodies: how many bytes of them each caller may have here, and which is parsed next.

Smaller bodies count as well while they are unfinished. A body of up to `SMALL_BODY` is parsed as it comes,
within a millisecond. Of larger ones, one is parsed at a time in the whole process, however many are complete
in the same moment; callers take turns, and after each turn the event loop is left to others for as long as it
has taken.

A caller is the id of a service, or minus the id of a user.
"""

import asyncio
import time

from gateway.auth.limits.fair_queue import FairQueue
from gateway.errors import Overloaded, RateLimited

SMALL_BODY = 16 * 1024
"""Most bytes of a body that is not waited for, nor counted if it comes at once."""

MAX_HELD = 8 * 1024 * 1024
"""Most bytes of larger or unfinished bodies that one caller may have here, received or not."""

MAX_HELD_BY_ALL = 128 * 1024 * 1024
"""The same of all callers; one may have as many as are left for all others."""

MAX_WAITING = 10_000
"""How many pieces of work may wait for their turn; a caller may have as many as are left for all others."""

MAX_REST = 0.05
"""Longest time that the event loop is left to others after a turn, in seconds."""


class Intake:
    """The larger bodies of all callers."""

    def __init__(self) -> None:
        self._held: dict[int, int] = {}
        self._held_by_all = 0
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue(MAX_WAITING)
        self._taken = False

    def hold(self, caller: int, size: int) -> None:
        """Count a body of `size` bytes until `release`.

        Raises `RateLimited` where the caller has too many, and `Overloaded` where all together have. To wait
        instead would bound nothing: what a client has sent by then is in memory.
        """
        held = self._held.get(caller, 0) + size
        if held > MAX_HELD:
            raise RateLimited("bodies", quota=MAX_HELD, window=1, retry_after=1)
        if held > MAX_HELD_BY_ALL - self._held_by_all:
            raise Overloaded("Too many larger bodies are on their way.")
        self._held[caller] = held
        self._held_by_all += size

    def release(self, caller: int, size: int) -> None:
        """Take back what `hold` has counted."""
        self._held_by_all -= size
        if left := self._held.pop(caller) - size:
            self._held[caller] = left

    async def turn(self, caller: int) -> None:
        """Wait for a turn, which lasts until the caller next waits for anything: nothing is given back.

        Raises `Overloaded` where too much of the caller's waits.
        """
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            loop.call_soon(self._rest, loop, time.perf_counter())
            return
        future: asyncio.Future[None] = loop.create_future()
        if not self._waiting.put(caller, 1, future):
            raise Overloaded("Too many larger bodies of yours wait to be read.")
        await future

    def _rest(self, loop: asyncio.AbstractEventLoop, began: float) -> None:
        """Leave the loop to others for as long as the turn that has just ended took."""
        loop.call_later(min(time.perf_counter() - began, MAX_REST), self._next, loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            (future,) = self._waiting.take(1)
            if not future.done():
                future.set_result(None)
                # The loop calls it right behind the step of the one who has waited.
                loop.call_soon(self._rest, loop, time.perf_counter())
                return
        self._taken = False
