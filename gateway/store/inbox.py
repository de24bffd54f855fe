"""The inbox of each user: pages, and single items. Functions take a connection and never commit."""

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
    literal,
    select,
    union_all,
)

from gateway.database.indexes import BY_STATUS
from gateway.database.models import ARCHIVED_READ, ARCHIVED_UNREAD, READ, UNREAD, items, notifications
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps
from gateway.protocol.items import MAX_SEQ, Counts, Item
from gateway.store.entries import size_of
from gateway.store.log import ITEM_COLUMNS, PAGE, head, to_item

NEWEST_UNREAD = 100
"""How many unread items a client that names no position is given."""

WINDOW = 2_000
"""How many numbers of the log one page looks through for a category; then it ends, with a cursor."""

PAGE_BYTES = 1024 * 1024
"""About how many bytes of items a page holds; then it ends, with a cursor."""

STEP = PAGE + 1
"""How many items of a page are read at once: it is seen after each whether they are enough."""


class Query(NamedTuple):
    """Which items a page shows. `before` is the `created_seq` that it ends before, `limit` is 1 to 200."""

    limit: int = 50
    before: int = MAX_SEQ
    unread: bool | None = None
    archived: bool = False
    category: str | None = None

    @property
    def statuses(self) -> tuple[int, ...]:
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
    found = head(connection, user_id)
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
    statement = select_page(query.statuses, by_category=query.category is not None)
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
def select_page(
    statuses: tuple[int, ...], *, by_category: bool = False, oldest_first: bool = False
) -> Select[Any]:
    """Read a range of the index for each place and merge them: no page scans what it does not show."""
    order = items.c.created_seq.asc() if oldest_first else items.c.created_seq.desc()
    ranges = []
    for status in statuses:
        part = (
            select(items.c.user_id, items.c.created_seq)
            .where(
                items.c.user_id == bindparam("user_id"),
                items.c.status == literal(status, literal_execute=True),
                items.c.created_seq < bindparam("before"),
                items.c.created_seq > bindparam("after"),
            )
            .order_by(order)
            .limit(bindparam("limit"))
            .with_hint(items, BY_STATUS, "sqlite")
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
        select_page((UNREAD,)),
        {"user_id": user_id, "before": MAX_SEQ, "after": -1, "limit": NEWEST_UNREAD},
    )
    return sorted((to_item(row) for row in newest), key=lambda item: (item.seq, item.created_seq))


def find_item(connection: Connection, user_id: int, uuid: str) -> Item | None:
    """Return one item of the user, deleted or not."""
    found = find_items(connection, user_id, [uuid])
    return found[0] if found else None


def find_items(connection: Connection, user_id: int, uuids: Sequence[str]) -> list[Item]:
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
