"""Signing in and out: the token endpoint of RFC 6749, revocation (RFC 7009), tickets, and the public keys."""

import base64
import hmac
import secrets
import time
from collections.abc import Collection
from typing import Annotated, Any
from urllib.parse import unquote_plus

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from gateway import accounts, audit, refresh_tokens, services
from gateway.accounts import Session, check_sub, new_session
from gateway.api.dependencies import Gateway, InboxUser, JsonRoute, Parts, client_address, problems
from gateway.api.trail import Source, record_sessions_ended
from gateway.audit import Event
from gateway.errors import NotFound, OAuthError, RateLimited
from gateway.tokens import INBOX, OWN_CLIENT, digest

TICKET_TTL = 30
"""How long a ticket waits to be used, in seconds."""

_FORM = "application/x-www-form-urlencoded"

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}

router = APIRouter(route_class=JsonRoute, tags=["auth"])


class TokenAnswer(BaseModel):
    """What the token endpoint gives (RFC 6749, section 5.1)."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105  (a kind, not a token)
    expires_in: int = Field(description="How long the access token lives, in seconds.")
    refresh_token: str | None = Field(
        None, description="For a user who signed in with a password: good once, for the next refresh."
    )
    scope: str


class OAuthProblem(BaseModel):
    """An error of the token endpoint (RFC 6749, section 5.2)."""

    error: str
    error_description: str


class TicketAnswer(BaseModel):
    """A ticket, to be sent as `?ticket=` when a socket is opened."""

    ticket: str
    expires_in: int = Field(description="How long it waits to be used, in seconds.")


def _form_of(required: Collection[str], fields: dict[str, str]) -> dict[str, Any]:
    properties = {name: {"type": "string", "description": why} for name, why in fields.items()}
    schema = {"type": "object", "required": list(required), "properties": properties}
    content = {_FORM: {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


_TOKEN_FORM = _form_of(
    ["grant_type"],
    {
        "grant_type": "`password`, `refresh_token` or `client_credentials`.",
        "username": "The `sub` of the user (password).",
        "password": "The user's password (password).",
        "refresh_token": "What signing in, or the refresh before, gave (refresh_token).",
        "client_id": "The service, unless it is sent as HTTP Basic (client_credentials).",
        "client_secret": "Its secret, unless it is sent as HTTP Basic (client_credentials).",
        "scope": "A subset of what may be had; everything by default.",
    },
)
_REVOKE_FORM = _form_of(["token"], {"token": "An access token or a refresh token."})
_OAUTH_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is refused; `error` says why.", "model": OAuthProblem},
    429: problems(429)[429],
    503: problems()[503],
}


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form. Raises `OAuthError` for what is none, and for a field given twice.

    It is of the one kind that RFC 6749 has (appendix B), also where it is empty.
    """
    kind = request.headers.get("content-type", _FORM).partition(";")[0].strip().lower()
    if kind != _FORM:
        raise OAuthError("invalid_request", f"The body must come with Content-Type: {_FORM}.")
    try:
        async with request.form() as form:
            given = form.multi_items()
    except HTTPException as error:
        if error.status_code != 400:  # noqa: PLR2004
            raise
        raise OAuthError("invalid_request", "The body is not a form.") from None
    fields = {name: value for name, value in given if isinstance(value, str)}
    if len(fields) != len(given):
        raise OAuthError("invalid_request", "Each field is given once, as text.")
    # A field without a value is treated as if it were omitted (RFC 6749, section 3.2).
    return {name: value for name, value in fields.items() if value}


Form = Annotated[dict[str, str], Depends(_form)]


def _field(form: dict[str, str], name: str) -> str:
    if name not in form:
        raise OAuthError("invalid_request", f"The field {name} is missing ({_FORM}).")
    return form[name]


@router.post(
    "/v1/auth/token",
    summary="Sign in, or refresh, or get a service's token",
    responses=_OAUTH_PROBLEMS | {401: {"description": "The client is unknown.", "model": OAuthProblem}},
    openapi_extra=_TOKEN_FORM,
    response_model_exclude_none=True,
)
async def token(parts: Parts, request: Request, form: Form, response: Response) -> TokenAnswer:
    """Give an access token for a password, a refresh token, or a service's credentials."""
    response.headers.update(NO_STORE)
    grant = _field(form, "grant_type")
    address = client_address(request)
    if grant == "password":
        return await _sign_in(parts, form, address)
    if grant == "refresh_token":
        return await _refresh(parts, form, address)
    if grant == "client_credentials":
        return await _authorize_service(parts, form, request.headers.get("authorization", ""), address)
    raise OAuthError("unsupported_grant_type", "grant_type: password, refresh_token or client_credentials.")


