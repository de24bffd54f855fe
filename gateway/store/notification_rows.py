"""The rows of notifications: their state, which a change must lock, and their content.

Functions take a connection and never commit. Lock the rows of users first, then those of notifications in the
order of their keys, then what belongs to these: in any other order two transactions could wait for each other
on Postgres.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, bindparam, delete, or_, select, update

from gateway.database.models import (
    CANCELLED,
    DELIVER,
    EXPIRE,
    FORGET,
    SCHEDULED,
    notifications,
    scheduled_recipients,
)
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps
from gateway.protocol.items import CONTENT_FIELDS, Content
from gateway.store import due_work
from gateway.store.log import ITEM_COLUMNS

KEPT_MS = 30 * 24 * 60 * 60 * 1000
"""How long the sender can look at a notification that has no items and gets none, such as a cancelled one."""


ERASED: dict[str, Any] = {
    "title": "",
    "body": None,
    "url": None,
    "data": None,
    "icon": None,
    "actions": None,
}
"""The content of a notification that nobody has any more."""


class Row(NamedTuple):
    """The row of a notification. `key` is its own, times are in ms, `ttl` is in seconds."""

    key: int
    service_id: int
    state: int
    recipients: int
    deliver_at: int | None
    ttl: int | None
    collapse_key: str | None
    content: Content


_COLUMNS = (
    notifications.c.id,
    notifications.c.service_id,
    notifications.c.state,
    notifications.c.recipients,
    notifications.c.deliver_at,
    notifications.c.ttl,
    notifications.c.collapse_key,
)
_LOCKED = (
    select(*_COLUMNS, *ITEM_COLUMNS[:CONTENT_FIELDS])
    .order_by(notifications.c.id)
    # Other transactions may insert rows that refer to it.
    .with_for_update(key_share=True)
)
_BY_KEY = _LOCKED.where(notifications.c.id.in_(bindparam("keys", expanding=True)))
_BY_UUID = _LOCKED.where(notifications.c.uuid == bindparam("uuid"))


def lock_rows(connection: Connection, keys: Collection[int]) -> dict[int, Row]:
    """Lock notifications until the transaction ends. Return those that exist, by key."""
    return {row.key: row for row in map(_to_row, connection.execute(_BY_KEY, {"keys": sorted(keys)}))}


def lock_row(connection: Connection, uuid: str) -> Row | None:
    """Lock the notification with this id until the transaction ends, or return None."""
    found = connection.execute(_BY_UUID, {"uuid": uuid}).one_or_none()
    return None if found is None else _to_row(found)


def lock_in_order(connection: Connection, keys: Collection[int], uuids: Collection[str]) -> None:
    """Lock notifications until the transaction ends, in the order of their keys.

    A transaction that changes several of them one by one locks them all first.
    """
    # SQLite has locked the whole database.
    if connection.dialect.name != "sqlite" and len(keys) + len(uuids) > 1:
        connection.execute(_IN_ORDER, {"keys": list(keys), "uuids": list(uuids)}).all()


_IN_ORDER = (
    select(notifications.c.id)
    .where(
        or_(
            notifications.c.id.in_(bindparam("keys", expanding=True)),
            notifications.c.uuid.in_(bindparam("uuids", expanding=True)),
        )
    )
    .order_by(notifications.c.id)
    .with_for_update(key_share=True)
)


def _to_row(found: Sequence[Any]) -> Row:
    key, service_id, state, recipients, deliver_at, ttl, collapse_key, *content = found
    return Row(key, service_id, state, recipients, deliver_at, ttl, collapse_key, Content(*content))


def save(connection: Connection, key: int, values: Mapping[str, Any]) -> None:
    """Change columns of a notification, if there are any to change."""
    if not values:
        return
    connection.execute(update(notifications).where(notifications.c.id == key).values(values))


def store_delivered(
    connection: Connection, delivered: Sequence[Row], recipients: Mapping[int, Sequence[int]]
) -> None:
    """Store scheduled notifications that are delivered now, with the times of their delivery and expiry.

    `recipients` are those that are left, by the key of the notification.
    """
    new = [
        (
            row.key,
            row.state,
            row.content.created_at,
            row.content.expires_at,
            row.recipients - len(recipients.get(row.key, ())),
        )
        for row in delivered
    ]
    connection.execute(_update_delivered(connection.dialect.name), {"rows": dumps(new)})


@cache
def _update_delivered(dialect: str) -> Any:
    number = BigInteger()
    new = rows(dialect, id=number, state=number, created_at=number, expires_at=number, missed=number)
    return (
        update(notifications)
        .where(notifications.c.id == new.c.id)
        .values({name: new.c[name] for name in ("state", "created_at", "expires_at", "missed")})
    )


def store_muted(connection: Connection, muted: Sequence[tuple[int, int]]) -> None:
    """Store how many recipients have muted each of these notifications: pairs of a key and a number."""
    connection.execute(_update_muted(connection.dialect.name), {"rows": dumps(muted)})


@cache
def _update_muted(dialect: str) -> Any:
    new = rows(dialect, id=BigInteger(), muted=BigInteger())
    return update(notifications).where(notifications.c.id == new.c.id).values(muted=new.c.muted)


def erase_content(connection: Connection, keys: Collection[int]) -> None:
    """Erase the content of notifications that nobody has any more."""
    connection.execute(update(notifications).where(notifications.c.id.in_(keys)).values(ERASED))


def end_before_delivery(
    connection: Connection, keys: Collection[int], now: int, state: int = CANCELLED
) -> None:
    """End scheduled notifications, if there are any: they are never delivered. `now` is in ms."""
    if not keys:
        return
    connection.execute(delete(scheduled_recipients).where(scheduled_recipients.c.notification_id.in_(keys)))
    due_work.cancel(connection, keys, (DELIVER, EXPIRE))
    connection.execute(
        update(notifications).where(notifications.c.id.in_(keys)).values(ERASED | {"state": state})
    )
    due_work.add_all(connection, [(key, FORGET, now + KEPT_MS) for key in keys])


def forget(connection: Connection, keys: Collection[int]) -> None:
    """Delete notifications without items, and without recipients who still wait for them."""
    connection.execute(
        delete(notifications).where(notifications.c.id.in_(keys), notifications.c.state != SCHEDULED)
    )
