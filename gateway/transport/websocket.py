"""uvicorn's WebSocket protocol, for the handshake: the application accepts a client, or refuses it.

- The request arrives parsed (`http`), and isn't parsed again.
- Bytes that arrive before the handshake is answered wait until it is.
- A refusal doesn't repeat the client's bytes, which may contain a token (`quiet_protocol`).
- An accepted connection becomes a `GatewaySocket`. The call stack of the framework and the request's headers
  are freed, and messages are sent without passing through the framework.
"""

from typing import Any

from starlette.types import Scope
from uvicorn import Config
from uvicorn.protocols.utils import ClientDisconnected, get_client_addr
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.http11 import Request

from gateway.observability.console_log import request_id
from gateway.observability.tracebacks import drop_tracebacks
from gateway.protocol.wire import PACKED_SUBPROTOCOL
from gateway.transport.connections import CONNECTIONS, Place
from gateway.transport.fast_path import FAILURE
from gateway.transport.inbound import MAX_UNCOUNTED_BYTES, Client
from gateway.transport.quiet_protocol import QuietProtocol
from gateway.transport.socket import GatewaySocket
from gateway.transport.turnstile import TURNSTILE

_EXTENSION = "gateway.websocket"

_NOTHING: Any = None
"""Replaces what an answered handshake no longer needs."""


class GatewayWebSocket(WebSocketsSansIOProtocol):
    """The protocol that `GatewayHttp` hands a connection over to, by passing the request to `begin`.

    `place` is the connection's place in `Connections`; this protocol releases it, or passes it on to the open
    socket. `head_bytes` is the counted size of the handshake (`held_bytes`), which is released with the
    handshake.
    """

    place: Place | None = None

    head_bytes = 0

    _early = b""
    _ending = False
    _socket: GatewaySocket | None = None

    def __init__(self, config: Config, server: ServerState, app_state: dict[str, Any], *args: Any) -> None:
        super().__init__(config, server, app_state, *args)
        self._server = server
        QuietProtocol.adopt(self.conn)

    # --- what the event loop and uvicorn call ---------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Keep bytes that arrive before the handshake is answered, and abort if there are too many."""
        self._early += data
        if len(self._early) > MAX_UNCOUNTED_BYTES:
            self.transport.abort()

    def eof_received(self) -> None:
        """Close the connection: a WebSocket client that closes its sending side has left."""
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection's place: the client has gone before it was accepted, or was refused."""
        if self.place is not None:
            self.app_state[CONNECTIONS].leave(self.place)
        super().connection_lost(exc)
        self.conn.parser.close()

    def shutdown(self) -> None:
        """Close with 1012 once the handshake is answered, or at once after a refusal.

        uvicorn would answer a handshake with a 500.
        """
        self._ending = True
        if self.close_sent:
            self.transport.close()

    # --- the handshake --------------------------------------------------------------------------------------

    def begin(self, request: Request, failure: Exception | None) -> None:
        """Begin the handshake, and add this object to the scope for the application.

        `failure` is the error that answers a handshake that the fast path has refused.
        """
        self.handle_connect(request)
        scope = getattr(self, "scope", None)
        # The scope holds a copy of the request.
        self.request = _NOTHING
        if (error := self.conn.handshake_exc) is not None:
            # The frames hold the connection.
            drop_tracebacks(error)
        if scope is None:
            self._release_head()
        else:
            scope["extensions"][_EXTENSION] = self
            if failure is not None:
                scope[FAILURE] = failure

    async def run_asgi(self) -> None:
        """Run the application, which answers the handshake, and free what only the handshake needed."""
        try:
            await self.config.loaded_app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except Exception:
            self.logger.exception("Exception in ASGI application\n")
            self.send_500_response()
        finally:
            if self._socket is None:
                self.transport.close()
            self._forget_handshake()

    def accept(self, subprotocol: str | None) -> GatewaySocket | None:
        """Complete the handshake, and return the open socket, or None if the client has gone.

        The application's `websocket.accept` does the same. To call this instead bypasses the middleware.
        """
        self.handshake_complete = True
        if self.disconnected or self.transport.is_closing():
            return None
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
        self.connections.discard(self)
        place, self.place = self.place, None
        pings = self.config.ws_ping_interval or 0.0, self.config.ws_ping_timeout or 0.0
        self._socket = GatewaySocket(
            self.transport, self._server, self.app_state, place, client=self.client, pings=pings
        )
        if subprotocol == PACKED_SUBPROTOCOL:
            self._socket.packed = True
        return self._socket

    async def send(self, message: Any) -> None:
        """Send an ASGI message: an accepted client is closed without waiting until it reads."""
        if message["type"] == "websocket.accept":
            self.accept(message.get("subprotocol"))
        elif not self.handshake_complete:
            await super().send(message)
        elif self._socket is not None and message["type"] == "websocket.close":
            self._socket.close_at_once(message.get("code", 1000), message.get("reason") or "")
            if self._early:
                # These bytes don't contain the answer to the close, and later bytes may begin inside a frame.
                self._socket.stop_listening()

    def hand_over(self, client: Client, address: str) -> None:
        """Let the accepted socket serve this client. `address` is that of the client."""
        socket, early = self._socket, self._early
        if socket is not None:
            socket.hand_over(client, address, early)
            if self._ending:
                socket.shutdown()

    def _forget_handshake(self) -> None:
        """Free the objects that only the handshake needed, including the token.

        The scope and this object refer to each other.
        """
        scope: Any = self.scope
        scope.clear()
        self.response = self.app = _NOTHING
        self._early = b""
        self._release_head()

    def _release_head(self) -> None:
        if self.head_bytes:
            self.app_state[TURNSTILE].hold(self.client[0] if self.client else "", -self.head_bytes)
            self.head_bytes = 0


def handshake_of(scope: Scope) -> GatewayWebSocket:
    """Return the handshake of this scope. Raises KeyError if another server runs the application."""
    socket: GatewayWebSocket = scope["extensions"][_EXTENSION]
    return socket
