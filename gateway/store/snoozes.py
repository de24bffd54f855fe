"""Snoozed items: they leave the inbox and its counts until their time comes, and then enter it again.

The due row that wakes an item is stored with the change (`changes.apply`).

Functions take a connection and never commit. They take positions whose rows the transaction has locked.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Select, and_, select

from gateway.database.models import items
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps
from gateway.protocol.items import CONTENT_FIELDS, Item
from gateway.store.changes import Changed, moment, touch
from gateway.store.due_work import Due, finish, put_off
from gateway.store.entries import Entry
from gateway.store.inbox import find_items
from gateway.store.log import ITEM_COLUMNS
from gateway.store.notification_rows import Row
from gateway.store.numbering import enter_again
from gateway.store.positions import Position, Positions


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


def wake(
    connection: Connection, due: Sequence[Due], locked: dict[int, Row], positions: Positions, now: int
) -> list[Entry]:
    """Let snoozed items enter again that still are snoozed, and whose time has come. `now` is in ms."""
    wanted = {"rows": dumps([(one.key, one.user_id) for one in due])}
    found: dict[tuple[int, int | None], Item] = {}
    for key, user_id, *states in connection.execute(_select_items(connection.dialect.name), wanted):
        found[key, user_id] = Item(locked[key].content, *states)
    done: list[Due] = []
    awake: list[tuple[Due, Position, Item]] = []
    for one in due:
        position = positions.by_id.get(one.user_id or 0)
        item = found.pop((one.key, one.user_id), None)
        if position is not None and item is not None and item.snoozed_until is not None:
            if item.snoozed_until > now:
                put_off(connection, one.id, item.snoozed_until)
                continue
            awake.append((one, position, item))
        done.append(one)
    finish(connection, done)
    entries = enter_again(connection, [(position, item) for _, position, item in awake], now)
    for entry, (one, _, _) in zip(entries, awake, strict=True):
        entry.service_id = locked[one.key].service_id
    return entries


@cache
def _select_items(dialect: str) -> Select[Any]:
    wanted = rows(dialect, key=BigInteger(), user_id=BigInteger())
    these = and_(items.c.notification_id == wanted.c.key, items.c.user_id == wanted.c.user_id)
    return (
        select(items.c.notification_id, items.c.user_id, *ITEM_COLUMNS[CONTENT_FIELDS:])
        .join_from(wanted, items, these)
        .where(items.c.deleted_at.is_(None))
    )
