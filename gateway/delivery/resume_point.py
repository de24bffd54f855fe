"""Resume points: where a client asks delivery to begin, and how the log answers."""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Select, and_, bindparam, select

from gateway.database.models import items, notifications
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Counts
from gateway.store import inbox, log
from gateway.store.entries import Entry, fitting
from gateway.store.log import ITEM_COLUMNS, to_item
from gateway.store.preferences import mark_quiet

BATCH_BYTES = 256 * 1024
"""Maximum size of the entries read at once.

A batch has room for `NEWEST_UNREAD` short items, so that most handshakes read once.
"""


class ResumePoint(NamedTuple):
    """Where delivery begins: after `since`, at the head (`latest`), or with the newest unread items.

    `applied` says that the client has applied everything up to `since`. That counts as an acknowledgement.
    """

    since: int | None = None
    epoch: str | None = None
    latest: bool = False
    applied: bool = False


class Resumption(NamedTuple):
    """The log's answer to a resume point. `cursor` is None if the log can't be replayed from there.

    `entries` are sent first. `later` has the `created_seq` of the items to send after them, in batches for
    `read_later`.
    """

    epoch: str
    counts: Counts
    cursor: int | None
    entries: Sequence[Entry] = ()
    later: Sequence[Sequence[int]] = ()


def resume(connection: Connection, user_id: int, resume_point: ResumePoint) -> Resumption | None:
    """Return where delivery begins, or None if the user no longer exists. A unit of work."""
    found = log.head(connection, user_id)
    if found is None:
        return None
    epoch, counts = found
    if resume_point.since is not None:
        same = resume_point.epoch in {None, epoch}
        resumes = same and log.resumable(counts, resume_point.since)
        return Resumption(epoch, counts, resume_point.since if resumes else None)
    if resume_point.latest:
        return Resumption(epoch, counts, counts.seq)
    newest = inbox.newest_unread(connection, user_id) if counts.unread else ()
    entries = log.replay(user_id, counts, newest, cursor=0)
    mark_quiet(connection, entries, (user_id,) if counts.preferences else ())
    first = fitting(entries, BATCH_BYTES)
    return Resumption(epoch, counts, counts.seq, first, _batches(entries[len(first) :]))


def _batches(entries: Sequence[Entry]) -> list[Sequence[int]]:
    batches: list[Sequence[int]] = []
    while entries:
        batch = fitting(entries, BATCH_BYTES)
        batches.append(created_seqs(batch))
        entries = entries[len(batch) :]
    return batches


def created_seqs(entries: Sequence[Entry]) -> Sequence[int]:
    """Return the numbers of these items, for `read_later`."""
    return [item.created_seq for entry in entries for item in entry.items]


def read_later(
    connection: Connection, user_id: int, counts: Counts, numbers: Sequence[int]
) -> Sequence[Entry]:
    """Return the entries of a batch as they were at the handshake. A unit of work.

    `counts` are those of the handshake. Items that have changed since are left out: they follow with the
    `seq` of their change.
    """
    found = connection.execute(
        _select_numbered(connection.dialect.name),
        {"rows": dumps([(user_id, number) for number in numbers]), "seq": counts.seq},
    )
    entries = log.replay(user_id, counts, (to_item(row) for row in found), cursor=0)
    # The user may have got the first preferences since the handshake.
    mark_quiet(connection, entries, (user_id,))
    return entries


@cache
def _select_numbered(dialect: str) -> Select[Any]:
    # With the user id in each row, SQLite starts from these rows. Otherwise it would scan the whole inbox.
    wanted = rows(dialect, user_id=BigInteger(), created_seq=BigInteger())
    return (
        select(*ITEM_COLUMNS)
        .join_from(
            wanted,
            items,
            and_(items.c.user_id == wanted.c.user_id, items.c.created_seq == wanted.c.created_seq),
        )
        .join(notifications, items.c.notification_id == notifications.c.id)
        .where(items.c.seq <= bindparam("seq"))
        .order_by(items.c.seq, items.c.created_seq)
    )
