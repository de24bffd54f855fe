"""uvicorn's WebSocket protocol with what ASGI has no words for.

- A close that does not wait for a client that has stopped reading: uvicorn's own waits until the client has
  read what is buffered, and a stalled client never does.
- A ping that is not answered closes with 4008, which tells the client to resume, not with 1011.
- A closing handshake that is not answered is cut off, so that a stalled client holds no memory. After a close
  a client may send a few KiB more; then nothing more is read.
- The request comes parsed (`http`), and is not parsed again.
- A refusal does not repeat what was sent, which may be a token (`quiet_protocol`).
- Once a socket is accepted it is handed over: the frames of the framework that brought it, and the headers of
  its request, are not held for as long as it lives, and a push does not go through them.
"""

from collections.abc import Awaitable, Callable
from typing import Any, cast

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

LINGER = 2.0
"""How long a client has to answer a close frame, in seconds."""

_EXTENSION = "gateway.websocket"

CLOSED = "gateway.closed"
"""Where the state of the lifespan holds what is told of each end: `closed(code, by_client=…)`."""


class GatewayWebSocket(FramesProtocol):
    """What `GatewayHttp` hands a connection over to: give `handle_connect` the request.

    `place` is that of the connection, whose end is counted here. `head_bytes` are those of the handshake that
    are counted (`held_bytes`), until it is forgotten.
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
        """Answer a close, or take the answer to ours."""
        if self.close_sent:
            # `close_timer` goes on: an answer does not say that the client has read, too.
            self.transport.close()
        else:
            super().handle_close(event)
            self._cut_off_in_time()

    def eof_received(self) -> None:
        """End it: a client that sends no more has gone, as far as a WebSocket is concerned."""
        self.transport.close()
        self._cut_off_in_time()

    def _cut_off_in_time(self) -> None:
        """Have a transport that is closing end, though its client does not read what is buffered."""
        if self.close_timer is None and self.transport.get_write_buffer_size():
            self.close_timer = self.loop.call_later(LINGER, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """End it, and hold nothing any more.

        What is left holds itself in circles otherwise, and to find those is an eighth of what a socket costs.
        """
        if self.place is not None:
            self.app_state[CONNECTIONS].leave(self.place)
        super().connection_lost(exc)
        self._count_end()
        self.count_message(0)
        self.conn.parser.close()
        self._on_close = self._count_frame = None

    def _count_end(self) -> None:
        """Say with which code it ended, and who began that, unless the handshake was refused."""
        sent, received = self.conn.close_sent, self.conn.close_rcvd
        if sent is not None:
            code = received.code if received and self.conn.close_rcvd_then_sent else sent.code
            self.app_state[CLOSED](code, by_client=bool(self.conn.close_rcvd_then_sent))
        elif self.conn.state is not State.CONNECTING:
            self.app_state[CLOSED](CloseCode.ABNORMAL_CLOSURE, by_client=True)

    # --- the handshake --------------------------------------------------------------------------------------

    def handle_connect(self, event: Request) -> None:
        """Begin the handshake, and let the application have this object."""
        super().handle_connect(event)
        scope = getattr(self, "scope", None)
        # The scope has all of it once more.
        self.request = cast("Any", None)
        if scope is None:
            self._release_head()
        else:
            extensions = cast("dict[str, Any]", scope["extensions"])
            extensions[_EXTENSION] = self

    async def run_asgi(self) -> None:
        """Serve it: by the application, and then by whoever that has handed it over to."""
        self.app = self._answer
        await super().run_asgi()
        self.app = self._serve = cast("Any", None)
        # It holds this object, and this object it.
        self._forget_handshake()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        await self.config.loaded_app(scope, receive, send)
        if self.initial_response is not None:
            # uvicorn takes a refusal before the upgrade for a failure, and would log it as one.
            self.handshake_complete = True
        if self._serve is not None:
            self._forget_handshake()
            if self._ending:
                self.close_at_once(Close.RESTART, "restart")
            else:
                await self._serve()

    def accept(self, subprotocol: str | None) -> None:
        """Complete the handshake, as ASGI's `websocket.accept` does, and without the layers above it."""
        self.queue.get_nowait()  # which is `websocket.connect`
        self.handshake_complete = True
        if self.disconnected or self.transport.is_closing():
            return
        if self.config.access_log:
            self.logger.info(
                '%s - "WebSocket %s" [accepted]', get_client_addr(self.scope), self.scope["path"]
            )
        headers = self.response.headers
        del headers["Date"]
        for name, value in self.default_headers:
            headers[name.decode("latin-1")] = value.decode("latin-1")
        if (bound := request_id()) is not None:
            headers["X-Request-ID"] = bound
        if subprotocol is not None:
            headers["Sec-WebSocket-Protocol"] = subprotocol
        self.conn.send_response(self.response)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.start_keepalive()
        if self._early:
            self._feed_early()

    async def send(self, message: Any) -> None:
        """Do as ASGI says, but a close does not wait for the client, and has the bounds of any other."""
        if message["type"] == "websocket.close" and self.handshake_complete:
            self.close_at_once(message.get("code", 1000), message.get("reason") or "")
            if self.close_sent and (self._early or self._unfed):
                # The answer to the close is not among these, and what follows may begin within a frame.
                self._early = b""
                self._stop_listening()
        else:
            await super().send(message)

    def hand_over(
        self,
        serve: Callable[[], Awaitable[None]],
        on_close: Callable[[int, str], None],
        count_frame: Callable[[], None],
    ) -> None:
        """Have `serve` run when the application has returned; the socket ends when it does.

        `told` is called with the code and the reason when this end closes it. `count_frame` is called for
        each frame that is no whole message, and closes the socket if there are too many.
        """
        self._serve = serve
        self._on_close = on_close
        self._count_frame = count_frame

    def _forget_handshake(self) -> None:
        """Drop what only the handshake needed: among it the token."""
        cast("dict[str, Any]", self.scope).clear()
        self.response = cast("Any", None)
        self._release_head()

    def _release_head(self) -> None:
        if self.head_bytes:
            self.app_state[TURNSTILE].hold(self.client[0] if self.client else "", -self.head_bytes)
            self.head_bytes = 0

    # --- what the connection calls --------------------------------------------------------------------------

    async def send_message(self, message: Message) -> None:
        """Write a message as a frame, waiting while the client does not read. Raises `Disconnected`."""
        await self.writable.wait()
        if self.disconnected or self.close_sent or self.transport.is_closing():
            raise Disconnected
        self.transport.write(message.frame)

    async def receive_text(self) -> str | None:
        """Return the next text message, or None for a binary one. Raises `Disconnected`."""
        message = cast("dict[str, Any]", await self.receive())
        if message["type"] == "websocket.disconnect":
            raise Disconnected
        return message.get("text")

    def close_at_once(self, code: int, reason: str) -> None:
        """Send a close frame behind what is buffered, and drop the client if it does not answer in time."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        self.stop_keepalive()
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        # Whoever waits to write learns now that there is nobody to write to.
        self.disconnected = True
        self.writable.set()
        self._count_frame, self._uncounted = None, 0
        self.resume_reading()
        self.close_timer = self.loop.call_later(LINGER, self.transport.abort)
        if self._on_close is not None:
            self._on_close(code, reason)

    # --- what the server calls ------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Close with 1012 and wait for the answer, also when the handshake is still under way.

        uvicorn would end the connection at once: what the client has sent meanwhile is then answered with a
        reset, which takes the close frame with it, and a handshake with 500. Only one that was refused, or
        closed for another reason, ends so.
        """
        self._ending = True
        on_close = self.conn.close_sent
        if self.close_sent and (on_close is None or on_close.code != Close.RESTART):
            super().shutdown()
        elif self.handshake_complete:
            self.close_at_once(Close.RESTART, "restart")

    def keepalive_timeout(self) -> None:
        """End a connection whose peer has not answered a ping."""
        self.pong_timer = None
        self.pending_ping_payload = None
        self.close_at_once(Close.TOO_SLOW, "ping_timeout")


def socket_of(scope: Scope) -> GatewayWebSocket:
    """Return the socket of this scope. Raises KeyError under another server."""
    return cast("GatewayWebSocket", scope["extensions"][_EXTENSION])
