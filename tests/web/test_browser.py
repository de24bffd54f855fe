"""A real Chromium: what it reads from a refused socket, and the page at `/`.

They run on SQLite only: a browser sees of a database what any client sees, and the suite compares the two
databases with clients that are quicker to start. In a signature the server stands before `tabs`, so that
the tabs are closed when the server looks for what is left of its clients.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from playwright.async_api import (
    Browser,
    BrowserContext,
    Locator,
    Page,
    Request,
    WebSocketRoute,
    expect,
)
from sqlalchemy import update

from gateway.auth.refresh_tokens import RETRY_WINDOW_MS
from gateway.database.models import sessions
from gateway.delivery.client_connection import ClientConnection
from gateway.delivery.hub import Subscriber
from gateway.protocol.close_codes import Close
from gateway.server.run import prepare
from tests.support.browsers import violations
from tests.support.clients import SUBPROTOCOL, User
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, Server, StartServer, process, serving
from tests.support.streams import streams_of
from tests.support.waiting import PATIENCE, until

PASSWORD = "seven quiet lighthouses"

expect.set_options(timeout=PATIENCE * 1000)


pytestmark = pytest.mark.asyncio(loop_scope="module")


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


class Tab:
    """A tab with the page, each with a session storage of its own, and words for what is on it."""

    def __init__(self, context: BrowserContext, page: Page) -> None:
        self.context = context
        self.page = page
        self.rows = page.locator("#list article")
        self.titles = page.locator("#list article h3 bdi")
        self.badge = page.locator("#list .count")
        self.connection = page.locator("#connection")
        self.banner = page.locator("#list .banner")

    async def sign_in(self, name: str = "ada", password: str = PASSWORD) -> None:
        await self.page.get_by_label("User name").fill(name)
        await self.page.get_by_label("Password").fill(password)
        await self.page.get_by_role("button", name="Sign in").click()

    async def is_live(self) -> None:
        await expect(self.connection).to_have_text("Live")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    async def shows(self, *titles: str) -> None:
        await expect(self.titles).to_have_text(list(titles))

    async def counts(self, unread: int) -> None:
        if unread:
            await expect(self.badge).to_have_text(str(unread))
        else:
            await expect(self.badge).to_be_hidden()
        await expect(self.page).to_have_title(f"({unread}) Inbox" if unread else "Inbox")


OpenTab = Callable[..., Coroutine[Any, Any, Tab]]


@pytest_asyncio.fixture(loop_scope="module")
async def tabs(browser: Browser) -> AsyncIterator[OpenTab]:
    """A function that opens the page of a server in a new tab. Its keywords are those of a browser context.

    At the end no script has failed, and no policy was broken, in any of them.
    """
    troubles: list[str] = []
    async with AsyncExitStack() as stack:

        async def open_tab(server: Server, **options: Any) -> Tab:
            context = await browser.new_context(**options)
            stack.push_async_callback(context.close)
            page = await context.new_page()
            page.set_default_timeout(PATIENCE * 1000)
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("dialog", lambda dialog: troubles.append(f"a dialog: {dialog.message}"))
            page.on("console", lambda said: troubles.append(said.text) if "Policy" in said.text else None)
            await page.goto(server.base)
            return Tab(context, page)

        yield open_tab
    assert troubles == []


async def add_user(server: Server, sub: str = "ada") -> User:
    answer = await server.service.post("/v1/users", json={"sub": sub, "password": PASSWORD})
    assert answer.status_code == 201, answer.text
    return await server.user(sub)


async def signed_in(server: Server, tabs: OpenTab, sub: str = "ada", **options: Any) -> Tab:
    tab = await tabs(server, **options)
    await tab.sign_in(sub)
    await tab.is_live()
    return tab


def connections(server: LocalServer) -> list[ClientConnection]:
    """Return the sockets that are attached."""
    return cast("list[ClientConnection]", server.state.hub.subscribers())


# --- refused sockets ----------------------------------------------------------------------------------------

OPEN_SOCKET = """([query, subprotocols]) => new Promise((resolve) => {
  const url = new URL(`/v1/ws?${new URLSearchParams(query)}`, location.href);
  url.protocol = 'ws';
  const socket = subprotocols ? new WebSocket(url, subprotocols) : new WebSocket(url);
  const said = [];
  socket.onmessage = ({ data }) => {
    said.push(JSON.parse(data).type);
    socket.close(1000);
  };
  socket.onclose = ({ code, reason }) => resolve([code, reason, socket.protocol, said]);
})"""
"""Opens a socket as a script of the page can, closes it on its first message, and returns how it ended."""

Carry = Callable[[str | None], tuple[dict[str, str], list[str] | None]]


def as_subprotocol(token: str | None) -> tuple[dict[str, str], list[str]]:
    return {}, [SUBPROTOCOL] if token is None else [SUBPROTOCOL, f"bearer.{token}"]


def as_query(token: str | None) -> tuple[dict[str, str], None]:
    """Without a subprotocol a browser has no other way than the query to carry a token."""
    return {} if token is None else {"token": token}, None


@pytest.fixture
def attached(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> list[Subscriber]:
    """Whatever the hub was asked to attach."""
    asked: list[Subscriber] = []
    hub = server.state.hub
    attach = hub.attach

    def note(user_id: int, subscriber: Subscriber) -> Any:
        asked.append(subscriber)
        return attach(user_id, subscriber)

    monkeypatch.setattr(hub, "attach", note)
    return asked


def forged(server: LocalServer, good: str) -> dict[str, str | None]:
    """Return tokens that are almost good, by what is wrong with them."""
    header, claims = jwt.get_unverified_header(good), jwt.decode(good, options={"verify_signature": False})
    names = {"typ": header["typ"], "kid": header["kid"]}
    own = server.state.tokens.keys.newest.private
    then = int(time.time()) - 3600
    past = {**claims, "iat": then, "exp": then + 900}
    return {
        "none": None,
        "garbage": "garbage",
        "wrong signature": jwt.encode(claims, Ed25519PrivateKey.generate(), "EdDSA", names),
        "expired": jwt.encode(past, own, "EdDSA", names),
        "alg none": jwt.encode(claims, "", "none", names),
    }


@pytest.mark.parametrize(
    ("carry", "protocol"), [(as_subprotocol, SUBPROTOCOL), (as_query, "")], ids=["subprotocol", "query"]
)
async def test_a_browser_gets_4001_and_the_reason_and_no_socket_is_attached(
    server: LocalServer, attached: list[Subscriber], tabs: OpenTab, carry: Carry, protocol: str
) -> None:
    good = await server.service.mint("ada")
    revoked = await server.service.mint("bob")
    assert (await server.service.delete("/v1/users/bob/sessions")).is_success
    tab = await tabs(server)
    ends = {
        name: await tab.page.evaluate(OPEN_SOCKET, carry(token))
        for name, token in (forged(server, good) | {"revoked": revoked}).items()
    }
    assert ends == {
        "none": [4001, "missing_token", protocol, []],
        "garbage": [4001, "invalid_token", protocol, []],
        "wrong signature": [4001, "invalid_token", protocol, []],
        "expired": [4001, "token_expired", protocol, []],
        "alg none": [4001, "invalid_token", protocol, []],
        "revoked": [4001, "token_revoked", protocol, []],
    }
    assert (attached, len(server.state.hub)) == ([], 0)

    # The same with the token that they were made from is let in: it was the token that they were refused for.
    assert (await tab.page.evaluate(OPEN_SOCKET, carry(good)))[3] == ["hello"]
    assert len(attached) == 1


async def test_a_browser_opens_only_one_socket_with_a_ticket(
    server: LocalServer, attached: list[Subscriber], tabs: OpenTab
) -> None:
    ada = await server.user()
    ticket = (await ada.post("/v1/auth/ticket")).json()["ticket"]
    tab = await tabs(server)
    first = await tab.page.evaluate(OPEN_SOCKET, ({"ticket": ticket}, None))
    assert first[3] == ["hello"]
    second = await tab.page.evaluate(OPEN_SOCKET, ({"ticket": ticket}, None))
    assert second == [4001, "invalid_token", "", []]
    assert len(attached) == 1


LISTEN = """async (token) => {
  const [applied, ends] = [[], []];
  const [apply, ended] = [(message) => applied.push(message), (code) => ends.push(code)];
  %s
  window.stream = { applied, ends, listen, position: () => [epoch, since] };
  await listen(token);
}"""
"""Runs the script of the docs, with ears on what it applies and how it ends."""

DOCUMENTED = (Path(__file__).parents[2] / "docs/protocol.md").read_text().partition("### In a browser")[2]


async def test_an_event_source_gets_the_documented_events_and_resumes_with_a_new_ticket(
    server: LocalServer, tabs: OpenTab
) -> None:
    ada, tab = await server.user(), await tabs(server)
    await tab.page.evaluate(LISTEN % DOCUMENTED.split("```")[1].removeprefix("js"), ada.token)

    async def types() -> list[str]:
        found: list[str] = await tab.page.evaluate("stream.applied.map(({ type }) => type)")
        return found

    async def said(*kinds: str) -> None:
        await until(lambda: types_are(kinds), f"{kinds} have come")

    async def types_are(kinds: tuple[str, ...]) -> bool:
        return await types() == list(kinds)

    await said("live")
    title = "\u2028 one\u2029line, <b>text</b> \U0001f600"
    await server.service.notify("ada", title, body="two\r\nlines")
    await said("live", "notification")
    item = (await tab.page.evaluate("stream.applied.at(-1)"))["notification"]
    assert (item["title"], item["body"]) == (title, "two\r\nlines")
    # The gateway goes, as far as the browser can see; its own attempt with the used ticket is refused.
    (held,) = streams_of(server)
    held.transport.abort()
    await until(lambda: tab.page.evaluate("stream.ends.length"), "it notices")
    await server.service.notify("ada", "missed")
    await tab.page.evaluate("(token) => stream.listen(token)", ada.token)
    await said("live", "notification", "notification", "live")
    assert await tab.page.evaluate("stream.position()") == [(await ada.inbox())["epoch"], "2"]
    await server.service.delete("/v1/users/ada/sessions")
    await until(lambda: tab.page.evaluate("stream.ends.length === 2"), "it is told")
    assert await tab.page.evaluate("stream.ends") == [1006, 4001]
    await server.sockets(0)


async def test_an_event_source_that_reconnects_with_a_used_ticket_is_refused_and_stops(
    server: LocalServer, tabs: OpenTab
) -> None:
    ada, tab = await server.user(), await tabs(server)
    ticket = (await ada.post("/v1/auth/ticket")).json()["ticket"]
    await tab.page.evaluate(
        "(ticket) => { window.source = new EventSource(`/v1/stream?ticket=${ticket}`); }", ticket
    )
    await server.sockets(1)
    (held,) = streams_of(server)
    held.transport.abort()
    given_up = "source.readyState === EventSource.CLOSED"
    await until(lambda: tab.page.evaluate(given_up), "it gives up", within=20)
    await server.sockets(0)


async def test_a_page_of_another_origin_gets_no_socket(
    server: LocalServer, attached: list[Subscriber], browser: Browser
) -> None:
    good = await server.service.mint("ada")
    page = await browser.new_page()
    script = OPEN_SOCKET.replace("location.href", f"'{server.base}'")
    # The browser tells such a page nothing but that there is no connection.
    assert (await page.evaluate(script, as_subprotocol(good)))[:2] == [1006, ""]
    assert attached == []


FETCH = """async ([url, token]) => {
  try {
    const answer = await fetch(url, { headers: { Authorization: `Bearer ${token}` } });
    return [answer.status, answer.headers.get('ETag') !== null];
  } catch (error) {
    return [error.name, false];
  }
}"""
"""Calls the API as a script of a page on another origin can."""


@asynccontextmanager
async def other_site() -> AsyncIterator[str]:
    """Serve an empty page at an origin of its own, and yield the origin."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1\r\nConnection: close\r\n\r\n"
        writer.write(head + b"A")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as site:
        yield f"http://127.0.0.1:{site.sockets[0].getsockname()[1]}"


