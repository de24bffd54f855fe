"""The fast path of `GET /v1/ws`: an ordinary handshake, without the application.

The rules are those of the route (`handshake`). A refusal is rendered by the application.
"""

from time import perf_counter

from fastapi import FastAPI
from starlette.requests import HTTPConnection
from starlette.types import Scope

from gateway.api.callers import client_address
from gateway.api.handshake import Handshake, begin_handshake, connect
from gateway.api.socket import ACCEPTED, PATH, offered_subprotocol
from gateway.api.state import Gateway, state_of
from gateway.database import turns
from gateway.delivery.client_connection import ClientConnection
from gateway.observability.console_log import bind_request_id
from gateway.transport.headers import BEGUN_AT
from gateway.transport.socket import GatewaySocket


class FastSocket:
    """The fast path of handshakes, for a gateway without spans: a span is made by the application."""

    path = PATH.encode()

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def authorize(self, scope: Scope) -> "_Authorized":
        """Authorize a client by the request. Raises what `begin_handshake` raises."""
        scope[BEGUN_AT] = perf_counter()
        scope["app"] = self._app
        scope["subprotocols"] = [
            offered.strip()
            for name, value in scope["headers"]
            if name == b"sec-websocket-protocol"
            for offered in value.decode("latin-1").split(",")
        ]
        request_id = bind_request_id(scope["headers"])
        connection = HTTPConnection(scope)
        address = client_address(connection)
        turns.caller.set(address)
        handshake = await begin_handshake(connection)
        return _Authorized(
            state_of(connection),
            handshake,
            address=address,
            subprotocol=offered_subprotocol(connection),
            request_id=request_id,
            begun_at=scope[BEGUN_AT],
        )


class _Authorized:
    """A client that may open a socket."""

    def __init__(
        self,
        state: Gateway,
        handshake: Handshake,
        *,
        address: str,
        subprotocol: str | None,
        request_id: bytes,
        begun_at: float,
    ) -> None:
        self._state = state
        self._handshake = handshake
        self.address = address
        self.subprotocol = subprotocol
        self.request_id = request_id
        self._begun_at = begun_at

    def connect(self, socket: GatewaySocket) -> ClientConnection:
        """Return the connection that serves the client, and count the response."""
        self._state.metrics.answered(PATH, "GET", ACCEPTED, perf_counter() - self._begun_at)
        return connect(self._state, socket, self._handshake, PATH)
