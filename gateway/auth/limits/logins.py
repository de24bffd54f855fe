"""Limits on failed sign-ins per account and address, and the delay of the next attempt.

The limits protect accounts, so all processes can share the counters in Redis (`GATEWAY_RATE_LIMIT_URL`). The
`limits` library does the counting.
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
"""Maximum number of failed sign-ins of one account, from anywhere within 15 minutes, without a delay."""

MAX_DELAY_SECONDS = 4.0
"""Maximum time that a sign-in waits because others have failed for the same account."""

KNOWN_NETWORK_FACTOR = 10
"""Limit of failures of an account from a network it has signed in from, as a multiple of the usual limit."""

_FIRST_DELAY_SECONDS = 0.125


@dataclass(frozen=True, slots=True)
class Attempt:
    """A sign-in attempt that passed the limits. It counts as failed until `succeeded` or `withdraw`.

    `turn` is for the hasher. The account in it is a hash of the name.
    """

    _logins: "Logins"
    turn: Turn

    async def succeeded(self) -> None:
        """Take back the count of this attempt, and remember the address as known for the account."""
        await self._logins.forgive(self.turn)

    async def withdraw(self) -> None:
        """Take back the count of this attempt, because the password was not checked."""
        await self._logins.withdraw(self.turn)


class Logins:
    """Counters of failed sign-ins that make guessing slow and never lock the owner out.

    - One account from one network: a few failures per minute, hour and day, whether or not the account
      exists.
    - One network, for all accounts together: a higher limit.
    - One account from all networks: after 20 failures within 15 minutes each sign-in waits. The delay doubles
      with each further failure, up to 4 seconds. Failures from elsewhere delay a sign-in but never refuse it.

    An IPv6 client is counted by its /64, by its /56 with 4 times the limits, and by its /48 with 16 times.

    A network (an IPv4 address or a /64) is known for an account for 30 days after the account has signed in
    from it. For this account and network the last two limits don't apply, and the first is ten times as high.
    """

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self._limiter = FixedWindowRateLimiter(storage)
        # In memory each kind has its own storage: a flood of made-up names must evict neither the counters
        # of the networks that it comes from, nor the known networks of accounts.
        in_memory = isinstance(storage, Memory)
        self._known = Memory() if in_memory else storage
        self._accounts = Memory() if in_memory else storage
        self._network_limiter = FixedWindowRateLimiter(Memory()) if in_memory else self._limiter
        self._pair = [_times(settings.login_limit, factor) for factor in FACTORS]
        self._pair_known = _times(settings.login_limit, KNOWN_NETWORK_FACTOR)
        self._network = [_times(settings.login_limit_per_address, factor) for factor in FACTORS]

    async def begin(self, sub: str, address: str) -> Attempt:
        """Count an attempt to sign in as `sub` and return it, after a delay if the account has many failures.

        Raises `RateLimited`. Then the caller must not check the password, right or wrong.
        """
        networks = networks_of(address)
        account = account_of(sub)
        if known := bool(await self._known.get(_KNOWN.key_for(account, networks[0]))):
            # The owner signs in from this network, and others may fail from it, too.
            await _hit(self._limiter, self._pair_known, "login-known", account, networks[0])
        else:
            # Check the networks first, so that a network that tries made-up names fills no memory with them.
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
        """Take back a successful attempt, and clear the failures of its account from its network.

        The network is then known for 30 days from now.
        """
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
        await self._known.clear(known)  # restarts its 30 days
        await self._known.incr(known, _KNOWN.get_expiry())

    async def withdraw(self, turn: Turn) -> None:
        """Take back one attempt; earlier failures stay counted."""
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
    """Return the hash that stands for an account: made-up names may be long, and Redis must not see names."""
    return sha256(sub.encode(errors="replace")).hexdigest()[:32]


def delay_after(failures: int) -> float:
    """Return the delay of a sign-in in seconds, given the failures of its account with this one included."""
    return min(MAX_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0 ** min(failures - FREE_FAILURES - 1, 10))


_EVERYWHERE = RateLimitItemPerMinute(FREE_FAILURES, 15, namespace="login-account")
_KNOWN = RateLimitItemPerDay(1, 30, namespace="login-known")


def _times(limits: str, factor: int) -> list[RateLimitItem]:
    """Return the limits of a setting, multiplied by a factor, the shortest window first.

    A short window then refuses an attempt before a long window counts it.
    """
    read = sorted(parse_many(limits), key=lambda limit: limit.get_expiry()) if limits else []
    return [type(limit)(limit.amount * factor, limit.multiples) for limit in read]
