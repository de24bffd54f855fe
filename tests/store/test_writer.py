"""Group commit: one transaction for all that waits, and no caller's fate is another's."""

import asyncio
import gc
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import pytest
from sqlalchemy import Connection, func, select
from sqlalchemy.engine import make_url

from gateway.auth.limits.fair_queue import FairQueue
from gateway.database.database import Database, open_database
from gateway.database.models import items, users
from gateway.errors import GatewayError, IdempotencyKeyReused, Invalid, NotFound, Overloaded, Unavailable
from gateway.protocol.items import Counts
from gateway.store.arrivals import Post
from gateway.store.changes import CHUNK, LONG_CHANGE, Delivered, ItemUpdate, ReadUpTo, Seen
from gateway.store.idempotency import TTL_MS, Reservation
from gateway.store.inbox import Query as PageQuery
from gateway.store.inbox import list_items
from gateway.store.log import head, read_after
from gateway.store.transaction import Accepted, Submission
from gateway.store.writer import MAX_ACKNOWLEDGED, MAX_BATCH, MAX_ITEMS, MAX_WAITING, Writer
from tests.support.databases import settings_for
from tests.support.engine import Engine, Gate
from tests.support.postgres import Postgres
from tests.support.waiting import until


async def counts_of(engine: Engine, user_id: int) -> Counts:
    found = await engine.database.read(head, user_id)
    assert found is not None
    return found[1]


def count_unread(connection: Connection, user_id: int) -> int:
    unread = items.c.read_at.is_(None) & items.c.archived_at.is_(None) & items.c.deleted_at.is_(None)
    return connection.scalar(select(func.count()).where(items.c.user_id == user_id, unread)) or 0


async def test_posts_that_arrive_together_share_one_transaction(engine: Engine) -> None:
    await asyncio.gather(*(engine.store(engine.post(f"user-{number}")) for number in range(20)))
    assert len(engine.announced) == 1
    assert len(engine.announced[0].outcomes) == 20


async def test_seqs_have_no_gaps_and_follow_the_order_of_arrival(engine: Engine) -> None:
    user = await engine.user()
    await asyncio.gather(*(engine.store(engine.post("ada", "bob", title=str(n))) for n in range(30)))
    page = await engine.database.read(read_after, user.id, 0, 100)
    assert page is not None
    assert [entry.counts.seq for entry in page.entries] == list(range(1, 31))
    assert [entry.items[0].content.title for entry in page.entries] == [str(n) for n in range(30)]


async def test_cancelling_one_caller_does_not_affect_the_others_or_the_writer(engine: Engine) -> None:
    user = await engine.user()
    waiting = [asyncio.create_task(engine.store()) for _ in range(10)]
    await asyncio.sleep(0)
    for task in waiting[::2]:
        task.cancel()
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(one, Accepted) for one in done] == [False, True] * 5
    await engine.store()
    assert (await counts_of(engine, user.id)).seq == 11


