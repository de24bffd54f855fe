"""Hints of another process and the reconciliation, with the orders forced.

The other process is a second engine on the same database; what it hints is said by the test.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import structlog

from gateway import log, reconciler
from gateway.beginning import Start
from gateway.database import Database
from gateway.errors import Unavailable
from gateway.inbox import Seen
from gateway.reconciler import Reconciler
from tests.databases import settings_for
from tests.engine import Engine, Gate
from tests.waiting import until


@pytest.fixture
async def engines(database: Database, database_url: str) -> AsyncIterator[tuple[Engine, Engine]]:
    """The process that is looked at, and another one."""
    here, there = [Engine(settings_for(database_url), database) for _ in range(2)]
    there._posted = 1_000_000  # The ids that the two give are different ones.
    async with here.writer.running(), there.writer.running():
        yield here, there


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "GRACE", 0)


async def test_a_hint_brings_what_another_process_has_committed(engines: tuple[Engine, Engine]) -> None:
    here, there = engines
    user = await here.user()
    async with here.connected(user, Start(latest=True)) as (wire, _):
        await wire.has("live")
        await there.store(there.post(), there.post())
        here.hub.hint({user.id: 2})
        await wire.has("notification", 2)
        await here.store()
        await wire.has("notification", 3)
        await there.store()
        here.hub.hint({user.id: 4})
        await wire.has("notification", 4)
    assert wire.seqs() == [1, 2, 3, 4]


async def test_a_hint_without_a_new_number_brings_the_seen_mark(engines: tuple[Engine, Engine]) -> None:
    here, there = engines
    user = await here.user()
    async with here.connected(user, Start(latest=True)) as (wire, _):
        await wire.has("live")
        await here.store()
        await wire.has("notification")
        await there.writer.change(Seen(user.id, 1))
        here.hub.hint({user.id: 1})
        await wire.has("seen")
    assert wire.sent[-1] == {"type": "seen", "up_to": 1, "unseen": 0}


async def test_a_seen_mark_and_a_number_come_with_one_reading(engines: tuple[Engine, Engine]) -> None:
    here, there = engines
    user = await here.user()
    async with here.connected(user, Start(latest=True)) as (wire, _):
        await wire.has("live")
        await there.store(there.post(), there.post())
        await there.writer.change(Seen(user.id, 1))
        reads = here.database.reads
        here.hub.hint({user.id: 2})
        await wire.has("seen")
        assert here.database.reads == reads + 1
    assert wire.types()[-3:] == ["notification", "notification", "seen"]
    assert wire.sent[-1] == {"type": "seen", "up_to": 1, "unseen": 1}


async def test_counts_in_memory_that_another_process_has_left_behind_are_not_told(
    engines: tuple[Engine, Engine],
) -> None:
    here, there = engines
    user = await here.user()
    async with here.connected(user, Start(latest=True)) as (wire, connection):
        await wire.has("live")
        await here.store()
        await here.writer.change(Seen(user.id, 1))
        await wire.has("seen")
        await there.store(there.post(), there.post())
        await there.writer.change(Seen(user.id, 3))
        here.hub.hint({user.id: 3})
        await wire.has("seen", 2)
        assert (wire.sent[-1]["up_to"], wire.sent[-1]["unseen"]) == (3, 0)
        counts = here.tail.counts(user.id)
        assert counts is not None
        assert (counts.seq, counts.seen) == (1, 1)
        wire.say(type="ping")
        await wire.has("heartbeat")
        said = wire.sent[-1]
        assert (said["seq"], said["unread"], said["unseen"]) == (3, 3, 0)
        assert connection.position == (3, 3)


async def test_hints_that_come_many_times_over_cost_one_reading(engines: tuple[Engine, Engine]) -> None:
    here, there = engines
    user = await here.user()
    async with here.connected(user, Start(latest=True)) as (wire, _):
        await wire.has("live")
        await there.store()
        reads = here.database.reads
        for _ in range(100):
            here.hub.hint({user.id: 1})
        await wire.has("notification")
        wire.say(type="ping", ref="1")
        await wire.has("ok")
        assert here.database.reads == reads + 1
        for _ in range(100):
            here.hub.hint({user.id: 1})
        wire.say(type="ping", ref="2")
        await wire.has("ok", 2)
        await until(lambda: here.database.reads == reads + 2, "the log is asked once more")
    assert wire.seqs() == [1]


async def test_a_hint_during_a_look_at_the_log_is_not_lost(engines: tuple[Engine, Engine]) -> None:
    """The flag is cleared before reading: cleared after it, this mark would wait for the reconciliation."""
    here, there = engines
    user = await here.user()
    async with here.connected(user, Start(latest=True)) as (wire, _):
        await wire.has("live")
        await here.store()
        await wire.has("notification")
        gate = here.database.after_read = Gate()
        here.hub.hint({user.id: 1})
        await gate.reached()
        await there.writer.change(Seen(user.id, 1))
        here.hub.hint({user.id: 1})
        gate.let_go()
        await wire.has("seen")


async def test_a_hint_during_a_reading_of_the_log_is_not_lost(engines: tuple[Engine, Engine]) -> None:
    here, there = engines
    user = await here.user()
    async with here.connected(user, Start(latest=True)) as (wire, _):
        await wire.has("live")
        await there.store()
        gate = here.database.after_read = Gate()
        here.hub.hint({user.id: 1})
        await gate.reached()
        await there.writer.change(Seen(user.id, 1))
        here.hub.hint({user.id: 1})
        gate.let_go()
        await wire.has("seen")
    assert wire.types()[-2:] == ["notification", "seen"]


@pytest.mark.parametrize("promised", [0, 1, 3, 7, 2**62])
async def test_a_hint_that_promises_too_much_or_too_little_is_no_harm(
    engines: tuple[Engine, Engine], promised: int
) -> None:
    here, there = engines
    user = await here.user()
    async with here.connected(user, Start(latest=True)) as (wire, connection):
        await wire.has("live")
        await there.store(*[there.post() for _ in range(3)])
        reads = here.database.reads
        gate = wire.blocked = Gate()
        here.hub.hint({user.id: promised})
        await gate.reached()
        # What it is being sent it may acknowledge, whatever the hint has said.
        wire.say(type="ack", seq=3, ref="mine")
        wire.blocked = None
        gate.let_go()
        await wire.has("notification", 3)
        await wire.has("ok")
        assert here.database.reads <= reads + 2
        await until(lambda: connection._head == 3, "the log has the last word")
        await there.store()
        here.hub.hint({user.id: 4})
        await wire.has("notification", 4)
    assert wire.seqs() == [1, 2, 3, 4]
    assert "error" not in wire.types()


async def test_what_is_committed_before_the_subscription_is_there_is_looked_for_when_it_is(
    engines: tuple[Engine, Engine], no_grace: None
) -> None:
    """Attached, read, and only then subscribed: what lies between is in no hint that is heard."""
    here, there = engines
    user = await here.user()
    looks = Reconciler(here.hub, here.database, 3600)
    running = asyncio.create_task(looks.run())
    async with here.connected(user, Start(latest=True)) as (wire, _):
        await wire.has("live")
        await there.store()
        looks.request([user.id])
        await wire.has("notification")
    running.cancel()
    assert here.hub.reconciled == 1


async def test_a_subscription_that_is_there_before_the_first_read_ends_misses_nothing(
    engines: tuple[Engine, Engine], no_grace: None
) -> None:
    here, there = engines
    user = await here.user()
    looks = Reconciler(here.hub, here.database, 3600)
    running = asyncio.create_task(looks.run())
    gate = here.database.after_read = Gate()
    async with here.connected(user, Start(latest=True)) as (wire, _):
        await gate.reached()
        await there.store()
        looks.request(None)
        await until(lambda: here.hub.reconciled == 1, "it is rung though it has not begun")
        gate.let_go()
        await wire.has("notification")
    running.cancel()


async def test_what_no_hint_has_told_is_found_with_one_query_for_all_users(
    engines: tuple[Engine, Engine], no_grace: None
) -> None:
    here, there = engines
    users = [await here.user(name) for name in ("ada", "bob", "cyd", "dan")]
    looks = Reconciler(here.hub, here.database, 0.05, jitter=lambda: 1.0)
    async with AsyncExitStack() as stack:
        wires = [
            (await stack.enter_async_context(here.connected(user, Start(latest=True))))[0] for user in users
        ]
        for wire in wires:
            await wire.has("live")
        asked: list[Any] = []
        read = here.database.read

        async def count(work: Any, *args: Any) -> Any:
            asked.extend([args[0]] if work is log.ahead else [])
            return await read(work, *args)

        here.database.read = count  # type: ignore[method-assign, assignment]
        await there.store(there.post("ada"), there.post("bob"))
        await there.writer.change(Seen(users[1].id, 1))
        running = asyncio.create_task(looks.run())
        await wires[0].has("notification")
        await wires[1].has("seen")
        running.cancel()
        assert len(asked[0]) == 4
        assert [wire.types()[2:] for wire in wires] == [["notification"], ["notification", "seen"], [], []]
    assert here.hub.reconciled == 2


async def test_who_knows_already_is_not_rung(engines: tuple[Engine, Engine]) -> None:
    """A hint that is still on its way when the database is asked gets a moment to arrive."""
    here, there = engines
    user = await here.user()
    looks = Reconciler(here.hub, here.database, 3600)
    running = asyncio.create_task(looks.run())
    async with here.connected(user, Start(latest=True)) as (wire, _):
        await wire.has("live")
        await there.store()
        gate = here.database.after_read = Gate()
        looks.request([user.id])
        await gate.reached()
        gate.let_go()
        here.hub.hint({user.id: 1})
        await wire.has("notification")
        await until(lambda: not looks._asked.is_set(), "it has looked")
    running.cancel()
    assert here.hub.reconciled == 0


async def test_a_reconciliation_outlives_a_database_that_is_away(
    engines: tuple[Engine, Engine], no_grace: None
) -> None:
    here, there = engines
    user = await here.user()
    looks = Reconciler(here.hub, here.database, 0.05)
    async with here.connected(user, Start(latest=True)) as (wire, _):
        await wire.has("live")
        read, failures = here.database.read, [Unavailable(), Unavailable()]

        async def fail(work: Any, *args: Any) -> Any:
            if work is log.ahead and failures:
                raise failures.pop()
            return await read(work, *args)

        here.database.read = fail  # type: ignore[method-assign, assignment]
        await there.store()
        with structlog.testing.capture_logs() as events:
            running = asyncio.create_task(looks.run())
            await wire.has("notification")
            running.cancel()
    assert [event["log_level"] for event in events] == ["warning", "warning"]