def _narrowed(form: dict[str, str], allowed: Collection[str]) -> frozenset[str]:
    """Return the scopes that are asked for, or all of them. Raises `OAuthError` for others."""
    wanted = frozenset(form.get("scope", "").split()) or frozenset(allowed)
    if not wanted <= frozenset(allowed):
        raise OAuthError("invalid_scope", f"What may be had is: {' '.join(sorted(allowed))}.")
    return wanted


async def _sign_in(parts: Gateway, form: dict[str, str], address: str) -> TokenAnswer:
    """Verify a password. Whatever is wrong with it, the answer and the time it takes are the same."""
    sub, password = _field(form, "username"), _field(form, "password")
    scopes = _narrowed(form, [INBOX])
    try:
        attempt = await parts.throttle.logins.begin(sub, address)
    except RateLimited:
        parts.metrics.login("password", "rate_limited")
        audit.record(Event.LOGIN_FAILED, actor=None, source=address, why="rate_limited")
        raise
    refresh_token = secrets.token_urlsafe(32)
    expires_at = int(time.time()) + parts.settings.refresh_token_ttl
    session = new_session(expires_at * 1000, digest(refresh_token))
    failure = await _start_session(parts, sub, password, session)
    if failure is not None:
        parts.metrics.login("password", failure)
        # A name that nobody has is not recorded: people type their password there.
        actor = None if failure == "unknown_user" else audit.user(sub)
        audit.record(Event.LOGIN_FAILED, actor=actor, source=address, why=failure)
        raise OAuthError("invalid_grant", "The user name or the password is wrong.")
    await attempt.succeeded()
    parts.metrics.login("password", "success")
    audit.record(Event.LOGIN, actor=audit.user(sub), source=address, grant="password", session=session.id)
    return _answer(parts, sub, OWN_CLIENT, scopes, session.id, expires_at, refresh_token)


async def _start_session(parts: Gateway, sub: str, password: str, session: Session) -> str | None:
    """Store a session for the right password; for a wrong one return what is wrong, in a word.

    The hash may have been renewed by a sign-in at the same time; then the password is verified once more.
    """
    for _ in range(2):
        try:
            user = await parts.database.glance(accounts.find_user, check_sub(sub))
        except ValueError:
            user = None
        hashed = user.password_hash if user and not user.disabled else None
        if not await parts.passwords.verify(password, hashed) or hashed is None:
            return _failure(user)
        renewed = await parts.passwords.renew(password, hashed)
        if await parts.database.write(
            accounts.start_user_session,
            sub,
            session,
            int(time.time() * 1000),
            password_hash=hashed,
            renewed_hash=renewed,
        ):
            return None
    return "changed_meanwhile"


def _failure(user: accounts.Record | None) -> str:
    if user is None:
        return "unknown_user"
    if user.disabled:
        return "disabled"
    return "wrong_password" if user.password_hash else "no_password"


async def _refresh(parts: Gateway, form: dict[str, str], address: str) -> TokenAnswer:
    """Give another access token and refresh token of the same session, which ends when it was going to.

    A refresh token that was used before ends the session (`refresh_tokens`).
    """
    secret, scopes = _field(form, "refresh_token"), _narrowed(form, [INBOX])
    now_ms = int(time.time() * 1000)
    done = refresh_tokens.Refreshed()
    if await parts.database.glance(refresh_tokens.find_session, secret) is not None:
        done = await parts.database.write(refresh_tokens.refresh, secret, now_ms)
    parts.tokens.end(done.ended)
    actor = audit.user(done.sub) if done.sub else None
    if done.token is None:
        event = Event.REFRESH_REUSED if done.ended else Event.REFRESH_FAILED
        parts.metrics.login("refresh_token", "reused" if done.ended else "failed")
        audit.record(event, actor=actor, source=address, session=done.session or None)
        raise OAuthError("invalid_grant", "The refresh token is unknown, used, expired or revoked.")
    parts.metrics.login("refresh_token", "success")
    repeated = True if done.repeated else None
    audit.record(Event.REFRESHED, actor=actor, source=address, session=done.session, repeated=repeated)
    ends = done.expires_at // 1000
    return _answer(parts, done.sub, OWN_CLIENT, scopes, done.session, ends, done.token)


