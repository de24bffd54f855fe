"""The turnstile: a limit on the requests that begin in one pass of the event loop, over all connections.

A connection lets others go first between its own requests (`pipelining`). But if hundreds of connections have
a request ready at the same moment, the loop would begin all of them before it does anything else. So only a
few begin in each pass, and fewer if they take long. The others wait in a queue that is fair by network. For
IPv6 that is a /48, because one client may have 65,536 narrower networks. Small frames of sockets cost much
less than a request, and wait only if very many arrive at the same moment. The turnstile also limits the bytes
that unfinished requests and messages hold (`held_bytes`, `frames`), for all connections together.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

from gateway.auth.limits.fair_queue import FairQueue
from gateway.auth.limits.network_bytes import NetworkBytes
from gateway.settings.networks import networks_of

TURNSTILE = "gateway.turnstile"
"""Key of the `Turnstile` in the lifespan's state."""

MAX_PER_PASS = 16
"""Maximum number of requests that begin in one pass of the event loop."""

MIN_PER_PASS = 4
"""Number of requests that begin even in a pass after a long one.

Something else may make passes long, such as new connections, and then fewer requests make none shorter.
"""

MAX_PASS_SECONDS = 0.005
"""How long a pass may take before fewer requests begin in the next, in seconds."""

MAX_SMALL_BYTES = 4096
"""Maximum size of the small reads that need no turn within `SMALL_SECONDS`: they take up to 5 ms.

The event loop reads all sockets that are ready in one pass, and each of thousands may have a small frame.
"""

SMALL_SECONDS = 0.01
"""After how many seconds small reads need no turn again. No pass of the event loop is known to begin."""

MAX_HELD_BYTES = 64 * 1024 * 1024
"""Maximum number of bytes that unanswered requests and unfinished messages hold, over all connections.

One network (for IPv6 a /64, /56 or /48) may hold at most as many bytes as remain for all others.
"""

_NO_LIMIT = 2**60


class Turnstile:
    """Admits requests. Use it only on the event loop's thread."""

    def __init__(self) -> None:
        self._begun = 0
        self._per_pass = MAX_PER_PASS
        self._pass_began_at = 0.0
        self._held = NetworkBytes()
        self._waiting: FairQueue[Callable[[], None]] = FairQueue(_NO_LIMIT)
        self._small_bytes = 0
        self._small_until = 0.0
        self._arrived_small: deque[tuple[str, Callable[[], None]]] = deque()
        self._waiting_small: FairQueue[Callable[[], None]] = FairQueue(_NO_LIMIT)

    def passes(self, address: str, go_on: Callable[[], None]) -> bool:
        """Return whether a request may begin now. If not, call `go_on` when it may."""
        if self._begun >= self._per_pass or self._waiting:
            self._waiting.put(networks_of(address)[-1], 1, go_on)
            return False
        if not self._begun:
            self._begin_pass()
        self._begun += 1
        return True

    def is_busy(self) -> bool:
        """Return whether requests wait for their turn."""
        return bool(self._waiting)

    def leave_out(self, seconds: float) -> None:
        """Leave other work out of the duration of this pass: it has a limit of its own."""
        self._pass_began_at += seconds

    def _begin_pass(self) -> None:
        self._pass_began_at = perf_counter()
        asyncio.get_running_loop().call_soon(self._next_pass)

    def _next_pass(self) -> None:
        self._begun = 0
        # Requests that began in the previous pass run in this one, so the cost shows over several passes.
        took = perf_counter() - self._pass_began_at
        self._per_pass = (
            max(MIN_PER_PASS, self._per_pass // 2)
            if took > MAX_PASS_SECONDS
            else min(MAX_PER_PASS, self._per_pass * 2)
        )
        if not self._waiting:
            return
        self._begin_pass()
        loop = asyncio.get_running_loop()
        for go_on in self._waiting.take(self._per_pass):
            self._begun += 1
            # Scheduled on the loop, so that a failing callback doesn't stop the others.
            loop.call_soon(go_on)

    # --- small reads ----------------------------------------------------------------------------------------

    def passes_small(self, size: int, address: str, go_on: Callable[[], None]) -> bool:
        """Return whether a small read may be handled at once. If not, call `go_on` when it may."""
        if not self._arrived_small and not self._waiting_small:
            now = perf_counter()
            if now >= self._small_until:
                self._small_until, self._small_bytes = now + SMALL_SECONDS, 0
            self._small_bytes += size
            if self._small_bytes <= MAX_SMALL_BYTES:
                return True
            asyncio.get_running_loop().call_soon(self._next_small)
        # Sorted by network later: thousands may arrive in this pass.
        self._arrived_small.append((address, go_on))
        return False

    def _next_small(self) -> None:
        """Handle small reads, for `MAX_PASS_SECONDS`. Networks take turns."""
        began = perf_counter()
        until = began + MAX_PASS_SECONDS
        arrived, waiting = self._arrived_small, self._waiting_small
        try:
            while arrived and perf_counter() < until:
                address, go_on = arrived.popleft()
                waiting.put(networks_of(address)[-1], 1, go_on)
            while waiting and perf_counter() < until:
                for go_on in waiting.take(1):
                    go_on()
        finally:
            self.leave_out(perf_counter() - began)
            if arrived or waiting:
                asyncio.get_running_loop().call_soon(self._next_small)

    @property
    def held_bytes(self) -> int:
        """How many bytes of unfinished requests and messages are counted."""
        return self._held.total

    def hold(self, address: str, size: int) -> bool:
        """Add `size`, which may be negative, to the bytes held. Return whether there is room for them."""
        return self._held.add(address, size) <= MAX_HELD_BYTES or size <= 0
