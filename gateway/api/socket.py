"""The WebSocket: who opens it, and where it starts, is decided before `accept`."""

from functools import partial
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Query, WebSocket

from gateway.api.dependencies import Parts, SocketUser, client_address
from gateway.api.trail import record_close
from gateway.connection import Connection, Start
from gateway.errors import GatewayError, Invalid, UpgradeRequired
from gateway.protocol import MAX_SEQ, SUBPROTOCOL, Close
from gateway.websocket import GatewayWebSocket, socket_of

logger = structlog.get_logger()
router = APIRouter()


async def _start(
    since: Annotated[str | None, Query()] = None, epoch: Annotated[str | None, Query(max_length=64)] = None
) -> Start:
    if since is None:
        return Start()
    if since == "latest":
        return Start(latest=True)
    if not (since.isascii() and since.isdecimal()):
        raise Invalid.field("since", "a number, 0 or more, or 'latest'")
    # A number too long to be one of a log is beyond its end, like any other that is.
    return Start(int(since) if len(since) < len(str(MAX_SEQ)) else MAX_SEQ, epoch)


@router.websocket("/v1/ws")
async def open_socket(
    websocket: WebSocket, parts: Parts, user: SocketUser, start: Annotated[Start, Depends(_start)]
) -> None:
    """Accept a client that is authorised, anybody else never gets here, and hand its socket over.

    No database connection is held while it is open.
    """
    await websocket.accept(offered_subprotocol(websocket))
    socket = socket_of(websocket.scope)
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
