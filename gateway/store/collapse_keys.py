"""The rows of collapse keys: the items that the next notification of a key replaces.

These are the newest item of a key, and older ones that have come back from the archive. A row may outlive the
state of its item: whoever reads rows checks it. Functions take a connection and never commit.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Delete,
    Insert,
    Select,
    String,
    and_,
    bindparam,
    delete,
    insert,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from gateway.database.models import collapse_keys, items, notifications
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Item
from gateway.store.log import ITEM_COLUMNS, to_item


def take(
    connection: Connection, service_id: int, key: str, new: int, user_ids: Iterable[int]
) -> list[tuple[int, Item]]:
    """Return the items of a key with the ids of their users, and let a new one take their place.

    `new` is the key of the notification's row. The items are in the order in which they entered.
    """
    dialect = connection.dialect.name
    parameters = {"service_id": service_id, "key": key}
    these = parameters | {"rows": dumps([[user_id] for user_id in user_ids])}
    found = [(user_id, to_item(row)) for user_id, *row in connection.execute(_select_items(dialect), these)]
    if found:
        connection.execute(_delete(dialect), these)
    connection.execute(_insert(dialect), these | {"notification_id": new})
    return found


def _of_key(wanted: Any) -> Any:
    return and_(
        collapse_keys.c.user_id == wanted.c.user_id,
        collapse_keys.c.service_id == bindparam("service_id"),
        collapse_keys.c.key == bindparam("key"),
    )


@cache
def _select_items(dialect: str) -> Select[Any]:
    wanted = rows(dialect, user_id=BigInteger())
    return (
        select(items.c.user_id, *ITEM_COLUMNS)
        .join_from(wanted, collapse_keys, _of_key(wanted))
        .join(
            items,
            and_(
                items.c.notification_id == collapse_keys.c.notification_id,
                items.c.user_id == collapse_keys.c.user_id,
            ),
        )
        .join(notifications, notifications.c.id == items.c.notification_id)
        .order_by(items.c.user_id, items.c.created_seq)
    )


@cache
def _delete(dialect: str) -> Delete:
    wanted = rows(dialect, user_id=BigInteger())
    return delete(collapse_keys).where(
        collapse_keys.c.user_id.in_(select(wanted.c.user_id)),
        collapse_keys.c.service_id == bindparam("service_id"),
        collapse_keys.c.key == bindparam("key"),
    )


@cache
def _insert(dialect: str) -> Insert:
    new = rows(dialect, user_id=BigInteger())
    chosen = select(
        new.c.user_id,
        bindparam("service_id", type_=BigInteger()),
        bindparam("key", type_=String()),
        bindparam("notification_id", type_=BigInteger()),
    )
    return insert(collapse_keys).from_select(["user_id", "service_id", "key", "notification_id"], chosen)


def restore(connection: Connection, revived: Sequence[tuple[int, str]]) -> None:
    """Record items that have come back from the archive, by the ids of their users and notifications."""
    connection.execute(_restore(connection.dialect.name), {"rows": dumps(revived)})


@cache
def _restore(dialect: str) -> Any:
    statement = (postgresql if dialect == "postgresql" else sqlite).insert(collapse_keys)
    wanted = rows(dialect, user_id=BigInteger(), uuid=String())
    chosen = (
        select(wanted.c.user_id, notifications.c.service_id, notifications.c.collapse_key, notifications.c.id)
        .join_from(wanted, notifications, notifications.c.uuid == wanted.c.uuid)
        .where(notifications.c.collapse_key.is_not(None))
    )
    columns = ["user_id", "service_id", "key", "notification_id"]
    return statement.from_select(columns, chosen).on_conflict_do_nothing()
