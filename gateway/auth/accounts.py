"""The SQL of users, their sessions and tickets. Each function is a unit of work; none commits."""

import hashlib
import re
import secrets
from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Row,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from gateway.auth.endings import FOREIGN, MARK, end_oldest, end_sessions
from gateway.database.database import background
from gateway.database.models import (
    items,
    notifications,
    services,
    sessions,
    spent_refresh_tokens,
    tickets,
    users,
)
from gateway.errors import Conflict, NotFound

MAX_SUB = 255
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

KEPT = 600_000
"""How long an ended session is kept for other processes to notice, in ms; they look twice a second."""

MARKED = 86_430_000
"""How long it is kept when a user's sessions ended, in ms: as long as a foreign token may live that was
issued by then, by a clock that is ahead as far as clocks may differ."""

SESSIONS_PER_USER = 100
"""How many sessions a user has at once where nothing else is set."""

SWEPT = 1000
"""How many rows one sweep removes of each kind."""


Record = Row[*tuple[Any, ...]]
"""A row of one of the tables."""


class Session(NamedTuple):
    """What a new session is made of. `expires_at` is in ms; `refresh_hash` lets it be refreshed."""

    id: str
    expires_at: int
    refresh_hash: bytes | None = None


class Started(NamedTuple):
    """A session was stored. `ended` are the oldest of its owner that had to end for it."""

    ended: list[str]


class SessionOwner(NamedTuple):
    """Whose a session is: `name` is the `sub` of a user or the `client_id` of a service."""

    user_id: int | None
    service_id: int
    name: str
    ended: bool


class NewTicket(NamedTuple):
    """What a ticket will stand for. Times are in ms."""

    hash: bytes
    session_id: str
    scope: str
    token_expires_at: int
    expires_at: int


class Ticket(NamedTuple):
    """What a ticket stood for. `token_expires_at` is in ms."""

    session: str
    user_id: int
    sub: str
    scope: str
    token_expires_at: int
    ended: bool


def _insert(connection: Connection, table: Table) -> Any:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()


def check_text(text: str, longest: int) -> str:
    """Return a name. Raises ValueError for one that is too long, or holds what cannot be printed."""
    if not 1 <= len(text) <= longest:
        raise ValueError(f"it must have 1 to {longest} characters")
    if _UNPRINTABLE.search(text):
        raise ValueError("it must not have control characters")
    return text


# Users


def check_sub(sub: str) -> str:
    """Return the `sub`. Raises ValueError for what can be no user's id."""
    if sub in {".", ".."}:
        # Clients and proxies remove such a segment from a path (RFC 3986, section 5.2.4).
        raise ValueError("it must not be '.' or '..', which no path can hold")
    return check_text(sub, MAX_SUB)


def add_missing_users(connection: Connection, subs: Collection[str], now_ms: int) -> None:
    """Create the users that are not there yet.

    They are written in the order of their `sub`, so that two processes that create the same ones wait for
    each other instead of locking each other out. For the same reason the caller holds no lock of a user yet.
    """
    rows = [{"sub": sub, "created_at": now_ms, "epoch": secrets.token_hex(8)} for sub in sorted(set(subs))]
    if rows:
        connection.execute(_insert(connection, users), rows)


def add_user(connection: Connection, sub: str, password_hash: str | None, now_ms: int) -> Record:
    """Create a user. Raises `Conflict` when the `sub` is taken."""
    statement = _insert(connection, users).values(
        sub=sub, password_hash=password_hash, created_at=now_ms, epoch=secrets.token_hex(8)
    )
    row = connection.execute(statement.returning(users)).one_or_none()
    if row is None:
        raise Conflict(
            "There is a user with this sub already. Change it: PATCH /v1/users/{sub}, gateway user password."
        )
    return row


def find_user(connection: Connection, sub: str) -> Record | None:
    """Return the row of a user."""
    return connection.execute(select(users).where(users.c.sub == sub)).one_or_none()


def get_user(connection: Connection, sub: str) -> Record:
    """Return the row of a user. Raises `NotFound`."""
    return _found_user(find_user(connection, sub), sub)


def list_users(connection: Connection, after: int, limit: int) -> list[Record]:
    """Return users by age, beginning behind the row with the key `after`."""
    statement = select(users).where(users.c.sub.is_not(None), users.c.id > after)
    return list(connection.execute(statement.order_by(users.c.id).limit(limit)))


