"""The SQL of erasing users, in small steps. Each function is a unit of work; none commits.

An erasure begins with `users.release_user`, which frees the `sub`.
"""

from collections.abc import Collection

from sqlalchemy import Connection, delete, exists, select

from gateway.database.models import items, notifications, scheduled_recipients, sessions, users
from gateway.database.units import background


def released_users(connection: Connection) -> list[int]:
    """Return the ids of the users whose erasure has begun."""
    return list(connection.scalars(select(users.c.id).where(users.c.sub.is_(None))))


@background
def erase_some(connection: Connection, user_id: int, limit: int = 1000) -> bool:
    """Erase up to `limit` items of a released user, and as many scheduled. Return whether there are more.

    Notifications without another recipient are deleted with them. Small steps keep the database lock short.
    The user's row is deleted once it has no sessions: other processes may still have to notice their end.
    """
    connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update())
    oldest = select(items.c.created_seq, items.c.notification_id).where(items.c.user_id == user_id)
    chunk = connection.execute(oldest.order_by(items.c.created_seq).limit(limit)).all()
    waits = select(scheduled_recipients.c.notification_id).where(scheduled_recipients.c.user_id == user_id)
    scheduled = connection.scalars(waits.limit(limit)).all()
    keys = {*scheduled, *(row.notification_id for row in chunk)}
    if keys:
        # Who cancels or delivers a scheduled one locks it before its list of recipients.
        _lock(connection, keys)
        connection.execute(
            delete(scheduled_recipients).where(
                scheduled_recipients.c.user_id == user_id,
                scheduled_recipients.c.notification_id.in_(scheduled),
            )
        )
        last = chunk[-1].created_seq if chunk else 0
        connection.execute(delete(items).where(items.c.user_id == user_id, items.c.created_seq <= last))
        remove_unheld(connection, keys)
    if limit in {len(chunk), len(scheduled)}:
        return True
    alive = exists().where(sessions.c.user_id == users.c.id)
    connection.execute(delete(users).where(users.c.id == user_id, users.c.sub.is_(None), ~alive))
    return False


def remove_unheld(connection: Connection, keys: Collection[int]) -> None:
    """Delete those of the notifications that have no item left. Call it after you have deleted their items.

    Two transactions that delete the last two items of a notification would each still see the other's item.
    So each locks the notifications' rows first, in the order of their keys, and waits for the other.
    """
    _lock(connection, keys)
    had = exists().where(items.c.notification_id == notifications.c.id)
    waits = exists().where(scheduled_recipients.c.notification_id == notifications.c.id)
    connection.execute(delete(notifications).where(notifications.c.id.in_(keys), ~had, ~waits))


def _lock(connection: Connection, keys: Collection[int]) -> None:
    these = notifications.c.id.in_(keys)
    connection.execute(
        select(notifications.c.id).where(these).order_by(notifications.c.id).with_for_update(key_share=True)
    )


@background
def sweep(connection: Connection, _now_ms: int) -> bool:
    """Delete the rows of erased users without items and sessions. Return False: one call deletes them all."""
    empty = (
        users.c.sub.is_(None),
        ~exists().where(items.c.user_id == users.c.id),
        ~exists().where(scheduled_recipients.c.user_id == users.c.id),
        ~exists().where(sessions.c.user_id == users.c.id),
    )
    # Leave locked rows to the next sweep, because waiting for them could deadlock.
    erased = select(users.c.id).where(*empty).with_for_update(skip_locked=True)
    connection.execute(delete(users).where(users.c.id.in_(erased.scalar_subquery())))
    return False