async def test_only_pages_of_allowed_origins_can_call_the_api_and_open_sockets(
    start_server: StartServer, browser: Browser
) -> None:
    async with other_site() as listed, other_site() as other:
        server = await start_server(allowed_origins=listed)
        ada = await server.user()
        script = OPEN_SOCKET.replace("location.href", f"'{server.base}'")
        page = await browser.new_page()
        for origin, answer, said in ((listed, [200, True], ["hello"]), (other, ["TypeError", False], [])):
            await page.goto(origin)
            assert await page.evaluate(FETCH, [f"{server.base}/v1/inbox", ada.token]) == answer
            assert (await page.evaluate(script, as_subprotocol(ada.token or "")))[3] == said
        await page.close()


# --- signing in and out -------------------------------------------------------------------------------------


async def test_a_low_window_is_scrolled_to_the_top_after_the_sign_in(
    server: LocalServer, tabs: OpenTab
) -> None:
    await add_user(server)
    for number in range(3):
        await server.service.notify("ada", f"Title {number}")
    tab = await tabs(server, viewport={"width": 844, "height": 240})
    await expect(tab.page.get_by_text("Whoever runs this gateway makes the accounts")).to_be_visible()
    await tab.sign_in()
    await tab.is_live()
    await expect(tab.rows).to_have_count(3)
    assert await tab.page.evaluate("scrollY") == 0


