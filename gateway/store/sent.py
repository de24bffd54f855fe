"""Sent notifications, as their senders see them. Functions take a connection and never commit."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, literal, or_, select

from gateway.database.models import DELIVERED, items, notifications, users
from gateway.protocol.items import CONTENT_FIELDS, MAX_SEQ, Content
from gateway.store.log import ITEM_COLUMNS

MAX_SCANNED = 2_000
"""Maximum number of notifications that one page searches. The page then ends with a cursor."""

MAX_CHARACTERS = 100_000
"""Number of characters of contents at which a page ends: encoding it must not hold up others."""


class Sending(NamedTuple):
    """A notification as it was sent, without counts of what became of it. Times are in ms."""

    key: int
    service_id: int
    state: int
    recipients: int
    muted: int
    deliver_at: int | None
    ttl: int | None
    collapse_key: str | None
    content: Content


class Reach(NamedTuple):
    """How many recipients a notification reached, and how many of them acknowledged, saw and read it."""

    reached: int
    delivered: int
    seen: int
    read: int


class Filter(NamedTuple):
    """The filter of a page of sent notifications. They have a key below `before`."""

    service_id: int | None
    limit: int
    before: int = MAX_SEQ
    category: str | None = None
    state: int | None = None


class SentPage(NamedTuple):
    """A page, newest first, and the cursor of the next one or None."""

    sent: list[Sending]
    next: int | None


def find_sent(connection: Connection, uuid: str) -> tuple[Sending, Reach] | None:
    """Return a notification with its counts, or None.

    Delivered: a client of the recipient has acknowledged it. Seen: the recipient's seen mark covers it, or it
    was read. A deleted item counts in the state it had.
    """
    row = connection.execute(_SELECT_SENT.where(notifications.c.uuid == bindparam("uuid")), {"uuid": uuid})
    found = row.one_or_none()
    if found is None:
        return None
    sent = _to_sending(found)
    number, delivered, seen, read = connection.execute(_COUNT_SENT, {"key": sent.key}).one()
    # Without an item it was never delivered. The items of some recipients may have been purged.
    reached = sent.recipients - sent.muted if number else 0
    return sent, Reach(reached, delivered, seen, read)


_SELECT_SENT = select(
    notifications.c.id,
    notifications.c.service_id,
    notifications.c.state,
    notifications.c.recipients,
    notifications.c.muted,
    notifications.c.deliver_at,
    notifications.c.ttl,
    notifications.c.collapse_key,
    *ITEM_COLUMNS[:CONTENT_FIELDS],
)


def _to_sending(row: Sequence[Any]) -> Sending:
    key, service_id, state, recipients, muted, deliver_at, ttl, collapse_key, *content = row
    return Sending(
        key, service_id, state, recipients, muted, deliver_at, ttl, collapse_key, Content(*content)
    )


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count().filter(condition)


_COUNT_SENT = (
    select(
        func.count(),
        _count(items.c.created_seq <= users.c.delivered_seq),
        _count(or_(items.c.created_seq <= users.c.seen_seq, items.c.read_at.is_not(None))),
        _count(items.c.read_at.is_not(None)),
    )
    .join_from(items, users, items.c.user_id == users.c.id)
    .where(items.c.notification_id == bindparam("key"))
)


def list_sent(connection: Connection, query: Filter) -> SentPage:
    """Return a page of sent notifications. It searches at most `MAX_SCANNED` of them.

    A page with long contents ends early, with a cursor.
    """
    last = None
    if query.category is None and query.state != DELIVERED:
        page = _range(query).limit(query.limit + 1)
    else:
        columns = (notifications.c.id, notifications.c.category, notifications.c.state)
        searched = _range(query, *columns).limit(MAX_SCANNED).subquery()
        number, last = connection.execute(
            select(func.count(), func.min(searched.c.id)), {"before": query.before}
        ).one()
        last = last if number == MAX_SCANNED else None
        keys = select(searched.c.id)
        if query.category is not None:
            keys = keys.where(searched.c.category == query.category)
        if query.state is not None:
            keys = keys.where(searched.c.state == query.state)
        page = _SELECT_SENT.where(notifications.c.id.in_(keys)).order_by(notifications.c.id.desc())
        page = page.limit(query.limit + 1)
    found = [_to_sending(row) for row in connection.execute(page, {"before": query.before})]
    sent = found[: _fitting(found[: query.limit])]
    return SentPage(sent, sent[-1].key if len(sent) < len(found) else last)


def _fitting(found: Sequence[Sending]) -> int:
    """Return how many of these notifications a page holds: at least one, if there is one."""
    left = MAX_CHARACTERS
    for number, one in enumerate(found):
        left -= _characters(one.content)
        if left < 0 and number:
            return number
    return len(found)


def _characters(content: Content) -> int:
    texts = (content.title, content.body, content.url, content.data, content.icon, content.actions)
    return sum(len(text) for text in texts if text is not None)


def _range(query: Filter, *columns: ColumnElement[Any]) -> Select[Any]:
    """Return the query of a range of an index, by service or by state."""
    found = (select(*columns) if columns else _SELECT_SENT).where(notifications.c.id < bindparam("before"))
    if query.service_id is not None:
        found = found.where(notifications.c.service_id == query.service_id)
    # Nearly all are delivered: no index has only these.
    if query.state is not None and query.state != DELIVERED:
        # The condition of the indexes on the state, which SQLite must find in the query.
        not_delivered = notifications.c.state != literal(DELIVERED, literal_execute=True)
        found = found.where(notifications.c.state == query.state, not_delivered)
    return found.order_by(notifications.c.id.desc())
