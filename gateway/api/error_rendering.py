"""The renderer of all errors: a problem (RFC 9457) for HTTP, a close frame for a WebSocket."""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast

import structlog
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketState

from gateway.api import oauth, paths, socket
from gateway.api.audit import record_refusal
from gateway.api.callers import client_address
from gateway.api.not_found_page import page_for_browser
from gateway.api.oauth import OAuthError
from gateway.api.state import state_of
from gateway.api.validation import as_invalid
from gateway.errors import Draining, GatewayError, Invalid, OriginNotAllowed, RateLimited
from gateway.observability.console_log import request_id
from gateway.protocol.problems import MEDIA_TYPE, NO_TYPE, problem, problem_code
from gateway.transport.headers import API_POLICY

logger = structlog.get_logger()

REFUSAL_DELAY_SECONDS = 1.0
"""How long a 429 is delayed for an address that has had many, in seconds."""

_ROUTING_ERRORS = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})
"""Statuses that routing returns before a credential is verified."""

ERRORS_PATH = "/errors"
"""The path of the page of errors, which `web/errors.py` serves."""


async def render_error(connection: Request | WebSocket, error: Exception) -> Response | None:
    """Return a problem (RFC 9457). Accept and then close a WebSocket, so that its client sees the reason.

    A close before the accept would reach clients as HTTP 403, and browsers as 1006. Only a forbidden origin,
    an exceeded rate limit, an invalid request and a draining process refuse a WebSocket before the upgrade.
    """
    known = error if isinstance(error, GatewayError) else GatewayError()
    if known is not error:
        logger.error("a request failed", path=connection.url.path, exc_info=error)
        # This response bypasses `BrowserHeaders`, which adds the id. Reports of such errors need it most.
        known.headers["X-Request-ID"] = request_id() or ""
    record_refusal(connection, known)
    state_of(connection).metrics.refused(*_counted(known))
    if isinstance(known, RateLimited):
        await _delay_refusal(connection, known)
    if isinstance(connection, Request):
        as_oauth = oauth.serves(connection) or isinstance(known, OAuthError)
        return oauth.refusal_of(known) if as_oauth else _refusal(connection, known)
    if isinstance(known, OriginNotAllowed | RateLimited | Invalid | Draining):
        await connection.send_denial_response(_refusal(connection, known))
    elif connection.application_state is WebSocketState.CONNECTING:
        await connection.accept(socket.offered_subprotocol(connection))
        await connection.close(known.close_code, known.code)
    return None


async def _delay_refusal(connection: HTTPConnection, error: RateLimited) -> None:
    """Delay the 429 of an address that had many: its client can send no further request (`pipelining`)."""
    if not state_of(connection).rate_limits.refused.allows(client_address(connection)):
        # Release the memory of the request, above all its body, before the delay.
        error.__traceback__ = error.__context__ = None
        await asyncio.sleep(REFUSAL_DELAY_SECONDS)


def _counted(error: GatewayError) -> tuple[int, str]:
    """Return the status and code for the metrics. Neither comes from the request."""
    if isinstance(error, OAuthError):
        return error.http_status, error.error
    return error.status, error.code


def _refusal(connection: HTTPConnection, error: GatewayError) -> Response:
    kind = _type(connection, error.code)
    body = problem(kind, error.status, error.code, error.title, error.detail, error.errors)
    return _answer(body, error.headers)


def _type(connection: HTTPConnection, code: str) -> str:
    """Return the URL of a code in the page of errors, absolute if `GATEWAY_PUBLIC_URL` is set."""
    base = state_of(connection).settings.public_url or connection.scope.get("root_path", "")
    return f"{base}{ERRORS_PATH}#{code}"


def _answer(body: dict[str, Any], headers: Mapping[str, str]) -> Response:
    # The handler of unexpected errors runs outside `BrowserHeaders`, so this adds the policy.
    return JSONResponse(body, body["status"], API_POLICY | dict(headers), MEDIA_TYPE)


async def render_invalid(connection: Request | WebSocket, error: Exception) -> Response | None:
    """Return the error that names each invalid field and the rule it breaks."""
    found = cast("RequestValidationError | WebSocketRequestValidationError", error).errors()
    return await render_error(connection, as_invalid(found))


async def render_http_error(connection: Request | WebSocket, error: Exception) -> Response | None:
    """Return the error for a request that the framework refuses, such as an unknown path or method."""
    refused = cast("HTTPException", error)
    if refused.status_code in _ROUTING_ERRORS:
        try:
            state_of(connection).rate_limits.anonymous.take(client_address(connection))
        except RateLimited as limited:
            return await render_error(connection, limited)
    title = HTTPStatus(refused.status_code).phrase
    code = problem_code(refused.status_code)
    headers, detail, kind = dict(refused.headers or {}), str(refused.detail), _type(connection, code)
    if refused.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = methods = ", ".join(paths.allowed(connection))
        detail = paths.explain_method(connection, methods)
    elif refused.status_code == HTTPStatus.NOT_FOUND:
        detail = paths.explain(connection)
    else:
        kind = NO_TYPE
    state_of(connection).metrics.refused(refused.status_code, code)
    if refused.status_code == HTTPStatus.NOT_FOUND and isinstance(connection, Request):
        page = page_for_browser(connection)
        if page is not None:
            return page
    if oauth.serves(connection):
        return oauth.refusal(refused.status_code, f"{title}.", headers)
    return _answer(problem(kind, refused.status_code, code, title, detail), headers)


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request for an unknown path. Refuse a WebSocket before the upgrade, with the same body."""
    if scope["type"] == "websocket":
        refusal = await render_http_error(WebSocket(scope, receive, send), HTTPException(404))
        if refusal is not None:
            await WebSocket(scope, receive, send).send_denial_response(refusal)
    else:
        raise HTTPException(404)


async def render_nothing(_connection: Request | WebSocket, _error: Exception) -> Response:
    """Return a response that is never read, without logging: the client left before its body was complete."""
    return Response(status_code=400)


def render_errors(app: FastAPI) -> None:
    """Install these error handlers in an application.

    They also handle WebSockets, which Starlette's types do not allow for.
    """
    handlers: dict[type[Exception], Any] = {
        GatewayError: render_error,
        RequestValidationError: render_invalid,
        WebSocketRequestValidationError: render_invalid,
        HTTPException: render_http_error,
        ClientDisconnect: render_nothing,
        Exception: render_error,
    }
    for kind, render in handlers.items():
        app.add_exception_handler(kind, render)
    app.router.default = not_found
