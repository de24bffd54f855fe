"""Browser profiles, each with tabs of one gateway's page, and what can be known of each tab."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from tests.support.checker import Json
from tests.support.clients import User
from tests.support.waiting import PATIENCE, NeverHappenedError, until

PASSWORD = "seven quiet lighthouses"

SPY = (Path(__file__).parent / "spy.js").read_text()

ROOMY: Any = {"width": 1280, "height": 1600}
"""A window in which the toasts are not over the first rows."""

_WHOLE_COPY = """async () => {
  const list = document.querySelector('#list');
  const { client } = list;
  if (client?.state !== 'live') return null;
  while (!client.complete) await client.loadMore();
  const { seq, unread, unseen, items } = client;
  const badge = document.querySelector('#bell').shadowRoot.querySelector('[part=badge]');
  const rows = [...list.shadowRoot.querySelectorAll('article')];
  return {
    seq, unread, unseen, items,
    rows: rows.map((row) => [row.dataset.id, row.classList.contains('new')]),
    badge: badge.hidden ? '' : badge.textContent, title: document.title,
  };
}"""
"""Loads what is left of the inbox, and returns what the tab's client holds and what the page shows of it."""

_MOMENTS = ("read_at", "archived_at", "deleted_at")

_LOOKED_AT = """(visible) => {
  const value = visible ? 'visible' : 'hidden';
  Object.defineProperty(document, 'visibilityState', { value, configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}"""


