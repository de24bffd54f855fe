"""The sockets of this process, by user and by session: attach, ring, end. Nothing here waits or sends.

Work for many sockets is done in turns of the event loop, so that everything else gets its turn in between.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from gateway.errors import Overloaded, TooManySockets
from gateway.protocol.close_codes import Close

TICK = 0.5
"""How often each socket looks at its deadlines, in seconds."""


TURN = 500
"""How many sockets are rung, or looked at, in one turn of the event loop."""

CLOSED_PER_TURN = 100
"""How many sockets are closed in one turn of the event loop: that sends something to each."""

ENDED_PER_TURN = 5000
"""How many ended sessions are looked up in one turn of the event loop; few of them have a socket here."""


class Subscriber(Protocol):
    """What the hub asks of a socket's loop. None of it may block.

    Only `Hub.move` changes the session of one that is attached.
    """

    session: str

    @property
    def position(self) -> tuple[int, int]:
        """The number and the seen mark up to which it knows of the log."""

    def wake(self, seq: int) -> None:
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
        # Most sessions have one socket: a set for it would be larger than all else that is kept of it here.
        self._sessions: dict[str, Subscriber | set[Subscriber]] = {}
        self._ended: deque[str] = deque()
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
        self._add_to_session(subscriber)
        self._count += 1
        try:
            yield
        finally:
            subscribers.remove(subscriber)
            self._remove_from_session(subscriber)
            self._count -= 1
            if not subscribers:
                del self._users[user_id]
                for follower in self._followers:
                    follower.forget(user_id)

    def move(self, subscriber: Subscriber, session: str) -> None:
        """Let an attached subscriber belong to another session from now on."""
        self._remove_from_session(subscriber)
        subscriber.session = session
        self._add_to_session(subscriber)

    def wake(self, seqs: Mapping[int, int]) -> None:
        """Wake the subscribers of these users, whose logs have reached these numbers by a commit.

        Beyond a turn's worth they are woken in the turns that follow, after those have sent who were woken.
        """
        self._ring(iter(seqs.items()))

    def _ring(self, seqs: Iterator[tuple[int, int]]) -> None:
        woken = 0
        for user_id, seq in seqs:
            subscribers = self._users.get(user_id, ())
            for subscriber in subscribers:
                subscriber.wake(seq)
            woken += len(subscribers)
            if woken >= TURN:
                asyncio.get_running_loop().call_soon(self._ring, seqs)
                return

    def positions(self, users: Collection[int] | None = None) -> list[tuple[int, int, int]]:
        """Return users, these or all, with the number and the mark that all their sockets know of."""
        wanted = self._users if users is None else self._users.keys() & users
        return [(user_id, *_least(self._users[user_id])) for user_id in wanted]

    def end_sessions(self, sessions: Collection[str]) -> None:
        """Close every socket that belongs to one of these sessions: a few at once, many in turns."""
        waiting = bool(self._ended)
        self._ended.extend(sessions)
        if not waiting:
            self._end_some()

    def _end_some(self) -> None:
        closed = 0
        try:
            for _ in range(min(len(self._ended), ENDED_PER_TURN)):
                for subscriber in self._of_session(self._ended.popleft()):
                    subscriber.close(Close.UNAUTHORIZED, "token_revoked")
                    closed += 1
                if closed >= CLOSED_PER_TURN:
                    break
        finally:
            if self._ended:
                asyncio.get_running_loop().call_soon(self._end_some)

    def subscribers(self) -> list[Subscriber]:
        """Return all that are attached now."""
        return [subscriber for subscribers in self._users.values() for subscriber in subscribers]

    async def run(self) -> None:
        """Let every subscriber look at its deadlines once in a tick, in turns, until cancelled."""
        while True:
            users = list(self._users)
            turns = max(-(-len(users) // TURN), 1)
            for first in range(0, turns * TURN, TURN):
                await asyncio.sleep(TICK / turns)
                for user_id in users[first : first + TURN]:
                    for subscriber in tuple(self._users.get(user_id, ())):
                        subscriber.tick()

    def _of_session(self, session: str) -> Collection[Subscriber]:
        found = self._sessions.get(session, ())
        return tuple(found) if isinstance(found, set | tuple) else (found,)

    def _add_to_session(self, subscriber: Subscriber) -> None:
        others = self._sessions.setdefault(subscriber.session, subscriber)
        if isinstance(others, set):
            others.add(subscriber)
        elif others is not subscriber:
            self._sessions[subscriber.session] = {others, subscriber}

    def _remove_from_session(self, subscriber: Subscriber) -> None:
        others = self._sessions[subscriber.session]
        if isinstance(others, set) and len(others) > 1:
            others.remove(subscriber)
        else:
            del self._sessions[subscriber.session]


def _least(subscribers: Collection[Subscriber]) -> tuple[int, int]:
    seqs, seens = zip(*(subscriber.position for subscriber in subscribers), strict=True)
    return min(seqs), min(seens)
