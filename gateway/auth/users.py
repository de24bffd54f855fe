"""The SQL of users. Each function is a unit of work; none commits."""

import secrets
from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Text, cast, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.auth.records import Record, found
from gateway.auth.sessions import end_all_of_user
from gateway.database.models import users
from gateway.errors import Conflict


def add_missing_users(connection: Connection, subs: Collection[str], now_ms: int) -> None:
    """Create the users that don't exist yet.

    They are written in the order of their `sub`, so that two processes that create the same users wait for
    each other instead of deadlocking. For the same reason the caller must not hold a lock on a user yet.
    """
    rows = [{"sub": sub, "created_at": now_ms, "epoch": secrets.token_hex(8)} for sub in sorted(set(subs))]
    if rows:
        connection.execute(_insert(connection), rows)


def add_user(connection: Connection, sub: str, password_hash: str | None, now_ms: int) -> Record:
    """Create a user and return its row. Raises `Conflict` if the `sub` is taken."""
    statement = _insert(connection).values(
        sub=sub, password_hash=password_hash, created_at=now_ms, epoch=secrets.token_hex(8)
    )
    row = connection.execute(statement.returning(users)).one_or_none()
    if row is None:
        raise Conflict(
            "There is a user with this sub already. Change it: PATCH /v1/users/{sub}, gateway user password.",
            name=sub,
        )
    return row


def find_user(connection: Connection, sub: str) -> Record | None:
    """Return the row of a user, or None."""
    return connection.execute(select(users).where(users.c.sub == sub)).one_or_none()


def get_user(connection: Connection, sub: str) -> Record:
    """Return the row of a user. Raises `NotFound`."""
    return _found_user(find_user(connection, sub), sub)


def list_users(connection: Connection, after: int, limit: int) -> list[Record]:
    """Return up to `limit` users in order of creation, starting after the row with the key `after`."""
    statement = select(users).where(users.c.sub.is_not(None), users.c.id > after)
    return list(connection.execute(statement.order_by(users.c.id).limit(limit)))


def update_user(
    connection: Connection, sub: str, changes: dict[str, Any], now_ms: int
) -> tuple[Record, list[str]]:
    """Set `password_hash` or `disabled`, and return the row and the sessions that this has ended.

    Disabling the user, and setting or removing the password, ends all sessions. Raises `NotFound`.
    """
    row = get_user(connection, sub)
    if changes:
        statement = update(users).where(users.c.id == row.id).values(changes).returning(users)
        row = _found_user(connection.execute(statement).one_or_none(), sub)
    ends = "password_hash" in changes or changes.get("disabled", False)
    return row, end_all_of_user(connection, row.id, sub, now_ms) if ends else []


def log_out(connection: Connection, sub: str, now_ms: int) -> list[str]:
    """End all sessions of a user and return them. Raises `NotFound`."""
    locked = select(users.c.id).where(users.c.sub == sub).with_for_update()
    row = _found_user(connection.execute(locked).one_or_none(), sub)
    return end_all_of_user(connection, row.id, sub, now_ms)


def release_user(connection: Connection, sub: str, now_ms: int) -> tuple[int, list[str]]:
    """Begin to erase a user: free its `sub` and end its sessions.

    Return the key of the row and the ids of the sessions. The `sub` can be used again at once. The caller
    continues with `erasure.erase_some`. Raises `NotFound`.
    """
    statement = update(users).where(users.c.sub == sub).values(sub=None, password_hash=None)
    row = _found_user(connection.execute(statement.returning(users.c.id)).one_or_none(), sub)
    return row.id, end_all_of_user(connection, row.id, sub, now_ms)


def renew_epochs(connection: Connection) -> int:
    """Give every user's log a new `epoch`, and return the number of users."""
    if connection.dialect.name == "postgresql":
        epoch = func.substr(func.md5(cast(func.gen_random_uuid(), Text)), 1, 16)
    else:
        epoch = func.lower(func.hex(func.randomblob(8)))
    renewed: int = connection.execute(update(users).values(epoch=epoch)).rowcount
    return renewed


def _found_user(row: Record | None, sub: str) -> Record:
    return found(row, "user", sub)


def _insert(connection: Connection) -> Any:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(users).on_conflict_do_nothing()