class Tab:
    """A tab with the page, and words for what is on it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.rows = page.locator("#list article")
        self.titles = page.locator("#list article h3 bdi")
        self.connection = page.locator("#connection")
        self.badge = page.locator("#bell [part=badge]")
        self.requests: Counter[str] = Counter()
        """What it has asked the gateway for, by path, and the sockets it has begun to open."""
        page.on("request", lambda request: self.requests.update([_path(request.url)]))
        page.on("websocket", lambda socket: self.requests.update([_path(socket.url)]))

    async def sign_in(self, name: str = "ada") -> None:
        """Sign in, and wait until the page is live."""
        await self.page.get_by_label("User name").fill(name)
        await self.page.get_by_label("Password").fill(PASSWORD)
        await self.page.get_by_role("button", name="Sign in").click()
        # A row under the pointer would stay where it is, and what comes above it out of sight.
        await self.page.mouse.move(1, 1)
        await self.is_live()

    async def is_live(self, *, within: float = PATIENCE) -> None:
        """Wait until the page says so."""
        await expect(self.connection).to_have_text("Live", timeout=within * 1000)

    async def is_signed_out(self) -> None:
        """Wait until the page offers to sign in."""
        await expect(self.button("Sign in")).to_be_visible()

    def button(self, name: str) -> Locator:
        """Return the button of this name."""
        return self.page.get_by_role("button", name=name, exact=True)

    async def is_looked_at(self, visible: bool) -> None:
        """Have the page believe that somebody sees it, or that it is behind another."""
        await self.page.evaluate(_LOOKED_AT, visible)

    async def leads(self) -> bool:
        """Return whether this tab holds the connection of its browser."""
        led: bool = await self.page.evaluate("document.querySelector('#list').client?.leader ?? false")
        return led

    async def seq(self) -> int | None:
        """Return the number of the last change that this tab has applied."""
        applied: int | None = await self.page.evaluate("document.querySelector('#list').client?.seq ?? null")
        return applied

    async def noted(self, kind: str) -> list[Json]:
        """Return what was `told`, or which `toasts` were shown, in all tabs of the browser (spy.js)."""
        notes: list[Json] = await self.page.evaluate("(kind) => spy[kind]", kind)
        return notes

    async def differences(self, user: User) -> list[str]:
        """Return how what this tab holds and shows differs from the inbox as it is read afresh."""
        whole, copy = await user.whole_inbox(), await self.page.evaluate(_WHOLE_COPY)
        if copy is None:
            return ["is not live"]
        fresh = [_essence(item) for item in whole.items.values() if not item["archived_at"]]
        fresh.sort(key=lambda item: -item["created_seq"])
        shown = f"({'999+' if whole.unread > 999 else whole.unread}) Inbox" if whole.unread else "Inbox"
        badge = ("99+" if whole.unseen > 99 else str(whole.unseen)) if whole.unseen else ""
        pairs = {
            "seq": (copy["seq"], whole.seq),
            "counts": ([copy["unread"], copy["unseen"]], [whole.unread, whole.unseen]),
            "items": ([_essence(item) for item in copy["items"]], fresh),
            "rows": (copy["rows"], [[item["id"], not item["read_at"]] for item in fresh]),
            "badge": (copy["badge"], badge),
            "title": (copy["title"], shown),
        }
        return [f"{name}: has {has}, not {should}" for name, (has, should) in pairs.items() if has != should]


def _essence(item: Json) -> Json:
    """Return an item without the moments, of which a client that did it itself has its own."""
    return {**item, **{name: bool(item[name]) for name in _MOMENTS}}


def _path(url: str) -> str:
    return "/" + url.split("/", 3)[3].split("?", maxsplit=1)[0]


async def agree(user: User, *tabs: Tab, within: float = PATIENCE) -> None:
    """Wait until all that each tab holds and shows is what a fresh read of the inbox says.

    To compare all of it takes a tab long: that waits until each has applied the last change of the log.
    """
    for tab in tabs:
        await _caught_up(user, tab, within)
    left: list[list[str]] = []

    async def none_left() -> bool:
        left[:] = [await tab.differences(user) for tab in tabs]
        return not any(left)

    try:
        await until(none_left, "the tabs agree with the inbox", within=within)
    except NeverHappenedError:
        raise NeverHappenedError(f"differences are left: {left}") from None


async def _caught_up(user: User, tab: Tab, within: float) -> None:
    """Wait until a tab has applied the last change of the log. Each step on the way has `within` seconds."""
    seq = None
    while seq != (head := (await user.inbox(limit=1))["seq"]):
        before = seq

        async def moved(before: int | None = before) -> bool:
            nonlocal seq
            seq = await tab.seq()
            return seq != before

        await until(moved, f"a tab at {before} goes on to {head}", within=within)


class Profile:
    """A browser with storage of its own. What goes wrong in a tab of it is among its troubles."""

    def __init__(self, context: BrowserContext, troubles: list[str]) -> None:
        self.context = context
        self._troubles = troubles

    async def open(self, base: str) -> Tab:
        """Open the page of a gateway in a new tab."""
        page = await self.context.new_page()
        await page.goto(base)
        return self.watch(page)

    async def signed_in(self, base: str, name: str = "ada") -> Tab:
        """Open the page in a new tab, and sign in there."""
        tab = await self.open(base)
        await tab.sign_in(name)
        return tab

    async def duplicate(self, tab: Tab) -> Tab:
        """Open a tab that has the sign-in of another."""
        async with self.context.expect_page() as opened:
            await tab.page.evaluate("void window.open(location.href)")
        copy = self.watch(await opened.value)
        await copy.is_live()
        return copy

    def watch(self, page: Page) -> Tab:
        """Take a page as a tab of this profile."""
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: self._troubles.append(str(error)))
        page.on("dialog", lambda dialog: self._troubles.append(f"a dialog: {dialog.message}"))
        page.on("console", lambda said: self._troubles.append(said.text) if "Policy" in said.text else None)
        return Tab(page)


@asynccontextmanager
async def profile_of(browser: Browser, troubles: list[str], **options: Any) -> AsyncIterator[Profile]:
    """Open a profile, with the options of a browser context, and close all its tabs at the end."""
    context = await browser.new_context(**{"viewport": ROOMY, **options})
    await context.add_init_script(SPY)
    try:
        yield Profile(context, troubles)
    finally:
        await context.close()


async def leader_of(*tabs: Tab) -> Tab:
    """Wait until one of the tabs holds the connection of the browser, and return it."""

    async def one() -> list[Tab]:
        return [tab for tab in tabs if await tab.leads()]

    (leader,) = await until(one, "one of the tabs leads")
    return leader


@asynccontextmanager
async def site(port: int, html: str) -> AsyncIterator[None]:
    """Serve one page at an origin of its own."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            body = html.encode()
            head = f"Content-Type: text/html\r\nContent-Length: {len(body)}\r\nConnection: close"
            writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + body)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", port):
        yield
