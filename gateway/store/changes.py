"""The changes to an inbox: each change takes the next `seq` of its log.

Functions take a connection and never commit. They take a `Position` whose row the transaction has locked.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, literal, select

from gateway.database.indexes import BY_STATUS
from gateway.database.models import ARCHIVED_UNREAD, UNREAD, items
from gateway.protocol.items import Counts, Item
from gateway.store import collapse_keys, due_work
from gateway.store.entries import Entry, by_message
from gateway.store.inbox import find_items, prepared_page
from gateway.store.log import to_item
from gateway.store.numbering import number, store
from gateway.store.positions import Position

CHUNK = 28
"""Maximum number of items that one transaction changes in an inbox. It keeps transactions short."""

LONG_CHANGE = 16
"""Maximum number of items that a bulk read lists in a `changed` message. A longer one is sent as `read`."""


class ItemUpdate(NamedTuple):
    """A change to some items of one user. None leaves a state as it is.

    `reason` is why the items are deleted, if not by the user.
    """

    user_id: int
    ids: tuple[str, ...]
    read: bool | None = None
    archived: bool | None = None
    deleted: bool = False
    reason: str | None = None


class ReadUpTo(NamedTuple):
    """Marks read the items with `after` < `created_seq` ≤ `up_to`. Later arrivals stay unread."""

    user_id: int
    up_to: int
    after: int = 0


class Seen(NamedTuple):
    """Advances the seen mark of a user. It never moves back."""

    user_id: int
    up_to: int


class Delivered(NamedTuple):
    """Records that a client of the user has applied everything up to a `seq`. The mark never moves back."""

    user_id: int
    up_to: int


class Changed(NamedTuple):
    """The result of a change: the items that it found, in their new state, and whether more is left to do."""

    items: list[Item]
    counts: Counts
    more: bool = False


def mark(
    connection: Connection, position: Position, change: ItemUpdate, now: int
) -> tuple[Changed, list[Entry]]:
    """Change the items that exist, skipping deleted ones and those already in that state. `now` is in ms."""
    found = [
        item
        for item in find_items(connection, change.user_id, change.ids)
        if item.deleted_at is None or change.deleted
    ]
    targets = [_marked(item, change, now) for item in found]
    return touch(connection, position, found, targets)


def _marked(item: Item, change: ItemUpdate, now: int) -> Item:
    if item.deleted_at is not None:
        return item
    marked = item._replace(
        read_at=moment(item.read_at, change.read, now),
        archived_at=moment(item.archived_at, change.archived, now),
    )
    if change.deleted:
        marked = marked._replace(deleted_at=now, deleted_reason=change.reason)
    # Who archives or deletes a snoozed item doesn't want it back.
    return marked._replace(snoozed_until=None) if change.archived or change.deleted else marked


def moment(since: int | None, wanted: bool | None, now: int) -> int | None:
    """Return the time of a state, in ms, or None. An item already in the state keeps its time."""
    if wanted is None:
        return since
    return (since or now) if wanted else None


def read_up_to(
    connection: Connection, position: Position, change: ReadUpTo, now: int
) -> tuple[Changed, list[Entry]]:
    """Mark read the oldest unread items of a range, at most `CHUNK` of them. `now` is in ms."""
    oldest = prepared_page((UNREAD, ARCHIVED_UNREAD), oldest_first=True).run(
        connection,
        {
            "user_id": change.user_id,
            "after": change.after,
            "before": min(change.up_to, position.seq) + 1,
            "limit": CHUNK,
        },
    )
    found = [to_item(row) for row in oldest]
    entries = apply(connection, position, found, [item._replace(read_at=now) for item in found])
    if len(found) > LONG_CHANGE:
        for entry in entries:
            entry.up_to = entry.items[-1].created_seq
    return Changed(found, position.counts(), more=len(found) == CHUNK), entries


def touch(
    connection: Connection, position: Position, before: Sequence[Item], after: Sequence[Item]
) -> tuple[Changed, list[Entry]]:
    """Store the items that differ, and return all of them in their new state."""
    entries = apply(connection, position, before, after)
    numbered = {item.content.id: item for entry in entries for item in entry.items}
    new = [numbered.get(item.content.id, item) for item in after]
    return Changed(new, position.counts()), entries


def apply(
    connection: Connection, position: Position, before: Sequence[Item], after: Sequence[Item]
) -> list[Entry]:
    """Store the items that differ. They take the next `seq` of the log, as many as one message may list."""
    changes = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    if not changes:
        return []
    entries, changed = [], []
    for listed in by_message(changes):
        entry, stored = number(position, listed)
        entries.append(entry)
        changed += stored
    store(connection, changed)
    _set_wakes(connection, position.user_id, changes)
    if revived := [new.content.id for old, new in changes if old.archived_at and not new.archived_at]:
        collapse_keys.restore(connection, [(position.user_id, uuid) for uuid in revived])
    return entries


def _set_wakes(connection: Connection, user_id: int, changes: Sequence[tuple[Item, Item]]) -> None:
    """Store when the items whose snooze has begun or ended wake. A change has one time for all its items."""
    moved = [new for old, new in changes if old.snoozed_until != new.snoozed_until]
    if moved:
        ids = [item.content.id for item in moved]
        due_work.wake_at(connection, user_id, ids, moved[0].snoozed_until)


def move_seen(connection: Connection, position: Position, change: Seen) -> Changed:
    """Advance the seen mark. It never moves back, and never beyond the head of the log."""
    up_to = min(change.up_to, position.seq)
    if up_to > position.seen:
        position.unseen = _count_unseen(connection, position, up_to)
        position.seen = up_to
    return Changed([], position.counts())


def _count_unseen(connection: Connection, position: Position, seen: int) -> int:
    """Return how many items are unread beyond the seen mark once it has advanced to `seen`.

    Count either the range that the mark passes or the range beyond it, whichever is shorter. A user therefore
    can't make the gateway count one range repeatedly: all moves together count each `seq` once.
    """
    passed, beyond = (position.seen, seen), (seen, position.seq)
    after, up_to = min(passed, beyond, key=lambda ends: ends[1] - ends[0])
    if not position.unseen or after == up_to:
        return 0
    ends = {"user_id": position.user_id, "after": after, "up_to": up_to}
    number: int = connection.execute(_COUNT_UNREAD, ends).scalar_one()
    return number if after == seen else position.unseen - number


_COUNT_UNREAD = (
    select(func.count())
    .where(
        items.c.user_id == bindparam("user_id"),
        items.c.status == literal(UNREAD, literal_execute=True),
        items.c.created_seq > bindparam("after"),
        items.c.created_seq <= bindparam("up_to"),
    )
    .with_hint(items, BY_STATUS, "sqlite")
)


def move_delivered(position: Position, change: Delivered) -> Changed:
    """Advance the delivered mark. It never moves back, and never beyond the head of the log."""
    position.delivered = max(position.delivered, min(change.up_to, position.seq))
    return Changed([], position.counts())
