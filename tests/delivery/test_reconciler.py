"""The reconciliation, with the orders forced. The other process is a second engine on the same database."""

import asyncio
from contextlib import AsyncExitStack
from itertools import chain, repeat
from typing import Any

import pytest
import structlog

from gateway.delivery import reconciler
from gateway.delivery.reconciler import Reconciler
from gateway.delivery.resume_point import ResumePoint
from gateway.errors import Unavailable
from gateway.store import users_behind
from gateway.store.changes import Seen
from tests.support.engine import Engine, Gate
from tests.support.waiting import until


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "HINT_DELAY_SECONDS", 0)


async def test_a_commit_before_the_subscription_is_found_after_it(
    engines: tuple[Engine, Engine], no_grace: None
) -> None:
    """Attached, read, and only then subscribed: what lies between is in no hint that is heard."""
    here, there = engines
    user = await here.user()
    looks = Reconciler(here.hub, here.remote_commits, here.database, 3600)
    running = asyncio.create_task(looks.run())
    async with here.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        await there.store()
        looks.request([user.id])
        await wire.has("notification")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert looks.reconciled == 1


async def test_a_subscription_made_before_the_first_read_ends_misses_no_commit(
    engines: tuple[Engine, Engine], no_grace: None
) -> None:
    here, there = engines
    user = await here.user()
    looks = Reconciler(here.hub, here.remote_commits, here.database, 3600)
    running = asyncio.create_task(looks.run())
    gate = here.database.after_read = Gate()
    async with here.connected(user, ResumePoint(latest=True)) as (wire, _):
        await gate.reached()
        await there.store()
        looks.request(None)
        await until(lambda: looks.reconciled == 1, "it is rung though it has not begun")
        gate.let_go()
        await wire.has("notification")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_commits_without_hints_are_found_with_one_query_for_all_users(
    engines: tuple[Engine, Engine], no_grace: None
) -> None:
    here, there = engines
    users = [await here.user(name) for name in ("ada", "bob", "cyd", "dan")]
    waits = chain([1.0], repeat(1e6))
    looks = Reconciler(here.hub, here.remote_commits, here.database, 0.05, jitter=lambda: next(waits))
    async with AsyncExitStack() as stack:
        wires = [
            (await stack.enter_async_context(here.connected(user, ResumePoint(latest=True))))[0]
            for user in users
        ]
        for wire in wires:
            await wire.has("live")
        asked: list[Any] = []
        read = here.database.read

        async def count(work: Any, *args: Any) -> Any:
            asked.extend([args[0]] if work is users_behind.find_users_behind else [])
            return await read(work, *args)

        here.database.read = count  # type: ignore[method-assign, assignment]
        await there.store(there.post("ada"), there.post("bob"))
        await there.writer.change(Seen(users[1].id, 1))
        running = asyncio.create_task(looks.run())
        await wires[0].has("notification")
        await wires[1].has("seen")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert [len(positions) for positions in asked] == [4]
        assert [wire.types()[2:] for wire in wires] == [["notification"], ["notification", "seen"], [], []]
    assert looks.reconciled == 2


async def test_an_up_to_date_socket_is_not_woken(engines: tuple[Engine, Engine]) -> None:
    """A hint that is still on its way when the database is asked gets a moment to arrive."""
    here, there = engines
    user = await here.user()
    looks = Reconciler(here.hub, here.remote_commits, here.database, 3600)
    running = asyncio.create_task(looks.run())
    async with here.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        await there.store()
        gate = here.database.after_read = Gate()
        looks.request([user.id])
        await gate.reached()
        gate.let_go()
        here.remote_commits.hint({user.id: 1})
        await wire.has("notification")
        await until(lambda: not looks._has_request.is_set(), "it has looked")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert looks.reconciled == 0


async def test_the_reconciler_survives_a_database_outage(
    engines: tuple[Engine, Engine], no_grace: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "RETRY_SECONDS", 0)
    here, there = engines
    user = await here.user()
    # What is looked for once the backplane is back cannot wait for the timer.
    looks = Reconciler(here.hub, here.remote_commits, here.database, 3600)
    looks.request(None)
    async with here.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        read, failures = here.database.read, [Unavailable(), Unavailable()]

        async def fail(work: Any, *args: Any) -> Any:
            if work is users_behind.find_users_behind and failures:
                raise failures.pop()
            return await read(work, *args)

        here.database.read = fail  # type: ignore[method-assign, assignment]
        await there.store()
        with structlog.testing.capture_logs() as events:
            running = asyncio.create_task(looks.run())
            await wire.has("notification")
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    assert [event["log_level"] for event in events] == ["warning", "warning"]
