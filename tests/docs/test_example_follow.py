"""`docs/examples/follow.py` with a real gateway, whose connections are lost."""

import asyncio
import os
import sys
from pathlib import Path

from gateway.store.inbox import NEWEST_UNREAD
from tests.support.databases import settings_for
from tests.support.proxy import proxy_to
from tests.support.servers import serving

EXAMPLE = Path(__file__).parents[2] / "docs/examples/follow.py"


async def test_the_example_prints_each_title_once_and_stops_for_good(sqlite_url: str) -> None:
    async with (
        serving(settings_for(sqlite_url)) as server,
        proxy_to(int(server.base.rpartition(":")[2])) as proxy,
    ):
        user = await server.user("ada")
        settings = {
            "GATEWAY_URL": f"http://127.0.0.1:{proxy.port}/",
            "GATEWAY_TOKEN": f"{user.token}\n",
            "NO_PROXY": "*",
        }
        started = await asyncio.create_subprocess_exec(
            sys.executable,
            EXAMPLE,
            env=os.environ | settings,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert started.stdout is not None
        try:
            for number in range(2):
                await server.service.notify(["ada"], title=f"While connected {number}")
                line = await asyncio.wait_for(started.stdout.readline(), 60)
                assert line.decode() == f"While connected {number}\n"
                await proxy.close()
                await server.sockets(0)
                # One more than a connection without a position gets.
                await server.service.notify_many("ada", NEWEST_UNREAD + 1)
                await proxy.open()
                for title in range(1, NEWEST_UNREAD + 2):
                    line = await asyncio.wait_for(started.stdout.readline(), 60)
                    assert line.decode() == f"{title}\n"
            await server.service.delete("/v1/users/ada/sessions")
            rest, failed = await asyncio.wait_for(started.communicate(), 60)
            assert (started.returncode, rest, failed) == (1, b"", b"closed with 4001 token_revoked\n")
        finally:
            if started.returncode is None:
                started.kill()
            await started.wait()
