"""What is past is removed: old items, deleted ones, and keys, sessions and tickets that have had their time.

An item that is older than the retention is deleted like any other, by the writer, so every client learns of
it. A day after its deletion its row is removed; whoever resumes from before that must read the inbox afresh.
All of it goes in small steps with rests, so that posts are not held up (docs/architecture.md, "Retention").
"""

import asyncio
import random
import time
from collections.abc import Callable, Collection
from functools import cache
from typing import Any, NamedTuple

import structlog
from sqlalchemy import BigInteger, Connection, bindparam, delete, select, tuple_, update

from gateway.auth import cutoffs, erasure, sessions, tickets
from gateway.database.database import LockingDatabase
from gateway.database.models import items, notifications, users
from gateway.database.rows import rows
from gateway.database.units import background
from gateway.errors import GatewayError, NotFound
from gateway.protocol.encoding import dumps
from gateway.store import idempotency, positions
from gateway.store.changes import CHUNK, ItemUpdate
from gateway.store.writer import Writer

logger = structlog.get_logger()

INTERVAL = 600
"""The time between two rounds, in seconds, on average."""

DELETED_FOR = 24 * 60 * 60 * 1000
"""How long a deleted item stays in the log, for clients that are away to learn of it, in ms."""

STEP = CHUNK
"""About how many items one step deletes or removes: no more than one change of the log touches."""

REST = 4
"""How many times as long as a step took the rest after it is."""

LATE = 600_000
"""How long after it was made the id of a notification may still be committed, in ms."""

_LOCK = 0x7265746169
"""The advisory lock of Postgres under which one process does this ("retai" in ASCII)."""


