"""Every control of the elements on a page of one's own, under a light system and a dark one.

The page is light, dark, follows the system, or has a switch. Axe looks at each state, and what a press does
is asked of the gateway.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.support.browsers import violations
from tests.support.clients import Service, User
from tests.support.databases import settings_for
from tests.support.postgres import free_port
from tests.support.profiles import site
from tests.support.servers import LocalServer, serving
from tests.support.waiting import PATIENCE, until
from tests.web.test_controls import ALL_WAYS, act_on, press, until_kept

pytestmark = pytest.mark.asyncio(loop_scope="module")

APP = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Shop</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><style>
  :root { color-scheme: SCHEME; } body { background: Canvas; color: CanvasText; }
  header { display: flex; justify-content: space-between; }
  #list { height: 500px; }
  [hidden] { display: none; }
</style></head><body>
<header>
  <h1>Shop</h1><button id="switch">Switch</button><notification-bell see-all="#all"></notification-bell>
</header>
<main><notification-inbox id="list" hidden></notification-inbox></main>
<notification-toasts></notification-toasts>
<script type="module">
  import { NotificationClient } from 'GATEWAY/sdk/components.js';
  const getToken = () => fetch('/token');
  const client = window.client = new NotificationClient({ getToken });
  for (const one of document.querySelectorAll('notification-bell, notification-inbox, notification-toasts')) {
    one.client = client;
  }
  document.querySelector('#switch').onclick = () => {
    const isDark = matchMedia('(prefers-color-scheme: dark)').matches;
    document.documentElement.style.colorScheme = isDark ? 'light' : 'dark';
  };
  client.start();
</script></body></html>"""

KINDS = {"light": "light", "dark": "dark", "follows the system": "light dark", "has a switch": "light dark"}
SCHEMES = ("light", "dark")

CASES = [
    pytest.param(kind, scheme, *ALL_WAYS[(row + 2 * column) % len(ALL_WAYS)], id=f"{kind}, {scheme} system")
    for row, kind in enumerate(KINDS)
    for column, scheme in enumerate(SCHEMES)
]
"""Each kind under both systems. The ways to press take turns, so that each is had with either system."""

LONG = "A long line of words that goes on. " * 30

SHOW = "document.querySelector('#list').hidden = false"

GROUND = "getComputedStyle(document.querySelector('#list')).backgroundColor"


class App:
    """The page of an application whose backend mints the tokens of one user."""

    def __init__(self, page: Page, service: Service) -> None:
        self.page = page
        self.fails_with: int | None = None
        self.asked = 0
        self._service = service

    async def mint(self, route: Route) -> None:
        """Answer as the backend of the application does."""
        self.asked += 1
        if self.fails_with is not None:
            await route.fulfill(status=self.fails_with, json={"detail": "There is no token."})
            return
        minted = await self._service.post("/v1/users/ada/tokens", json={})
        await route.fulfill(body=minted.content, content_type="application/json")

    async def is_opened_anew(self, state: str, *, fails_with: int) -> None:
        """Load the page again, with a backend that mints no token."""
        self.fails_with = fails_with
        await self.page.reload()
        await self.reaches(state)
        await self.page.evaluate(SHOW)

    async def looks_right(self, state: str) -> None:
        """Check that axe finds nothing, contrast included."""
        assert {state: await violations(self.page)} == {state: []}

    async def reaches(self, state: str) -> None:
        """Wait until the client is in this state."""
        await until(
            lambda: self.page.evaluate("(state) => window.client?.state === state", state), f"it is {state}"
        )


@asynccontextmanager
async def app_of(
    server: LocalServer, browser: Browser, origin: str, kind: str, **options: Any
) -> AsyncIterator[App]:
    """Open the page, in a browser that has granted notifications of the system. No script of it may fail."""
    troubles: list[str] = []
    context = await browser.new_context(reduced_motion="reduce", **options)
    await context.grant_permissions(["notifications"], origin=origin)
    try:
        page = await context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        app = App(page, server.service)
        await page.route("**/token", app.mint)
        html = APP.replace("SCHEME", KINDS[kind]).replace("GATEWAY", server.base)
        async with site(int(origin.rpartition(":")[2]), html):
            await page.goto(origin)
            await app.reaches("live")
            if kind == "has a switch":
                await page.locator("#switch").click()
            yield app
    finally:
        await context.close()
    assert troubles == []


