"""The hasher's queue: it decides whose password is hashed next if more wait than can be hashed at once.

There are two lines: for *known* callers, whose account has signed in from their network before, and for all
others. The lines take turns, so known callers get half of the hasher whatever the others do. Within a line
each network gets one turn per round, so a crowd at one address does not delay a caller at another. An IPv6
/48 gets one turn, which its /64 networks take in rotation.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.errors import Overloaded, RateLimited

MAX_WAITING = 1000
"""Maximum number of callers that wait in each of the two lines."""

MAX_WAITING_PER_NETWORK = 16
"""Maximum number of callers that wait at one network, without the known ones."""

MAX_WAITING_PER_ACCOUNT = 4
"""Maximum number of known callers that wait for one account at one network."""


class Turn(NamedTuple):
    """A caller's claim to the hasher. `networks` stand for the caller's address, the narrowest first."""

    account: str
    networks: tuple[str, ...]
    known: bool = False

    @property
    def pair(self) -> tuple[str, str]:
        """The account and the network. Each pair has at most one password hashed at a time."""
        return self.account, self.networks[0]


class HasherQueue:
    """A queue for `slots` concurrent turns, and one at a time for each account at a network.

    `take` a turn, do the work, and `release` the turn whether or not the work succeeded.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._busy: set[tuple[str, str]] = set()
        self._lines = {True: _Line(), False: _Line()}
        self._served_known = False
        self._closed = False

    @property
    def taken(self) -> int:
        """The number of turns that are taken and not released."""
        return len(self._busy)

    async def take(self, turn: Turn) -> None:
        """Wait for a turn.

        Raises `RateLimited` if too many callers wait for this account or at this network, and `Overloaded`
        if the line is full. In a full line, a caller at a network with few waiting callers displaces one at
        the network with the most.
        """
        waiter = _Waiter(turn)
        self._join(waiter)
        self._serve()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.cancelled() or waiter.granted.exception() is not None:
                self._lines[turn.known].remove(waiter)
            else:
                self.release(turn)
            raise

    def release(self, turn: Turn) -> None:
        """Give a turn back, and start the next one."""
        self._busy.remove(turn.pair)
        self._free += 1
        self._serve()

    def close(self) -> None:
        """Cancel the waiting callers, and refuse new ones."""
        self._closed = True
        for line in self._lines.values():
            for waiter in line.waiters():
                waiter.granted.cancel()

    def _join(self, waiter: "_Waiter") -> None:
        line = self._lines[waiter.turn.known]
        limit = MAX_WAITING_PER_ACCOUNT if waiter.turn.known else MAX_WAITING_PER_NETWORK
        if line.waiting_at(waiter.turn) >= limit:
            raise RateLimited("hashes", quota=limit, window=1, retry_after=1)
        if len(line) >= MAX_WAITING or self._closed:
            displaced = None if self._closed else line.displaced_by(waiter.turn)
            if displaced is None:
                raise Overloaded
            line.remove(displaced)
            if not displaced.granted.done():
                displaced.granted.set_exception(Overloaded())
        line.add(waiter)

    def _serve(self) -> None:
        while self._free > 0 and not self._closed and (waiter := self._next()) is not None:
            self._lines[waiter.turn.known].remove(waiter, served=True)
            if not waiter.granted.done():  # otherwise its caller has just been cancelled
                self._free -= 1
                self._busy.add(waiter.turn.pair)
                waiter.granted.set_result(None)

    def _next(self) -> "_Waiter | None":
        """Return the next caller to serve. The lines alternate if both have one."""
        for known in (not self._served_known, self._served_known):
            if (waiter := self._lines[known].next(self._busy)) is not None:
                self._served_known = known
                return waiter
        return None


@dataclass(eq=False, slots=True)
class _Waiter:
    """A caller that waits for its turn, which `granted` announces."""

    turn: Turn
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class _Line:
    """The waiting callers of one line, by /48 or IPv4 address, then by /64, then in order of arrival."""

    def __init__(self) -> None:
        self._round: dict[str, dict[str, dict[_Waiter, None]]] = {}
        self._number = 0
        self._sizes: Counter[str] = Counter()
        self._waiting: Counter[object] = Counter()

    def __len__(self) -> int:
        return self._number

    def waiters(self) -> Iterator[_Waiter]:
        """Yield all waiting callers in the order in which they are served."""
        for networks in self._round.values():
            for waiters in networks.values():
                yield from waiters

    def waiting_at(self, turn: Turn) -> int:
        """Return how many callers wait that count towards the same limit as this turn."""
        return self._waiting[_limit_key(turn)]

    def add(self, waiter: _Waiter) -> None:
        """Add a caller behind those of its network. A new network goes to the end of the round."""
        networks = waiter.turn.networks
        self._round.setdefault(networks[-1], {}).setdefault(networks[0], {})[waiter] = None
        self._number += 1
        self._sizes[networks[-1]] += 1
        self._waiting[_limit_key(waiter.turn)] += 1

    def remove(self, waiter: _Waiter, *, served: bool = False) -> None:
        """Remove a caller, if it still waits. If it was served, its network goes to the end of the round."""
        inner, outer = waiter.turn.networks[0], waiter.turn.networks[-1]
        networks = self._round.get(outer, {})
        waiters = networks.get(inner, {})
        if waiter not in waiters:
            return
        del waiters[waiter]
        self._number -= 1
        _requeue(networks, inner, last=served)
        _requeue(self._round, outer, last=served)
        _count_down(self._sizes, outer)
        _count_down(self._waiting, _limit_key(waiter.turn))

    def next(self, busy: Collection[tuple[str, str]]) -> _Waiter | None:
        """Return the next caller, or None. Skip those whose account and network are in `busy`."""
        return next((waiter for waiter in self.waiters() if waiter.turn.pair not in busy), None)

    def displaced_by(self, turn: Turn) -> _Waiter | None:
        """Return the newest caller of the network with the most callers, or None.

        None means that the network of `turn` would then have as many callers itself.
        """
        outer, most = max(self._sizes.items(), key=lambda item: item[1], default=("", 0))
        if self._sizes[turn.networks[-1]] + 1 >= most:
            return None
        longest = max(self._round[outer].values(), key=len)
        return next(reversed(longest))


def _limit_key(turn: Turn) -> object:
    return turn.pair if turn.known else turn.networks[0]


def _requeue(networks: dict[str, Any], name: str, *, last: bool) -> None:
    """Remove a network without waiting callers; move any other to the end of the round if `last`."""
    if not networks[name]:
        del networks[name]
    elif last:
        networks[name] = networks.pop(name)


def _count_down(counter: Counter[Any], name: object) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]
