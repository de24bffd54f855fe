"""Clients whose connection is there in name only: nothing arrives any more, and nothing says so."""

import asyncio

import pytest

from tests.support.checker import History, Post, judge
from tests.support.clients import Device, User, http_client
from tests.support.proxy import BOTH_WAYS, Way, proxy_to
from tests.support.servers import StartServer
from tests.support.waiting import until


@pytest.mark.parametrize("ways", [BOTH_WAYS, (Way.TO_CLIENT,), (Way.TO_SERVER,)])
async def test_a_client_behind_a_half_open_connection_is_closed_and_resumes_without_a_gap(
    start_server: StartServer, ways: tuple[Way, ...]
) -> None:
    server = await start_server(ping_interval=0.2, ping_timeout=0.3)
    async with (
        proxy_to(server.http.base_url.port or 0) as proxy,
        http_client(f"http://127.0.0.1:{proxy.port}") as http,
    ):
        ada = User(http, await server.service.mint("ada"), "ada")
        phone = Device(ada, "phone")
        posts: list[Post] = []

        async def post(title: str) -> None:
            answer = await server.service.notify("ada", title)
            posts.append(Post(title, ("ada",), 201, {answer["id"]}))

        running = asyncio.create_task(phone.run())
        await until(lambda: phone.connections, "the phone is connected")
        with proxy.swallowed(*ways):
            await post("lost on the way")
            await server.sockets(0)
            await post("nobody is there")
        await until(lambda: phone.history.seq == len(posts), "the phone has caught up")
        await post("live again")
        await until(lambda: phone.history.seq == len(posts), "the phone is live")
        inbox = await ada.whole_inbox()
        running.cancel()
        await asyncio.wait([running])
        assert judge(History(posts, [phone.history], {"ada": inbox})) == []
        assert phone.connections > 1
        # The farewell arrives where this way is open.
        assert (1006 if Way.TO_CLIENT in ways else 4008) in phone.closes
