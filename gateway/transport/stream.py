"""Streams: server-sent events as the response to an HTTP request (HTML, section 9.2).

Like a WebSocket, an accepted stream is handed over to its connection, which frees the objects that only the
request needed. The body of the response ends with the connection. A client can't send commands on a stream:
the bytes that it sends are dropped.
"""

import asyncio
import random
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from websockets.frames import CloseCode

from gateway.protocol import messages
from gateway.protocol.close_codes import Close
from gateway.protocol.wire import MAX_FRAME, Message
from gateway.transport.connections import CONNECTIONS, Place
from gateway.transport.inbound import Client
from gateway.transport.socket import CLOSED, LINGER_SECONDS
from gateway.transport.socket_buffers import cut_off
from gateway.transport.unsent import UnsentProtocol
from gateway.transport.writable import Writable

RETRY_MS = (1000, 5000)
"""How long a browser waits before it reconnects: for each, a random time between these, in ms."""


class GatewayStream(UnsentProtocol):
    """The protocol that `GatewayHttp` hands a connection over to, after the head of the response.

    `state` is uvicorn's, through which its server closes the connection. `app_state` is the state that the
    lifespan yielded. `place` is the connection's place in `Connections`; this protocol releases it when the
    connection ends.
    """

    packed = False
    """Whether the client takes MessagePack: never, because an event is text."""

    def __init__(
        self, transport: asyncio.Transport, state: Any, app_state: dict[str, Any], place: Place | None
    ) -> None:
        self.transport = transport
        self.app_state = app_state
        self._connections = app_state[CONNECTIONS]
        self._place = place
        self._state = state
        self._count_end: Callable[..., None] = app_state[CLOSED]
        self._epoch = ""
        self._received = 0
        self._code: int | None = None
        self._ended = False
        self._client: Client | None = None
        self._count: Callable[[int], None] | None = None
        self.writable = Writable()
        self._linger: asyncio.TimerHandle | None = None
        state.connections.add(self)

    def hand_over(
        self,
        client: Client,
        address: str,
        *,
        patience: float,
        count: Callable[[int], None],
    ) -> None:
        """Begin the stream, and serve the client, which has this address.

        The kernel ends the connection if the client hasn't taken any of the sent bytes for `patience`
        seconds. A stream has no ping, because a client couldn't answer it. `count` is called with 1 now, and
        with -1 when the connection has ended.
        """
        self.address = address
        self._client = client
        self._count = count
        count(1)
        plain = self.transport.get_extra_info("socket")
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(patience * 1000))
        self.transport.write(b"retry: %d\n\n" % random.randint(*RETRY_MS))  # noqa: S311 - not a secret
        client.begin()

    # --- what the connection calls --------------------------------------------------------------------------

    def spawn(self, steps: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in a task of the server, which it waits for when it stops."""
        task = asyncio.ensure_future(steps)
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def check_ping(self) -> None:
        """Do nothing: a stream has no ping."""

    def resume_reading(self) -> None:
        """Do nothing: a stream has no commands."""

    def write_messages(self, messages: Sequence[Message]) -> bool:
        """Write messages as events unless the client lags or has gone. Return whether they were written."""
        if self._ended or not self.writable.is_set() or self.transport.is_closing():
            return False
        for message in messages:
            if message.epoch is not None:
                self._epoch = message.epoch
        # One write for all: a write costs several times as much as the rest of a message.
        self.transport.write(b"".join([message.event(self._epoch) for message in messages]))
        return True

    def close_at_once(self, code: int, reason: str) -> None:
        """Send a close message after the buffered bytes, and abort if the client doesn't read it in time."""
        if self._ended or self.transport.is_closing():
            return
        self._code = code
        self.transport.write(messages.close(code, reason).event(self._epoch))
        self._end()
        self.transport.close()
        self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, cut_off, self.transport)

    def _end(self) -> None:
        self._ended = True
        # Wake waiting senders, which then raise `Disconnected`.
        self.writable.set()
        if self._client is not None:
            self._client.leave()

    # --- what the event loop and uvicorn call ---------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Drop the bytes that the client sends, and close the stream if there are too many of them."""
        self._received += len(data)
        if self._received > MAX_FRAME:
            self.close_at_once(Close.TOO_BIG, "payload_too_large")

    def connection_lost(self, exc: Exception | None) -> None:
        """End the stream, and release its place: the connection is gone."""
        super().connection_lost(exc)
        self._state.connections.discard(self)
        if self._place is not None:
            self._connections.leave(self._place)
        if self._linger is not None:
            self._linger.cancel()
        self._end()
        # A client can't send a close code.
        code = CloseCode.NO_STATUS_RCVD if self._code is None else self._code
        self._count_end(code, by_client=self._code is None)
        if self._count is not None:
            self._count(-1)
        self._client = None

    def shutdown(self) -> None:
        """Close the stream, because the server is stopping."""
        self.close_at_once(Close.RESTART, "restart")