def update_user(
    connection: Connection, sub: str, changes: dict[str, Any], now_ms: int
) -> tuple[Record, list[str]]:
    """Set `password_hash` or `disabled`, and return the row and the sessions that have ended by it.

    A new password, or none, ends every session of the user, as disabling does. Raises `NotFound`.
    """
    row = get_user(connection, sub)
    if changes:
        statement = update(users).where(users.c.id == row.id).values(changes).returning(users)
        row = _found_user(connection.execute(statement).one_or_none(), sub)
    ends = "password_hash" in changes or changes.get("disabled", False)
    return row, _end_all(connection, row.id, sub, now_ms) if ends else []


def log_out(connection: Connection, sub: str, now_ms: int) -> list[str]:
    """End every session of a user, and return them. Raises `NotFound`."""
    locked = select(users.c.id).where(users.c.sub == sub).with_for_update()
    row = _found_user(connection.execute(locked).one_or_none(), sub)
    return _end_all(connection, row.id, sub, now_ms)


def release_user(connection: Connection, sub: str, now_ms: int) -> tuple[int, list[str]]:
    """Take a user's name away, end the sessions, and return the key of the row and those sessions.

    The name is free at once. The caller goes on with `erase_some`. Raises `NotFound`.
    """
    statement = update(users).where(users.c.sub == sub).values(sub=None, password_hash=None)
    row = _found_user(connection.execute(statement.returning(users.c.id)).one_or_none(), sub)
    return row.id, _end_all(connection, row.id, sub, now_ms)


def released_users(connection: Connection) -> list[int]:
    """Return the users whose erasure has begun."""
    return list(connection.scalars(select(users.c.id).where(users.c.sub.is_(None))))


@background
def erase_some(connection: Connection, user_id: int, limit: int = 1000) -> bool:
    """Erase up to `limit` items of a released user, and return whether there are more.

    Notifications that nobody else has go with them. Small steps keep the lock of the database short. The
    empty row goes with the last of its sessions, which other processes may still have to notice.
    """
    connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update())
    oldest = select(items.c.created_seq, items.c.notification_id).where(items.c.user_id == user_id)
    chunk = connection.execute(oldest.order_by(items.c.created_seq).limit(limit)).all()
    if chunk:
        last = chunk[-1].created_seq
        connection.execute(delete(items).where(items.c.user_id == user_id, items.c.created_seq <= last))
        remove_unheld(connection, {row.notification_id for row in chunk})
    if len(chunk) == limit:
        return True
    alive = exists().where(sessions.c.user_id == users.c.id)
    connection.execute(delete(users).where(users.c.id == user_id, users.c.sub.is_(None), ~alive))
    return False


def remove_unheld(connection: Connection, keys: Collection[int]) -> None:
    """Remove those of the notifications that nobody has any more; call it after their items are removed.

    Of two transactions that remove the last two items of one, each would still see the other's: so they wait
    for each other at its row, in one order.
    """
    posted = notifications.c.id.in_(keys)
    connection.execute(
        select(notifications.c.id).where(posted).order_by(notifications.c.id).with_for_update()
    )
    had = exists().where(items.c.notification_id == notifications.c.id)
    connection.execute(delete(notifications).where(posted, ~had))


def renew_epochs(connection: Connection) -> int:
    """Give the log of every user a new name, and return how many there are."""
    if connection.dialect.name == "postgresql":
        epoch = func.substr(func.md5(cast(func.gen_random_uuid(), Text)), 1, 16)
    else:
        epoch = func.lower(func.hex(func.randomblob(8)))
    renewed: int = connection.execute(update(users).values(epoch=epoch)).rowcount
    return renewed


# Sessions and tickets


def new_session(expires_at: int, refresh_hash: bytes | None = None) -> Session:
    """Return a session that is not stored yet; `expires_at` is in ms."""
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
    """Store a session of a user, and end the user's oldest beyond `limit`; the caller announces those.

    Return None where it was not right any more: the user is gone or disabled, or has another password than
    the one just verified. The lock on the row makes whoever disables the user meanwhile see this session and
    end it, and whoever signs in meanwhile count it. `renewed_hash` takes the place of `password_hash`.
    `minted_by` is the service that asked for the session.
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
    """Store a session of an `owner`: a `user_id` or a `service_id`."""
    values = session._asdict() | owner | {"created_at": now_ms}
    connection.execute(sessions.insert().values(values))


# It runs at every handshake with a new token, so it is built once.
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
    """Return whose a session is, and whether it has ended; a disabled user's has."""
    row = connection.execute(_SESSION_OWNER, {"session": session}).one_or_none()
    if row is None:
        return None
    name = row.client_id if row.user_id is None else row.sub
    ended = row.ended_at is not None or bool(row.disabled) or name is None
    return SessionOwner(row.user_id, row.service_id or 0, name or "", ended)


