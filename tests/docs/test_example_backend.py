"""`docs/examples/backend.py`, as a newcomer starts it: with a real gateway, in a real Chromium."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.support.browsers import launched
from tests.support.databases import API_KEY, settings_for
from tests.support.postgres import free_port
from tests.support.servers import serving
from tests.support.waiting import until

EXAMPLE = Path(__file__).parents[2] / "docs/examples/backend.py"
START = 30.0
"""Seconds until a program that imports FastAPI must answer, on a busy machine too."""


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    async with launched() as started:
        yield started


@asynccontextmanager
async def example(folder: Path, port: int, gateway: str, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """Run the example on this port, and yield a client for it."""
    settings = {"GATEWAY_URL": gateway, "GATEWAY_KEY": key, "PORT": str(port), "NO_PROXY": "*"}
    with (folder / "said").open("w") as said:
        started = await asyncio.create_subprocess_exec(
            sys.executable, EXAMPLE, env=os.environ | settings, stdout=said, stderr=said
        )
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:

                async def answers() -> bool:
                    assert started.returncode is None, (folder / "said").read_text()
                    try:
                        return (await http.get("/")).is_success
                    except httpx.TransportError:
                        return False

                await until(answers, "the example answers", within=START)
                yield http
        finally:
            started.terminate()
            await started.wait()


async def test_the_bell_of_the_example_backend_shows_its_posts(
    sqlite_url: str, tmp_path: Path, browser: Browser
) -> None:
    port = free_port()
    async with (
        serving(settings_for(sqlite_url, allowed_origins=f"http://127.0.0.1:{port}")) as server,
        example(tmp_path, port, f"{server.base}/", f"{API_KEY}\n") as http,
    ):
        page = await browser.new_page()
        await page.goto(f"http://127.0.0.1:{port}/")
        await server.sockets(1)
        await page.get_by_role("button", name="Order").click()
        await page.get_by_role("button", name="Notifications, 1 new").click()
        await expect(page.get_by_role("article")).to_contain_text("Your order is on its way")
        token = await http.get("/token")
        assert token.headers["cache-control"] == "no-store"
        assert token.json().keys() == {"access_token", "token_type", "expires_in", "scope"}
        await page.close()
        await server.sockets(0)


async def test_the_example_backend_passes_on_the_code_and_the_detail_of_a_refusal(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with (
        serving(settings_for(sqlite_url)) as server,
        example(tmp_path, free_port(), server.base, "wrong") as http,
    ):
        headers = {"Authorization": "Bearer wrong"}
        problem = (await server.stranger.post("/v1/users/ada/tokens", headers=headers)).json()
        refused = await http.get("/token")
        assert refused.status_code == 502
        assert refused.json() == {"detail": f"{problem['code']}: {problem['detail']}"}


async def test_the_example_backend_reports_a_server_that_is_not_a_gateway(
    tmp_path: Path, browser: Browser
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 22"
        writer.write(f'{head}\r\nConnection: close\r\n\r\n{{"detail":"Not Found"}}'.encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        address, port = f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}", free_port()
        said = f"HTTP 404 from {address}: is there a gateway?"
        async with example(tmp_path, port, address, API_KEY) as http:
            for refused in (await http.get("/token"), await http.post("/orders")):
                assert refused.status_code == 502
                assert refused.json() == {"detail": said}
            # The page's own button does its work, though the SDK cannot be loaded.
            page = await browser.new_page()
            await page.goto(f"http://127.0.0.1:{port}/")
            await page.get_by_role("button", name="Order").click()
            await expect(page.get_by_role("status")).to_have_text(said)
            await page.close()
