"""The commands of a client: their rate limit, and the effect of each."""

import time
from typing import Protocol

from gateway.auth.limits.token_buckets import Bucket, Buckets
from gateway.auth.principals import User, inbox_user
from gateway.auth.tokens import Tokens
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
from gateway.protocol.commands import BadCommand, Command, CommandType, decode_command
from gateway.protocol.items import Counts
from gateway.protocol.wire import Message
from gateway.store.changes import Delivered, ItemUpdate, ReadUpTo, Seen
from gateway.store.transaction import Change
from gateway.store.writer import Writer

COMMAND_BURST_SECONDS = 4
"""Maximum burst: a client may send as many commands at once as its rate allows in this time."""


class Source(Protocol):
    """The transport that commands arrive on."""

    async def receive_text(self) -> str | None:
        """Return the next text message, or None for a binary one. Raises `Disconnected`."""


class Client(Protocol):
    """The connection that commands arrive on. `head` is the highest `seq` of the log that it knows."""

    user: User
    closed: bool
    head: int
    counts: Counts

    @property
    def socket(self) -> Source:
        """The transport that commands arrive on."""

    async def send(self, message: Message) -> None:
        """Send a message. Raises `Disconnected`."""

    def renew(self, user: User) -> None:
        """Continue with the user of a new token."""

    def leave(self) -> None:
        """Record that the client has disconnected."""

    def close(self, code: Close, reason: str) -> None:
        """Close the socket."""


class Commands:
    """Executes the commands of one client. Changes come back to the client through its log.

    Two rate limits apply: the client's own, and one that all sockets of its user share (`users`). The client
    holds its `Commands`, and not the other way round, so that the two form no reference cycle.
    """

    __slots__ = ("_acknowledged", "_bucket", "_tokens", "_users", "_writer", "unacknowledged")

    def __init__(self, rate: float, users: Buckets, writer: Writer, tokens: Tokens, now: float) -> None:
        self._bucket = Bucket(rate, COMMAND_BURST_SECONDS, now)
        self._users = users
        self._writer = writer
        self._tokens = tokens
        self._acknowledged = 0
        self.unacknowledged = 0
        """The number of messages sent to the client, less those that it has acknowledged."""

    def may_send(self, user_id: int) -> bool:
        """Count a command, and return whether the client and its user are within their rate limits."""
        return self._bucket.take(time.monotonic()) and self._users.allows(user_id)

    async def listen(self, client: Client) -> None:
        """Read and execute the client's commands until the connection closes."""
        socket = client.socket
        try:
            while not client.closed:
                text = await socket.receive_text()
                if text is None:
                    client.close(Close.UNSUPPORTED_DATA, "binary_frame")
                elif self.may_send(client.user.id):
                    await self._answer(client, text)
                else:
                    client.close(Close.TOO_MANY_COMMANDS, "too_many_commands")
        except Disconnected:
            client.leave()

    async def _answer(self, client: Client, text: str) -> None:
        ref = None
        try:
            command = decode_command(text)
            ref = command.ref
            await self._carry_out(client, command)
        except RateLimited:
            client.close(Close.TOO_MANY_COMMANDS, "too_many_commands")
        except BadCommand as error:
            await client.send(messages.error(error.code, error.detail, error.ref))
        except GatewayError as error:
            await client.send(messages.error(error.code, error.detail, ref))
        else:
            if ref is not None:
                await client.send(messages.ok(ref))

    async def _carry_out(self, client: Client, command: Command) -> None:
        if command.type is CommandType.ACK:
            await self._acknowledge(client, command)
        elif command.type is CommandType.AUTH:
            await self._authenticate(client, command.token or "")
        elif command.type is not CommandType.PING:
            await self._writer.change(_change(client.user.id, command))
        elif command.ref is None:
            # `ok` needs a `ref`. Without one, a heartbeat shows that the socket works.
            await client.send(messages.heartbeat(client.counts))

    async def _acknowledge(self, client: Client, command: Command) -> None:
        seq, user_id = command.seq or 0, client.user.id
        if seq > client.head:
            raise BadCommand("invalid_field", "seq: not beyond the end of the log.", command.ref)
        if command.ref is None:
            if seq > self._acknowledged and self.unacknowledged:
                # Acknowledging every message is correct behaviour, so it doesn't count against the limits.
                self.unacknowledged -= 1
                self._bucket.give_back()
                self._users.charge(user_id, -1)
                self._acknowledged = seq
            self._writer.delivered(user_id, seq)
        else:
            await self._writer.change(Delivered(user_id, seq))

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


def _change(user_id: int, command: Command) -> Change:
    """Return the change that a command makes to the inbox."""
    if command.type is CommandType.SEEN:
        return Seen(user_id, command.seq or 0)
    if command.type is CommandType.READ and command.seq is not None:
        return ReadUpTo(user_id, command.seq)
    if command.type is CommandType.ARCHIVE:
        return ItemUpdate(user_id, command.ids, archived=True)
    if command.type is CommandType.DELETE:
        return ItemUpdate(user_id, command.ids, deleted=True)
    return ItemUpdate(user_id, command.ids, read=command.type is CommandType.READ)
