"""Sign-in and sign-out: the token endpoint (RFC 6749) and the revocation endpoint (RFC 7009)."""

import time
from collections.abc import Collection

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from gateway.api.audit import Source
from gateway.api.callers import client_address
from gateway.api.oauth import (
    NO_STORE,
    PROBLEMS,
    REVOKE_PATH,
    TOKEN_PATH,
    Client,
    Form,
    FormRoute,
    OAuthError,
    field,
    form_of,
    invalid_client,
    refuse_client,
)
from gateway.api.state import Gateway, State
from gateway.auth import refresh_tokens, services, sessions, users
from gateway.auth.limits.logins import Attempt
from gateway.auth.names import check_sub
from gateway.auth.principals import INBOX, Service
from gateway.auth.records import Record
from gateway.auth.sessions import TOO_MANY, Session, new_session
from gateway.auth.tokens import OWN_CLIENT, digest
from gateway.database import turns
from gateway.errors import InvalidToken, NotFound, Overloaded, RateLimited, Unauthorized
from gateway.observability import audit
from gateway.observability.audit import Event
from gateway.protocol.times import now_ms

router = APIRouter(route_class=FormRoute, tags=["auth"])


class TokenAnswer(BaseModel):
    """What the token endpoint gives (RFC 6749, section 5.1)."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105  (a kind, not a token)
    expires_in: int = Field(description="How long the access token lives, in seconds.")
    refresh_token: str | None = Field(
        None, description="For a user who signed in with a password: good once, for the next refresh."
    )
    scope: str


_TOKEN_FORM = form_of(
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
_REVOKE_FORM = form_of(["token"], {"token": "An access token or a refresh token."})


@router.post(
    TOKEN_PATH,
    summary="Sign in, or refresh, or get a service's token",
    responses=PROBLEMS,
    openapi_extra=_TOKEN_FORM,
    response_model_exclude_none=True,
)
async def token(
    state: State, request: Request, form: Form, client: Client, response: Response
) -> TokenAnswer:
    """Give an access token for a password, a refresh token, or a service's credentials."""
    response.headers.update(NO_STORE)
    grant = field(form, "grant_type")
    address = client_address(request)
    if grant == "password":
        return await _sign_in(state, form, address)
    if grant == "refresh_token":
        return await _refresh(state, form, address)
    if grant == "client_credentials":
        return await _authorize_service(state, form, client, address)
    raise OAuthError("unsupported_grant_type", "grant_type: password, refresh_token or client_credentials.")


def _narrowed(form: dict[str, str], allowed: Collection[str]) -> frozenset[str]:
    """Return the requested scopes, by default all of `allowed`. Raises `OAuthError` for any other scope."""
    wanted = frozenset(form.get("scope", "").split()) or frozenset(allowed)
    if not wanted <= frozenset(allowed):
        raise OAuthError("invalid_scope", f"What may be had is: {' '.join(sorted(allowed))}.")
    return wanted


async def _sign_in(state: Gateway, form: dict[str, str], address: str) -> TokenAnswer:
    """Start a session for a password. Every failure gives the same answer and takes the same time."""
    sub, password = field(form, "username"), field(form, "password")
    scopes = _narrowed(form, [INBOX])
    refresh_token = refresh_tokens.new_token()
    expires_at = int(time.time()) + state.settings.refresh_token_ttl
    session = new_session(expires_at * 1000, digest(refresh_token))
    try:
        attempt = await state.rate_limits.logins.begin(sub, address)
        failure, crowded_out = await _start_session(state, sub, password, session, attempt)
    except RateLimited:
        state.metrics.login("password", "rate_limited")
        audit.record(Event.LOGIN_FAILED, actor=None, source=address, why="rate_limited")
        raise
    if failure is not None:
        state.metrics.login("password", failure)
        # Do not record an unknown name: people type their password into the wrong field.
        actor = None if failure == "unknown_user" else audit.user(sub)
        audit.record(Event.LOGIN_FAILED, actor=actor, source=address, why=failure)
        raise OAuthError("invalid_grant", "The user name or the password is wrong.")
    await attempt.succeeded()
    state.rate_limits.sign_ins.charge(attempt.turn.account)
    state.metrics.login("password", "success")
    user = audit.user(sub)
    audit.record(Event.LOGIN, actor=user, source=address, grant="password", session=session.id)
    _end(state, crowded_out, user, address)
    return _answer(state, sub, OWN_CLIENT, scopes, session.id, expires_at, refresh_token)


