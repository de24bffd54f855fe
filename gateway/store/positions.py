"""Positions: where the logs of some users stand within a transaction, which holds the locks of their rows."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Connection, Select, String, bindparam, func, select, update

from gateway.auth.users import add_missing_users
from gateway.database.models import users
from gateway.database.rows import one_column, rows
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Counts, Item


@dataclass(slots=True)
class Position:
    """Where a user's log stands within a transaction that holds the lock of the user's row."""

    user_id: int
    seq: int
    unread: int
    unseen: int
    seen: int
    delivered: int

    def counts(self) -> Counts:
        """Return the counts as they are now."""
        return Counts(self.seq, self.unread, self.unseen, self.seen)

    def weigh(self, item: Item, sign: int) -> None:
        """Count an item in (1) or out (-1): unread is not read and not archived, unseen is that and new."""
        if item.read_at is None and item.archived_at is None and item.deleted_at is None:
            self.unread += sign
            self.unseen += sign if item.created_seq > self.seen else 0


@cache
def _select_positions(dialect: str) -> Select[Any]:
    """Lock the wanted users, or none of them while one of the `subs` is missing.

    Whoever makes users waits for those who make the same ones, and must hold no lock of a user meanwhile.
    On Postgres a user who is named by `subs` and by `ids` is returned twice.
    """
    named = select(users.c.id).where(users.c.sub.in_(one_column(dialect, "subs", String()))).cte("named")
    complete = select(func.count()).select_from(named).scalar_subquery() == bindparam("number")
    wanted = select(named.c.id).union_all(one_column(dialect, "ids", BigInteger()))
    locked = (
        select(
            users.c.sub,
            users.c.id,
            users.c.last_seq,
            users.c.unread,
            users.c.unseen,
            users.c.seen_seq,
            users.c.delivered_seq,
        )
        # In one order everywhere, so that two writers never wait for each other in a circle.
        .order_by(users.c.id)
        .with_for_update(of=users)
    )
    if dialect == "sqlite":
        return locked.where(users.c.id.in_(wanted), complete)
    # A row that has changed during the wait for its lock Postgres checks once more. It goes through a whole
    # union for each such row, and may drop one that is in it; an array it evaluates once.
    each = func.unnest(func.array(wanted.scalar_subquery())).column_valued("wanted")
    return locked.where(users.c.id == each, complete)


class Positions:
    """The positions of the users that a transaction touches, locked until it ends."""

    def __init__(self, connection: Connection, subs: Collection[str], ids: Collection[int]) -> None:
        parameters = {"subs": dumps(list(subs)), "ids": dumps(list(ids)), "number": len(subs)}
        found = connection.execute(_select_positions(connection.dialect.name), parameters).all()
        self._connection = connection
        self._stored = {row.id: row[2:] for row in found}
        self.by_id = {row.id: Position(*row[1:]) for row in found}
        self.by_sub = {row.sub: self.by_id[row.id] for row in found}

    def save(self) -> dict[int, Counts]:
        """Write back every position that moved, and return the counts of those."""
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
            statement = _update_positions(self._connection.dialect.name)
            self._connection.execute(statement, {"rows": dumps(moved)})
        return {row[0]: self.by_id[row[0]].counts() for row in moved}


@cache
def _update_positions(dialect: str) -> Any:
    kind = BigInteger()
    new = rows(dialect, id=kind, seq=kind, unread=kind, unseen=kind, seen=kind, delivered=kind)
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


def unknown_subs(connection: Connection, subs: Collection[str]) -> set[str]:
    """Return those of `subs` that no user has."""
    wanted = one_column(connection.dialect.name, "subs", String())
    known = connection.scalars(
        select(users.c.sub).where(users.c.sub.in_(wanted)), {"subs": dumps(list(subs))}
    )
    return set(subs).difference(known)


def lock(connection: Connection, subs: Collection[str], ids: Collection[int], now: int) -> Positions:
    """Lock the users that are named by `subs`, making those that are new, and by `ids`. `now` is in ms."""
    while True:
        positions = Positions(connection, subs, ids)
        if positions.by_sub.keys() >= set(subs):
            return positions
        add_missing_users(connection, unknown_subs(connection, subs), now)
