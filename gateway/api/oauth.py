"""What the two OAuth endpoints share: their form, their error body, and how a service authenticates there."""

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
from gateway.errors import GatewayError, OAuthError
from gateway.observability import audit
from gateway.observability.audit import Event

TOKEN_PATH, REVOKE_PATH = "/v1/auth/token", "/v1/auth/revoke"

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}

FORM = "application/x-www-form-urlencoded"

MAX_FIELDS = 20
"""More fields than this no form has; what has more is not taken apart."""

ERRORS = {429: "rate_limited", 500: "server_error", 503: "temporarily_unavailable"}
"""The `error` of what RFC 6749 has no word for; everything else is `invalid_request`."""


class FormRoute(JsonRoute):
    """A route whose body is a form: the longest field is a token, and decoding one costs more than JSON."""

    max_body: ClassVar[int] = 16 * 1024
    knows_caller: ClassVar[bool] = False


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
"""What the OpenAPI says of the errors of both endpoints."""


def serves(connection: HTTPConnection) -> bool:
    """Whether this is a request to an OAuth endpoint: each of its errors has the body of RFC 6749."""
    return connection.scope["path"] in {TOKEN_PATH, REVOKE_PATH}


def refusal(status: int, detail: str, headers: Mapping[str, str], error: str | None = None) -> JSONResponse:
    """Return an error as RFC 6749 has it, section 5.2."""
    body = {"error": error or ERRORS.get(status, "invalid_request"), "error_description": detail}
    return JSONResponse(body, status, NO_STORE | dict(headers))


def refusal_of(error: GatewayError) -> JSONResponse:
    """Return the answer for an error of the gateway's own."""
    if isinstance(error, OAuthError):
        return refusal(error.http_status, error.detail, error.headers, error.error)
    return refusal(error.status, error.detail, error.headers)


def form_of(required: Collection[str], fields: Mapping[str, str]) -> dict[str, Any]:
    """Return what the OpenAPI says of a form with these fields, each with its description."""
    properties = {name: {"type": "string", "description": why} for name, why in fields.items()}
    schema = {"type": "object", "required": list(required), "properties": properties}
    return {"requestBody": {"required": True, "content": {FORM: {"schema": schema}}}}


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form. Raises `OAuthError` for what is none, and for a field given twice.

    It is of the one kind that RFC 6749 has (appendix B), also where it is empty. Raises `RateLimited` before
    anything is read.
    """
    state_of(request).throttle.auth.take(client_address(request))
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
    """Return a field of the form. Raises `OAuthError` where it is missing."""
    if name not in form:
        raise OAuthError("invalid_request", f"The field {name} is missing ({FORM}).")
    return form[name]


async def _client(request: Request, form: Form) -> Record | None:
    """Return the service that authenticates, whatever it asks for, or None where none does.

    Raises `OAuthError` (401 `invalid_client`) for a secret that is wrong, and `RateLimited` for an address
    that has sent too many of those.
    """
    credentials = _credentials(form, request.headers.get("authorization", ""))
    if credentials is None:
        return None
    client_id, secret = credentials
    state, address = state_of(request), client_address(request)
    state.throttle.clients.check(address)
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
    """Count and record that a client has not proved who it is."""
    state.throttle.clients.charge(address)
    state.metrics.login("client_credentials", why)
    audit.record(Event.LOGIN_FAILED, actor=actor, source=address, why=why)


def invalid_client() -> OAuthError:
    """Return the error for a client that has not proved who it is."""
    return OAuthError("invalid_client", "The client is unknown, or its secret is wrong.", status=401)


def _credentials(form: Mapping[str, str], authorization: str) -> tuple[str, str] | None:
    """Return the id and secret of a client, from HTTP Basic or from the form (RFC 6749, section 2.3.1).

    An id without a secret is no authentication: clients that have none send it too, and Swagger UI sends both
    empty, which is as if they were omitted (section 3.2).
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
