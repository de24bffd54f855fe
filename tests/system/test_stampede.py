"""All clients of a gateway come back at once."""

import asyncio
from pathlib import Path
from time import monotonic

import pytest

from tests.support.checker import Post
from tests.support.load import Judged, Load, load_on
from tests.support.servers import Server, process
from tests.support.waiting import until


@pytest.mark.parametrize("users", [50, pytest.param(1000, marks=pytest.mark.soak)])
async def test_clients_that_reconnect_at_once_catch_up_within_30_s_without_blocking_requests(
    users: int, database_url: str, tmp_path: Path, judged: Judged
) -> None:
    """Each user has two devices."""
    subs = [f"user-{number}" for number in range(users)]
    async with process(database_url, tmp_path, handshakes_per_second=1_000_000) as (gateway, server):
        load = await load_on(server, subs=subs, tidy=False)
        reader = await server.user("reader")
        # All of them lose the gateway at one moment, and so come back at the same moments.
        async with load.running(pause=1):
            await until(lambda: all(one.connections for one in load.devices), "all are connected", within=60)
            gateway.kill()
            await gateway.start()
            began = monotonic()
            missed = await post_to_all(server, load, subs)
            all_have_it = asyncio.create_task(
                until(lambda: all(missed in one.arrived for one in load.devices), "all have it", within=60)
            )
            while not all_have_it.done():
                # One that is not answered in `PATIENCE` seconds raises.
                await reader.inbox()
            await all_have_it
            took = monotonic() - began
        await judged(load, 1)
        assert took < 30


async def post_to_all(server: Server, load: Load, subs: list[str]) -> str:
    """Post one notification to everybody, as a part of the load, and return its id."""
    post = Post("welcome back", tuple(subs))
    load.posts.append(post)
    identifier: str = (await server.service.notify(subs, title=post.title))["id"]
    post.status = 201
    post.ids.add(identifier)
    return identifier
