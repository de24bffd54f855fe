"""The newest unread items, which a client without a resume point gets first."""

from collections.abc import Sequence
from typing import Any

from gateway.database.database import Database
from gateway.delivery.outgoing import Outgoing
from gateway.delivery.resume_point import created_seqs, read_later
from gateway.protocol.items import Counts
from gateway.store.entries import Entry


async def send_newest(
    outgoing: Outgoing,
    database: Database,
    user_id: int,
    counts: Counts,
    newest: list[Any],
) -> None:
    """Send the items of a handshake: those that were read with it, then the others in batches.

    A batch is read once the client has caught up, so that only the transport holds anything for a client that
    doesn't read. `newest` has the `entries` and `later` of the `Resumption`, and is emptied for the same
    reason. Raises `Disconnected`.
    """
    later: Sequence[Sequence[int]] = newest.pop()
    entries: Sequence[Entry] = newest.pop()
    waiting = [*await _send_some(outgoing, entries), *later]
    while waiting:
        entries = ()
        await outgoing.keep_up()
        entries = await database.read(read_later, user_id, counts, waiting[0])
        waiting = [*await _send_some(outgoing, entries), *waiting[1:]]


async def _send_some(outgoing: Outgoing, entries: Sequence[Entry]) -> list[Sequence[int]]:
    """Send items until the client lags. Return the numbers of the rest, for `read_later`."""
    for number, entry in enumerate(entries):
        if number and not outgoing.keeps_up:
            return [created_seqs(entries[number:])]
        await outgoing.send(entry.message)
    return []
