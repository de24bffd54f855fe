"""The hub: the registry of a process's connections, by user and by session. It never waits and never sends.

Work on many connections is spread over several turns of the event loop, so that other tasks run in between.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Protocol

import structlog

from gateway.delivery.groups import Groups
from gateway.delivery.wakes import Wakes
from gateway.errors import Overloaded, TooManySockets
from gateway.protocol.close_codes import Close
from gateway.store.entries import Entry

logger = structlog.get_logger()

TICK_SECONDS = 0.5
"""How often each connection checks its deadlines."""


TURN = 250
"""Maximum number of connections woken, or users ticked, in one turn of the event loop.

A wake may write a burst of messages, which takes some 20 µs.
"""

TURN_SECONDS = 0.005
"""How long the wakes of one turn may take, in seconds. A message with deeply nested `data` takes longer."""

CLOSED_PER_TURN = 100
"""Maximum number of sockets closed in one turn of the event loop. Each close sends a frame."""

ENDED_PER_TURN = 5000
"""Maximum number of ended sessions looked up in one turn of the event loop. Few have a socket here."""


class Subscriber(Protocol):
    """A connection as the hub sees it. No method may block.

    Only `Hub.move` may change the session of an attached subscriber.
    """

    session: str

    @property
    def position(self) -> tuple[int, int, int]:
        """The highest `seq`, the seen mark and the version of the preferences that this subscriber knows."""

    def wake(self, seq: int) -> None:
        """Record that a commit extended the log to `seq`, or changed the seen mark or the preferences."""

    def tick(self) -> None:
        """Check the deadlines."""

    def close(self, code: Close, reason: str) -> None:
        """Close the socket."""


class Follower(Protocol):
    """Notified before a user's first local socket reads the log, and after the last one detaches."""

    def follow(self, user_id: int) -> None:
        """Handle the attachment of this user's first socket."""

    def forget(self, user_id: int) -> None:
        """Handle the detachment of this user's last socket."""


