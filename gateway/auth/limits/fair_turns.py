"""Fair turns: pieces of long work run one at a time, and callers alternate.

After each turn the event loop is left to others for as long as the turn has taken.
"""

import asyncio
import time
from collections.abc import Hashable

from gateway.auth.limits.fair_queue import FairQueue
from gateway.errors import Overloaded

MAX_WAITING = 10_000
"""How many pieces of work may wait for their turn; a caller may have as many as are left for all others."""

MAX_REST_SECONDS = 0.05
"""Longest time that the event loop is left to others after a turn, in seconds."""


class FairTurns:
    """The turns of one kind of work. They belong to the event loop."""

    def __init__(self) -> None:
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue(MAX_WAITING)
        self._taken = False

    async def turn(self, caller: Hashable) -> None:
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
            raise Overloaded("Too much of yours waits for its turn.")
        await future

    def _rest(self, loop: asyncio.AbstractEventLoop, began: float) -> None:
        """Leave the loop to others for as long as the turn that has just ended took."""
        loop.call_later(min(time.perf_counter() - began, MAX_REST_SECONDS), self._next, loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            (future,) = self._waiting.take(1)
            if not future.done():
                future.set_result(None)
                # The loop calls it right behind the step of the one who has waited.
                loop.call_soon(self._rest, loop, time.perf_counter())
                return
        self._taken = False
