"""The WebSocket route. It completes the handshake, the user and the resume point, before `accept`."""

from http import HTTPStatus
from time import perf_counter
from typing import Annotated

from fastapi import APIRouter, Depends, WebSocket
from fastapi.routing import APIWebSocketRoute
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from gateway.api.callers import client_address
from gateway.api.handshake import Handshake, begin_handshake, connect
from gateway.api.state import state_of
from gateway.errors import UpgradeRequired
from gateway.protocol.wire import SUBPROTOCOLS
from gateway.transport.headers import BEGUN_AT
from gateway.transport.websocket import handshake_of

router = APIRouter()

PATH = "/v1/ws"

ACCEPTED = int(HTTPStatus.SWITCHING_PROTOCOLS)


async def open_socket(
    websocket: WebSocket, handshake: Annotated[Handshake, Depends(begin_handshake)]
) -> None:
    """Accept an authorised client, and hand its socket over to the connection that serves it.

    `begin_handshake` has refused all others. An open socket holds no database connection.
    """
    state, answer = state_of(websocket), handshake_of(websocket.scope)
    socket = answer.accept(offered_subprotocol(websocket))
    state.metrics.answered(PATH, "GET", ACCEPTED, perf_counter() - websocket.scope[BEGUN_AT])
    if socket is not None:
        answer.hand_over(connect(state, socket, handshake, PATH), client_address(websocket))


class SocketRoute(APIWebSocketRoute):
    """A route that passes `open_socket` its handshake by hand.

    FastAPI would solve the same dependency from the signature, at a tenth of the cost of a whole handshake
    (docs/decisions/0007-the-hot-routes-are-solved-by-hand.md).
    """

    def __init__(self) -> None:
        super().__init__(PATH, open_socket)

        # `websocket_session` would handle errors once more than the middleware does.
        self.app = _handle


async def _handle(scope: Scope, receive: Receive, send: Send) -> None:
    websocket = WebSocket(scope, receive, send)
    await open_socket(websocket, await begin_handshake(websocket))


router.routes.append(SocketRoute())


@router.get(PATH, include_in_schema=False)
async def refuse_request() -> None:
    """Raise `UpgradeRequired` for a request that is not a WebSocket handshake (RFC 9110, section 15.5.22)."""
    raise UpgradeRequired


def offered_subprotocol(connection: HTTPConnection) -> str | None:
    """Return the subprotocol to select: the first offered one that the gateway knows. Never a token."""
    for offered in connection.scope.get("subprotocols", ()):
        if offered in SUBPROTOCOLS:
            return str(offered)
    return None
