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
from tests.proxy import Proxy, Way, proxy_to
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


async def each_was_told_once(tab: Tab, *titles: str, closed: int = 0) -> None:
    """Every tab of the browser was told of these in their order, and one of the tabs was told to show each.

    So many tabs that have been closed were told of the first ones.
    """
    told = await tab.noted("told")
    assert Counter(announced_first(told)) == Counter(titles)
    complete = 0
    for name in {one["tab"] for one in told}:
        mine = [one["title"] for one in told if one["tab"] == name]
        assert mine == list(titles[: len(mine)])
        complete += len(mine) == len(titles)
    assert complete == len({one["tab"] for one in told}) - closed


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


# --- lost connections ---------------------------------------------------------------------------------------


async def two_tabs_and_another_browser(base: str, profiles: OpenProfile) -> list[Tab]:
    """Open two tabs that share a connection, and one in another browser."""
    home, work = await profiles(), await profiles()
    return [await home.signed_in(base), await home.signed_in(base), await work.signed_in(base)]


async def post_numbered(server: Server, number: int) -> list[str]:
    """Post one after the other, and return the titles."""
    titles = [str(one) for one in range(1, number + 1)]
    for title in titles:
        await server.service.notify("ada", title)
    return titles


async def all_came_while_away(ada: User, tabs: list[Tab], titles: list[str]) -> None:
    """Nothing was lost, doubled or put out of order, and each browser said in one line how many there were."""
    await agree(ada, *tabs, within=60)
    for tab in tabs:
        await expect(tab.titles).to_have_text(titles[::-1])
    for tab in tabs[1:]:
        await each_was_told_once(tab, *titles)
        assert all(one["missed"] for one in await tab.noted("told"))
        (toast,) = await until(lambda: tab.noted("toasts"), "the summary is shown")  # noqa: B023
        assert toast["text"] == f"{len(titles)} notifications while you were away"


async def test_what_came_while_the_network_was_cut_comes_once_in_order_in_one_line(
    server: LocalServer, proxy: Proxy, profiles: OpenProfile
) -> None:
    ada = await add_user(server)
    tabs = await two_tabs_and_another_browser(base_of(proxy), profiles)
    await proxy.close()
    titles = await post_numbered(server, 50)
    await proxy.open()
    await all_came_while_away(ada, tabs, titles)


@pytest.mark.soak
async def test_what_came_in_ten_seconds_of_silence_comes_once_in_order_in_one_line(
    server: LocalServer, proxy: Proxy, profiles: OpenProfile
) -> None:
    ada = await add_user(server)
    tabs = await two_tabs_and_another_browser(base_of(proxy), profiles)
    with proxy.swallowed(*Way):
        titles = await post_numbered(server, 50)
        await asyncio.sleep(10)  # It is what is tested: nothing tells the browser that nobody listens.
    await all_came_while_away(ada, tabs, titles)


async def post_whatever_happens(server: Server, titles: list[str], answered: list[str]) -> None:
    """Post one after the other, each again under its key until it is answered."""
    for title in titles:
        while True:
            try:
                answer = await server.service.post(
                    "/v1/notifications", json={"to": "ada", "title": title}, headers={"Idempotency-Key": title}
                )
            except GONE:
                await asyncio.sleep(0.02)
                continue
            if answer.status_code == 201:
                answered.append(title)
                break


async def test_a_gateway_that_is_killed_in_a_burst_and_starts_again_is_found_by_every_tab_and_nothing_is_lost(
    sqlite_url: str, tmp_path: Path, profiles: OpenProfile
) -> None:
    async with process(sqlite_url, tmp_path) as (gateway, server):
        ada = await add_user(server)
        tabs = await two_tabs_and_another_browser(server.base, profiles)
        titles, answered = [str(one) for one in range(1, 61)], list[str]()
        posting = asyncio.create_task(post_whatever_happens(server, titles, answered))
        await until(lambda: len(answered) > 20, "some are posted")
        gateway.kill()
        await gateway.start()
        async with asyncio.timeout(60):
            await posting
        await agree(ada, *tabs, within=60)
        for tab in tabs:
            await expect(tab.titles).to_have_text(titles[::-1])
        for tab in tabs[1:]:
            await each_was_told_once(tab, *titles)


async def test_a_leader_that_is_closed_in_a_burst_is_replaced_and_each_item_is_shown_once(
    server: LocalServer, profiles: OpenProfile, record_property: Note
) -> None:
    ada = await add_user(server)
    home = await profiles()
    tabs = [await home.signed_in(server.base) for _ in range(3)]
    leader = await leader_of(*tabs)
    titles, answered = [str(one) for one in range(1, 201)], list[str]()
    posting = asyncio.create_task(post_whatever_happens(server, titles, answered))
    await until(lambda: len(answered) > 80, "some are posted")
    await leader.page.close()
    began = time.monotonic()
    left = [tab for tab in tabs if tab is not leader]
    await leader_of(*left)
    record_property("another leads after, in s", round(time.monotonic() - began, 3))
    await posting
    await agree(ada, *left)
    for tab in left:
        await each_was_told_once(tab, *titles, closed=1)
    await server.sockets(1)
