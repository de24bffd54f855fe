"""What a caller has under way in the database at a time, and what that leaves to others."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextvars import copy_context
from typing import Any

import pytest
from sqlalchemy import Connection, text

from gateway.database.database import Database
from gateway.database.turns import Turns, caller
from tests.support.waiting import until

CROWD = 40

MOST = 4
"""How many units of one caller may be ahead of another's: those that are under way when that comes."""

Method = Callable[[Database], Callable[..., Coroutine[Any, Any, None]]]


def begin_as(who: Hashable, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Run it as what a caller has asked for."""
    context = copy_context()
    context.run(caller.set, who)
    return asyncio.create_task(work, context=context)


def methods() -> list[Any]:
    return [
        pytest.param(lambda database: database.read, id="read"),
        pytest.param(lambda database: database.write, id="write"),
    ]


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("other", ["192.0.2.2", ("user", 2), None])
async def test_a_flood_from_one_caller_does_not_delay_other_callers(
    method: Method, other: Hashable, database: Database
) -> None:
    run, order = method(database), list[Hashable]()

    def note(connection: Connection, who: Hashable) -> None:
        connection.execute(text("SELECT 1"))
        order.append(who)

    # A new connection takes longer than all of this.
    await asyncio.gather(*(run(note, None) for _ in range(10)))
    order.clear()
    crowd = [begin_as("192.0.2.1", run(note, "crowd")) for _ in range(CROWD)]
    await asyncio.sleep(0)
    await begin_as(other, run(note, other))
    await asyncio.gather(*crowd)
    assert order.count("crowd") == CROWD
    assert order.index(other) <= 2 * MOST


async def test_callers_have_a_concurrency_limit_and_the_gateway_itself_has_none() -> None:
    turns, over = Turns(2), asyncio.Event()
    under_way: list[Hashable] = []

    async def work(who: Hashable) -> None:
        async with turns.of_caller():
            under_way.append(who)
            await over.wait()

    callers: list[Hashable] = ["192.0.2.1", ("user", 1), None]
    tasks = [begin_as(who, work(who)) for who in callers for _ in range(5)]
    await until(lambda: len(under_way) == 2 + 2 + 5, "as many as may be are under way")
    assert [under_way.count(who) for who in callers] == [2, 2, 5]
    over.set()
    await asyncio.gather(*tasks)
    assert len(under_way) == 15


async def test_an_ipv6_network_counts_as_one_caller() -> None:
    turns, over = Turns(2), asyncio.Event()
    under_way: list[str] = []

    async def work(who: str) -> None:
        async with turns.of_caller():
            under_way.append(who)
            await over.wait()

    tasks = [begin_as(who, work(who)) for who in ("2001:db8:1:1::1", "2001:db8:1:2::1", "2001:db8:1:3::1")]
    tasks.append(begin_as("2001:db8:2::1", work("2001:db8:2::1")))
    await until(lambda: len(under_way) == 3, "two of the one network, and one of the other")
    assert "2001:db8:2::1" in under_way
    over.set()
    await asyncio.gather(*tasks)
