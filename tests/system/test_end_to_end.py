"""The whole product: the page in tabs of real browsers, on a real gateway that is cut off and killed.

Whatever happens, in the end each tab holds and shows what a fresh read of the inbox says, and each item was
announced once in each browser. They run on SQLite only, for the reasons that test_browser.py has.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import jwt
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Response, expect

from gateway.delivery.client_connection import ClientConnection
from gateway.protocol.close_codes import Close
from tests.support.checker import Json
from tests.support.clients import GONE, User
from tests.support.databases import settings_for
from tests.support.hostile import REFUSED_URLS, TAKEN_URLS, TEXTS
from tests.support.postgres import free_port
from tests.support.profiles import PASSWORD, Profile, Tab, agree, leader_of, profile_of, site
from tests.support.proxy import Proxy, Way, proxy_to
from tests.support.servers import LocalServer, Server, StartServer, process, serving
from tests.support.waiting import PATIENCE, until

expect.set_options(timeout=PATIENCE * 1000)

pytestmark = pytest.mark.asyncio(loop_scope="module")

Note = Callable[[str, object], None]


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
    """A function that opens a browser profile. At the end no script has failed, and no policy was broken."""
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


def connections(server: LocalServer) -> list[ClientConnection]:
    """Return the sockets that are attached."""
    return cast("list[ClientConnection]", server.state.hub.subscribers())


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
    announced = Counter(announced_first(told))
    assert announced <= Counter(titles), "none twice"
    cut_off = set()
    for name in {one["tab"] for one in told}:
        mine = [one["title"] for one in told if one["tab"] == name]
        assert mine == list(titles[: len(mine)])
        if len(mine) < len(titles):
            # Its note of what it was told as it was closed may have gone with it.
            cut_off |= {mine[-1], titles[len(mine)]}
            closed -= 1
    assert closed == 0
    assert set(titles) - announced.keys() <= cut_off


# --- one inbox, everywhere ----------------------------------------------------------------------------------


async def test_a_post_reaches_every_tab_with_one_toast_per_browser_and_is_read_everywhere(
    server: LocalServer, profiles: OpenProfile, record_property: Note
) -> None:
    ada = await add_user(server)
    home, work = await profiles(), await profiles()
    tabs = [
        await home.signed_in(server.base),
        await home.signed_in(server.base),
        await work.signed_in(server.base),
    ]
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
        assert Counter(toast["id"] for toast in await tab.noted("toasts")) == Counter(
            one["id"] for one in posted
        )

    # Whoever looks at one of them has seen what is new, and no badge is left anywhere.
    await tabs[1].is_looked_at(True)
    for tab in tabs:
        await expect(tab.badge).to_be_hidden()
    # That is the tab that shows what comes next.
    await server.service.notify("ada", "4")
    await agree(ada, *tabs)
    *_, last = await tabs[1].noted("toasts")
    assert last["tab"] == await tabs[1].page.evaluate("spy.tab")

    began = time.monotonic()
    await tabs[0].button("Mark read: 2").click()
    for tab in tabs:
        await expect(tab.button("Mark unread: 2")).to_be_attached()
    record_property("read everywhere after, in s", round(time.monotonic() - began, 3))
    await agree(ada, *tabs)
    assert (await ada.inbox())["unread"] == 3


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
    """Nothing was lost, doubled or put out of order, and each browser said in one line how many came."""
    await agree(ada, *tabs, within=60)
    for tab in tabs:
        await expect(tab.titles).to_have_text(titles[::-1])
    for tab in tabs[1:]:
        await each_was_told_once(tab, *titles)
        assert all(one["missed"] for one in await tab.noted("told"))
        (toast,) = await until(lambda: tab.noted("toasts"), "the summary is shown")  # noqa: B023
        assert toast["text"] == f"{len(titles)} notifications while you were away"


async def test_items_posted_during_a_network_cut_arrive_once_in_order_with_one_summary(
    server: LocalServer, proxy: Proxy, profiles: OpenProfile
) -> None:
    ada = await add_user(server)
    tabs = await two_tabs_and_another_browser(base_of(proxy), profiles)
    await proxy.close()
    titles = await post_numbered(server, 50)
    await proxy.open()
    await all_came_while_away(ada, tabs, titles)


@pytest.mark.soak
async def test_items_posted_in_ten_seconds_of_silence_arrive_once_in_order_with_one_summary(
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
                    "/v1/notifications",
                    json={"to": "ada", "title": title},
                    headers={"Idempotency-Key": title},
                )
            except GONE:
                await asyncio.sleep(0.02)
                continue
            if answer.status_code == 201:
                answered.append(title)
                break


async def test_every_tab_reconnects_after_a_gateway_crash_in_a_burst_and_loses_nothing(
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


async def test_a_leader_tab_closed_in_a_burst_is_replaced_and_each_item_is_shown_once(
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


# --- tokens and sessions ------------------------------------------------------------------------------------


TOKEN, SOCKET = "/v1/auth/token", "/v1/ws"


def asked(path: str, *tabs: Tab) -> int:
    """Return how often these tabs have asked for a path."""
    return sum(tab.requests[path] for tab in tabs)


def expired(server: LocalServer, token: str) -> str:
    """Return an access token as it is an hour later."""
    header, claims = jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})
    names = {"typ": header["typ"], "kid": header["kid"]}
    past = {**claims, "iat": claims["iat"] - 3600, "exp": claims["exp"] - 3600}
    return jwt.encode(past, server.state.tokens.keys.newest.private, "EdDSA", names)


async def kept_tokens(tab: Tab) -> Json:
    """Return what the tab keeps of its session."""
    kept: Json = json.loads(await tab.page.evaluate("sessionStorage.getItem('notify.tokens')"))
    return kept


async def sleep_past_the_token(server: LocalServer, tab: Tab) -> None:
    """Leave a tab with an access token that has ended, as one that was closed over night has it."""
    kept = await kept_tokens(tab)
    kept["access_token"] = expired(server, kept["access_token"])
    await tab.page.evaluate("(kept) => sessionStorage.setItem('notify.tokens', kept)", json.dumps(kept))


async def test_an_expired_token_is_renewed_once_for_all_tabs_of_a_session(
    server: LocalServer, profiles: OpenProfile
) -> None:
    ada = await add_user(server)
    await server.service.notify_many("ada", 3)
    home = await profiles()
    tab = await home.signed_in(server.base)
    copy = await home.duplicate(tab)
    # Both wake up at once, with a token that has ended.
    for one in (tab, copy):
        await sleep_past_the_token(server, one)
        await one.page.goto("about:blank")
        one.requests.clear()
    await server.sockets(0)
    for one in (tab, copy):
        await one.page.go_back()
    for one in (tab, copy):
        await one.is_live()
    # Those that hold no connection need the token for requests of their own.
    for one, title in ((tab, "1"), (copy, "2")):
        await one.button(f"Mark read: {title}").click()
    await server.service.notify("ada", "4")
    await agree(ada, tab, copy)
    assert (await ada.inbox())["unread"] == 2
    assert asked(TOKEN, tab, copy) == 1
    # The token that had ended was refused to the first request; the one socket was opened with its successor.
    assert asked(SOCKET, tab, copy) == 1
    await server.sockets(1)


_TELL = """async (told) => {
  const { session, obtained, key } = told;
  const [iv, text] = [new Uint8Array(12), new TextEncoder()];
  const sealer = await crypto.subtle.importKey('raw', Uint8Array.from(key), 'AES-GCM', false, ['encrypt']);
  const bound = { name: 'AES-GCM', iv, additionalData: text.encode(`${session} ${obtained}`) };
  const sealed = await crypto.subtle.encrypt(bound, sealer, text.encode(JSON.stringify(told)));
  new BroadcastChannel('notify.tokens').postMessage({ session, obtained, iv, sealed });
}"""
"""Tells the tabs of a session of other tokens, as one of them does."""


async def test_an_expired_token_received_from_another_tab_is_renewed_too(
    server: LocalServer, profiles: OpenProfile
) -> None:
    await add_user(server)
    tab = await (await profiles()).signed_in(server.base)
    kept = await kept_tokens(tab)
    told = {
        **kept,
        "access_token": expired(server, kept["access_token"]),
        "obtained": kept["obtained"] + 1,
        "expires_in": 0,
    }
    await tab.page.evaluate(_TELL, told)

    async def is_kept() -> bool:
        return await kept_tokens(tab) == told

    await until(is_kept, "the tab has taken what it was told")
    tab.requests.clear()
    for connection in connections(server):
        connection.close(Close.UNAUTHORIZED, "token_expired")
    await until(lambda: asked(TOKEN, tab) == 1 and len(connections(server)) == 1, "it has connected again")
    await tab.is_live()


_RECORD = """
const plain = (_, value) => {
  const bytes = value instanceof ArrayBuffer ? new Uint8Array(value) : value;
  return bytes instanceof Uint8Array ? String.fromCharCode(...bytes) : value;
};
const { postMessage } = BroadcastChannel.prototype;
BroadcastChannel.prototype.postMessage = function say(data) {
  hear(this.name, JSON.stringify(data, plain));
  postMessage.call(this, data);
};
const { postMessage: post } = window;
window.postMessage = (...all) => { hear('window', JSON.stringify(all, plain)); post(...all); };
addEventListener('storage', ({ key, newValue }) => hear(`storage: ${key}`, String(newValue)));
"""
"""Hands all that a page says on any channel to the test, sealed or not, and what it stores for the origin."""

_LISTEN = """(names) => {
  window.heard = [];
  window.listening = names.map((name) => {
    const channel = new BroadcastChannel(name);
    channel.onmessage = ({ data }) => heard.push(data);
    return channel;
  });
  const [tokens, ...others] = listening;
  // As a tab that begins, and one that is behind.
  tokens.postMessage({ session: names[0] });
  for (const channel of others) {
    const position = { epoch: 'x', seq: 0 };
    channel.postMessage({ kind: 'here', from: 'a stranger', visible: true, position });
  }
}"""


async def test_another_page_of_the_origin_learns_of_a_new_token_but_not_its_value(
    server: LocalServer, profiles: OpenProfile
) -> None:
    ada = await add_user(server)
    home = await profiles()
    said: list[tuple[str, str]] = []
    given: list[Json] = []

    async def note(answer: Response) -> None:
        if answer.url.endswith(TOKEN) and answer.ok:
            given.append(await answer.json())

    home.context.on("response", note)
    await home.context.expose_function("hear", lambda name, text: said.append((name, text)))
    await home.context.add_init_script(_RECORD)
    tab = await home.signed_in(server.base)
    copy = await home.duplicate(tab)
    names = ["notify.tokens", *{name for name, _ in said} - {"notify.tokens", "spy"}]
    assert len(names) == 2
    stranger = await home.context.new_page()
    await stranger.goto(f"{server.base}/favicon.svg")
    await stranger.evaluate(_LISTEN, names)
    for one in connections(server):
        one.close(Close.UNAUTHORIZED, "token_expired")
    await until(lambda: len(given) == 2, "a tab has a new token")

    async def both_have_it() -> bool:
        kept = [(await kept_tokens(one))["access_token"] for one in (tab, copy)]
        return kept == [given[-1]["access_token"]] * 2

    await until(both_have_it, "its copy has it too")
    leader = await leader_of(tab, copy)
    await leader.page.close()
    left = copy if leader is tab else tab
    await left.is_live()
    await left.page.evaluate("import('/session.js').then((session) => session.refresh())")
    await until(lambda: len(given) == 3, "the other one got one too")
    await server.service.notify("ada", "after all of it")
    await agree(ada, left)
    heard: list[Json] = await stranger.evaluate("heard")
    kept = await kept_tokens(left)
    assert {one["session"] for one in heard if "obtained" in one} == {kept["session"]}
    assert any(one.get("kind") == "state" for one in heard)
    everything = [*(text for _, text in said), json.dumps(heard)]
    everything.append(await stranger.evaluate("JSON.stringify([window.name, { ...localStorage }])"))
    secrets = [one[name] for one in given for name in ("access_token", "refresh_token")]
    secrets.append(json.dumps(kept["key"], separators=(",", ":")))
    assert [(text, secret) for text in everything for secret in secrets if secret in text] == []


async def test_a_page_without_the_key_of_a_session_cannot_replace_its_tokens(
    server: LocalServer, profiles: OpenProfile
) -> None:
    await add_user(server)
    tab = await (await profiles()).signed_in(server.base)
    kept = await kept_tokens(tab)
    forged = {**kept, "access_token": "forged", "obtained": kept["obtained"] + 1}
    await tab.page.evaluate(_TELL, {**forged, "key": [0] * 32})
    await tab.page.evaluate("(told) => new BroadcastChannel('notify.tokens').postMessage(told)", forged)
    # Said later, on the same channel, by one that has it.
    told = {**kept, "obtained": kept["obtained"] + 2}
    await tab.page.evaluate(_TELL, told)

    async def is_kept() -> bool:
        now = await kept_tokens(tab)
        assert now["access_token"] == kept["access_token"]
        return bool(now["obtained"] == told["obtained"])

    await until(is_kept, "the tab has taken what its sibling told")


async def test_a_revoked_user_is_signed_out_in_every_tab_without_further_retries(
    server: LocalServer, profiles: OpenProfile
) -> None:
    await add_user(server)
    home = await profiles()
    tabs = [await home.open(server.base) for _ in range(2)]
    for tab in tabs:
        await tab.page.clock.install()
        await tab.sign_in()
    for tab in tabs:
        tab.requests.clear()
    assert (await server.service.delete("/v1/users/ada/sessions")).is_success
    for tab in tabs:
        await tab.is_signed_out()
        await expect(tab.page.get_by_role("alert")).to_have_text(
            "Your session was ended. Please sign in again."
        )
    await server.sockets(0)
    # The one that led has asked once for a new token. The one that took its place has tried its own, and
    # asked once.
    assert asked(TOKEN, *tabs) <= 2
    assert asked(SOCKET, *tabs) <= 1
    before = sum((tab.requests for tab in tabs), Counter())
    for tab in tabs:
        await tab.page.clock.fast_forward("01:00:00")
        for wake in (
            "window.dispatchEvent(new Event('online'))",
            "document.dispatchEvent(new Event('visibilitychange'))",
        ):
            await tab.page.evaluate(wake)
        await tab.page.clock.fast_forward("01:00:00")
    assert sum((tab.requests for tab in tabs), Counter()) == before
    assert len(server.state.hub) == 0


async def test_signing_out_in_one_tab_signs_out_all_tabs_of_that_user_only(
    server: LocalServer, profiles: OpenProfile
) -> None:
    for sub in ("ada", "bob"):
        await add_user(server, sub)
    home, work = await profiles(), await profiles()
    ada = await home.signed_in(server.base)
    copy, again = await home.duplicate(ada), await home.signed_in(server.base)
    bob = await home.signed_in(server.base, "bob")
    elsewhere = await work.signed_in(server.base)
    await server.sockets(3)
    tokens = [await kept_tokens(tab) for tab in (ada, copy, again)]
    await copy.button("Sign out").click()
    for tab in (ada, copy, again):
        await tab.is_signed_out()
        assert await tab.page.evaluate("Object.keys(sessionStorage)") == []
    await server.sockets(2)
    for kept in tokens:
        caller = User(server.http, kept["access_token"], "ada")
        await until(lambda: is_refused(caller), "the session has ended")  # noqa: B023
    await server.service.notify("bob", "for bob")
    await server.service.notify("ada", "for ada")
    await expect(bob.titles).to_have_text("for bob")
    await expect(elsewhere.titles).to_have_text("for ada")


async def is_refused(caller: User) -> bool:
    return (await caller.get("/v1/inbox")).status_code == 401


async def test_two_users_in_two_tabs_of_one_browser_do_not_mix(
    server: LocalServer, profiles: OpenProfile
) -> None:
    ada, bob = await add_user(server), await add_user(server, "bob")
    home = await profiles()
    hers, his = await home.signed_in(server.base), await home.signed_in(server.base, "bob")
    both = {"ada": (ada, hers), "bob": (bob, his)}
    await server.sockets(2)
    for number in range(3):
        for sub in both:
            await server.service.notify(sub, f"{number} for {sub}")
    for user, tab in both.values():
        await agree(user, tab)
        await expect(tab.titles).to_have_text([f"{number} for {user.sub}" for number in (2, 1, 0)])
    await hers.button("Mark all read").click()
    for user, tab in both.values():
        await agree(user, tab)
    assert (await bob.inbox())["unread"] == 3
    # Bob comes after Ada in the same tab, and finds nothing of hers.
    await hers.button("Sign out").click()
    await hers.sign_in("bob")
    await agree(bob, hers, his)
    await server.sockets(1)
    told = await his.noted("told")
    assert all(one["title"].endswith("for bob") for one in told if one["tab"] != told[0]["tab"]) or told


# --- other ways there ---------------------------------------------------------------------------------------


async def test_without_websockets_a_stream_delivers_all_and_commands_work_until_revocation(
    server: LocalServer, proxy: Proxy, profiles: OpenProfile
) -> None:
    ada = await add_user(server)
    proxy.lets_upgrade = False
    tabs = await two_tabs_and_another_browser(base_of(proxy), profiles)
    titles = await post_numbered(server, 5)
    await agree(ada, *tabs)
    for tab, title in zip(tabs, titles, strict=False):
        await tab.button(f"Mark read: {title}").click()
    await tabs[0].button("Archive: 4").click()
    for name in ("Delete: 5", "Press again to delete: 5"):
        await tabs[1].button(name).click()
    for tab in tabs:
        await expect(tab.titles).to_have_text(["3", "2", "1"])
    await agree(ada, *tabs)
    assert (await ada.inbox())["unread"] == 0
    for tab in tabs[1:]:
        await each_was_told_once(tab, *titles)
    # A stream is resumed as a socket is.
    await proxy.close()
    await server.service.notify("ada", "6")
    await proxy.open()
    await agree(ada, *tabs, within=60)
    assert (await server.service.delete("/v1/users/ada/sessions")).is_success
    for tab in tabs:
        await tab.is_signed_out()
    await server.sockets(0)


async def test_two_devices_side_by_side_agree_with_each_other_and_with_the_inbox(
    server: LocalServer, profiles: OpenProfile
) -> None:
    ada = await add_user(server)
    await server.service.notify_many("ada", 3)
    home = await profiles()
    tab = await home.signed_in(server.base)
    await tab.page.get_by_role("link", name="Side by side").click()
    devices = [tab.page.get_by_label(name, exact=True) for name in ("Laptop", "Phone")]
    # The page's own connection, and one of each device.
    await server.sockets(3)
    await server.service.notify("ada", "4")
    for device in devices:
        await expect(device.locator("h3 bdi")).to_have_text(["4", "3", "2", "1"])
    laptop, phone = devices
    await laptop.get_by_role("button", name="Mark read: 2").click()
    await phone.get_by_role("button", name="Archive: 3").click()
    for device in devices:
        await expect(device.locator("h3 bdi")).to_have_text(["4", "2", "1"])
        await expect(device.get_by_role("button", name="Mark unread: 2")).to_be_visible()
    await tab.page.get_by_role("link", name="Inbox", exact=True).click()
    await server.sockets(1)
    await agree(ada, tab)
    # Of all these clients, one raises the toast.
    assert [toast["text"] for toast in await tab.noted("toasts") if toast["id"]] != []
    assert len(await tab.noted("toasts")) == 1


# --- many items ---------------------------------------------------------------------------------------------


IN_SIGHT = """() => [...document.querySelector('#list').shadowRoot.querySelectorAll('article')]
  .filter((row) => row.firstElementChild.checkVisibility({ contentVisibilityAuto: true })).length"""
"""How many rows the browser has laid out; the others are skipped while they are out of sight."""


async def test_scrolling_through_a_thousand_items_creates_each_row_once(
    server: LocalServer, profiles: OpenProfile, record_property: Note
) -> None:
    ada = await add_user(server)
    await server.service.notify_many("ada", 1000)
    tab = await (await profiles(viewport={"width": 1280, "height": 800})).signed_in(server.base)
    await expect(tab.rows).to_have_count(50)
    await tab.rows.first.hover()
    while (count := await tab.rows.count()) < 1000:
        await tab.page.mouse.wheel(0, 20_000)
        await until(lambda: _more_than(tab, count), "older ones are loaded")
    notes = await tab.page.evaluate("({ added: spy.added, removed: spy.removed })")
    assert notes == {"added": 1000, "removed": 0}
    assert asked("/v1/inbox", tab) == 20
    assert await tab.page.evaluate(IN_SIGHT) < 60
    record_property("longest task, in ms", await tab.page.evaluate("spy.tasks"))
    # What comes and changes meanwhile touches its own row.
    await server.service.notify("ada", "1001")
    await tab.button("Mark read: 1").click()
    await agree(ada, tab)
    notes = await tab.page.evaluate("({ added: spy.added, removed: spy.removed })")
    assert notes == {"added": 1001, "removed": 0}


async def _more_than(tab: Tab, count: int) -> bool:
    return await tab.rows.count() > count


COVERED = """() => {
  const rows = [...document.querySelector('#list').shadowRoot.querySelectorAll('article')];
  return rows.flatMap((row) => {
    const buttons = row.querySelector('.menu').getBoundingClientRect();
    const texts = [...row.querySelectorAll('.top, [part=body], [part=meta] > *')];
    return texts.filter((text) => {
      const { right, top, bottom } = text.getBoundingClientRect();
      return right > buttons.left && bottom > buttons.top && top < buttons.bottom;
    }).map((text) => text.textContent);
  });
}"""
"""The texts that lie under the buttons of their rows."""


async def test_on_a_phone_one_toast_is_shown_and_the_others_are_counted(
    server: LocalServer, profiles: OpenProfile
) -> None:
    await add_user(server)
    tab = await (await profiles(viewport={"width": 390, "height": 844}, is_mobile=True)).signed_in(
        server.base
    )
    await server.service.notify_many("ada", 4)
    toasts = tab.page.locator("#toasts .toast")
    await expect(toasts).to_have_text(["1", "3 more notifications"])
    for _ in range(2):
        await toasts.first.get_by_role("button", name="Dismiss").click()
    await tab.page.locator("#bell button").first.click()
    await expect(tab.page.locator("#bell article")).to_have_count(4)


async def test_on_a_phone_no_text_lies_under_the_buttons_of_its_row(
    server: LocalServer, profiles: OpenProfile
) -> None:
    await add_user(server)
    fields = {"body": "wide " * 90, "url": f"/{'path' * 60}", "data": {"x": 1}, "priority": "high"}
    await server.service.notify("ada", "w" * 200, category="-".join(["wide"] * 12), **fields)
    await server.service.notify("ada", "short", category="w" * 64)
    phone = await profiles(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    tab = await phone.signed_in(server.base)
    await expect(tab.rows).to_have_count(2)
    assert await tab.page.evaluate(COVERED) == []
    assert await tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# --- hostile content ----------------------------------------------------------------------------------------


async def post_hostile_ones(server: Server) -> list[str]:
    """Post each text as a title, a body and as data, and return the titles. What is no address is refused."""
    for url in REFUSED_URLS:
        answer = await server.service.post("/v1/notifications", json={"to": "ada", "title": "x", "url": url})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "url"), url
    for field in ("category", "priority"):
        answer = await server.service.post(
            "/v1/notifications", json={"to": "ada", "title": "x", field: TEXTS[0]}
        )
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    posts = [
        {"to": "ada", "title": text, "body": text, "data": {text: [text]}, "priority": "urgent", "url": url}
        for text, url in zip_longest(TEXTS, TAKEN_URLS)
    ]
    answer = await server.service.post("/v1/notifications/batch", json=posts)
    assert answer.status_code == 201, answer.text
    return list(TEXTS)


SHOWN = """() => {
  const rows = [...document.querySelector('#list').shadowRoot.querySelectorAll('article')].reverse();
  return rows.map((row) => {
    const text = (part) => row.querySelector(part)?.textContent ?? null;
    const link = row.querySelector('a')?.protocol ?? null;
    return [text('bdi'), text('[part=body]'), JSON.parse(text('pre')), link, text('[part=address]')];
  });
}"""
MADE = """() => {
  const shadows = [...document.querySelectorAll('*')].map((one) => one.shadowRoot).filter(Boolean);
  const roots = [document, ...shadows];
  const names = roots.flatMap((root) => [...root.querySelectorAll('*')]).map((one) => one.localName);
  return [...new Set(names)].sort();
}"""
"""The names of all the elements there are."""


async def test_thirty_hostile_texts_and_urls_are_shown_as_text_and_never_run(
    server: LocalServer, profiles: OpenProfile
) -> None:
    ada = await add_user(server)
    home = await profiles()
    tab = await home.signed_in(server.base)
    await server.service.notify(
        "ada", "harmless", body="x", data={"x": 1}, url="/x", priority="urgent", category="x"
    )
    await expect(tab.titles).to_have_text(["harmless"])
    before = await tab.page.evaluate(MADE)
    assert (await ada.delete(f"/v1/inbox/{(await ada.inbox())['items'][0]['id']}")).is_success
    await post_hostile_ones(server)
    await agree(ada, tab)
    assert await tab.page.evaluate(SHOWN) == as_sent()
    assert set(await tab.page.evaluate(MADE)) <= set(before)
    assert await tab.page.evaluate("spy.harmed") == []
    # The second time they come with a page of the inbox, not by the socket.
    await tab.page.reload()
    await agree(ada, tab)
    assert await tab.page.evaluate(SHOWN) == as_sent()
    await look_at_everything(tab)
    assert await tab.page.evaluate("spy.harmed") == []
    assert await tab.page.evaluate("location.href") == f"{server.base}/"
    assert len(home.context.pages) == 1


SHOP = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Shop</title></head>
<body><h1>Shop</h1>
<notification-bell show-data count-in-title></notification-bell>
<notification-inbox id="list" show-data></notification-inbox>
<notification-toasts max="30"></notification-toasts>
<script type="module">
  import {{ NotificationClient }} from '{base}/sdk/components.js';
  const client = new NotificationClient({{ getToken: () => '{token}' }});
  for (const name of ['bell', 'inbox', 'toasts']) {{
    document.querySelector(`notification-${{name}}`).client = client;
  }}
  client.start();
</script></body></html>"""
"""The page of an application that embeds the components. It has no policy that would stop a script."""


