"""Collapse keys: a notification replaces the earlier one of its key, for each service and user.

Functions take a connection and never commit. They take positions whose rows the transaction has locked.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Connection, Select, String, and_, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.database.models import collapse_keys, items, notifications
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps
from gateway.store.entries import Entry
from gateway.store.log import ITEM_COLUMNS, to_item
from gateway.store.numbering import number, store
from gateway.store.positions import Position


def replace(
    connection: Connection, service_id: int, key: str, new: int, positions: Sequence[Position], now: int
) -> list[Entry]:
    """Delete the earlier items of a key, and record the notification that takes their place in these inboxes.

    `new` is the key of its row, `now` the time in ms. An archived item stays.
    """
    by_id = {position.user_id: position for position in positions}
    dialect = connection.dialect.name
    parameters = {"service_id": service_id, "key": key}
    found = connection.execute(
        _select_earlier(dialect), parameters | {"rows": dumps([[user_id] for user_id in by_id])}
    )
    entries, changed = [], []
    for user_id, *row in found:
        item = to_item(row)
        tombstone = item._replace(deleted_at=now, deleted_reason="replaced", snoozed_until=None)
        entry, stored = number(by_id[user_id], [(item, tombstone)])
        entries.append(entry)
        changed += stored
    if changed:
        store(connection, changed)
    taken = dumps([(user_id, new) for user_id in by_id])
    connection.execute(_upsert(dialect), parameters | {"rows": taken})
    return entries


@cache
def _select_earlier(dialect: str) -> Select[Any]:
    wanted = rows(dialect, user_id=BigInteger())
    return (
        select(items.c.user_id, *ITEM_COLUMNS)
        .join_from(
            wanted,
            collapse_keys,
            and_(
                collapse_keys.c.user_id == wanted.c.user_id,
                collapse_keys.c.service_id == bindparam("service_id"),
                collapse_keys.c.key == bindparam("key"),
            ),
        )
        .join(
            items,
            and_(
                items.c.notification_id == collapse_keys.c.notification_id,
                items.c.user_id == collapse_keys.c.user_id,
            ),
        )
        .join(notifications, notifications.c.id == items.c.notification_id)
        .where(items.c.deleted_at.is_(None), items.c.archived_at.is_(None))
    )


@cache
def _upsert(dialect: str) -> Any:
    new = rows(dialect, user_id=BigInteger(), notification_id=BigInteger())
    statement = (postgresql if dialect == "postgresql" else sqlite).insert(collapse_keys)
    chosen = select(
        new.c.user_id,
        bindparam("service_id", type_=BigInteger()),
        bindparam("key", type_=String()),
        new.c.notification_id,
    ).where(new.c.user_id.is_not(None))  # SQLite needs a WHERE before ON CONFLICT
    inserted = statement.from_select(["user_id", "service_id", "key", "notification_id"], chosen)
    return inserted.on_conflict_do_update(
        index_elements=["user_id", "service_id", "key"],
        set_={"notification_id": inserted.excluded.notification_id},
    )
