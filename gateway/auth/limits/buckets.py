"""Token buckets: how often each caller may do something in this process. One costs about a microsecond."""

import math
import time
from collections.abc import Callable, Hashable
from typing import TypeVar

from gateway.errors import RateLimited
from gateway.settings.networks import FACTORS, networks_of

MAX_KEYS = 100_000
"""Maximum number of tracked callers of one kind; an old one is evicted for one more."""

LOOKED_AT = 8
"""How many of the oldest callers are looked at for one that has nothing counted against it."""


K = TypeVar("K")


def _is_let(take: Callable[[K], None], key: K) -> bool:
    try:
        take(key)
    except RateLimited:
        return False
    return True


class Buckets:
    """A token bucket for each caller of one kind, in this process.

    A caller may do `rate` things a second, and `burst` at once after a pause. What costs more than is left
    is let through as long as anything is left; the debt is waited for.
    """

    def __init__(
        self, name: str, rate: float, burst: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._rate = rate
        self._burst = max(burst, 1.0)
        self.clock = clock
        self._levels: dict[Hashable, tuple[float, float]] = {}

    def take(self, key: Hashable, cost: int = 1, *, least: int = 1) -> None:
        """Count `cost` things that the caller `key` does. Raises `RateLimited`; nothing is counted then.

        It takes that `least` are left. What goes on with a request that was let in before needs none: with 0
        it is refused only where other requests have run into debt meanwhile.
        """
        now = self.clock()
        burst = self._burst
        level, since = self._levels.get(key) or self._first(now)
        level = min(burst, level + (now - since) * self._rate)
        if level < least:
            raise self._refusal(level)
        self._levels[key] = (level - cost, now)

    def allows(self, key: Hashable) -> bool:
        """Count one thing as `take` does, and return whether the caller may do it."""
        return _is_let(self.take, key)

    def check(self, key: Hashable) -> None:
        """Raise `RateLimited` where `take` would; nothing is counted."""
        level = self.level(key)
        if level < 1:
            raise self._refusal(level)

    def level(self, key: Hashable) -> float:
        """Return how many things the caller may do now; below 0 is a debt."""
        return self._level(key, self.clock())

    def charge(self, key: Hashable, cost: int = 1) -> None:
        """Count what the caller has done, also where that leaves a debt. A negative cost takes it back."""
        now = self.clock()
        if key not in self._levels:
            self._first(now)
        self._levels[key] = (self._level(key, now) - cost, now)

    def _level(self, key: Hashable, now: float) -> float:
        level, since = self._levels.get(key, (self._burst, now))
        return min(self._burst, level + (now - since) * self._rate)

    def _refusal(self, level: float) -> RateLimited:
        wait = math.ceil((1 - level) / self._rate)
        window = math.ceil(self._burst / self._rate)
        return RateLimited(self._name, quota=int(self._burst), window=window, retry_after=wait)

    def _first(self, now: float) -> tuple[float, float]:
        """Make room for one more, and return a full bucket.

        A bucket that is full again is evicted before one that is not: a crowd of new callers must not make
        the gateway forget what it holds against an old one.
        """
        if len(self._levels) >= MAX_KEYS:
            for _ in range(LOOKED_AT):
                oldest = next(iter(self._levels))
                if self._level(oldest, now) >= self._burst:
                    break
                self._levels[oldest] = self._levels.pop(oldest)
            del self._levels[next(iter(self._levels))]
        return self._burst, now


class Bucket:
    """The token bucket of one caller, as those of `Buckets` are, for `seconds` worth of its rate at once.

    Whoever holds it tells it the time.
    """

    __slots__ = ("_level", "_rate", "_seconds", "_since")

    def __init__(self, rate: float, seconds: float, now: float) -> None:
        self._rate = rate
        self._seconds = seconds
        self._level = rate * seconds
        self._since = now

    def take(self, now: float) -> bool:
        """Count one thing, also where that leaves a debt, and return whether the caller may do it."""
        burst = self._rate * self._seconds
        self._level = min(burst, self._level + (now - self._since) * self._rate) - 1
        self._since = now
        return self._level >= 0

    def give_back(self) -> None:
        """Count one thing less."""
        self._level += 1


class NetworkBuckets:
    """Buckets for the addresses of clients: one for an IPv4 address, and one for each width of IPv6 network.

    A /56 may do 4 times as much as a /64, and a /48 16 times as much.
    """

    def __init__(
        self, name: str, rate: float, burst: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # Each width has callers of its own, so that many /64 do not make the gateway forget their /48.
        self._widths = tuple(Buckets(name, rate * each, burst * each, clock=clock) for each in FACTORS)

    def take(self, host: str) -> None:
        """Count what the client at this address does. Raises `RateLimited`; nothing is counted then."""
        networks = networks_of(host)
        for width, network in enumerate(networks):
            try:
                self._widths[width].take(network)
            except RateLimited:
                self._charge(networks[:width], -1)
                raise

    def allows(self, host: str) -> bool:
        """Count one thing as `take` does, and return whether the client may do it."""
        return _is_let(self.take, host)

    def check(self, host: str) -> None:
        """Raise `RateLimited` where `take` would; nothing is counted."""
        for buckets, network in zip(self._widths, networks_of(host), strict=False):
            buckets.check(network)

    def charge(self, host: str) -> None:
        """Count what the client at this address has done, also where that leaves a debt."""
        self._charge(networks_of(host), 1)

    def _charge(self, networks: tuple[str, ...], cost: int) -> None:
        for buckets, network in zip(self._widths, networks, strict=False):
            buckets.charge(network, cost)
