"""uvicorn's WebSocket protocol, with features that ASGI doesn't offer.

- A close doesn't wait for a client that has stopped reading. uvicorn's own close waits until the client has
  read the buffered bytes, which a stalled client never does.
- An unanswered ping closes the socket with 4008, which tells the client to resume, instead of 1011.
- An unanswered closing handshake is aborted after a timeout, so that a stalled client doesn't hold memory.
  After a close, a client may send a few KiB more; then reading stops.
- The request arrives parsed (`http`), and isn't parsed again.
- A refusal doesn't repeat the client's bytes, which may contain a token (`quiet_protocol`).
- An accepted socket is handed over to its connection. The call stack of the framework and the request's
  headers are freed, and messages are sent without passing through the framework.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.types import Scope
from uvicorn import Config
from uvicorn.protocols.utils import get_client_addr
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request
from websockets.protocol import State

from gateway.errors import Disconnected
from gateway.observability.console_log import request_id
from gateway.protocol.close_codes import Close
from gateway.protocol.wire import Message
from gateway.transport.connections import CONNECTIONS, Place
from gateway.transport.frames import FramesProtocol
from gateway.transport.quiet_protocol import QuietProtocol
from gateway.transport.turnstile import TURNSTILE
from gateway.transport.unsent import UnsentProtocol

LINGER_SECONDS = 2.0
"""How long a client may take to answer a close frame, in seconds."""

_EXTENSION = "gateway.websocket"

_NOTHING: Any = None
"""Replaces what an accepted socket no longer needs."""

CLOSED = "gateway.closed"
"""Key, in the lifespan's state, of the callback for each ended connection: `closed(code, by_client=…)`."""