class Retention:
    """Removes what is past, now and then, in one process at a time.

    `keep` is how old an item gets, in seconds; None keeps items. `clock` returns seconds since 1970.
    """

    def __init__(
        self,
        database: LockingDatabase,
        writer: Writer,
        *,
        keep: int | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._writer = writer
        self._keep = keep
        self._clock = clock
        # Everything up to this id has been deleted, so no round looks at it again.
        self._after = ""

    async def run(self) -> None:
        """Do a round now and then, until cancelled. A database that is away is no error."""
        while True:
            # Not all processes at once.
            await asyncio.sleep(INTERVAL * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            try:
                await self.sweep()
            except GatewayError:
                logger.warning("what is past could not be removed; the next round goes on")

    async def sweep(self) -> None:
        """Do one round, unless another process is at it. Raises `GatewayError`."""
        async with self._database.exclusively(_LOCK) as alone:
            if alone:
                if self._keep is not None:
                    await self.expire(self._now() - self._keep * 1000)
                await self._sweep_sessions()
                for step in SWEEPS:
                    await self._repeat(step)

    async def expire(self, before_ms: int) -> None:
        """Delete the items of the notifications that were posted before a moment."""
        while page := await self._database.read(find_expired, self._after, _first_id(before_ms)):
            for first in range(0, len(page.marks), STEP):
                await self._delete(page.marks[first : first + STEP])
            self._after = page.last
        self._after = min(self._after, _first_id(before_ms - LATE))

    async def _delete(self, marks: Collection[ItemUpdate]) -> None:
        began = time.monotonic()
        changes = (self._writer.change(mark) for mark in marks)
        for outcome in await asyncio.gather(*changes, return_exceptions=True):
            # A user who was erased meanwhile has nothing left to delete.
            if isinstance(outcome, BaseException) and not isinstance(outcome, NotFound):
                raise outcome
        await _rest(began)

    async def _repeat(self, step: Callable[[Connection, int], bool]) -> None:
        more = True
        while more:
            began = time.monotonic()
            more = await self._database.write(step, self._now())
            await _rest(began)

    async def _sweep_sessions(self) -> None:
        after: sessions.Ended | None = sessions.OLDEST
        while after is not None:
            began = time.monotonic()
            after = await self._database.write(sessions.sweep, self._now(), after)
            await _rest(began)

    def _now(self) -> int:
        return int(self._clock() * 1000)


async def _rest(began: float) -> None:
    await asyncio.sleep(REST * (time.monotonic() - began))


def _first_id(moment_ms: int) -> str:
    """Return what stands before every id that was made from a moment on (RFC 9562, section 5.7)."""
    moment = f"{max(moment_ms, 0):012x}"
    return f"{moment[:8]}-{moment[8:]}-0000-0000-000000000000"


# --- what is over its time ----------------------------------------------------------------------------------


class Expired(NamedTuple):
    """Items to be deleted, by user, and the id of the last notification that was looked at."""

    marks: list[ItemUpdate]
    last: str


def find_expired(connection: Connection, after: str, before: str) -> Expired | None:
    """Return the items of the next few notifications between two ids, or None where there are no more.

    A step is as many notifications as have `STEP` recipients together: a range of the index of their ids.
    """
    page: list[int] = []
    last, recipients = after, 0
    for row in connection.execute(_SELECT_OLDEST, {"after": after, "before": before, "limit": STEP}):
        if recipients >= STEP:
            break
        page.append(row.id)
        last, recipients = row.uuid, recipients + row.recipients
    if not page:
        return None
    found: dict[int, list[str]] = {}
    for user_id, uuid in connection.execute(_SELECT_KEPT, {"page": page}):
        found.setdefault(user_id, []).append(uuid)
    return Expired([ItemUpdate(user_id, tuple(ids), deleted=True) for user_id, ids in found.items()], last)


_SELECT_OLDEST = (
    select(notifications.c.id, notifications.c.uuid, notifications.c.recipients)
    .where(notifications.c.uuid > bindparam("after"), notifications.c.uuid < bindparam("before"))
    .order_by(notifications.c.uuid)
    .limit(bindparam("limit"))
)

_SELECT_KEPT = (
    select(items.c.user_id, notifications.c.uuid)
    .join_from(items, notifications, items.c.notification_id == notifications.c.id)
    .where(
        items.c.notification_id.in_(bindparam("page", expanding=True)),
        items.c.deleted_at.is_(None),
    )
)


# --- what was deleted ---------------------------------------------------------------------------------------


@background
def trim(connection: Connection, now_ms: int) -> bool:
    """Remove some of the items that were deleted a day ago, and return whether there are more.

    Each user's row keeps the highest number that was removed. Notifications that nobody has any more go too.
    The users are locked first, and in order, as by everybody.
    """
    due = {"before": now_ms - DELETED_FOR, "limit": STEP}
    found = connection.execute(_SELECT_DELETED, due).all()
    if not found:
        return False
    trimmed: dict[int, int] = {}
    for row in found:
        trimmed[row.user_id] = max(trimmed.get(row.user_id, 0), row.seq)
    positions.lock(connection, (), trimmed.keys(), now_ms)
    dialect = connection.dialect.name
    connection.execute(_update_trimmed(dialect), {"rows": dumps(list(trimmed.items()))})
    places = dumps([(row.user_id, row.created_seq) for row in found])
    connection.execute(_delete_items(dialect), {"rows": places})
    erasure.remove_unheld(connection, {row.notification_id for row in found})
    return len(found) == STEP


_SELECT_DELETED = (
    select(items.c.user_id, items.c.created_seq, items.c.seq, items.c.notification_id)
    .where(items.c.deleted_at <= bindparam("before"))
    .order_by(items.c.deleted_at)
    .limit(bindparam("limit"))
)


@cache
def _update_trimmed(dialect: str) -> Any:
    new = rows(dialect, id=BigInteger(), seq=BigInteger())
    return (
        update(users)
        .where(users.c.id == new.c.id, users.c.trimmed_seq < new.c.seq)
        .values(trimmed_seq=new.c.seq)
    )


@cache
def _delete_items(dialect: str) -> Any:
    new = rows(dialect, user_id=BigInteger(), created_seq=BigInteger())
    return delete(items).where(tuple_(items.c.user_id, items.c.created_seq).in_(select(new)))


SWEEPS = (trim, tickets.sweep, cutoffs.sweep, erasure.sweep, idempotency.sweep)
"""What a round repeats after the sweep of the sessions, which an erased user's row goes after."""
