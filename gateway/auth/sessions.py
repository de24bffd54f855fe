"""The SQL of sessions: start, find, end, sweep. Each function is a unit of work; none commits."""

import secrets
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    String,
    bindparam,
    delete,
    exists,
    select,
    true,
    tuple_,
    update,
)

from gateway.auth import cutoffs
from gateway.database.models import services, sessions, used_refresh_tokens, users
from gateway.database.rows import one_column
from gateway.database.units import background
from gateway.protocol.encoding import dumps

FOREIGN = "x-"
"""Prefix of the ids of sessions of foreign issuers' tokens; these sessions are kept until they expire."""

SESSIONS_PER_USER = 100
"""Maximum number of concurrent sessions of a user, unless a setting says otherwise."""

TOO_MANY = "too_many_sessions"
"""The audit log's reason for a session that was ended because its owner has started too many."""

PAGE = 1000
"""Maximum number of sessions that one statement ends, or returns as ended."""

ENDED_SESSION_TTL_MS = 600_000
"""How long an ended session is kept for other processes to notice, in ms; they look twice a second."""

_SWEEP_LIMIT = 1000
"""Maximum number of rows of each kind that one step of a sweep deletes."""


class Session(NamedTuple):
    """A new session. `expires_at` is in ms; `refresh_hash` is the hash of its refresh token, if any."""

    id: str
    expires_at: int
    refresh_hash: bytes | None = None


class Started(NamedTuple):
    """The result of storing a session: `ended` holds the oldest sessions of its owner, ended to make room."""

    ended: list[str]


class Ended(NamedTuple):
    """An ended session, as a position in the order in which sessions ended. `ended_at` is in ms."""

    ended_at: int
    id: str


OLDEST = Ended(0, "")
"""The position before all ended sessions."""


class SessionOwner(NamedTuple):
    """The owner of a session. `name` is the `sub` of a user or the `client_id` of a service."""

    user_id: int | None
    service_id: int
    name: str
    ended: bool


def new_session(expires_at: int, refresh_hash: bytes | None = None) -> Session:
    """Return a new session, not stored yet. `expires_at` is in ms."""
    return Session(secrets.token_hex(16), expires_at, refresh_hash)


def start_user_session(
    connection: Connection,
    sub: str,
    session: Session,
    now_ms: int,
    *,
    password_hash: str | None = None,
    renewed_hash: str | None = None,
    minted_by: int | None = None,
    limit: int = SESSIONS_PER_USER,
) -> Started | None:
    """Store a session of a user, and end the user's oldest sessions beyond `limit`.

    The caller announces the ended sessions. Return None if the user is gone or disabled, or if
    `password_hash`, which the caller has verified, is no longer the user's. `renewed_hash` replaces it.
    `minted_by` is the id of the service that asked for the session.

    The lock on the user's row orders this transaction with others: one that disables the user sees this
    session and ends it, and another sign-in counts it.
    """
    statement = select(users).where(users.c.sub == sub, users.c.disabled.is_(False))
    row = connection.execute(statement.with_for_update(key_share=True)).one_or_none()
    if row is None or (password_hash is not None and row.password_hash != password_hash):
        return None
    if renewed_hash is not None:
        connection.execute(update(users).where(users.c.id == row.id).values(password_hash=renewed_hash))
    add_session(connection, session, now_ms, user_id=row.id, minted_by=minted_by)
    return Started(end_oldest(connection, sessions.c.user_id == row.id, session.id, limit, now_ms))


def add_session(connection: Connection, session: Session, now_ms: int, **owner: int | None) -> None:
    """Store a session. `owner` is a `user_id` or a `service_id`."""
    values = session._asdict() | owner | {"created_at": now_ms}
    connection.execute(sessions.insert().values(values))


# Built once, because it runs at every handshake with a new token.
_SESSION_OWNER = (
    select(
        sessions.c.user_id,
        sessions.c.service_id,
        sessions.c.ended_at,
        users.c.sub,
        users.c.disabled,
        services.c.client_id,
    )
    .join_from(sessions, users, isouter=True)
    .join(services, sessions.c.service_id == services.c.id, isouter=True)
    .where(sessions.c.id == bindparam("session"))
)


def find_session_owner(connection: Connection, session: str) -> SessionOwner | None:
    """Return the owner of a session, and whether the session has ended. A disabled user's counts as ended."""
    row = connection.execute(_SESSION_OWNER, {"session": session}).one_or_none()
    if row is None:
        return None
    name = row.client_id if row.user_id is None else row.sub
    ended = row.ended_at is not None or bool(row.disabled) or name is None
    return SessionOwner(row.user_id, row.service_id or 0, name or "", ended)