async def sign_in_by_code(state: Gateway, code: str, sub: str, scope: str, address: str) -> TokenAnswer:
    """Start a session of `sub` for `code`, a single-use ticket with exactly this scope.

    Raises `InvalidToken` if the ticket is for another user or scope, or is used or expired.
    """
    refused = InvalidToken("This link was used or is too old.")
    try:
        shown = await state.tokens.redeem(code)
    except Unauthorized as error:
        audit.record(Event.LOGIN_FAILED, actor=None, source=address, why="code")
        raise refused from error
    # A ticket for opening a socket has another scope, and must not start a session.
    if shown.sub != sub or shown.scopes != {scope}:
        audit.record(Event.LOGIN_FAILED, actor=shown.actor, source=address, why="code")
        raise refused
    refresh_token = refresh_tokens.new_token()
    now, limit = int(time.time()), state.settings.session_limit
    expires_at = now + state.settings.refresh_token_ttl
    session = new_session(expires_at * 1000, digest(refresh_token))
    started = await state.database.write(sessions.start_user_session, sub, session, now * 1000, limit=limit)
    if started is None:
        raise refused
    state.metrics.login("code", "success")
    audit.record(Event.LOGIN, actor=shown.actor, source=address, grant="code", session=session.id)
    _end(state, started.ended, shown.actor, address)
    return _answer(state, sub, OWN_CLIENT, [INBOX], session.id, expires_at, refresh_token)


def _end(state: Gateway, crowded_out: list[str], owner: str, address: str) -> None:
    """Announce and record that a new session has ended the oldest sessions of its owner."""
    state.revocation.end(crowded_out)
    audit.record_ended(crowded_out, TOO_MANY, actor=owner, subject=owner, source=address)


async def _start_session(
    state: Gateway, sub: str, password: str, session: Session, attempt: Attempt
) -> tuple[str | None, list[str]]:
    """Store a session if the password is right. Return the failure, in one word, or None if it succeeded.

    The second value lists the sessions that were ended because the user has too many. If a concurrent sign-in
    renewed the hash, the password is verified a second time.
    """
    for _ in range(2):
        try:
            user = await state.database.lookup(users.find_user, check_sub(sub))
        except ValueError:
            user = None
        hashed = user.password_hash if user and not user.disabled else None
        if not await _verify(state, password, hashed, attempt) or hashed is None:
            return _failure(user), []
        renewed = await state.passwords.renew(password, hashed, attempt.turn)
        started = await state.database.write(
            sessions.start_user_session,
            sub,
            session,
            now_ms(),
            password_hash=hashed,
            renewed_hash=renewed,
            limit=state.settings.session_limit,
        )
        if started is not None:
            return None, started.ended
    return "changed_meanwhile", []


async def _verify(state: Gateway, password: str, hashed: str | None, attempt: Attempt) -> bool:
    """Return whether the password is right. Withdraw the attempt if the password was not verified."""
    try:
        # Check this first: an account over its limit must not reveal that a password is right.
        state.rate_limits.sign_ins.check(attempt.turn.account)
        return await state.passwords.verify(password, hashed, attempt.turn)
    except (RateLimited, Overloaded):
        await attempt.withdraw()
        raise


def _failure(user: Record | None) -> str:
    if user is None:
        return "unknown_user"
    if user.disabled:
        return "disabled"
    return "wrong_password" if user.password_hash else "no_password"


