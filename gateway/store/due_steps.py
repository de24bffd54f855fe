"""The steps of due work: deliver, expire, withdraw, edit and wake.

A step first names the users whose rows the transaction must lock (`users_of`). Then it looks again whether
its row of due work is still there: another process may have been faster. Work whose time has not come waits:
the clock may have been set back since it was found.

Functions take a connection and never commit.
"""

from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, delete, select, update

from gateway.database.models import (
    DELIVER,
    DELIVERED,
    EXPIRE,
    EXPIRED,
    FORGET,
    REENTER,
    SCHEDULED,
    TOUCH,
    WAKE,
    WITHDRAW,
    due_work,
    items,
    notifications,
)
from gateway.protocol.items import Item
from gateway.store import schedule
from gateway.store.deliveries import deliver
from gateway.store.due_work import Due, add, put_off
from gateway.store.entries import Entry
from gateway.store.lifecycle import LEASE_MS
from gateway.store.log import ITEM_COLUMNS, to_item
from gateway.store.notification_rows import (
    KEPT_MS,
    Row,
    end_before_delivery,
    erase_content,
    forget,
    lock_rows,
    save,
)
from gateway.store.numbering import StoredItem, number, number_again, store, store_again
from gateway.store.positions import Position, Positions
from gateway.store.preferences import is_quiet

STEP = 250
"""Maximum number of inboxes that one step changes. Posts of others get their turn between the steps."""


class Advance(NamedTuple):
    """Due work to do in one transaction: several small ones, or one step of a large one.

    `caller` is who waits for its turn: a service, or 0 for the schedule.
    """

    due: tuple[Due, ...]
    caller: int = 0


class Advanced(NamedTuple):
    """The result of a step: the due work that has more steps."""

    rest: tuple[Due, ...]


def users_of(connection: Connection, work: Advance) -> set[int]:
    """Return the ids of the users whose inboxes the step changes."""
    users = {one.user_id for one in work.due if one.user_id is not None}
    scheduled = [one.key for one in work.due if one.kind == DELIVER]
    if scheduled:
        for user_ids in schedule.recipients_of(connection, scheduled).values():
            users.update(user_ids)
    for one in work.due:
        if one.kind in _EACH_ITEM:
            users.update(connection.scalars(_SELECT_USERS, _range_of(one)))
    return users


def advance(
    connection: Connection,
    work: Advance,
    positions: Positions,
    now: int,
    followed: Container[int],
    required: Container[str] = (),
) -> tuple[Advanced, list[Entry]]:
    """Do the step, and return the entries of the users whose ids are `followed`. `now` is in ms."""
    locked = lock_rows(connection, {one.key for one in work.due})
    done_up_to = _lock_due(connection, work.due)
    left = [one for one in work.due if one.id in done_up_to]
    entries = deliver(
        connection, [one for one in left if one.kind == DELIVER], locked, positions, now, followed, required
    )
    rest = []
    for one in left:
        if one.after != done_up_to[one.id]:
            # Another process has done this step. Its users have their numbers.
            rest.append(one._replace(after=done_up_to[one.id]))
        elif one.kind != DELIVER:
            more, new = _do(connection, one, locked[one.key], positions, now)
            rest += more
            for entry in new:
                entry.service_id = locked[one.key].service_id
            entries += [entry for entry in new if entry.user_id in followed]
    return Advanced(tuple(rest)), entries


def _lock_due(connection: Connection, due: Sequence[Due]) -> dict[int, int]:
    """Lock the rows of due work that are still there. Return the last user done of each, by its id."""
    found = connection.execute(
        select(due_work.c.id, due_work.c.after)
        .where(due_work.c.id.in_([one.id for one in due]))
        .order_by(due_work.c.id)
        .with_for_update()
    )
    return {number: after for number, after in found}  # noqa: C416 - rows are not pairs to a type checker


# --- changes of many items ----------------------------------------------------------------------------------

_EACH_ITEM = frozenset({EXPIRE, WITHDRAW, TOUCH, REENTER})


def _do(
    connection: Connection, one: Due, row: Row, positions: Positions, now: int
) -> tuple[list[Due], list[Entry]]:
    """Do a step of any other work, and return what is left of it, with the new entries."""
    if one.kind == FORGET:
        _finish(connection, one)
        forget(connection, row.key)
        return [], []
    if one.kind == WAKE:
        return [], _wake(connection, one, positions, now)
    if one.kind == EXPIRE and not _expires(connection, one, row, now):
        return [], []
    if one.kind in {TOUCH, REENTER} and row.state != DELIVERED:
        _finish(connection, one)
        return [], []
    return _change_some(connection, one, positions, now)


def _expires(connection: Connection, one: Due, row: Row, now: int) -> bool:
    """Begin the expiry of a notification, and return whether it has items to delete."""
    if row.state == EXPIRED:
        return True
    if row.state not in {SCHEDULED, DELIVERED} or row.content.expires_at is None:
        _finish(connection, one)
        return False
    if row.content.expires_at > now:
        put_off(connection, one.id, row.content.expires_at)
        return False
    if row.state == SCHEDULED:
        end_before_delivery(connection, row, now, EXPIRED)
        return False
    save(connection, row.key, {"state": EXPIRED})
    return True


