"""The connection of one client, with a cursor over its user's log.

Replay and live delivery are the same steps: read the entries after the cursor, send them, advance the cursor.
A task runs these steps until the client has everything, and then ends. A client that keeps up has no task: a
wake writes what a commit added, and begins a task only for a client that has fallen behind. Nothing is lost
because the steps run in this order; docs/architecture.md explains each. The module doesn't depend on FastAPI.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from gateway.auth.principals import User
from gateway.delivery.commands import Commands
from gateway.delivery.log_cursor import LogCursor
from gateway.delivery.newest import send_newest
from gateway.delivery.outgoing import Outgoing, Socket
from gateway.delivery.parts import Parts
from gateway.delivery.resume_point import ResumePoint, resume
from gateway.errors import Disconnected, GatewayError
from gateway.protocol import messages
from gateway.protocol.close_codes import Close
from gateway.protocol.items import Counts
from gateway.protocol.wire import Message
from gateway.store import log, preferences
from gateway.store.entries import restore_counts

logger = structlog.get_logger()

EXPIRY_NOTICE_SECONDS = 60
"""How long before its token expires a client is warned."""


class ClientConnection(LogCursor):
    """Serves one client, from `begin` until `leave`. `on_close` records why the gateway closed it."""

    __slots__ = (
        "_attached",
        "_commands",
        "_expiry_told",
        "_idle",
        "_last_read",
        "_on_close",
        "_preferences",
        "_resume_point",
        "_seen",
        "head",
        "session",
        "user",
    )

    def __init__(
        self,
        socket: Socket,
        user: User,
        resume_point: ResumePoint,
        parts: Parts,
        on_close: Callable[[str, User, int, str], None],
    ) -> None:
        self.outgoing = Outgoing(socket)
        self.user = user
        self._resume_point = resume_point
        self._parts = parts
        self._on_close = on_close
        self.session = user.session
        self._cursor = 0
        self.head = 0
        self.counts = self._last_read = Counts(0, 0, 0, 0)
        self._seen = self._preferences = 0
        self._live = False
        self._idle = False
        self._attached = False
        self.closed = False
        self._expiry_told = False
        self._commands = Commands(parts, self.outgoing.sent_at)

    # --- what the hub calls ---------------------------------------------------------------------------------

    @property
    def position(self) -> tuple[int, int, int]:
        """The highest `seq`, the seen mark and the version of the preferences that this connection knows."""
        latest = self._latest_counts()
        return self.head, latest.seen, latest.preferences

    def wake(self, seq: int) -> None:
        """Send what a commit added to the log, up to `seq`, or let a task do it if that takes waiting."""
        self.head = max(self.head, seq)
        if self._idle and not self._push():
            self._idle = False
            self.spawn(self._deliver())

    def _push(self) -> bool:
        """Write the new entries at once, and return whether nothing is left for a task to do.

        Nearly all clients keep up, and a task costs more than the write. The rest takes a task: entries that
        are not in memory, a client that lags or has gone, the seen mark, the preferences.
        """
        if self._cursor < self.head:  # A wake before may have sent everything.
            entries = self._parts.recent.after(self.user.id, self._cursor, self.head)
            if entries is None or not self._write_all(entries):
                return False
        latest = self._latest_counts()
        return (
            self._cursor >= self.head
            and latest.seen <= self._seen
            and latest.preferences <= self._preferences
        )

    def count_frame(self) -> None:
        """Count a frame that carries no command against the command limit, and close the socket beyond it."""
        if not self._commands.may_send(self.user.id):
            self.close(Close.TOO_MANY_COMMANDS, "too_many_commands")

    def tick(self) -> None:
        """Check the deadlines: the send timeout, the token's expiry, the next heartbeat, the ping."""
        if self.outgoing.waits_longer(self._parts.settings.send_timeout):
            self.close(Close.TOO_SLOW, "too_slow")
        elif self._parts.clock() >= self.user.expires_at:
            self.close(Close.UNAUTHORIZED, "token_expired")
        else:
            self.outgoing.socket.check_ping()
            if self._idle and (self._due_heartbeat() or self._due_expiry_notice()):
                self._tell()

    def _tell(self) -> None:
        """Write the message that is due, or let a task do it if the client lags."""
        if self.outgoing.keeps_up and (message := self._due()) is not None:
            self.outgoing.write((message,))
        else:
            self._idle = False
            self.spawn(self._deliver())

    def close(self, code: Close, reason: str) -> None:
        """Close the socket."""
        if not self.closed:
            self.leave()
            self.outgoing.socket.close_at_once(code, reason)
            self._on_close(self.outgoing.socket.address, self.user, code, reason)

    # --- what the transport calls ---------------------------------------------------------------------------

    def begin(self) -> None:
        """Attach to the hub, and begin delivery. Close the client if there is no room for it."""
        try:
            self._parts.hub.attach(self.user.id, self)
        except GatewayError as error:
            self.close(error.close_code, error.code)
            return
        self._attached = True
        if self._parts.tokens.is_ended(self.session):
            self.close(Close.UNAUTHORIZED, "token_revoked")
        else:
            self.spawn(self._begin())

    def receive(self, message: str | bytes) -> bool:
        """Execute a command, or do so in a task, and then return True (`Commands.receive`)."""
        return self._commands.receive(self, message)

    def leave(self) -> None:
        """Detach from the hub: the client has disconnected, or was closed."""
        self.closed = True
        if self._attached:
            self._attached = False
            self._parts.hub.detach(self.user.id, self)

    # --- what commands call ---------------------------------------------------------------------------------

    def renew(self, user: User) -> None:
        """Continue with the user of a new token. Raises `Disconnected` if the client was closed meanwhile."""
        if self.closed:
            raise Disconnected
        self.user = user
        self._parts.hub.move(self, user.session)
        self._expiry_told = False

    async def has_left(self) -> bool:
        """Whether the client has disconnected, or was closed: the rest of its command is then not begun."""
        return self.closed

    def spawn(self, steps: Coroutine[Any, Any, None]) -> None:
        """Take steps in a task. Close the client if they fail."""
        self.outgoing.socket.spawn(self._guard(steps))

    async def _guard(self, steps: Coroutine[Any, Any, None]) -> None:
        try:
            await steps
        except Disconnected:
            self.leave()
        except GatewayError as error:
            self.close(error.close_code, error.code)
        except Exception:
            logger.exception("a client's loop failed")
            self.close(Close.INTERNAL_ERROR, "internal_error")

    # --- the steps ------------------------------------------------------------------------------------------

    async def _deliver(self) -> None:
        """Send each entry after the cursor and each message that is due, until nothing is left."""
        while not self.closed:
            if self._cursor < self.head:
                await self._advance()
            elif (message := self._due()) is not None:
                await self.outgoing.send(message)
            elif (version := self._latest_counts().preferences) > self._preferences:
                await self._tell_preferences(version)
            else:
                # Nothing runs between the last look at the head and this, so no commit is missed.
                self._idle = True
                return

    def _due(self) -> Message | None:
        """Return the next message for a client that has all entries, and count it as sent."""
        if not self._live:
            self._live = True
            if (latest := self._latest_counts()).seq == self._cursor:
                # The seen mark may have moved since the last entry was recorded.
                self.counts, self._seen = latest, latest.seen
            return messages.live(self.counts)
        if (counts := self._latest_counts()).seen > self._seen:
            self._seen = counts.seen
            self.counts = self.counts._replace(unseen=counts.unseen, seen=counts.seen)
            return messages.seen(counts)
        if self._due_expiry_notice():
            self._expiry_told = True
            return messages.token_expiring(self.user.expires_at)
        if self._due_heartbeat():
            return messages.heartbeat(self.counts)
        return None

    async def _tell_preferences(self, version: int) -> None:
        """Send the preferences, which have changed to this version or to a later one."""
        found = await self._parts.database.lookup(preferences.find, self.user.id)
        if found is None:
            self.close(Close.UNAUTHORIZED, "token_revoked")
            return
        self._preferences = max(version, found.version)
        await self.outgoing.send(messages.preferences(found.document))

    async def _begin(self) -> None:
        """Replay the log up to its head, then deliver.

        The connection is already attached to the hub, so every commit from here on raises its head.
        """
        start, database = self._resume_point, self._parts.database
        del self._resume_point  # An open socket needs none.
        # Reading many items takes too long for a lookup on the event loop. A reader thread does it.
        read = database.read if start.since is None and not start.latest else database.lookup
        resumption = await read(resume, self.user.id, start)
        if resumption is None:
            self.close(Close.UNAUTHORIZED, "token_revoked")
            return
        epoch, counts, cursor, *newest = resumption
        del resumption  # It would hold the entries until all of them are sent.
        self.counts = self._last_read = counts
        self._seen, self._preferences = counts.seen, counts.preferences
        self.head = max(self.head, counts.seq)
        heartbeat = self._parts.settings.heartbeat
        await self.outgoing.send(
            messages.hello(self.user.sub, epoch, counts, heartbeat, self.user.expires_at)
        )
        if cursor is None:
            await self._reset(epoch, counts)
        else:
            self._cursor = cursor
            if start.applied:
                self._parts.writer.delivered(self.user.id, cursor)
            if cursor < counts.seq:
                self._parts.metrics.replayed()
        await send_newest(self.outgoing, self._parts.database, self.user.id, counts, newest)
        await self._deliver()

    async def _advance(self) -> None:
        """Send the entries after the cursor: from the recent entries if cached, else from the log.

        They are sent until the client lags behind. The rest is then dropped, and read again once the client
        has caught up, so that only the transport holds anything for a client that doesn't read.
        """
        if not self.outgoing.keeps_up:
            await self.outgoing.keep_up()
        entries = self._parts.recent.after(self.user.id, self._cursor, self.head)
        if entries is not None:
            if self._write_all(entries):
                # Others first, if there is more: a commit may wake hundreds of connections with much to send.
                await asyncio.sleep(0)
            else:
                await self._send_all(entries)
            return
        # The log overrules all wakes so far: a restored database may lack its last commits. Wakes that arrive
        # from here on raise the head again.
        self.head = self._cursor
        page = await self._parts.database.read(log.read_after, self.user.id, self._cursor)
        if page is None:
            self.close(Close.UNAUTHORIZED, "token_revoked")
            return
        self.head = max(self.head, page.counts.seq)
        self._last_read = page.counts
        if not log.resumable(page.counts, self._cursor):
            await self._reset(page.epoch, page.counts)
            return
        if self._live and not page.more:
            restore_counts(page.entries)
        if await self._send_all(page.entries) and not page.more:
            self._cursor = max(self._cursor, page.counts.seq)

    def _latest_counts(self) -> Counts:
        """Return the latest known counts: those of the last commit or of the last read of the log."""
        committed, read = self._parts.recent.counts(self.user.id), self._last_read
        if committed is None:
            return read
        if committed.seq > read.seq:
            return committed
        return max(read, committed, key=Counts.order)

    async def _reset(self, epoch: str, counts: Counts) -> None:
        """Tell the client to reload its inbox, and continue from the head of the log."""
        self._live = False
        self._cursor = counts.seq
        self.counts = counts
        self.head = max(self.head, counts.seq)
        self._parts.metrics.reset()
        await self.outgoing.send(messages.reset(epoch, counts))

    def _due_heartbeat(self) -> bool:
        return self._live and self.outgoing.is_silent_for(self._parts.settings.heartbeat)

    def _due_expiry_notice(self) -> bool:
        return not self._expiry_told and self.user.expires_at - self._parts.clock() <= EXPIRY_NOTICE_SECONDS
