"""The WebSocket: who opens it, and where it starts, is decided before `accept`."""

from functools import partial
from typing import Annotated, NamedTuple

import structlog
from fastapi import APIRouter, Depends, WebSocket
from fastapi.routing import APIWebSocketRoute
from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection
from starlette.routing import websocket_session

from gateway.api.dependencies import client_address, parts_of, socket_user
from gateway.api.trail import record_close
from gateway.beginning import Start
from gateway.connection import Connection
from gateway.errors import GatewayError, Invalid, UpgradeRequired
from gateway.protocol import MAX_SEQ, SUBPROTOCOL, Close
from gateway.tokens import User
from gateway.websocket import GatewayWebSocket, socket_of

logger = structlog.get_logger()
router = APIRouter()

MAX_EPOCH = 64


class Opening(NamedTuple):
    """A socket that may be opened: whose it is, and where it starts."""

    user: User
    start: Start


async def _opening(connection: HTTPConnection) -> Opening:
    """Authorise a client, and read where it wants to start.

    Raises what `socket_user` raises, and `Invalid`.
    """
    user = await socket_user(connection)
    return Opening(user, _start(connection.query_params))


def _start(query: QueryParams) -> Start:
    since, epoch = query.get("since"), query.get("epoch")
    if epoch is not None and len(epoch) > MAX_EPOCH:
        raise Invalid.field("epoch", f"at most {MAX_EPOCH} characters")
    if since is None:
        return Start()
    if since == "latest":
        return Start(latest=True)
    if not (since.isascii() and since.isdecimal()):
        raise Invalid.field("since", "a number, 0 or more, or 'latest'")
    # A number too long to be one of a log is beyond its end, like any other that is.
    return Start(int(since) if len(since) < len(str(MAX_SEQ)) else MAX_SEQ, epoch)


async def open_socket(websocket: WebSocket, opening: Annotated[Opening, Depends(_opening)]) -> None:
    """Accept a client that is authorised, anybody else never gets here, and hand its socket over.

    No database connection is held while it is open.
    """
    parts = parts_of(websocket)
    user, start = opening
    socket = socket_of(websocket.scope)
    socket.accept(offered_subprotocol(websocket))
    connection = Connection(
        socket,
        user,
        start,
        settings=parts.settings,
        database=parts.database,
        tail=parts.tail,
        hub=parts.hub,
        writer=parts.writer,
        tokens=parts.tokens,
    )
    told = partial(record_close, client_address(websocket), user)
    socket.hand_over(partial(_serve, connection, socket), told)


class SocketRoute(APIWebSocketRoute):
    """Gives `open_socket` its dependency by hand.

    FastAPI would solve the same from the signature, for a tenth of what a whole handshake costs
    (docs/decisions/0007-the-hot-routes-are-solved-by-hand.md).
    """

    def __init__(self) -> None:
        super().__init__("/v1/ws", open_socket)

        async def handle(websocket: WebSocket) -> None:
            await open_socket(websocket, await _opening(websocket))

        self.app = websocket_session(handle)


router.routes.append(SocketRoute())


async def _serve(connection: Connection, socket: GatewayWebSocket) -> None:
    try:
        await connection.run()
    except GatewayError as error:
        socket.close_at_once(error.close_code, error.code)
    except Exception:
        logger.exception("a socket failed")
        socket.close_at_once(Close.INTERNAL_ERROR, "internal_error")


@router.get("/v1/ws", include_in_schema=False)
async def refuse_request() -> None:
    """Say what is missing to a request that is no WebSocket handshake (RFC 9110, section 15.5.22)."""
    raise UpgradeRequired


def offered_subprotocol(websocket: WebSocket) -> str | None:
    """Return the subprotocol to select: ours where it was offered; a token is never echoed."""
    return SUBPROTOCOL if SUBPROTOCOL in websocket.scope.get("subprotocols", ()) else None
