"""The client of the SDK in a real Chromium, on pages of another origin, with a real gateway.

They run on SQLite only, as those of the page do. In a signature the server stands before `visit`, so that the
pages are closed when the server looks for what is left of its clients.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, WebSocket

from gateway import web
from gateway.web.scripts import joined
from tests.support.clients import Service
from tests.support.databases import settings_for
from tests.support.postgres import free_port
from tests.support.servers import LocalServer, Server, process, serving
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SDK = files(web).joinpath("sdk")

CARRIERS: dict[str, dict[str, Any]] = {
    "subprotocol": {},
    "ticket": {"carrier": "ticket"},
    "msgpack": {"encoding": "msgpack"},
    "stream": {},
}
"""The options by which each is had. The stream is what is left where no WebSocket gets through."""

NO_WEBSOCKET = """window.WebSocket = class extends EventTarget {
  constructor() {
    super();
    setTimeout(() => this.onclose?.({ code: 1006, reason: '' }), 10);
  }
  close() {}
};"""
"""What a page sees of a proxy that lets no WebSocket through."""

START = """async ([base, options]) => {
  const { NotificationClient } = await import(`${base}/sdk/notifications.js`);
  const client = new NotificationClient({ getToken: window.getToken, ...options });
  Object.assign(window, { client, told: [], firsts: [], signedOut: [] });
  client.addEventListener('notification', ({ detail: { item, first } }) => {
    told.push(item.title);
    if (first) firsts.push(item.title);
  });
  client.addEventListener('signedout', ({ detail }) => signedOut.push(detail.code));
  client.start();
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[str]:
    """An empty page at an origin of its own; its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1\r\nConnection: close\r\n\r\nA"
        )
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


@pytest_asyncio.fixture(loop_scope="module")
async def server(sqlite_url: str, site: str) -> AsyncIterator[LocalServer]:
    """A gateway whose list of origins has the site."""
    async with serving(settings_for(sqlite_url, allowed_origins=site)) as started:
        yield started


@dataclass
class Visit:
    """A page with a client, and what it has opened."""

    page: Page
    opened: list[str] = field(default_factory=list)
    frames: set[type] = field(default_factory=set)

    def listen(self, socket: WebSocket) -> None:
        """Keep the address of a socket, and the kinds of its frames, both ways."""
        self.opened.append(socket.url)
        for way in ("framesent", "framereceived"):
            socket.on(way, lambda frame: self.frames.add(type(frame)))

    async def get(self, expression: str) -> Any:
        return await self.page.evaluate(expression)

    async def becomes(self, expression: str, value: object) -> None:
        async def look() -> bool:
            return bool(await self.get(expression) == value)

        try:
            await until(look, f"{expression} is {value!r}", within=30)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {await self.get(expression)!r}") from None


Go = Callable[..., Coroutine[Any, Any, Visit]]


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, site: str) -> AsyncIterator[Go]:
    """A function that opens the site with a client in it. At the end no script has failed in any page."""
    troubles: list[str] = []
    async with AsyncExitStack() as stack:

        async def go(
            server: Server,
            token: Callable[[str], Coroutine[Any, Any, str]],
            *,
            carrier: str = "subprotocol",
            context: BrowserContext | None = None,
        ) -> Visit:
            if context is None:
                context = await browser.new_context()
                stack.push_async_callback(context.close)
            page = await context.new_page()
            page.on("pageerror", lambda error: troubles.append(str(error)))
            made = Visit(page)
            page.on("websocket", made.listen)
            page.on("request", lambda one: made.opened.append(one.url) if "/v1/stream" in one.url else None)
            await page.expose_function("getToken", token)
            if carrier == "stream":
                await page.add_init_script(NO_WEBSOCKET)
            await page.goto(site)
            await page.evaluate(START, [server.base, CARRIERS[carrier]])
            return made

        yield go
    assert troubles == []


def minting(service: Service, sub: str = "ada", **fields: Any) -> Callable[[str], Coroutine[Any, Any, str]]:
    """Return a `getToken` whose tokens are new each time."""

    async def mint(_why: str) -> str:
        return await service.mint(sub, **fields)

    return mint


async def test_each_transport_delivers_the_items_missed_while_the_gateway_was_down(
    sqlite_url: str, tmp_path: Path, site: str, visit: Go
) -> None:
    async with process(sqlite_url, tmp_path, allowed_origins=site) as (gateway, server):
        await server.service.notify("ada", "before")
        visits = [await visit(server, minting(server.service), carrier=carrier) for carrier in CARRIERS]
        for one in visits:
            await one.becomes("[client.state, client.items.length]", ["live", 1])
        await server.service.notify("ada", "one")
        for one in visits:
            await one.becomes("told", ["one"])
        gateway.kill()
        for one in visits:
            await one.becomes("client.state", "offline")
        await gateway.start()
        for title in ("two", "three"):
            await server.service.notify("ada", title)
        for one in visits:
            await one.get("client.retry()")
            await one.becomes("[client.state, told]", ["live", ["one", "two", "three"]])
            await one.becomes("client.items.map(({ title }) => title)", ["three", "two", "one", "before"])
            await one.becomes("[client.unread, client.unseen, client.seq]", [4, 4, 4])
        kinds = [{"/v1/ws" in url for url in one.opened} for one in visits]
        assert kinds == [{True}, {True}, {True}, {False}]
        assert [one.frames for one in visits] == [{str}, {str}, {bytes}, set()]
        assert not any("bearer" in url or "eyJ" in url for one in visits for url in one.opened)


async def test_a_token_is_renewed_before_expiry_and_once_after_a_refusal_but_not_if_revoked(
    server: LocalServer, visit: Go
) -> None:
    await asyncio.gather(*(_outlive_tokens(server, visit, carrier) for carrier in CARRIERS))


async def _outlive_tokens(server: LocalServer, visit: Go, carrier: str) -> None:
    """The first two tokens are short, there is no third one before they end, and then one that is long."""
    service, sub = server.service, f"user of {carrier}"
    lifetimes: list[dict[str, int]] = [{"ttl": 8}, {"ttl": 3}, {}, {}]
    asked: list[str] = []
    last = ""

    async def get_token(why: str) -> str:
        nonlocal last
        asked.append(why)
        if asked.count("expiring") == 2 and why == "expiring":
            return ""
        if len(asked) < 5:
            last = await service.mint(sub, **lifetimes[len(asked) - 1])
        return last

    page = await visit(server, get_token, carrier=carrier)
    await page.becomes("client.state", "live")
    wanted = ["start", "expiring", "expiring", "rejected"]
    await until(lambda: len(asked) == len(wanted), "a token was asked for each time", within=30)
    assert asked == wanted
    await page.becomes("client.state", "live")
    # A socket is told its new token; a stream is opened again for it.
    assert len(page.opened) == (3 if carrier == "stream" else 2), page.opened
    await service.notify(sub, "one")
    await page.becomes("told", ["one"])

    assert (await service.delete(f"/v1/users/{sub}/sessions")).is_success
    await page.becomes("[client.state, signedOut, client.items]", ["signedout", ["token_revoked"], []])
    assert asked == [*wanted, "rejected"]
    opened = len(page.opened)
    await asyncio.sleep(0.5)  # What must not happen has no event to be awaited.
    assert (len(page.opened), await page.get("told")) == (opened, ["one"])


async def test_tabs_share_a_connection_and_lose_nothing_if_the_leader_closes_in_a_burst(
    server: LocalServer, visit: Go, browser: Browser
) -> None:
    async with await browser.new_context() as profile:
        mint = minting(server.service)
        tabs = [await visit(server, mint, context=profile) for _ in range(3)]
        other = await visit(server, mint)
        for one in (*tabs, other):
            await one.becomes("client.state", "live")
        await server.sockets(2)
        assert [await one.get("client.leader") for one in tabs] == [True, False, False]
        titles = [f"note {number}" for number in range(60)]
        for number, title in enumerate(titles):
            await server.service.notify("ada", title)
            if number == 20:
                closing = asyncio.create_task(tabs[0].page.close())
        await closing
        for one in (*tabs[1:], other):
            await one.becomes("told", titles)
        await server.sockets(2)
        firsts = [await one.get("firsts") for one in tabs[1:]]
        assert set(firsts[0]).isdisjoint(firsts[1])
        assert set(titles[30:]) <= {title for titles in firsts for title in titles}
        assert await other.get("firsts") == titles

        await tabs[2].get("client.read({ upTo: client.seq })")
        for one in (*tabs[1:], other):
            # Sixty items are three changes of the log.
            await one.becomes("[client.unread, client.seq]", [0, 63])
        seen = "client.items.map(({ id, seq }) => [id, seq])"
        assert await tabs[1].get(seen) == await tabs[2].get(seen)

        await tabs[2].get("client.signOut()")
        for one in tabs[1:]:
            await one.becomes("[client.state, signedOut]", ["signedout", ["signed_out"]])
        await server.sockets(1)
        assert await tabs[1].get("Object.keys(localStorage)") == []


async def test_a_frozen_or_hanging_leader_tab_is_replaced(
    server: LocalServer, visit: Go, browser: Browser
) -> None:
    async with await browser.new_context() as profile:
        mint = minting(server.service)
        tabs = [await visit(server, mint, context=profile) for _ in range(2)]
        for one in tabs:
            await one.becomes("client.state", "live")
        # Headless pages are looked at, and those a browser does not freeze: they are told that it does.
        await tabs[0].get("document.dispatchEvent(new Event('freeze'))")
        await tabs[1].becomes("[client.leader, client.state]", [True, "live"])
        await server.service.notify("ada", "one")
        await tabs[1].becomes("told", ["one"])
        await tabs[0].get("document.dispatchEvent(new Event('resume'))")
        await tabs[0].becomes("[told, client.leader, client.state]", [["one"], False, "live"])

        hang = "setTimeout(() => { const end = Date.now() + 7_000; while (Date.now() < end); }, 0) && 0"
        await tabs[1].get(hang)
        await tabs[0].get("document.dispatchEvent(new Event('visibilitychange'))")
        await tabs[0].becomes("client.leader", True)
        await server.service.notify("ada", "two")
        for one in tabs:
            await one.becomes("told", ["one", "two"])
        assert [await one.get("client.leader") for one in tabs] == [True, False]
        await server.sockets(1)


async def test_a_page_of_a_disallowed_origin_gets_one_console_warning(
    sqlite_url: str, browser: Browser, site: str
) -> None:
    async with serving(settings_for(sqlite_url)) as server:
        page = await browser.new_page()
        said: list[str] = []
        page.on("console", lambda one: said.append(one.text) if one.type == "warning" else None)
        await page.expose_function("getToken", minting(server.service))
        await page.goto(site)
        await page.evaluate(START, [server.base, {}])
        visited = Visit(page)
        await visited.becomes("client.state", "offline")
        await visited.becomes("client.problem.code", "origin_not_allowed")
        await visited.becomes("client.problem.detail", "The gateway does not allow pages of this address.")
        await page.evaluate("client.retry()")
        await visited.becomes("client.state", "offline")
        (text,) = said
        assert text == (
            f"Notifications: {server.base} does not allow pages of {site}: "
            f"add {site} to its GATEWAY_ALLOWED_ORIGINS."
        )
        await page.close()


async def test_a_page_with_an_unreachable_gateway_gets_one_console_warning(
    browser: Browser, site: str
) -> None:
    page = await browser.new_page()
    said: list[str] = []
    page.on("console", lambda one: said.append(one.text) if one.type == "warning" else None)
    await page.expose_function("getToken", lambda _why: "token")
    base = f"http://127.0.0.1:{free_port()}"
    await page.route(
        f"{base}/sdk/notifications.js",
        lambda route: route.fulfill(
            body=joined(SDK, "notifications.js"),
            content_type="text/javascript",
            headers={"Access-Control-Allow-Origin": "*"},
        ),
    )
    await page.goto(site)
    await page.evaluate(START, [base, {}])
    await Visit(page).becomes("client.state", "offline")
    await page.evaluate("client.retry()")
    await Visit(page).becomes("client.state", "offline")
    assert await page.evaluate("client.problem.code") == "unreachable"
    assert len(said) == 1
    assert (
        f"{base}/ cannot be reached, or is not a gateway: start the gateway, or set url to its address"
        in said[0]
    )
    await page.close()


async def test_an_undefined_element_causes_a_console_warning(
    server: LocalServer, browser: Browser, site: str
) -> None:
    page = await browser.new_page()
    said: list[str] = []
    page.on("console", lambda one: said.append(one.text) if one.type == "warning" else None)
    await page.expose_function("getToken", minting(server.service))
    await page.goto(site)
    await page.evaluate("document.body.append(document.createElement('notification-inbox'))")
    await page.evaluate(START, [server.base, {}])
    await until(lambda: said, "it is told")
    assert said == [
        "Notifications: <notification-inbox> is not defined: import sdk/components, not sdk/notifications."
    ]
    await page.close()
