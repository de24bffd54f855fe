"""The life of a posted notification: its sender edits it, or takes it back.

The row of the notification changes at once. Its items follow in steps (`due_steps`), with posts in between.
The content of one that is taken back is erased with its last item: until then, the users whose turn is yet to
come have it, as their counts and their logs say.
Functions take a connection and never commit.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, exists, or_, select

from gateway.database.models import (
    CANCELLED,
    DELIVER,
    DELIVERED,
    EXPIRE,
    EXPIRED,
    REENTER,
    SCHEDULED,
    TOUCH,
    UNSENT,
    WITHDRAW,
    due_work,
    items,
    notifications,
)
from gateway.errors import GatewayError, Invalid, NotFound, PreconditionFailed
from gateway.store import due_work as work
from gateway.store.due_work import Due
from gateway.store.notification_rows import Row, end_before_delivery, lock_row, save
from gateway.store.refusals import AlreadyDelivered, NotificationEnded

LEASE_MS = 5_000
"""How long the process that began a change to many inboxes has for each step, before others take it over."""


class Edit(NamedTuple):
    """A change of a notification's content for all its recipients, by its service, or by any if None.

    `values` are columns of the notification; times are in ms. With `renotify` its items enter again.
    """

    caller: int
    service_id: int | None
    uuid: str
    values: Mapping[str, Any]
    renotify: bool = False


class Withdrawal(NamedTuple):
    """Takes a notification back, by its service, or by any if None; with `scheduled` only before delivery."""

    caller: int
    service_id: int | None
    uuid: str
    scheduled: bool = False


class Begun(NamedTuple):
    """The result of a change: the state that it answers with, and the steps that are left to do."""

    state: int
    due: tuple[Due, ...] = ()


def edit(connection: Connection, change: Edit, now: int) -> Begun | GatewayError:
    """Change the content of a notification. `now` is in ms."""
    row = _own(connection, change)
    if row is None:
        return NotFound(_NO_NOTIFICATION)
    values = dict(change.values)
    if row.state == SCHEDULED:
        if error := _never_delivered(row, values):
            return error
        _edit_scheduled(connection, row, values)
        return Begun(row.state)
    if row.state != DELIVERED:
        return NotificationEnded(f"It is {STATES[row.state]}, and in no inbox any more: post a new one.")
    if "deliver_at" in values:
        return AlreadyDelivered("It is delivered: leave deliver_at out, or unsend it and post a new one.")
    save(connection, row.key, values | {"edited_at": now})
    if "expires_at" in values:
        _expire_at(connection, row, values["expires_at"])
    return Begun(row.state, (_begin(connection, REENTER if change.renotify else TOUCH, row, now),))


def _never_delivered(row: Row, values: Mapping[str, Any]) -> Invalid | None:
    """Return the error if a scheduled notification would expire before its delivery, or None."""
    deliver_at = values.get("deliver_at", row.deliver_at)
    expires_at = values.get("expires_at", row.content.expires_at)
    if deliver_at is None or expires_at is None or deliver_at < expires_at:
        return None
    if "expires_at" in values:
        return Invalid.field("expires_at", "it must be later than deliver_at")
    return Invalid.field("deliver_at", "it must be earlier than expires_at")


def _edit_scheduled(connection: Connection, row: Row, values: Mapping[str, Any]) -> None:
    changed = dict(values)
    if "expires_at" in values:
        # It replaces a time to live.
        changed["ttl"] = None
        _expire_at(connection, row, values["expires_at"])
    save(connection, row.key, changed)
    if "deliver_at" in values:
        work.cancel(connection, (row.key,), (DELIVER,))
        work.add(connection, DELIVER, values["deliver_at"], row.key)


def _expire_at(connection: Connection, row: Row, moment: int | None) -> None:
    work.cancel(connection, (row.key,), (EXPIRE,))
    if moment is not None:
        work.add(connection, EXPIRE, moment, row.key)


def withdraw(connection: Connection, change: Withdrawal, now: int) -> Begun | GatewayError:
    """Take a notification back. Repeating it changes nothing. `now` is in ms.

    One that has expired stays so. It is answered like one that was taken back when it expired.
    """
    row = _own(connection, change)
    if row is None:
        return NotFound(_NO_NOTIFICATION)
    if row.state == SCHEDULED:
        end_before_delivery(connection, (row.key,), now)
        return Begun(CANCELLED)
    state = row.state
    if state == EXPIRED:
        state = UNSENT if _was_delivered(connection, row) else CANCELLED
    if change.scheduled and state != CANCELLED:
        return PreconditionFailed(f"It is not scheduled any more, but {STATES[row.state]}.")
    if state != DELIVERED:
        return Begun(state, _unfinished(connection, row))
    save(connection, row.key, {"state": UNSENT})
    work.cancel(connection, (row.key,), (EXPIRE, TOUCH, REENTER))
    return Begun(UNSENT, (_begin(connection, WITHDRAW, row, now),))


def _was_delivered(connection: Connection, row: Row) -> bool:
    """Whether the notification has items, be they deleted, or had recipients who have muted it.

    When the last of its items is purged, its row is deleted.
    """
    has_items = exists().where(items.c.notification_id == row.key)
    delivered = select(or_(notifications.c.muted > 0, has_items)).where(notifications.c.id == row.key)
    return bool(connection.scalar(delivered))


def _own(connection: Connection, change: Edit | Withdrawal) -> Row | None:
    row = lock_row(connection, change.uuid)
    return row if row is not None and change.service_id in {None, row.service_id} else None


def _begin(connection: Connection, kind: int, row: Row, now: int) -> Due:
    due_at = now + LEASE_MS
    number = work.add(connection, kind, due_at, row.key)
    return Due(number, kind, row.key, None, 0, row.recipients, due_at)


def _unfinished(connection: Connection, row: Row) -> tuple[Due, ...]:
    """Return the steps that an earlier request has left, so that this one answers when all are done."""
    found = connection.execute(
        work.SELECT.where(due_work.c.notification_id == row.key, due_work.c.kind.in_((WITHDRAW, EXPIRE)))
    )
    return tuple(Due(*one) for one in found)


STATES = ("scheduled", "delivered", "cancelled", "unsent", "expired")
"""The states in the words of the API, by the numbers in the column `state`."""

_NO_NOTIFICATION = "There is no such notification."
