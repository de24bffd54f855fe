"""Shared parts of the two OAuth endpoints: the form, the error body, and the authentication of services."""

import base64
import hmac
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar
from urllib.parse import parse_qsl, unquote_plus

from fastapi import Depends, Request
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

from gateway.api.callers import client_address
from gateway.api.json_route import JsonRoute
from gateway.api.state import Gateway, state_of
from gateway.auth import services
from gateway.auth.records import Record
from gateway.auth.tokens import digest
from gateway.errors import GatewayError
from gateway.observability import audit
from gateway.observability.audit import Event

TOKEN_PATH, REVOKE_PATH = "/v1/auth/token", "/v1/auth/revoke"

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}

FORM = "application/x-www-form-urlencoded"

MAX_FIELDS = 20
"""Maximum fields of a form. A form with more is refused before it is parsed."""

ERROR_CODES = {429: "rate_limited", 500: "server_error", 503: "temporarily_unavailable"}
"""The `error` of statuses for which RFC 6749 has no word. All others are `invalid_request`."""


class FormRoute(JsonRoute):
    """A route with a form as its body. The limit is low: tokens are short, and decoding a form is slow."""

    max_body: ClassVar[int] = 16 * 1024
    requires_token: ClassVar[bool] = False


class OAuthError(GatewayError):
    """An error of the token endpoint, which has its own body format (RFC 6749, section 5.2)."""

    status = 400

    def __init__(self, error: str, description: str, *, status: int = 400) -> None:
        headers = {"WWW-Authenticate": 'Basic realm="gateway"'} if status == 401 else {}  # noqa: PLR2004
        super().__init__(description, headers=headers)
        self.error = error
        self.http_status = status


class OAuthProblem(BaseModel):
    """An error of the OAuth endpoints (RFC 6749, section 5.2)."""

    error: str
    error_description: str


_STATUSES = {
    400: "The request is refused; `error` says why.",
    401: "The service that authenticates is unknown, or its secret is wrong.",
    413: "The form is too large.",
    429: "The caller does more than one caller may.",
    503: "The gateway cannot do this now.",
}

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": why, "model": OAuthProblem} for status, why in _STATUSES.items()
}
"""The errors of both endpoints, for the OpenAPI document."""


def serves(connection: HTTPConnection) -> bool:
    """Return whether the request is to an OAuth endpoint, where all errors have the body of RFC 6749."""
    return connection.scope["path"] in {TOKEN_PATH, REVOKE_PATH}


def refusal(status: int, detail: str, headers: Mapping[str, str], error: str | None = None) -> JSONResponse:
    """Return an error response (RFC 6749, section 5.2)."""
    body = {"error": error or ERROR_CODES.get(status, "invalid_request"), "error_description": detail}
    return JSONResponse(body, status, NO_STORE | dict(headers))


def refusal_of(error: GatewayError) -> JSONResponse:
    """Return the error response for an error of the gateway."""
    if isinstance(error, OAuthError):
        return refusal(error.http_status, error.detail, error.headers, error.error)
    return refusal(error.status, error.detail, error.headers)


def form_of(required: Collection[str], fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the OpenAPI of a form. `fields` maps the name of each field to its description."""
    properties = {name: {"type": "string", "description": why} for name, why in fields.items()}
    schema = {"type": "object", "required": list(required), "properties": properties}
    return {"requestBody": {"required": True, "content": {FORM: {"schema": schema}}}}


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form that have a value.

    Raises `RateLimited` before it reads the body. Raises `OAuthError` if the body is not a form or has a
    field twice. Only the content type of RFC 6749, appendix B, is allowed, even for an empty form.
    """
    state_of(request).rate_limits.auth.take(client_address(request))
    kind = request.headers.get("content-type", FORM).partition(";")[0].strip().lower()
    if kind != FORM:
        raise OAuthError("invalid_request", f"The body must come with Content-Type: {FORM}.")
    body = await request.body()
    if body.count(b"&") >= MAX_FIELDS:
        raise OAuthError("invalid_request", f"A form has at most {MAX_FIELDS} fields.")
    try:
        given = parse_qsl(body.decode(), keep_blank_values=True)
    except UnicodeDecodeError:
        raise OAuthError("invalid_request", "The body is not a form.") from None
    fields = dict(given)
    if len(fields) != len(given):
        raise OAuthError("invalid_request", "Each field is given once, as text.")
    # A field without a value is treated as if it were omitted (RFC 6749, section 3.2).
    return {name: value for name, value in fields.items() if value}


Form = Annotated[dict[str, str], Depends(_form)]


def field(form: Mapping[str, str], name: str) -> str:
    """Return a field of the form. Raises `OAuthError` if it is missing."""
    if name not in form:
        raise OAuthError("invalid_request", f"The field {name} is missing ({FORM}).")
    return form[name]


async def _client(request: Request, form: Form) -> Record | None:
    """Return the service that authenticates, for any grant, or None if the request has no client credentials.

    Raises `OAuthError` (401 `invalid_client`) for an unknown client or a wrong secret, and `RateLimited` for
    an address that has sent too many of those.
    """
    credentials = _credentials(form, request.headers.get("authorization", ""))
    if credentials is None:
        return None
    client_id, secret = credentials
    state, address = state_of(request), client_address(request)
    state.rate_limits.clients.check(address)
    service = None
    if client_id.isascii() and client_id.isprintable():
        service = await state.database.lookup(services.find_service, client_id)
    if service is not None and hmac.compare_digest(service.secret_hash, digest(secret)):
        return service
    actor, why = (audit.service(client_id), "wrong_secret") if service else (None, "unknown_client")
    refuse_client(state, address, why, actor)
    raise invalid_client()


Client = Annotated[Record | None, Depends(_client)]


def refuse_client(state: Gateway, address: str, why: str, actor: str | None = None) -> None:
    """Charge, count and record a failed client authentication. `why` goes into the audit log."""
    state.rate_limits.clients.charge(address)
    state.metrics.login("client_credentials", why)
    audit.record(Event.LOGIN_FAILED, actor=actor, source=address, why=why)


def invalid_client() -> OAuthError:
    """Return the error for a failed client authentication."""
    return OAuthError("invalid_client", "The client is unknown, or its secret is wrong.", status=401)


def _credentials(form: Mapping[str, str], authorization: str) -> tuple[str, str] | None:
    """Return the id and secret of a client, from HTTP Basic or from the form (RFC 6749, section 2.3.1).

    Return None if there is no secret: public clients send their id alone. Swagger UI sends both of them
    empty, which counts as omitted (section 3.2). Malformed credentials return as two empty strings, which no
    client has. Raises `OAuthError` for a secret in both places.
    """
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        if "client_secret" not in form:
            return None
        return form.get("client_id", ""), form["client_secret"]
    if "client_secret" in form:
        raise OAuthError("invalid_request", "The client authenticates in one way, not in two.")
    try:
        client_id, separator, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    if separator and not client_id and not secret:
        return None
    client_id = unquote_plus(client_id)
    if not separator or form.get("client_id", client_id) != client_id:
        return "", ""
    return client_id, unquote_plus(secret)
