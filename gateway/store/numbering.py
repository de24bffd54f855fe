"""Numbers for changed items: each change takes the next `seq` of its user's log, and counts its items anew.

There are two changes. A *touch* leaves an item where it is: `number` and `store`. An item that *enters again*
goes to the top of the inbox, unread: `number_again` and `store_again`.

Functions take a connection and never commit. They take a `Position` whose row the transaction has locked.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, String, Text, null, update

from gateway.database.models import items
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Item
from gateway.store import collapse_keys
from gateway.store.entries import Entry
from gateway.store.positions import Position


class StoredItem(NamedTuple):
    """The row of an item that changed. Its content is stored once for all recipients."""

    user_id: int
    created_seq: int
    seq: int
    read_at: int | None
    archived_at: int | None
    deleted_at: int | None
    snoozed_until: int | None
    answer: str | None
    deleted_reason: str | None


def number(position: Position, changes: Sequence[tuple[Item, Item]]) -> tuple[Entry, list[StoredItem]]:
    """Give changed items the next `seq` of the log, and count them. Return their entry and their rows."""
    position.seq += 1
    numbered = []
    for old, new in changes:
        item = new._replace(seq=position.seq)
        position.tally(old, -1)
        position.tally(item, 1)
        numbered.append(item)
    rows_of_items = [StoredItem(position.user_id, *item[1:]) for item in numbered]
    return Entry(position.user_id, position.counts(), numbered), rows_of_items


def store(connection: Connection, changed: Sequence[StoredItem]) -> None:
    """Store items that changed, of any users."""
    connection.execute(_update_items(connection.dialect.name), {"rows": dumps(changed)})


@cache
def _update_items(dialect: str) -> Any:
    number = BigInteger()
    new = rows(
        dialect,
        # With the user id in each row, SQLite starts from these rows. Otherwise it would scan the whole
        # inbox.
        user_id=number,
        created_seq=number,
        seq=number,
        read_at=number,
        archived_at=number,
        deleted_at=number,
        snoozed_until=number,
        answer=Text(),
        deleted_reason=String(),
    )
    return (
        update(items)
        .where(items.c.user_id == new.c.user_id, items.c.created_seq == new.c.created_seq)
        .values({name: new.c[name] for name in StoredItem._fields[2:]})
    )


class EnteredItem(NamedTuple):
    """The row of an item that entered again. `revived` is the id of its notification if it was archived."""

    user_id: int
    created_seq: int
    seq: int
    revived: str | None


def number_again(position: Position, item: Item) -> tuple[Entry, EnteredItem]:
    """Let an item enter the log again: its `created_seq` is the next `seq`. Return its entry, and its row."""
    position.seq += 1
    position.tally(item, -1)
    again = item._replace(
        created_seq=position.seq, seq=position.seq, read_at=None, archived_at=None, snoozed_until=None
    )
    position.tally(again, 1)
    revived = None if item.archived_at is None else item.content.id
    row = EnteredItem(position.user_id, item.created_seq, position.seq, revived)
    return Entry(position.user_id, position.counts(), [again], fresh=True), row


def store_again(connection: Connection, entered: Sequence[EnteredItem]) -> None:
    """Store items that entered again, of any users."""
    connection.execute(_move_items(connection.dialect.name), {"rows": dumps([row[:3] for row in entered])})
    if revived := [(row.user_id, row.revived) for row in entered if row.revived is not None]:
        collapse_keys.restore(connection, revived)


@cache
def _move_items(dialect: str) -> Any:
    number = BigInteger()
    new = rows(dialect, user_id=number, created_seq=number, seq=number)
    return (
        update(items)
        .where(items.c.user_id == new.c.user_id, items.c.created_seq == new.c.created_seq)
        .values(
            created_seq=new.c.seq, seq=new.c.seq, read_at=null(), archived_at=null(), snoozed_until=null()
        )
    )
