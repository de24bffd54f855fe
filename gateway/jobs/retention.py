"""Retention: expire old items, purge deleted ones, and delete expired keys, sessions and tickets.

The writer deletes an item that is older than the retention like any other item, so every client learns of it.
A day after its deletion the item is purged. A client that resumes from before that must reload the inbox. The
job works in small steps with rests, so that it doesn't hold up posts (docs/architecture.md, "Retention").
"""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

import structlog
from sqlalchemy import BigInteger, Connection, bindparam, delete, select, tuple_, update

from gateway.auth import cutoffs, erasure, sessions, tickets
from gateway.database.database import LockingDatabase
from gateway.database.models import collapse_keys, items, notifications, users
from gateway.database.rows import rows
from gateway.database.units import background
from gateway.errors import GatewayError, NotFound
from gateway.protocol.encoding import dumps
from gateway.store import idempotency, positions
from gateway.store.changes import ItemUpdate
from gateway.store.writer import MAX_BATCH, Writer

logger = structlog.get_logger()

INTERVAL_SECONDS = 600
"""Average time between two rounds."""

DELETED_TTL_MS = 24 * 60 * 60 * 1000
"""How long a deleted item stays in the log, so that disconnected clients learn of its deletion."""

DAY_MS = 24 * 60 * 60 * 1000
"""How often a round looks at all items again."""

STEP = MAX_BATCH
"""Maximum number of items that one step deletes or purges, about: as many as share a transaction of posts."""

PER_USER = 4
"""How many items more each user of a step counts as: the statements for a user cost about as much."""

MAX_COMMIT_DELAY_MS = 600_000
"""Maximum time between the creation of a notification's id and its commit."""

_LOCK = 0x7265746169
"""The advisory lock of Postgres that lets one process at a time do a round ("retai" in ASCII)."""


class Retention:
    """The retention job: periodic rounds, in one process at a time.

    `keep` is the maximum age of an item in seconds, or None for no limit. `clock` returns seconds since 1970.
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
        # All items up to this notification id are deleted, so no later round reads them, for a day.
        self._after = ""
        self._began_at = 0

    async def run(self) -> None:
        """Do a round periodically, until cancelled. A failed round is logged and left to the next one."""
        while True:
            # Randomised, so that not all processes start at once.
            await asyncio.sleep(INTERVAL_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            try:
                await self.sweep()
            except GatewayError:
                logger.warning("retention failed; the next round continues")

    async def sweep(self) -> None:
        """Do one round, unless another process is doing one. Raises `GatewayError`."""
        async with self._database.exclusively(_LOCK) as alone:
            if alone:
                if self._keep is not None:
                    await self.expire(self._now() - self._keep * 1000)
                await self._sweep_sessions()
                for step in SWEEPS:
                    await self._repeat(step)

    async def expire(self, before_ms: int) -> None:
        """Delete the items of notifications that were posted before `before_ms`."""
        if self._now() >= self._began_at + DAY_MS:
            # The id of a scheduled notification is as old as the request, and its items may have come since.
            self._after, self._began_at = "", self._now()
        while page := await self._database.read(find_expired, self._after, before_ms):
            for step in _steps(page.marks):
                await self._delete(step)
            self._after = page.last
        self._after = min(self._after, _first_id(before_ms - MAX_COMMIT_DELAY_MS))

    async def _delete(self, marks: Collection[ItemUpdate]) -> None:
        began = time.monotonic()
        changes = (self._writer.change(mark) for mark in marks)
        for outcome in await asyncio.gather(*changes, return_exceptions=True):
            # NotFound: the user was erased meanwhile, together with the items.
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


def _steps(marks: Iterable[ItemUpdate]) -> Iterator[list[ItemUpdate]]:
    """Put the changes of several users together, so that one transaction does as many as may share it."""
    step: list[ItemUpdate] = []
    weight = 0
    for mark in marks:
        cost = len(mark.ids) + PER_USER
        if step and weight + cost > STEP:
            yield step
            step, weight = [], 0
        step.append(mark)
        weight += cost
    if step:
        yield step


async def _rest(began: float) -> None:
    """Leave the database to others for as long as the step took: the job takes at most half of the time."""
    await asyncio.sleep(time.monotonic() - began)


def _first_id(moment_ms: int) -> str:
    """Return a lower bound of all ids created from `moment_ms` on (UUIDv7, RFC 9562, section 5.7)."""
    moment = f"{max(moment_ms, 0):012x}"
    return f"{moment[:8]}-{moment[8:]}-0000-0000-000000000000"


# --- expired items ------------------------------------------------------------------------------------------


class Expired(NamedTuple):
    """The expired items to delete, by user, and the id of the last notification that was read."""

    marks: list[ItemUpdate]
    last: str


def find_expired(connection: Connection, after: str, before_ms: int) -> Expired | None:
    """Return the items of the next few notifications after an id, or None when none older are left.

    A step reads consecutive notifications, in the order of their ids, until they have `STEP` recipients in
    all. One that was scheduled is as old as its delivery, which may be much later than its id.
    """
    page: list[int] = []
    last, recipients = after, 0
    ends = {"after": after, "before": _first_id(before_ms), "limit": STEP}
    for row in connection.execute(_SELECT_OLDEST, ends):
        if recipients >= STEP:
            break
        page.append(row.id)
        last, recipients = row.uuid, recipients + row.recipients
    if not page:
        return None
    found: dict[int, list[str]] = {}
    for user_id, uuid in connection.execute(_SELECT_KEPT, {"page": page, "before": before_ms}):
        found.setdefault(user_id, []).append(uuid)
    return Expired(
        [ItemUpdate(user_id, tuple(ids), deleted=True, reason="retention") for user_id, ids in found.items()],
        last,
    )


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
        notifications.c.created_at < bindparam("before"),
    )
)


# --- deleted items ------------------------------------------------------------------------------------------


@background
def trim(connection: Connection, now_ms: int) -> bool:
    """Purge some of the items that were deleted at least a day ago, and return whether more are left.

    Each user's row records the highest `seq` that was purged. Notifications without items are deleted, too.
    The users are locked first and in order, as everywhere, to avoid deadlocks.
    """
    due = {"before": now_ms - DELETED_TTL_MS, "limit": STEP}
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
    # Here the users are locked. With its notification, a row may be deleted while a post changes it.
    kept = dumps([(row.user_id, row.notification_id) for row in found])
    connection.execute(_delete_collapse_keys(dialect), {"rows": kept})
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


@cache
def _delete_collapse_keys(dialect: str) -> Any:
    new = rows(dialect, user_id=BigInteger(), notification_id=BigInteger())
    return delete(collapse_keys).where(
        tuple_(collapse_keys.c.user_id, collapse_keys.c.notification_id).in_(select(new))
    )


SWEEPS = (trim, tickets.sweep, cutoffs.sweep, erasure.sweep, idempotency.sweep)
"""The steps that a round repeats, after the sweep of the sessions. A user's row must outlive its sessions."""