def end_sessions(connection: Connection, which: Any, now_ms: int, limit: int | None = None) -> list[str]:
    """End the live sessions that meet a condition, at most `limit` of them, and return their ids.

    The rows are locked in the order of their ids, to avoid a deadlock: a user may sign out while the service
    that minted the user's tokens is deleted.
    """
    live = select(sessions.c.id).where(which, sessions.c.ended_at.is_(None)).order_by(sessions.c.id)
    locked = sessions.c.id.in_(live.limit(limit).with_for_update())
    return list(
        connection.scalars(update(sessions).where(locked).values(ended_at=now_ms).returning(sessions.c.id))
    )


def end_some_sessions(connection: Connection, now_ms: int) -> list[str]:
    """End a page of all live sessions, of all users and services, and return their ids."""
    return end_sessions(connection, true(), now_ms, PAGE)


def end_oldest(
    connection: Connection, mine: ColumnElement[bool], newest: str, limit: int, now_ms: int
) -> list[str]:
    """End the oldest live sessions of one owner beyond `limit`, at most a page, and return their ids.

    The caller has stored `newest`, which is kept, and holds an exclusive lock on the owner's row. Expired
    sessions do not count. The query reads a range of one index, as long as the limit.
    """
    live = sessions.c
    older = select(live.id).where(mine, live.ended_at.is_(None), live.expires_at > now_ms, live.id != newest)
    beyond = older.order_by(live.created_at.desc(), live.id.desc()).offset(limit - 1).limit(PAGE)
    old = list(connection.scalars(beyond))
    return end_sessions(connection, live.id.in_(old), now_ms) if old else []


def end_all_of_user(connection: Connection, user_id: int, sub: str, now_ms: int) -> list[str]:
    """End all sessions of a user, void the user's foreign tokens, and return the ids of the sessions.

    The caller has locked the user's row.
    """
    cutoffs.move(connection, user_id, sub, now_ms)
    return end_sessions(connection, sessions.c.user_id == user_id, now_ms)


@background
def sweep(connection: Connection, now_ms: int, after: Ended = OLDEST) -> Ended | None:
    """Delete some expired and ended sessions, with their refresh tokens.

    Return where the next step starts, or None if no more are left. An ended session is kept for ten minutes.
    After that its tokens are refused because the session does not exist. A foreign issuer's token would start
    its session again instead, so a step skips ended foreign sessions until they expire.

    A step reads a page of each of two indexes, so all steps together read each session about once.
    """
    expired = connection.scalars(_EXPIRED, {"now": now_ms, "limit": _SWEEP_LIMIT}).all()
    bounds = {"noticed": now_ms - ENDED_SESSION_TTL_MS, "limit": _SWEEP_LIMIT, **after._asdict()}
    ended = (
        [] if len(expired) == _SWEEP_LIMIT else [Ended(*row) for row in connection.execute(_ENDED, bounds)]
    )
    past = {*expired, *(one.id for one in ended if not one.id.startswith(FOREIGN))}
    if past:
        # A session of the previous development version may have thousands of these rows. They are deleted
        # before the session, in short steps.
        parameters = {"ids": dumps(sorted(past)), "limit": _SWEEP_LIMIT}
        dialect = connection.dialect.name
        if connection.execute(_delete_spent(dialect), parameters).rowcount == _SWEEP_LIMIT:
            return after
        swept = connection.execute(_delete_past(dialect), {"ids": parameters["ids"]}).rowcount
        if len(expired) == _SWEEP_LIMIT:
            return after if swept else None
    return ended[-1] if len(ended) == _SWEEP_LIMIT else None


_EXPIRED = (
    select(sessions.c.id)
    .where(sessions.c.expires_at <= bindparam("now"))
    .order_by(sessions.c.expires_at)
    .limit(bindparam("limit"))
)
_ENDED = (
    select(sessions.c.ended_at, sessions.c.id)
    .where(sessions.c.ended_at <= bindparam("noticed"))
    .where(tuple_(sessions.c.ended_at, sessions.c.id) > tuple_(bindparam("ended_at"), bindparam("id")))
    .order_by(sessions.c.ended_at, sessions.c.id)
    .limit(bindparam("limit"))
)


@cache
def _delete_spent(dialect: str) -> Delete:
    spent = used_refresh_tokens.c
    used = select(spent.hash).where(spent.session_id.in_(one_column(dialect, "ids", String())))
    used = used.limit(bindparam("limit"))
    return delete(used_refresh_tokens).where(spent.hash.in_(used.scalar_subquery()))


@cache
def _delete_past(dialect: str) -> Delete:
    # Leave locked rows to the next sweep, because waiting for them could deadlock. Leave sessions that were
    # refreshed meanwhile, too.
    bare = ~exists().where(used_refresh_tokens.c.session_id == sessions.c.id)
    past = select(sessions.c.id).where(sessions.c.id.in_(one_column(dialect, "ids", String())), bare)
    return delete(sessions).where(sessions.c.id.in_(past.with_for_update(skip_locked=True).scalar_subquery()))
