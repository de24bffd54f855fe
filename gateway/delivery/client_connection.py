"""The connection: the loop that serves one client, with a cursor over its user's log.

Replay and live delivery are the same loop: read the entries after the cursor, send them, advance the cursor,
wait for the next wake. A wake takes these steps itself for a client that keeps up. Nothing is lost because
the steps run in this order; docs/architecture.md explains each. The module doesn't depend on FastAPI.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from gateway.auth.limits.token_buckets import Buckets
from gateway.auth.principals import User
from gateway.auth.tokens import Tokens
from gateway.database.database import Database
from gateway.delivery.commands import Commands, Source
from gateway.delivery.hub import Hub
from gateway.delivery.recent_entries import RecentEntries
from gateway.delivery.resume_point import ResumePoint, created_seqs, read_later, resume
from gateway.errors import Disconnected, GatewayError
from gateway.observability.metrics import Metrics
from gateway.protocol import messages
from gateway.protocol.close_codes import Close
from gateway.protocol.items import Counts
from gateway.protocol.wire import Message
from gateway.settings import Settings
from gateway.store import log
from gateway.store.entries import Entry, restore_counts
from gateway.store.writer import Writer

logger = structlog.get_logger()

EXPIRY_NOTICE_SECONDS = 60
"""How long before its token expires a client is warned."""


class Socket(Source, Protocol):
    """The transport of a connection."""

    writable: asyncio.Event
    """Set while the client keeps up, and once the transport has closed."""

    def write_messages(self, messages: Sequence[Message]) -> bool:
        """Write messages at once unless the client lags or has gone. Return whether they were written."""

    async def send_message(self, message: Message) -> None:
        """Send a message, waiting while the client doesn't read. Raises `Disconnected`."""

    def close_at_once(self, code: int, reason: str) -> None:
        """Close without waiting for a client that doesn't read."""