def _end_all(connection: Connection, user_id: int, sub: str, now_ms: int) -> list[str]:
    """End every session of a user whose row is locked, and return them.

    A token of a foreign issuer has no session before it is first shown. So the moment is noted too, in a row
    that is no session: tokens issued up to then are void.
    """
    mark = _mark_of(sub)
    connection.execute(delete(sessions).where(sessions.c.id == mark))
    session = Session(mark, now_ms + MARKED)
    add_session(connection, session, now_ms, user_id=user_id)
    return [one for one in end_sessions(connection, sessions.c.user_id == user_id, now_ms) if one != mark]


def all_ended_at(connection: Connection, sub: str) -> int:
    """Return when last all sessions of this `sub` have ended, in ms; 0 if not within a day."""
    moment = select(sessions.c.created_at).where(sessions.c.id == _mark_of(sub))
    return connection.scalar(moment) or 0


def _mark_of(sub: str) -> str:
    return MARK + hashlib.sha256(sub.encode()).hexdigest()[:29]


def add_ticket(connection: Connection, ticket: NewTicket) -> None:
    """Store a ticket."""
    connection.execute(tickets.insert().values(ticket._asdict()))


def withdraw_tickets(connection: Connection, scope: str) -> None:
    """Delete the tickets of exactly this scope."""
    connection.execute(delete(tickets).where(tickets.c.scope == scope))


def redeem_ticket(connection: Connection, ticket_hash: bytes, now_ms: int) -> Ticket | None:
    """Take a ticket away and return what it stood for. Of two who try, one gets it."""
    taken = delete(tickets).where(tickets.c.hash == ticket_hash).returning(tickets)
    row = connection.execute(taken).one_or_none()
    if row is None or min(row.expires_at, row.token_expires_at) <= now_ms:
        return None
    owner = find_session_owner(connection, row.session_id)
    if owner is None or owner.user_id is None:
        return None
    return Ticket(row.session_id, owner.user_id, owner.name, row.scope, row.token_expires_at, owner.ended)


@background
def sweep(connection: Connection, now_ms: int) -> bool:
    """Remove some of what nobody can use any more, and return whether there is more of it.

    That is sessions with their refresh tokens, tickets, and the rows of erased users.

    An ended session is kept for ten minutes; its tokens are refused without it as well. Not so those of a
    foreign issuer, which would begin a session anew.
    """
    noticed = and_(sessions.c.ended_at <= now_ms - KEPT, sessions.c.id.not_like(f"{FOREIGN}%"))
    past = or_(sessions.c.expires_at <= now_ms, noticed)
    # A session may have thousands of spent refresh tokens: they go before it, to keep each step short.
    spent = spent_refresh_tokens.c
    used = select(spent.hash).join_from(spent_refresh_tokens, sessions).where(past).limit(SWEPT)
    wiped = connection.execute(delete(spent_refresh_tokens).where(spent.hash.in_(used.scalar_subquery())))
    bare = ~exists().where(spent.session_id == sessions.c.id)
    # What another transaction holds is left to the next time: waiting for it here could close a circle.
    gone = select(sessions.c.id).where(past, bare).limit(SWEPT).with_for_update(skip_locked=True)
    swept = connection.execute(delete(sessions).where(sessions.c.id.in_(gone.scalar_subquery())))
    unused = select(tickets.c.hash).where(tickets.c.expires_at <= now_ms).limit(SWEPT)
    unused = unused.with_for_update(skip_locked=True)
    unredeemed = connection.execute(delete(tickets).where(tickets.c.hash.in_(unused.scalar_subquery())))
    empty = and_(
        users.c.sub.is_(None),
        ~exists().where(items.c.user_id == users.c.id),
        ~exists().where(sessions.c.user_id == users.c.id),
    )
    erased = select(users.c.id).where(empty).with_for_update(skip_locked=True)
    connection.execute(delete(users).where(users.c.id.in_(erased.scalar_subquery())))
    return SWEPT in {wiped.rowcount, swept.rowcount, unredeemed.rowcount}


def found(row: Record | None, kind: str, name: str) -> Record:
    """Return the row. Raises `NotFound` where there is none of this kind and name."""
    if row is None:
        raise NotFound(f"There is no such {kind}.", name=name)
    return row


def _found_user(row: Record | None, sub: str) -> Record:
    return found(row, "user", sub)
