"""Collapse keys: a notification replaces the earlier ones of its key, for each service and user.

Functions take a connection and never commit. They take positions whose rows the transaction has locked.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection

from gateway.protocol.items import Content, Item
from gateway.store import collapse_keys
from gateway.store.collapse_keys import Keyed
from gateway.store.entries import Entry, by_message
from gateway.store.numbering import StoredItem, number, store
from gateway.store.positions import Position


class Replacements:
    """The replacements of a transaction: it reads all their items first, and stores all of them at its end.

    `wanted` are the keys of the notifications that enter, one for each recipient.
    """

    def __init__(self, connection: Connection, wanted: Iterable[Keyed], now: int) -> None:
        self._connection = connection
        self._now = now
        self._there: dict[Keyed, list[Item]] = {}
        self._taken: dict[Keyed, int] = {}
        self._changed: list[StoredItem] = []
        for keyed, item in collapse_keys.find(connection, set(wanted)):
            there = self._there.setdefault(keyed, [])
            if item.deleted_at is None and item.archived_at is None:
                there.append(item)
        self._earlier = list(self._there)

    def replace(
        self, position: Position, service_id: int, key: str, content: Content, notification_id: int
    ) -> list[Entry]:
        """Delete the items of a key in an inbox, before its next `seq` goes to a new item of the key.

        Return the entries. An archived item stays. There are several items if the user has brought some back
        from the archive: they take one `seq`.
        """
        keyed = (position.user_id, service_id, key)
        there = self._there.get(keyed)
        entries = self._delete(position, there) if there else []
        seq = position.seq + 1
        self._there[keyed] = [Item(content, seq, seq)]
        self._taken[keyed] = notification_id
        return entries

    def _delete(self, position: Position, there: Sequence[Item]) -> list[Entry]:
        entries = []
        changes = [
            (item, item._replace(deleted_at=self._now, deleted_reason="replaced", snoozed_until=None))
            for item in there
        ]
        for listed in by_message(changes):
            entry, stored = number(position, listed)
            entries.append(entry)
            self._changed += stored
        return entries

    def store(self) -> None:
        """Store the replaced items, and what has taken their place. Call it once the new items are stored."""
        if self._changed:
            store(self._connection, self._changed)
        # Whoever has muted the new items keeps the earlier ones.
        replaced = [keyed for keyed in self._earlier if keyed in self._taken]
        collapse_keys.replace(self._connection, replaced, self._taken)
