"""The inbox of each user: pages, single items, and the changes that take the next number of the log.

Functions take a connection and never commit. A change takes a `Position` that its transaction has locked.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    String,
    and_,
    bindparam,
    func,
    literal,
    select,
    union_all,
    update,
)

from gateway.database.indexes import BY_PLACE
from gateway.database.models import ARCHIVED_READ, ARCHIVED_UNREAD, READ, UNREAD, items, notifications
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps
from gateway.protocol.items import MAX_SEQ, Counts, Item
from gateway.store.entries import Entry, size_of
from gateway.store.log import ITEM_COLUMNS, PAGE, standing, to_item
from gateway.store.positions import Position

CHUNK = 28
"""How many items one change may touch, so that no transaction is long, and no message is over 1 MiB: clients
refuse what is larger, and would never get past it. An item is at most 36 KiB long, all control characters.
"""

LONG_CHANGE = 16
"""A bulk read of more items than this is sent live as `read`, not as `changed`."""

NEWEST_UNREAD = 100
"""How many unread items a client that names no position is given."""

WINDOW = 2_000
"""How many numbers of the log one page looks through for a category; then it ends, with a cursor."""

PAGE_BYTES = 1024 * 1024
"""About how many bytes of items a page holds; then it ends, with a cursor."""

STEP = PAGE + 1
"""How many items of a page are read at once: it is seen after each whether they are enough."""


# --- pages --------------------------------------------------------------------------------------------------


class Query(NamedTuple):
    """Which items a page shows. `before` is the `created_seq` that it ends before, `limit` is 1 to 200."""

    limit: int = 50
    before: int = MAX_SEQ
    unread: bool | None = None
    archived: bool = False
    category: str | None = None

    @property
    def places(self) -> tuple[int, ...]:
        """The places that hold such items."""
        unread, read = (ARCHIVED_UNREAD, ARCHIVED_READ) if self.archived else (UNREAD, READ)
        if self.unread is None:
            return (unread, read)
        return (unread,) if self.unread else (read,)


class Listing(NamedTuple):
    """A page: its items, newest first, where the next begins (or None), and where the log stands.

    `cut` says that it would be longer if it might hold more bytes.
    """

    items: list[Item]
    next: int | None
    epoch: str
    counts: Counts
    cut: bool = False


def list_items(connection: Connection, user_id: int, query: Query, size: int = PAGE_BYTES) -> Listing | None:
    """Return a page of the inbox, or None when the user is gone.

    It ends before the item that brings it over `size` bytes, unless that is the first. Little more than that
    is ever read.
    """
    found = standing(connection, user_id)
    if found is None:
        return None
    epoch, counts = found
    before = min(query.before, counts.seq + 1)
    after = max(before - WINDOW, 0) - 1 if query.category is not None else -1
    page: list[Item] = []
    for item in _read_page(connection, user_id, query, before, after):
        size -= size_of(item)
        full, cut = len(page) == query.limit, size < 0 and bool(page)
        if full or cut:
            return Listing(page, page[-1].created_seq, epoch, counts, cut=not full)
        page.append(item)
    return Listing(page, after + 1 or None, epoch, counts)


def _read_page(connection: Connection, user_id: int, query: Query, before: int, after: int) -> Iterator[Item]:
    """Yield the items of a page, and one more where there is one, reading them in steps."""
    statement = _select_page(query.places, by_category=query.category is not None)
    ends = {"user_id": user_id, "before": before, "after": after, "category": query.category}
    left = query.limit + 1
    while left:
        asked = min(STEP, left)
        step = [to_item(row) for row in connection.execute(statement, ends | {"limit": asked})]
        yield from step
        if len(step) < asked:
            return
        left -= asked
        ends["before"] = step[-1].created_seq


@cache
def _select_page(
    places: tuple[int, ...], *, by_category: bool = False, oldest_first: bool = False
) -> Select[Any]:
    """Read a range of the index for each place and merge them: no page scans what it does not show."""
    order = items.c.created_seq.asc() if oldest_first else items.c.created_seq.desc()
    ranges = []
    for place in places:
        part = (
            select(items.c.user_id, items.c.created_seq)
            .where(
                items.c.user_id == bindparam("user_id"),
                items.c.place == literal(place, literal_execute=True),
                items.c.created_seq < bindparam("before"),
                items.c.created_seq > bindparam("after"),
            )
            .order_by(order)
            .limit(bindparam("limit"))
            .with_hint(items, BY_PLACE, "sqlite")
        )
        if by_category:
            part = part.join(notifications, items.c.notification_id == notifications.c.id).where(
                notifications.c.category == bindparam("category")
            )
        ranges.append(select(part.subquery()))
    merged = union_all(*ranges).subquery("page")
    return (
        select(*ITEM_COLUMNS)
        .join_from(
            merged,
            items,
            and_(items.c.user_id == merged.c.user_id, items.c.created_seq == merged.c.created_seq),
        )
        .join(notifications, items.c.notification_id == notifications.c.id)
        .order_by(order)
        .limit(bindparam("limit"))
    )


def newest_unread(connection: Connection, user_id: int) -> list[Item]:
    """Return the newest unread items of a user, in the order of their last change."""
    newest = connection.execute(
        _select_page((UNREAD,)),
        {"user_id": user_id, "before": MAX_SEQ, "after": -1, "limit": NEWEST_UNREAD},
    )
    return sorted((to_item(row) for row in newest), key=lambda item: (item.seq, item.created_seq))


def find_item(connection: Connection, user_id: int, uuid: str) -> Item | None:
    """Return one item of the user, deleted or not."""
    found = _find(connection, user_id, [uuid])
    return found[0] if found else None


def _find(connection: Connection, user_id: int, uuids: Sequence[str]) -> list[Item]:
    """Return those of the user's items, in the order of the inbox."""
    wanted = dumps([(user_id, uuid) for uuid in set(uuids)])
    found = connection.execute(_select_by_uuid(connection.dialect.name), {"rows": wanted})
    return sorted((to_item(row) for row in found), key=lambda item: item.created_seq)


