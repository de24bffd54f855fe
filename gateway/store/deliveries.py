"""Deliveries: scheduled notifications that are due enter the logs of their recipients.

Functions take a connection and never commit. They take positions whose rows the transaction has locked.
"""

from collections.abc import Container, Sequence

from sqlalchemy import Connection

from gateway.database.models import DELIVERED, EXPIRE, EXPIRED, FORGET, SCHEDULED
from gateway.store import schedule
from gateway.store.arrivals import Arrival, enter
from gateway.store.due_work import Due, add_all, finish, put_off
from gateway.store.entries import Entry
from gateway.store.notification_rows import KEPT_MS, Row, end_before_delivery, store_delivered
from gateway.store.positions import Positions


def deliver(
    connection: Connection,
    due: Sequence[Due],
    locked: dict[int, Row],
    positions: Positions,
    now: int,
    followed: Container[int],
    required: Container[str],
) -> list[Entry]:
    """Deliver scheduled notifications, in the order in which they are due."""
    ready: list[Row] = []
    done: list[Due] = []
    expired: list[int] = []
    for one in due:
        row = locked[one.key]
        if row.state != SCHEDULED:
            done.append(one)
        elif row.content.expires_at is not None and row.content.expires_at <= now:
            expired.append(one.key)
            locked[one.key] = row._replace(state=EXPIRED)
        elif row.deliver_at is not None and row.deliver_at > now:
            put_off(connection, one.id, row.deliver_at)
        else:
            locked[one.key] = _delivered(row, now)
            ready.append(locked[one.key])
            done.append(one)
    end_before_delivery(connection, expired, now, EXPIRED)
    finish(connection, done)
    if not ready:
        return []
    keys = [row.key for row in ready]
    recipients = schedule.recipients_of(connection, keys)
    schedule.remove_recipients(connection, keys)
    store_delivered(connection, ready, recipients)
    add_all(
        connection,
        [
            (row.key, EXPIRE, row.content.expires_at)
            for row in ready
            if row.ttl is not None and row.content.expires_at is not None
        ],
    )
    # The recipients of these have all been erased.
    add_all(connection, [(row.key, FORGET, now + KEPT_MS) for row in ready if row.key not in recipients])
    arrivals: list[Arrival] = [
        (
            row.content,
            row.key,
            [positions.by_id[user] for user in recipients.get(row.key, ()) if user in positions.by_id],
            row.service_id,
            row.collapse_key,
        )
        for row in ready
    ]
    return enter(connection, arrivals, followed, now, required)


def _delivered(row: Row, now: int) -> Row:
    """Return a scheduled notification as it is once delivered: it is as old as its delivery."""
    expires_at = row.content.expires_at if row.ttl is None else now + row.ttl * 1000
    content = row.content._replace(created_at=now, expires_at=expires_at)
    return row._replace(state=DELIVERED, content=content)