async def test_thirty_hostile_texts_are_shown_as_text_on_a_page_without_a_csp(
    start_server: StartServer, profiles: OpenProfile
) -> None:
    port = free_port()
    server = await start_server(allowed_origins=f"http://127.0.0.1:{port}")
    html = SHOP.format(base=server.base, token=await server.service.mint("ada"))
    home = await profiles()
    async with site(port, html):
        tab = await home.open(f"http://127.0.0.1:{port}/")
        toasts = tab.page.locator("notification-toasts .toast")
        await server.sockets(1)
        titles = await post_hostile_ones(server)
        await expect(tab.rows).to_have_count(30)
        assert await tab.page.evaluate(SHOWN) == as_sent()
        await expect(toasts).to_have_count(30)
        assert [await one.text_content() for one in await toasts.locator("bdi").all()] == titles
        await look_at_everything(tab)
        await tab.page.get_by_role("button", name="Notifications").click()
        await expect(tab.page.locator("notification-bell article")).to_have_count(30)
        await expect(tab.page).to_have_title("(30) Shop")
        assert await tab.page.evaluate("spy.harmed") == []
        assert await tab.page.evaluate("location.pathname") == "/"
        assert len(home.context.pages) == 1
        await tab.page.close()


def as_sent() -> list[list[Any]]:
    """Return what the rows must show of the hostile ones, oldest first."""
    protocols = ["https:", "https:", "http:", "http:"]
    # Of an address elsewhere the host is shown, and nothing of one within the site.
    hosts = ["example.com", "example.com"]
    return [
        [text, text, {text: [text]}, protocol, host]
        for text, protocol, host in zip_longest(TEXTS, protocols, hosts)
    ]


