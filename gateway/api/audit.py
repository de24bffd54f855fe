"""Audit records of the routes: refused requests, and clients closed because of their token."""

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

_RECORDED_ERRORS = (Unauthorized, InsufficientScope, OriginNotAllowed)


async def _source(connection: HTTPConnection) -> str:
    return client_address(connection)


Source = Annotated[str, Depends(_source)]
"""The address of the client, for the audit log."""


def record_refusal(connection: HTTPConnection, error: GatewayError) -> None:
    """Record a refused token, scope or origin. Other errors are not recorded.

    The record holds the path template of the route, never the path that was sent.
    """
    if not isinstance(error, _RECORDED_ERRORS):
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
    """Record that a client was closed because its token, or the new one it sent, is not valid."""
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
    """Return which source may have carried the token, by precedence. Never returns the token."""
    if "authorization" in connection.headers:
        return "header"
    if parameter(connection, "ticket") is not None:
        return "ticket"
    if connection.scope.get("subprotocols"):
        return "subprotocol"
    return "query" if parameter(connection, "token") is not None else None
