"""What is new to the sockets of a process: of all their users at once, where each log has gone on.

Functions take a connection and never commit.
"""

from collections.abc import Sequence
from functools import cache
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Select, bindparam, select

from gateway.database.models import items, notifications, users
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Counts
from gateway.store.entries import Entry
from gateway.store.log import ITEM_COLUMNS, PAGE, replay, to_item

LIMIT = 2000
"""How many items are read at once."""


def find_users_behind(connection: Connection, positions: Sequence[tuple[int, int, int]]) -> dict[int, Counts]:
    """Return where the logs stand that have gone beyond these positions: users, numbers and seen marks."""
    found = connection.execute(_select_users_behind(connection.dialect.name), {"rows": dumps(positions)})
    return {row.id: Counts(*row[1:]) for row in found}


@cache
def _select_users_behind(dialect: str) -> Select[Any]:
    known = rows(dialect, id=BigInteger(), seq=BigInteger(), seen=BigInteger())
    return (
        select(
            users.c.id,
            users.c.last_seq,
            users.c.unread,
            users.c.unseen,
            users.c.seen_seq,
            users.c.trimmed_seq,
        )
        .join_from(known, users, users.c.id == known.c.id)
        .where((users.c.last_seq > known.c.seq) | (users.c.seen_seq > known.c.seen))
    )


class NewEntries(NamedTuple):
    """What has been appended to the logs of several users, and where those stand."""

    entries: list[Entry]
    counts: dict[int, Counts]


def read_new_entries(
    connection: Connection, positions: Sequence[tuple[int, int, int]], limit: int = LIMIT
) -> NewEntries:
    """Return what is beyond these positions: users, with a number and a seen mark that are known of each.

    Of a log that has gone far ahead only the newest is among it, and of some users nothing when there is too
    much for all: their clients read the log from where they are.
    """
    counts = find_users_behind(connection, positions)
    floors = [
        (user_id, max(seq, counts[user_id].seq - PAGE))
        for user_id, seq, _ in positions
        if user_id in counts and counts[user_id].seq > seq
    ]
    if not floors:
        return NewEntries([], counts)
    parameters = {"rows": dumps(floors), "limit": limit}
    found = connection.execute(_select_new_entries(connection.dialect.name), parameters).all()
    # A user of whom not all has come would have a hole.
    cut = found[-1].user_id if len(found) == limit else None
    entries: list[Entry] = []
    for user_id, of_user in groupby(found, key=lambda row: row.user_id):
        if user_id != cut:
            new = replay(user_id, counts[user_id], (to_item(row[1:]) for row in of_user), None)
            _count_back(new)
            entries += new
    return NewEntries(entries, counts)


def _count_back(entries: Sequence[Entry]) -> None:
    """Give each entry of a user the counts of its own number, as far back as nothing but arrivals follows.

    What has not changed since it arrived is unread, and unseen beyond the mark. What a change of state has
    changed cannot be told.
    """
    for later, earlier in pairwise(reversed(entries)):
        counts = later.counts
        arrived = later.fresh
        unread, unseen = counts.unread - arrived, counts.unseen - (arrived and counts.seq > counts.seen)
        earlier.counts = counts._replace(seq=earlier.counts.seq, unread=unread, unseen=unseen)


@cache
def _select_new_entries(dialect: str) -> Select[Any]:
    floors = rows(dialect, id=BigInteger(), seq=BigInteger())
    return (
        select(items.c.user_id, *ITEM_COLUMNS)
        .join_from(floors, items, (items.c.user_id == floors.c.id) & (items.c.seq > floors.c.seq))
        .join(notifications, items.c.notification_id == notifications.c.id)
        .order_by(items.c.user_id, items.c.seq, items.c.created_seq)
        .limit(bindparam("limit"))
    )
