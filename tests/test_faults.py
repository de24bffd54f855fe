"""Whatever fails beside or within several gateways, nothing that was answered is lost, twice or out of order."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.databases import postgres_copy, postgres_template
from tests.load import ROW, Load, Verdict, load_on
from tests.postgres import PostgresProcess, own_postgres
from tests.proxy import BOTH_WAYS, Way, proxy_to
from tests.redis_server import RedisProcess, own_redis
from tests.servers import Process, Server, process, processes
from tests.waiting import until

Judged = Callable[[Load, int], Awaitable[Verdict]]

PER_ROUND = 60
"""How many posts are answered between two faults."""


@pytest.fixture(scope="module")
def fragile() -> Iterator[PostgresProcess]:
    """A Postgres that may be disturbed."""
    with own_postgres() as postgres:
        yield postgres


@pytest.fixture(scope="module")
def _template(fragile: PostgresProcess) -> Iterator[str]:
    with postgres_template(fragile.server) as name:
        yield name


@pytest.fixture
async def database_url(fragile: PostgresProcess, _template: str) -> AsyncIterator[str]:
    """A fresh database of it."""
    async with postgres_copy(fragile.server, _template) as url:
        yield url


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    """A Redis that may be disturbed."""
    with own_redis() as server:
        yield server


@pytest.fixture(params=["postgres", "redis"])
def backplane(request: pytest.FixtureRequest) -> str:
    """The address of a backplane, once of each kind."""
    if request.param == "postgres":
        return "postgres"
    redis: RedisProcess = request.getfixturevalue("redis")
    return redis.server.url


@pytest.fixture
def judged(record_property: Callable[[str, object], None], request: pytest.FixtureRequest) -> Judged:
    """Have a load judged after so many faults, note what was counted, and see that there is no complaint."""

    async def judge(load: Load, faults: int) -> Verdict:
        verdict = await load.judged(faults)
        record_property(ROW, verdict.row(request.node.name))
        assert verdict.complaints == []
        return verdict

    return judge


def full(*values: object) -> Any:
    """Return the parameters of the long version of a test."""
    return pytest.param(*values, marks=pytest.mark.soak)


@asynccontextmanager
async def two(
    database_url: str, folder: Path, **settings: object
) -> AsyncIterator[tuple[list[Process], list[Server]]]:
    """Run two gateways on one database."""
    async with processes(2, database_url, folder, **settings) as gateways:
        yield [gateway for gateway, _ in gateways], [server for _, server in gateways]


@pytest.mark.parametrize("posts", [400, full(20_000)])
async def test_two_gateways_and_one_user_lose_nothing(
    posts: int, backplane: str, database_url: str, tmp_path: Path, judged: Judged
) -> None:
    async with two(database_url, tmp_path, backplane_url=backplane) as (_, servers):
        load = await load_on(*servers, subs=["ada"], posters=8, tidy=False)
        async with load.running():
            await load.answers(posts, within=900)
        verdict = await judged(load, 0)
        assert verdict.longest_wait < 5, "a hint was missed: only the timer has brought it"


@pytest.mark.parametrize(("kills", "seconds"), [(2, 0.5), full(20, 4)])
async def test_a_gateway_of_two_that_is_killed_costs_nothing_that_was_answered(
    kills: int, seconds: float, backplane: str, database_url: str, tmp_path: Path, judged: Judged
) -> None:
    async with two(database_url, tmp_path, backplane_url=backplane) as (gateways, servers):
        load = await load_on(*servers)
        async with load.running():
            for turn in range(kills):
                await load.answers(PER_ROUND)
                await asyncio.sleep(seconds)
                gateways[turn % 2].kill()
                # The other works alone for a while.
                await load.answers(PER_ROUND)
                await gateways[turn % 2].start()
        await judged(load, kills)
        assert all(device.connections > 1 for device in load.devices)


@pytest.mark.parametrize(("restarts", "posts"), [(2, PER_ROUND), full(10, 10 * PER_ROUND)])
async def test_a_postgres_that_is_restarted_costs_nothing_that_was_answered(
    restarts: int, posts: int, fragile: PostgresProcess, database_url: str, tmp_path: Path, judged: Judged
) -> None:
    async with two(database_url, tmp_path, backplane_url="postgres") as (_, servers):
        load = await load_on(*servers)
        async with load.running():
            for turn in range(restarts):
                await load.answers(posts)
                # In turn it parts from its clients in order, and crashes.
                await asyncio.to_thread(fragile.stop, signal.SIGQUIT if turn % 2 else signal.SIGINT)
                await asyncio.to_thread(fragile.start)
            await load.answers(posts)
        await judged(load, restarts)


@pytest.mark.parametrize("seconds", [2, full(30)])
async def test_a_postgres_that_hangs_costs_nothing_that_was_answered(
    seconds: float, fragile: PostgresProcess, database_url: str, tmp_path: Path, judged: Judged
) -> None:
    async with two(database_url, tmp_path, backplane_url="postgres") as (_, servers):
        load = await load_on(*servers)
        async with load.running():
            await load.answers(PER_ROUND)
            with fragile.frozen():
                await asyncio.sleep(seconds)
            await load.answers(PER_ROUND)
        await judged(load, 1)
