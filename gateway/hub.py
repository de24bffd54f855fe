"""The sockets of this process, by user: attach, ring, end. Nothing here waits or sends."""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from gateway.errors import Overloaded, TooManySockets
from gateway.protocol import Close

TICK = 0.5
"""How often each socket looks at its deadlines, in seconds."""


class Subscriber(Protocol):
    """What the hub asks of a socket's loop. None of it may block."""

    session: str

    @property
    def position(self) -> tuple[int, int]:
        """The number and the seen mark up to which it knows of the log."""

    def ring(self, seq: int) -> None:
        """Take note that a commit has brought the log to `seq`, or moved the seen mark."""

    def tick(self) -> None:
        """Look at the deadlines."""

    def close(self, code: Close, reason: str) -> None:
        """End the socket."""


class Follower(Protocol):
    """Who is told of which users there are sockets here: before the first reads the log, after the last."""

    def follow(self, user_id: int) -> None:
        """The first socket of this user attaches."""

    def forget(self, user_id: int) -> None:
        """The last socket of this user is gone."""


class Hub:
    """The subscribers of this process. It belongs to the event loop: no call comes from another thread."""

    def __init__(self, followers: Sequence[Follower], *, max_sockets: int, max_sockets_per_user: int) -> None:
        self._followers = followers
        self._max_sockets = max_sockets
        self._max_sockets_per_user = max_sockets_per_user
        self._users: dict[int, set[Subscriber]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return how many sockets are attached."""
        return self._count

    def __contains__(self, user_id: object) -> bool:
        """Whether this user has a socket here."""
        return user_id in self._users

    @contextmanager
    def attach(self, user_id: int, subscriber: Subscriber) -> Iterator[None]:
        """Ring the subscriber for this user while the block runs.

        The subscriber must read the log after this, not before, or it misses what is committed in between.
        Raises `Overloaded` and `TooManySockets`; nothing is attached then.
        """
        if self._count >= self._max_sockets:
            raise Overloaded("This process holds as many sockets as it may.")
        subscribers = self._users.get(user_id)
        if subscribers is None:
            subscribers = self._users[user_id] = set()
            for follower in self._followers:
                follower.follow(user_id)
        elif len(subscribers) >= self._max_sockets_per_user:
            raise TooManySockets(f"A user may hold {self._max_sockets_per_user} sockets.")
        subscribers.add(subscriber)
        self._count += 1
        try:
            yield
        finally:
            subscribers.remove(subscriber)
            self._count -= 1
            if not subscribers:
                del self._users[user_id]
                for follower in self._followers:
                    follower.forget(user_id)

    def ring(self, seqs: Mapping[int, int]) -> None:
        """Wake the subscribers of these users, whose logs have reached these numbers by a commit."""
        for user_id, seq in seqs.items():
            for subscriber in self._users.get(user_id, ()):
                subscriber.ring(seq)

    def positions(self, users: Collection[int] | None = None) -> list[tuple[int, int, int]]:
        """Return users, these or all, with the number and the mark that all their sockets know of."""
        wanted = self._users if users is None else self._users.keys() & users
        return [(user_id, *_least(self._users[user_id])) for user_id in wanted]

    def end_sessions(self, sessions: Collection[str]) -> None:
        """Close every socket that belongs to one of these sessions."""
        ended = frozenset(sessions)
        self._each(lambda subscriber: _end(subscriber, ended))

    def subscribers(self) -> list[Subscriber]:
        """Return all that are attached now."""
        return [subscriber for subscribers in self._users.values() for subscriber in subscribers]

    async def run(self) -> None:
        """Let every subscriber look at its deadlines, until cancelled."""
        while True:
            await asyncio.sleep(TICK)
            self._each(lambda subscriber: subscriber.tick())

    def _each(self, act: Callable[[Subscriber], None]) -> None:
        for subscriber in self.subscribers():
            act(subscriber)


def _least(subscribers: Collection[Subscriber]) -> tuple[int, int]:
    seqs, seens = zip(*(subscriber.position for subscriber in subscribers), strict=True)
    return min(seqs), min(seens)


def _end(subscriber: Subscriber, ended: frozenset[str]) -> None:
    if subscriber.session in ended:
        subscriber.close(Close.UNAUTHORIZED, "token_revoked")
