"""The users API: manage accounts, end sessions, and mint access tokens for users."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from sqlalchemy import Connection

from gateway.api.administration import Administering
from gateway.api.audit import Source
from gateway.api.callers import Admin, Minter
from gateway.api.json_route import Body, ChangeBody, ManagementRoute
from gateway.api.oauth import NO_STORE
from gateway.api.parameters import Limit, NumberCursor, Sub, SubPath
from gateway.api.problems import BODY, problems
from gateway.api.query import KnownQuery
from gateway.api.state import Gateway, State
from gateway.auth import services, sessions, users
from gateway.auth.hasher_queue import Turn
from gateway.auth.passwords import MAX_LENGTH, MIN_LENGTH
from gateway.auth.principals import INBOX
from gateway.auth.records import Record
from gateway.auth.sessions import TOO_MANY, Session, new_session
from gateway.auth.signing import MAX_TTL
from gateway.errors import InsufficientScope, Invalid, NotFound, TokenRevoked, UserDisabled
from gateway.observability import audit
from gateway.observability.audit import Event
from gateway.protocol.times import now_ms, timestamp
from gateway.store.recipients import check_new, is_nobody

router = APIRouter(prefix="/v1/users", route_class=ManagementRoute, tags=["users"])

Password = Annotated[str, Field(min_length=MIN_LENGTH, max_length=MAX_LENGTH)]


class NewUser(Body):
    """A user to create. One without a password signs in with tokens that a service mints."""

    sub: Sub
    password: Password | None = None


class UserChange(ChangeBody):
    """What to change. A new password, or null for none, and disabling end every session of the user."""

    password: Password | None = None
    disabled: bool = False


class UserAnswer(BaseModel):
    """A user."""

    sub: str
    disabled: bool
    has_password: bool
    created_at: str


class UserPage(BaseModel):
    """Users, the oldest first."""

    items: list[UserAnswer]
    next: str | None = Field(description="The `cursor` of the next page, or null on the last one.")


class Mint(Body):
    """How long the token is to live, in seconds; by default as long as any other."""

    ttl: int | None = Field(None, ge=1, le=MAX_TTL)


class MintedToken(BaseModel):
    """An access token of a user."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105  (a kind, not a token)
    expires_in: int
    scope: str


def _answer(row: Record) -> UserAnswer:
    return UserAnswer(
        sub=row.sub,
        disabled=row.disabled,
        has_password=row.password_hash is not None,
        created_at=timestamp(row.created_at),
    )


async def _hash(state: Gateway, password: str | None, sub: str, actor: str) -> str | None:
    """Return the hash of a password, or None without one. Raises `Invalid` for a weak password.

    Also raises it if the user belongs to a trusted issuer: such users sign in there, and a password that was
    set here must not open their inbox.
    """
    if password is not None and state.tokens.issuers.owns(sub):
        raise Invalid.field("password", "the sub begins with the subject_prefix of a trusted issuer")
    turn = Turn(sub, (actor,), known=True)
    try:
        return None if password is None else await state.passwords.hash(password, sub, turn)
    except ValueError as error:
        raise Invalid.field("password", str(error)) from None


@router.post("", status_code=201, summary="Create a user", responses=problems(409, *BODY))
async def create(state: State, admin: Administering, body: NewUser, response: Response) -> UserAnswer:
    """Create a user, with a password to sign in with or without one.

    Passwords that are common, or little more than the `sub`, are refused.
    """
    check_new(body.sub)
    row = await admin.create_user(body.sub, await _hash(state, body.password, body.sub, admin.actor))
    response.headers["Location"] = f"{state.settings.mount}/v1/users/{quote(body.sub, safe='')}"
    return _answer(row)


@router.get("", summary="List the users", responses=problems())
async def list_users(
    state: State, _: Admin, _known: KnownQuery, cursor: NumberCursor = 0, limit: Limit = 50
) -> UserPage:
    """Return a page of users, the oldest first."""
    rows = await state.database.read(users.list_users, cursor, limit + 1)
    further = str(rows[limit - 1].id) if len(rows) > limit else None
    return UserPage(items=[_answer(row) for row in rows[:limit]], next=further)


