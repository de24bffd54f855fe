"""The schedule: posts that are delivered later. Until then they have no item, no `seq` and no count.

Functions take a connection and never commit. They take positions whose rows the transaction has locked.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    String,
    and_,
    delete,
    exists,
    insert,
    select,
    tuple_,
)

from gateway.database.models import DELIVER, EXPIRE, SCHEDULED, notifications, scheduled_recipients
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps
from gateway.store import due_work
from gateway.store.arrivals import Post, insert_notifications
from gateway.store.collapse_keys import Keyed
from gateway.store.notification_rows import end_before_delivery, lock_rows
from gateway.store.positions import Positions


def add(connection: Connection, posts: Sequence[Post], positions: Positions, now: int) -> None:
    """Store scheduled posts. One with a collapse key replaces the scheduled one of it. `now` is in ms."""
    keyed = _keyed(posts, positions)
    if keyed:
        _remove(connection, keyed, now)
    keys = insert_notifications(connection, posts)
    # Of several posts with one key, the last one has the recipient.
    last = {one: post.content.id for post in posts for one in _keyed([post], positions)}
    recipients, work, superseded = [], [], []
    for post in posts:
        key, options = keys[post.content.id], post.options
        if options is None or options.deliver_at is None:
            raise AssertionError("a scheduled post has a time of delivery")
        left = [
            position.user_id
            for position in map(positions.by_sub.__getitem__, post.recipients)
            if options.collapse_key is None
            or last[position.user_id, post.service_id, options.collapse_key] == post.content.id
        ]
        recipients += [(key, user_id, post.service_id, options.collapse_key) for user_id in left]
        work.append((key, DELIVER, options.deliver_at))
        if post.content.expires_at is not None:
            work.append((key, EXPIRE, post.content.expires_at))
        if not left:
            superseded.append(key)
    if recipients:
        connection.execute(_insert_recipients(connection.dialect.name), {"rows": dumps(recipients)})
    due_work.add_all(connection, work)
    end_before_delivery(connection, superseded, now)


def _keyed(posts: Sequence[Post], positions: Positions) -> list[Keyed]:
    """Return the collapse keys of these posts, one for each recipient."""
    return [
        (positions.by_sub[sub].user_id, post.service_id, post.options.collapse_key)
        for post in posts
        if post.options is not None and post.options.collapse_key is not None
        for sub in post.recipients
    ]


@cache
def _insert_recipients(dialect: str) -> Any:
    number = BigInteger()
    new = rows(dialect, notification_id=number, user_id=number, service_id=number, collapse_key=String())
    return insert(scheduled_recipients).from_select([column.name for column in new.c], select(new))


def _remove(connection: Connection, keyed: Sequence[Keyed], now: int) -> None:
    """Remove the recipients of these keys. Cancel the notifications that have no recipient left."""
    dialect = connection.dialect.name
    wanted = {"rows": dumps(keyed)}
    earlier = set(connection.scalars(_select_earlier(dialect), wanted))
    if not earlier:
        return
    # Who cancels or delivers one locks it first, and deletes its list of recipients then.
    locked = lock_rows(connection, earlier)
    connection.execute(_delete_earlier(dialect), wanted)
    left = exists().where(scheduled_recipients.c.notification_id == notifications.c.id)
    empty = connection.scalars(select(notifications.c.id).where(notifications.c.id.in_(earlier), ~left))
    end_before_delivery(connection, [key for key in empty if locked[key].state == SCHEDULED], now)


@cache
def _select_earlier(dialect: str) -> Select[Any]:
    return _earlier(dialect, scheduled_recipients.c.notification_id)


@cache
def _delete_earlier(dialect: str) -> Any:
    key = (scheduled_recipients.c.notification_id, scheduled_recipients.c.user_id)
    return delete(scheduled_recipients).where(tuple_(*key).in_(_earlier(dialect, *key)))


def _earlier(dialect: str, *columns: ColumnElement[Any]) -> Select[Any]:
    wanted = rows(dialect, user_id=BigInteger(), service_id=BigInteger(), key=String())
    return select(*columns).join_from(
        wanted,
        scheduled_recipients,
        and_(
            scheduled_recipients.c.user_id == wanted.c.user_id,
            scheduled_recipients.c.service_id == wanted.c.service_id,
            scheduled_recipients.c.collapse_key == wanted.c.key,
            # The condition of the index.
            scheduled_recipients.c.collapse_key.is_not(None),
        ),
    )


def earlier_of(connection: Connection, posts: Sequence[Post], positions: Positions) -> set[int]:
    """Return the keys of the notifications that these scheduled posts replace."""
    keyed = _keyed(posts, positions)
    if not keyed:
        return set()
    return set(connection.scalars(_select_earlier(connection.dialect.name), {"rows": dumps(keyed)}))


def recipients_of(connection: Connection, keys: Sequence[int]) -> dict[int, list[int]]:
    """Return the ids of the users to whom scheduled notifications will be delivered, by key."""
    found: dict[int, list[int]] = {}
    for key, user_id in connection.execute(
        select(scheduled_recipients.c.notification_id, scheduled_recipients.c.user_id)
        .where(scheduled_recipients.c.notification_id.in_(keys))
        .order_by(scheduled_recipients.c.notification_id, scheduled_recipients.c.user_id)
    ):
        found.setdefault(key, []).append(user_id)
    return found


def remove_recipients(connection: Connection, keys: Sequence[int]) -> None:
    """Delete the list of recipients of notifications that are delivered now."""
    connection.execute(delete(scheduled_recipients).where(scheduled_recipients.c.notification_id.in_(keys)))