async def _refresh(state: Gateway, form: dict[str, str], address: str) -> TokenAnswer:
    """Issue the next access token and refresh token of a session. The session still ends at the same time.

    Reuse of a refresh token revokes the session (`refresh_tokens`).
    """
    secret, scopes = field(form, "refresh_token"), _narrowed(form, [INBOX])
    now = now_ms()
    done = refresh_tokens.Refreshed()
    known = await state.database.lookup(refresh_tokens.find_session, secret)
    if known is not None:
        _count_refresh(state, known, address)
        done = await state.database.write(refresh_tokens.refresh, secret, now)
    state.revocation.end(done.ended)
    actor = audit.user(done.sub) if done.sub else None
    if done.token is None:
        event = Event.REFRESH_REUSED if done.ended else Event.REFRESH_FAILED
        state.metrics.login("refresh_token", "reused" if done.ended else "failed")
        audit.record(event, actor=actor, source=address, session=done.session or None)
        raise OAuthError("invalid_grant", "The refresh token is unknown, used, expired or revoked.")
    state.metrics.login("refresh_token", "success")
    repeated = True if done.repeated else None
    audit.record(Event.REFRESHED, actor=actor, source=address, session=done.session, repeated=repeated)
    ends = done.expires_at // 1000
    return _answer(state, done.sub, OWN_CLIENT, scopes, done.session, ends, done.token)


def _count_refresh(state: Gateway, found: refresh_tokens.Found, address: str) -> None:
    """Count a refresh of a session. Raises `RateLimited`; the refresh token then remains valid."""
    session, user_id = found
    try:
        state.rate_limits.begin_refresh(session, user_id)
    except RateLimited:
        state.metrics.login("refresh_token", "rate_limited")
        audit.record(Event.REFRESH_FAILED, actor=None, source=address, session=session, why="rate_limited")
        raise


async def _authorize_service(
    state: Gateway, form: dict[str, str], service: Record | None, address: str
) -> TokenAnswer:
    """Issue a token to an authenticated service."""
    if service is None:
        refuse_client(state, address, "unknown_client")
        raise invalid_client()
    client_id = service.client_id
    turns.caller.set((Service, service.id))
    scopes = _narrowed(form, service.scopes.split())
    state.rate_limits.tokens.take(service.id)
    now = time.time()
    expires_at = int(now) + state.settings.access_token_ttl
    session = new_session(expires_at * 1000)
    try:
        started = await state.database.write(
            services.start_service_session,
            client_id,
            session,
            int(now * 1000),
            limit=state.settings.max_sessions_per_service,
        )
    except NotFound:
        raise invalid_client() from None
    state.metrics.login("client_credentials", "success")
    audit.record(
        Event.LOGIN,
        actor=audit.service(client_id),
        source=address,
        grant="client_credentials",
        session=session.id,
    )
    _end(state, started.ended, audit.service(client_id), address)
    return _answer(state, client_id, client_id, scopes, session.id, expires_at)


def _answer(
    state: Gateway,
    sub: str,
    client_id: str,
    scopes: Collection[str],
    session: str,
    session_ends: int,
    refresh_token: str | None = None,
) -> TokenAnswer:
    now = int(time.time())
    expires_at = min(now + state.settings.access_token_ttl, session_ends)
    access_token = state.tokens.issue(
        sub=sub, client_id=client_id, scopes=scopes, session=session, expires_at=expires_at, issued_at=now
    )
    return TokenAnswer(
        access_token=access_token,
        expires_in=max(expires_at - now, 0),
        refresh_token=refresh_token,
        scope=" ".join(sorted(scopes)),
    )


@router.post(
    REVOKE_PATH,
    summary="Sign out",
    responses=PROBLEMS,
    openapi_extra=_REVOKE_FORM,
    response_class=Response,
)
async def revoke(state: State, source: Source, form: Form, _: Client) -> Response:
    """End the session of an access token or a refresh token (RFC 7009). What is no token is no error.

    A service need not authenticate, for any holder of a token may end it; with a wrong secret it is refused.
    """
    text = field(form, "token")
    session = await state.tokens.session_of(text)
    found = None if session else await state.database.lookup(refresh_tokens.find_session, text)
    ended: list[str] = []
    if session or found:
        now = now_ms()
        ended = await state.database.write(refresh_tokens.revoke, session, text, now)
    state.revocation.end(ended)
    audit.record_ended(ended, "revoked", actor=None, subject=None, source=source)
    return Response(headers=NO_STORE)
