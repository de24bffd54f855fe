"""The commands of a client: their rate limit, and the effect of each."""

import time
from collections.abc import Coroutine
from typing import Any, Protocol

from gateway.auth.limits.token_buckets import Bucket
from gateway.auth.principals import User, inbox_user
from gateway.delivery.outgoing import Outgoing, Socket
from gateway.delivery.parts import Parts
from gateway.errors import (
    Disconnected,
    GatewayError,
    InsufficientScope,
    InvalidToken,
    RateLimited,
    Unauthorized,
)
from gateway.protocol import messages
from gateway.protocol.close_codes import Close
from gateway.protocol.commands import BadCommand, Command, CommandType, decode_command, decode_packed_command
from gateway.protocol.items import Counts
from gateway.store.answers import Act
from gateway.store.changes import Delivered, ItemUpdate, ReadUpTo, Seen
from gateway.store.snoozes import Snooze
from gateway.store.transaction import Change

COMMAND_BURST_SECONDS = 4
"""Maximum burst: a client may send as many commands at once as its rate allows in this time."""


class Client(Protocol):
    """The connection that commands arrive on. `head` is the highest `seq` of the log that it knows."""

    user: User
    head: int
    counts: Counts
    outgoing: Outgoing

    def renew(self, user: User) -> None:
        """Continue with the user of a new token. Raises `Disconnected` if the client was closed."""

    def spawn(self, steps: Coroutine[Any, Any, None]) -> None:
        """Take steps in a task. Close the client if they fail."""

    async def has_left(self) -> bool:
        """Whether the client has disconnected, or was closed."""

    def close(self, code: Close, reason: str) -> None:
        """Close the socket."""


class Commands:
    """Executes the commands of one client. Changes come back to the client through its log.

    Two rate limits apply: the client's own, and one that all sockets of its user share. The client
    holds its `Commands`, and not the other way round, so that the two form no reference cycle.
    """

    __slots__ = ("_acknowledged", "_bucket", "_tokens", "_users", "_writer")

    def __init__(self, parts: Parts, now: float) -> None:
        self._bucket = Bucket(parts.settings.commands_per_second, COMMAND_BURST_SECONDS, now)
        self._users = parts.commands
        self._writer = parts.writer
        self._tokens = parts.tokens
        self._acknowledged = 0

    def may_send(self, user_id: int) -> bool:
        """Count a command, and return whether the client and its user are within their rate limits."""
        return self._bucket.take(time.monotonic()) and self._users.allows(user_id)

    def receive(self, client: Client, message: str | bytes) -> bool:
        """Execute a message of the client, or close the client if it is of the other kind, text or binary.

        Return True if that takes a task. The client must then be sent no other message here until the task
        has called `resume_reading`.
        """
        if isinstance(message, str) is client.outgoing.socket.packed:
            reason = "text_frame" if isinstance(message, str) else "binary_frame"
            client.close(Close.UNSUPPORTED_DATA, reason)
        elif not self.may_send(client.user.id):
            client.close(Close.TOO_MANY_COMMANDS, "too_many_commands")
        else:
            try:
                command = _decode(message)
                if self._execute_at_once(client, command):
                    return False
            except BadCommand as error:
                steps = client.outgoing.send(messages.error(error.code, error.detail, error.ref))
            except UnicodeDecodeError:
                # As `transport/socket` closes a client for text that isn't UTF-8.
                client.close(Close.INVALID_DATA, "invalid_utf8")
                return False
            else:
                steps = self._execute(client, command)
            client.spawn(_then_read_on(steps, client.outgoing.socket))
            return True
        return False

    def _execute_at_once(self, client: Client, command: Command) -> bool:
        """Execute a command that takes no waiting: an `ack` without `ref`, as nearly all are."""
        if command.type is not CommandType.ACK or command.ref is not None:
            return False
        seq, user_id = _acknowledged(client, command), client.user.id
        if seq > self._acknowledged and client.outgoing.unacknowledged:
            # Acknowledging every message is correct behaviour, so it doesn't count against the limits.
            client.outgoing.unacknowledged -= 1
            self._bucket.give_back()
            self._users.charge(user_id, -1)
            self._acknowledged = seq
        self._writer.delivered(user_id, seq)
        return True

    async def _execute(self, client: Client, command: Command) -> None:
        try:
            await self._carry_out(client, command)
        except RateLimited:
            client.close(Close.TOO_MANY_COMMANDS, "too_many_commands")
        except BadCommand as error:
            await client.outgoing.send(messages.error(error.code, error.detail, error.ref))
        except GatewayError as error:
            await client.outgoing.send(messages.error(error.code, error.detail, command.ref))
        else:
            if command.ref is not None:
                await client.outgoing.send(messages.ok(command.ref))

    async def _carry_out(self, client: Client, command: Command) -> None:
        if command.type is CommandType.ACK:
            await self._writer.change(Delivered(client.user.id, _acknowledged(client, command)))
        elif command.type is CommandType.AUTH:
            await self._authenticate(client, command.token or "")
        elif command.type is not CommandType.PING:
            await self._writer.change(_change(client.user.id, command), client.has_left)
        elif command.ref is None:
            # `ok` needs a `ref`. Without one, a heartbeat shows that the socket works.
            await client.outgoing.send(messages.heartbeat(client.counts))

    async def _authenticate(self, client: Client, token: str) -> None:
        """Continue with a new token. An invalid token, or one of another user, closes the socket."""
        try:
            user = inbox_user(await self._tokens.verify(token))
            if user.id != client.user.id:
                raise InvalidToken
        except (Unauthorized, InsufficientScope) as error:
            client.close(error.close_code, error.code)
            raise Disconnected from error
        client.renew(user)


def _decode(message: str | bytes) -> Command:
    return decode_command(message) if isinstance(message, str) else decode_packed_command(message)


async def _then_read_on(steps: Coroutine[Any, Any, None], socket: Socket) -> None:
    try:
        await steps
    finally:
        socket.resume_reading()


def _acknowledged(client: Client, command: Command) -> int:
    """Return the `seq` of an acknowledgement. Raises `BadCommand` if the log hasn't got so far."""
    seq = command.seq or 0
    if seq > client.head:
        raise BadCommand("invalid_field", "seq: not beyond the end of the log.", command.ref)
    return seq


def _change(user_id: int, command: Command) -> Change:
    """Return the change that a command makes to the inbox."""
    if command.type is CommandType.SEEN:
        return Seen(user_id, command.seq or 0)
    if command.type is CommandType.READ and command.seq is not None:
        return ReadUpTo(user_id, command.seq)
    if command.type is CommandType.SNOOZE:
        return Snooze(user_id, command.ids, command.until)
    if command.type is CommandType.ACT:
        return Act(user_id, command.ids[0], command.action, command.text)
    return _UPDATES[command.type]._replace(user_id=user_id, ids=command.ids)


_UPDATES = {
    CommandType.READ: ItemUpdate(0, (), read=True),
    CommandType.UNREAD: ItemUpdate(0, (), read=False),
    CommandType.ARCHIVE: ItemUpdate(0, (), archived=True),
    CommandType.DELETE: ItemUpdate(0, (), deleted=True),
}
"""The changes of the commands that only set a state, without their user and items."""