async def test_a_submission_that_breaks_the_transaction_fails_alone(engine: Engine) -> None:
    user = await engine.user()
    twice = engine.post()
    await engine.store(twice)
    # An id that is there already breaks the transaction it is in.
    outcomes = await asyncio.gather(
        engine.store(), engine.store(twice), engine.store(), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [Accepted, GatewayError, Accepted]
    assert (await counts_of(engine, user.id)).seq == 3


async def test_a_failed_submission_leaves_no_error_in_a_reference_cycle(engine: Engine) -> None:
    """It would keep what was posted until the collector of cycles runs, which is seldom."""
    twice = engine.post()

    async def fail() -> None:
        with pytest.raises(GatewayError, match="could not be stored"):
            await engine.store(twice)

    await engine.store(twice)
    await fail()
    gc.collect()
    gc.disable()
    try:
        await fail()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        traces = [one.tb_frame for one in gc.garbage if isinstance(one, TracebackType)]
        assert [frame.f_code.co_qualname for frame in traces if "gateway" in frame.f_code.co_filename] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def test_posts_and_changes_of_one_user_share_a_transaction(engine: Engine) -> None:
    user = await engine.user()
    first = engine.post()
    await engine.store(first)
    changes = [
        engine.writer.change(ItemUpdate(user.id, (first.content.id,), read=True)),
        engine.writer.change(Seen(user.id, 1)),
        engine.writer.change(Delivered(user.id, 1)),
        engine.store(),
        engine.writer.change(ItemUpdate(user.id, (first.content.id,), archived=True)),
    ]
    before = len(engine.announced)
    await asyncio.gather(*changes)
    assert len(engine.announced) == before + 1
    assert await counts_of(engine, user.id) == Counts(seq=4, unread=1, unseen=1, seen=1)


async def test_marking_an_already_marked_item_takes_no_seq(engine: Engine) -> None:
    user = await engine.user()
    post = engine.post()
    await engine.store(post)
    for _ in range(2):
        changed = await engine.writer.change(ItemUpdate(user.id, (post.content.id,), read=True))
        assert (changed.counts.seq, changed.counts.unread, changed.items[0].seq) == (2, 0, 2)


async def test_a_long_read_up_to_a_seq_runs_in_bounded_steps_and_misses_no_item(engine: Engine) -> None:
    user = await engine.user()
    total = 2 * CHUNK + 10
    for start in range(0, total, 500):
        await engine.store(*[engine.post() for _ in range(min(500, total - start))])
    engine.announced.clear()
    changed = await engine.writer.change(ReadUpTo(user.id, total - 1))
    assert changed.counts == Counts(seq=total + 3, unread=1, unseen=1, seen=0)
    assert await engine.database.read(count_unread, user.id) == 1
    page = await engine.database.read(read_after, user.id, total, 10)
    assert page is not None
    assert [(entry.counts.seq, len(entry.items)) for entry in page.entries] == [(total + 1, CHUNK)]
    assert page.more


async def test_a_long_read_is_announced_by_its_end_and_a_short_read_by_its_items(engine: Engine) -> None:
    user = await engine.user()
    engine.recent.follow(user.id)
    await engine.store(*[engine.post() for _ in range(2 * LONG_CHANGE + 1)])
    engine.announced.clear()
    await engine.writer.change(ReadUpTo(user.id, LONG_CHANGE))
    await engine.writer.change(ReadUpTo(user.id, 10**9))
    short, long = (committed.entries[0] for committed in engine.announced[:2])
    assert (short.up_to, len(short.items)) == (None, LONG_CHANGE)
    assert long.up_to == 2 * LONG_CHANGE + 1
    assert b'"type":"read"' in long.message.frame


async def test_a_change_for_a_missing_user_raises_not_found(engine: Engine) -> None:
    with pytest.raises(NotFound):
        await engine.writer.change(Seen(10**6, 1))


async def test_acks_are_stored_soon_with_or_without_other_work(engine: Engine) -> None:
    user = await engine.user()
    await engine.store(engine.post(), engine.post())
    engine.writer.delivered(user.id, 1)
    engine.writer.delivered(user.id, 2)
    engine.writer.delivered(user.id, 1)

    async def stored() -> bool:
        mark = select(users.c.delivered_seq).where(users.c.id == user.id)
        return await engine.database.read(lambda connection: connection.scalar(mark)) == 2

    await until(stored, "the mark is stored")


async def test_waiting_posts_are_stored_when_the_writer_stops(database: Database, database_url: str) -> None:
    engine = Engine(settings_for(database_url), database)
    async with engine.writer.running():
        user = await engine.user()
        waiting = [asyncio.create_task(engine.store()) for _ in range(5)]
        await asyncio.sleep(0)
    assert all(isinstance(one, Accepted) for one in await asyncio.gather(*waiting))
    assert (await counts_of(engine, user.id)).seq == 5
    with pytest.raises(Unavailable):
        await engine.store()


class Failing:
    """A database that is not there while `down` is set."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.down = True

    async def write(self, *args: object) -> object:
        if self.down:
            raise Unavailable("It is down.")
        return await self._database.write(*args)  # type: ignore[arg-type]

    async def read(self, *args: object) -> object:
        return await self._database.read(*args)  # type: ignore[arg-type]


async def test_a_database_outage_fails_waiting_submissions_but_no_later_ones(
    database: Database, database_url: str
) -> None:
    engine = Engine(settings_for(database_url), database)
    failing = Failing(database)
    engine.writer = Writer(failing, engine.announce)  # type: ignore[arg-type]
    user = await engine.user()
    async with engine.writer.running():
        engine.writer.delivered(user.id, 1)
        outcomes = await asyncio.gather(engine.store(), engine.store(), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
        failing.down = False
        await engine.store()
    assert (await counts_of(engine, user.id)).seq == 1


def claimed(engine: Engine, key: str, digest: bytes, response: str, post: Post | None = None) -> Submission:
    return Submission((post or engine.post(),), response, Reservation(1, key, digest, response))


async def test_equal_posts_with_one_key_in_one_transaction_store_one_notification(engine: Engine) -> None:
    user = await engine.user()
    first, twin, other = await asyncio.gather(
        engine.writer.post(claimed(engine, "k", b"1", "first")),
        engine.writer.post(claimed(engine, "k", b"1", "twin")),
        engine.writer.post(claimed(engine, "k", b"2", "other")),
        return_exceptions=True,
    )
    assert (first, twin) == (Accepted("first"), Accepted("first", replayed=True))
    assert isinstance(other, IdempotencyKeyReused)
    assert await engine.writer.post(claimed(engine, "k", b"1", "late")) == Accepted("first", replayed=True)
    assert (await counts_of(engine, user.id)).seq == 1


async def test_an_expired_idempotency_key_can_be_reused(database: Database, database_url: str) -> None:
    engine = Engine(settings_for(database_url), database)
    clock = [1_000_000.0]
    engine.writer = Writer(database, engine.announce, clock=lambda: clock[0])
    async with engine.writer.running():
        await engine.writer.post(claimed(engine, "k", b"1", "first"))
        clock[0] += TTL_MS / 1000 - 1
        assert (await engine.writer.post(claimed(engine, "k", b"1", "second"))).replayed
        clock[0] += 2
        assert await engine.writer.post(claimed(engine, "k", b"2", "third")) == Accepted("third")


async def test_two_writers_with_the_same_idempotency_key_store_one_notification(
    database: Database, database_url: str
) -> None:
    """Two processes of one gateway race: the second waits for the first, and gives its answer."""
    engines = [Engine(settings_for(database_url), database) for _ in range(2)]
    engines[1].posted = 100
    async with engines[0].writer.running(), engines[1].writer.running():
        user = await engines[0].user()
        for number in range(20):
            outcomes = await asyncio.gather(
                *(engine.writer.post(claimed(engine, f"k{number}", b"1", "same")) for engine in engines)
            )
            assert sorted(outcome.replayed for outcome in outcomes) == [False, True]
        assert (await counts_of(engines[0], user.id)).seq == 20


async def test_two_writers_assign_the_seqs_of_one_user_without_gaps(
    database: Database, database_url: str
) -> None:
    engines = [Engine(settings_for(database_url), database) for _ in range(2)]
    engines[1].posted = 1000
    async with engines[0].writer.running(), engines[1].writer.running():
        user = await engines[0].user()
        await asyncio.gather(
            *(
                engine.store(engine.post("ada", f"new-{number % 7}"))
                for number in range(60)
                for engine in engines
            )
        )
    page = await database.read(read_after, user.id, 0, 500)
    assert page is not None
    assert [entry.counts.seq for entry in page.entries] == list(range(1, 121))
    assert page.counts == Counts(120, 120, 120, 0)


async def test_two_writers_with_overlapping_recipients_never_deadlock(
    postgres: Postgres, postgres_url: str
) -> None:
    """Two processes with a database object each; half of the users are made while they post."""
    chance = random.Random(4)
    settings = settings_for(postgres_url)
    async with open_database(settings) as one, open_database(settings) as other:
        engines = [Engine(settings, one), Engine(settings, other)]
        engines[1].posted = 100_000
        async with engines[0].writer.running(), engines[1].writer.running():
            for wave in range(15):
                subs = [f"user-{number}" for number in range(4 * wave + 8)]
                audiences = [chance.sample(subs, 6) for _ in range(10)]
                outcomes = await asyncio.gather(
                    *(engine.store(engine.post(*to)) for to in audiences for engine in engines)
                )
                assert all(isinstance(outcome, Accepted) for outcome in outcomes)
        gaps = await one.read(lambda connection: connection.execute(_GAPS).all())
    assert gaps == []
    async with postgres.connected() as connection:
        name = make_url(postgres_url).database
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = $1"
        assert await connection.fetchval(deadlocks, name) == 0


_GAPS = (
    select(users.c.sub)
    .join_from(users, items)
    .group_by(users.c.id)
    .having((func.count() != users.c.last_seq) | (func.max(items.c.created_seq) != users.c.last_seq))
)


async def test_unknown_recipients_can_be_refused(database: Database, database_url: str) -> None:
    engine = Engine(settings_for(database_url), database)
    engine.writer = Writer(database, engine.announce, create_users=False)
    async with engine.writer.running():
        user = await engine.user()
        refused, accepted = await asyncio.gather(
            engine.store(engine.post("ada"), engine.post("nobody", "ada")),
            engine.store(engine.post("ada")),
            return_exceptions=True,
        )
        assert isinstance(refused, Invalid)
        assert refused.errors == [{"field": "to", "message": "there is no user 'nobody'"}]
        assert isinstance(accepted, Accepted)
        assert (await counts_of(engine, user.id)).seq == 1


async def test_pages_find_a_category_far_back_by_their_cursors(engine: Engine) -> None:
    user = await engine.user()
    rare = engine.post()
    rare = rare._replace(content=rare.content._replace(category="rare"))
    await engine.store(rare, *[engine.post() for _ in range(30)])
    query = PageQuery(limit=10, category="rare")
    page = await engine.database.read(list_items, user.id, query)
    assert page is not None
    assert [json.loads(item)["category"] for item in page.encoded] == ["rare"]
    assert page.next is None


async def test_a_blocked_reader_does_not_block_the_writer(engine: Engine) -> None:
    user = await engine.user()
    gate = engine.database.after_read = Gate()
    reading = asyncio.create_task(engine.database.read(read_after, user.id, 0))
    await gate.reached()
    await engine.store()
    gate.let_go()
    assert await reading is not None


async def test_marking_many_items_by_id_runs_in_bounded_steps(engine: Engine) -> None:
    user = await engine.user()
    posts = [engine.post() for _ in range(CHUNK + 1)]
    await engine.store(*posts)
    ids = tuple(post.content.id for post in posts)
    changed = await engine.writer.change(ItemUpdate(user.id, ids, deleted=True))
    assert changed.counts == Counts(seq=CHUNK + 3, unread=0, unseen=0, seen=0)
    # The caller needs no items, and many callers at once would hold the contents of all.
    assert [item.content.id for item in changed.items] == [ids[-1]]
    page = await engine.database.read(read_after, user.id, 0)
    assert page is not None
    assert all(item.deleted_at is not None for entry in page.entries for item in entry.items)


# --- whose turn it is ---------------------------------------------------------------------------------------


class Held:
    """A database whose first write is held at a gate. It keeps which posts, how many items a write stored."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.gate: Gate | None = Gate()
        self.transactions: list[list[str]] = []
        self.items: list[int] = []

    async def write(self, work: Any, batch: Any, *args: Any) -> Any:
        gate, self.gate = self.gate, None
        if gate:
            await gate.hold()
        posts = [post for one in batch if isinstance(one, Submission) for post in one.posts[:1]]
        self.transactions.append([post.content.title for post in posts])
        committed = await self._database.write(work, batch, *args)
        self.items.append(committed.items)
        return committed


@asynccontextmanager
async def held(engine: Engine) -> AsyncIterator[tuple[Held, list[asyncio.Task[Accepted]]]]:
    """Hold the writer at its first transaction while the block queues work, then see the work done."""
    database = Held(engine.database)
    engine.writer = Writer(database, engine.announce, followed=engine.recent)  # type: ignore[arg-type]
    assert database.gate
    gate = database.gate
    async with engine.writer.running():
        waiting = [asyncio.create_task(engine.store(engine.post(title="first")))]
        await gate.reached()
        yield database, waiting
        await asyncio.sleep(0)  # what the block has created, submits
        gate.let_go()
        await asyncio.gather(*waiting)


def submit(engine: Engine, service: int, title: str, items: int = 1) -> asyncio.Task[Accepted]:
    """Queue a post of a service to so many users, as a submission of its own."""
    posts = [
        engine.post(*(f"user-{n}" for n in range(start, min(start + 1000, items))), title=title)
        for start in range(0, items, 1000)
    ]
    submission = Submission(tuple(post._replace(service_id=service) for post in posts), "{}")
    return asyncio.create_task(engine.writer.post(submission))


async def test_posts_of_other_services_wait_for_at_most_one_large_submission(engine: Engine) -> None:
    async with held(engine) as (database, waiting):
        waiting += [submit(engine, 1, f"large {n}", MAX_BATCH + 1) for n in range(3)]
        waiting += [submit(engine, 2, "small"), submit(engine, 3, "small too")]
        waiting += [submit(engine, 1, "behind")]
    assert database.transactions == [
        ["first"],
        ["large 0"],
        ["small", "small too"],
        ["large 1"],
        ["large 2"],
        ["behind"],
    ]


async def test_a_small_post_takes_its_turn_between_large_submissions_of_two_services(
    engine: Engine,
) -> None:
    async with held(engine) as (database, waiting):
        waiting += [submit(engine, service, f"large {service}", MAX_BATCH + 1) for service in (1, 2)]
        waiting += [submit(engine, 3, "small")]
    assert database.transactions == [["first"], ["large 1"], ["small"], ["large 2"]]


async def test_a_post_waits_for_at_most_a_thousand_items_of_other_services(engine: Engine) -> None:
    async with held(engine) as (database, waiting):
        for service in (1, 2, 3):
            waiting += [submit(engine, service, f"large {service}", MAX_ITEMS) for _ in range(2)]
            waiting += [submit(engine, service, f"medium {service}", MAX_BATCH // 2) for _ in range(2)]
        waiting += [submit(engine, 4, "small")]
    assert database.transactions[:3] == [["first"], ["large 1"], ["small"]]
    assert database.items[:3] == [1, 1000, 1]
    assert max(database.items) == 1000


async def test_services_take_turns_in_a_transaction(engine: Engine) -> None:
    async with held(engine) as (database, waiting):
        waiting += [submit(engine, 1, f"one {n}", MAX_BATCH // 2) for n in range(3)]
        waiting += [submit(engine, 2, f"two {n}", MAX_BATCH // 2) for n in range(2)]
    assert database.transactions == [["first"], ["one 0", "two 0"], ["one 1", "two 1"], ["one 2"]]


async def test_one_service_cannot_fill_the_queue(engine: Engine) -> None:
    async with held(engine) as (_, waiting):
        flood = [submit(engine, 1, "flood", 5000) for _ in range(MAX_WAITING // 5000)]
        waiting += [submit(engine, 2, "other", 5000)]
        await asyncio.sleep(0)
        refused = [one for one in flood if one.done()]
        assert len(refused) == len(flood) // 2
        with pytest.raises(Overloaded):
            await refused[0]
        for one in [*refused, *flood]:
            one.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
        # What was cancelled is stored all the same; this test has seen what it wants to.
        engine.writer._waiting = FairQueue(MAX_WAITING)
        waiting[1:] = [submit(engine, 2, "other", 5000)]


async def test_one_failing_submission_among_many_is_isolated_in_few_transactions(engine: Engine) -> None:
    twice = engine.post()
    await engine.store(twice)
    async with held(engine) as (database, waiting):
        waiting += [submit(engine, 1, str(n)) for n in range(500)]
        poisoned = asyncio.create_task(engine.store(twice))
        waiting += [submit(engine, 1, str(n)) for n in range(500, 1000)]
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(database.transactions.clear)
    with pytest.raises(GatewayError) as raised:
        await poisoned
    assert raised.value.status == 500
    assert len(database.transactions) <= 2 * 11 + 1
    user = await engine.user()
    assert (await counts_of(engine, user.id)).seq == 2


async def test_a_flood_of_acks_is_split_into_several_transactions(engine: Engine) -> None:
    user = await engine.user()
    await engine.store()
    async with held(engine):
        before = len(engine.announced)
        engine.writer.delivered(user.id, 1)
        for number in range(2 * MAX_ACKNOWLEDGED):
            engine.writer.delivered(10**6 + number, 1)
    sizes = [len(committed.outcomes) for committed in engine.announced[before:]]
    assert max(sizes) <= MAX_ACKNOWLEDGED + 1
    assert sum(sizes) == 2 * MAX_ACKNOWLEDGED + 2
