"""Turns at the hasher: whose password is hashed next, when more wait than can be hashed at once.

Callers whose account has signed in from their address before (*known*) and all others wait in two lines, and
the lines take turns, so that known callers have half of the hasher whatever the others do. Within a line each
network has one turn in a round: a crowd at one address does not push back a caller at another one. An IPv6
network has its turn as a /48, and within that each /64.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.errors import Overloaded, RateLimited

WAITING = 1000
"""How many callers may wait in each of the two lines."""

PER_NETWORK = 16
"""How many callers may wait at one network that are not known."""

PER_ACCOUNT = 4
"""How many known callers may wait for one account at one network."""


class Turn(NamedTuple):
    """Whose work it is. `networks` stand for the caller's address, the narrowest first."""

    account: str
    networks: tuple[str, ...]
    known: bool = False

    @property
    def pair(self) -> tuple[str, str]:
        """The account at the network: one piece of its work is done at a time."""
        return self.account, self.networks[0]


class HasherQueue:
    """Who may work now: at most `slots` at a time, and one for each account at a network.

    `take` a turn, do the work, and `release` it, whatever has become of the work.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._busy: set[tuple[str, str]] = set()
        self._lines = {True: _Line(), False: _Line()}
        self._served_known = False
        self._closed = False

    @property
    def taken(self) -> int:
        """How many turns are taken and not released."""
        return len(self._busy)

    async def take(self, turn: Turn) -> None:
        """Wait for a turn.

        Raises `RateLimited` where too many wait for this account or at this network, and `Overloaded` where
        too many wait at all. A caller at a network with few waiting displaces one at that with the most.
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
        """Give a turn back, and let the next one begin."""
        self._busy.remove(turn.pair)
        self._free += 1
        self._serve()

    def close(self) -> None:
        """Cancel the callers that wait, and refuse those that come."""
        self._closed = True
        for line in self._lines.values():
            for waiter in line.waiters():
                waiter.granted.cancel()

    def _join(self, waiter: "_Waiter") -> None:
        line = self._lines[waiter.turn.known]
        limit = PER_ACCOUNT if waiter.turn.known else PER_NETWORK
        if line.waiting_at(waiter.turn) >= limit:
            raise RateLimited("hashes", quota=limit, window=1, retry_after=1)
        if len(line) >= WAITING or self._closed:
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
            if not waiter.granted.done():  # else its caller was cancelled just now
                self._free -= 1
                self._busy.add(waiter.turn.pair)
                waiter.granted.set_result(None)

    def _next(self) -> "_Waiter | None":
        """Return who is next, of the line that was not served last where both have one."""
        for known in (not self._served_known, self._served_known):
            if (waiter := self._lines[known].next(self._busy)) is not None:
                self._served_known = known
                return waiter
        return None


@dataclass(eq=False, slots=True)
class _Waiter:
    """A caller that waits for its turn."""

    turn: Turn
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class _Line:
    """Those that wait in one line: by /48 or IPv4 address, within that by network, within that by age."""

    def __init__(self) -> None:
        self._round: dict[str, dict[str, dict[_Waiter, None]]] = {}
        self._number = 0
        self._sizes: Counter[str] = Counter()
        self._places: Counter[object] = Counter()

    def __len__(self) -> int:
        return self._number

    def waiters(self) -> Iterator[_Waiter]:
        """Yield all that wait."""
        for networks in self._round.values():
            for waiters in networks.values():
                yield from waiters

    def waiting_at(self, turn: Turn) -> int:
        """Return how many wait where this one would."""
        return self._places[_place(turn)]

    def add(self, waiter: _Waiter) -> None:
        """Let a caller wait behind those of its network; a new network is the last of the round."""
        networks = waiter.turn.networks
        self._round.setdefault(networks[-1], {}).setdefault(networks[0], {})[waiter] = None
        self._number += 1
        self._sizes[networks[-1]] += 1
        self._places[_place(waiter.turn)] += 1

    def remove(self, waiter: _Waiter, *, served: bool = False) -> None:
        """Let a caller go, if it still waits. One that is served ends the round of its network."""
        inner, outer = waiter.turn.networks[0], waiter.turn.networks[-1]
        networks = self._round.get(outer, {})
        waiters = networks.get(inner, {})
        if waiter not in waiters:
            return
        del waiters[waiter]
        self._number -= 1
        _keep(networks, inner, last=served)
        _keep(self._round, outer, last=served)
        _count_down(self._sizes, outer)
        _count_down(self._places, _place(waiter.turn))

    def next(self, busy: Collection[tuple[str, str]]) -> _Waiter | None:
        """Return whose turn it is, without those whose account is at work at their network already."""
        return next((waiter for waiter in self.waiters() if waiter.turn.pair not in busy), None)

    def displaced_by(self, turn: Turn) -> _Waiter | None:
        """Return the newest of the network where most wait, if that is more than would wait at this one."""
        outer, most = max(self._sizes.items(), key=lambda item: item[1], default=("", 0))
        if self._sizes[turn.networks[-1]] + 1 >= most:
            return None
        longest = max(self._round[outer].values(), key=len)
        return next(reversed(longest))


def _place(turn: Turn) -> object:
    return turn.pair if turn.known else turn.networks[0]


def _keep(places: dict[str, Any], name: str, *, last: bool) -> None:
    """Forget a network where nobody waits any more; else let it wait for the next round, if it is to."""
    if not places[name]:
        del places[name]
    elif last:
        places[name] = places.pop(name)


def _count_down(counter: Counter[Any], name: object) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]