@cache
def _select_by_uuid(dialect: str) -> Select[Any]:
    # With the user in each row SQLite begins with the rows; else it would walk the whole inbox.
    wanted = rows(dialect, user_id=BigInteger(), uuid=String())
    return (
        select(*ITEM_COLUMNS)
        .join_from(wanted, notifications, notifications.c.uuid == wanted.c.uuid)
        .join(
            items,
            and_(items.c.notification_id == notifications.c.id, items.c.user_id == wanted.c.user_id),
        )
    )


# --- changes ------------------------------------------------------------------------------------------------


class Mark(NamedTuple):
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


def mark(connection: Connection, position: Position, change: Mark, now: int) -> tuple[Changed, list[Entry]]:
    """Change those of the items that are there, not deleted, and not so already; `now` is in ms."""
    found = [
        item
        for item in _find(connection, change.user_id, change.ids)
        if item.deleted_at is None or change.deleted
    ]
    targets = [_marked(item, change, now) for item in found]
    entries = _apply(connection, position, found, targets)
    after = [
        item._replace(seq=position.seq) if item != before else item
        for before, item in zip(found, targets, strict=True)
    ]
    return Changed(after, position.counts()), entries


def _marked(item: Item, change: Mark, now: int) -> Item:
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
        _select_page((UNREAD, ARCHIVED_UNREAD), oldest_first=True),
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
        items.c.place == literal(UNREAD, literal_execute=True),
        items.c.created_seq > bindparam("after"),
        items.c.created_seq <= bindparam("up_to"),
    )
    .with_hint(items, BY_PLACE, "sqlite")
)


def move_delivered(position: Position, change: Delivered) -> Changed:
    """Move the delivered mark, never back and never beyond the log."""
    position.delivered = max(position.delivered, min(change.up_to, position.seq))
    return Changed([], position.counts())
