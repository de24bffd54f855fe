"""Positions: the heads of users' logs within a transaction that holds the locks of the users' rows."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    FromClause,
    Select,
    String,
    Update,
    bindparam,
    func,
    select,
    update,
)

from gateway.auth.users import add_missing_users
from gateway.database.models import users
from gateway.database.prepared import Prepared, PreparedRows
from gateway.database.rows import one_column
from gateway.errors import Unavailable
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Counts, Item


@dataclass(slots=True)
class Position:
    """The head of a user's log, within a transaction that holds the lock of the user's row."""

    user_id: int
    seq: int
    unread: int
    unseen: int
    seen: int
    delivered: int
    preferences: str | None = None
    preferences_version: int = 0

    def counts(self) -> Counts:
        """Return the current counts."""
        return Counts(self.seq, self.unread, self.unseen, self.seen, 0, self.preferences_version)

    def tally(self, item: Item, sign: int) -> None:
        """Add an item to the unread and unseen counts (`sign` 1), or subtract it (-1).

        An item is unread if it is not read, archived, deleted or snoozed; it is unseen if it also is beyond
        the seen mark.
        """
        if item.counts_as_unread:
            self.unread += sign
            self.unseen += sign if item.created_seq > self.seen else 0


_COLUMNS = (
    users.c.sub,
    users.c.id,
    users.c.last_seq,
    users.c.unread,
    users.c.unseen,
    users.c.seen_seq,
    users.c.delivered_seq,
    users.c.preferences,
    users.c.preferences_version,
)


def _lock_positions(dialect: str) -> Select[Any]:
    """Return the query that locks the wanted users, or none of them while one of the `subs` is missing.

    A transaction that creates users waits for others that create the same ones. It must hold no lock of a
    user while it waits. A user named by both `subs` and `ids` is returned twice.
    """
    named = select(users.c.id).where(users.c.sub.in_(one_column(dialect, "subs", String()))).cte("named")
    complete = select(func.count()).select_from(named).scalar_subquery() == bindparam("number")
    wanted = select(named.c.id).union_all(one_column(dialect, "ids", BigInteger()))
    # Postgres checks a row again that changed during the wait for its lock. It scans a union once for each
    # such row, and may drop a row that is in it. It evaluates an array only once.
    each = func.unnest(func.array(wanted.scalar_subquery())).column_valued("wanted")
    return (
        select(*_COLUMNS)
        .where(users.c.id == each, complete)
        # Lock in the same order everywhere, so that two writers never deadlock.
        .order_by(users.c.id)
        .with_for_update(of=users)
    )


_LOCK_ON_POSTGRES = Prepared(_lock_positions)
_BY_SUB = PreparedRows(
    lambda wanted: select(*_COLUMNS).where(users.c.sub.in_(select(wanted.c.sub))), sub=String()
)
_BY_ID = PreparedRows(
    lambda wanted: select(*_COLUMNS).where(users.c.id.in_(select(wanted.c.id))), id=BigInteger()
)


def _rows_of(connection: Connection, subs: Collection[str], ids: Collection[int]) -> Sequence[Sequence[Any]]:
    """Return the rows of the users named by `subs` and by `ids`, locked until the transaction ends."""
    if connection.dialect.name != "sqlite":
        parameters = {"subs": dumps(list(subs)), "ids": dumps(list(ids)), "number": len(subs)}
        return _LOCK_ON_POSTGRES.run(connection, parameters)
    # The transaction holds the lock on the whole database.
    named = _BY_SUB.run(connection, [(sub,) for sub in subs])
    return [*named, *_BY_ID.run(connection, [(user_id,) for user_id in ids])]


class Positions:
    """The positions of the users that a transaction touches, locked until it ends."""

    def __init__(self, connection: Connection, subs: Collection[str], ids: Collection[int]) -> None:
        found = _rows_of(connection, subs, ids)
        self._connection = connection
        self._stored = {row[1]: tuple(row[2:7]) for row in found}
        self.by_id = {row[1]: Position(*row[1:]) for row in found}
        self.by_sub = {row[0]: self.by_id[row[1]] for row in found}

    def save(self) -> dict[int, Counts]:
        """Store every position that changed, and return the counts of those users."""
        moved = [
            (
                position.user_id,
                position.seq,
                position.unread,
                position.unseen,
                position.seen,
                position.delivered,
            )
            for position in self.by_id.values()
        ]
        moved = [row for row in moved if self._stored[row[0]] != row[1:]]
        if moved:
            _UPDATE_POSITIONS.run(self._connection, moved)
        return {row[0]: self.by_id[row[0]].counts() for row in moved}


def _update_positions(new: FromClause) -> Update:
    return (
        update(users)
        .where(users.c.id == new.c.id)
        .values(
            last_seq=new.c.seq,
            unread=new.c.unread,
            unseen=new.c.unseen,
            seen_seq=new.c.seen,
            delivered_seq=new.c.delivered,
        )
    )


_UPDATE_POSITIONS = PreparedRows(
    _update_positions,
    id=BigInteger(),
    seq=BigInteger(),
    unread=BigInteger(),
    unseen=BigInteger(),
    seen=BigInteger(),
    delivered=BigInteger(),
)


def unknown_subs(connection: Connection, subs: Collection[str]) -> set[str]:
    """Return the `subs` that belong to no user."""
    wanted = one_column(connection.dialect.name, "subs", String())
    known = connection.scalars(
        select(users.c.sub).where(users.c.sub.in_(wanted)), {"subs": dumps(list(subs))}
    )
    return set(subs).difference(known)


def lock(connection: Connection, subs: Collection[str], ids: Collection[int], now: int) -> Positions:
    """Lock the users named by `subs` and by `ids`, creating the missing `subs` first. `now` is in ms.

    Raises a retryable `Unavailable` if another transaction erased one of the users during the wait for its
    lock. That user must be created anew, but creating users while holding locks could deadlock.
    """
    wanted = set(subs)
    positions = Positions(connection, subs, ids)
    if positions.by_sub.keys() >= wanted:
        return positions
    # On SQLite the transaction holds the lock of the whole database, so there is no other to wait for.
    if not positions.by_id or connection.dialect.name == "sqlite":
        add_missing_users(connection, unknown_subs(connection, subs), now)
        positions = Positions(connection, subs, ids)
        if positions.by_sub.keys() >= wanted:
            return positions
    raise Unavailable("A recipient has been erased meanwhile.", retryable=True)