class Hub:
    """The subscribers of this process. Not thread-safe: call it only on the event loop.

    `on_turn` is called with the duration of each turn of wakes that others follow, in seconds.
    """

    def __init__(
        self,
        followers: Sequence[Follower],
        *,
        max_sockets: int,
        max_sockets_per_user: int,
        on_turn: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._followers = followers
        self._max_sockets = max_sockets
        self._max_sockets_per_user = max_sockets_per_user
        self._users: Groups[int, Subscriber] = Groups()
        self._sessions: Groups[str, Subscriber] = Groups()
        self._ended: deque[str] = deque()
        self._count = 0
        self._wakes = Wakes(self._wake_user)
        self._on_turn = on_turn

    def __len__(self) -> int:
        """Return the number of attached sockets."""
        return self._count

    def __contains__(self, user_id: object) -> bool:
        """Whether this user has a socket here."""
        return user_id in self._users

    def sockets_of(self, user_id: int) -> int:
        """Return the number of this user's attached sockets."""
        return len(self._users.of(user_id))

    def attach(self, user_id: int, subscriber: Subscriber) -> None:
        """Attach a subscriber: until `detach`, every commit for this user wakes it.

        The subscriber must read the log afterwards. If it reads before, it misses the commits in between.
        Raises `Overloaded` or `TooManySockets` without attaching anything.
        """
        if self._count >= self._max_sockets:
            raise Overloaded("This process holds as many sockets as it may.")
        others = self._users.of(user_id)
        if not others:
            for follower in self._followers:
                follower.follow(user_id)
        elif len(others) >= self._max_sockets_per_user:
            raise TooManySockets(f"A user may hold {self._max_sockets_per_user} sockets.")
        self._users.add(user_id, subscriber)
        self._sessions.add(subscriber.session, subscriber)
        self._count += 1

    def detach(self, user_id: int, subscriber: Subscriber) -> None:
        """Detach an attached subscriber."""
        self._users.remove(user_id, subscriber)
        self._sessions.remove(subscriber.session, subscriber)
        self._count -= 1
        if user_id not in self._users:
            for follower in self._followers:
                follower.forget(user_id)

    def move(self, subscriber: Subscriber, session: str) -> None:
        """Move an attached subscriber to another session."""
        self._sessions.remove(subscriber.session, subscriber)
        subscriber.session = session
        self._sessions.add(session, subscriber)

    def wake(self, seqs: Mapping[int, int], entries: Iterable[Entry] = ()) -> None:
        """Wake the subscribers of these users. `seqs` has the last `seq` of each user's log after a commit.

        Those beyond one turn are woken in later turns of the event loop, after those woken first have sent.
        The senders of the commit's `entries` take turns then, so that none of them delays the others.
        """
        if self._wakes:
            self._wakes.add(self._known(seqs.items()), entries)
            return
        users, woken, began = iter(seqs.items()), 0, perf_counter()
        for user_id, seq in users:
            woken += self._wake_user(user_id, seq)
            if woken >= TURN or perf_counter() >= began + TURN_SECONDS:
                self._wakes.add(self._known(users), entries)
                self._end_turn(began)
                return

    def _known(self, seqs: Iterable[tuple[int, int]]) -> dict[int, int]:
        return {user_id: seq for user_id, seq in seqs if user_id in self._users}

    def _wake_user(self, user_id: int, seq: int) -> int:
        """Wake the subscribers of a user, and return their number. Close those that fail."""
        subscribers = self._users.of(user_id)
        for subscriber in subscribers:
            try:
                subscriber.wake(seq)
            except Exception:
                logger.exception("a wake failed")
                # Later, because this iterates over them, and so that a failing close can't stop other wakes.
                asyncio.get_running_loop().call_soon(subscriber.close, Close.INTERNAL_ERROR, "internal_error")
        return len(subscribers)

    def _wake_more(self) -> None:
        began = perf_counter()
        self._wakes.take(TURN, began + TURN_SECONDS)
        self._end_turn(began)

    def _end_turn(self, began: float) -> None:
        """End a turn of wakes, and schedule the next one if more wait."""
        self._on_turn(perf_counter() - began)
        if self._wakes:
            asyncio.get_running_loop().call_soon(self._wake_more)

    def positions(self, users: Collection[int] | None = None) -> list[tuple[int, int, int, int]]:
        """Return for each user, of these or of all, the position that all their sockets know.

        It has the id of the user, a `seq`, a seen mark and a version of the preferences.
        """
        wanted = self._users if users is None else self._users.keys() & users
        return [(user_id, *_lowest_position(self._users.of(user_id))) for user_id in wanted]

    def end_sessions(self, sessions: Collection[str]) -> None:
        """Close every socket of these sessions. Many are closed over several turns of the event loop."""
        waiting = bool(self._ended)
        self._ended.extend(sessions)
        if not waiting:
            self._end_some()

    def _end_some(self) -> None:
        closed = 0
        try:
            for _ in range(min(len(self._ended), ENDED_PER_TURN)):
                for subscriber in tuple(self._sessions.of(self._ended.popleft())):
                    subscriber.close(Close.UNAUTHORIZED, "token_revoked")
                    closed += 1
                if closed >= CLOSED_PER_TURN:
                    break
        finally:
            if self._ended:
                asyncio.get_running_loop().call_soon(self._end_some)

    def subscribers(self) -> list[Subscriber]:
        """Return the subscribers that are attached now."""
        return [subscriber for user_id in self._users for subscriber in self._users.of(user_id)]

    async def run(self) -> None:
        """Tick every subscriber once per `TICK_SECONDS`, over several turns, until cancelled."""
        while True:
            users = list(self._users)
            turns = max(-(-len(users) // TURN), 1)
            for first in range(0, turns * TURN, TURN):
                await asyncio.sleep(TICK_SECONDS / turns)
                for user_id in users[first : first + TURN]:
                    for subscriber in tuple(self._users.of(user_id)):
                        subscriber.tick()


def _lowest_position(subscribers: Collection[Subscriber]) -> tuple[int, int, int]:
    seqs, seens, versions = zip(*(subscriber.position for subscriber in subscribers), strict=True)
    return min(seqs), min(seens), min(versions)
