"""The commands of a client: how many it may send, and what each of them does."""

import time
from typing import Protocol

from gateway.auth.limits.buckets import Bucket, Buckets
from gateway.auth.principals import User, inbox_user
from gateway.auth.tokens import Tokens
from gateway.errors import Disconnected, GatewayError, InsufficientScope, InvalidToken, Unauthorized
from gateway.protocol import messages
from gateway.protocol.close_codes import Close
from gateway.protocol.commands import BadCommand, Command, CommandType, decode_command
from gateway.protocol.items import Counts
from gateway.protocol.wire import Message
from gateway.store.batch import Change
from gateway.store.changes import Delivered, ItemUpdate, ReadUpTo, Seen
from gateway.store.writer import Writer

COMMAND_BURST = 4
"""How many seconds' worth of commands a client may send at once."""


class Source(Protocol):
    """What commands come from."""

    async def receive_text(self) -> str | None:
        """Return the next text message, or None for a binary one. Raises `Disconnected`."""


class Client(Protocol):
    """What commands ask of the connection they come on. `head` is the last number of the log it knows of."""

    user: User
    closed: bool
    head: int
    counts: Counts

    @property
    def socket(self) -> Source:
        """What commands come from."""

    async def send(self, message: Message) -> None:
        """Send a message. Raises `Disconnected`."""

    def renew(self, user: User) -> None:
        """Take the user of a new token."""

    def leave(self) -> None:
        """Take note that the client has gone."""

    def close(self, code: Close, reason: str) -> None:
        """End it."""


class Commands:
    """Carries out what one client says. Changes come back to the client through its log.

    The client has a rate of its own, and shares one with the other sockets of its user (`users`). It does not
    hold the client, for the client holds it.
    """

    __slots__ = ("_acknowledged", "_bucket", "_tokens", "_users", "_writer", "unacknowledged")

    def __init__(self, rate: float, users: Buckets, writer: Writer, tokens: Tokens, now: float) -> None:
        self._bucket = Bucket(rate, COMMAND_BURST, now)
        self._users = users
        self._writer = writer
        self._tokens = tokens
        self._acknowledged = 0
        self.unacknowledged = 0
        """How many messages the client was sent, less those it has acknowledged."""

    def may_send(self, user_id: int) -> bool:
        """Count a command, and return whether the client and its user keep to their rates."""
        return self._bucket.take(time.monotonic()) and self._users.allows(user_id)

    async def listen(self, client: Client) -> None:
        """Carry out what the client says, until it is closed."""
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
            # There is no `ok` without a `ref`; this says that the socket is well, too.
            await client.send(messages.heartbeat(client.counts))

    async def _acknowledge(self, client: Client, command: Command) -> None:
        seq, user_id = command.seq or 0, client.user.id
        if seq > client.head:
            raise BadCommand("invalid_field", "seq: not beyond the end of the log.", command.ref)
        if command.ref is None:
            if seq > self._acknowledged and self.unacknowledged:
                # A client that acknowledges every message does as it should: that is not counted.
                self.unacknowledged -= 1
                self._bucket.give_back()
                self._users.charge(user_id, -1)
                self._acknowledged = seq
            self._writer.delivered(user_id, seq)
        else:
            await self._writer.change(Delivered(user_id, seq))

    async def _authenticate(self, client: Client, token: str) -> None:
        """Take a new token for this socket. One that is not good, or another user's, ends the socket."""
        try:
            user = inbox_user(await self._tokens.verify(token))
            if user.id != client.user.id:
                raise InvalidToken
        except (Unauthorized, InsufficientScope) as error:
            client.close(error.close_code, error.code)
            raise Disconnected from error
        client.renew(user)


def _change(user_id: int, command: Command) -> Change:
    """Return what a command does to the inbox."""
    if command.type is CommandType.SEEN:
        return Seen(user_id, command.seq or 0)
    if command.type is CommandType.READ and command.seq is not None:
        return ReadUpTo(user_id, command.seq)
    if command.type is CommandType.ARCHIVE:
        return ItemUpdate(user_id, command.ids, archived=True)
    if command.type is CommandType.DELETE:
        return ItemUpdate(user_id, command.ids, deleted=True)
    return ItemUpdate(user_id, command.ids, read=command.type is CommandType.READ)
