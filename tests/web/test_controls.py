"""Every control of the page and of the elements, in a real Chromium on a real gateway.

What a click shows is compared with what the gateway itself answers, and with what it has kept. They run on
SQLite only, as the other tests of the page do.
"""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, expect

from gateway.protocol.times import now_ms, timestamp
from gateway.server.run import prepare
from tests.support.clients import User
from tests.support.databases import settings_for
from tests.support.profiles import PASSWORD, Profile, Tab, agree, profile_of
from tests.support.servers import LocalServer, serving
from tests.support.waiting import PATIENCE, until

expect.set_options(timeout=PATIENCE * 1000)

pytestmark = pytest.mark.asyncio(loop_scope="module")

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESKTOP = {"viewport": {"width": 1280, "height": 900}}


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

TABS: dict[str, dict[str, str]] = {
    "All": {},
    "Unread": {"unread": "true"},
    "Snoozed": {"snoozed": "true"},
    "Archived": {"archived": "true"},
}
CATEGORIES = ("", "ci", "default", "orders")


@pytest.mark.parametrize("options", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_every_tab_and_category_shows_the_items_listed_by_the_gateway(
    server: LocalServer, browser: Browser, options: dict[str, object]
) -> None:
    ada = await an_inbox(server)
    for hours, category in enumerate(("ci", "orders", "default"), 1):
        posted = await server.service.notify("ada", f"Later {hours}", category=category)
        until = timestamp(now_ms() + hours * 3_600_000)
        assert (await ada.patch(f"/v1/inbox/{posted['id']}", json={"snoozed_until": until})).is_success
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
async def test_each_button_of_a_notification_does_what_its_label_says(
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


@pytest.mark.parametrize("options", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_the_page_header_never_covers_the_focused_row(
    server: LocalServer, browser: Browser, options: dict[str, object]
) -> None:
    await server.service.post("/v1/users", json={"sub": "ada", "password": PASSWORD})
    for number in range(1, 41):
        await server.service.notify("ada", f"Title {number}")
    troubles: list[str] = []
    async with profile_of(browser, troubles, **options) as profile:
        tab = await profile.signed_in(server.base)
        await expect(tab.rows).to_have_count(40)
        below = """(row) => row.getBoundingClientRect().top
          >= document.querySelector('header.bar').getBoundingClientRect().bottom - 1"""
        await tab.rows.nth(39).focus()
        for _ in range(20):
            await tab.page.keyboard.press("k")
        assert await tab.rows.nth(19).evaluate(below)
        await server.service.notify("ada", "Title 41")
        await press(tab.page.locator("#list").get_by_role("button", name="1 new"), "click")
        await expect(tab.titles.first).to_have_text("Title 41")
        assert await tab.rows.first.evaluate(below)
        await expect(tab.page.locator("#list .day").first).to_be_in_viewport()

        # The top of a list that begins behind the header is out of sight.
        top = """(shift) => {
          const list = document.querySelector('#list').shadowRoot.querySelector('[role=feed]');
          const { bottom } = document.querySelector('header.bar').getBoundingClientRect();
          scrollBy(0, list.getBoundingClientRect().top - bottom + shift);
        }"""
        await tab.page.evaluate(top, 20)
        await server.service.notify("ada", "Title 42")
        await expect(tab.page.locator("#list").get_by_role("button", name="1 new")).to_be_visible()
        await tab.page.evaluate(top, -40)
        await expect(tab.page.locator("#list [part=newer]")).to_be_hidden()
    assert troubles == []


# --- the bell, the banner, the demo, and two tabs -----------------------------------------------------------

WAYS = {"click": DESKTOP, "tap": PHONE, "keyboard": DESKTOP}
"""How a control is pressed, and on what."""

NARROW = {"viewport": {"width": 390, "height": 844}}
ALL_WAYS = [*WAYS.items(), ("keyboard", NARROW)]
ways = pytest.mark.parametrize(("way", "options"), ALL_WAYS, ids=["mouse", "finger", "keyboard", "narrow"])


OUTLINE = "getComputedStyle(document.querySelector('#list').shadowRoot.activeElement).outlineStyle"
"""The ring around what has the focus in the inbox."""


COVERED = """(one) => {
  const { x, y, width, height } = one.getBoundingClientRect();
  return document.elementFromPoint(x + width / 2, y + height / 2) !== one;
}"""
"""Whether something is over the middle of a control."""


async def press(control: Locator, way: str) -> None:
    """Press a control as people do. By keyboard it needs no more than the focus."""
    await (control.press("Enter") if way == "keyboard" else getattr(control, way)())


async def act_on(inbox: Locator, action: str, title: str, way: str) -> None:
    """Press a button of a row: a finger finds it in the menu."""
    if way == "tap" and not await inbox.get_by_role("button", name=f"{action}: {title}", exact=True).count():
        await press(inbox.get_by_role("button", name=f"More actions: {title}", exact=True), way)
    await press(inbox.get_by_role("button", name=f"{action}: {title}", exact=True), way)


@ways
async def test_the_bell_and_each_control_of_its_popover_do_what_their_labels_say(
    server: LocalServer, browser: Browser, way: str, options: dict[str, object]
) -> None:
    await server.service.post("/v1/users", json={"sub": "ada", "password": PASSWORD})
    ada = await server.user("ada")
    troubles: list[str] = []
    async with profile_of(browser, troubles, **options) as profile:
        tab = await profile.signed_in(server.base)
        assert await tab.page.evaluate(OUTLINE) == "none"
        # Whatever is in view has been seen: here no list is.
        await press(tab.page.get_by_role("link", name="Side by side"), way)
        await tab.page.locator("#view-devices").evaluate("(one) => { one.hidden = true; }")
        ids = [
            (await server.service.notify("ada", f"Title {n}", category=("ci", "orders")[n % 2]))["id"]
            for n in (1, 2, 3)
        ]
        bell = tab.page.locator("#bell").get_by_role("button", name="Notifications, 3 new")
        await press(bell, way)
        popover = tab.page.get_by_role("dialog", name="Notifications")
        await expect(popover).to_be_visible()
        await expect(tab.badge).to_be_hidden()
        assert (await ada.inbox())["unread"] == 3

        await act_on(popover, "Mark read", "Title 2", way)
        await until_kept(ada, ids[1], read=True)
        await act_on(popover, "Archive", "Title 1", way)
        await until_kept(ada, ids[0], archived=True)
        await press(popover.get_by_role("button", name="Undo"), way)
        await until_kept(ada, ids[0], archived=False)
        await press(popover.get_by_role("tab", name="Unread"), way)
        await expect(popover.locator("article h3 bdi")).to_have_text(["Title 3", "Title 1"])
        await popover.get_by_label("Category").select_option("CI")
        await expect(popover.locator("article")).to_have_count(0)
        await press(popover.get_by_role("button", name="Show all categories"), way)
        await expect(popover.locator("article h3 bdi")).to_have_text(["Title 3", "Title 1"])
        await press(popover.get_by_role("tab", name="All"), way)
        await expect(popover.locator("article h3 bdi")).to_have_text(["Title 3", "Title 2", "Title 1"])
        await press(popover.get_by_role("button", name="Mark all read"), way)
        await until_kept(ada, ids[2], read=True)
        await act_on(popover, "Delete", "Title 3", way)
        await act_on(popover, "Press again to delete", "Title 3", way)
        await until_kept(ada, ids[2])
        await press(popover.get_by_role("button", name="Close"), way)
        await expect(popover).to_be_hidden()

        bell = tab.page.locator("#bell").get_by_role("button", name="Notifications")
        await press(bell, way)
        # It takes the focus when it opens, in a task of its own.
        await expect(popover).to_be_focused()
        await press(popover.get_by_role("link", name="See all"), way)
        await expect(popover).to_be_hidden()
        await expect(tab.page.locator("#list article")).to_have_count(2)
        # The bell that opened it closes it, too: it is not under it.
        await press(bell, way)
        await expect(popover).to_be_visible()
        await press(bell, way)
        await expect(popover).to_be_hidden()
    assert troubles == []


@ways
async def test_the_button_of_the_banner_connects(
    sqlite_url: str, browser: Browser, way: str, options: dict[str, object]
) -> None:
    troubles: list[str] = []
    async with serving(settings_for(sqlite_url, max_sockets_per_user=1)) as server:
        await server.service.post("/v1/users", json={"sub": "ada", "password": PASSWORD})
        async with (
            profile_of(browser, troubles, **options) as profile,
            profile_of(browser, troubles) as other,
        ):
            first = await other.signed_in(server.base)
            tab = await profile.open(server.base)
            await tab.page.get_by_label("User name").fill("ada")
            await tab.page.get_by_label("Password").fill(PASSWORD)
            await press(tab.button("Sign in"), way)
            banner = tab.page.locator("#list [part=banner]")
            await expect(banner).to_contain_text("open in too many places")
            await first.page.close()
            await server.sockets(0)
            await press(banner.get_by_role("button", name="Try again"), way)
            await tab.is_live()
            await expect(banner).to_be_hidden()
            await press(tab.button("Sign out"), way)
            await tab.is_signed_out()
        await server.sockets(0)
    assert troubles == []


@ways
async def test_the_demo_link_signs_in_and_toasts_do_not_cover_the_form(
    sqlite_url: str, browser: Browser, way: str, options: dict[str, object]
) -> None:
    settings = settings_for(sqlite_url)
    [code] = re.findall(r"#code=(\S+)", await prepare(settings, 8000, demo=True))
    troubles: list[str] = []
    async with (
        serving(settings, demo=True) as server,
        profile_of(browser, troubles, **options) as profile,
    ):
        tab = await profile.open(f"{server.base}/#code={code}")
        await tab.page.evaluate("document.querySelector('#toasts').removeAttribute('always')")
        await tab.is_live()
        assert await tab.page.evaluate("[location.href, history.length]") == [f"{server.base}/", 2]
        assert await tab.page.evaluate(OUTLINE) == "none"
        other = await profile.open(f"{server.base}/#code={code}")
        await expect(other.page.get_by_role("alert")).to_have_text(
            "This link was used or is too old. "
            "Use the password that the terminal shows, or start the demo again."
        )
        await expect(other.page.get_by_text("Whoever runs this gateway")).to_be_hidden()
        await other.page.close()

        await press(tab.page.locator("#list [slot=empty-action]"), way)
        await expect(tab.rows).to_have_count(1)
        await press(tab.page.locator("#list").get_by_role("button", name="Send a sample"), way)
        await expect(tab.rows).to_have_count(2)
        toasts = tab.page.locator("#toasts .toast")
        await expect(toasts).to_have_count(0)
        await press(tab.page.get_by_role("link", name="Side by side"), way)
        await expect(tab.page.locator("#view-devices article")).to_have_count(4)
        await press(tab.page.locator("#view-devices [data-sample]"), way)
        await expect(tab.page.locator("#view-devices article")).to_have_count(6)
        await expect(toasts).to_have_count(0)

        await press(tab.page.get_by_role("link", name="Send", exact=True), way)
        await press(tab.button("Fill in a sample"), way)
        title = await tab.page.get_by_label("Title").input_value()
        send = tab.button("Send")
        await press(send, way)
        await expect(tab.page.locator("#sent")).to_have_text("Sent.")
        await expect(toasts.locator("bdi")).to_have_text([title])
        for control in await tab.page.locator("#send-form :is(button, input, select, textarea)").all():
            assert not await control.evaluate(COVERED), await control.evaluate("(one) => one.outerHTML")
        await press(toasts.get_by_role("button", name="Dismiss"), way)
        await expect(toasts).to_have_count(0)
        await press(tab.page.get_by_role("link", name="Inbox", exact=True), way)
        await expect(tab.rows).to_have_count(4)
    assert troubles == []


@pytest.mark.parametrize(("way", "options"), [("click", DESKTOP), ("tap", PHONE)], ids=["mouse", "finger"])
async def test_a_burst_of_toasts_never_covers_the_form_and_clears_when_a_device_shows_it(
    sqlite_url: str, browser: Browser, way: str, options: dict[str, object]
) -> None:
    settings = settings_for(sqlite_url)
    [code] = re.findall(r"#code=(\S+)", await prepare(settings, 8000, demo=True))
    troubles: list[str] = []
    async with (
        serving(settings, demo=True) as server,
        profile_of(browser, troubles, **options) as profile,
    ):
        tab = await profile.open(f"{server.base}/#code={code}")
        await tab.is_live()
        await tab.page.evaluate("document.querySelector('#toasts').removeAttribute('always')")
        await press(tab.page.get_by_role("link", name="Send", exact=True), way)
        if way == "tap":
            await tab.page.set_viewport_size({"width": 390, "height": 780})
        await tab.page.get_by_label("Title").fill("A title that takes up two of the lines of a toast")
        await tab.page.get_by_label("Body").fill("A long line of words that goes on. " * 9)
        await tab.page.get_by_label("Priority").select_option("urgent")
        toasts, send = tab.page.locator("#toasts .toast"), tab.button("Send")
        for number in range(1, 4):
            await press(send, way)
            await expect(tab.rows).to_have_count(number)
            await tab.page.get_by_label("Priority").select_option("normal")
        if way == "tap":
            await expect(toasts.filter(has_text="2 more notifications")).to_be_visible()
        for control in (send, tab.button("Fill in a sample")):
            assert not await control.evaluate(COVERED)

        # A device shows what a toast would cover, once it knows whose inbox it has.
        await expect(tab.page.locator("#toasts [data-priority=urgent].toast")).to_be_visible()
        await press(tab.page.get_by_role("link", name="Side by side"), way)
        await expect(tab.page.locator("#view-devices article")).to_have_count(6)
        await expect(toasts).to_have_count(0)
    assert troubles == []


@ways
async def test_actions_in_one_tab_appear_in_the_other(
    server: LocalServer, browser: Browser, way: str, options: dict[str, object]
) -> None:
    ada = await an_inbox(server)
    troubles: list[str] = []
    async with profile_of(browser, troubles, **options) as profile:
        one = await profile.signed_in(server.base)
        other = await profile.duplicate(one)
        first = (await ada.inbox())["items"][0]
        title = first["title"]
        turns = [(one, "Mark unread"), (other, "Mark read"), (other, "Archive")]
        for tab, action in turns:
            await tab.page.bring_to_front()
            await act_on(tab.page.locator("#list"), action, title, way)
            await agree(ada, one, other)
        await one.page.bring_to_front()
        await press(one.page.locator("#list").get_by_role("tab", name="Archived"), way)
        await act_on(one.page.locator("#list"), "Move to inbox", title, way)
        await expect(other.titles.first).to_have_text(title)
        await press(one.page.locator("#list").get_by_role("tab", name="All"), way)
        await agree(ada, one, other)
        await act_on(one.page.locator("#list"), "Delete", title, way)
        await act_on(one.page.locator("#list"), "Press again to delete", title, way)
        await agree(ada, one, other)
        assert title not in await other.titles.all_text_contents()
        await press(one.button("Sign out"), way)
        await other.is_signed_out()
    assert troubles == []


async def test_a_link_within_the_site_opens_in_the_same_tab_and_marks_the_item_read(
    server: LocalServer, browser: Browser
) -> None:
    await server.service.post("/v1/users", json={"sub": "ada", "password": PASSWORD})
    ada = await server.user("ada")
    ids = [(await server.service.notify("ada", f"Title {n}", url="/docs"))["id"] for n in (1, 2)]
    troubles: list[str] = []
    async with profile_of(browser, troubles, **DESKTOP) as profile:
        leader = await profile.signed_in(server.base)
        follower = await profile.duplicate(leader)
        # The one tells the gateway by its connection, the other by a request that outlives the page.
        for tab, title, item_id in ((follower, "Title 1", ids[0]), (leader, "Title 2", ids[1])):
            await tab.page.locator("#list").get_by_role("link", name=title).click()
            await tab.page.wait_for_url("**/docs")
            await until_kept(ada, item_id, read=True)
        assert len(profile.context.pages) == 2


@pytest.mark.parametrize("options", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_a_missing_path_and_the_errors_page_are_readable_in_a_browser(
    server: LocalServer, browser: Browser, options: dict[str, object]
) -> None:
    troubles: list[str] = []
    async with profile_of(browser, troubles, **options) as profile:
        tab = await profile.open(f"{server.base}/orders/7")
        await expect(tab.page.get_by_role("heading", name="There is no such page")).to_be_visible()
        await tab.page.get_by_role("link", name="Go to the inbox").click()
        await expect(tab.button("Sign in")).to_be_visible()

        await tab.page.goto(f"{server.base}/errors")
        for example in await tab.page.locator("pre").all():
            size = "(one) => [one.scrollWidth - one.clientWidth, one.scrollHeight - one.clientHeight]"
            assert await example.evaluate(size) == [0, 0]
    assert troubles == []
