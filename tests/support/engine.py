"""The engine without its edge: writer, hub, tail and connections on a real database, with points to hold at.

An ordering rule is tested by holding one task at a named point, running the other, and letting go.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection as DatabaseConnection

from gateway.auth import users
from gateway.auth.limits.rate_limits import RateLimits
from gateway.auth.principals import User
from gateway.auth.revocation import Revocation
from gateway.auth.tokens import Tokens
from gateway.database.database import Database
from gateway.delivery.client_connection import ClientConnection
from gateway.delivery.hub import Hub
from gateway.delivery.parts import Parts
from gateway.delivery.recent_entries import RecentEntries
from gateway.delivery.remote_commits import RemoteCommits
from gateway.delivery.resume_point import ResumePoint
from gateway.errors import Disconnected
from gateway.observability.metrics import Metrics
from gateway.protocol.close_codes import Close
from gateway.protocol.items import Content
from gateway.protocol.wire import Message
from gateway.settings import Settings
from gateway.store.arrivals import Post
from gateway.store.transaction import Accepted, Committed, Submission
from gateway.store.writer import Writer
from gateway.transport.writable import Writable
from tests.support.waiting import until

P = ParamSpec("P")
T = TypeVar("T")

HERE = ResumePoint()
"""A client that asks for its newest unread items."""

FAR = 4_000_000_000
"""A second that is far ahead."""


class Gate:
    """A point at which one task is held, until the test lets it go."""

    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._open = asyncio.Event()

    @property
    def held(self) -> bool:
        """Whether a task has come here."""
        return self._reached.is_set()

    async def hold(self) -> None:
        """Wait here."""
        self._reached.set()
        await self._open.wait()

    async def reached(self) -> None:
        """Return once a task waits here."""
        await asyncio.wait_for(self._reached.wait(), 10)

    def let_go(self) -> None:
        """Let whoever waits go on."""
        self._open.set()


class HeldDatabase:
    """A real database whose next read can be held before it begins, or after it has its result."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.before_read: Gate | None = None
        self.after_read: Gate | None = None
        self.reads = 0

    async def read(
        self, work: Callable[Concatenate[DatabaseConnection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Read, held where a gate stands."""
        self.reads += 1
        before, self.before_read = self.before_read, None
        if before:
            await before.hold()
        after, self.after_read = self.after_read, None
        result = await self._database.read(work, *args, **kwargs)
        if after:
            await after.hold()
        return result

    async def lookup(
        self, work: Callable[Concatenate[DatabaseConnection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Glance, held where a gate stands."""
        return await self.read(work, *args, **kwargs)

    async def write(
        self, work: Callable[Concatenate[DatabaseConnection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Write."""
        return await self._database.write(work, *args, **kwargs)


@dataclass
class Wire:
    """A client's end: what it was sent, and what it says. While `blocked`, it does not read.

    It lags, as one whose transport is full, after so many messages each.
    """

    messages: list[Message] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    closed: tuple[int, str] | None = None
    blocked: Gate | None = None
    lags_after: int | None = None
    writable: Writable = field(default_factory=Writable)
    connection: ClientConnection | None = None
    tasks: set[asyncio.Future[None]] = field(default_factory=set)
    address: str = "127.0.0.1"
    packed: bool = False
    _said: deque[str | bytes] = field(default_factory=deque)
    _held: bool = False

    def write_messages(self, messages: Sequence[Message]) -> bool:
        """Take messages unless this end does not read, or is closed."""
        if self.blocked or self.closed or not self.writable.is_set():
            return False
        self.writes.append(len(messages))
        for message in messages:
            self._take(message)
        return True

    async def send_message(self, message: Message) -> None:
        """Take a message."""
        if self.blocked:
            await self.blocked.hold()
        await self.writable.wait()
        if self.closed:
            raise Disconnected
        self._take(message)

    def _take(self, message: Message) -> None:
        self.messages.append(message)
        self.sent.append(json.loads(message.payload))
        if self.lags_after is not None and len(self.sent) % self.lags_after == 0:
            self.writable.clear()

    def spawn(self, steps: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in a task."""
        task = asyncio.ensure_future(steps)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def check_ping(self) -> None:
        """Ping nobody."""

    def resume_reading(self) -> None:
        """Pass on what the client says next."""
        self._held = False
        while self._said and not (self._held or self.closed):
            assert self.connection
            self._held = self.connection.receive(self._said.popleft())

    def close_at_once(self, code: int, reason: str) -> None:
        """Be closed."""
        self.closed = self.closed or (code, reason)
        self.writable.set()
        if self.blocked:
            self.blocked.let_go()
        if self.connection:
            self.connection.leave()

    def say(self, frame: str | bytes = b"", **command: Any) -> None:
        """Say something to the gateway."""
        self._said.append(json.dumps(command) if command else frame)
        if not self._held:
            self.resume_reading()

    def seqs(self) -> list[int]:
        """Return the numbers this client has applied."""
        return [m["seq"] for m in self.sent if m["type"] in {"notification", "changed", "read"}]

    def types(self) -> list[str]:
        """Return the types of all that came."""
        return [message["type"] for message in self.sent]

    async def has(self, kind: str, number: int = 1) -> None:
        """Wait until so many messages of a kind have come."""
        await until(lambda: self.types().count(kind) >= number, f"{number} {kind} in {self.types()}")


class Engine:
    """Everything between the edge and the database."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self.database = HeldDatabase(database)
        self.recent = RecentEntries(settings.tail_bytes)
        self.hub = Hub(
            (self.recent,),
            max_sockets=settings.max_sockets,
            max_sockets_per_user=settings.max_sockets_per_user,
        )
        self.remote_commits = RemoteCommits(self.hub, self.recent, self.database)
        self.announced: list[Committed] = []
        self.on_announced: Callable[[], object] = lambda: None
        self.writer = Writer(database, self.announce, followed=self.recent)
        self.revocation = Revocation(database, on_ended=self.hub.end_sessions)
        self.tokens = Tokens(settings, database, self.revocation)
        self.metrics = Metrics(max_sockets=settings.max_sockets)
        self.commands = RateLimits(settings).socket_commands
        self.now = 1_000_000.0
        self.closes: list[tuple[Any, ...]] = []
        self.posted = 0

    def announce(self, committed: Committed) -> None:
        self.announced.append(committed)
        self.recent.record(committed.entries, committed.counts)
        seqs = {user_id: counts.seq for user_id, counts in committed.counts.items()}
        self.hub.wake(seqs, committed.entries)
        self.on_announced()

    def record_close(self, *close: Any) -> None:
        self.closes.append(close)

    async def user(self, sub: str = "ada") -> User:
        """Return a user of the database."""
        await self.database.write(users.add_missing_users, [sub], 0)
        record = await self.database.read(users.get_user, sub)
        return User(record.id, sub, f"session-of-{sub}", frozenset({"inbox"}), FAR, "tests")

    def post(self, *to: str, title: str = "Hello") -> Post:
        """Return a post that was not stored yet."""
        self.posted += 1
        uuid = f"00000000-0000-7000-8000-{self.posted:012d}"
        return Post(Content(uuid, title, None, "default", "normal", None, None, 0), 1, to or ("ada",))

    async def store(self, *posts: Post) -> Accepted:
        """Store posts in one transaction."""
        return await self.writer.post(Submission(posts or (self.post(),), "{}"))

    @asynccontextmanager
    async def connected(
        self, user: User, start: ResumePoint = HERE
    ) -> AsyncIterator[tuple[Wire, ClientConnection]]:
        """Connect a client, and see at the end that its tasks end."""
        wire = Wire()
        parts = Parts(
            self.settings,
            self.database,
            self.recent,
            self.hub,
            self.writer,
            self.tokens,
            self.metrics,
            self.commands,
            lambda: self.now,
        )
        wire.connection = connection = ClientConnection(wire, user, start, parts, self.record_close)
        connection.begin()
        try:
            yield wire, connection
        finally:
            wire.close_at_once(Close.NORMAL, "")
            await until(lambda: not wire.tasks, "its tasks have ended")
