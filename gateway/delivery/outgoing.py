"""The outgoing messages of a connection, and how long its client takes to read them."""

import time
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from gateway.protocol.wire import Message


class Writable(Protocol):
    """A flag: set while the client keeps up, and once the transport has closed."""

    def is_set(self) -> bool:
        """Whether the client keeps up."""

    async def wait(self) -> None:
        """Wait until the flag is set."""


class Socket(Protocol):
    """The transport of a connection. `address` is that of the client; `packed`: it speaks MessagePack."""

    address: str
    packed: bool

    @property
    def writable(self) -> Writable:
        """Whether the client keeps up."""

    def spawn(self, steps: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in a task."""

    def write_messages(self, messages: Sequence[Message]) -> bool:
        """Write messages at once unless the client lags or has gone. Return whether they were written."""

    async def send_message(self, message: Message) -> None:
        """Send a message, waiting while the client doesn't read. Raises `Disconnected`."""

    def resume_reading(self) -> None:
        """Pass on the client's next command: the last one is executed."""

    def check_ping(self) -> None:
        """Send a ping if it is time, or close the client if it hasn't answered the last one in time."""

    def close_at_once(self, code: int, reason: str) -> None:
        """Close without waiting for a client that doesn't read, and let the connection leave."""


class Outgoing:
    """Sends messages through a socket, and keeps the time of the last one and of one that waits."""

    __slots__ = ("_waiting_since", "sent_at", "socket", "unacknowledged")

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.sent_at = time.monotonic()
        self._waiting_since: float | None = None
        self.unacknowledged = 0
        """The number of messages sent to the client, less those that it has acknowledged."""

    @property
    def keeps_up(self) -> bool:
        """Whether the client reads what it is sent, or has gone."""
        return self.socket.writable.is_set()

    def write(self, messages: Sequence[Message]) -> bool:
        """Write messages at once unless the client lags or has gone. Return whether they were written."""
        if not self.socket.write_messages(messages):
            return False
        self._count(len(messages))
        return True

    async def send(self, message: Message) -> None:
        """Send a message, waiting while the client doesn't read. Raises `Disconnected`."""
        self._count(1)
        if self._waiting_since is None:
            self._waiting_since = self.sent_at
        try:
            await self.socket.send_message(message)
        finally:
            self._waiting_since = None

    async def keep_up(self) -> None:
        """Wait until the client has caught up with what was sent, within the deadline of a send."""
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        try:
            await self.socket.writable.wait()
        finally:
            self._waiting_since = None

    def waits_longer(self, seconds: float) -> bool:
        """Whether a message has waited for longer than this."""
        return self._waiting_since is not None and time.monotonic() - self._waiting_since > seconds

    def is_silent_for(self, seconds: float) -> bool:
        """Whether the client was sent nothing for this long."""
        return time.monotonic() - self.sent_at >= seconds

    def _count(self, number: int) -> None:
        self.sent_at = time.monotonic()
        self.unacknowledged += number
