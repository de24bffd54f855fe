"""Sent notifications, with delivery counts for the sender. Functions take a connection and never commit."""

from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, bindparam, func, or_, select

from gateway.database.models import items, notifications, users
from gateway.protocol.items import CONTENT_FIELDS, Content
from gateway.store.log import ITEM_COLUMNS


class SentNotification(NamedTuple):
    """A notification as its sender sees it: the numbers of recipients, and of those it reached."""

    content: Content
    service_id: int
    recipients: int
    delivered: int
    seen: int
    read: int


def find_sent(connection: Connection, uuid: str) -> SentNotification | None:
    """Return a notification with its counts, or None.

    Delivered: a client of the recipient has acknowledged it. Seen: the recipient's seen mark covers it, or it
    was read. A deleted item counts in the state it had.
    """
    row = connection.execute(_SELECT_SENT, {"uuid": uuid}).one_or_none()
    if row is None:
        return None
    *content, key, service_id, recipients = row
    delivered, seen, read = connection.execute(_COUNT_SENT, {"key": key}).one()
    return SentNotification(Content(*content), service_id, recipients, delivered, seen, read)


_SELECT_SENT = select(
    *ITEM_COLUMNS[:CONTENT_FIELDS], notifications.c.id, notifications.c.service_id, notifications.c.recipients
).where(notifications.c.uuid == bindparam("uuid"))


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count().filter(condition)


_COUNT_SENT = (
    select(
        _count(items.c.created_seq <= users.c.delivered_seq),
        _count(or_(items.c.created_seq <= users.c.seen_seq, items.c.read_at.is_not(None))),
        _count(items.c.read_at.is_not(None)),
    )
    .join_from(items, users, items.c.user_id == users.c.id)
    .where(items.c.notification_id == bindparam("key"))
)