async def test_a_wrong_password_shows_an_error_message(server: LocalServer, tabs: OpenTab) -> None:
    await add_user(server)
    tab = await tabs(server)
    await tab.sign_in(password="wrong")
    await expect(tab.page.get_by_role("alert")).to_have_text("The user name or the password is wrong.")
    await expect(tab.page.get_by_label("Password")).to_be_focused()
    await tab.sign_in()
    await tab.is_live()


async def test_a_reload_keeps_the_sign_in_but_another_tab_is_not_signed_in(
    server: LocalServer, tabs: OpenTab
) -> None:
    await add_user(server)
    tab = await signed_in(server, tabs)
    await tab.page.reload()
    await tab.is_live()
    await expect((await tabs(server)).button("Sign in")).to_be_visible()


async def test_signing_out_ends_the_session_and_leaves_no_data_in_the_tab(
    server: LocalServer, tabs: OpenTab
) -> None:
    await add_user(server)
    await server.service.notify("ada", "a secret")
    tab = await signed_in(server, tabs)
    await tab.shows("a secret")
    tokens = json.loads(await tab.page.evaluate("Object.values(sessionStorage)[0]"))
    async with tab.page.expect_response("**/v1/auth/revoke") as revoked:
        await tab.button("Sign out").click()
    assert (await revoked.value).status == 200
    await expect(tab.button("Sign in")).to_be_visible()
    await server.sockets(0)
    assert await tab.page.evaluate("Object.keys(sessionStorage)") == []
    assert "a secret" not in await tab.page.content()
    assert (await User(server.http, tokens["access_token"], "ada").get("/v1/inbox")).status_code == 401
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert (await server.http.post("/v1/auth/token", data=form)).status_code == 400
    await tab.page.reload()
    await expect(tab.button("Sign in")).to_be_visible()


