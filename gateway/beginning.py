"""Where a client begins: what it asks for, and what the log says of it."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from gateway import inbox, log
from gateway.log import Entry
from gateway.protocol import Counts


class Start(NamedTuple):
    """Where a client begins: after `since`, or at the end (`latest`), or with its newest unread items.

    `applied` says that it has applied all up to `since`, which is an acknowledgement.
    """

    since: int | None = None
    epoch: str | None = None
    latest: bool = False
    applied: bool = False


class Beginning(NamedTuple):
    """What the log says of a start. `cursor` is None where it cannot be resumed from there."""

    epoch: str
    counts: Counts
    cursor: int | None
    entries: Sequence[Entry] = ()


def begin(connection: Connection, user_id: int, start: Start) -> Beginning | None:
    """Find where a client begins, or None when the user is gone. A unit of work."""
    found = log.standing(connection, user_id)
    if found is None:
        return None
    epoch, counts = found
    if start.since is not None:
        same = start.epoch in {None, epoch}
        resumes = same and log.resumable(counts, start.since)
        return Beginning(epoch, counts, start.since if resumes else None)
    if start.latest:
        return Beginning(epoch, counts, counts.seq)
    newest = inbox.newest_unread(connection, user_id) if counts.unread else ()
    return Beginning(epoch, counts, counts.seq, log.replay(user_id, counts, newest, cursor=0))
