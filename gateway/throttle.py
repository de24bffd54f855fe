"""How much one caller may do: calls of users and services, items of services, handshakes, sign-ins.

Calls and handshakes are counted in this process, for they protect this process; a token bucket costs about
a microsecond. Failed sign-ins protect an account, so that their counters can be shared by all processes in
Redis (`GATEWAY_RATE_LIMIT_URL`). They are counted by the library `limits`.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import Any, Self
from weakref import WeakValueDictionary

import structlog
from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute, parse_many
from limits.aio.storage import RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter

from gateway.errors import RateLimited
from gateway.settings import Settings

logger = structlog.get_logger()

MAX_KEYS = 100_000
"""How many callers are kept in mind; the one that was added first is forgotten for one more."""

FREE_FAILURES = 20
"""Failed sign-ins of one account, from anywhere within 15 minutes, that make nobody wait."""

MAX_DELAY = 4.0
"""The longest that a sign-in waits because others have failed for the same account, in seconds."""

RETRY_REDIS = 30.0
"""How long the counters stay in memory once Redis has failed, in seconds."""

_REDIS_TIMEOUT = 0.5
_FIRST_DELAY = 0.125


@lru_cache(maxsize=4096)
def network_of(host: str) -> str:
    """Return what stands for a client's address: an IPv6 client can use any address of its /64 network."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host[:64]
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address)


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
        self._clock = clock
        self._levels: dict[int | str, tuple[float, float]] = {}

    def take(self, key: int | str, cost: int = 1, *, least: int = 1) -> None:
        """Count `cost` things that the caller `key` does. Raises `RateLimited`; nothing is counted then.

        It takes that `least` are left. What goes on with a request that was let in before needs none: with 0
        it is refused only where other requests have run into debt meanwhile.
        """
        now = self._clock()
        burst = self._burst
        level, since = self._levels.get(key) or self._first(now)
        level = min(burst, level + (now - since) * self._rate)
        if level < least:
            wait = math.ceil((1 - level) / self._rate)
            raise RateLimited(self._name, quota=int(burst), window=self._window, retry_after=wait)
        self._levels[key] = (level - cost, now)

    def charge(self, key: int | str, cost: int) -> None:
        """Count what the caller `key`, who was let through by `take`, has cost beyond that."""
        level, since = self._levels.get(key) or self._first(self._clock())
        self._levels[key] = (level - cost, since)

    @property
    def _window(self) -> int:
        return math.ceil(self._burst / self._rate)

    def _first(self, now: float) -> tuple[float, float]:
        """Make room for one more, and return a full bucket."""
        if len(self._levels) >= MAX_KEYS:
            del self._levels[next(iter(self._levels))]
        return self._burst, now


class Slots:
    """How many of one thing each caller may do at the same time; what is more waits, in its order."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._slots: WeakValueDictionary[int, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, key: int) -> asyncio.Semaphore:
        """Return the slots of a caller. They are forgotten when nobody holds them or waits for one."""
        return self._slots.setdefault(key, asyncio.Semaphore(self._number))


LARGE_BODIES = 2
"""How many large bodies of one service are held in memory at the same time."""


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
            del self._counters[next(iter(self._counters))]
        self._counters[key] = (count + amount, expires_at)
        return count + amount

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

    async def _ask(self, name: str, *args: Any) -> Any:
        """Ask Redis, or this process where Redis fails or has failed lately."""
        if self._clock() >= self._away_until:
            try:
                return await getattr(self._redis, name)(*args)
            except self._failures as error:
                self._away_until = self._clock() + RETRY_REDIS
                kind = type(error).__name__
                logger.warning("the redis of the rate limits is away: they count in memory", error=kind)
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
        try:
            return bool(await self._redis.check())
        except self._failures:
            return False

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.disconnect()


AT_HOME = 10
"""How many times as often an account may fail from where its owner signs in."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A sign-in that may be tried, and is counted as failed until it is known to have succeeded."""

    _logins: "Logins"
    _account: str
    _address: str

    async def succeeded(self) -> None:
        """Take back that it was counted, and know the address as the account's."""
        await self._logins.forgive(self._account, self._address)


