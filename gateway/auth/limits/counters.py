"""Counters of failed sign-ins for the library `limits`: in this process, or shared by all in Redis."""

import math
import time
from collections.abc import Callable
from typing import Any

from limits.aio.storage import RedisStorage, Storage

from gateway.auth.limits.buckets import LOOKED_AT, MAX_KEYS
from gateway.observability.outage import Outage
from gateway.observability.reasons import reason
from gateway.settings.redis_url import without_password

RETRY_REDIS = 30.0
"""How long the counters stay in memory once Redis has failed, in seconds."""

_REDIS_TIMEOUT = 0.5


class Memory(Storage):
    """Counters in this process, bounded.

    The library's own looks at all of its counters with each hit, so that a crowd of addresses would make
    every sign-in slow.
    """

    STORAGE_SCHEME = None

    def __init__(self) -> None:
        super().__init__()
        self._counters: dict[str, tuple[int, float]] = {}

    @property
    def base_exceptions(self) -> type[Exception]:
        """Nothing here fails."""
        return OSError

    def _counter(self, key: str) -> tuple[int, float]:
        count, expires_at = self._counters.get(key, (0, 0.0))
        return (count, expires_at) if expires_at > time.time() else (0, 0.0)

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add to a counter, which begins with this and ends `expiry` seconds later; return it."""
        count, expires_at = self._counter(key)
        if not count:
            expires_at = time.time() + expiry
        if key not in self._counters and len(self._counters) >= MAX_KEYS:
            self._evict()
        self._counters[key] = (count + amount, expires_at)
        return count + amount

    def _evict(self) -> None:
        """Make room for one more: an old counter that has ended goes before one that has not."""
        for _ in range(LOOKED_AT):
            oldest = next(iter(self._counters))
            if not self._counter(oldest)[0]:
                break
            self._counters[oldest] = self._counters.pop(oldest)
        del self._counters[next(iter(self._counters))]

    async def get(self, key: str) -> int:
        """Return a counter."""
        return self._counter(key)[0]

    async def get_expiry(self, key: str) -> float:
        """Return when a counter ends, in seconds since 1970."""
        return self._counter(key)[1] or time.time()

    async def check(self) -> bool:
        """It is there."""
        return True

    async def reset(self) -> int:
        """Forget everything."""
        number = len(self._counters)
        self._counters.clear()
        return number

    async def clear(self, key: str) -> None:
        """Forget a counter."""
        self._counters.pop(key, None)


class Shared(Memory):
    """Counters in Redis, or in this process for as long as Redis does not answer."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        from redis.asyncio import ConnectionPool
        from redis.exceptions import RedisError

        super().__init__()
        self._failures = (RedisError, OSError)
        self._pool = ConnectionPool.from_url(
            url, socket_timeout=_REDIS_TIMEOUT, socket_connect_timeout=_REDIS_TIMEOUT
        )
        pool: Any = self._pool  # which the library hands on as it is
        self._redis = RedisStorage(url, implementation="redispy", key_prefix="gateway", connection_pool=pool)
        self._clock = clock
        self._away_until = -math.inf
        self._outage = Outage(
            "the redis of the rate limits is away: they count in memory",
            "the redis of the rate limits is back",
            redis=without_password(url),
        )

    async def _ask(self, name: str, *args: Any) -> Any:
        """Ask Redis, or this process where Redis fails or has failed lately."""
        if self._clock() >= self._away_until:
            try:
                found = await getattr(self._redis, name)(*args)
            except Exception as error:  # noqa: BLE001 - a sign-in does not fail for its counter
                self._away_until = self._clock() + RETRY_REDIS
                self._outage.begin(error)
            else:
                if self._outage.is_on:
                    self._outage.end()
                return found
        return await getattr(super(), name)(*args)

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add to a counter."""
        return int(await self._ask("incr", key, int(expiry), amount))

    async def get(self, key: str) -> int:
        """Return a counter."""
        return int(await self._ask("get", key))

    async def get_expiry(self, key: str) -> float:
        """Return when a counter ends."""
        return float(await self._ask("get_expiry", key))

    async def clear(self, key: str) -> None:
        """Forget a counter."""
        await self._ask("clear", key)

    async def check(self) -> bool:
        """Whether Redis answers."""
        return await self.fault() is None

    async def fault(self) -> str | None:
        """Return why Redis does not answer, without a secret; None where it does."""
        try:
            # Not with the library's own check, which says no more than whether it does.
            await self._redis.get("check")
        except self._failures as error:
            return reason(error)
        return None

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.disconnect()
