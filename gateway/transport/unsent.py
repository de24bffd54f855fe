"""Unsent bytes: what transports hold for clients that lag, over all sockets and streams of the process.

A transport takes messages until it holds 16 KiB, and then pauses its connection. Each of these transports may
be small, but one service may mint tokens for any number of users with many sockets each. So the bytes of all
paused transports have a limit, and so have those of each network. A client that keeps up costs nothing here.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from gateway.auth.limits.network_bytes import NetworkBytes
from gateway.errors import Disconnected
from gateway.protocol.close_codes import Close
from gateway.protocol.wire import Message
from gateway.transport.socket_buffers import cut_off
from gateway.transport.writable import Writable

UNSENT = "gateway.unsent"
"""Key of the `NetworkBytes` of all paused transports, in the lifespan's state."""

HIGH_WATER_BYTES = 16 * 1024
"""Bytes that a transport holds before it pauses its connection: a socket, a stream, or HTTP.

Unread responses pause the client's next request. Up to this size, a lagging client's bytes aren't counted.
"""

MAX_UNSENT_BYTES = 64 * 1024 * 1024
"""Maximum bytes of all paused transports; one network may hold as many as are left for the rest.

A client that lags without room for its bytes is too slow at once.
"""

MAX_LINGERING_BYTES = 48 * 1024 * 1024
"""Maximum bytes of all paused transports at which a client that is closed may still read its close."""


class UnsentProtocol(asyncio.Protocol):
    """The part of a socket or a stream that sends, and counts its unsent bytes while its client lags."""

    app_state: dict[str, Any]
    transport: asyncio.Transport

    address = ""
    """The address of the client, from which its networks follow."""

    writable: Writable

    _unsent: tuple[str, int] | None = None

    def write_messages(self, messages: Sequence[Message]) -> bool:
        """Write messages unless the client lags or has gone. Return whether they were written."""
        raise NotImplementedError

    async def send_message(self, message: Message) -> None:
        """Write a message, waiting while the client doesn't read. Raises `Disconnected`."""
        if not self.writable.is_set():
            await self.writable.wait()
        if not self.write_messages((message,)):
            raise Disconnected

    def close_at_once(self, code: int, reason: str) -> None:
        """Close without waiting for a client that doesn't read."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        """Block senders, and count the unsent bytes. Close a client without room for them."""
        super().pause_writing()
        self.writable.clear()
        self._unsent = self.address, self.transport.get_write_buffer_size()
        if self.app_state[UNSENT].add(*self._unsent) > MAX_UNSENT_BYTES:
            # Later, because this is the middle of a write.
            asyncio.get_running_loop().call_soon(self._close_lagging)

    def resume_writing(self) -> None:
        """Release the bytes, and unblock senders: the client has read."""
        self._release_unsent()
        super().resume_writing()
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the bytes: the connection is gone."""
        self._release_unsent()
        super().connection_lost(exc)

    def _release_unsent(self) -> None:
        if self._unsent is not None:
            address, size = self._unsent
            self._unsent = None
            self.app_state[UNSENT].add(address, -size)

    def _close_lagging(self) -> None:
        if self._unsent is None:
            return
        self.close_at_once(Close.TOO_SLOW, "too_slow")
        unsent: NetworkBytes = self.app_state[UNSENT]
        if unsent.total > MAX_LINGERING_BYTES:
            cut_off(self.transport)
