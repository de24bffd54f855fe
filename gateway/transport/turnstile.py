"""The turnstile: how many requests of all connections begin in one pass of the event loop.

A connection gives others their turn between its own requests (`pipelining`). But when hundreds of them have
one ready in the same moment, the loop would begin all of these before it looks at anything else. So a few
begin in a pass, and fewer where they take long; the others wait, in turns by network (a /48 of IPv6: one
client may have 65,536 narrower ones). The bytes that unfinished requests and messages hold (`held_bytes`,
`frames`) are bounded here, too, for all connections together.
"""

import asyncio
from collections.abc import Callable
from time import perf_counter

from gateway.auth.limits.fair_queue import FairQueue
from gateway.settings.networks import networks_of

TURNSTILE = "gateway.turnstile"
"""The key of the lifespan's state that has the `Turnstile`."""

PER_PASS = 16
"""How many requests begin in one pass of the event loop at most."""

PASS = 0.005
"""How long a pass may take before fewer begin in the next, in seconds."""

MAX_HELD = 64 * 1024 * 1024
"""Most bytes of requests that are not answered, and of unfinished messages, of all connections together.

One network, a /64, /56 or /48 of IPv6, has at most as many as are left for all others.
"""

_NO_LIMIT = 2**60


class Turnstile:
    """Lets requests begin. It belongs to the event loop."""

    def __init__(self) -> None:
        self._begun = 0
        self._per_pass = PER_PASS
        self._pass_began_at = 0.0
        self.held_bytes = 0
        self._held: dict[str, int] = {}
        self._waiting: FairQueue[Callable[[], None]] = FairQueue(_NO_LIMIT)

    def passes(self, address: str, go_on: Callable[[], None]) -> bool:
        """Return whether a request may begin now; else `go_on` is called when it may."""
        if self._begun >= self._per_pass or self._waiting:
            self._waiting.put(networks_of(address)[-1], 1, go_on)
            return False
        if not self._begun:
            self._begin_pass()
        self._begun += 1
        return True

    def _begin_pass(self) -> None:
        self._pass_began_at = perf_counter()
        asyncio.get_running_loop().call_soon(self._next_pass)

    def _next_pass(self) -> None:
        self._begun = 0
        # What began in the pass before runs in this one: several passes in a row tell what they cost.
        took = perf_counter() - self._pass_began_at
        self._per_pass = max(1, self._per_pass // 2) if took > PASS else min(PER_PASS, self._per_pass * 2)
        if not self._waiting:
            return
        self._begin_pass()
        loop = asyncio.get_running_loop()
        for go_on in self._waiting.take(self._per_pass):
            self._begun += 1
            # By the loop, so that one that fails takes no other along.
            loop.call_soon(go_on)

    def hold(self, address: str, size: int) -> bool:
        """Count more or fewer bytes of unfinished requests and messages. Return whether there is room."""
        self.held_bytes += size
        most = 0
        for network in networks_of(address):
            held = self._held[network] = self._held.get(network, 0) + size
            if not held:
                del self._held[network]
            most = max(most, held)
        return size <= 0 or most + self.held_bytes <= MAX_HELD