class Logins:
    """Failed sign-ins, counted so that guessing is slow and the owner is never locked out.

    - One account from one address: few failures a minute, an hour, a day, whether the account exists or not.
    - One address, for whatever accounts: more of them.
    - One account from everywhere: from the 20th failure within 15 minutes on, each sign-in waits, twice as
      long for each further failure and 4 seconds at most. Nobody is refused for what others do elsewhere.

    An address from which the account has signed in within the last 30 days is spared the last two, and may
    fail ten times as often before it is refused.
    """

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self._storage = storage
        self._limiter = FixedWindowRateLimiter(storage)
        # What is known of owners is kept apart: a flood of failures must not push it out of memory.
        self._known = Memory() if isinstance(storage, Memory) else storage
        self._pair = _shortest_first(settings.login_limit)
        self._pair_known = [type(limit)(limit.amount * AT_HOME, limit.multiples) for limit in self._pair]
        self._address = _shortest_first(settings.login_limit_per_address)

    async def begin(self, sub: str, address: str) -> Attempt:
        """Return an attempt to sign in as `sub`, after a wait where others have failed for the account.

        Raises `RateLimited`: then the password must not be looked at, be it right or wrong.
        """
        # A name that is made up may be of any length; and Redis need not know who signs in.
        account, address = sha256(sub.encode(errors="replace")).hexdigest()[:32], network_of(address)
        if await self._known.get(_KNOWN.key_for(account, address)):
            # The owner signs in from here, and perhaps others fail from here, too.
            await self._hit(self._pair_known, "login-known", account, address)
        else:
            # The address first: one that tries made-up names fills no memory with them.
            await self._hit(self._address, "login-address", address)
            await self._hit(self._pair, "login", account, address)
            await self._wait(account)
        return Attempt(self, account, address)

    async def _hit(self, limits: Sequence[RateLimitItem], policy: str, *key: str) -> None:
        for limit in limits:
            if not await self._limiter.hit(limit, policy, *key):
                reset_at = (await self._limiter.get_window_stats(limit, policy, *key)).reset_time
                wait = max(1, math.ceil(reset_at - time.time()))
                raise RateLimited(policy, quota=limit.amount, window=limit.get_expiry(), retry_after=wait)

    async def _wait(self, account: str) -> None:
        failures = await self._storage.incr(_EVERYWHERE.key_for(account), _EVERYWHERE.get_expiry())
        if failures > FREE_FAILURES:
            await asyncio.sleep(delay_after(failures))

    async def forgive(self, account: str, address: str) -> None:
        """Take back one attempt at an account from an address, and the failures between the two."""
        known = _KNOWN.key_for(account, address)
        for limit in self._pair:
            await self._limiter.clear(limit, "login", account, address)
        for limit in self._pair_known:
            await self._limiter.clear(limit, "login-known", account, address)
        if not await self._known.get(known):
            for limit in self._address:
                await self._give_back(limit.key_for("login-address", address), limit.get_expiry())
            await self._give_back(_EVERYWHERE.key_for(account), _EVERYWHERE.get_expiry())
        await self._known.incr(known, _KNOWN.get_expiry())

    async def _give_back(self, key: str, expiry: int) -> None:
        await self._storage.incr(key, expiry, -1)


def delay_after(failures: int) -> float:
    """Return how long the sign-in waits that would be this failure of an account, in seconds."""
    return min(MAX_DELAY, _FIRST_DELAY * 2.0 ** min(failures - FREE_FAILURES - 1, 10))


_EVERYWHERE = RateLimitItemPerMinute(FREE_FAILURES, 15, namespace="login-account")
_KNOWN = RateLimitItemPerDay(1, 30, namespace="login-known")


def _shortest_first(limits: str) -> list[RateLimitItem]:
    """Return the limits that a setting names: who is refused by a short one is not counted by a long one."""
    return sorted(parse_many(limits), key=lambda limit: limit.get_expiry()) if limits else []


class Throttle:
    """All of the limits. An async context manager."""

    def __init__(self, settings: Settings) -> None:
        posts, handshakes = settings.posts_per_second, settings.handshakes_per_second
        commands, calls = settings.commands_per_second, settings.service_calls_per_second
        self.posts = Buckets("posts", posts, posts * 4)
        self.commands = Buckets("commands", commands, commands * 4)
        self.service_calls = Buckets("service-calls", calls, calls * 4)
        self.items = Buckets("items", settings.items_per_second, settings.items_per_second * 4)
        self.large_bodies = Slots(LARGE_BODIES)
        self.handshakes = Buckets("handshakes", handshakes, handshakes * 10)
        url = settings.rate_limit_url
        self._shared = None if url is None else Shared(url.get_secret_value())
        self.logins = Logins(settings, self._shared or Memory())

    def begin_post(self, service: int) -> None:
        """Count a post to one user, before its body is read. Raises `RateLimited`."""
        self.posts.take(service)
        self.items.take(service)

    def go_on(self, service: int, posts: int, items: int) -> None:
        """Count what the body holds besides that one. Raises `RateLimited`."""
        if posts > 1:
            self.posts.take(service, posts - 1, least=0)
        if items > 1:
            self.items.take(service, items - 1, least=0)

    async def reached(self) -> bool | None:
        """Whether the Redis that is set answers; None where none is set."""
        return None if self._shared is None else await self._shared.check()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._shared is not None:
            await self._shared.close()