@pytest.mark.parametrize(("kind", "scheme", "way", "options"), CASES)
async def test_each_control_is_visible_and_usable_on_every_kind_of_page(
    sqlite_url: str, browser: Browser, kind: str, scheme: str, way: str, options: dict[str, Any]
) -> None:
    origin = f"http://127.0.0.1:{free_port()}"
    async with (
        serving(settings_for(sqlite_url, allowed_origins=origin)) as server,
        app_of(server, browser, origin, kind, color_scheme=scheme, **options) as app,
    ):
        ada = await server.user("ada")
        is_dark = {"light": False, "dark": True, "follows the system": scheme == "dark"}
        ground = "rgb(22, 24, 29)" if is_dark.get(kind, scheme == "light") else "rgb(255, 255, 255)"
        assert await app.page.evaluate(GROUND) == ground

        await toasts_are_dismissed(app, server, way)
        await the_bell_is_opened_and_closed(app, way)
        await app.page.evaluate(SHOW)
        await a_row_is_acted_on(app, server, ada, way)
        await the_list_is_walked_through(app, server, way)
        await what_cannot_be_had_says_so(app, way)


async def toasts_are_dismissed(app: App, server: LocalServer, way: str) -> None:
    """While no list is in view: each toast, and the line that tells of the rest of a burst."""
    toasts = app.page.locator("notification-toasts .toast")
    dismiss = toasts.get_by_role("button", name="Dismiss").first
    await server.service.notify("ada", "Toast 1", priority="urgent", url="https://example.com/")
    # None goes while one has the focus.
    await dismiss.focus()
    for number, priority in enumerate(("high", "normal", "normal", "normal"), 2):
        await server.service.notify("ada", f"Toast {number}", body="Some words.", priority=priority)
    await expect(toasts.filter(has_text="more notifications")).to_be_visible()
    await app.looks_right("toasts")
    for left in reversed(range(await toasts.count())):
        await press(dismiss, way)
        await expect(toasts).to_have_count(left)
    await expect(app.page.locator("notification-bell [part=badge]")).to_have_text("5")


async def the_bell_is_opened_and_closed(app: App, way: str) -> None:
    """The bell, the row below the inbox, and what closes it."""
    bell = app.page.locator("notification-bell").get_by_role("button", name="Notifications, 5 new")
    await press(bell, way)
    popover = app.page.get_by_role("dialog", name="Notifications")
    await expect(popover.locator("article")).to_have_count(5)
    await app.looks_right("bell")
    await press(popover.get_by_role("button", name="Turn on"), way)
    await press(popover.get_by_role("button", name="Turn off"), way)
    await expect(popover.get_by_role("button", name="Turn on")).to_be_visible()
    await press(popover.get_by_role("link", name="See all"), way)
    await expect(popover).to_be_hidden()
    assert app.page.url.endswith("#all")
    await press(app.page.locator("notification-bell").get_by_role("button", name="Notifications"), way)
    await expect(popover).to_be_focused()
    await press(popover.get_by_role("button", name="Close"), way)
    await expect(popover).to_be_hidden()


