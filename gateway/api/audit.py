"""What the routes say in the audit log: where a caller is, and who was refused."""

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from gateway.api.callers import client_address
from gateway.api.query import parameter
from gateway.auth.principals import User
from gateway.errors import GatewayError, InsufficientScope, OriginNotAllowed, Unauthorized
from gateway.observability import audit
from gateway.observability.audit import Event
from gateway.protocol.close_codes import Close

_RECORDED = (Unauthorized, InsufficientScope, OriginNotAllowed)


async def _source(connection: HTTPConnection) -> str:
    return client_address(connection)


Source = Annotated[str, Depends(_source)]
"""The address of the client, for the audit log."""


def record_refusal(connection: HTTPConnection, error: GatewayError) -> None:
    """Say who may not come in, or may not do this. Of the path only what the code has of it is recorded."""
    if not isinstance(error, _RECORDED):
        return
    route = connection.scope.get("route")
    audit.record(
        Event.REFUSED,
        actor=error.actor,
        source=client_address(connection),
        code=error.code,
        status=error.status if connection.scope["type"] == "http" else int(error.close_code),
        method=connection.scope.get("method"),
        route=getattr(route, "path", None),
        carrier=_token_source(connection),
        why=error.why,
    )


def record_close(route: str, source: str, user: User, code: int, reason: str) -> None:
    """Say that a client was closed because its token does not hold any more, or a new one does not."""
    if code in {Close.UNAUTHORIZED, Close.FORBIDDEN}:
        audit.record(
            Event.REFUSED,
            actor=user.actor,
            source=source,
            code=reason,
            status=code,
            route=route,
            carrier="socket",
        )


def _token_source(connection: HTTPConnection) -> str | None:
    """Return where a token may have been, the first first; it is not said what it was."""
    if "authorization" in connection.headers:
        return "header"
    if parameter(connection, "ticket") is not None:
        return "ticket"
    if connection.scope.get("subprotocols"):
        return "subprotocol"
    return "query" if parameter(connection, "token") is not None else None
