"""The writer: group commit of all waiting work, which it then announces to the sockets and to its callers.

One transaction runs at a time, and the work that arrives meanwhile forms the next one. All callers that wait
share the cost of a commit, and no caller waits for a timer. `delivery/announcer.py` announces a commit.
docs/architecture.md walks through it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import cast

import structlog

from gateway.auth.limits.fair_queue import FairQueue
from gateway.auth.limits.token_buckets import Buckets
from gateway.database.database import Database
from gateway.errors import (
    GatewayError,
    Overloaded,
    Unavailable,
)
from gateway.observability.tracebacks import drop_tracebacks
from gateway.protocol.items import Content
from gateway.store.changes import CHUNK, Changed, Delivered, ItemUpdate, ReadUpTo
from gateway.store.due_steps import STEP, Advance, Advanced
from gateway.store.due_work import PER_ROW
from gateway.store.lifecycle import Begun, Edit, Withdrawal
from gateway.store.preferences import SetPreferences
from gateway.store.shares import Shares
from gateway.store.snoozes import Snooze
from gateway.store.transaction import (
    Accepted,
    Change,
    Committed,
    ItemChange,
    Outcome,
    Submission,
    Work,
    commit,
)

logger = structlog.get_logger()

MAX_BATCH = 500
"""Maximum weight of a transaction: items, plus KiB of their texts. Heavier work gets a transaction alone."""

MAX_ITEMS = 1000
"""Maximum number of items in one submission. Its transaction can't be split, and all callers wait for it.

