"""Changes of many items: a step of a user at a time, others in between, none for a client that has gone."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from gateway.database.models import UNREAD, items, users
from gateway.protocol.items import MAX_SEQ, Counts
from gateway.store import writer
from gateway.store.changes import CHUNK, ItemUpdate, ReadUpTo, Seen
from gateway.store.log import head
from gateway.store.shares import Shares
from gateway.store.transaction import Change, Committed
from tests.support.clients import User
from tests.support.engine import Engine, Gate
from tests.support.servers import LocalServer
from tests.support.waiting import until, until_none

STEPS = 6
TOTAL = STEPS * CHUNK


async def fill(engine: Engine, sub: str, number: int) -> list[str]:
    posts = [engine.post(sub) for _ in range(number)]
    await engine.store(*posts)
    engine.announced.clear()
    return [post.content.id for post in posts]


async def counts_of(engine: Engine, user_id: int) -> Counts:
    found = await engine.database.read(head, user_id)
    assert found is not None
    return found[1]


def changed_items(committed: Committed) -> int:
    return sum(len(entry.items) for entry in committed.entries)


# --- shares -------------------------------------------------------------------------------------------------


async def under_way(shares: Shares, *weights: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(shares.take(1, weight)) for weight in weights]
    await asyncio.sleep(0)
    return tasks


async def finished(*tasks: asyncio.Task[None]) -> list[bool]:
    await asyncio.sleep(0)
    return [task.done() for task in tasks]


async def test_changes_that_fit_run_together_and_the_rest_run_in_arrival_order() -> None:
    shares = Shares(10)
    tasks = await under_way(shares, 6, 4, 8, 1, 1)
    assert await finished(*tasks) == [True, True, False, False, False]
    shares.release(1, 4)
    tasks += await under_way(shares, 1)
    assert await finished(*tasks) == [True, True, False, False, False, False], "what is small waits, too"
    shares.release(1, 6)
    assert await finished(*tasks) == [True, True, True, True, True, False]


async def test_a_change_larger_than_a_turn_runs_alone() -> None:
    shares = Shares(10)
    tasks = await under_way(shares, 25, 1)
    assert await finished(*tasks) == [True, False]
    shares.release(1, 25)
    assert await finished(*tasks) == [True, True]


async def test_users_do_not_wait_for_each_other() -> None:
    shares = Shares(10)
    for user_id in range(100):
        await shares.take(user_id, 10)


async def test_a_cancelled_caller_does_not_block_others() -> None:
    shares = Shares(10)
    first, waiting, last = await under_way(shares, 10, 10, 10)
    waiting.cancel()
    shares.release(1, 10)
    assert await finished(first, waiting, last) == [True, True, True]
    (late,) = await under_way(shares, 10)
    shares.release(1, 10)
    # Its turn has come, and it is cancelled before it knows.
    late.cancel()
    await asyncio.gather(late, waiting, return_exceptions=True)
    assert (shares._taken, shares._waiting) == ({}, {})


# --- steps --------------------------------------------------------------------------------------------------


async def test_one_transaction_has_at_most_one_step_of_a_user(engine: Engine) -> None:
    user = await engine.user()
    ids = await fill(engine, "ada", TOTAL)
    changes: list[Change] = [ReadUpTo(user.id, MAX_SEQ)] * 10
    changes += [ItemUpdate(user.id, tuple(ids), archived=True)] * 2
    changes += [ItemUpdate(user.id, (one,), deleted=True) for one in ids[:CHUNK]]
    await asyncio.gather(*(engine.writer.change(change) for change in changes))
    assert max(changed_items(committed) for committed in engine.announced) <= CHUNK
    assert (await counts_of(engine, user.id)).unread == 0


async def test_single_changes_of_a_user_share_a_transaction(engine: Engine) -> None:
    user = await engine.user()
    ids = await fill(engine, "ada", CHUNK)
    await asyncio.gather(*(engine.writer.change(ItemUpdate(user.id, (one,), read=True)) for one in ids))
    assert [changed_items(committed) for committed in engine.announced] == [CHUNK]


async def test_concurrent_read_all_requests_share_the_work_of_one(engine: Engine) -> None:
    user = await engine.user()
    await fill(engine, "ada", TOTAL)
    done = await asyncio.gather(*(engine.writer.change(ReadUpTo(user.id, MAX_SEQ)) for _ in range(5)))
    assert sum(changed_items(committed) for committed in engine.announced) == TOTAL
    assert sum(bool(committed.entries) for committed in engine.announced) == STEPS
    assert not any(changed.more for changed in done)
    assert await counts_of(engine, user.id) == Counts(TOTAL + STEPS, 0, 0, 0)


async def test_posts_of_others_are_stored_between_the_steps_of_a_change(engine: Engine) -> None:
    user = await engine.user()
    await fill(engine, "ada", TOTAL)
    reading = asyncio.create_task(engine.writer.change(ReadUpTo(user.id, MAX_SEQ)))
    await until(lambda: engine.announced, "the first step")
    await engine.store(engine.post("bob"))
    assert not reading.done()
    await reading


async def test_a_step_counts_in_a_batch_for_all_items_that_it_may_change(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_BATCH", 2 * CHUNK)
    subs = [f"user-{number}" for number in range(6)]
    readers = [await engine.user(sub) for sub in subs]
    ids = {sub: await fill(engine, sub, CHUNK) for sub in subs}
    engine.announced.clear()
    changes: list[Change] = [ReadUpTo(user.id, CHUNK) for user in readers]
    changes = [
        ItemUpdate(user.id, tuple(ids[user.sub]), read=True) if number % 2 else change
        for number, (user, change) in enumerate(zip(readers, changes, strict=True))
    ]
    await asyncio.gather(*(engine.writer.change(change) for change in changes))
    touched = [changed_items(committed) for committed in engine.announced if committed.entries]
    assert touched == [2 * CHUNK] * 3


async def test_a_repeated_id_is_changed_once_in_one_step(engine: Engine) -> None:
    user = await engine.user()
    (one,) = await fill(engine, "ada", 1)
    changed = await engine.writer.change(ItemUpdate(user.id, (one,) * 1000, read=True))
    assert [item.content.id for item in changed.items] == [one]
    assert len(engine.announced) == 1


async def test_a_later_step_skips_items_marked_unread_after_the_start(engine: Engine) -> None:
    user = await engine.user()
    ids = await fill(engine, "ada", TOTAL)
    reading = asyncio.create_task(engine.writer.change(ReadUpTo(user.id, MAX_SEQ)))
    await until(lambda: engine.announced, "the first step")
    await engine.writer.change(ItemUpdate(user.id, (ids[0],), read=False))
    assert not reading.done()
    await reading
    assert (await counts_of(engine, user.id)).unread == 1


# --- a caller who has gone ----------------------------------------------------------------------------------


async def test_a_change_skips_its_remaining_steps_when_its_caller_disconnects(engine: Engine) -> None:
    user = await engine.user()
    ids = await fill(engine, "ada", TOTAL)
    asked = 0

    async def gone() -> bool:
        nonlocal asked
        asked += 1
        return asked == 2

    changed = await engine.writer.change(ReadUpTo(user.id, MAX_SEQ), gone)
    assert (changed.more, changed.counts.unread) == (True, TOTAL - 2 * CHUNK)
    asked = 0
    before = len(engine.announced)
    changed = await engine.writer.change(ItemUpdate(user.id, tuple(ids), archived=True), gone)
    assert changed.more
    assert [changed_items(committed) for committed in engine.announced[before:]] == [CHUNK] * 2
    asked = 1
    changed = await engine.writer.change(ItemUpdate(user.id, tuple(ids[:CHUNK]), deleted=True), gone)
    assert not changed.more, "one step is not asked about"


async def test_a_cancelled_caller_starts_no_further_step(engine: Engine) -> None:
    user = await engine.user()
    await fill(engine, "ada", TOTAL)
    reading = [asyncio.create_task(engine.writer.change(ReadUpTo(user.id, MAX_SEQ))) for _ in range(3)]
    engine.on_announced = lambda: [task.cancel() for task in reading]
    await asyncio.gather(*reading, return_exceptions=True)
    await engine.store(engine.post("bob"))
    assert len(engine.announced) == 2, "the first step, and the post"
    assert (engine.writer.shares._taken, engine.writer.shares._waiting) == ({}, {})


class Holding:
    """A real database whose first transaction of the writer is held."""

    def __init__(self, server: LocalServer) -> None:
        self.gate = Gate()
        self._server = server
        self._database = server.state.database
        server.state.writer._database = self  # type: ignore[assignment]

    async def write(self, *args: Any) -> Any:
        """Write, once the gate is open."""
        await self.gate.hold()
        return await self._database.write(*args)

    async def let_go(self) -> None:
        """Let it go on, and wait until the writer has nothing more to do."""
        self.gate.let_go()
        state = self._server.state
        await until_none(lambda: state.writer.shares._taken, "steps under way")


Going = Callable[[LocalServer, User, Holding], Awaitable[None]]


async def hang_up_on_a_request(server: LocalServer, user: User, held: Holding) -> None:
    base = user.http.base_url
    _, wire = await asyncio.open_connection(base.host, base.port)
    body = json.dumps({"up_to": TOTAL})
    wire.write(
        f"POST /v1/inbox/read HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {user.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    await held.gate.reached()
    others = len(server.uvicorn.server_state.connections) - 1
    wire.close()
    await wire.wait_closed()
    await until(
        lambda: len(server.uvicorn.server_state.connections) == others, "the gateway sees it has gone"
    )


async def close_a_socket(server: LocalServer, user: User, held: Holding) -> None:
    async with user.socket(since="latest") as socket:
        await socket.next("live")
        others = len(server.uvicorn.server_state.connections) - 1
        await socket.send(type="read", up_to=TOTAL)
        await held.gate.reached()
    await until(
        lambda: len(server.uvicorn.server_state.connections) == others, "the gateway sees it has gone"
    )


@pytest.mark.parametrize("go", [hang_up_on_a_request, close_a_socket])
async def test_closing_the_request_or_socket_stops_its_change(server: LocalServer, go: Going) -> None:
    await server.service.notify_many("ada", TOTAL)
    ada = await server.user()
    held = Holding(server)
    await go(server, ada, held)
    await held.let_go()
    await server.sockets(0)
    page = await ada.inbox(limit=200)
    assert TOTAL - 2 * CHUNK <= page["unread"] < TOTAL
    assert page["unread"] == page["unseen"] == sum(item["read_at"] is None for item in page["items"])


# --- the seen mark ------------------------------------------------------------------------------------------


def count_unseen(connection: Connection, user_id: int) -> int:
    seen = select(users.c.seen_seq).where(users.c.id == user_id).scalar_subquery()
    beyond = items.c.created_seq > seen
    mine = items.c.user_id == user_id
    return connection.scalar(select(func.count()).where(mine, items.c.status == UNREAD, beyond)) or 0


async def test_the_unseen_count_is_exact_after_any_moves_of_the_seen_mark(engine: Engine) -> None:
    user = await engine.user()
    chance = random.Random(7)
    ids: list[str] = []
    for _ in range(60):
        ids += await fill(engine, "ada", chance.randint(1, 4))
        some = tuple(chance.sample(ids, min(len(ids), 3)))
        read, archived = chance.choice([None, True, False]), chance.choice([None, True, False])
        deleted = chance.random() < 0.1
        await engine.writer.change(ItemUpdate(user.id, some, read=read, archived=archived, deleted=deleted))
        counts = await counts_of(engine, user.id)
        # Back, a little, to the middle of what is left, nearly to the end, to the end, and beyond it.
        left = counts.seq - counts.seen
        by = chance.choice([-3, 1, 2, left // 2, left - 1, left, left + 5])
        changed = await engine.writer.change(Seen(user.id, max(counts.seen + by, 0)))
        assert changed.counts.seen == max(counts.seen, min(counts.seen + by, counts.seq))
        assert changed.counts.unseen == await engine.database.read(count_unseen, user.id)
