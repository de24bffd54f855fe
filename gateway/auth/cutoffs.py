"""The SQL of cutoffs: when all sessions of a user last ended. Each function is a unit of work; none commits.

A foreign issuer's token has no session until it is first used, so ending the user's sessions cannot revoke
it. The cutoff does: tokens issued up to it are void.

A cutoff belongs to the `sub` and outlives the user, because an old token must not give access to a new user
with the same `sub`. Only a hash of the `sub` is stored, so that an erased user's name is not kept.

The previous development version, without this table, stores a cutoff as a row of `sessions` whose id begins
with `ID_PREFIX`. During a deploy, processes of both versions must see each other's cutoffs. So each cutoff is
written to both tables and read from both. The next version will drop these rows and the code for `ID_PREFIX`.
"""

import hashlib
from typing import Any

from sqlalchemy import Connection, Table, delete, func, select, union_all
from sqlalchemy.dialects import postgresql, sqlite

from gateway.database.models import sessions, token_cutoffs
from gateway.database.units import background

CUTOFF_TTL_MS = 86_430_000
"""How long a cutoff is kept, in ms: the maximum lifetime of a foreign token, and the allowed clock skew."""

ID_PREFIX = "x-m"
"""Prefix of the ids of the cutoffs in `sessions`, where the previous development version stores them."""

_SWEEP_LIMIT = 1000
"""Maximum number of cutoffs that one sweep deletes."""


def move(connection: Connection, user_id: int, sub: str, now_ms: int) -> None:
    """Move the cutoff of a user to `now_ms`. The caller has locked the user's row."""
    expires_at = now_ms + CUTOFF_TTL_MS
    cutoff = {"sub_hash": _hash(sub), "ended_at": now_ms, "expires_at": expires_at}
    _upsert(connection, token_cutoffs, cutoff)
    mark = {"id": ID_PREFIX + _hash(sub), "user_id": user_id, "created_at": now_ms, "expires_at": expires_at}
    _upsert(connection, sessions, mark | {"ended_at": now_ms})


def ended_at(connection: Connection, sub: str) -> int:
    """Return when all sessions of a `sub` last ended, in ms. 0 if no token from before can still be valid."""
    kept = token_cutoffs.c
    both = union_all(
        select(kept.ended_at.label("moment")).where(kept.sub_hash == _hash(sub)),
        select(sessions.c.created_at).where(sessions.c.id == ID_PREFIX + _hash(sub)),
    ).subquery()
    return connection.scalar(select(func.max(both.c.moment))) or 0


@background
def sweep(connection: Connection, now_ms: int) -> bool:
    """Delete some expired cutoffs, and return whether there may be more."""
    kept = token_cutoffs.c
    # Leave locked rows to the next sweep, because waiting for them could deadlock.
    past = select(kept.sub_hash).where(kept.expires_at <= now_ms).limit(_SWEEP_LIMIT)
    past = past.with_for_update(skip_locked=True)
    swept = connection.execute(delete(token_cutoffs).where(kept.sub_hash.in_(past.scalar_subquery())))
    return swept.rowcount == _SWEEP_LIMIT


def _upsert(connection: Connection, table: Table, values: dict[str, Any]) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(values)
    connection.execute(statement.on_conflict_do_update(index_elements=[*table.primary_key], set_=values))


def _hash(sub: str) -> str:
    """Return the first 29 digits of the hash of a `sub`. With `ID_PREFIX`, they fit into a session's id."""
    return hashlib.sha256(sub.encode()).hexdigest()[:29]
