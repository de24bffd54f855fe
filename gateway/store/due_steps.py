"""The steps of due work: deliver, expire, withdraw, edit and wake.

A step first names the users whose rows the transaction must lock (`users_of`). Then it looks again whether
its row of due work is still there: another process may have been faster. Work whose time has not come waits:
the clock may have been set back since it was found.

Functions take a connection and never commit.
"""

from collections.abc import Callable, Collection, Container, Sequence
from typing import Any, NamedTuple

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
from gateway.protocol.items import CONTENT_FIELDS, Item
from gateway.store import schedule
from gateway.store.deliveries import deliver
from gateway.store.due_work import Due, add_all, finish, put_off
from gateway.store.entries import Entry
from gateway.store.lifecycle import LEASE_MS
from gateway.store.log import ITEM_COLUMNS
from gateway.store.notification_rows import (
    KEPT_MS,
    Row,
    end_before_delivery,
    erase_content,
    forget,
    lock_rows,
)
from gateway.store.numbering import StoredItem, enter_again, number, store
from gateway.store.positions import Position, Positions
from gateway.store.sent import keep_counts
from gateway.store.snoozes import wake

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
    each_item = [one for one in work.due if one.kind in _CHANGES]
    if each_item:
        found = connection.execute(_NEXT_ITEMS, _range_of(each_item))
        users.update(user_id for _, user_id in found)
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
    rest: list[Due] = []
    by_kind: dict[int, list[Due]] = {}
    for one in work.due:
        after = done_up_to.get(one.id)
        if after == one.after:
            by_kind.setdefault(one.kind, []).append(one)
        elif after is not None:
            # Another process has done this step. Its users have their numbers.
            rest.append(one._replace(after=after))
    entries = deliver(connection, by_kind.pop(DELIVER, ()), locked, positions, now, followed, required)
    for kind, due in by_kind.items():
        more, new = _do(connection, kind, due, locked, positions, now)
        rest += more
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


def _do(
    connection: Connection,
    kind: int,
    due: Sequence[Due],
    locked: dict[int, Row],
    positions: Positions,
    now: int,
) -> tuple[list[Due], list[Entry]]:
    """Do a step of other work of one kind. Return what is left of it, with the new entries."""
    if kind == FORGET:
        finish(connection, due)
        forget(connection, [one.key for one in due])
        return [], []
    if kind == WAKE:
        return [], wake(connection, due, locked, positions, now)
    if kind == EXPIRE:
        due = _expiring(connection, due, locked, now)
    elif kind in {TOUCH, REENTER}:
        finish(connection, [one for one in due if locked[one.key].state != DELIVERED])
        due = [one for one in due if locked[one.key].state == DELIVERED]
    return _change_some(connection, kind, due, locked, positions, now) if due else ([], [])


# --- changes of many items ----------------------------------------------------------------------------------


def _expiring(connection: Connection, due: Sequence[Due], locked: dict[int, Row], now: int) -> list[Due]:
    """Let notifications expire whose time has come. Return the work on those that may have items."""
    begun: list[Due] = []
    done: list[Due] = []
    expired: list[int] = []
    undelivered: list[int] = []
    for one in due:
        row = locked[one.key]
        if row.state == EXPIRED:
            begun.append(one)
        elif row.state not in {SCHEDULED, DELIVERED} or row.content.expires_at is None:
            done.append(one)
        elif row.content.expires_at > now:
            put_off(connection, one.id, row.content.expires_at)
        elif row.state == SCHEDULED:
            undelivered.append(one.key)
        else:
            expired.append(one.key)
            begun.append(one)
    finish(connection, done)
    end_before_delivery(connection, undelivered, now, EXPIRED)
    if expired:
        connection.execute(update(notifications).where(notifications.c.id.in_(expired)).values(state=EXPIRED))
    return begun


def _change_some(
    connection: Connection,
    kind: int,
    due: Sequence[Due],
    locked: dict[int, Row],
    positions: Positions,
    now: int,
) -> tuple[list[Due], list[Entry]]:
    """Change the items of the next users. Those of one user change in the order in which they are due."""
    # A second piece of a notification changes the same items, and one that is further reads others: they wait
    # for the next step.
    first = {one.key: one for one in reversed(_furthest_behind(due))}
    rest = [one for one in due if first.get(one.key) is not one]
    rows = connection.execute(_NEXT_STATES, _range_of(first.values())).all()
    # The first notification that has more users, or None.
    unfinished: int | None = rows[-1][0] if len(rows) == STEP else None
    keys: list[int] = []
    found: list[tuple[Position, Item]] = []
    for key, user_id, *states in rows:
        if user_id not in positions.by_id:
            # Items of this step were deleted before their users were locked, and this is one of the next.
            unfinished = key
            break
        keys.append(key)
        found.append((positions.by_id[user_id], Item(locked[key].content, *states)))
    place = {one.key: number for number, one in enumerate(due)}
    in_order = sorted(zip(keys, found, strict=True), key=lambda pair: place[pair[0]])
    entries = _CHANGES[kind](connection, [item for _, item in in_order], now)
    for entry, (key, _) in zip(entries, in_order, strict=True):
        entry.service_id = locked[key].service_id
    done = list(first.values())
    if unfinished is not None:
        done = [one for one in done if one.key < unfinished]
        rest += [one for one in first.values() if one.key > unfinished]
        after = found[-1][0].user_id if keys and keys[-1] == unfinished else first[unfinished].after
        rest.append(_continue_later(connection, first[unfinished], after, now))
    _finish_changes(connection, kind, done, set(keys), now)
    return rest, entries


def _continue_later(connection: Connection, one: Due, after: int, now: int) -> Due:
    connection.execute(
        update(due_work).where(due_work.c.id == one.id).values(after=after, due_at=now + LEASE_MS)
    )
    return one._replace(after=after)


def _finish_changes(
    connection: Connection, kind: int, done: Sequence[Due], changed: Container[int], now: int
) -> None:
    """Delete the rows of changes that are done. Erase the content of notifications that are deleted now."""
    if kind not in {EXPIRE, WITHDRAW}:
        finish(connection, done)
    elif done:
        keys = [one.key for one in done]
        erase_content(connection, keys)
        keep_counts(connection, keys)
        connection.execute(delete(due_work).where(due_work.c.notification_id.in_(keys)))
        had_none = [one.key for one in done if not one.after and one.key not in changed]
        add_all(connection, [(key, FORGET, now + KEPT_MS) for key in had_none])


def _furthest_behind(due: Collection[Due]) -> list[Due]:
    after = min(one.after for one in due)
    return [one for one in due if one.after == after]


def _range_of(due: Collection[Due]) -> dict[str, Any]:
    behind = _furthest_behind(due)
    return {"keys": [one.key for one in behind], "after": behind[0].after, "limit": STEP}


_NEXT_ITEMS = (
    select(items.c.notification_id, items.c.user_id)
    .where(
        items.c.notification_id.in_(bindparam("keys", expanding=True)),
        items.c.user_id > bindparam("after"),
        items.c.deleted_at.is_(None),
    )
    .order_by(items.c.notification_id, items.c.user_id)
    .limit(bindparam("limit"))
)
_NEXT_STATES = _NEXT_ITEMS.add_columns(*ITEM_COLUMNS[CONTENT_FIELDS:])


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


_CHANGES: dict[int, Callable[[Connection, Sequence[tuple[Position, Item]], int], list[Entry]]] = {
    EXPIRE: _expire,
    WITHDRAW: _unsend,
    TOUCH: _touch,
    REENTER: enter_again,
}
