"""Idempotency keys: the same key and body get the first answer again, for 24 hours.

Functions take a connection and never commit: a key is stored in the transaction that stores what it is for,
so there is never one without the other.
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
"""How long a key is kept, in milliseconds."""

SWEPT = 1000
"""How many keys that are over their time one sweep removes."""


class Reservation(NamedTuple):
    """A request that carried a key. `digest` is the SHA-256 of its body, `response` what it will answer."""

    service_id: int
    key: str
    digest: bytes
    response: str

    @property
    def name(self) -> tuple[int, str]:
        """What makes a key one: each service has its own."""
        return (self.service_id, self.key)


class Answered(NamedTuple):
    """What is kept of the first request with a key."""

    digest: bytes
    response: str


def answered(
    connection: Connection, reservations: Sequence[Reservation], now: int
) -> dict[tuple[int, str], Answered]:
    """Return what the keys of these claims were answered before, by service and key. `now` is in ms."""
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
    """Store the keys that nobody has; return the names of those that were stored.

    A twin in another process waits here until the first has committed, and is then not among them.
    """
    statement = _insert_claim(connection.dialect.name)
    stored = set()
    for one in sorted(reservations, key=lambda reservation: reservation.name):
        values = {**one._asdict(), "now": now, "oldest": now - TTL_MS}
        if connection.execute(statement, values).rowcount:
            stored.add(one.name)
    return stored


@cache
def _insert_claim(dialect: str) -> Any:
    statement = (postgresql if dialect == "postgresql" else sqlite).insert(idempotency_keys)
    values: dict[str, Any] = {
        "request_hash": bindparam("digest"),
        "response": bindparam("response"),
        "created_at": bindparam("now"),
    }
    statement = statement.values(service_id=bindparam("service_id"), key=bindparam("key"), **values)
    # A key that is over its time is free, whether it has been removed yet or not.
    return statement.on_conflict_do_update(
        index_elements=["service_id", "key"],
        set_=values,
        where=idempotency_keys.c.created_at <= bindparam("oldest"),
    )


@background
def sweep(connection: Connection, now: int) -> bool:
    """Remove some of the keys that are over their time, and return whether there are more. `now` is in ms."""
    return connection.execute(_DELETE_OLD, {"oldest": now - TTL_MS, "limit": SWEPT}).rowcount == SWEPT


_OLD = (
    select(idempotency_keys.c.service_id, idempotency_keys.c.key)
    .where(idempotency_keys.c.created_at <= bindparam("oldest"))
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_DELETE_OLD = delete(idempotency_keys).where(
    tuple_(idempotency_keys.c.service_id, idempotency_keys.c.key).in_(_OLD)
)
