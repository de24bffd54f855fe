"""The turnstile: how many requests of all connections begin in one pass of the event loop.

A connection gives others their turn between its own requests (`pipelining`). But when hundreds of them have
one ready in the same moment, the loop would begin all of these before it looks at anything else. So a few
begin in a pass; the others wait, in turns by address. What unfinished requests take in memory is bounded
here, too, for all connections together.
"""

import asyncio
from collections.abc import Callable

from gateway.fair_queue import FairQueue

TURNSTILE = "gateway.turnstile"
"""The key of the lifespan's state that has the `Turnstile`."""

PER_PASS = 16
"""How many requests begin in one pass of the event loop; each may take a millisecond."""

MAX_HELD = 64 * 1024 * 1024
"""Most bytes of requests that have begun to arrive, and have not begun, of all connections together."""

_NO_LIMIT = 2**60


class Turnstile:
    """Lets requests begin. It belongs to the event loop."""

    def __init__(self) -> None:
        self._begun = 0
        self._held_bytes = 0
        self._waiting: FairQueue[Callable[[], None]] = FairQueue(_NO_LIMIT)

    def passes(self, address: str, go_on: Callable[[], None]) -> bool:
        """Return whether a request may begin now; else `go_on` is called when it may."""
        if self._begun >= PER_PASS or self._waiting:
            self._waiting.put(address, 1, go_on)
            return False
        if not self._begun:
            asyncio.get_running_loop().call_soon(self._next_pass)
        self._begun += 1
        return True

    def _next_pass(self) -> None:
        self._begun = 0
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        loop.call_soon(self._next_pass)
        for go_on in self._waiting.take(PER_PASS):
            self._begun += 1
            # By the loop, so that one that fails takes no other along.
            loop.call_soon(go_on)

    def hold(self, size: int) -> bool:
        """Count more or fewer bytes of unfinished requests, and return whether there is room for them."""
        self._held_bytes += size
        return size <= 0 or self._held_bytes <= MAX_HELD
