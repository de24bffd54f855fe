"""The inbox of each user: pages and single items. Functions take a connection and never commit."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, islice
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    String,
    and_,
    bindparam,
    literal_column,
    select,
    tuple_,
    union_all,
)

from gateway.database.indexes import BY_STATUS, BY_WAKING
from gateway.database.models import ARCHIVED_READ, ARCHIVED_UNREAD, READ, UNREAD, items, notifications
from gateway.database.prepared import Prepared
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps
from gateway.protocol.items import MAX_SEQ, Counts, Item, encode_row
from gateway.store.entries import size_of
from gateway.store.log import CREATED_SEQ, ITEM_COLUMNS, PAGE, head, to_item

NEWEST_UNREAD = 100
"""Maximum number of unread items sent to a client without a resume point."""

MAX_SCANNED_SEQS = 2_000
"""Maximum range of `created_seq` that one page searches for a category. The page then ends with a cursor."""

PAGE_BYTES = 1024 * 1024
"""Approximate maximum size of the items of a page. The page then ends with a cursor."""

TURN_BYTES = 64 * 1024
"""About how many bytes of a page are encoded at once. The rest of a long page waits for turns."""

REST_BYTES = 256
"""Maximum size of a page besides its items, in bytes."""

ITEMS_PER_READ = PAGE + 1
"""Maximum number of items of a page that one query reads."""


class Place(NamedTuple):
    """A place among a user's snoozed items, which wake soonest first."""

    until: int
    created_seq: int


FIRST, LAST = Place(-1, -1), Place(MAX_SEQ, MAX_SEQ)


class Query(NamedTuple):
    """The filter of a page. Items have a `created_seq` below `before`; `limit` is 1 to 200.

    A page of `snoozed` items begins beyond `after` instead. `unread` and `archived` then have no meaning.
    """

    limit: int = 50
    before: int = MAX_SEQ
    unread: bool | None = None
    archived: bool = False
    category: str | None = None
    snoozed: bool = False
    after: Place = FIRST

    @property
    def statuses(self) -> tuple[int, ...]:
        """The statuses of the items that match."""
        unread, read = (ARCHIVED_UNREAD, ARCHIVED_READ) if self.archived else (UNREAD, READ)
        if self.unread is None:
            return (unread, read)
        return (unread,) if self.unread else (read,)


class Listing(NamedTuple):
    """A page: its items in their order, where the next page begins or None, and the head of the log.

    `encoded` has the JSON of the first items, of about `TURN_BYTES`; `items` are the items after them. `next`
    is the `before` or the `after` of the next page. `cut` says that the page ended early because of its size
    in bytes.
    """

    encoded: list[bytes]
    items: list[Item]
    next: int | Place | None
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
    rest: int | Place | None
    if query.snoozed:
        end = _end_of_search(connection, user_id, query)
        rows, rest = _read_snoozed(connection, user_id, query, end or LAST), end
    else:
        before = min(query.before, counts.seq + 1)
        after = max(before - MAX_SCANNED_SEQS, 0) - 1 if query.category is not None else -1
        rows, rest = _read_page(connection, user_id, query, before, after), after + 1 or None
    left = size - REST_BYTES - query.limit
    turn_end = max(left - TURN_BYTES, 0)
    encoded: list[bytes] = []
    others: list[Item] = []
    last: Sequence[Any] = ()
    cut = False
    for row in islice(rows, query.limit):
        text = encode_row(row).encode()
        left -= len(text)
        if left < turn_end:
            left += len(text)
            others, cut = _further_items(chain((row,), rows), query.limit - len(encoded), left, bool(encoded))
            break
        encoded.append(text)
        last = row
    if not cut and next(rows, None) is None:
        return Listing(encoded, others, rest, epoch, counts)
    item = others[-1] if others else to_item(last)
    return Listing(encoded, others, _place(item) if query.snoozed else item.created_seq, epoch, counts, cut)


def _further_items(
    rows: Iterable[Sequence[Any]], limit: int, size: int, may_be_none: bool
) -> tuple[list[Item], bool]:
    """Return the items that fit into `size` bytes, and whether there are more."""
    found: list[Item] = []
    for row in islice(rows, limit):
        item = to_item(row)
        size -= size_of(item)
        if size < 0 and (found or may_be_none):
            return found, True
        found.append(item)
    return found, False


