"""One client's loop: a cursor over the log of its user. It knows nothing of FastAPI.

Replay and live delivery are the same loop: read what is after the cursor, send it, move the cursor, wait to
be rung. The order of these steps is what nothing is lost by; docs/architecture.md says why each stands
where it does.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from gateway.auth.limits.buckets import Bucket, Buckets
from gateway.auth.principals import User, inbox_user
from gateway.auth.tokens import Tokens
from gateway.database.database import Database
from gateway.delivery.beginning import Start, begin, read_later
from gateway.delivery.hub import Hub
from gateway.delivery.tail import Tail
from gateway.errors import Disconnected, GatewayError, InsufficientScope, InvalidToken, Unauthorized
from gateway.observability.metrics import Metrics
from gateway.protocol import messages
from gateway.protocol.close_codes import Close
from gateway.protocol.commands import BadCommand, Command, CommandType, decode_command
from gateway.protocol.items import Counts
from gateway.protocol.wire import Message
from gateway.settings import Settings
from gateway.store import log
from gateway.store.entries import Entry
from gateway.store.inbox import Delivered, Mark, ReadUpTo, Seen
from gateway.store.writer import Change, Writer

logger = structlog.get_logger()

EXPIRY_NOTICE = 60
"""How long before its token ends a client is told, in seconds."""

COMMAND_BURST = 4
"""How many seconds' worth of commands a client may send at once."""


class Socket(Protocol):
    """What a connection asks of the transport below it."""

    async def send_message(self, message: Message) -> None:
        """Send a message, waiting while the client does not read. Raises `Disconnected`."""

    async def receive_text(self) -> str | None:
        """Return the next text message, or None for a binary one. Raises `Disconnected`."""

    def close_at_once(self, code: int, reason: str) -> None:
        """End it, without waiting for a client that does not read."""