@router.get("/{sub}", summary="Read a user", responses=problems(404))
async def read(state: State, _: Admin, sub: SubPath) -> UserAnswer:
    """Return one user."""
    return _answer(await state.database.read(users.get_user, sub))


@router.patch("/{sub}", summary="Change a user", responses=problems(404, *BODY))
async def change(state: State, admin: Administering, sub: SubPath, body: UserChange) -> UserAnswer:
    """Set a password, or disable or enable the user."""
    changes: dict[str, Any] = {}
    if "disabled" in body.model_fields_set:
        changes["disabled"] = body.disabled
    if "password" in body.model_fields_set:
        changes["password_hash"] = await _hash(state, body.password, sub, admin.actor)
    row, _ = await admin.change_user(sub, changes)
    return _answer(row)


@router.delete(
    "/{sub}", status_code=204, response_class=Response, summary="Erase a user", responses=problems(404)
)
async def delete(admin: Administering, sub: SubPath) -> None:
    """Erase a user and the inbox. The `sub` is free at once; who takes it next starts from nothing."""
    await admin.erase_user(sub)


@router.delete(
    "/{sub}/sessions",
    status_code=204,
    response_class=Response,
    summary="Sign a user out",
    responses=problems(404),
)
async def log_out(admin: Administering, sub: SubPath) -> None:
    """End every session: the user's tokens stop working and open sockets close."""
    await admin.log_out(sub)


@router.post("/{sub}/tokens", status_code=201, summary="Mint a user's token", responses=problems(409, *BODY))
async def mint(
    state: State,
    service: Minter,
    source: Source,
    sub: SubPath,
    response: Response,
    body: Mint | None = None,
) -> MintedToken:
    """Issue an access token for a user of your own, who is created if the gateway has not met them.

    For a user of a trusted issuer, whose `sub` begins with its `subject_prefix`, it needs `admin` as well.
    """
    if state.tokens.issuers.owns(sub) and "admin" not in service.scopes:
        raise InsufficientScope("admin", service.actor)
    response.headers.update(NO_STORE)
    state.rate_limits.tokens.take(service.id)
    state.rate_limits.minted.take((service.id, sub))
    ttl = (body.ttl if body else None) or state.settings.access_token_ttl
    now = now_ms()
    expires_at = now // 1000 + ttl
    session = new_session(expires_at * 1000)
    limit = state.settings.session_limit
    ended = await state.database.write(_start_session, sub, session, service.client_id, now, limit)
    state.revocation.end(ended)
    token = state.tokens.issue(
        sub=sub,
        client_id=service.client_id,
        scopes=[INBOX],
        session=session.id,
        expires_at=expires_at,
        # The same second as in `expires_at`: storing the session may have taken the clock past it.
        issued_at=now // 1000,
    )
    audit.record(
        Event.TOKEN_MINTED,
        actor=service.actor,
        subject=audit.user(sub),
        source=source,
        session=session.id,
        ttl=ttl,
    )
    audit.record_ended(ended, TOO_MANY, actor=service.actor, subject=audit.user(sub), source=source)
    return MintedToken(access_token=token, expires_in=ttl, scope=INBOX)


def _start_session(
    connection: Connection, sub: str, session: Session, client_id: str, now_ms: int, limit: int
) -> list[str]:
    """Store a session that ends when its service is deleted, and return the oldest sessions that it ended.

    Creates the user if necessary. Raises `TokenRevoked` if the service was deleted meanwhile, `UserDisabled`,
    and what `check_new` raises for a new user.
    """
    try:
        service = services.lock_service(connection, client_id)
    except NotFound:
        raise TokenRevoked from None
    if is_nobody(sub) and users.find_user(connection, sub) is None:
        check_new(sub)
    users.add_missing_users(connection, [sub], now_ms)
    started = sessions.start_user_session(connection, sub, session, now_ms, minted_by=service.id, limit=limit)
    if started is None:
        raise UserDisabled
    return started.ended
