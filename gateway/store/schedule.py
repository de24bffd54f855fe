"""The schedule: posts that are delivered later. Until then they have no item, no `seq` and no count.

Functions take a connection and never commit. They take positions whose rows the transaction has locked.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, String, delete, exists, insert, select, tuple_

from gateway.database.models import DELIVER, EXPIRE, notifications, scheduled_recipients
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps
from gateway.store import due_work
from gateway.store.arrivals import Post, insert_notifications
from gateway.store.notification_rows import end_before_delivery, lock_rows
from gateway.store.positions import Positions


def add(connection: Connection, posts: Sequence[Post], positions: Positions, now: int) -> None:
    """Store scheduled posts. One with a collapse key replaces the scheduled one of it. `now` is in ms."""
    plain = []
    for post in posts:
        if post.options is None or post.options.collapse_key is None:
            plain.append(post)
            continue
        user_ids = [positions.by_sub[sub].user_id for sub in post.recipients]
        _replace(connection, post.service_id, post.options.collapse_key, user_ids, now)
        # Alone, so that a later one of the same transaction finds it.
        _insert(connection, [post], positions)
    if plain:
        _insert(connection, plain, positions)


def _insert(connection: Connection, posts: Sequence[Post], positions: Positions) -> None:
    keys = insert_notifications(connection, posts)
    recipients, work = [], []
    for post in posts:
        key, options = keys[post.content.id], post.options
        if options is None or options.deliver_at is None:
            raise AssertionError("a scheduled post has a time of delivery")
        recipients += [
            (key, positions.by_sub[sub].user_id, post.service_id, options.collapse_key)
            for sub in post.recipients
        ]
        work.append((key, DELIVER, options.deliver_at))
        if post.content.expires_at is not None:
            work.append((key, EXPIRE, post.content.expires_at))
    connection.execute(_insert_recipients(connection.dialect.name), {"rows": dumps(recipients)})
    due_work.add_all(connection, work)


@cache
def _insert_recipients(dialect: str) -> Any:
    number = BigInteger()
    new = rows(dialect, notification_id=number, user_id=number, service_id=number, collapse_key=String())
    return insert(scheduled_recipients).from_select([column.name for column in new.c], select(new))


def _replace(connection: Connection, service_id: int, key: str, user_ids: Sequence[int], now: int) -> None:
    """Remove these users from the scheduled notifications of a key. Cancel one that has no recipient left."""
    dialect = connection.dialect.name
    wanted = {"rows": dumps([(user_id, service_id, key) for user_id in user_ids])}
    earlier = set(connection.scalars(_select_earlier(dialect), wanted))
    if not earlier:
        return
    # Who cancels or delivers one locks it first, and deletes its list of recipients then.
    lock_rows(connection, earlier)
    connection.execute(_delete_earlier(dialect), wanted)
    left = exists().where(scheduled_recipients.c.notification_id == notifications.c.id)
    empty = connection.scalars(select(notifications.c.id).where(notifications.c.id.in_(earlier), ~left)).all()
    end_before_delivery(connection, empty, now)


@cache
def _select_earlier(dialect: str) -> Any:
    return select(scheduled_recipients.c.notification_id).where(*_of_keys(dialect))


@cache
def _delete_earlier(dialect: str) -> Any:
    return delete(scheduled_recipients).where(*_of_keys(dialect))


def _of_keys(dialect: str) -> tuple[ColumnElement[bool], ...]:
    wanted = rows(dialect, user_id=BigInteger(), service_id=BigInteger(), key=String())
    row = (
        scheduled_recipients.c.user_id,
        scheduled_recipients.c.service_id,
        scheduled_recipients.c.collapse_key,
    )
    return scheduled_recipients.c.collapse_key.is_not(None), tuple_(*row).in_(select(wanted))


def earlier_of(connection: Connection, posts: Sequence[Post], positions: Positions) -> set[int]:
    """Return the keys of the notifications that these scheduled posts replace."""
    wanted = [
        (positions.by_sub[sub].user_id, post.service_id, post.options.collapse_key)
        for post in posts
        if post.options is not None and post.options.collapse_key is not None
        for sub in post.recipients
    ]
    if not wanted:
        return set()
    return set(connection.scalars(_select_earlier(connection.dialect.name), {"rows": dumps(wanted)}))


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