class ClientConnection:
    """Serves one client until either side closes."""

    __slots__ = (
        "_clock",
        "_commands",
        "_cursor",
        "_database",
        "_expiry_told",
        "_hub",
        "_idle",
        "_last_read",
        "_live",
        "_metrics",
        "_recent",
        "_resume_point",
        "_seen",
        "_sending_since",
        "_sent_at",
        "_settings",
        "_tokens",
        "_woken",
        "_writer",
        "closed",
        "counts",
        "head",
        "session",
        "socket",
        "user",
    )

    def __init__(
        self,
        socket: Socket,
        user: User,
        resume_point: ResumePoint,
        *,
        settings: Settings,
        database: Database,
        recent: RecentEntries,
        hub: Hub,
        writer: Writer,
        tokens: Tokens,
        metrics: Metrics,
        commands: Buckets,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.socket = socket
        self.user = user
        self._resume_point = resume_point
        self._settings = settings
        self._database = database
        self._recent = recent
        self._hub = hub
        self._writer = writer
        self._tokens = tokens
        self._metrics = metrics
        self._clock = clock
        self.session = user.session
        self._cursor = 0
        self.head = 0
        self.counts = self._last_read = Counts(0, 0, 0, 0)
        self._seen = 0
        self._live = False
        self._idle = False
        self.closed = False
        self._expiry_told = False
        self._woken = asyncio.Event()
        self._sent_at = time.monotonic()
        self._sending_since: float | None = None
        rate = settings.commands_per_second
        self._commands = Commands(rate, commands, writer, tokens, self._sent_at)

    # --- what the hub calls ---------------------------------------------------------------------------------

    @property
    def position(self) -> tuple[int, int]:
        """The highest `seq` and the seen mark of the log that this connection knows."""
        return self.head, self._latest_counts().seen

    def wake(self, seq: int) -> None:
        """Send what a commit added to the log, up to `seq`, or let the loop do it if that takes waiting."""
        self.head = max(self.head, seq)
        if not (self._idle and self._push()):
            self._woken.set()

    def _push(self) -> bool:
        """Write the new entries at once, and return whether nothing is left for the loop to do.

        Nearly all clients keep up, and waking a task costs more than the write. The rest is left to the loop:
        entries that are not in memory, a client that lags or has gone, the seen mark.
        """
        if self._woken.is_set():
            return False  # The loop goes on first, in order.
        entries = self._recent.after(self.user.id, self._cursor)
        if entries is None or not self._write_all(entries):
            return False
        return self._cursor >= self.head and self._latest_counts().seen <= self._seen

    def _write_all(self, entries: Sequence[Entry]) -> bool:
        """Write entries without a gap before them at once, unless the client lags or has gone."""
        if not self.socket.write_messages([entry.message for entry in entries]):
            return False
        self._count_sent(len(entries))
        self.counts = entries[-1].counts
        self._cursor = self.counts.seq
        if self._live and (since := entries[0].committed_at):
            self._metrics.delivered(self._clock() - since)
        return True

    def count_frame(self) -> None:
        """Count a frame that carries no command against the command limit, and close the socket beyond it."""
        if not self._commands.may_send(self.user.id):
            self.close(Close.TOO_MANY_COMMANDS, "too_many_commands")

    def tick(self) -> None:
        """Check the deadlines: the send timeout, the token's expiry, the next heartbeat."""
        now = time.monotonic()
        if self._sending_since is not None and now - self._sending_since > self._settings.send_timeout:
            self.close(Close.TOO_SLOW, "too_slow")
        elif self._clock() >= self.user.expires_at:
            self.close(Close.UNAUTHORIZED, "token_expired")
        elif self._due_heartbeat(now) or self._due_expiry_notice():
            self._woken.set()

    def close(self, code: Close, reason: str) -> None:
        """Close the socket."""
        self.leave()
        self.socket.close_at_once(code, reason)

    # --- what commands call ---------------------------------------------------------------------------------

    def renew(self, user: User) -> None:
        """Continue with the user of a new token."""
        self.user = user
        self._hub.move(self, user.session)
        self._expiry_told = False

    def leave(self) -> None:
        """Record that the client has disconnected."""
        self.closed = True
        self._woken.set()

    # --- the loop -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the client. Raises what `Hub.attach` raises, before anything is sent."""
        with self._hub.attach(self.user.id, self):
            async with asyncio.TaskGroup() as tasks:
                listener = tasks.create_task(self._commands.listen(self))
                try:
                    await self._deliver()
                except Disconnected:
                    self.closed = True
                except GatewayError as error:
                    self.close(error.close_code, error.code)
                finally:
                    listener.cancel()

    async def _deliver(self) -> None:
        """Replay the log up to its head, then send each new entry.

        The connection is already attached to the hub, so every commit from here on wakes it.
        """
        if self._tokens.is_ended(self.session):
            self.close(Close.UNAUTHORIZED, "token_revoked")
            return
        await self._begin()
        while not self.closed:
            # Cleared before the log is read, so that a commit after the read wakes the loop again.
            self._woken.clear()
            if self._cursor < self.head:
                await self._advance()
            elif not self._live:
                self._live = True
                await self.send(messages.live(self.counts))
            elif (counts := self._latest_counts()).seen > self._seen:
                self._seen = counts.seen
                self.counts = self.counts._replace(unseen=counts.unseen, seen=counts.seen)
                await self.send(messages.seen(counts))
            elif self._due_expiry_notice():
                self._expiry_told = True
                await self.send(messages.token_expiring(self.user.expires_at))
            elif self._due_heartbeat(time.monotonic()):
                await self.send(messages.heartbeat(self.counts))
            else:
                self._idle = True
                await self._woken.wait()
                self._idle = False

    async def _begin(self) -> None:
        newest = self._resume_point.since is None and not self._resume_point.latest
        # Reading many items takes too long for a lookup on the event loop. A reader thread does it.
        read = self._database.read if newest else self._database.lookup
        resumption = await read(resume, self.user.id, self._resume_point)
        if resumption is None:
            self.close(Close.UNAUTHORIZED, "token_revoked")
            return
        epoch, counts, cursor, entries, later = resumption
        del resumption  # It would hold the entries until all of them are sent.
        self.counts = self._last_read = counts
        self._seen = counts.seen
        self.head = max(self.head, counts.seq)
        heartbeat = self._settings.heartbeat
        await self.send(messages.hello(self.user.sub, epoch, counts, heartbeat, self.user.expires_at))
        if cursor is None:
            await self._reset(epoch, counts)
        else:
            self._cursor = cursor
            if self._resume_point.applied:
                self._writer.delivered(self.user.id, cursor)
            if cursor < counts.seq:
                self._metrics.replayed()
        later = [*await self._send_newest(entries), *later]
        while later:
            entries = ()
            await self._keep_up()
            entries = await self._database.read(read_later, self.user.id, counts, later[0])
            later = [*await self._send_newest(entries), *later[1:]]

    async def _send_newest(self, entries: Sequence[Entry]) -> list[Sequence[int]]:
        """Send newest items until the client lags. Return the numbers of the rest, for `read_later`."""
        for number, entry in enumerate(entries):
            if number and not self.socket.writable.is_set():
                return [created_seqs(entries[number:])]
            await self.send(entry.message)
        return []

    async def _advance(self) -> None:
        """Send the entries after the cursor: from the recent entries if cached, else from the log.

        They are sent until the client lags behind. The rest is then dropped, and read again once the client
        has caught up, so that only the transport holds anything for a client that doesn't read.
        """
        if not self.socket.writable.is_set():
            await self._keep_up()
        entries = self._recent.after(self.user.id, self._cursor)
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
        page = await self._database.read(log.read_after, self.user.id, self._cursor)
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
        committed = self._recent.counts(self.user.id) or self._last_read
        return max(self._last_read, committed, key=Counts.order)

    async def _send_all(self, entries: Sequence[Entry]) -> bool:
        """Send entries until the client lags behind, at least one message. Return whether all were sent."""
        began = self._cursor
        for entry in entries:
            if self._live and self._cursor + 1 < entry.counts.seq:
                await self._fill_to(entry, began)
            if self._lags(began):
                return False
            await self.send(entry.message)
            self._cursor = entry.counts.seq
            self.counts = entry.counts
        if self._live and entries and (since := entries[0].committed_at):
            self._metrics.delivered(self._clock() - since)
        return True

    def _lags(self, began: int) -> bool:
        """Whether to send no more: the client doesn't keep up, and has got something since `began`."""
        return self.closed or (not self.socket.writable.is_set() and self._cursor > began)

    async def _fill_to(self, entry: Entry, began: int) -> None:
        """Send an empty `changed` for each `seq` between the cursor and this entry.

        The items of such a `seq` have all changed again since, so the log has no entry for it. Only a slow
        client, which catches up from the log, meets these gaps. After `live` a client may rely on receiving
        every `seq`.
        """
        while self._cursor + 1 < entry.counts.seq and not self._lags(began):
            self._cursor += 1
            await self.send(messages.changed((), self._cursor, entry.counts))

    async def _reset(self, epoch: str, counts: Counts) -> None:
        """Tell the client to reload its inbox, and continue from the head of the log."""
        self._live = False
        self._cursor = counts.seq
        self.counts = counts
        self.head = max(self.head, counts.seq)
        self._metrics.reset()
        await self.send(messages.reset(epoch, counts))

    async def _keep_up(self) -> None:
        """Wait until the client has caught up with what was sent, within the deadline of a send."""
        if self._sending_since is None:
            self._sending_since = time.monotonic()
        try:
            await self.socket.writable.wait()
        finally:
            self._sending_since = None

    async def send(self, message: Message) -> None:
        """Send a message, waiting while the client doesn't read. Raises `Disconnected`."""
        self._count_sent(1)
        if self._sending_since is None:
            self._sending_since = self._sent_at
        try:
            await self.socket.send_message(message)
        finally:
            self._sending_since = None

    def _count_sent(self, number: int) -> None:
        self._sent_at = time.monotonic()
        self._commands.unacknowledged += number

    def _due_heartbeat(self, now: float) -> bool:
        return self._live and now - self._sent_at >= self._settings.heartbeat

    def _due_expiry_notice(self) -> bool:
        return not self._expiry_told and self.user.expires_at - self._clock() <= EXPIRY_NOTICE_SECONDS
