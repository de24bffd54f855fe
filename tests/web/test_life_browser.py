"""Notifications that change while they are shown: tabs and profiles of a real Chromium, and a real gateway.

They run on SQLite only, as those of the page do. In a signature the server stands before `go`, so that the
pages are closed when the server looks for what is left of its clients.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from tests.support.checker import Json
from tests.support.clients import Service
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, serving
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTLED = 30
"""Seconds for what every tab shows a moment later."""

PAGE = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>App</title>
<style>notification-inbox { height: 420px; }</style>
<notification-bell></notification-bell><notification-inbox></notification-inbox>
<notification-toasts always></notification-toasts></html>"""

START = """async (base) => {
  const { NotificationClient } = await import(`${base}/sdk/components.js`);
  const client = window.client = new NotificationClient({ getToken });
  const elements = 'notification-bell, notification-inbox, notification-toasts';
  for (const one of document.querySelectorAll(elements)) one.client = client;
  client.start();
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[str]:
    """A page with the elements, at an origin of its own; its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        )
        writer.write(head % len(PAGE) + PAGE)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


@pytest_asyncio.fixture(loop_scope="module")
async def server(sqlite_url: str, site: str) -> AsyncIterator[LocalServer]:
    """A gateway whose list of origins has the site."""
    async with serving(settings_for(sqlite_url, allowed_origins=site)) as started:
        yield started


Go = Callable[..., Coroutine[Any, Any, Page]]


@pytest_asyncio.fixture(loop_scope="module")
async def go(browser: Browser, site: str) -> AsyncIterator[Go]:
    """A function that opens the site in a new tab of a profile. At the end no script has failed."""
    troubles: list[str] = []
    async with AsyncExitStack() as stack:

        async def open_tab(server: LocalServer, context: BrowserContext | None = None) -> Page:
            if context is None:
                context = await browser.new_context(reduced_motion="reduce")
                stack.push_async_callback(context.close)
            page = await context.new_page()
            page.set_default_timeout(PATIENCE * 1000)
            page.on("pageerror", lambda error: troubles.append(str(error)))
            await page.expose_function("getToken", minting(server.service))
            await page.goto(site)
            await page.evaluate(START, server.base)
            await page.wait_for_function("client.state === 'live'")
            return page

        yield open_tab
    assert troubles == []


def minting(service: Service) -> Callable[[str], Coroutine[Any, Any, str]]:
    async def mint(_why: str) -> str:
        return await service.mint("ada")

    return mint


async def two_tabs_and_another_profile(server: LocalServer, go: Go) -> list[Page]:
    first = await go(server)
    return [first, await go(server, first.context), await go(server)]


def row(page: Page, item: Json) -> Locator:
    return page.locator(f"body > notification-inbox [data-id='{item['id']}']")


def button(page: Page, name: str) -> Locator:
    return page.locator("body > notification-inbox").get_by_role("button", name=name, exact=True)


async def place(locator: Locator) -> tuple[float, float]:
    box = await locator.bounding_box()
    assert box is not None
    return round(box["x"]), round(box["y"])


async def agree(pages: list[Page], user: Any) -> None:
    """Wait until each tab has the inbox and the counts that a fresh read of the inbox has."""
    found = await user.inbox(limit=200)
    want = [[one["id"] for one in found["items"]], found["unread"], found["unseen"], found["seq"]]
    for page in pages:

        async def same(page: Page = page) -> bool:
            return bool(
                await page.evaluate(
                    "[client.items.map(({ id }) => id), client.unread, client.unseen, client.seq]"
                )
                == want
            )

        await until(same, "a tab has what the gateway has", within=SETTLED)