async def look_at_everything(tab: Tab) -> None:
    """Open the data of each, point at each, and read the first."""
    for summary in await tab.rows.locator("summary").all():
        await summary.click()
    for link in await tab.rows.get_by_role("link").all():
        await link.hover()
    await tab.page.keyboard.press("Home")


# --- all at once --------------------------------------------------------------------------------------------


CHANGE = """([act, start, count]) => {
  const { client } = document.querySelector('#list');
  const some = client.items.slice(start, start + count).map(({ id }) => id);
  const acts = [
    () => client.read(some), () => client.unreadAgain(some), () => client.read({ upTo: client.seq }),
    () => client.archive(some), () => client.archive(some, false), () => client.delete(some),
    () => client.seen(),
  ];
  if (some.length) acts[act]().catch(() => {});
}"""


class Trouble:
    """A user with two browsers who does what comes to mind, while the network comes and goes."""

    def __init__(self, server: LocalServer, proxy: Proxy, homes: list[Profile], seed: int) -> None:
        self._server = server
        self._proxy = proxy
        self._homes = homes
        self._random = random.Random(seed)
        self._posted = 0
        self.tabs: list[tuple[Profile, Tab]] = []

    async def run(self, steps: int) -> None:
        """Take so many steps, then let everything come to rest."""
        for home in self._homes * 2:
            await self._open(home)
        acts = [
            self._post,
            self._post,
            self._post,
            self._change,
            self._change,
            self._cut,
            self._restart,
            self._replace,
            self._look,
        ]
        for _ in range(steps):
            await self._random.choice(acts)()
        for _, tab in self.tabs:
            await tab.is_looked_at(True)

    async def _open(self, home: Profile) -> None:
        self.tabs.append((home, await home.signed_in(base_of(self._proxy))))

    async def _post(self) -> None:
        titles = [str(self._posted + number) for number in range(1, self._random.randrange(2, 13))]
        self._posted += len(titles)
        await post_whatever_happens(self._server, titles, [])

    async def _change(self) -> None:
        """Do something to some items in one tab, and do not wait for it."""
        _, tab = self._random.choice(self.tabs)
        chosen = [self._random.randrange(7), self._random.randrange(8), self._random.randrange(1, 5)]
        await tab.page.evaluate(CHANGE, chosen)

    async def _cut(self) -> None:
        await self._proxy.close()
        await self._post()
        await self._proxy.open()

    async def _restart(self) -> None:
        for connection in connections(self._server):
            connection.close(Close.RESTART, "restart")

    async def _look(self) -> None:
        _, tab = self._random.choice(self.tabs)
        await tab.is_looked_at(bool(self._random.randrange(2)))

    async def _replace(self) -> None:
        """Close a tab, and open another one in that browser."""
        home, tab = self.tabs.pop(self._random.randrange(len(self.tabs)))
        await tab.page.close()
        await self._open(home)


@pytest.mark.parametrize("seed", [1, *[pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 12)]])
async def test_after_random_faults_every_tab_is_correct_and_no_item_was_announced_twice(
    server: LocalServer, proxy: Proxy, profiles: OpenProfile, seed: int
) -> None:
    ada = await add_user(server)
    homes = [await profiles(), await profiles()]
    trouble = Trouble(server, proxy, homes, seed)
    await trouble.run(15 if seed == 1 else 60)
    await agree(ada, *(tab for _, tab in trouble.tabs), within=60)
    for _, tab in trouble.tabs:
        told = await tab.noted("told")
        assert all(count == 1 for count in Counter(announced_first(told)).values())
        for name in {one["tab"] for one in told}:
            mine = [one["created_seq"] for one in told if one["tab"] == name]
            assert mine == sorted(set(mine))
