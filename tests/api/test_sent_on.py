"""What a user has sent on to its sockets by changing items has a budget, whichever way it changes them."""

import asyncio
import json
from contextlib import AsyncExitStack

import httpx
import pytest

from gateway.auth.limits.rate_limits import SENT_ON_KIB
from gateway.auth.limits.token_buckets import Buckets
from gateway.store.changes import LONG_CHANGE
from tests.support.clients import User
from tests.support.servers import LocalServer

LONG = "\u0001" * 4000
"""A body of 24 KB in a message."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The budget knows nothing of databases."""
    return sqlite_url


@pytest.fixture
def budget(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> Buckets:
    """The budget, which does not refill."""
    changes = server.state.rate_limits.changes
    monkeypatch.setattr(changes, "clock", lambda: 0.0)
    return changes


def id_of(server: LocalServer) -> int:
    """Return the number of the only user with a socket."""
    (user_id,) = server.state.hub._users
    return user_id


async def read(user: User, name: str, *, done: bool) -> httpx.Response:
    return await user.patch(f"/v1/inbox/{name}", json={"read": done})


async def test_a_change_is_charged_for_its_kib_on_each_socket(server: LocalServer, budget: Buckets) -> None:
    ada = await server.user()
    name = (await server.service.notify("ada", body=LONG))["id"]
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(ada.socket(since="latest")) for _ in range(3)]
        for socket in sockets:
            await socket.until("live")
        user_id = id_of(server)
        full = budget.level(user_id)
        assert full == SENT_ON_KIB * server.state.settings.commands_per_second * 4
        assert (await read(ada, name, done=True)).status_code == 200
        size = len(json.dumps(await sockets[0].next("changed")))
        assert full - budget.level(user_id) == pytest.approx(3 * size / 1024, rel=0.1)
        before = budget.level(user_id)
        await sockets[0].ask(type="unread", ids=[name])
        assert before - budget.level(user_id) == pytest.approx(3 * size / 1024, rel=0.1)


async def test_a_change_sent_without_items_is_not_charged(server: LocalServer, budget: Buckets) -> None:
    ada = await server.user()
    names = [(await server.service.notify("ada", body=LONG))["id"] for _ in range(LONG_CHANGE + 1)]
    async with ada.socket(since="latest") as socket:
        await socket.until("live")
        full = budget.level(id_of(server))
        await ada.post("/v1/inbox/read", json={"up_to": len(names)})
        await socket.next("read")
        assert (await read(ada, names[0], done=True)).status_code == 200, "it is read already"
        await ada.post("/v1/inbox/seen", json={"up_to": len(names)})
        await socket.next("seen")
        assert (await ada.delete(f"/v1/inbox/{names[0]}")).status_code == 204
        await socket.next("changed")
        assert budget.level(id_of(server)) == full


async def test_changed_preferences_are_charged_and_refused_ones_are_not(
    server: LocalServer, budget: Buckets
) -> None:
    ada = await server.user()
    path = "/v1/inbox/preferences"
    async with ada.socket(since="latest") as socket:
        await socket.until("live")
        full = budget.level(id_of(server))
        asked = {"json": {"timezone": "Asia/Tokyo"}, "headers": {"If-Match": '"other"'}}
        assert (await ada.request("PUT", path, **asked)).status_code == 412
        assert budget.level(id_of(server)) == full
        assert (await ada.request("PUT", path, json={"timezone": "Asia/Tokyo"})).status_code == 200
        await socket.next("preferences")
        assert budget.level(id_of(server)) == full - 1


async def test_a_user_over_the_changes_budget_can_only_read_and_delete(
    server: LocalServer, budget: Buckets
) -> None:
    ada, bob = await server.user(), await server.user("bob")
    first = await server.service.notify(["ada", "bob"])
    second = await server.service.notify("ada")
    async with ada.socket(since="latest") as socket:
        await socket.until("live")
        budget.charge(id_of(server), int(budget.level(id_of(server))))
        refused = [
            await read(ada, first["id"], done=True),
            await ada.post("/v1/inbox/read", json={"ids": [first["id"]]}),
            await ada.post("/v1/inbox/read", json={"up_to": 1}),
        ]
        for answer in refused:
            assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
            assert answer.headers["RateLimit-Policy"].startswith('"changes";')
        assert (await ada.inbox())["unread"] == 2
        assert (await ada.post("/v1/inbox/seen", json={"up_to": 2})).status_code == 200
        assert (await ada.delete(f"/v1/inbox/{second['id']}")).status_code == 204
        assert (await read(bob, first["id"], done=True)).status_code == 200
        await socket.ask(type="ping")
        await socket.send(type="read", ids=[first["id"]])
        assert await socket.closed() == (4029, "too_many_commands")


async def test_a_started_change_finishes_even_if_it_exceeds_the_budget(
    server: LocalServer, budget: Buckets
) -> None:
    ada = await server.user()
    names = [(await server.service.notify("ada", body=LONG))["id"] for _ in range(60)]
    async with ada.socket(since="latest") as socket:
        await socket.until("live")
        budget.charge(id_of(server), int(budget.level(id_of(server))) - 1)
        assert (await ada.post("/v1/inbox/read", json={"ids": names})).json()["unread"] == 0
        assert budget.level(id_of(server)) < -1000
        assert (await read(ada, names[0], done=False)).status_code == 429


async def test_concurrent_changes_do_not_exceed_the_budget_together(
    server: LocalServer, budget: Buckets
) -> None:
    ada = await server.user()
    names = [(await server.service.notify("ada", body=LONG))["id"] for _ in range(28)]
    async with ada.socket(since="latest") as socket:
        await socket.until("live")
        budget.charge(id_of(server), int(budget.level(id_of(server))) - 1)
        changes = [ada.post("/v1/inbox/read", json={"ids": names}) for _ in range(5)]
        answers = [answer.status_code for answer in await asyncio.gather(*changes)]
        assert sorted(answers) == [200, 429, 429, 429, 429]
