"""Opening a connection to Postgres may be cancelled wherever it waits: nothing is left behind."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import Connection, text

from gateway.backplane.postgres import PostgresBackplane
from gateway.database.database import open_database
from tests.support.cancelling import Cancelled
from tests.support.databases import settings_for
from tests.support.waiting import until


@pytest.fixture
async def complaints() -> AsyncIterator[list[Any]]:
    """What the event loop is told of: nobody has retrieved an exception, or a callback has failed."""
    found: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: found.append(context))
    yield found
    loop.set_exception_handler(None)


async def cancelled_at(number: int, work: Any) -> bool:
    """Cancel some work where it waits for the `number`th time. Return whether it came that far."""
    driver = Cancelled(work, number)

    async def drive() -> None:
        await driver

    task = asyncio.create_task(drive())
    await asyncio.wait({task})
    assert task.cancelled() == driver.reached
    return driver.reached


def one(connection: Connection) -> int:
    return int(connection.execute(text("SELECT 1")).scalar_one())


async def nobody_is_left(tasks: set[asyncio.Task[Any]]) -> None:
    await until(lambda: not asyncio.all_tasks() - tasks, "no task is left")
    # An exception that nobody has retrieved is told of when its future goes.
    gc.collect()
    await asyncio.sleep(0)


async def test_opening_a_connection_of_the_pool_may_be_cancelled_at_every_await(
    postgres_url: str, complaints: list[Any]
) -> None:
    tasks, number = asyncio.all_tasks(), 0
    reached = True
    while reached:
        async with open_database(settings_for(postgres_url)) as database:
            reached = await cancelled_at(number, database.read(one))
            number += 1
        await nobody_is_left(tasks)
        assert complaints == [], f"cancelled at await {number}"
    assert number > 4


async def test_a_connection_that_nobody_waits_for_is_closed_once_it_is_open(
    postgres_url: str, complaints: list[Any]
) -> None:
    tasks = asyncio.all_tasks()
    async with open_database(settings_for(postgres_url)) as database:
        reads = [asyncio.create_task(database.read(one)) for _ in range(3)]
        await asyncio.sleep(0)
        for read in reads:
            read.cancel()
        await asyncio.wait(reads)
        await until(lambda: not asyncio.all_tasks() - tasks, "all are closed")
        assert await database.read(one) == 1
    await nobody_is_left(tasks)
    assert complaints == []


async def test_connecting_the_backplane_may_be_cancelled_at_every_await(
    postgres_url: str, complaints: list[Any]
) -> None:
    async def connect() -> None:
        async with PostgresBackplane(postgres_url)._connected():
            pass

    tasks, number = asyncio.all_tasks(), 0
    while await cancelled_at(number, connect()):
        number += 1
        await nobody_is_left(tasks)
        assert complaints == [], f"cancelled at await {number}"
    assert number > 1
