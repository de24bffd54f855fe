"""The log of each user: reading the changes after a position. `arrivals` appends to it.

Functions take a connection and never commit. docs/architecture.md explains why each user has a counter row,
and why its lock makes each `seq` gapless and in commit order.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select

from gateway.database.indexes import BY_CHANGE
from gateway.database.models import items, notifications, users
from gateway.database.prepared import Prepared
from gateway.protocol.items import CONTENT_FIELDS, Content, Counts, Item
from gateway.protocol.times import MINUTE_MS, now_ms
from gateway.store.entries import Entry, size_of
from gateway.store.preferences import mark_quiet

REPLAY_LIMIT = 1000
"""Maximum number of changes that a client may be behind to resume. Beyond it, the gateway sends `reset`."""

PAGE = 100
"""Maximum number of items in one page of the log, though a page never ends inside a bulk change."""

PAGE_BYTES = 64 * 1024
"""Approximate maximum size of the items of a page for a socket, whose client may read slowly."""


class Page(NamedTuple):
    """The entries after a position, and the head of the log.

    `more` says that another page follows. `cut` says that this page ended early because of its size in bytes.
    """

    epoch: str
    counts: Counts
    entries: list[Entry]
    more: bool
    cut: bool = False


ITEM_COLUMNS = (
    notifications.c.uuid,
    notifications.c.title,
    notifications.c.body,
    notifications.c.category,
    notifications.c.priority,
    notifications.c.url,
    notifications.c.data,
    notifications.c.created_at,
    notifications.c.icon,
    notifications.c.actions,
    notifications.c.expires_at,
    notifications.c.edited_at,
    items.c.created_seq,
    items.c.seq,
    items.c.read_at,
    items.c.archived_at,
    items.c.deleted_at,
    items.c.snoozed_until,
    items.c.answer,
    items.c.deleted_reason,
)
"""The fields of a content, then the others of an item, in their order."""

CREATED_SEQ = CONTENT_FIELDS
"""The place of `created_seq` in these columns."""


def to_item(row: Sequence[Any]) -> Item:
    """Return the item in a row of `ITEM_COLUMNS`."""
    return Item(Content(*row[:CONTENT_FIELDS]), *row[CONTENT_FIELDS:])


def head(connection: Connection, user_id: int) -> tuple[str, Counts] | None:
    """Return the epoch and the counts of a user, or None if the user no longer exists."""
    found = _SELECT_HEAD.run(connection, {"user_id": user_id})
    return (found[0][0], Counts(*found[0][1:])) if found else None


_SELECT_HEAD = Prepared(
    lambda _: select(
        users.c.epoch,
        users.c.last_seq,
        users.c.unread,
        users.c.unseen,
        users.c.seen_seq,
        users.c.trimmed_seq,
        users.c.preferences_version,
    ).where(users.c.id == bindparam("user_id"), users.c.sub.is_not(None))
)


def resumable(counts: Counts, since: int) -> bool:
    """Whether the log can be replayed to a client at `since`: it is complete from there, and short enough."""
    return is_kept(counts, since) and counts.seq - REPLAY_LIMIT <= since


def is_kept(counts: Counts, since: int) -> bool:
    """Whether the log is complete after `since`: none of its changes has been purged."""
    return counts.trimmed <= since <= counts.seq


def read_after(
    connection: Connection, user_id: int, cursor: int, limit: int = PAGE, size: int = PAGE_BYTES
) -> Page | None:
    """Return the entries after `cursor`, oldest change first, or None if the user no longer exists.

    The page ends with the change that reaches `limit` items, and before a change that would exceed `size`
    bytes, except that it always holds the first change. Little more than the page is read.

    The entries carry the current unread and unseen counts, because past counts are not stored.
    """
    found = head(connection, user_id)
    if found is None:
        return None
    epoch, counts = found
    changes, cut = _changes_after(connection, user_id, cursor, limit, size)
    entries = replay(user_id, counts, changes, cursor)
    mark_quiet(connection, entries, (user_id,) if counts.preferences else ())
    more = cut or (bool(changes) and len(changes) >= limit and changes[-1].seq < counts.seq)
    return Page(epoch, counts, entries, more, cut)


def replay(user_id: int, counts: Counts, changes: Iterable[Item], cursor: int | None) -> list[Entry]:
    """Return an entry for each `seq` of these items, which must be in the order of their last change.

    A single item that entered after the cursor can't have been sent before, so its entry is `fresh`. If
    clients with different cursors will get the entries (None), an item is fresh only at its `created_seq`.
    """
    entries = []
    for seq, items_of_seq in groupby(changes, key=lambda item: item.seq):
        group = list(items_of_seq)
        known_up_to = seq - 1 if cursor is None else cursor
        new = len(group) == 1 and group[0].created_seq > known_up_to and group[0].deleted_at is None
        entry = Entry(user_id, counts._replace(seq=seq), group, fresh=new)
        if new:
            entry.committed_at = _committed_at(group[0].content)
        entries.append(entry)
    return entries


def _committed_at(content: Content) -> float:
    """Return about when an item entered, in seconds since 1970, or 0 if unknown.

    The time of the commit isn't stored. That of the post is near, unless the item has entered again: after an
    edit, or at the end of a snooze, which takes at least a minute.
    """
    entered_again = content.edited_at is not None or content.created_at <= now_ms() - MINUTE_MS
    return 0 if entered_again else content.created_at / 1000


_SELECT_CHANGES = (
    select(*ITEM_COLUMNS)
    .join_from(items, notifications, items.c.notification_id == notifications.c.id)
    .where(items.c.user_id == bindparam("user_id"))
    .order_by(items.c.seq, items.c.created_seq)
    .with_hint(items, BY_CHANGE, "sqlite")
)
_CHANGES_AFTER = Prepared(
    lambda _: _SELECT_CHANGES.where(items.c.seq > bindparam("cursor")).limit(bindparam("limit"))
)
_REST_OF_CHANGE = Prepared(
    lambda _: _SELECT_CHANGES.where(
        items.c.seq == bindparam("seq"), items.c.created_seq > bindparam("created_seq")
    )
)


def _changes_after(
    connection: Connection, user_id: int, cursor: int, limit: int, size: int
) -> tuple[list[Item], bool]:
    """Return the items of whole changes, and whether their size kept them below `limit`."""
    found: list[Item] = []
    while len(found) < limit:
        asked = min(PAGE, limit - len(found))
        step = _step_after(connection, user_id, cursor, asked)
        for _, items_of_seq in groupby(step, key=lambda item: item.seq):
            change = list(items_of_seq)
            size -= sum(map(size_of, change))
            if size < 0 and found:
                return found, True
            found += change
        if len(step) < asked:
            break
        cursor = step[-1].seq
    return found, False


def _step_after(connection: Connection, user_id: int, cursor: int, limit: int) -> list[Item]:
    parameters = {"user_id": user_id, "cursor": cursor, "limit": limit}
    found = [to_item(row) for row in _CHANGES_AFTER.run(connection, parameters)]
    if len(found) == limit:
        last = found[-1]
        parameters = {"user_id": user_id, "seq": last.seq, "created_seq": last.created_seq}
        found += [to_item(row) for row in _REST_OF_CHANGE.run(connection, parameters)]
    return found
