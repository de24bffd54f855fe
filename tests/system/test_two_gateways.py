"""Two gateways on one database: what one commits reaches the sockets of the other, come what may to hints."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from gateway.backplane.link import Link
from tests.support.clients import User
from tests.support.databases import settings_for
from tests.support.load import Judged, Load, load_on
from tests.support.redis_server import Redis
from tests.support.servers import LocalServer, serving_all
from tests.support.waiting import until


@pytest.fixture(params=["postgres", "redis"])
def backplane_url(request: pytest.FixtureRequest) -> str:
    if request.param == "postgres":
        return "postgres"
    redis: Redis = request.getfixturevalue("redis")
    return redis.url


StartTwo = Callable[..., Any]


@pytest.fixture
async def start_two(postgres_url: str, backplane_url: str) -> AsyncIterator[StartTwo]:
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> tuple[LocalServer, LocalServer]:
            chosen = settings_for(postgres_url, backplane_url=backplane_url, **settings)
            one, other = await stack.enter_async_context(serving_all(chosen, chosen))
            for server in (one, other):
                await until(partial(_listens, server), "it listens", within=30)
            return one, other

        yield start


def _listens(server: LocalServer) -> bool:
    return server.state.backplane.listening


async def test_a_post_to_one_gateway_reaches_a_socket_of_the_other(start_two: StartTwo) -> None:
    one, other = await start_two(reconcile_interval=3600)
    ada = await one.user()
    async with User(other.http, ada.token, ada.sub).socket() as socket:
        await socket.next("live")
        for seq in range(1, 11):
            await one.service.notify("ada", title=f"post {seq}")
            assert (await socket.next("notification"))["seq"] == seq
        await ada.post("/v1/inbox/seen", json={"up_to": 5})
        assert (await socket.next("seen"))["unseen"] == 5
        # What the other gateway commits is in order with it.
        await other.service.notify("ada", title="post 11")
        assert (await socket.next("notification"))["seq"] == 11
    assert other.state.reconciler.reconciled == 0


async def test_a_session_ended_by_one_gateway_closes_its_sockets_on_the_other(
    start_two: StartTwo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.jobs.timetable.SESSION_CHECK_SECONDS", 3600)
    one, other = await start_two(reconcile_interval=3600)
    ada = await one.user()
    there = User(other.http, ada.token, ada.sub)
    async with there.socket() as socket:
        await socket.next("live")
        assert (await one.service.delete("/v1/users/ada/sessions")).status_code == 204
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await socket.closed() == (4001, "token_revoked")
        # Within a second is what is promised; a busy machine gets more.
        assert loop.time() - began < 5
    assert (await there.get("/v1/inbox")).status_code == 401


@dataclass
class Weather:
    """What becomes of hints: so many are lost, each may come twice, and late and out of order."""

    lost: float
    doubled: bool = False
    shuffled: bool = False

    def upon(self, server: LocalServer) -> None:
        link = server.state.backplane
        assert isinstance(link, Link)
        receiver, dice = link._receiver, random.Random(11)
        loop = asyncio.get_running_loop()

        def hint(seqs: Mapping[int, int]) -> None:
            for _ in range(2 if self.doubled else 1):
                if dice.random() >= self.lost:
                    if self.shuffled:
                        loop.call_later(dice.random() / 5, receiver.on_hint, dict(seqs))
                    else:
                        receiver.on_hint(seqs)

        link._receiver = receiver._replace(on_hint=hint)


WEATHERS = {
    "none lost": Weather(0),
    "a tenth lost": Weather(0.1),
    "half lost": Weather(0.5),
    "all lost": Weather(1),
    "doubled": Weather(0, doubled=True),
    "shuffled": Weather(0, doubled=True, shuffled=True),
    "half lost, doubled, shuffled": Weather(0.5, doubled=True, shuffled=True),
}
QUICK = {"all lost", "half lost, doubled, shuffled"}


@asynccontextmanager
async def bad_weather(
    start_two: StartTwo, weather: Weather
) -> AsyncIterator[tuple[LocalServer, LocalServer, Load]]:
    one, other = await start_two(reconcile_interval=0.5)
    for server in (one, other):
        weather.upon(server)
    yield one, other, await load_on(one, other)


@pytest.mark.parametrize(
    ("name", "posts"),
    [(name, 60) for name in sorted(QUICK)]
    + [pytest.param(name, 3000, marks=pytest.mark.soak) for name in WEATHERS],
)
async def test_no_change_is_lost_whatever_happens_to_the_hints(
    start_two: StartTwo, judged: Judged, name: str, posts: int
) -> None:
    async with bad_weather(start_two, WEATHERS[name]) as (one, other, load):
        async with load.running():
            for _ in range(posts // 20):
                await load.answers(20)
        await judged(load, 0)
        if WEATHERS[name].lost == 1:
            assert one.state.reconciler.reconciled > 0
            assert other.state.reconciler.reconciled > 0


async def test_preferences_changed_on_one_gateway_reach_a_socket_of_the_other(start_two: StartTwo) -> None:
    one, other = await start_two(reconcile_interval=3600)
    ada = await one.user()
    async with User(other.http, ada.token, ada.sub).socket(since="latest") as socket:
        await socket.next("live")
        for zone in ("Asia/Tokyo", "Europe/Berlin"):
            await ada.request("PUT", "/v1/inbox/preferences", json={"timezone": zone})
            assert (await socket.next("preferences"))["preferences"]["timezone"] == zone
        # What the other gateway reads from the log is quiet as well.
        await ada.request("PUT", "/v1/inbox/preferences", json={"quiet_until": "9999-01-01T00:00:00Z"})
        await socket.next("preferences")
        await one.service.notify("ada")
        await one.service.notify("ada", priority="urgent")
        assert [(await socket.next("notification"))["alert"] for _ in range(2)] == [False, True]
    assert other.state.reconciler.reconciled == 0
