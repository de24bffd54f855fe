"""Counters of failed sign-ins for the `limits` library, in memory or shared by all processes in Redis."""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from limits.aio.storage import RedisStorage, Storage

from gateway.auth.limits.token_buckets import EVICTION_PROBES, MAX_KEYS
from gateway.observability.outage import Outage
from gateway.observability.reasons import reason
from gateway.settings.redis_url import without_password

RETRY_REDIS_SECONDS = 30.0
"""How long to count in memory after Redis has failed, before trying it again."""

REDIS_TIMEOUT_SECONDS = 0.5
"""How long connecting to Redis may take, and each command."""


class Memory(Storage):
    """Counters in the memory of this process, at most `MAX_KEYS` of them.

    The library's own memory storage scans all counters at each hit, so many addresses would make every
    sign-in slow.
    """

    STORAGE_SCHEME = None

    def __init__(self) -> None:
        super().__init__()
        self._counters: dict[str, tuple[int, float]] = {}

    @property
    def base_exceptions(self) -> type[Exception]:
        """Return an error type for the library, which requires one; these counters raise none."""
        return OSError

    def _counter(self, key: str) -> tuple[int, float]:
        count, expires_at = self._counters.get(key, (0, 0.0))
        return (count, expires_at) if expires_at > time.time() else (0, 0.0)

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add `amount` to a counter and return it. A new counter expires `expiry` seconds from now."""
        count, expires_at = self._counter(key)
        if not count:
            expires_at = time.time() + expiry
        if key not in self._counters and len(self._counters) >= MAX_KEYS:
            self._evict()
        self._counters[key] = (count + amount, expires_at)
        return count + amount

    def _evict(self) -> None:
        """Evict one of the oldest counters, preferably one that has expired."""
        for _ in range(EVICTION_PROBES):
            oldest = next(iter(self._counters))
            if not self._counter(oldest)[0]:
                break
            self._counters[oldest] = self._counters.pop(oldest)
        del self._counters[next(iter(self._counters))]

    async def get(self, key: str) -> int:
        """Return a counter."""
        return self._counter(key)[0]

    async def get_expiry(self, key: str) -> float:
        """Return when a counter expires, in seconds since 1970."""
        return self._counter(key)[1] or time.time()

    async def check(self) -> bool:
        """Return that the storage is available: memory always is."""
        return True

    async def reset(self) -> int:
        """Delete all counters and return how many there were."""
        number = len(self._counters)
        self._counters.clear()
        return number

    async def clear(self, key: str) -> None:
        """Delete a counter."""
        self._counters.pop(key, None)


class Shared(Memory):
    """Counters in Redis, or in the memory of this process while Redis does not answer."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        from redis.asyncio import ConnectionPool
        from redis.exceptions import RedisError

        super().__init__()
        self._failures = (RedisError, OSError)
        self._pool = ConnectionPool.from_url(
            url, socket_timeout=REDIS_TIMEOUT_SECONDS, socket_connect_timeout=REDIS_TIMEOUT_SECONDS
        )
        pool: Any = self._pool  # the library passes it on unchanged
        self._redis = RedisStorage(url, implementation="redispy", key_prefix="gateway", connection_pool=pool)
        self._clock = clock
        self._retry_at = -math.inf
        self._outage = Outage(
            "the redis of the rate limits is unavailable: counting in memory",
            "the redis of the rate limits is back",
            redis=without_password(url),
        )

    async def _ask(self, name: str, *args: Any) -> Any:
        """Call a method of the counters in Redis, or in memory if Redis fails or has failed lately."""
        if self._clock() >= self._retry_at:
            try:
                found = await getattr(self._redis, name)(*args)
            except Exception as error:  # noqa: BLE001 - a broken counter must not fail a sign-in
                self._retry_at = self._clock() + RETRY_REDIS_SECONDS
                self._outage.begin(error)
            else:
                if self._outage.is_on:
                    self._outage.end()
                return found
        return await getattr(super(), name)(*args)

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add `amount` to a counter and return it."""
        return int(await self._ask("incr", key, int(expiry), amount))

    async def get(self, key: str) -> int:
        """Return a counter."""
        return int(await self._ask("get", key))

    async def get_expiry(self, key: str) -> float:
        """Return when a counter expires, in seconds since 1970."""
        return float(await self._ask("get_expiry", key))

    async def clear(self, key: str) -> None:
        """Delete a counter."""
        await self._ask("clear", key)

    async def check(self) -> bool:
        """Return whether Redis answers."""
        return await self.fault() is None

    async def fault(self) -> str | None:
        """Return why Redis does not answer, in words without a secret, or None if it answers."""
        try:
            # The library's own check returns only whether Redis answers, not why it doesn't.
            await self._redis.get("check")
        except self._failures as error:
            return reason(error)
        return None

    async def close(self) -> None:
        """Close the connections to Redis, without an error for one that does not close in time."""
        with suppress(*self._failures):
            await self._pool.disconnect()
