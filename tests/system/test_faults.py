"""Whatever fails beside or within two gateways, what was answered arrives: once, in order, and in time."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import pytest
from sqlalchemy.engine import make_url

from tests.support.databases import postgres_copy, postgres_template
from tests.support.load import Judged, load_on
from tests.support.postgres import PostgresProcess, own_postgres
from tests.support.proxy import BOTH_WAYS, Proxy, Way, proxy_to
from tests.support.redis_server import RedisProcess, own_redis
from tests.support.servers import Process, Server, processes
from tests.support.waiting import until

PER_ROUND = 60
"""How many posts are answered between two faults, at least."""

SLACK = 5.0
"""How much longer than it should a delivery may take on a machine with other work to do, in seconds."""

NEVER = 600.0
"""An interval in which no timer fires while a test runs: what arrives, a hint has brought, in seconds."""


@dataclass
class Site:
    """Two gateways, their Postgres, their Redis and the proxy before that, all of which may be disturbed."""

    database_url: str
    postgres: PostgresProcess
    redis: RedisProcess
    proxy: Proxy
    gateways: list[Process]
    servers: list[Server]

    def __post_init__(self) -> None:
        self._victims = cycle(self.gateways)

    async def kill_a_gateway(self, seconds: float) -> None:
        """End one of them as a power cut would, let the other work alone, and start it again."""
        victim = next(self._victims)
        victim.kill()
        await asyncio.sleep(seconds)
        await victim.start()

    async def restart_postgres(self, _seconds: float) -> None:
        """Let it part from its clients in order."""
        await asyncio.to_thread(self.postgres.stop, signal.SIGINT)
        await asyncio.to_thread(self.postgres.start)

    async def crash_postgres(self, _seconds: float) -> None:
        """Let it crash, and recover when it starts again."""
        await asyncio.to_thread(self.postgres.stop, signal.SIGQUIT)
        await asyncio.to_thread(self.postgres.start)

    async def freeze_postgres(self, seconds: float) -> None:
        """Let it answer nothing."""
        with self.postgres.frozen():
            await asyncio.sleep(seconds)

    async def terminate_listeners(self, _seconds: float) -> None:
        """Have Postgres end the connections that listen, once each gateway has one."""
        listeners = (
            "pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'notification-gateway backplane'"
        )
        async with self.postgres.server.connected(make_url(self.database_url).database) as connection:

            async def all_listen() -> bool:
                listening = await connection.fetchval(f"SELECT count(*) FROM {listeners}")
                return bool(listening == len(self.gateways))

            await until(all_listen, "every gateway listens", within=30)
            await connection.fetch(f"SELECT pg_terminate_backend(pid) FROM {listeners}")

    async def kill_redis(self, seconds: float) -> None:
        """Let it be gone, with all it knew."""
        self.redis.stop()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self.redis.start)

    async def freeze_redis(self, seconds: float) -> None:
        """Let it answer nothing."""
        with self.redis.frozen():
            await asyncio.sleep(seconds)

    async def flap_redis(self, seconds: float) -> None:
        """Let it be there for a moment now and then."""
        end = monotonic() + seconds
        while monotonic() < end:
            await self.kill_redis(random.uniform(0.05, 1))
            await asyncio.sleep(random.uniform(0.05, 1))
            self.proxy.cut()

    async def lose_redis(self, seconds: float) -> None:
        """Leave the connections to it half open."""
        with self.proxy.swallowed(*BOTH_WAYS):
            await asyncio.sleep(seconds)

    async def deafen(self, seconds: float) -> None:
        """Let Redis take what is published, and deliver nothing."""
        with self.proxy.stalled(Way.TO_CLIENT):
            await asyncio.sleep(seconds)


Fault = Callable[[Site, float], Awaitable[None]]

REDIS_FAULTS = (Site.kill_redis, Site.freeze_redis, Site.flap_redis, Site.lose_redis, Site.deafen)
POSTGRES_FAULTS = (
    Site.terminate_listeners,
    Site.kill_a_gateway,
    Site.restart_postgres,
    Site.crash_postgres,
    Site.freeze_postgres,
)


class Case(NamedTuple):
    """Faults, each of them `times`, one after the other, for so many `seconds`, and how long one may wait."""

    backplane: str
    faults: tuple[Fault, ...]
    times: int = 1
    seconds: float = 0.0
    reconcile: float = 15.0
    longest_wait: float = inf

    def parameter(self) -> Any:
        """Return it as a parameter of a test; its name is that of its fault."""
        briefly = len(self.faults) > 1
        what = "everything, briefly" if briefly else self.faults[0].__name__
        marks = () if briefly else pytest.mark.soak
        return pytest.param(self, id=f"{self.backplane}: {what}", marks=marks)


CASES = (
    # What no hint has brought is rung when the backplane is back.
    Case("postgres", POSTGRES_FAULTS, seconds=1, reconcile=NEVER, longest_wait=30),
    Case("redis", REDIS_FAULTS, seconds=1, reconcile=1, longest_wait=30),
    Case("postgres", (Site.terminate_listeners,), times=20, reconcile=NEVER, longest_wait=5),
    Case("postgres", (Site.kill_a_gateway,), times=20, seconds=4),
    Case("redis", (Site.kill_a_gateway,), times=20, seconds=4),
    Case("postgres", (Site.restart_postgres,), times=10),
    Case("postgres", (Site.crash_postgres,), times=10),
    Case("postgres", (Site.freeze_postgres,), seconds=30),
    *(Case("redis", (fault,), seconds=60, longest_wait=15 * 1.25 + SLACK) for fault in REDIS_FAULTS),
)


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
async def fragile_url(fragile: PostgresProcess, _template: str) -> AsyncIterator[str]:
    """A fresh database of it."""
    async with postgres_copy(fragile.server, _template) as url:
        yield url


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    """A Redis that may be disturbed."""
    with own_redis() as server:
        yield server


OpenSite = Callable[..., Any]


@pytest.fixture
def site(fragile: PostgresProcess, fragile_url: str, redis: RedisProcess, tmp_path: Path) -> OpenSite:
    """Open a site with a backplane of this kind, with the settings it is given besides."""

    @asynccontextmanager
    async def opened(backplane: str, **settings: object) -> AsyncIterator[Site]:
        async with proxy_to(redis.port) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}" if backplane == "redis" else backplane
            async with processes(2, fragile_url, tmp_path, backplane_url=url, **settings) as both:
                gateways, servers = [list(one) for one in zip(*both, strict=True)]
                yield Site(fragile_url, fragile, redis, proxy, gateways, servers)

    return opened


@pytest.mark.parametrize("case", [case.parameter() for case in CASES])
async def test_no_accepted_post_is_lost_by_a_fault(case: Case, site: OpenSite, judged: Judged) -> None:
    async with site(case.backplane, reconcile_interval=case.reconcile) as here:
        load = await load_on(*here.servers)
        async with load.running():
            for fault in case.faults:
                for _ in range(case.times):
                    await load.answers(PER_ROUND)
                    await fault(here, case.seconds)
            await load.answers(PER_ROUND)
        verdict = await judged(load, case.times * len(case.faults))
        assert verdict.longest_wait < case.longest_wait


@pytest.mark.parametrize(
    ("backplane", "posts"),
    [
        ("postgres", 300),
        pytest.param("postgres", 20_000, marks=pytest.mark.soak),
        pytest.param("redis", 20_000, marks=pytest.mark.soak),
    ],
)
async def test_two_gateways_deliver_the_posts_of_eight_posters_to_one_user(
    backplane: str, posts: int, site: OpenSite, judged: Judged
) -> None:
    async with site(backplane, reconcile_interval=NEVER) as here:
        load = await load_on(*here.servers, subs=["ada"], posters=8, tidy=False)
        async with load.running():
            await load.answers(posts, within=900)
        verdict = await judged(load, 0)
        assert verdict.longest_wait < SLACK