def ahead(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


async def test_items_that_are_edited_unsent_replaced_and_expire_while_shown_move_no_row(
    server: LocalServer, go: Go
) -> None:
    service, ada = server.service, await server.user()
    posts = [await service.notify("ada", f"Title {number}", body="A body.") for number in range(30)]
    keyed = await service.notify("ada", "Build 1 has failed", collapse_key="build")
    pages = await two_tabs_and_another_profile(server, go)
    for page in pages:
        await expect(row(page, posts[10])).to_be_attached()
        await row(page, posts[10]).scroll_into_view_if_needed()
        await row(page, posts[10]).hover()
    before = [await place(row(page, posts[10])) for page in pages]

    edited = {"title": "Corrected", "body": "A longer body than before. " * 12}
    assert (await service.patch(f"/v1/notifications/{posts[14]['id']}", json=edited)).status_code == 200
    assert (await service.delete(f"/v1/notifications/{posts[12]['id']}")).status_code == 200
    successor = await service.notify("ada", "Build 2 has failed", collapse_key="build")
    expiring = await service.notify("ada", "Ends soon", ttl=1)
    for page in pages:
        await expect(row(page, posts[14]).get_by_role("heading")).to_contain_text("Corrected")
        await expect(row(page, posts[14])).to_contain_text("edited")
        await expect(row(page, posts[12])).to_have_count(0)
        await expect(row(page, keyed)).to_have_count(0)
        await expect(row(page, successor)).to_have_count(1)
        await expect(row(page, expiring)).to_have_count(0, timeout=SETTLED * 1000)
    assert [await place(row(page, posts[10])) for page in pages] == before
    await agree(pages, ada)


async def test_a_renotified_item_moves_to_the_top_of_every_tab_and_is_toasted_once(
    server: LocalServer, go: Go
) -> None:
    service, ada = server.service, await server.user()
    posts = [await service.notify("ada", f"Title {number}") for number in range(5)]
    pages = await two_tabs_and_another_profile(server, go)
    await ada.patch(f"/v1/inbox/{posts[0]['id']}", json={"read": True})
    fields = {"title": "Once more", "renotify": True}
    assert (await service.patch(f"/v1/notifications/{posts[0]['id']}", json=fields)).status_code == 200
    for page in pages:
        await expect(page.locator("body > notification-inbox article h3 bdi").first).to_have_text("Once more")
        await expect(row(page, posts[0])).to_have_count(1)
        await expect(page.locator("body > notification-inbox article")).to_have_count(5)
    await agree(pages, ada)


async def test_an_item_snoozed_in_one_tab_leaves_all_and_wakes_in_all(server: LocalServer, go: Go) -> None:
    service, ada = server.service, await server.user()
    posts = [await service.notify("ada", f"Title {number}") for number in range(3)]
    pages = await two_tabs_and_another_profile(server, go)
    until_time = ahead(62)
    await pages[0].evaluate("([id, until]) => client.snooze(id, until)", [posts[0]["id"], until_time])
    await button(pages[2], "Snooze: Title 1").click()
    await pages[2].get_by_role("button", name="Tomorrow").click()
    for page in pages:
        await expect(page.locator("body > notification-inbox article")).to_have_count(1)
    await agree(pages, ada)
    await pages[1].get_by_role("tab", name="Snoozed").click()
    await expect(pages[1].locator("body > notification-inbox article h3 bdi")).to_have_text(
        ["Title 0", "Title 1"]
    )
    await button(pages[1], "Wake now: Title 1").click()
    await expect(pages[1].locator("body > notification-inbox article h3 bdi")).to_have_text(["Title 0"])
    for page in (pages[0], pages[2]):
        await expect(page.locator("body > notification-inbox article h3 bdi")).to_have_text(
            ["Title 2", "Title 1"]
        )
    # It wakes by itself, as a new one.
    await expect(pages[1].locator("body > notification-inbox")).to_contain_text(
        "Nothing snoozed", timeout=90_000
    )
    await pages[1].get_by_role("tab", name="All").click()
    for page in pages:
        titles = page.locator("body > notification-inbox article h3 bdi")
        await expect(titles).to_have_text(["Title 0", "Title 2", "Title 1"])
    await agree(pages, ada)


ACTIONS = [
    {"id": "yes", "label": "Approve", "style": "primary"},
    {"id": "no", "label": "Decline", "style": "danger"},
    {"id": "say", "label": "Reply", "reply": True},
]


async def test_a_button_pressed_in_one_tab_is_answered_in_all(server: LocalServer, go: Go) -> None:
    service, ada = server.service, await server.user()
    asked = await service.notify("ada", "May I deploy?", actions=ACTIONS)
    told = await service.notify("ada", "How was it?", actions=ACTIONS)
    pages = await two_tabs_and_another_profile(server, go)
    await row(pages[1], asked).get_by_role("button", name="Decline").click()
    await row(pages[1], asked).get_by_role("button", name="Press again: Decline").click()
    await row(pages[2], told).get_by_role("button", name="Reply").click()
    await row(pages[2], told).get_by_role("textbox", name="Reply").fill("Fine, thanks <b>")
    await row(pages[2], told).get_by_role("button", name="Send").click()
    for page in pages:
        await expect(row(page, asked)).to_contain_text("You answered: Decline")
        await expect(row(page, told)).to_contain_text("You answered: Reply – Fine, thanks <b>")  # noqa: RUF001
        for one in (asked, told):
            await expect(row(page, one).get_by_role("button", name="Approve")).to_be_disabled()
    await agree(pages, ada)
    refused = "client.act(id, 'yes').then(() => 'answered', ({ code }) => code)"
    assert await pages[0].evaluate(f"(id) => {refused}", asked["id"]) == "already_answered"
    await expect(row(pages[0], asked)).to_contain_text("You answered: Decline")


async def test_preferences_of_one_tab_reach_all_and_mute_and_quieten(server: LocalServer, go: Go) -> None:
    service = server.service
    await service.notify("ada", "Title", category="promo")
    pages = await two_tabs_and_another_profile(server, go)
    for page in pages:
        await page.get_by_role("button", name="Notifications", exact=True).click()
        await page.get_by_role("button", name="Preferences", exact=True).click()
        await expect(page.get_by_role("checkbox", name="Promo")).to_be_checked()
    await pages[0].get_by_role("checkbox", name="Promo").uncheck()
    for page in pages:
        await expect(page.get_by_role("checkbox", name="Promo")).not_to_be_checked()
    await pages[1].get_by_label("Quiet until").fill("2027-01-01T00:00")
    for page in pages:
        await expect(page.get_by_label("Quiet until")).not_to_have_value("")
        # Each tab has the newest tag: a change made here meets no other.
        await page.evaluate("async () => client.setPreferences(await client.preferences())")
    await service.notify("ada", "Muted", category="promo")
    quiet = await service.notify("ada", "Quiet")
    loud = await service.notify("ada", "Loud", priority="urgent")
    for page in pages:
        await expect(row(page, loud)).to_be_attached()
        await expect(row(page, quiet)).to_be_attached()
        await expect(page.locator("body > notification-inbox article")).to_have_count(3)
        assert "Quiet" not in await page.locator("notification-toasts").inner_text()
