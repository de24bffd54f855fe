"""The inbox of each user: pages and single items. Functions take a connection and never commit."""

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
"""Maximum number of unread items sent to a client without a resume point."""

MAX_SCANNED_SEQS = 2_000
"""Maximum range of `created_seq` that one page searches for a category. The page then ends with a cursor."""

PAGE_BYTES = 1024 * 1024
"""Approximate maximum size of the items of a page. The page then ends with a cursor."""

ITEMS_PER_READ = PAGE + 1
"""Maximum number of items of a page that one query reads."""


class Query(NamedTuple):
    """The filter of a page. Items have a `created_seq` below `before`; `limit` is 1 to 200."""

    limit: int = 50
    before: int = MAX_SEQ
    unread: bool | None = None
    archived: bool = False
    category: str | None = None

    @property
    def statuses(self) -> tuple[int, ...]:
        """The statuses of the items that match."""
        unread, read = (ARCHIVED_UNREAD, ARCHIVED_READ) if self.archived else (UNREAD, READ)
        if self.unread is None:
            return (unread, read)
        return (unread,) if self.unread else (read,)


class Listing(NamedTuple):
    """A page: its items, newest first, the cursor of the next page or None, and the head of the log.

    `cut` says that the page ended early because of its size in bytes.
    """

    items: list[Item]
    next: int | None
    epoch: str
    counts: Counts
    cut: bool = False


def list_items(connection: Connection, user_id: int, query: Query, size: int = PAGE_BYTES) -> Listing | None:
    """Return a page of the inbox, or None if the user no longer exists.

    The page ends before the item that would exceed `size` bytes, except that it always holds the first item.
    Little more than the page is read.
    """
    found = head(connection, user_id)
    if found is None:
        return None
    epoch, counts = found
    before = min(query.before, counts.seq + 1)
    after = max(before - MAX_SCANNED_SEQS, 0) - 1 if query.category is not None else -1
    page: list[Item] = []
    for item in _read_page(connection, user_id, query, before, after):
        size -= size_of(item)
        full, cut = len(page) == query.limit, size < 0 and bool(page)
        if full or cut:
            return Listing(page, page[-1].created_seq, epoch, counts, cut=not full)
        page.append(item)
    return Listing(page, after + 1 or None, epoch, counts)


def _read_page(connection: Connection, user_id: int, query: Query, before: int, after: int) -> Iterator[Item]:
    """Yield the items of a page, and one more if there is one, reading them in steps."""
    statement = select_page(query.statuses, by_category=query.category is not None)
    ends = {"user_id": user_id, "before": before, "after": after, "category": query.category}
    left = query.limit + 1
    while left:
        asked = min(ITEMS_PER_READ, left)
        found, last = 0, before
        # Close the result when the page ends within it, so that SQLite fetches no further rows.
        with connection.execute(statement, ends | {"limit": asked}) as result:
            for row in result:
                item = to_item(row)
                found, last = found + 1, item.created_seq
                yield item
        if found < asked:
            return
        left -= asked
        ends["before"] = last


@cache
def select_page(
    statuses: tuple[int, ...], *, by_category: bool = False, oldest_first: bool = False
) -> Select[Any]:
    """Return the query of a page. It merges an index range per status, so it scans only items of the page."""
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
    """Return one item of the user, deleted or not, or None."""
    found = find_items(connection, user_id, [uuid])
    return found[0] if found else None


def find_items(connection: Connection, user_id: int, uuids: Sequence[str]) -> list[Item]:
    """Return the user's items with these ids, ordered by `created_seq`. Unknown ids are left out."""
    wanted = dumps([(user_id, uuid) for uuid in set(uuids)])
    found = connection.execute(_select_by_uuid(connection.dialect.name), {"rows": wanted})
    return sorted((to_item(row) for row in found), key=lambda item: item.created_seq)


@cache
def _select_by_uuid(dialect: str) -> Select[Any]:
    # With the user id in each row, SQLite starts from these rows. Otherwise it would scan the whole inbox.
    wanted = rows(dialect, user_id=BigInteger(), uuid=String())
    return (
        select(*ITEM_COLUMNS)
        .join_from(wanted, notifications, notifications.c.uuid == wanted.c.uuid)
        .join(
            items,
            and_(items.c.notification_id == notifications.c.id, items.c.user_id == wanted.c.user_id),
        )
    )
