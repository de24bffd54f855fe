"""Token buckets, which limit how often each caller may do something in this process.

Taking a token costs about a microsecond.
"""

import math
import time
from collections.abc import Callable, Hashable
from typing import TypeVar

from gateway.errors import RateLimited
from gateway.settings.networks import FACTORS, networks_of

MAX_KEYS = 100_000
"""Maximum number of tracked callers of one kind; an old caller is evicted for a new one."""

EVICTION_PROBES = 8
"""Maximum number of the oldest callers that an eviction checks for a full bucket."""


K = TypeVar("K")


def _allows(take: Callable[[K], None], key: K) -> bool:
    try:
        take(key)
    except RateLimited:
        return False
    return True


class Buckets:
    """A token bucket for each caller of one kind, in this process.

    A caller may do `rate` things per second, and `burst` at once after a pause. An action that costs more
    than is left is allowed if at least one token is left. It leaves a debt, which has to refill first.
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
        """Take `cost` tokens of the caller `key`. Raises `RateLimited`, and then takes none.

        At least `least` tokens must be left. Pass 0 for the later parts of a request that was already
        admitted: they are refused only if other requests have run the caller into debt meanwhile.
        """
        now = self.clock()
        burst = self._burst
        level, since = self._levels.get(key) or self._add(now)
        level = min(burst, level + (now - since) * self._rate)
        if level < least:
            raise self._refusal(level)
        self._levels[key] = (level - cost, now)

    def allows(self, key: Hashable) -> bool:
        """Take one token as `take` does, and return whether there was one."""
        return _allows(self.take, key)

    def check(self, key: Hashable) -> None:
        """Raise `RateLimited` if `take` would raise it. Takes no token."""
        level = self.level(key)
        if level < 1:
            raise self._refusal(level)

    def level(self, key: Hashable) -> float:
        """Return how many tokens the caller has now; a negative number is a debt."""
        return self._level(key, self.clock())

    def charge(self, key: Hashable, cost: int = 1) -> None:
        """Take `cost` tokens even if that leaves a debt. A negative cost gives tokens back."""
        now = self.clock()
        if key not in self._levels:
            self._add(now)
        self._levels[key] = (self._level(key, now) - cost, now)

    def _level(self, key: Hashable, now: float) -> float:
        level, since = self._levels.get(key, (self._burst, now))
        return min(self._burst, level + (now - since) * self._rate)

    def _refusal(self, level: float) -> RateLimited:
        wait = math.ceil((1 - level) / self._rate)
        window = math.ceil(self._burst / self._rate)
        return RateLimited(self._name, quota=int(self._burst), window=window, retry_after=wait)

    def _add(self, now: float) -> tuple[float, float]:
        """Return a full bucket, after evicting an old one if there are `MAX_KEYS`.

        A full bucket is evicted before one that is not full, because only the latter limits its caller. So
        a crowd of new callers does not reset the limits of old ones.
        """
        if len(self._levels) >= MAX_KEYS:
            for _ in range(EVICTION_PROBES):
                oldest = next(iter(self._levels))
                if self._level(oldest, now) >= self._burst:
                    break
                self._levels[oldest] = self._levels.pop(oldest)
            del self._levels[next(iter(self._levels))]
        return self._burst, now


class Bucket:
    """The token bucket of one caller, with a burst of `seconds` times its rate.

    It has no clock: the owner passes the time, in seconds.
    """

    __slots__ = ("_level", "_rate", "_seconds", "_since")

    def __init__(self, rate: float, seconds: float, now: float) -> None:
        self._rate = rate
        self._seconds = seconds
        self._level = rate * seconds
        self._since = now

    def take(self, now: float) -> bool:
        """Take one token even if that leaves a debt, and return whether there was one."""
        burst = self._rate * self._seconds
        self._level = min(burst, self._level + (now - self._since) * self._rate) - 1
        self._since = now
        return self._level >= 0

    def give_back(self) -> None:
        """Give one token back."""
        self._level += 1


class NetworkBuckets:
    """Token buckets for client addresses: one for each IPv4 address, and for each IPv6 /64, /56 and /48.

    A /56 has 4 times the limit of a /64, and a /48 has 16 times.
    """

    def __init__(
        self, name: str, rate: float, burst: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # Each width tracks its own callers, so that many /64 networks don't evict the bucket of their /48.
        self._widths = tuple(Buckets(name, rate * each, burst * each, clock=clock) for each in FACTORS)

    def take(self, host: str) -> None:
        """Take one token of the client at this address. Raises `RateLimited`, and then takes none."""
        networks = networks_of(host)
        for width, network in enumerate(networks):
            try:
                self._widths[width].take(network)
            except RateLimited:
                self._charge(networks[:width], -1)
                raise

    def allows(self, host: str) -> bool:
        """Take one token as `take` does, and return whether there was one."""
        return _allows(self.take, host)

    def check(self, host: str) -> None:
        """Raise `RateLimited` if `take` would raise it. Takes no token."""
        for buckets, network in zip(self._widths, networks_of(host), strict=False):
            buckets.check(network)

    def charge(self, host: str) -> None:
        """Take one token of the client at this address, even if that leaves a debt."""
        self._charge(networks_of(host), 1)

    def _charge(self, networks: tuple[str, ...], cost: int) -> None:
        for buckets, network in zip(self._widths, networks, strict=False):
            buckets.charge(network, cost)
