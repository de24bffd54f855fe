"""Snoozed items: they leave the inbox and its counts until their time comes, and then enter it again.

The due row that wakes an item is stored with the change (`changes.apply`), and `due_steps` does its work.

Functions take a connection and never commit. They take a `Position` whose row the transaction has locked.
"""

from typing import NamedTuple

from sqlalchemy import Connection

from gateway.store.changes import Changed, moment, touch
from gateway.store.entries import Entry
from gateway.store.inbox import find_items
from gateway.store.positions import Position


class Snooze(NamedTuple):
    """Snoozes some items of one user until a time, in ms, or ends their snooze (None).

    `read` sets that state in the same step, unless it is None.
    """

    user_id: int
    ids: tuple[str, ...]
    until: int | None
    read: bool | None = None


def snooze(
    connection: Connection, position: Position, change: Snooze, now: int
) -> tuple[Changed, list[Entry]]:
    """Snooze the items that exist, or end their snooze, skipping deleted ones. `now` is in ms.

    An item keeps its other states, so that it comes back as it was if its snooze ends early.
    """
    found = [item for item in find_items(connection, change.user_id, change.ids) if item.deleted_at is None]
    targets = [
        item._replace(snoozed_until=change.until, read_at=moment(item.read_at, change.read, now))
        for item in found
    ]
    return touch(connection, position, found, targets)