async def a_row_is_acted_on(app: App, server: LocalServer, ada: User, way: str) -> None:
    """Each button of a notification, and the undoing."""
    inbox = app.page.locator("#list")
    rows = [
        (await server.service.notify("ada", f"Row {number}", body=LONG, category=category))["id"]
        for number, category in enumerate(("ci", "orders", "ci"), 1)
    ]
    await expect(inbox.locator("article")).to_have_count(8)
    await press(inbox.get_by_role("button", name="Show more: Row 3"), way)
    await expect(inbox.get_by_role("button", name="Show less: Row 3")).to_be_visible()
    if way == "tap":
        await press(inbox.get_by_role("button", name="More actions: Row 3"), way)
    await app.looks_right("list")
    await act_on(inbox, "Mark read", "Row 3", way)
    await until_kept(ada, rows[2], read=True)
    await act_on(inbox, "Mark unread", "Row 3", way)
    await until_kept(ada, rows[2], read=False)
    await act_on(inbox, "Archive", "Row 2", way)
    await until_kept(ada, rows[1], archived=True)
    await app.looks_right("what can be undone")
    await press(inbox.get_by_role("button", name="Undo"), way)
    await until_kept(ada, rows[1], archived=False)
    await act_on(inbox, "Delete", "Row 1", way)
    await app.looks_right("what is asked before it is deleted")
    await act_on(inbox, "Press again to delete", "Row 1", way)
    await until_kept(ada, rows[0])
    await press(inbox.get_by_role("button", name="Mark all read"), way)
    await until_kept(ada, rows[1], read=True)
    await press(inbox.get_by_role("button", name="Undo"), way)
    await until_kept(ada, rows[1], read=False)


async def the_list_is_walked_through(app: App, server: LocalServer, way: str) -> None:
    """The tabs, the categories, an empty list, the keys, and the way back to the top."""
    inbox = app.page.locator("#list")
    rows = inbox.locator("article")
    await press(inbox.get_by_role("tab", name="Archived"), way)
    await expect(inbox.get_by_text("Nothing archived")).to_be_visible()
    await app.looks_right("an empty list")
    await press(inbox.get_by_role("button", name="Show all"), way)
    await press(inbox.get_by_role("tab", name="Unread"), way)
    await inbox.get_by_label("Category").select_option("CI")
    await expect(rows.locator("h3 bdi")).to_have_text(["Row 3"])
    await inbox.get_by_label("Category").select_option("All categories")
    await press(inbox.get_by_role("tab", name="All"), way)
    await expect(rows).to_have_count(7)
    if way == "keyboard":
        await rows.nth(0).press("?")
        await expect(app.page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
        await app.looks_right("the keys")
        await app.page.keyboard.press("Escape")
    await rows.nth(6).scroll_into_view_if_needed()
    await server.service.notify("ada", "The newest")
    await expect(inbox.get_by_role("button", name="1 new")).to_be_visible()
    await app.looks_right("something new above")
    await press(inbox.get_by_role("button", name="1 new"), way)
    await expect(rows.nth(0)).to_be_in_viewport()


async def what_cannot_be_had_says_so(app: App, way: str) -> None:
    """A list that cannot be loaded, a backend that is down, and nobody signed in."""
    inbox = app.page.locator("#list")
    await app.page.route("**/v1/inbox?*", lambda route: route.abort())
    await press(inbox.get_by_role("tab", name="Archived"), way)
    await expect(inbox.get_by_text("could not be loaded")).to_be_visible()
    await app.looks_right("a list that cannot be loaded")
    await app.page.unroute("**/v1/inbox?*")
    await press(inbox.get_by_role("button", name="Try again"), way)
    await expect(inbox.get_by_text("Nothing archived")).to_be_visible()

    await app.is_opened_anew("offline", fails_with=500)
    await expect(inbox.locator("[part=banner]")).to_be_visible()
    await app.looks_right("a backend that is down")
    # The backend is down until the press has its effect: the client's own retry would take the button away.
    asked = app.asked
    await press(inbox.locator("[part=banner]").get_by_role("button", name="Try now"), way)
    await until(lambda: app.asked > asked, "the client asks for a token")
    app.fails_with = None
    await app.reaches("live")
    await expect(inbox.locator("article").first).to_be_visible()

    await app.is_opened_anew("signedout", fails_with=401)
    await expect(inbox.get_by_text("You are signed out")).to_be_visible()
    await app.looks_right("signed out")
