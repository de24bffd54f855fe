"""Group commit: whatever waits is stored in one transaction, then each caller is told, then the sockets.

One transaction runs at a time; what arrives meanwhile makes up the next one. So a commit is paid for by as
many as wait for it, and nobody waits for a timer. docs/architecture.md walks through it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import cast

import structlog

from gateway.auth.limits.fair_queue import FairQueue
from gateway.database.database import Database
from gateway.errors import (
    GatewayError,
    Overloaded,
    Unavailable,
)
from gateway.protocol.items import Content, Item
from gateway.store.batch import Accepted, Change, Committed, Outcome, Submission, Work, commit
from gateway.store.changes import CHUNK, Changed, Delivered, ItemUpdate, ReadUpTo
from gateway.store.shares import Shares

logger = structlog.get_logger()

MAX_BATCH = 500
"""The weight of what shares a transaction: items, and KiB of their texts. What is heavier has its own."""

MAX_ITEMS = 1000
"""How many items one submission may store: everybody waits for its transaction, and it can't be divided.

It is no less than a notification may have recipients, and a batch notifications.
"""

MAX_WAITING = 100_000
"""The weight that may wait. A caller has up to as much waiting as is left; beyond it the answer is 503."""

MAX_ACKNOWLEDGED = 1000
"""How many acknowledgements one transaction stores at most; they are stored beside what shares it."""

DELIVERED_DELAY = 1.0
"""How long an acknowledgement may wait for company, in seconds: it is only a watermark."""


class Writer:
    """The only one that appends to the logs. `announce` is called on the event loop after each commit."""

    def __init__(
        self,
        database: Database,
        announce: Callable[[Committed], None],
        *,
        followed: Container[int] = (),
        create_users: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._announce = announce
        self.followed = followed
        self._create_users = create_users
        self.clock = clock
        self._waiting: FairQueue[tuple[Work, asyncio.Future[Outcome]]] = FairQueue(MAX_WAITING)
        self.shares = Shares(CHUNK)
        self._delivered: dict[int, int] = {}
        self._arrived = asyncio.Event()
        self._closing = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write while the block runs; at its end, write what still waits."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run(), name="writer")
            try:
                yield
            finally:
                self._closing = True
                self._arrived.set()

    async def post(self, submission: Submission) -> Accepted:
        """Store posts and return once they are committed.

        Raises `IdempotencyKeyReused`, `Invalid` for unknown recipients where those are refused, `Unavailable`
        when the database is, and `Overloaded` when too much waits. A caller that is cancelled does not
        know the outcome; the work goes on.
        """
        return cast("Accepted", await self._submit(submission))

    async def change(self, change: Change, gone: Callable[[], Awaitable[bool]] | None = None) -> Changed:
        """Change an inbox and return once it is committed, in as many steps as it takes.

        `gone` is asked between the steps whether the caller has gone. Then, or when the caller is cancelled,
        what was done stays done, and the rest is not begun: what is returned has `more`.

        Raises `NotFound` when the user is gone, and what `post` raises of the database.
        """
        if not isinstance(change, ItemUpdate | ReadUpTo):
            return cast("Changed", await self._submit(change))
        if isinstance(change, ItemUpdate):
            change = change._replace(ids=tuple(dict.fromkeys(change.ids)))
        items: list[Item] = []
        rest: ItemUpdate | ReadUpTo | None = change
        while rest is not None:
            step, rest = _split(rest)
            changed = await self._take_turn(step)
            if isinstance(step, ReadUpTo) and changed.more:
                rest = _after(step, changed)
            else:
                items += changed.items
            if rest is not None and gone is not None and await gone():
                return Changed(items, changed.counts, more=True)
        return Changed(items, changed.counts)

    async def _take_turn(self, step: ItemUpdate | ReadUpTo) -> Changed:
        """Do one step, as soon as the steps of the same user that are under way leave room for it."""
        weight = _weight(step)
        await self.shares.take(step.user_id, weight)
        try:
            return cast("Changed", await self._submit(step))
        finally:
            self.shares.release(step.user_id, weight)

    def delivered(self, user_id: int, up_to: int) -> None:
        """Note that a client has applied everything up to a number; it is stored within about a second."""
        if self._delivered.get(user_id, -1) < up_to:
            if not self._delivered:
                asyncio.get_running_loop().call_later(DELIVERED_DELAY, self._arrived.set)
            self._delivered[user_id] = up_to

    async def _submit(self, work: Work) -> Outcome:
        if self._closing:
            raise Unavailable("The gateway is stopping.")
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if not self._waiting.put(_caller(work), _weight(work), (work, future)):
            raise Overloaded("Too much of yours waits to be stored.")
        self._arrived.set()
        try:
            return await future
        finally:
            # What it raises holds this frame, and the frame would hold it, and the work.
            del future

    async def _run(self) -> None:
        while not (self._closing and not self._waiting and not self._delivered):
            await self._arrived.wait()
            # Cleared before the queue is looked at: what arrives later sets it again.
            self._arrived.clear()
            if batch := self._take():
                await self._write(batch)
            if self._waiting:
                self._arrived.set()

    def _take(self) -> list[tuple[Work, asyncio.Future[Outcome]]]:
        """Take the next batch, with the acknowledgements that are due."""
        if not self._delivered:
            return self._waiting.take(MAX_BATCH)
        loop = asyncio.get_running_loop()
        due = list(islice(self._delivered.items(), MAX_ACKNOWLEDGED))
        for user_id, _ in due:
            del self._delivered[user_id]
        if self._delivered:
            self._arrived.set()
        acknowledged = [(Delivered(user_id, up_to), loop.create_future()) for user_id, up_to in due]
        return [*acknowledged, *self._waiting.take(MAX_BATCH)]

    async def _write(self, batch: Sequence[tuple[Work, asyncio.Future[Outcome]]]) -> None:
        work = [one for one, _ in batch]
        try:
            now, began = int(self.clock() * 1000), time.perf_counter()
            committed = await self._database.write(commit, work, now, self._create_users, self.followed)
        except Unavailable as error:
            _tell(batch, [Unavailable(error.detail) for _ in batch])
            self._keep_acknowledgements(work)
        except Exception as error:
            if len(batch) > 1:
                # One piece of work may have broken the transaction for all. Halves find it among 500 in
                # some 18 transactions, and keep the order.
                middle = len(batch) // 2
                await self._write(batch[:middle])
                await self._write(batch[middle:])
                return
            logger.exception("a piece of work could not be stored", work=type(work[0]).__name__)
            # SQLAlchemy's frames hold the error that holds them, and below them what was posted.
            error.__traceback__ = None
            # No 503: it would fail again. It has no cause: that would hold this frame, and so itself.
            _tell(batch, [GatewayError("It could not be stored.")])
        else:
            self._announce(committed._replace(seconds=time.perf_counter() - began))
            _tell(batch, committed.outcomes)

    def _keep_acknowledgements(self, work: Sequence[Work]) -> None:
        """Try again later what nobody waits for, unless there is no later."""
        for one in work:
            if isinstance(one, Delivered) and not self._closing:
                self.delivered(one.user_id, one.up_to)


def _caller(work: Work) -> int:
    """Return whose turn it is with this work: the id of a service, or minus that of a user."""
    return work.posts[0].service_id if isinstance(work, Submission) else -work.user_id


def _weight(work: Work) -> int:
    """Return how many items the work touches, and how many KiB of text it stores."""
    if isinstance(work, Submission):
        return sum(len(post.recipients) + _kib(post.content) for post in work.posts)
    if isinstance(work, ItemUpdate):
        return len(work.ids)
    return CHUNK if isinstance(work, ReadUpTo) else 1


def _split(change: ItemUpdate | ReadUpTo) -> tuple[ItemUpdate | ReadUpTo, ItemUpdate | ReadUpTo | None]:
    """Return the first step of a change, and what is known to be left after it."""
    if isinstance(change, ItemUpdate) and len(change.ids) > CHUNK:
        return change._replace(ids=change.ids[:CHUNK]), change._replace(ids=change.ids[CHUNK:])
    return change, None


def _after(step: ReadUpTo, changed: Changed) -> ReadUpTo:
    """Return what is left of a read after a step that had more to do.

    It goes on behind what it has read, so that no step looks at what another has looked at. What arrives
    between the steps is later than the request, however far that reaches.
    """
    up_to = min(step.up_to, changed.counts.seq - 1)
    return step._replace(after=changed.items[-1].created_seq, up_to=up_to)


def _kib(content: Content) -> int:
    return (len(content.title) + len(content.body or "") + len(content.data or "")) // 1024


def _tell(batch: Sequence[tuple[Work, asyncio.Future[Outcome]]], outcomes: Sequence[Outcome]) -> None:
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if future.done():
            continue  # Whoever waited has gone.
        if isinstance(outcome, GatewayError):
            future.set_exception(outcome)
            # An acknowledgement has nobody who waits for it.
            future.exception()
        else:
            future.set_result(outcome)