class Connection:
    """Serves one client until it goes or is closed."""

    __slots__ = (
        "_acknowledged",
        "_budget",
        "_clock",
        "_closed",
        "_commands",
        "_counts",
        "_cursor",
        "_database",
        "_expiry_told",
        "_head",
        "_hub",
        "_live",
        "_metrics",
        "_seen",
        "_sending_since",
        "_sent_at",
        "_settings",
        "_socket",
        "_standing",
        "_start",
        "_tail",
        "_tokens",
        "_unacknowledged",
        "_user",
        "_woken",
        "_writer",
        "session",
    )

    def __init__(
        self,
        socket: Socket,
        user: User,
        start: Start,
        *,
        settings: Settings,
        database: Database,
        tail: Tail,
        hub: Hub,
        writer: Writer,
        tokens: Tokens,
        metrics: Metrics,
        commands: Buckets,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._socket = socket
        self._user = user
        self._start = start
        self._settings = settings
        self._database = database
        self._tail = tail
        self._hub = hub
        self._writer = writer
        self._tokens = tokens
        self._metrics = metrics
        self._commands = commands
        self._clock = clock
        self.session = user.session
        self._cursor = 0
        self._head = 0
        self._counts = self._standing = Counts(0, 0, 0, 0)
        self._seen = 0
        self._live = False
        self._closed = False
        self._expiry_told = False
        self._woken = asyncio.Event()
        self._sent_at = time.monotonic()
        self._sending_since: float | None = None
        self._acknowledged = 0
        self._unacknowledged = 0
        rate = settings.commands_per_second
        self._budget = Bucket(rate, rate * COMMAND_BURST, self._sent_at)

    # --- what the hub calls ---------------------------------------------------------------------------------

    @property
    def position(self) -> tuple[int, int]:
        """The number and the seen mark up to which it knows of the log."""
        return self._head, self._newest().seen

    def ring(self, seq: int) -> None:
        """Take note that a commit has brought the log to `seq`, or moved the seen mark."""
        self._head = max(self._head, seq)
        self._woken.set()

    def count_frame(self) -> None:
        """Count a frame that is no command as one, and close the socket if there are too many."""
        if not self._may_command():
            self.close(Close.TOO_MANY_COMMANDS, "too_many_commands")

    def tick(self) -> None:
        """Look at the deadlines: the client's reading, the token's end, the silence."""
        now = time.monotonic()
        if self._sending_since is not None and now - self._sending_since > self._settings.send_timeout:
            self.close(Close.TOO_SLOW, "too_slow")
        elif self._clock() >= self._user.expires_at:
            self.close(Close.UNAUTHORIZED, "token_expired")
        elif self._due_heartbeat(now) or self._due_expiry_notice():
            self._woken.set()

    def close(self, code: Close, reason: str) -> None:
        """End the socket."""
        self._closed = True
        self._woken.set()
        self._socket.close_at_once(code, reason)

    # --- the loop -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the client. Raises what `Hub.attach` raises; nothing has been sent then."""
        with self._hub.attach(self._user.id, self):
            async with asyncio.TaskGroup() as tasks:
                listener = tasks.create_task(self._listen())
                try:
                    await self._deliver()
                except Disconnected:
                    self._closed = True
                except GatewayError as error:
                    self.close(error.close_code, error.code)
                finally:
                    listener.cancel()

    async def _deliver(self) -> None:
        """Bring the client to the end of the log and keep it there.

        The socket is attached to the hub already, so whatever is committed from here on rings.
        """
        if self._tokens.is_ended(self.session):
            self.close(Close.UNAUTHORIZED, "token_revoked")
            return
        await self._begin()
        while not self._closed:
            # Cleared before anything is read: what is committed after the reading rings again.
            self._woken.clear()
            if self._cursor < self._head:
                await self._advance()
            elif not self._live:
                self._live = True
                await self._send(messages.live(self._counts))
            elif (counts := self._newest()).seen > self._seen:
                self._seen = counts.seen
                self._counts = self._counts._replace(unseen=counts.unseen, seen=counts.seen)
                await self._send(messages.seen(counts))
            elif self._due_expiry_notice():
                self._expiry_told = True
                await self._send(messages.token_expiring(self._user.expires_at))
            elif self._due_heartbeat(time.monotonic()):
                await self._send(messages.heartbeat(self._counts))
            else:
                await self._woken.wait()

    async def _begin(self) -> None:
        newest = self._start.since is None and not self._start.latest
        # Many items are no glance: to read them is for the readers' threads.
        look = self._database.read if newest else self._database.glance
        beginning = await look(begin, self._user.id, self._start)
        if beginning is None:
            self.close(Close.UNAUTHORIZED, "token_revoked")
            return
        epoch, counts, cursor, entries, later = beginning
        self._counts = self._standing = counts
        self._seen = counts.seen
        self._head = max(self._head, counts.seq)
        heartbeat = self._settings.heartbeat
        await self._send(messages.hello(self._user.sub, epoch, counts, heartbeat, self._user.expires_at))
        if cursor is None:
            await self._reset(epoch, counts)
        else:
            self._cursor = cursor
            if self._start.applied:
                self._writer.delivered(self._user.id, cursor)
            if cursor < counts.seq:
                self._metrics.replayed()
        for entry in entries:
            await self._send(entry.message)
        for numbers in later:
            for entry in await self._database.read(read_later, self._user.id, counts, numbers):
                await self._send(entry.message)

    async def _advance(self) -> None:
        """Send what is after the cursor: from memory where it is there, else from the log."""
        entries = self._tail.after(self._user.id, self._cursor)
        if entries is not None:
            await self._send_all(entries)
            return
        # The log has the last word on what was rung so far, even where a database has come back without its
        # last commits; what is rung from here on counts beside it.
        self._head = self._cursor
        page = await self._database.read(log.read_after, self._user.id, self._cursor)
        if page is None:
            self.close(Close.UNAUTHORIZED, "token_revoked")
            return
        self._head = max(self._head, page.counts.seq)
        self._standing = page.counts
        if not log.resumable(page.counts, self._cursor):
            await self._reset(page.epoch, page.counts)
            return
        await self._send_all(page.entries)
        if not page.more:
            self._cursor = max(self._cursor, page.counts.seq)

    def _newest(self) -> Counts:
        """Return the counts of now, as far as is known here: by a commit or by the last reading."""
        committed = self._tail.counts(self._user.id) or self._standing
        return max(self._standing, committed, key=Counts.order)

    async def _send_all(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if self._closed:
                return
            if self._live:
                await self._fill_to(entry)
            await self._send(entry.message)
            self._cursor = entry.counts.seq
            self._counts = entry.counts
        if self._live and entries and (since := entries[0].committed_at):
            self._metrics.delivered(self._clock() - since)

    async def _fill_to(self, entry: Entry) -> None:
        """Send a message for each number before this entry whose items have all changed again since.

        Only the log, which a slow client catches up from, has such numbers. After `live` a client may rely on
        every one.
        """
        while self._cursor + 1 < entry.counts.seq:
            self._cursor += 1
            await self._send(messages.changed((), self._cursor, entry.counts))

    async def _reset(self, epoch: str, counts: Counts) -> None:
        """Tell the client to read its inbox afresh, and go on from where the log stands."""
        self._live = False
        self._cursor = counts.seq
        self._counts = counts
        self._head = max(self._head, counts.seq)
        self._metrics.reset()
        await self._send(messages.reset(epoch, counts))

    async def _send(self, message: Message) -> None:
        self._sent_at = now = time.monotonic()
        self._unacknowledged += 1
        if self._sending_since is None:
            self._sending_since = now
        try:
            await self._socket.send_message(message)
        finally:
            self._sending_since = None

    def _due_heartbeat(self, now: float) -> bool:
        return self._live and now - self._sent_at >= self._settings.heartbeat

    def _due_expiry_notice(self) -> bool:
        return not self._expiry_told and self._user.expires_at - self._clock() <= EXPIRY_NOTICE

    # --- commands -------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        try:
            while not self._closed:
                text = await self._socket.receive_text()
                if text is None:
                    self.close(Close.UNSUPPORTED_DATA, "binary_frame")
                elif self._may_command():
                    await self._answer(text)
                else:
                    self.close(Close.TOO_MANY_COMMANDS, "too_many_commands")
        except Disconnected:
            self._closed = True
            self._woken.set()

    def _may_command(self) -> bool:
        """Whether client and user keep to their rates. Each of the two has a bucket."""
        return self._budget.take(time.monotonic()) and self._commands.allows(self._user.id)

    async def _answer(self, text: str) -> None:
        ref = None
        try:
            command = decode_command(text)
            ref = command.ref
            await self._carry_out(command)
        except BadCommand as error:
            await self._send(messages.error(error.code, error.detail, error.ref))
        except GatewayError as error:
            await self._send(messages.error(error.code, error.detail, ref))
        else:
            if ref is not None:
                await self._send(messages.ok(ref))

    async def _carry_out(self, command: Command) -> None:
        if command.type is CommandType.ACK:
            await self._acknowledge(command)
        elif command.type is CommandType.AUTH:
            await self._authenticate(command.token or "")
        elif command.type is not CommandType.PING:
            await self._writer.change(_change(self._user.id, command))
        elif command.ref is None:
            # There is no `ok` without a `ref`; this says that the socket is well, too.
            await self._send(messages.heartbeat(self._counts))

    async def _acknowledge(self, command: Command) -> None:
        seq = command.seq or 0
        if seq > self._head:
            raise BadCommand("invalid_field", "seq: not beyond the end of the log.", command.ref)
        if command.ref is None:
            if seq > self._acknowledged and self._unacknowledged:
                # A client that acknowledges every message does as it should: that is not counted.
                self._unacknowledged -= 1
                self._budget.give_back()
                self._commands.charge(self._user.id, -1)
                self._acknowledged = seq
            self._writer.delivered(self._user.id, seq)
        else:
            await self._writer.change(Delivered(self._user.id, seq))

    async def _authenticate(self, token: str) -> None:
        """Take a new token for this socket. One that is not good, or another user's, ends the socket."""
        try:
            user = inbox_user(await self._tokens.verify(token))
            if user.id != self._user.id:
                raise InvalidToken
        except (Unauthorized, InsufficientScope) as error:
            self.close(error.close_code, error.code)
            raise Disconnected from error
        self._user = user
        self._hub.move(self, user.session)
        self._expiry_told = False


def _change(user_id: int, command: Command) -> Change:
    """Return what a command does to the inbox."""
    if command.type is CommandType.SEEN:
        return Seen(user_id, command.seq or 0)
    if command.type is CommandType.READ and command.seq is not None:
        return ReadUpTo(user_id, command.seq)
    if command.type is CommandType.ARCHIVE:
        return Mark(user_id, command.ids, archived=True)
    if command.type is CommandType.DELETE:
        return Mark(user_id, command.ids, deleted=True)
    return Mark(user_id, command.ids, read=command.type is CommandType.READ)
