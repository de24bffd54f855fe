"""Collapse keys: a notification replaces the earlier ones of its key, for each service and user.

Functions take a connection and never commit. They take positions whose rows the transaction has locked.
"""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from sqlalchemy import Connection

from gateway.store import collapse_keys
from gateway.store.entries import Entry, by_message
from gateway.store.numbering import number, store
from gateway.store.positions import Position


def replace(
    connection: Connection, service_id: int, key: str, new: int, positions: Sequence[Position], now: int
) -> list[Entry]:
    """Delete the earlier items of a key, and record the notification that takes their place in these inboxes.

    `new` is the key of its row, `now` the time in ms. An archived item stays. An inbox has several to delete
    if its user has brought some back from the archive: they take one `seq`.
    """
    by_id = {position.user_id: position for position in positions}
    found = collapse_keys.take(connection, service_id, key, new, by_id)
    there = [(user, item) for user, item in found if item.deleted_at is None and item.archived_at is None]
    entries, changed = [], []
    for user_id, group in groupby(there, key=itemgetter(0)):
        changes = [
            (item, item._replace(deleted_at=now, deleted_reason="replaced", snoozed_until=None))
            for _, item in group
        ]
        for listed in by_message(changes):
            entry, stored = number(by_id[user_id], listed)
            entries.append(entry)
            changed += stored
    if changed:
        store(connection, changed)
    return entries