async def test_a_session_ended_elsewhere_returns_to_the_sign_in_with_the_reason(
    server: LocalServer, tabs: OpenTab
) -> None:
    await add_user(server)
    tab = await signed_in(server, tabs)
    assert (await server.service.delete("/v1/users/ada/sessions")).is_success
    words = "Your session was ended. Please sign in again."
    await expect(tab.page.get_by_role("alert")).to_have_text(words)
    await tab.sign_in()
    await tab.is_live()


async def test_a_socket_closed_for_its_token_reopens_with_a_new_token(
    server: LocalServer, tabs: OpenTab
) -> None:
    await add_user(server)
    tab = await signed_in(server, tabs)
    (first,) = connections(server)
    async with tab.page.expect_response("**/v1/auth/token") as renewed:
        first.close(Close.UNAUTHORIZED, "token_expired")
    assert (await renewed.value).status == 200
    await until(lambda: connections(server) not in ([], [first]), "the page has connected again")
    await tab.is_live()


async def end_the_grace(server: LocalServer) -> None:
    """Let what was refreshed up to now be longer ago than a used refresh token is taken once more."""
    longer_ago = update(sessions).values(rotated_at=sessions.c.rotated_at - RETRY_WINDOW_MS)
    await server.state.database.write(lambda connection: connection.execute(longer_ago).rowcount)


def live_beside(server: LocalServer, other: ClientConnection) -> list[ClientConnection]:
    """Return the sockets but one that have been told all there is."""
    return [one for one in connections(server) if one is not other and one._live]


async def renewed_for_its_socket(server: LocalServer, tab: Tab, mine: ClientConnection) -> ClientConnection:
    """End a tab's socket for its token, and return the one that the tab opens with a new token."""
    others = connections(server)
    async with tab.page.expect_response("**/v1/auth/token") as renewed:
        mine.close(Close.UNAUTHORIZED, "token_expired")
    assert (await renewed.value).status == 200
    await end_the_grace(server)
    await until(lambda: set(connections(server)) - set(others), "the page has connected again")
    await tab.is_live()
    [new] = set(connections(server)) - set(others)
    return new


async def test_tabs_that_share_a_sign_in_do_not_end_it_for_each_other(
    server: LocalServer, tabs: OpenTab
) -> None:
    await add_user(server)
    tab = await signed_in(server, tabs)
    [of_tab] = connections(server)
    stale = await tab.page.evaluate("Object.entries(sessionStorage)")
    async with tab.context.expect_page() as opened:
        await tab.page.evaluate("void window.open(location.href)")
    copy = Tab(tab.context, await opened.value)
    await copy.is_live()
    for _ in range(2):
        of_tab = await renewed_for_its_socket(server, tab, of_tab)
    # A closed tab that is opened again has what it had when it was closed.
    again = Tab(tab.context, await tab.context.new_page())
    await again.page.add_init_script(
        f"for (const [name, value] of {json.dumps(stale)}) sessionStorage.setItem(name, value)"
    )
    await again.page.goto(server.base)
    await again.is_live()
    # One tab holds the connection of all; the next one takes over with the tokens that the first has told it.
    assert connections(server) == [of_tab]
    for leader, follower in ((tab, copy), (copy, again)):
        [before] = connections(server)
        await leader.page.close()
        await until(lambda: set(connections(server)) - {before}, "another tab has connected")  # noqa: B023
        await until(lambda: len(connections(server)) == 1, "the closed tab is gone")
        [before] = connections(server)
        # It connected with the token it had; the session has a newer one, so nothing is asked.
        before.close(Close.UNAUTHORIZED, "token_expired")
        [mine] = await until(lambda: live_beside(server, before), "it has connected again")  # noqa: B023
        await renewed_for_its_socket(server, follower, mine)


async def test_a_page_refused_with_its_renewed_token_stops_with_the_reason(
    server: LocalServer, tabs: OpenTab
) -> None:
    await add_user(server)
    tab = await tabs(server)
    renewed: list[Request] = []
    tab.page.on("request", lambda request: renewed.append(request) if is_renewal(request) else None)
    # The gateway would not refuse what it has just issued.
    await tab.page.route_web_socket("**/v1/ws*", refuse)
    await tab.sign_in()
    words = "Your session is no longer valid. Please sign in again."
    await expect(tab.page.get_by_role("alert")).to_have_text(words)
    assert len(renewed) == 1


async def refuse(socket: WebSocketRoute) -> None:
    await socket.close(code=Close.UNAUTHORIZED, reason="invalid_token")


def is_renewal(request: Request) -> bool:
    return request.url.endswith("/v1/auth/token") and "refresh_token" in (request.post_data or "")


