"""uvicorn's WebSocket protocol with what ASGI has no words for.

- A close that does not wait for a client that has stopped reading: uvicorn's own waits until the client has
  read what is buffered, and a stalled client never does.
- A ping that is not answered closes with 4008, which tells the client to resume, not with 1011.
- A closing handshake that is not answered is cut off, so that a stalled client holds no memory.
- The request comes parsed (`http.py`), and is not parsed again.
- A refusal does not repeat what was sent, which may be a token. No frame and no header is ever logged.
- Text that is not UTF-8 closes with 1007 and no more: uvicorn would log a traceback for each.
- Once a socket is accepted it is handed over: the frames of the framework that brought it, and the headers of
  its request, are not held for as long as it lives, and a push does not go through them.
"""

import logging
from collections.abc import Awaitable, Callable, Generator
from http import HTTPStatus
from typing import Any, cast

from starlette.types import Scope
from uvicorn import Config
from uvicorn.protocols.utils import get_client_addr
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

from gateway.errors import Disconnected
from gateway.headers import bare_problem
from gateway.logs import request_id
from gateway.protocol import Close
from gateway.wire import Message

LINGER = 5.0
"""How long a client has to answer a close frame, in seconds."""

MAX_EARLY = 64 * 1024
"""How much a client may send before its handshake is answered, in bytes."""

_EXTENSION = "gateway.websocket"

CLOSED = "gateway.closed"
"""Where the state of the lifespan holds what is told of each end: `closed(code, by_client=…)`."""


class _Server(ServerProtocol):
    """The protocol itself, which says nothing of what its client has sent, and expects frames only."""

    def parse(self) -> Generator[None]:
        """Parse frames: the request never comes this way."""
        return super(ServerProtocol, self).parse()

    def reject(self, status: StatusLike, text: str) -> Response:  # noqa: ARG002 - it is overridden
        """Refuse the handshake with a problem. The text of `websockets` quotes the header that is wrong."""
        refused = HTTPStatus(status)
        head, body = bare_problem(refused, "This is not a WebSocket handshake (RFC 6455, 4.2.1).")
        headers = Headers((name.decode(), value.decode()) for name, value in head)
        # What this end speaks, in case that is what was wrong (RFC 6455, section 4.4).
        headers["Sec-WebSocket-Version"] = "13"
        return Response(refused.value, refused.phrase, headers, body)


class GatewayWebSocket(WebSocketsSansIOProtocol):
    """What `GatewayHttp` hands a connection over to: give `handle_connect` the request."""

    _early = b""
    _serve: Callable[[], Awaitable[None]] | None = None
    _told: Callable[[int, str], None] | None = None
    _ending = False

    def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        # uvicorn's would write each header and each frame into uvicorn's log, at the level debug.
        self.conn.parser.close()
        silent = logging.getLogger("websockets.server")
        self.conn = _Server(max_size=config.ws_max_size, logger=silent)

    def data_received(self, data: bytes) -> None:
        """Take what has come; what comes before the handshake is answered waits for that."""
        if self.handshake_complete:
            super().data_received(data)
            return
        self._early += data
        if len(self._early) > MAX_EARLY:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End it, and hold nothing any more.

        What is left holds itself in circles otherwise, and to find those is an eighth of what a socket costs.
        """
        super().connection_lost(exc)
        self._count_end()
        self.conn.parser.close()
        self._told = None

    def _count_end(self) -> None:
        """Say with which code it ended, and who began that, unless the handshake was refused."""
        sent, received = self.conn.close_sent, self.conn.close_rcvd
        if sent is not None:
            code = received.code if received and self.conn.close_rcvd_then_sent else sent.code
            self.app_state[CLOSED](code, by_client=bool(self.conn.close_rcvd_then_sent))
        elif self.conn.state is not State.CONNECTING:
            self.app_state[CLOSED](CloseCode.ABNORMAL_CLOSURE, by_client=True)

    def handle_connect(self, event: Request) -> None:
        """Begin the handshake, and let the application have this object."""
        super().handle_connect(event)
        scope = getattr(self, "scope", None)
        if scope is not None:
            extensions = cast("dict[str, Any]", scope["extensions"])
            extensions[_EXTENSION] = self

    async def run_asgi(self) -> None:
        """Serve it: by the application, and then by whoever that has handed it over to."""
        self.app = self._answer
        await super().run_asgi()
        self.app = self._serve = cast("Any", None)

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
            early, self._early = self._early, b""
            self.data_received(early)

    def hand_over(self, serve: Callable[[], Awaitable[None]], told: Callable[[int, str], None]) -> None:
        """Have `serve` run when the application has returned; the socket ends when it does.

        `told` is called with the code and the reason when this end closes it.
        """
        self._serve = serve
        self._told = told

    def _forget_handshake(self) -> None:
        """Drop what only the handshake needed: among it the token."""
        cast("dict[str, Any]", self.scope).clear()
        self.request = self.response = cast("Any", None)

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

    def send_receive_event_to_app(self) -> None:
        """Hand on a message, unless it claims to be text and is none (RFC 6455, section 8.1)."""
        if self.curr_msg_data_type == "text" and not self.close_sent and not _is_utf8(b"".join(self.frames)):
            self.frames = []
            self.close_at_once(Close.INVALID_DATA, "invalid_utf8")
        else:
            super().send_receive_event_to_app()

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
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(LINGER, self.transport.abort)
        if self._told is not None:
            self._told(code, reason)

    def shutdown(self) -> None:
        """Close with 1012 and wait for the answer, also when the handshake is still under way.

        uvicorn would end the connection at once: what the client has sent meanwhile is then answered with a
        reset, which takes the close frame with it, and a handshake with 500. Only one that was refused, or
        closed for another reason, ends so.
        """
        self._ending = True
        told = self.conn.close_sent
        if self.close_sent and (told is None or told.code != Close.RESTART):
            super().shutdown()
        elif self.handshake_complete:
            self.close_at_once(Close.RESTART, "restart")

    def keepalive_timeout(self) -> None:
        """End a connection whose peer has not answered a ping."""
        self.pong_timer = None
        self.pending_ping_payload = None
        self.close_at_once(Close.TOO_SLOW, "ping_timeout")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def socket_of(scope: Scope) -> GatewayWebSocket:
    """Return the socket of this scope. Raises KeyError under another server."""
    return cast("GatewayWebSocket", scope["extensions"][_EXTENSION])
