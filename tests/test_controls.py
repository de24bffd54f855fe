"""Every control of the page and of the elements, in a real Chromium on a real gateway.

What a click shows is compared with what the gateway itself answers, and with what it has kept. They run on
SQLite only, as the other tests of the page do.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.browsers import launched
from tests.clients import User
from tests.databases import settings_for
from tests.profiles import PASSWORD, Profile, Tab, profile_of
from tests.servers import LocalServer, serving
from tests.waiting import PATIENCE, until

expect.set_options(timeout=PATIENCE * 1000)

pytestmark = pytest.mark.asyncio(loop_scope="module")

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESKTOP = {"viewport": {"width": 1280, "height": 900}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for the whole module."""
    async with launched() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def server(sqlite_url: str) -> AsyncIterator[LocalServer]:
    """A gateway with default settings."""
    async with serving(settings_for(sqlite_url)) as started:
        yield started


async def an_inbox(server: LocalServer) -> User:
    """Fill an inbox with read, unread and archived items of three categories."""
    answer = await server.service.post("/v1/users", json={"sub": "ada", "password": PASSWORD})
    assert answer.status_code == 201, answer.text
    ada = await server.user("ada")
    for number in range(1, 13):
        category = ("ci", "orders", "default")[number % 3]
        posted = await server.service.notify("ada", f"Title {number}", category=category)
        change = {"read": number % 2 == 0, "archived": number % 4 in {2, 3}}
        assert (await ada.patch(f"/v1/inbox/{posted['id']}", json=change)).status_code == 200
    return ada


IN_THE_MENU = {"Mark read", "Mark unread", "Archive", "Move to inbox", "Delete"}
"""What a finger finds in the menu of a row."""

TABS: dict[str, dict[str, str]] = {"All": {}, "Unread": {"unread": "true"}, "Archived": {"archived": "true"}}
CATEGORIES = ("", "ci", "default", "orders")


@pytest.mark.parametrize("options", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_every_tab_with_every_category_shows_what_the_gateway_lists(
    server: LocalServer, browser: Browser, options: dict[str, object]
) -> None:
    ada = await an_inbox(server)
    troubles: list[str] = []
    async with AsyncExitStack() as stack:
        profile: Profile = await stack.enter_async_context(profile_of(browser, troubles, **options))
        tab: Tab = await profile.signed_in(server.base)
        inbox = tab.page.locator("#list")
        for name, filters in TABS.items():
            await inbox.get_by_role("tab", name=name).click()
            for category in CATEGORIES:
                await inbox.get_by_label("Category").select_option(category)
                chosen = {**filters, **({"category": category} if category else {})}
                listed = (await ada.inbox(**chosen))["items"]
                assert listed, chosen
                await expect(tab.titles).to_have_text([item["title"] for item in listed])
                unread = [not item["read_at"] for item in listed]
                assert [
                    await row.evaluate("(row) => row.classList.contains('new')")
                    for row in await tab.rows.all()
                ] == unread
    assert troubles == []


async def until_kept(ada: User, item_id: str, **expected: bool) -> None:
    """Wait until the gateway has kept this of an item: whether it is `read`, `archived`, or there at all."""

    async def kept() -> bool:
        answer = await ada.get(f"/v1/inbox/{item_id}")
        if answer.status_code != 200:
            return not expected
        item = answer.json()
        return bool(expected) and all(bool(item[f"{name}_at"]) is value for name, value in expected.items())

    await until(kept, f"{item_id} is {expected or 'gone'}")


@pytest.mark.parametrize("way", ["click", "tap", "keyboard"])
async def test_each_button_of_a_notification_does_what_it_says(
    server: LocalServer, browser: Browser, way: str
) -> None:
    answer = await server.service.post("/v1/users", json={"sub": "ada", "password": PASSWORD})
    assert answer.status_code == 201, answer.text
    ada = await server.user("ada")
    body = "A long line of words that goes on. " * 30
    ids = [(await server.service.notify("ada", f"Title {n}", body=body))["id"] for n in (1, 2, 3)]
    troubles: list[str] = []
    async with profile_of(browser, troubles, **(PHONE if way == "tap" else DESKTOP)) as profile:
        tab = await profile.signed_in(server.base)
        inbox = tab.page.locator("#list")

        async def press(name: str, role: Any = "button") -> None:
            control = inbox.get_by_role(role, name=name, exact=role == "button")
            what, _, title = name.partition(": ")
            if way == "tap" and what in IN_THE_MENU:
                # Its menu stays open while the question stands.
                await inbox.get_by_role("button", name=f"More actions: {title}", exact=True).tap()
            if way == "keyboard":
                await control.press("Enter")
            else:
                await getattr(control, way)()

        await press("Show more: Title 2")
        await expect(inbox.get_by_role("button", name="Show less: Title 2")).to_be_visible()
        await press("Mark read: Title 2")
        await until_kept(ada, ids[1], read=True, archived=False)
        await press("Mark unread: Title 2")
        await until_kept(ada, ids[1], read=False)
        await press("Archive: Title 2")
        await until_kept(ada, ids[1], archived=True, read=False)
        await press("Undo")
        await until_kept(ada, ids[1], archived=False)
        await press("Archive: Title 1")
        await until_kept(ada, ids[0], archived=True)
        await press("Archived", "tab")
        await press("Move to inbox: Title 1")
        await until_kept(ada, ids[0], archived=False)
        await press("Unread", "tab")
        await expect(tab.titles).to_have_text(["Title 3", "Title 2", "Title 1"])
        await press("Mark all read")
        await until_kept(ada, ids[2], read=True)
        await press("Undo")
        await until_kept(ada, ids[2], read=False)
        await press("All", "tab")
        await press("Delete: Title 3")
        await press("Press again to delete: Title 3")
        await until_kept(ada, ids[2])
        await expect(tab.titles).to_have_text(["Title 2", "Title 1"])
    assert troubles == []
