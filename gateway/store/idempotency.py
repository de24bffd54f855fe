"""Idempotency keys: repeating a key with the same body returns the first response, for 24 hours.

Functions take a connection and never commit. A key is stored in the same transaction as its posts, so neither
exists without the other.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Select, String, bindparam, delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from gateway.database.models import idempotency_keys
from gateway.database.rows import rows
from gateway.database.units import background
from gateway.protocol.encoding import dumps

TTL_MS = 24 * 60 * 60 * 1000
"""How long a key is kept."""

SWEEP_LIMIT = 1000
"""Maximum number of expired keys that one sweep deletes."""


class Reservation(NamedTuple):
    """A request with a key. `digest` is the SHA-256 of its body, `response` its response once stored."""

    service_id: int
    key: str
    digest: bytes
    response: str

    @property
    def name(self) -> tuple[int, str]:
        """The identity of the key. Keys are unique per service."""
        return (self.service_id, self.key)


class Answered(NamedTuple):
    """The stored part of the first request with a key."""

    digest: bytes
    response: str


def answered(
    connection: Connection, reservations: Sequence[Reservation], now: int
) -> dict[tuple[int, str], Answered]:
    """Return the stored responses for the keys of these reservations, by service and key. `now` is in ms."""
    found = connection.execute(
        _select_answered(connection.dialect.name),
        {"rows": dumps([reservation.name for reservation in reservations]), "oldest": now - TTL_MS},
    )
    return {(row.service_id, row.key): Answered(row.request_hash, row.response) for row in found}


@cache
def _select_answered(dialect: str) -> Select[Any]:
    wanted = rows(dialect, service_id=BigInteger(), key=String())
    return (
        select(
            idempotency_keys.c.service_id,
            idempotency_keys.c.key,
            idempotency_keys.c.request_hash,
            idempotency_keys.c.response,
        )
        .join(
            wanted,
            (idempotency_keys.c.service_id == wanted.c.service_id) & (idempotency_keys.c.key == wanted.c.key),
        )
        .where(idempotency_keys.c.created_at > bindparam("oldest"))
    )


def reserve(connection: Connection, reservations: Sequence[Reservation], now: int) -> set[tuple[int, str]]:
    """Store the keys that are free, and return the names of those stored. `now` is in ms.

    A duplicate in another process waits here until the first has committed. Its key is then not free.
    """
    statement = _insert_reservation(connection.dialect.name)
    stored = set()
    for one in sorted(reservations, key=lambda reservation: reservation.name):
        values = {**one._asdict(), "now": now, "oldest": now - TTL_MS}
        if connection.execute(statement, values).rowcount:
            stored.add(one.name)
    return stored


@cache
def _insert_reservation(dialect: str) -> Any:
    statement = (postgresql if dialect == "postgresql" else sqlite).insert(idempotency_keys)
    values: dict[str, Any] = {
        "request_hash": bindparam("digest"),
        "response": bindparam("response"),
        "created_at": bindparam("now"),
    }
    statement = statement.values(service_id=bindparam("service_id"), key=bindparam("key"), **values)
    # An expired key is free, even before a sweep deletes it.
    return statement.on_conflict_do_update(
        index_elements=["service_id", "key"],
        set_=values,
        where=idempotency_keys.c.created_at <= bindparam("oldest"),
    )


@background
def sweep(connection: Connection, now: int) -> bool:
    """Delete some of the expired keys, and return whether more are left. `now` is in ms."""
    return (
        connection.execute(_DELETE_OLD, {"oldest": now - TTL_MS, "limit": SWEEP_LIMIT}).rowcount
        == SWEEP_LIMIT
    )


_OLD = (
    select(idempotency_keys.c.service_id, idempotency_keys.c.key)
    .where(idempotency_keys.c.created_at <= bindparam("oldest"))
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_DELETE_OLD = delete(idempotency_keys).where(
    tuple_(idempotency_keys.c.service_id, idempotency_keys.c.key).in_(_OLD)
)