def _change_some(
    connection: Connection, one: Due, positions: Positions, now: int
) -> tuple[list[Due], list[Entry]]:
    """Change the items of the next users."""
    rows = connection.execute(_SELECT_ITEMS, _range_of(one)).all()
    found: list[tuple[Position, Item]] = []
    for user_id, *row in rows:
        if user_id not in positions.by_id:
            # Items of this step were deleted before their users were locked, and this is one of the next.
            break
        found.append((positions.by_id[user_id], to_item(row)))
    entries = _CHANGES[one.kind](connection, found, now)
    if len(rows) == STEP or len(found) < len(rows):
        after = found[-1][0].user_id if found else one.after
        connection.execute(
            update(due_work).where(due_work.c.id == one.id).values(after=after, due_at=now + LEASE_MS)
        )
        return [one._replace(after=after)], entries
    if one.kind in {EXPIRE, WITHDRAW}:
        erase_content(connection, one.key)
        connection.execute(delete(due_work).where(due_work.c.notification_id == one.key))
        if not one.after and not found:
            add(connection, FORGET, now + KEPT_MS, one.key)
    else:
        _finish(connection, one)
    return [], entries


def _range_of(one: Due) -> dict[str, int]:
    return {"key": one.key, "after": one.after, "limit": STEP}


_NEXT_ITEMS = (
    items.c.notification_id == bindparam("key"),
    items.c.user_id > bindparam("after"),
    items.c.deleted_at.is_(None),
)
_SELECT_USERS = (
    select(items.c.user_id).where(*_NEXT_ITEMS).order_by(items.c.user_id).limit(bindparam("limit"))
)
_SELECT_ITEMS = (
    select(items.c.user_id, *ITEM_COLUMNS)
    .join_from(items, notifications, items.c.notification_id == notifications.c.id)
    .where(*_NEXT_ITEMS)
    .order_by(items.c.user_id)
    .limit(bindparam("limit"))
)


def _delete_all(
    connection: Connection, found: Sequence[tuple[Position, Item]], now: int, reason: str
) -> list[Entry]:
    entries: list[Entry] = []
    changed: list[StoredItem] = []
    for position, item in found:
        tombstone = item._replace(deleted_at=now, deleted_reason=reason, snoozed_until=None)
        entry, stored = number(position, [(item, tombstone)])
        entries.append(entry)
        changed += stored
    if changed:
        store(connection, changed)
    return entries


def _unsend(connection: Connection, found: Sequence[tuple[Position, Item]], now: int) -> list[Entry]:
    return _delete_all(connection, found, now, "unsent")


def _expire(connection: Connection, found: Sequence[tuple[Position, Item]], now: int) -> list[Entry]:
    return _delete_all(connection, found, now, "expired")


def _touch(connection: Connection, found: Sequence[tuple[Position, Item]], _now: int) -> list[Entry]:
    entries: list[Entry] = []
    changed: list[StoredItem] = []
    for position, item in found:
        entry, stored = number(position, [(item, item)])
        entries.append(entry)
        changed += stored
    if changed:
        store(connection, changed)
    return entries


def _reenter(connection: Connection, found: Sequence[tuple[Position, Item]], now: int) -> list[Entry]:
    numbered = [number_again(position, item) for position, item in found]
    if numbered:
        store_again(connection, [row for _, row in numbered])
    for (entry, _), (position, item) in zip(numbered, found, strict=True):
        entry.quiet = is_quiet(position, item.content, now)
    return [entry for entry, _ in numbered]


_CHANGES: dict[int, Callable[[Connection, Sequence[tuple[Position, Item]], int], list[Entry]]] = {
    EXPIRE: _expire,
    WITHDRAW: _unsend,
    TOUCH: _touch,
    REENTER: _reenter,
}


def _wake(connection: Connection, one: Due, positions: Positions, now: int) -> list[Entry]:
    """Let a snoozed item enter again, if it still is snoozed and its time has come."""
    position = positions.by_id.get(one.user_id or 0)
    row = connection.execute(_SELECT_SNOOZED, {"key": one.key, "user_id": one.user_id}).one_or_none()
    item = None if row is None else to_item(row)
    if position is not None and item is not None and item.snoozed_until is not None:
        if item.snoozed_until > now:
            put_off(connection, one.id, item.snoozed_until)
            return []
        _finish(connection, one)
        return _reenter(connection, [(position, item)], now)
    _finish(connection, one)
    return []


_SELECT_SNOOZED = (
    select(*ITEM_COLUMNS)
    .join_from(items, notifications, items.c.notification_id == notifications.c.id)
    .where(
        items.c.notification_id == bindparam("key"),
        items.c.user_id == bindparam("user_id"),
        items.c.deleted_at.is_(None),
    )
)


def _finish(connection: Connection, one: Due) -> None:
    connection.execute(delete(due_work).where(due_work.c.id == one.id))