async def _authorize_service(
    parts: Gateway, form: dict[str, str], authorization: str, address: str
) -> TokenAnswer:
    """Give a service a token for its credentials."""
    client_id, secret = _credentials(form, authorization)
    service = None
    if client_id.isascii() and client_id.isprintable():
        service = await parts.database.glance(services.find_service, client_id)
    if service is None or not hmac.compare_digest(service.secret_hash, digest(secret)):
        actor, why = (audit.service(client_id), "wrong_secret") if service else (None, "unknown_client")
        parts.metrics.login("client_credentials", why)
        audit.record(Event.LOGIN_FAILED, actor=actor, source=address, why=why)
        raise _invalid_client()
    scopes = _narrowed(form, service.scopes.split())
    now = time.time()
    expires_at = int(now) + parts.settings.access_token_ttl
    session = new_session(expires_at * 1000)
    try:
        await parts.database.write(services.start_service_session, client_id, session, int(now * 1000))
    except NotFound:
        raise _invalid_client() from None
    parts.metrics.login("client_credentials", "success")
    audit.record(
        Event.LOGIN,
        actor=audit.service(client_id),
        source=address,
        grant="client_credentials",
        session=session.id,
    )
    return _answer(parts, client_id, client_id, scopes, session.id, expires_at)


def _invalid_client() -> OAuthError:
    return OAuthError("invalid_client", "The client is unknown, or its secret is wrong.", status=401)


def _credentials(form: dict[str, str], authorization: str) -> tuple[str, str]:
    """Return the id and secret of a client, from HTTP Basic or from the form (RFC 6749, section 2.3.1)."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        if "client_id" not in form or "client_secret" not in form:
            raise _invalid_client()
        return form["client_id"], form["client_secret"]
    if "client_secret" in form:
        raise OAuthError("invalid_request", "The client authenticates in one way, not in two.")
    try:
        client_id, separator, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        raise _invalid_client() from None
    if not separator or form.get("client_id", unquote_plus(client_id)) != unquote_plus(client_id):
        raise _invalid_client()
    return unquote_plus(client_id), unquote_plus(secret)


def _answer(
    parts: Gateway,
    sub: str,
    client_id: str,
    scopes: Collection[str],
    session: str,
    session_ends: int,
    refresh_token: str | None = None,
) -> TokenAnswer:
    now = int(time.time())
    expires_at = min(now + parts.settings.access_token_ttl, session_ends)
    access_token = parts.tokens.issue(
        sub=sub, client_id=client_id, scopes=scopes, session=session, expires_at=expires_at
    )
    return TokenAnswer(
        access_token=access_token,
        expires_in=max(expires_at - now, 0),
        refresh_token=refresh_token,
        scope=" ".join(sorted(scopes)),
    )


@router.post(
    "/v1/auth/revoke",
    summary="Sign out",
    responses=_OAUTH_PROBLEMS,
    openapi_extra=_REVOKE_FORM,
    response_class=Response,
)
async def revoke(parts: Parts, source: Source, form: Form) -> Response:
    """End the session of an access token or a refresh token (RFC 7009). What is no token is no error."""
    text = _field(form, "token")
    session = await parts.tokens.session_of(text)
    known = session or await parts.database.glance(refresh_tokens.find_session, text)
    ended: list[str] = []
    if known is not None:
        now_ms = int(time.time() * 1000)
        ended = await parts.database.write(refresh_tokens.revoke, session, text, now_ms)
    parts.tokens.end(ended)
    record_sessions_ended(ended, "revoked", actor=None, subject=None, source=source)
    return Response(headers=NO_STORE)


@router.post("/v1/auth/ticket", summary="Get a ticket for a socket", responses=problems())
async def ticket(parts: Parts, user: InboxUser, source: Source, response: Response) -> TicketAnswer:
    """Give a ticket: opaque, for one socket, to be used within 30 seconds.

    It is for a browser, which cannot send a header with a WebSocket, and it may show up in a log. The
    socket lives as long as the token with which the ticket was got.
    """
    response.headers.update(NO_STORE)
    text = secrets.token_urlsafe(24)
    now_ms = int(time.time() * 1000)
    await parts.database.write(
        accounts.add_ticket,
        accounts.NewTicket(
            hash=digest(text),
            session_id=user.session,
            scope=" ".join(sorted(user.scopes)),
            token_expires_at=user.expires_at * 1000,
            expires_at=now_ms + TICKET_TTL * 1000,
        ),
    )
    audit.record(Event.TICKET_ISSUED, actor=user.actor, source=source, session=user.session)
    return TicketAnswer(ticket=text, expires_in=TICKET_TTL)
