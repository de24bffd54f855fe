"""Failed sign-ins: how many an account and an address may have, and how long the next one waits.

They protect an account, so all processes can share the counters in Redis (`GATEWAY_RATE_LIMIT_URL`). The
library `limits` counts them.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute, parse_many
from limits.aio.storage import Storage
from limits.aio.strategies import FixedWindowRateLimiter

from gateway.auth.hasher_queue import Turn
from gateway.auth.limits.counters import Memory
from gateway.errors import RateLimited
from gateway.settings import Settings
from gateway.settings.networks import FACTORS, networks_of

FREE_FAILURES = 20
"""Failed sign-ins of one account, from anywhere within 15 minutes, that make nobody wait."""

MAX_DELAY = 4.0
"""The longest that a sign-in waits because others have failed for the same account, in seconds."""

AT_HOME = 10
"""How many times as often an account may fail from where its owner signs in."""

_FIRST_DELAY = 0.125


@dataclass(frozen=True, slots=True)
class Attempt:
    """A sign-in that may be tried, and is counted as failed until it is known to have succeeded.

    `turn` is for the hasher; the account in it is a hash of the name.
    """

    _logins: "Logins"
    turn: Turn

    async def succeeded(self) -> None:
        """Take back that it was counted, and know the address as the account's."""
        await self._logins.forgive(self.turn)

    async def withdraw(self) -> None:
        """Take back that it was counted: the password was not looked at."""
        await self._logins.withdraw(self.turn)


class Logins:
    """Failed sign-ins, counted so that guessing is slow and the owner is never locked out.

    - One account from one network: few failures a minute, an hour, a day, whether the account exists or not.
    - One network, for whatever accounts: more of them.
    - One account from everywhere: from the 20th failure within 15 minutes on, each sign-in waits, twice as
      long for each further failure and 4 seconds at most. Nobody is refused for what others do elsewhere.

    An IPv6 client is counted by its /64, by its /56 with 4 times and by its /48 with 16 times the limits.

    A network (an IPv4 address, a /64) from which the account has signed in within the last 30 days is spared
    the last two, and may fail ten times as often before it is refused.
    """

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self._limiter = FixedWindowRateLimiter(storage)
        # Each kind is kept apart in memory: a flood of names must push out neither what is counted against
        # the networks that it comes from, nor what is known of owners.
        in_memory = isinstance(storage, Memory)
        self._known = Memory() if in_memory else storage
        self._accounts = Memory() if in_memory else storage
        self._network_limiter = FixedWindowRateLimiter(Memory()) if in_memory else self._limiter
        self._pair = [_times(settings.login_limit, factor) for factor in FACTORS]
        self._pair_known = _times(settings.login_limit, AT_HOME)
        self._network = [_times(settings.login_limit_per_address, factor) for factor in FACTORS]

    async def begin(self, sub: str, address: str) -> Attempt:
        """Return an attempt to sign in as `sub`, after a wait where others have failed for the account.

        Raises `RateLimited`: then the password must not be looked at, be it right or wrong.
        """
        networks = networks_of(address)
        account = account_of(sub)
        if known := bool(await self._known.get(_KNOWN.key_for(account, networks[0]))):
            # The owner signs in from here, and perhaps others fail from here, too.
            await _hit(self._limiter, self._pair_known, "login-known", account, networks[0])
        else:
            # The networks first: one that tries made-up names fills no memory with them.
            for limits, network in zip(self._network, networks, strict=False):
                await _hit(self._network_limiter, limits, "login-address", network)
            for limits, network in zip(self._pair, networks, strict=False):
                await _hit(self._limiter, limits, "login", account, network)
            await self._wait(account)
        return Attempt(self, Turn(account, networks, known))

    async def _wait(self, account: str) -> None:
        failures = await self._accounts.incr(_EVERYWHERE.key_for(account), _EVERYWHERE.get_expiry())
        if failures > FREE_FAILURES:
            await asyncio.sleep(delay_after(failures))

    async def forgive(self, turn: Turn) -> None:
        """Take back one attempt at an account from an address, and the failures between the two."""
        account, networks = turn.account, turn.networks
        for limit in self._pair[0]:
            await self._limiter.clear(limit, "login", account, networks[0])
        for limit in self._pair_known:
            await self._limiter.clear(limit, "login-known", account, networks[0])
        if not turn.known:
            await self._uncount(self._network_limiter, self._network, "login-address", networks)
            await self._uncount(self._limiter, self._pair[1:], "login", networks[1:], account)
            await self._uncount_everywhere(account)
        known = _KNOWN.key_for(account, networks[0])
        await self._known.clear(known)  # its 30 days begin anew
        await self._known.incr(known, _KNOWN.get_expiry())

    async def withdraw(self, turn: Turn) -> None:
        """Take back one attempt, and nothing of those before it."""
        account, networks = turn.account, turn.networks
        if turn.known:
            await self._uncount(self._limiter, [self._pair_known], "login-known", networks[:1], account)
            return
        await self._uncount(self._network_limiter, self._network, "login-address", networks)
        await self._uncount(self._limiter, self._pair, "login", networks, account)
        await self._uncount_everywhere(account)

    async def _uncount(
        self,
        limiter: FixedWindowRateLimiter,
        each: Sequence[Sequence[RateLimitItem]],
        policy: str,
        networks: Sequence[str],
        *account: str,
    ) -> None:
        for limits, network in zip(each, networks, strict=False):
            for limit in limits:
                key = limit.key_for(policy, *account, network)
                await limiter.storage.incr(key, limit.get_expiry(), -1)

    async def _uncount_everywhere(self, account: str) -> None:
        await self._accounts.incr(_EVERYWHERE.key_for(account), _EVERYWHERE.get_expiry(), -1)


async def _hit(
    limiter: FixedWindowRateLimiter, limits: Sequence[RateLimitItem], policy: str, *key: str
) -> None:
    for limit in limits:
        if not await limiter.hit(limit, policy, *key):
            reset_at = (await limiter.get_window_stats(limit, policy, *key)).reset_time
            wait = max(1, math.ceil(reset_at - time.time()))
            raise RateLimited(policy, quota=limit.amount, window=limit.get_expiry(), retry_after=wait)


def account_of(sub: str) -> str:
    """Return what stands for an account: a name that is made up may be long, and Redis need not know it."""
    return sha256(sub.encode(errors="replace")).hexdigest()[:32]


def delay_after(failures: int) -> float:
    """Return how long the sign-in waits that would be this failure of an account, in seconds."""
    return min(MAX_DELAY, _FIRST_DELAY * 2.0 ** min(failures - FREE_FAILURES - 1, 10))


_EVERYWHERE = RateLimitItemPerMinute(FREE_FAILURES, 15, namespace="login-account")
_KNOWN = RateLimitItemPerDay(1, 30, namespace="login-known")


def _times(limits: str, factor: int) -> list[RateLimitItem]:
    """Return the limits of a setting, times a factor, the shortest first.

    So what a short one refuses is not counted by a long one.
    """
    read = sorted(parse_many(limits), key=lambda limit: limit.get_expiry()) if limits else []
    return [type(limit)(limit.amount * factor, limit.multiples) for limit in read]
