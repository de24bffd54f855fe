"""Server-sent events on a connection that an HTTP request was answered on (HTML, section 9.2).

Like a WebSocket it is handed over once it is accepted, so what only the request needed is not held for as
long as it lives. The body of the answer ends with the connection. A client cannot say anything on it: what
it sends is dropped.
"""

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.frames import CloseCode

from gateway.errors import Disconnected
from gateway.protocol import messages
from gateway.protocol.close_codes import Close
from gateway.protocol.wire import MAX_FRAME, Message
from gateway.transport.connections import CONNECTIONS, Place
from gateway.transport.websocket import CLOSED, LINGER

RETRY = (1000, 5000)
"""How long a browser waits before it connects again by itself: for each a time between these, in ms."""


class GatewayStream(asyncio.Protocol):
    """What `GatewayHttp` hands a connection over to, behind the head of the answer.

    `state` is uvicorn's, by which its server ends it; `app_state` is what the lifespan has yielded; `place`
    is that of the connection, whose end is counted here.
    """

    def __init__(
        self, transport: asyncio.Transport, state: Any, app_state: dict[str, Any], place: Place | None
    ) -> None:
        self.transport = transport
        self._connections = app_state[CONNECTIONS]
        self._place = place
        self._state = state
        self._count_end: Callable[..., None] = app_state[CLOSED]
        self._on_close: Callable[[int, str], None] | None = None
        self._epoch = ""
        self._received = 0
        self._code: int | None = None
        self._ended = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._linger: asyncio.TimerHandle | None = None
        state.connections.add(self)

    def hand_over(
        self, serve: Callable[[], Awaitable[None]], on_close: Callable[[int, str], None], *, patience: float
    ) -> None:
        """Begin it, and have `serve` run, which closes it before it returns.

        `told` is called with the code and the reason when this end closes it. A client that has taken nothing
        of what was sent for `patience` seconds is gone: no ping finds that out, for nobody could answer it.
        """
        self._on_close = on_close
        plain = self.transport.get_extra_info("socket")
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(patience * 1000))
        self.transport.write(b"retry: %d\n\n" % random.randint(*RETRY))  # noqa: S311 - it keeps no secret
        task = asyncio.ensure_future(serve())
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    # --- what the connection calls --------------------------------------------------------------------------

    async def send_message(self, message: Message) -> None:
        """Write a message as an event, waiting while the client does not read. Raises `Disconnected`."""
        await self._writable.wait()
        if self._ended.is_set() or self.transport.is_closing():
            raise Disconnected
        if message.epoch is not None:
            self._epoch = message.epoch
        self.transport.write(message.event(self._epoch))

    async def receive_text(self) -> str | None:
        """Wait for the end, and raise `Disconnected`: there are no commands on a stream."""
        await self._ended.wait()
        raise Disconnected

    def close_at_once(self, code: int, reason: str) -> None:
        """Say why behind what is buffered, and drop the client if it does not read that in time."""
        if self._ended.is_set() or self.transport.is_closing():
            return
        self._code = code
        self.transport.write(messages.close(code, reason).event(self._epoch))
        self._end()
        self.transport.close()
        self._linger = asyncio.get_running_loop().call_later(LINGER, self.transport.abort)
        if self._on_close is not None:
            self._on_close(code, reason)

    def _end(self) -> None:
        self._ended.set()
        # Whoever waits to write learns now that there is nobody to write to.
        self._writable.set()

    # --- what the event loop and uvicorn call ---------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Drop what the client sends, a body or a further request, and who goes on sending."""
        self._received += len(data)
        if self._received > MAX_FRAME:
            self.close_at_once(Close.TOO_BIG, "payload_too_large")

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on: it has read."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - it is overridden
        """End it: the client has gone, or has been closed."""
        self._state.connections.discard(self)
        if self._place is not None:
            self._connections.leave(self._place)
        if self._linger is not None:
            self._linger.cancel()
        self._end()
        # A client has no code to leave with.
        code = CloseCode.NO_STATUS_RCVD if self._code is None else self._code
        self._count_end(code, by_client=self._code is None)
        self._on_close = None

    def shutdown(self) -> None:
        """Close it: the server is ending."""
        self.close_at_once(Close.RESTART, "restart")
