"""The SQL of cutoffs: when all sessions of a user last ended. Each function is a unit of work; none commits.

A token of a foreign issuer has no session before it is first shown, so ending the user's sessions cannot end
it. The cutoff does: tokens that were issued up to it are void.

It belongs to the `sub` and outlives the user, because whoever takes the name next must not be entered with
an old token. Only a hash of the `sub` is stored: an erased user's name is not kept.

The version before this table keeps a cutoff as a row of `sessions` whose name begins with `MARK`. While
processes of both versions serve, each must find what the other wrote: so a cutoff is written to both places,
and read from both. The version after this one drops the rows and what is marked with `MARK` here.
"""

import hashlib
from typing import Any

from sqlalchemy import Connection, Table, delete, func, select, union_all
from sqlalchemy.dialects import postgresql, sqlite

from gateway.database.models import sessions, token_cutoffs
from gateway.database.units import background

CUTOFF_TTL_MS = 86_430_000
"""How long a cutoff is kept, in ms: the longest life of a foreign token, and the most that clocks differ."""

MARK = "x-m"
"""How the names of rows of `sessions` begin that are cutoffs, as the version before keeps them."""

_SWEEP_LIMIT = 1000
"""Maximum number of cutoffs that one sweep removes."""


def move(connection: Connection, user_id: int, sub: str, now_ms: int) -> None:
    """Move the cutoff of a user, whose row is locked, to this moment."""
    expires_at = now_ms + CUTOFF_TTL_MS
    cutoff = {"sub_hash": _hash(sub), "ended_at": now_ms, "expires_at": expires_at}
    _upsert(connection, token_cutoffs, cutoff)
    mark = {"id": MARK + _hash(sub), "user_id": user_id, "created_at": now_ms, "expires_at": expires_at}
    _upsert(connection, sessions, mark | {"ended_at": now_ms})


def ended_at(connection: Connection, sub: str) -> int:
    """Return when all sessions of this `sub` last ended, in ms; 0 where no token from before can live."""
    kept = token_cutoffs.c
    both = union_all(
        select(kept.ended_at.label("moment")).where(kept.sub_hash == _hash(sub)),
        select(sessions.c.created_at).where(sessions.c.id == MARK + _hash(sub)),
    ).subquery()
    return connection.scalar(select(func.max(both.c.moment))) or 0


@background
def sweep(connection: Connection, now_ms: int) -> bool:
    """Delete some cutoffs that no living token is older than, and return whether there are more."""
    kept = token_cutoffs.c
    # A locked row is left to the next sweep: waiting for it here could close a circle.
    past = select(kept.sub_hash).where(kept.expires_at <= now_ms).limit(_SWEEP_LIMIT)
    past = past.with_for_update(skip_locked=True)
    swept = connection.execute(delete(token_cutoffs).where(kept.sub_hash.in_(past.scalar_subquery())))
    return swept.rowcount == _SWEEP_LIMIT


def _upsert(connection: Connection, table: Table, values: dict[str, Any]) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(values)
    connection.execute(statement.on_conflict_do_update(index_elements=[*table.primary_key], set_=values))


def _hash(sub: str) -> str:
    """Return the first 29 digits of the hash of a `sub`: as many as the name of a session has room for."""
    return hashlib.sha256(sub.encode()).hexdigest()[:29]