async def test_a_token_is_renewed_on_the_open_socket_before_it_ends(
    start_server: StartServer, tabs: OpenTab
) -> None:
    server = await start_server(access_token_ttl=10)
    await add_user(server)
    await signed_in(server, tabs)
    (connection,) = connections(server)
    first = connection.user.expires_at
    await until(lambda: connection.user.expires_at > first, "the socket has a new token")
    assert connections(server) == [connection]


async def test_a_user_with_too_many_sockets_sees_the_reason_and_can_retry(
    start_server: StartServer, tabs: OpenTab
) -> None:
    server = await start_server(max_sockets_per_user=1)
    await add_user(server)
    first = await signed_in(server, tabs)
    second = await tabs(server)
    await second.sign_in()
    await expect(second.connection).to_have_text("Disconnected")
    await expect(second.banner).to_contain_text("open in too many places")
    await first.context.close()
    await server.sockets(0)
    await second.button("Try again").click()
    await second.is_live()


# --- the inbox ----------------------------------------------------------------------------------------------


async def test_a_post_appears_live_and_is_counted(server: LocalServer, tabs: OpenTab) -> None:
    await add_user(server)
    tab = await signed_in(server, tabs)
    await expect(tab.page.get_by_role("heading", name="all caught up")).to_be_visible()
    await tab.counts(0)
    posted = {"body": "Step 4", "category": "ci", "priority": "urgent", "url": "/runs/4", "data": {"run": 4}}
    await server.service.notify("ada", "Deploy failed", **posted)
    await server.service.notify("ada", "Deploy repaired", url="https://ci.example/runs/5")
    await tab.shows("Deploy repaired", "Deploy failed")
    await tab.counts(2)
    for text in ("Step 4", "CI", "Urgent", '{\n  "run": 4\n}'):
        await expect(tab.rows.nth(1)).to_contain_text(text)
    links = tab.rows.get_by_role("link")
    assert [
        await link.evaluate("link => [link.href, link.rel, link.target]") for link in await links.all()
    ] == [
        ["https://ci.example/runs/5", "noopener noreferrer", "_blank"],
        [f"{server.base}/runs/4", "", ""],
    ]


async def test_items_marked_in_one_tab_are_marked_in_the_other(server: LocalServer, tabs: OpenTab) -> None:
    ada = await add_user(server)
    await server.service.notify_many("ada", 3)
    here, there = await signed_in(server, tabs), await signed_in(server, tabs)
    await here.button("Mark read: 2").click()
    await expect(there.button("Mark unread: 2")).to_be_visible()
    await there.counts(2)
    await there.button("Mark unread: 2").click()
    await here.counts(3)
    await here.button("Mark all read").click()
    await there.counts(0)
    await expect(there.button("Mark all read")).to_be_disabled()
    assert (await ada.inbox())["unread"] == 0


async def test_many_items_read_at_once_are_read_in_every_tab(server: LocalServer, tabs: OpenTab) -> None:
    await add_user(server)
    await server.service.notify_many("ada", 150)
    here, there = await signed_in(server, tabs), await signed_in(server, tabs)
    await here.button("Mark all read").click()
    for tab in (here, there):
        await tab.counts(0)
        await expect(tab.page.locator("#list article.new")).to_have_count(0)


async def test_archiving_can_be_undone_and_deleting_asks_first(server: LocalServer, tabs: OpenTab) -> None:
    ada = await add_user(server)
    await server.service.notify_many("ada", 3)
    here, there = await signed_in(server, tabs), await signed_in(server, tabs)
    await here.button("Archive: 2").click()
    await there.shows("3", "1")
    await here.button("Undo").click()
    await there.shows("3", "2", "1")
    await here.button("Delete: 2").click()
    await expect(here.titles).to_have_count(3)
    await here.button("Press again to delete: 2").click()
    for tab in (here, there):
        await tab.shows("3", "1")
        await tab.counts(2)
    assert [item["title"] for item in (await ada.inbox())["items"]] == ["3", "1"]


async def test_the_list_can_be_used_with_the_keyboard_alone(server: LocalServer, tabs: OpenTab) -> None:
    await add_user(server)
    await server.service.notify_many("ada", 2)
    tab = await signed_in(server, tabs)
    await tab.button("Archive: 2").focus()
    await tab.page.keyboard.press("Enter")
    await tab.shows("1")
    # The row that had the focus is gone; its neighbour has it.
    await expect(tab.rows.first).to_be_focused()
    for _ in range(2):
        await tab.page.keyboard.press("Tab")
    await expect(tab.button("Archive: 1")).to_be_focused()
    await tab.page.keyboard.press("Enter")
    assert (
        await tab.page.evaluate("document.querySelector('#list').shadowRoot.activeElement.className")
        == "heading"
    )


