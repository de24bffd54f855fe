"""The SQL of erasure, in small steps. Each function is a unit of work; none commits.

It begins with `users.release_user`, which frees the name.
"""

from collections.abc import Collection

from sqlalchemy import Connection, delete, exists, select

from gateway.database.models import items, notifications, sessions, users
from gateway.database.units import background


def released_users(connection: Connection) -> list[int]:
    """Return the users whose erasure has begun."""
    return list(connection.scalars(select(users.c.id).where(users.c.sub.is_(None))))


@background
def erase_some(connection: Connection, user_id: int, limit: int = 1000) -> bool:
    """Erase up to `limit` items of a released user, and return whether there are more.

    Notifications that nobody else has go with them. Small steps keep the lock of the database short. The
    empty row goes with the last of its sessions, which other processes may still have to notice.
    """
    connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update())
    oldest = select(items.c.created_seq, items.c.notification_id).where(items.c.user_id == user_id)
    chunk = connection.execute(oldest.order_by(items.c.created_seq).limit(limit)).all()
    if chunk:
        last = chunk[-1].created_seq
        connection.execute(delete(items).where(items.c.user_id == user_id, items.c.created_seq <= last))
        remove_unheld(connection, {row.notification_id for row in chunk})
    if len(chunk) == limit:
        return True
    alive = exists().where(sessions.c.user_id == users.c.id)
    connection.execute(delete(users).where(users.c.id == user_id, users.c.sub.is_(None), ~alive))
    return False


def remove_unheld(connection: Connection, keys: Collection[int]) -> None:
    """Remove those of the notifications that nobody has any more; call it after their items are removed.

    Of two transactions that remove the last two items of one, each would still see the other's: so they wait
    for each other at its row, in one order.
    """
    posted = notifications.c.id.in_(keys)
    connection.execute(
        select(notifications.c.id).where(posted).order_by(notifications.c.id).with_for_update()
    )
    had = exists().where(items.c.notification_id == notifications.c.id)
    connection.execute(delete(notifications).where(posted, ~had))


@background
def sweep(connection: Connection, _now_ms: int) -> bool:
    """Delete the rows of erased users that have no item and no session left; none remain after one sweep."""
    empty = (
        users.c.sub.is_(None),
        ~exists().where(items.c.user_id == users.c.id),
        ~exists().where(sessions.c.user_id == users.c.id),
    )
    # A locked row is left to the next sweep: waiting for it here could close a circle.
    erased = select(users.c.id).where(*empty).with_for_update(skip_locked=True)
    connection.execute(delete(users).where(users.c.id.in_(erased.scalar_subquery())))
    return False