It must be at least the maximum number of recipients of a notification, and of notifications in a batch.
"""

MAX_WAITING = 100_000
"""Maximum total weight of waiting work. A caller may have as much waiting as is left; beyond it, 503."""

MAX_ACKNOWLEDGED = 1000
"""Maximum number of acknowledgements in one transaction. They come on top of its other work."""

DELIVERED_DELAY_SECONDS = 1.0
"""How long an acknowledgement may wait to share a transaction. It is only a watermark, and not urgent."""


class Writer:
    """The only writer to the logs. It calls `announce` on the event loop after each commit.

    A change of a user whose `changes` are used up is refused, unless it deletes. `announce` charges them.
    """

    def __init__(
        self,
        database: Database,
        announce: Callable[[Committed], None],
        *,
        followed: Container[int] = (),
        create_users: bool = True,
        required_categories: Container[str] = (),
        changes: Buckets | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._announce = announce
        self.followed = followed
        self._create_users = create_users
        self._required = required_categories
        self._changes = changes
        self.clock = clock
        self._waiting: FairQueue[tuple[Work, asyncio.Future[Outcome]]] = FairQueue(MAX_WAITING)
        self.shares = Shares(CHUNK)
        self._delivered: dict[int, int] = {}
        self._arrived = asyncio.Event()
        self._closing = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write while the block runs. At its end, write the work that still waits."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run(), name="writer")
            try:
                yield
            finally:
                self._closing = True
                self._arrived.set()

    async def post(self, submission: Submission) -> Accepted:
        """Store posts and return once they are committed.

        Raises `IdempotencyKeyReused`, `Invalid` for unknown recipients if the settings refuse them,
        `Unavailable` when the database is unavailable, and `Overloaded` when too much work waits. The work
        continues if the caller is cancelled, which then doesn't learn the outcome.
        """
        return cast("Accepted", await self._submit(submission))

    async def begin(self, request: Edit | Withdrawal) -> Begun:
        """Change a notification, and return once that is committed. Its items follow with `advance`.

        Raises the error of the change, and `Unavailable` and `Overloaded` as `post` does.
        """
        return cast("Begun", await self._submit(request))

    async def advance(self, work: Advance) -> Advanced:
        """Do a step of due work, and return what is left of it. Raises as `begin` does."""
        return cast("Advanced", await self._submit(work))

    async def change(self, change: Change, gone: Callable[[], Awaitable[bool]] | None = None) -> Changed:
        """Change an inbox, in as many steps as it takes, and return once all are committed.

        The result has the items of the last step only: all of them, with their contents, could be too many.

        `gone` is called between the steps and returns whether the caller has disconnected. In that case, or
        when the caller is cancelled, the finished steps stay and the rest is not begun. The result then has
        `more`.

        Raises `RateLimited` before the first step, `NotFound` if the user no longer exists, what an `Act` is
        refused with, `PreconditionFailed`, and `Unavailable` and `Overloaded` as `post` does.
        """
        if isinstance(change, SetPreferences) and self._changes is not None:
            self._changes.check(change.user_id)
        if not isinstance(change, ItemChange):
            return cast("Changed", await self._submit(change))
        if isinstance(change, ItemUpdate | Snooze):
            change = change._replace(ids=tuple(dict.fromkeys(change.ids)))
        budget = None if isinstance(change, ItemUpdate) and change.deleted else self._changes
        step, rest = _split(change)
        changed = await self._take_turn(step, budget)
        while True:
            if isinstance(step, ReadUpTo) and changed.more:
                rest = _after(step, changed)
            if rest is None:
                return changed
            # Many requests may wait for their next turn.
            changed = changed._replace(items=[])
            if gone is not None and await gone():
                return changed._replace(more=True)
            step, rest = _split(rest)
            # A change that has begun is finished, whatever the budget.
            changed = await self._take_turn(step, None)

    async def _take_turn(self, step: ItemChange, budget: Buckets | None) -> Changed:
        """Do one step, once the running steps of the same user leave room for it.

        The budget is checked then, so that few changes of a user that wait at once can exceed it together.
        """
        weight = _weight(step)
        await self.shares.take(step.user_id, weight)
        try:
            if budget is not None:
                budget.check(step.user_id)
            return cast("Changed", await self._submit(step))
        finally:
            self.shares.release(step.user_id, weight)

    def delivered(self, user_id: int, up_to: int) -> None:
        """Record that a client has applied everything up to a `seq`. It is stored within about a second."""
        if self._delivered.get(user_id, -1) < up_to:
            if not self._delivered:
                asyncio.get_running_loop().call_later(DELIVERED_DELAY_SECONDS, self._arrived.set)
            self._delivered[user_id] = up_to

    def submit(self, submission: Submission) -> asyncio.Future[Outcome]:
        """Queue posts as `post` does, and return the future of the outcome: `Accepted`, or its error.

        Raises `Overloaded`, and `Unavailable` when the gateway stops. Don't cancel the future.
        """
        return self._queue(submission)

    def _queue(self, work: Work) -> asyncio.Future[Outcome]:
        if self._closing:
            raise Unavailable("The gateway is stopping.")
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if not self._waiting.put(_caller(work), _weight(work), (work, future)):
            raise Overloaded("Too much of yours waits to be stored.")
        self._arrived.set()
        return future

    async def _submit(self, work: Work) -> Outcome:
        future = self._queue(work)
        try:
            return await future
        finally:
            # Break a reference cycle: the exception holds this frame, which holds the future and its work.
            del future

    async def _run(self) -> None:
        while not (self._closing and not self._waiting and not self._delivered):
            await self._arrived.wait()
            # Cleared before the queue is read, so that work that arrives later sets it again.
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
            committed = await self._database.write(
                commit, work, now, self._create_users, self.followed, self._required
            )
        except Unavailable as error:
            _resolve(batch, [Unavailable(error.detail) for _ in batch])
            self._requeue_acknowledgements(work)
        except Exception as error:
            if len(batch) > 1:
                # One piece of work may have broken the transaction for all. Bisecting finds it among 500 in
                # some 18 transactions, and keeps the order.
                middle = len(batch) // 2
                await self._write(batch[:middle])
                await self._write(batch[middle:])
                return
            logger.exception("a piece of work could not be stored", work=type(work[0]).__name__)
            # The frames of SQLAlchemy hold the error, and also the posted content.
            drop_tracebacks(error)
            # Not a 503: a retry would fail again. It has no cause: that would hold this frame in a cycle.
            _resolve(batch, [GatewayError("It could not be stored.")])
        else:
            self._announce(committed._replace(seconds=time.perf_counter() - began))
            _resolve(batch, committed.outcomes)

    def _requeue_acknowledgements(self, work: Sequence[Work]) -> None:
        """Retry acknowledgements later, since no caller waits for them, unless the writer is closing."""
        for one in work:
            if isinstance(one, Delivered) and not self._closing:
                self.delivered(one.user_id, one.up_to)


def _caller(work: Work) -> int:
    """Return the caller for the fair queue: the id of a service, or the negated id of a user."""
    if isinstance(work, Submission):
        return work.posts[0].service_id
    return work.caller if isinstance(work, Edit | Withdrawal | Advance) else -work.user_id


def _weight(work: Work) -> int:
    """Return the weight of the work: the items it touches, plus the KiB of text it stores."""
    if isinstance(work, Submission):
        weight = sum(len(post.recipients) + _kib(post.content) for post in work.posts)
        return (
            weight + PER_ROW * sum(post.options is not None for post in work.posts)
            if work.has_options
            else weight
        )
    if isinstance(work, ItemUpdate | Snooze):
        return len(work.ids)
    if isinstance(work, Advance):
        return sum(one.weight(STEP) for one in work.due)
    if isinstance(work, SetPreferences):
        return 1 + len(work.document) // 1024
    return CHUNK if isinstance(work, ReadUpTo) else 1


def _split(change: ItemChange) -> tuple[ItemChange, ItemChange | None]:
    """Return the first step of a change, and the known rest or None."""
    if isinstance(change, ItemUpdate | Snooze) and len(change.ids) > CHUNK:
        return change._replace(ids=change.ids[:CHUNK]), change._replace(ids=change.ids[CHUNK:])
    return change, None


def _after(step: ReadUpTo, changed: Changed) -> ReadUpTo:
    """Return the rest of a bulk read after a step that left more to do.

    The rest begins after the last item read, so that no two steps scan the same items. It ends before items
    that arrive between the steps: they are newer than the request, whatever its `up_to`.
    """
    up_to = min(step.up_to, changed.counts.seq - 1)
    return step._replace(after=changed.items[-1].created_seq, up_to=up_to)


def _kib(content: Content) -> int:
    return (len(content.title) + len(content.body or "") + len(content.data or "")) // 1024


def _resolve(batch: Sequence[tuple[Work, asyncio.Future[Outcome]]], outcomes: Sequence[Outcome]) -> None:
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if future.done():
            continue  # The caller was cancelled.
        if isinstance(outcome, GatewayError):
            future.set_exception(outcome)
            # Mark it as retrieved: no caller awaits the future of an acknowledgement.
            future.exception()
        else:
            future.set_result(outcome)