async def test_older_pages_are_loaded_once_each_while_the_inbox_changes(
    server: LocalServer, tabs: OpenTab
) -> None:
    ada = await add_user(server)
    oldest, *_ = await server.service.notify_many("ada", 120)
    tab = await signed_in(server, tabs)
    await expect(tab.rows).to_have_count(50)
    # A change of an item that is further down than what is shown does not bring it up.
    assert (await ada.patch(f"/v1/inbox/{oldest}", json={"read": True})).is_success
    await server.service.notify("ada", "121")
    await expect(tab.titles.first).to_have_text("121")
    await expect(tab.rows).to_have_count(51)
    await tab.rows.last.scroll_into_view_if_needed()
    await expect(tab.rows).to_have_count(101)
    await tab.rows.last.scroll_into_view_if_needed()
    await tab.shows(*[str(number) for number in range(121, 0, -1)])
    await expect(tab.button("Mark unread: 1")).to_be_attached()


async def test_only_a_visible_tab_marks_items_as_seen(server: LocalServer, tabs: OpenTab) -> None:
    ada = await add_user(server)
    tab = await signed_in(server, tabs)
    await tab.page.evaluate(
        "Object.defineProperty(document, 'visibilityState', { value: 'hidden', writable: true })"
    )
    posted = await server.service.notify("ada", "unseen")
    await tab.shows("unseen")

    async def is_delivered() -> bool:
        sent = (await server.service.get(f"/v1/notifications/{posted['id']}")).json()
        return bool(sent["delivered"] == 1)

    await until(is_delivered, "the tab has acknowledged it")
    assert (await ada.inbox())["unseen"] == 1

    await tab.page.evaluate(
        "document.visibilityState = 'visible'; document.dispatchEvent(new Event('visibilitychange'))"
    )

    async def is_seen() -> bool:
        return bool((await ada.inbox())["unseen"] == 0)

    await until(is_seen, "the tab has said that it was seen")
    await tab.counts(1)


# --- lost connections ---------------------------------------------------------------------------------------


async def test_a_page_reconnects_after_a_gateway_crash_and_shows_missed_items(
    sqlite_url: str, tmp_path: Path, tabs: OpenTab
) -> None:
    async with process(sqlite_url, tmp_path) as (gateway, server):
        await add_user(server)
        tab = await signed_in(server, tabs)
        await server.service.notify("ada", "before")
        await tab.shows("before")
        gateway.kill()
        await expect(tab.connection).to_have_text("Offline")
        await expect(tab.banner).to_contain_text("Trying again")
        await tab.button("Mark read: before").click()
        await expect(tab.page.get_by_role("status").filter(has_text="That did not work")).to_be_visible()
        await expect(tab.button("Mark read: before")).to_be_visible()
        # Without a network the page cannot be back before the next item is there.
        await tab.context.set_offline(True)
        await gateway.start()
        await server.service.notify("ada", "meanwhile")
        await tab.context.set_offline(False)
        await tab.is_live()
        await tab.shows("meanwhile", "before")
        await tab.counts(2)
        await expect(tab.banner).to_be_hidden()
        await server.service.notify("ada", "after")
        await tab.shows("after", "meanwhile", "before")


async def test_a_page_too_far_behind_reloads_the_inbox(server: LocalServer, tabs: OpenTab) -> None:
    await add_user(server)
    tab = await signed_in(server, tabs)
    await tab.context.set_offline(True)
    connections(server)[0].close(Close.RESTART, "restart")
    await expect(tab.connection).to_have_text("Offline")
    for _ in range(2):
        await server.service.notify_many("ada", 501)
    await tab.context.set_offline(False)
    await tab.is_live()
    await tab.shows(*[str(number) for number in range(501, 451, -1)])
    await expect(tab.badge).to_have_text("999+")


# --- the page around the components -------------------------------------------------------------------------


async def test_two_devices_side_by_side_agree_and_connect_only_while_visible(
    server: LocalServer, tabs: OpenTab
) -> None:
    await add_user(server)
    await server.service.notify_many("ada", 2)
    tab = await signed_in(server, tabs)
    await tab.page.get_by_role("link", name="Side by side").click()
    laptop, phone = tab.page.locator(".laptop"), tab.page.locator(".phone")
    await expect(laptop.get_by_text("Live")).to_be_visible()
    await expect(phone.get_by_text("Live")).to_be_visible()
    await server.sockets(3)
    await laptop.get_by_role("button", name="Mark read: 2").click()
    await expect(phone.get_by_role("button", name="Mark unread: 2")).to_be_attached()
    await phone.get_by_role("button", name="Archive: 1").click()
    await expect(laptop.locator("article h3 bdi")).to_have_text(["2"])
    await tab.page.get_by_role("link", name="Inbox", exact=True).click()
    await tab.shows("2")
    await server.sockets(1)


