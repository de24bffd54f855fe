"""The whole product: the page in real tabs of real browsers, against a real gateway that is cut off, killed and revoked.

Whatever happens, in the end each tab holds and shows what a fresh read of the inbox says, each item was announced
once, and each browser showed one toast for it. These tests run on SQLite only, for the reasons that test_browser.py has.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.browsers import launched
from tests.checker import Json
from tests.clients import GONE, User
from tests.databases import settings_for
from tests.profiles import PASSWORD, Profile, Tab, agree, leader_of, profile_of
from tests.proxy import Proxy, proxy_to
from tests.servers import LocalServer, Server, StartServer, process, serving
from tests.waiting import PATIENCE, until

expect.set_options(timeout=PATIENCE * 1000)

pytestmark = pytest.mark.asyncio(loop_scope="module")

Note = Callable[[str, object], None]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for the whole module."""
    async with launched() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def start_server(sqlite_url: str) -> AsyncIterator[StartServer]:
    """What the fixture of this name in conftest does, on SQLite and on the event loop of the browser."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> LocalServer:
            return await stack.enter_async_context(serving(settings_for(sqlite_url, **settings)))

        yield start


@pytest_asyncio.fixture(loop_scope="module")
async def server(start_server: StartServer) -> LocalServer:
    """A gateway with default settings."""
    return await start_server()


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(server: LocalServer) -> AsyncIterator[Proxy]:
    """A network between the tabs and the gateway, which can be cut."""
    async with proxy_to(int(server.base.rpartition(":")[2])) as opened:
        yield opened


OpenProfile = Callable[..., Coroutine[Any, Any, Profile]]


@pytest_asyncio.fixture(loop_scope="module")
async def profiles(browser: Browser) -> AsyncIterator[OpenProfile]:
    """A function that opens a browser profile. At the end no script of any tab has failed, and no policy was broken."""
    troubles: list[str] = []
    async with AsyncExitStack() as stack:

        async def open_profile(**options: Any) -> Profile:
            return await stack.enter_async_context(profile_of(browser, troubles, **options))

        yield open_profile
    assert troubles == []


async def add_user(server: Server, sub: str = "ada") -> User:
    answer = await server.service.post("/v1/users", json={"sub": sub, "password": PASSWORD})
    assert answer.status_code == 201, answer.text
    return await server.user(sub)


def base_of(proxy: Proxy) -> str:
    return f"http://127.0.0.1:{proxy.port}"


def announced_first(told: list[Json]) -> list[str]:
    """Return the titles of what was announced to the tab that is to show it, in that order."""
    return [one["title"] for one in told if one["first"]]


async def each_was_told_once(tab: Tab, *titles: str) -> None:
    """Every tab of the browser was told of these in their order, and one of the tabs was told to show each."""
    told = await tab.noted("told")
    for name in {one["tab"] for one in told}:
        assert [one["title"] for one in told if one["tab"] == name] == list(titles)
    assert Counter(announced_first(told)) == Counter(titles)


# --- one inbox, everywhere ----------------------------------------------------------------------------------


async def test_what_is_posted_is_in_every_tab_of_every_browser_with_one_toast_in_each_and_is_read_everywhere(
    server: LocalServer, profiles: OpenProfile, record_property: Note
) -> None:
    ada = await add_user(server)
    home, work = await profiles(), await profiles()
    tabs = [await home.signed_in(server.base), await home.signed_in(server.base), await work.signed_in(server.base)]
    await server.sockets(2)
    for tab in tabs:
        await tab.is_looked_at(False)
    posted = [await server.service.notify("ada", title, body="Step 4") for title in ("1", "2", "3")]
    await agree(ada, *tabs)
    for tab in tabs:
        await expect(tab.badge).to_have_text("3")
        await expect(tab.titles).to_have_text(["3", "2", "1"])
    for tab in tabs[1:]:
        await each_was_told_once(tab, "1", "2", "3")
        assert Counter(toast["id"] for toast in await tab.noted("toasts")) == Counter(one["id"] for one in posted)

    # Whoever looks at one of them has seen what is new, and no badge is left anywhere.
    await tabs[1].is_looked_at(True)
    for tab in tabs:
        await expect(tab.badge).to_be_hidden()
    began = time.monotonic()
    await tabs[0].button("Mark read: 2").click()
    for tab in tabs:
        await expect(tab.button("Mark unread: 2")).to_be_attached()
    record_property("read everywhere after, in s", round(time.monotonic() - began, 3))
    await agree(ada, *tabs)
    assert (await ada.inbox())["unread"] == 2
