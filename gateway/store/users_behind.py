"""Users behind: the users whose logs are ahead of the connections of a process, and their new entries.

One query covers all users of the process. Functions take a connection and never commit.
"""

from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Select, bindparam, select

from gateway.database.models import items, notifications, users
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Counts
from gateway.store.entries import Entry, restore_counts
from gateway.store.log import ITEM_COLUMNS, PAGE, replay, to_item
from gateway.store.preferences import mark_quiet

MAX_ITEMS_PER_READ = 2000
"""Maximum number of items read at once."""


def find_users_behind(
    connection: Connection, positions: Sequence[tuple[int, int, int, int]]
) -> dict[int, Counts]:
    """Return the counts of the users whose logs are ahead of these positions.

    A position is the id of a user, a `seq`, a seen mark and the version of the preferences.
    """
    found = connection.execute(_select_users_behind(connection.dialect.name), {"rows": dumps(positions)})
    return {row.id: Counts(*row[1:]) for row in found}


@cache
def _select_users_behind(dialect: str) -> Select[Any]:
    number = BigInteger()
    known = rows(dialect, id=number, seq=number, seen=number, preferences=number)
    return (
        select(
            users.c.id,
            users.c.last_seq,
            users.c.unread,
            users.c.unseen,
            users.c.seen_seq,
            users.c.trimmed_seq,
            users.c.preferences_version,
        )
        .join_from(known, users, users.c.id == known.c.id)
        .where(
            (users.c.last_seq > known.c.seq)
            | (users.c.seen_seq > known.c.seen)
            | (users.c.preferences_version > known.c.preferences)
        )
    )


class NewEntries(NamedTuple):
    """The new entries of several users' logs, and the counts of those users."""

    entries: list[Entry]
    counts: dict[int, Counts]


def read_new_entries(
    connection: Connection, positions: Sequence[tuple[int, int, int, int]], limit: int = MAX_ITEMS_PER_READ
) -> NewEntries:
    """Return the entries beyond these positions, which are those of `find_users_behind`.

    If a log is far ahead, only its newest entries are returned. If there are more than `limit` items in all,
    some users get none. Their connections then read the log from their cursors.
    """
    counts = find_users_behind(connection, positions)
    floors = [
        (user_id, max(seq, counts[user_id].seq - PAGE))
        for user_id, seq, *_ in positions
        if user_id in counts and counts[user_id].seq > seq
    ]
    if not floors:
        return NewEntries([], counts)
    parameters = {"rows": dumps(floors), "limit": limit}
    found = connection.execute(_select_new_entries(connection.dialect.name), parameters).all()
    # The last user may be incomplete, which would leave a gap in the log.
    cut = found[-1].user_id if len(found) == limit else None
    entries: list[Entry] = []
    senders = {row.uuid: row.service_id for row in found}
    for user_id, of_user in groupby(found, key=lambda row: row.user_id):
        if user_id != cut:
            new = replay(user_id, counts[user_id], (to_item(row[_KEYS:]) for row in of_user), None)
            restore_counts(new)
            for entry in new:
                if entry.fresh:
                    entry.service_id = senders[entry.items[0].content.id]
            entries += new
    quiet = [user_id for user_id, _ in floors if counts[user_id].preferences]
    mark_quiet(connection, entries, quiet)
    return NewEntries(entries, counts)


_KEYS = 2
"""How many columns precede those of the item."""


@cache
def _select_new_entries(dialect: str) -> Select[Any]:
    floors = rows(dialect, id=BigInteger(), seq=BigInteger())
    return (
        select(items.c.user_id, notifications.c.service_id, *ITEM_COLUMNS)
        .join_from(floors, items, (items.c.user_id == floors.c.id) & (items.c.seq > floors.c.seq))
        .join(notifications, items.c.notification_id == notifications.c.id)
        .order_by(items.c.user_id, items.c.seq, items.c.created_seq)
        .limit(bindparam("limit"))
    )