def _read_page(
    connection: Connection, user_id: int, query: Query, before: int, after: int
) -> Iterator[Sequence[Any]]:
    """Yield the rows of a page, and one more if there is one, reading them in steps."""
    statement = prepared_page(query.statuses, by_category=query.category is not None)
    ends = {"user_id": user_id, "before": before, "after": after, "category": query.category}
    left = query.limit + 1
    while left:
        asked = min(ITEMS_PER_READ, left)
        found = 0
        # Close the result when the page ends within it, so that SQLite fetches no further rows.
        with statement.reading(connection, ends | {"limit": asked}) as rows:
            for found, row in enumerate(rows, 1):  # noqa: B007
                yield row
        if found < asked:
            return
        left -= asked
        ends["before"] = row[CREATED_SEQ]


@cache
def prepared_page(
    statuses: tuple[int, ...], *, by_category: bool = False, oldest_first: bool = False
) -> Prepared:
    """Return the query of a page. It merges an index range per status, so it scans only items of the page."""
    return Prepared(lambda _: _select_page(statuses, by_category=by_category, oldest_first=oldest_first))


def _select_page(statuses: tuple[int, ...], *, by_category: bool, oldest_first: bool) -> Select[Any]:
    order = items.c.created_seq.asc() if oldest_first else items.c.created_seq.desc()
    ranges = []
    for status in statuses:
        part = (
            select(items.c.user_id, items.c.created_seq)
            .where(
                items.c.user_id == bindparam("user_id"),
                items.c.status == literal_column(str(status)),
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


def _place(item: Item) -> Place:
    return Place(item.snoozed_until or 0, item.created_seq)


def _read_snoozed(connection: Connection, user_id: int, query: Query, end: Place) -> Iterator[Sequence[Any]]:
    """Yield the rows of a page of snoozed items, soonest first, and one more if there is one, in steps."""
    statement = _select_snoozed(by_category=query.category is not None)
    place, left = query.after, query.limit + 1
    while left:
        asked = min(ITEMS_PER_READ, left)
        parameters = _ends(user_id, place, end) | {"category": query.category, "limit": asked}
        number = 0
        with connection.execute(statement, parameters) as result:
            for row in result:
                number, place = number + 1, _place(to_item(row))
                yield row
        if number < asked:
            return
        left -= asked


def _end_of_search(connection: Connection, user_id: int, query: Query) -> Place | None:
    """Return the last place that a page of a category searches, or None if it searches all that are left."""
    if query.category is None:
        return None
    parameters = _ends(user_id, query.after, LAST) | {"skipped": MAX_SCANNED_SEQS - 1}
    row = connection.execute(_SELECT_END, parameters).one_or_none()
    return None if row is None else Place(*row)


def _ends(user_id: int, after: Place, end: Place) -> dict[str, int]:
    return {
        "user_id": user_id,
        "after": after.until,
        "after_seq": after.created_seq,
        "end": end.until,
        "end_seq": end.created_seq,
    }


_WAKING = tuple_(items.c.snoozed_until, items.c.created_seq)
_SNOOZED = (
    items.c.user_id == bindparam("user_id"),
    items.c.snoozed_until.is_not(None),
    tuple_(bindparam("after", type_=BigInteger()), bindparam("after_seq", type_=BigInteger())) < _WAKING,
    tuple_(bindparam("end", type_=BigInteger()), bindparam("end_seq", type_=BigInteger())) >= _WAKING,
)
_SELECT_END = (
    select(items.c.snoozed_until, items.c.created_seq)
    .where(*_SNOOZED)
    .order_by(items.c.snoozed_until, items.c.created_seq)
    .limit(1)
    .offset(bindparam("skipped"))
    .with_hint(items, BY_WAKING, "sqlite")
)


@cache
def _select_snoozed(*, by_category: bool) -> Select[Any]:
    """Return the query of a page of snoozed items. It reads the range of an index in its order."""
    statement = (
        select(*ITEM_COLUMNS)
        .join_from(items, notifications, items.c.notification_id == notifications.c.id)
        .where(*_SNOOZED)
        .order_by(items.c.snoozed_until, items.c.created_seq)
        .limit(bindparam("limit"))
        .with_hint(items, BY_WAKING, "sqlite")
    )
    return statement.where(notifications.c.category == bindparam("category")) if by_category else statement


def newest_unread(connection: Connection, user_id: int) -> list[Item]:
    """Return the newest unread items of a user, in the order of their last change."""
    ends = {"user_id": user_id, "before": MAX_SEQ, "after": -1, "limit": NEWEST_UNREAD}
    newest = prepared_page((UNREAD,)).run(connection, ends)
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