async def test_the_bell_and_one_toast_announce_a_post_while_another_view_is_shown(
    server: LocalServer, tabs: OpenTab
) -> None:
    await add_user(server)
    tab = await signed_in(server, tabs)
    await tab.page.locator("#view-inbox").evaluate("(one) => { one.hidden = true; }")
    await server.service.notify("ada", "Deploy failed", priority="urgent")
    toast = tab.page.locator("notification-toasts .toast")
    await expect(toast).to_have_count(1)
    await tab.page.get_by_role("button", name="Notifications, 1 new").click()
    await expect(tab.page.get_by_role("dialog").locator("article h3 bdi")).to_have_text("Deploy failed")
    await expect(tab.page.locator("notification-bell .badge")).to_be_hidden()
    # What the inbox behind the bell shows, no toast is over.
    await expect(toast).to_have_count(0)
    await tab.page.keyboard.press("Escape")
    await server.service.notify("ada", "Deployed", priority="urgent")
    await toast.get_by_role("button", name="Dismiss").click()
    await expect(toast).to_have_count(0)


BELOW_A_TOAST = """() => {
  const toast = document.querySelector('#toasts').shadowRoot.querySelector('.toast');
  const { top, left, right } = toast.getBoundingClientRect();
  return [...document.querySelectorAll('#send-form :is(button, input, select, textarea)')].filter((one) => {
    const box = one.getBoundingClientRect();
    return box.bottom > top && box.right > left && box.left < right;
  }).map((one) => one.outerHTML);
}"""
"""Returns the controls of the form that a toast covers, or that stand below one."""


async def test_the_demo_form_posts_to_the_signed_in_user(sqlite_url: str, tabs: OpenTab) -> None:
    settings = settings_for(sqlite_url)
    password = re.findall(r"demo / (\S+)", await prepare(settings, 8000, demo=True))[0]
    async with serving(settings, demo=True) as server:
        tab = await tabs(server)
        await expect(tab.page.get_by_label("User name")).to_have_value("demo")
        await expect(tab.page.get_by_label("Password")).to_be_focused()
        await tab.sign_in("demo", password)
        await tab.is_live()
        await tab.page.get_by_role("link", name="Send").click()
        await tab.page.get_by_label("Title").fill("To <b>myself</b>")
        await tab.page.get_by_label("Link").fill("javascript:alert(1)")
        link, wrong = tab.page.get_by_label("Link"), tab.page.locator("#send-form .wrong:not(#sent)")
        await tab.button("Send").click()
        await expect(tab.page.locator("#sent")).to_have_text("Not sent.")
        await expect(wrong).to_contain_text("Link: it must be")
        await expect(wrong).to_have_css("color", "rgb(194, 38, 46)")
        await expect(link).to_have_accessible_description(re.compile("Link: it must be"))
        await expect(link).to_have_attribute("aria-invalid", "true")
        await expect(link).to_be_focused()
        await tab.page.get_by_label("Body").fill("A body.")
        await expect(wrong).to_have_count(1)
        await link.fill("javascript:alert(2)")
        await expect(wrong).to_have_count(0)
        await expect(link).not_to_have_attribute("aria-invalid", "true")
        await expect(tab.page.locator("#sent")).to_be_empty()
        await tab.button("Send").click()
        await expect(wrong).to_have_count(1)
        await link.evaluate("(one) => { one.value = '/orders/7'; }")
        await tab.button("Send").click()
        await expect(tab.page.locator("#sent")).to_have_text("Sent.")
        await expect(wrong).to_have_count(0)
        await expect(tab.page.locator("notification-toasts bdi")).to_have_text("To <b>myself</b>")
        for width, height in ((390, 844), (360, 640), (844, 390), (667, 375), (900, 500)):
            await tab.page.set_viewport_size({"width": width, "height": height})
            await tab.page.evaluate("document.querySelector('#toasts').clear()")
            await tab.button("Send").click()
            await expect(tab.page.locator("notification-toasts bdi")).to_have_text("To <b>myself</b>")
            assert await tab.page.evaluate(BELOW_A_TOAST) == [], (width, height)
            toast = await tab.page.locator("notification-toasts .toast").bounding_box()
            assert toast is not None
            assert toast["y"] + toast["height"] > height - 40, (width, height)
        await tab.page.set_viewport_size({"width": 1280, "height": 900})
        await tab.page.get_by_role("link", name="Inbox", exact=True).click()
        await tab.button("Send a sample").click()
        await expect(tab.rows).to_have_count(7)
        await tab.context.close()
        await server.sockets(0)