class GatewayWebSocket(UnsentProtocol, FramesProtocol):
    """The protocol that `GatewayHttp` hands a connection over to, by passing the request to `handle_connect`.

    `place` is the connection's place in `Connections`; this protocol releases it when the connection ends.
    `head_bytes` is the counted size of the handshake (`held_bytes`), which is released with the handshake.
    """

    place: Place | None = None

    head_bytes = 0

    _serve: Callable[[], Awaitable[None]] | None = None
    _on_close: Callable[[int, str], None] | None = None
    _ending = False

    def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        QuietProtocol.adopt(self.conn)

    # --- the end --------------------------------------------------------------------------------------------

    def handle_close(self, event: Frame) -> None:
        """Answer the client's close frame, or handle its answer to ours."""
        if self.close_sent:
            # `close_timer` keeps running: an answer doesn't prove that the client reads.
            self.transport.close()
        else:
            super().handle_close(event)
            self._abort_unless_read()

    def eof_received(self) -> None:
        """Close the connection: a WebSocket client that closes its sending side has left."""
        self.transport.close()
        self._abort_unless_read()

    def _abort_unless_read(self) -> None:
        """Abort a closing transport after a timeout, if its client doesn't read the buffered bytes."""
        if self.close_timer is None and self.transport.get_write_buffer_size():
            self.close_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection's place and memory, and count the end.

        Break reference cycles: collecting them costs an eighth of a socket's CPU.
        """
        if self.place is not None:
            self.app_state[CONNECTIONS].leave(self.place)
        super().connection_lost(exc)
        self._count_end()
        self.count_message(0)
        self.conn.parser.close()
        self._on_close = self._count_frame = None

    def _count_end(self) -> None:
        """Report the close code, and which side closed first, unless the handshake was refused."""
        sent, received = self.conn.close_sent, self.conn.close_rcvd
        if sent is not None:
            code = received.code if received and self.conn.close_rcvd_then_sent else sent.code
            self.app_state[CLOSED](code, by_client=bool(self.conn.close_rcvd_then_sent))
        elif self.conn.state is not State.CONNECTING:
            self.app_state[CLOSED](CloseCode.ABNORMAL_CLOSURE, by_client=True)

    # --- the handshake --------------------------------------------------------------------------------------

    def handle_connect(self, event: Request) -> None:
        """Begin the handshake, and add this object to the scope for the application."""
        super().handle_connect(event)
        scope = getattr(self, "scope", None)
        # The scope holds a copy of the request.
        self.request = _NOTHING
        if scope is None:
            self._release_head()
        else:
            scope["extensions"][_EXTENSION] = self

    async def run_asgi(self) -> None:
        """Run the application, and then the connection that it handed the socket over to."""
        self.app = self._answer
        await super().run_asgi()
        self.app = self._serve = _NOTHING
        # The scope and this object refer to each other.
        self._forget_handshake()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        await self.config.loaded_app(scope, receive, send)
        if self.initial_response is not None:
            # uvicorn treats a refusal before the upgrade as a failure, and would log it.
            self.handshake_complete = True
        if self._serve is not None:
            self._forget_handshake()
            if self._ending:
                self.close_at_once(Close.RESTART, "restart")
            else:
                await self._serve()

    def accept(self, subprotocol: str | None) -> None:
        """Complete the handshake, as ASGI's `websocket.accept` does, but bypass the middleware."""
        self.queue.get_nowait()  # `websocket.connect`
        self.handshake_complete = True
        if self.disconnected or self.transport.is_closing():
            return
        if self.config.access_log:
            self.logger.info(
                '%s - "WebSocket %s" [accepted]', get_client_addr(self.scope), self.scope["path"]
            )
        # None of these values comes from the client unchecked.
        add = self.response.headers.set_insecure
        for name, value in self.default_headers:
            if name != b"date":  # `websockets` has added it.
                add(name.decode("latin-1"), value.decode("latin-1"))
        if (bound := request_id()) is not None:
            add("X-Request-ID", bound)
        if subprotocol is not None:
            add("Sec-WebSocket-Protocol", subprotocol)
        self.conn.send_response(self.response)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.start_keepalive()
        if self._early:
            self._feed_early()

    async def send(self, message: Any) -> None:
        """Send an ASGI message. A close doesn't wait for the client: it is that of `close_at_once`."""
        if message["type"] == "websocket.close" and self.handshake_complete:
            self.close_at_once(message.get("code", 1000), message.get("reason") or "")
            if self.close_sent and (self._early or self._unfed):
                # These bytes don't contain the answer to the close, and later bytes may begin inside a frame.
                self._early = b""
                self._stop_listening()
        else:
            await super().send(message)

    def hand_over(
        self,
        serve: Callable[[], Awaitable[None]],
        on_close: Callable[[int, str], None],
        count_frame: Callable[[], None],
        address: str,
    ) -> None:
        """Run `serve` when the application has returned. The socket ends when `serve` returns.

        `on_close` is called with the code and the reason when the gateway closes the socket. `count_frame` is
        called for each frame that isn't a whole message, and closes the socket if there are too many.
        `address` is that of the client.
        """
        self._serve = serve
        self.address = address
        self._on_close = on_close
        self._count_frame = count_frame

    def _forget_handshake(self) -> None:
        """Free the objects that only the handshake needed, including the token."""
        scope: Any = self.scope
        scope.clear()
        self.response = _NOTHING
        self._release_head()

    def _release_head(self) -> None:
        if self.head_bytes:
            self.app_state[TURNSTILE].hold(self.client[0] if self.client else "", -self.head_bytes)
            self.head_bytes = 0

    # --- what the connection calls --------------------------------------------------------------------------

    def write_messages(self, messages: Sequence[Message]) -> bool:
        """Write messages as frames unless the client lags or has gone. Return whether they were written."""
        if self.disconnected or self.close_sent or not self.writable.is_set() or self.transport.is_closing():
            return False
        # One write for all: a write costs several times as much as the rest of a message.
        self.transport.write(b"".join([message.frame for message in messages]))
        return True

    async def send_message(self, message: Message) -> None:
        """Write a message as a frame, waiting while the client doesn't read. Raises `Disconnected`."""
        if not self.writable.is_set():
            await self.writable.wait()
        if not self.write_messages((message,)):
            raise Disconnected

    async def receive_text(self) -> str | None:
        """Return the next text message, or None for a binary one. Raises `Disconnected`."""
        message: dict[str, Any] = await self.receive()
        if message["type"] == "websocket.disconnect":
            raise Disconnected
        return message.get("text")

    def close_at_once(self, code: int, reason: str) -> None:
        """Send a close frame after the buffered bytes, and abort if the client doesn't answer in time."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        self.stop_keepalive()
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        # Wake waiting senders, which then raise `Disconnected`.
        self.disconnected = True
        self.writable.set()
        self._count_frame, self._uncounted = None, 0
        self.resume_reading()
        self.close_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        if self._on_close is not None:
            self._on_close(code, reason)

    # --- what the server calls ------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Close with 1012 and wait for the answer, even during the handshake.

        uvicorn would end the connection at once. The kernel would then answer the client's bytes in transit
        with a reset, which discards the close frame, and a handshake would get a 500. Only a connection that
        was refused, or closed for another reason, ends at once.
        """
        self._ending = True
        sent = self.conn.close_sent
        if self.close_sent and (sent is None or sent.code != Close.RESTART):
            super().shutdown()
        elif self.handshake_complete:
            self.close_at_once(Close.RESTART, "restart")

    def keepalive_timeout(self) -> None:
        """Close a connection whose client hasn't answered a ping."""
        self.pong_timer = None
        self.pending_ping_payload = None
        self.close_at_once(Close.TOO_SLOW, "ping_timeout")


def socket_of(scope: Scope) -> GatewayWebSocket:
    """Return the socket of this scope. Raises KeyError if another server runs the application."""
    socket: GatewayWebSocket = scope["extensions"][_EXTENSION]
    return socket
