"""Whatever fails beside or within two gateways, what was answered arrives: once, in order, and in time."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from tests.databases import postgres_copy, postgres_template
from tests.load import Judged, load_on
from tests.postgres import Postgres, PostgresProcess, own_postgres
from tests.proxy import BOTH_WAYS, Proxy, Way, proxy_to
from tests.redis_server import RedisProcess, own_redis
from tests.servers import Process, Server, processes

PER_ROUND = 60
"""How many posts are answered between two faults."""

SLACK = 3.0
"""How much longer than it should a delivery may take on a machine with other work to do, in seconds."""


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
        assert verdict.longest_wait < SLACK, "a hint was missed: only the timer has brought it"


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


async def killed(redis: RedisProcess, _proxy: Proxy, seconds: float) -> None:
    redis.stop()
    await asyncio.sleep(seconds)
    await asyncio.to_thread(redis.start)


async def frozen(redis: RedisProcess, _proxy: Proxy, seconds: float) -> None:
    with redis.frozen():
        await asyncio.sleep(seconds)


async def flapping(redis: RedisProcess, proxy: Proxy, seconds: float) -> None:
    """Be there for a moment now and then, and lose every connection in between."""
    end = monotonic() + seconds
    while monotonic() < end:
        await killed(redis, proxy, random.uniform(0.05, 1))
        await asyncio.sleep(random.uniform(0.05, 1))
        proxy.cut()


async def half_open(_redis: RedisProcess, proxy: Proxy, seconds: float) -> None:
    with proxy.swallowed(*BOTH_WAYS):
        await asyncio.sleep(seconds)


async def deaf(_redis: RedisProcess, proxy: Proxy, seconds: float) -> None:
    """Take all that is published, and deliver nothing."""
    with proxy.stalled(Way.TO_CLIENT):
        await asyncio.sleep(seconds)


FAULTS = (killed, frozen, flapping, half_open, deaf)


@pytest.mark.parametrize(
    ("faults", "seconds", "reconcile"),
    [
        pytest.param(FAULTS, 1.5, 1.0, id="all, briefly"),
        *(
            pytest.param((fault,), 60, 15.0, id=f"{fault.__name__} for 60 s", marks=pytest.mark.soak)
            for fault in FAULTS
        ),
    ],
)
async def test_a_redis_that_fails_delays_what_was_answered_by_the_reconcile_interval_at_most(
    faults: Sequence[Callable[[RedisProcess, Proxy, float], Awaitable[None]]],
    seconds: float,
    reconcile: float,
    redis: RedisProcess,
    database_url: str,
    tmp_path: Path,
    judged: Judged,
) -> None:
    async with (
        proxy_to(redis.port) as proxy,
        two(
            database_url,
            tmp_path,
            backplane_url=f"redis://127.0.0.1:{proxy.port}",
            reconcile_interval=reconcile,
        ) as (_, servers),
    ):
        load = await load_on(*servers)
        async with load.running():
            for fault in faults:
                await load.answers(PER_ROUND)
                assert len(proxy) > 0, "the gateways are connected"
                await fault(redis, proxy, seconds)
            await load.answers(PER_ROUND)
        verdict = await judged(load, len(faults))
        # The timer is jittered, and reading what it finds takes a moment too.
        assert verdict.longest_wait < 1.5 * reconcile + SLACK


@pytest.mark.parametrize("times", [2, full(20)])
async def test_a_listen_connection_that_is_terminated_is_back_within_five_seconds(
    times: int, fragile: PostgresProcess, database_url: str, tmp_path: Path, judged: Judged
) -> None:
    async with two(database_url, tmp_path, backplane_url="postgres", reconcile_interval=600) as (_, servers):
        load = await load_on(*servers, tidy=False)
        async with load.running():
            for _ in range(times):
                await load.answers(PER_ROUND)
                assert await terminate_listeners(fragile.server, database_url) == len(servers)
            await load.answers(PER_ROUND)
        verdict = await judged(load, times)
        # The timer is too slow to have brought any of it.
        assert verdict.longest_wait < 5


async def terminate_listeners(postgres: Postgres, database_url: str) -> int:
    """Terminate what listens on a database, and return how many connections that were."""
    async with postgres.connected(make_url(database_url).database) as connection:
        ended = await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'notification-gateway backplane'"
        )
        return len(ended)
