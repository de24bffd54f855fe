"""The changes of an inbox: each takes the next number of its log.

Functions take a connection and never commit. A change takes a `Position` that its transaction has locked.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, bindparam, func, literal, select, update

from gateway.database.indexes import BY_STATUS
from gateway.database.models import ARCHIVED_UNREAD, UNREAD, items
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Counts, Item
from gateway.store.entries import Entry
from gateway.store.inbox import find_items, select_page
from gateway.store.log import to_item
from gateway.store.positions import Position

CHUNK = 28
"""How many items one change may touch, so that no transaction is long, and no message is over 1 MiB: clients
refuse what is larger, and would never get past it. An item is at most 36 KiB long, all control characters.
"""

LONG_CHANGE = 16
"""A bulk read of more items than this is sent live as `read`, not as `changed`."""


class ItemUpdate(NamedTuple):
    """A change of some items of one user; None leaves a state as it is."""

    user_id: int
    ids: tuple[str, ...]
    read: bool | None = None
    archived: bool | None = None
    deleted: bool = False


class ReadUpTo(NamedTuple):
    """Marks read what entered the log after a number and up to another; later arrivals are left alone."""

    user_id: int
    up_to: int
    after: int = 0


class Seen(NamedTuple):
    """Moves the seen mark of a user, never back."""

    user_id: int
    up_to: int


class Delivered(NamedTuple):
    """Says that a client of the user has applied everything up to a number. The mark never moves back."""

    user_id: int
    up_to: int


class Changed(NamedTuple):
    """What became of a change: the items it found as they are now, and whether it has more to do."""

    items: list[Item]
    counts: Counts
    more: bool = False


def mark(
    connection: Connection, position: Position, change: ItemUpdate, now: int
) -> tuple[Changed, list[Entry]]:
    """Change those of the items that are there, not deleted, and not so already; `now` is in ms."""
    found = [
        item
        for item in find_items(connection, change.user_id, change.ids)
        if item.deleted_at is None or change.deleted
    ]
    targets = [_marked(item, change, now) for item in found]
    entries = _apply(connection, position, found, targets)
    after = [
        item._replace(seq=position.seq) if item != before else item
        for before, item in zip(found, targets, strict=True)
    ]
    return Changed(after, position.counts()), entries


def _marked(item: Item, change: ItemUpdate, now: int) -> Item:
    return item._replace(
        read_at=_moment(item.read_at, change.read, now),
        archived_at=_moment(item.archived_at, change.archived, now),
        deleted_at=item.deleted_at or (now if change.deleted else None),
    )


def _moment(since: int | None, wanted: bool | None, now: int) -> int | None:
    """Return since when a state holds: a state that holds already keeps its moment."""
    if wanted is None:
        return since
    return (since or now) if wanted else None


def read_up_to(
    connection: Connection, position: Position, change: ReadUpTo, now: int
) -> tuple[Changed, list[Entry]]:
    """Mark read the oldest unread items of a range, at most `CHUNK` of them; `now` is in ms."""
    oldest = connection.execute(
        select_page((UNREAD, ARCHIVED_UNREAD), oldest_first=True),
        {
            "user_id": change.user_id,
            "after": change.after,
            "before": min(change.up_to, position.seq) + 1,
            "limit": CHUNK,
        },
    )
    found = [to_item(row) for row in oldest]
    entries = _apply(connection, position, found, [item._replace(read_at=now) for item in found])
    if len(found) > LONG_CHANGE:
        entries[0].up_to = found[-1].created_seq
    return Changed(found, position.counts(), more=len(found) == CHUNK), entries


def _apply(
    connection: Connection, position: Position, before: Sequence[Item], after: Sequence[Item]
) -> list[Entry]:
    """Give the items that differ the next number of the log, all of them one number, and store them."""
    changes = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    if not changes:
        return []
    position.seq += 1
    for old, new in changes:
        position.weigh(old, -1)
        position.weigh(new, 1)
    numbered = [new._replace(seq=position.seq) for _, new in changes]
    connection.execute(
        _update_items(connection.dialect.name),
        {
            "rows": dumps(
                [
                    (
                        position.user_id,
                        item.created_seq,
                        item.seq,
                        item.read_at,
                        item.archived_at,
                        item.deleted_at,
                    )
                    for item in numbered
                ]
            )
        },
    )
    return [Entry(position.user_id, position.counts(), numbered)]


@cache
def _update_items(dialect: str) -> Any:
    number = BigInteger()
    new = rows(
        dialect,
        # With the user in each row SQLite begins with the rows; else it would walk the whole inbox.
        user_id=number,
        created_seq=number,
        seq=number,
        read_at=number,
        archived_at=number,
        deleted_at=number,
    )
    return (
        update(items)
        .where(items.c.user_id == new.c.user_id, items.c.created_seq == new.c.created_seq)
        .values(
            seq=new.c.seq,
            read_at=new.c.read_at,
            archived_at=new.c.archived_at,
            deleted_at=new.c.deleted_at,
        )
    )


def move_seen(connection: Connection, position: Position, change: Seen) -> Changed:
    """Move the seen mark, never back and never beyond the log."""
    up_to = min(change.up_to, position.seq)
    if up_to > position.seen:
        position.unseen = _count_unseen(connection, position, up_to)
        position.seen = up_to
    return Changed([], position.counts())


def _count_unseen(connection: Connection, position: Position, seen: int) -> int:
    """Return how many are unread beyond the mark once it has moved forward to `seen`.

    What the mark passes over is counted, or what is beyond it, whichever has fewer numbers. So a user cannot
    have one range counted again and again: all moves together count each number once.
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
    """Move the delivered mark, never back and never beyond the log."""
    position.delivered = max(position.delivered, min(change.up_to, position.seq))
    return Changed([], position.counts())