async def test_the_demo_form_schedules_and_offers_buttons(sqlite_url: str, tabs: OpenTab) -> None:
    settings = settings_for(sqlite_url)
    [code] = re.findall(r"#code=(\S+)", await prepare(settings, 8000, demo=True))
    async with serving(settings, demo=True) as server:
        tab = await tabs(server)
        await tab.page.goto(f"{server.base}/?#code={code}")
        await tab.is_live()
        await tab.page.get_by_role("link", name="Send", exact=True).click()
        await tab.page.get_by_label("Title").fill("Lunch?")
        await tab.page.get_by_label("Buttons").select_option("A reply")
        await tab.button("Send").click()
        toast = tab.page.locator("notification-toasts .toast")
        await toast.get_by_role("button", name="Reply").click()
        await toast.get_by_role("textbox", name="Reply").fill("At noon")
        await toast.get_by_role("button", name="Send").click()
        await expect(toast).to_have_count(0)
        await tab.page.get_by_label("Buttons").select_option("Approve or decline")
        await tab.page.get_by_label("Deliver").select_option("In ten seconds")
        # So that the test waits for one of them.
        await tab.page.evaluate("document.querySelector('#delay').selectedOptions[0].value = 1")
        await tab.button("Send").click()
        await expect(tab.page.locator("#sent")).to_have_text("Scheduled: it comes in ten seconds.")
        await tab.page.get_by_role("link", name="Inbox", exact=True).click()
        await expect(tab.rows).to_have_count(2)
        await expect(tab.rows.nth(0).get_by_role("button", name="Approve")).to_be_visible()
        await expect(tab.rows.nth(1)).to_contain_text("You answered: Reply – At noon")  # noqa: RUF001 - typography
        await tab.context.close()
        await server.sockets(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_no_violation_on_the_page(server: LocalServer, tabs: OpenTab, scheme: str) -> None:
    await add_user(server)
    await server.service.notify(
        "ada", "Deploy failed", body="Step 4", category="ci", url="/runs/4", data={"run": 4}
    )
    tab = await tabs(server, color_scheme=scheme, reduced_motion="reduce", bypass_csp=True)
    found = {"sign-in": await violations(tab.page)}
    await tab.sign_in(password="wrong")
    await expect(tab.page.get_by_role("alert")).to_be_visible()
    found["refused"] = await violations(tab.page)
    await tab.sign_in()
    await tab.is_live()
    await tab.shows("Deploy failed")
    found["inbox"] = await violations(tab.page)
    await tab.page.get_by_role("link", name="Side by side").click()
    await expect(tab.page.locator(".phone article")).to_have_count(1)
    found["devices"] = await violations(tab.page)
    await tab.page.evaluate(
        "for (const one of document.querySelectorAll('.view')) one.hidden = one.id !== 'view-send'"
    )
    found["send"] = await violations(tab.page)
    assert found == {view: [] for view in found}


# --- hostile content ----------------------------------------------------------------------------------------


async def test_the_content_of_notifications_is_shown_as_text_and_never_run(
    server: LocalServer, tabs: OpenTab
) -> None:
    await add_user(server)
    tab = await signed_in(server, tabs)
    title = "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'>"
    body = "</p><svg onload=window.harmed=1><a href=javascript:window.harmed=1>here</a>\u202e{{7*7}}"
    url = 'https://example.com/"onmouseover="window.harmed=1'
    data = {"</pre><script>window.harmed = 1</script>": "<b>"}
    await server.service.notify("ada", title, body=body, category="default", url=url, data=data)
    await tab.shows(title)
    await tab.page.reload()
    await tab.shows(title)
    row = tab.rows.first
    await expect(row.locator("[part=body]")).to_have_text(body)
    await expect(row.locator("[part=address]")).to_have_text("example.com")
    await row.get_by_text("Data", exact=True).click()
    assert json.loads(await row.locator("pre").inner_text()) == data
    assert await row.locator("script, img, p svg, b").count() == 0
    await row.get_by_role("link").hover()
    assert await tab.page.evaluate("window.harmed") is None


BAD_URLS = (
    "javascript:alert(1)",
    " javascript:alert(1)",
    "JaVaScRiPt:alert(1)//https://example.com",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:x",
    "file:///etc/passwd",
    "//example.com/x",
    "/\\example.com/x",
    "/\t/example.com/x",
    "\\\\example.com",
    "https:example.com",
    "https://",
    "orders/42",
    "?x",
)
GOOD_URLS = ("https://example.com/x", "HTTP://example.com", "/orders/42", "/", "/?next=//example.com")


async def test_only_web_urls_and_paths_of_this_host_become_links(server: LocalServer, tabs: OpenTab) -> None:
    tab = await tabs(server)
    # The gateway refuses these; the page does not rely on it.
    rows: list[list[Any]] = await tab.page.evaluate(
        """async (urls) => {
          const [{ Row }, { Words }] = await Promise.all([import('/sdk/row.js'), import('/sdk/texts.js')]);
          return urls.map((url, index) => {
            const created_at = new Date().toISOString();
            const names = { category: 'default', priority: 'normal', title: 'x' };
            const item = { id: String(index), created_at, ...names, url };
            const { element } = new Row(item, new Words('en'), false);
            const address = element.querySelector('[part=address]')?.textContent ?? null;
            return [element.querySelector('a')?.href ?? null, address];
          });
        }""",
        [*BAD_URLS, *GOOD_URLS],
    )
    assert rows[: len(BAD_URLS)] == [[None, None] for _ in BAD_URLS]
    links = [f"{server.base}{url}" if url.startswith("/") else url for url in GOOD_URLS]
    links[GOOD_URLS.index("HTTP://example.com")] = "http://example.com/"
    # Of a link to elsewhere the host is shown, as the browser reads it.
    hosts = [None if link.startswith(f"{server.base}/") else urlsplit(link).netloc for link in links]
    assert rows[len(BAD_URLS) :] == [[link, host] for link, host in zip(links, hosts, strict=True)]
