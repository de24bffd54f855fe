"""A gateway at a path of a site: through a real nginx, in a real browser, and what a client is sent there."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from playwright.async_api import expect
from websockets.exceptions import ConnectionClosed

from gateway.settings.addresses import read_public_url
from gateway.transport.mount import unmounted
from tests.support.browsers import launched
from tests.support.clients import Service, User, http_client, open_socket
from tests.support.databases import API_KEY, settings_for
from tests.support.nginx import nginx_before
from tests.support.postgres import free_port
from tests.support.profiles import PASSWORD
from tests.support.servers import LocalServer, StartServer, serving
from tests.support.streams import live, titles
from tests.support.waiting import PATIENCE

MOUNT = "/notify"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """A path knows nothing of databases."""
    return sqlite_url


def passing_on(text: str) -> str:
    """Return the configuration as docs/operations.md says it: the gateway gets the path as it came."""
    (metrics, location) = re.findall(r"location (/metrics|/) \{", text)
    return text.replace(f"location {metrics} {{", f"location {MOUNT}{metrics} {{").replace(
        f"location {location} {{", f"location {MOUNT}/ {{"
    )


def taking_away(text: str) -> str:
    """Return the configuration of a proxy that takes the path away."""
    return passing_on(text).replace("proxy_pass         http://gateway;", "proxy_pass http://gateway/;")


@dataclass
class Site:
    """A gateway at a path, and a client of the site."""

    server: LocalServer
    origin: str
    http: httpx.AsyncClient

    @property
    def base(self) -> str:
        return f"{self.origin}{MOUNT}"

    @property
    def service(self) -> Service:
        return Service(self.http, API_KEY)

    async def user(self) -> User:
        return await self.service.user("ada")


@asynccontextmanager
async def site(database_url: str, change: Callable[[str], str]) -> AsyncIterator[Site]:
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    settings = settings_for(
        database_url, public_url=f"{origin}{MOUNT}/", forwarded_allow_ips="127.0.0.1", host="127.0.0.1"
    )
    async with serving(settings) as server:
        gateway = int(server.base.rpartition(":")[2])
        async with nginx_before(gateway, port, change), http_client(f"{origin}{MOUNT}") as http:
            yield Site(server, origin, http)


@pytest.fixture(params=[passing_on, taking_away])
async def mounted(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Site]:
    async with site(database_url, request.param) as one:
        yield one


async def test_links_in_responses_work_through_the_proxy(mounted: Site) -> None:
    posted = await mounted.service.post("/v1/notifications", json={"to": "ada", "title": "x"})
    user = await mounted.service.post("/v1/users", json={"sub": "eve"})
    service = await mounted.service.post("/v1/services", json={"name": "shop", "scopes": ["notify"]})
    key = await mounted.service.post(f"/v1/services/{service.json()['client_id']}/keys")
    await mounted.service.post("/v1/notifications", json={"to": "ada", "title": "y"})
    page = await (await mounted.user()).get("/v1/inbox?limit=1")
    following = httpx.URL(page.links["next"]["url"])
    for answer in (posted, user, service, key):
        assert answer.status_code == 201
        assert answer.headers["location"].startswith(f"{MOUNT}/v1/")
    for location in (one.headers["location"] for one in (posted, user, service)):
        assert (await mounted.service.get(f"{mounted.origin}{location}")).status_code == 200, location
    again = await (await mounted.user()).get(f"{mounted.origin}{following}")
    assert [item["title"] for item in again.json()["items"]] == ["x"]
    metadata = (await mounted.http.get("/.well-known/oauth-authorization-server")).json()
    assert metadata["token_endpoint"] == f"{mounted.base}/v1/auth/token"


async def test_a_slash_in_a_sub_survives_a_proxy_that_forwards_the_path(database_url: str) -> None:
    # nginx decodes a path that it changes: that is why docs/operations.md says not to.
    async with site(database_url, passing_on) as mounted:
        user = await mounted.service.post("/v1/users", json={"sub": "eve/1"})
        found = await mounted.service.get(f"{mounted.origin}{user.headers['location']}")
        assert (found.status_code, found.json()["sub"]) == (200, "eve/1")


async def test_sockets_streams_and_close_code_4001_pass_through_the_proxy(mounted: Site) -> None:
    ada = await mounted.user()
    await mounted.service.notify("ada", "hello")
    async with ada.socket() as socket:
        messages = await socket.until("live")
        assert [one["notification"]["title"] for one in messages if one["type"] == "notification"] == [
            "hello"
        ]
    async with live(ada) as stream:
        await mounted.service.notify("ada", "streamed")
        assert titles(await stream.until("notification")) == ["streamed"]
    async with open_socket(mounted.base) as socket:
        with pytest.raises(ConnectionClosed):
            await socket.receive()
        assert (socket.connection.close_code, socket.connection.close_reason) == (4001, "missing_token")


async def test_metrics_are_not_served_below_the_path_in_any_spelling(mounted: Site) -> None:
    for path in ("metrics", "%6Detrics", "notify/metrics", "notify/%6Detrics", "metrics/", "x/../metrics"):
        answer = await mounted.http.get(f"{mounted.base}/{path}")
        assert answer.status_code == 404, path
        assert "gateway_ready" not in answer.text


async def test_the_page_and_the_reference_work_in_a_browser(mounted: Site) -> None:
    await mounted.service.post("/v1/users", json={"sub": "ada", "password": PASSWORD})
    await mounted.service.notify("ada", "below a path")
    asked: list[str] = []
    failed: list[str] = []
    async with launched() as browser:
        page = await browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.on("response", lambda one: failed.append(one.url) if one.status >= 400 else None)
        for address in (f"{mounted.base}/", f"{mounted.server.base}{MOUNT}"):
            await page.goto(address)
            await page.get_by_label("User name").fill("ada")
            await page.get_by_label("Password").fill(PASSWORD)
            await page.get_by_role("button", name="Sign in").click()
            await expect(page.locator("#connection")).to_have_text("Live", timeout=PATIENCE * 1000)
            await expect(page.locator("#list article h3 bdi")).to_have_text(["below a path"])
            kept = await page.evaluate("Object.keys(sessionStorage)")
            assert [name for name in kept if name.startswith("notify.tokens")] == [f"notify.tokens {MOUNT}/"]
            await page.get_by_role("button", name="Sign out").click()

        await page.goto(f"{mounted.base}/docs")
        await page.get_by_role("button", name="Authorize").first.click(timeout=30_000)
        user = page.locator(".auth-container", has=page.get_by_text("OAuth2, password"))
        await user.get_by_label("username").fill("ada")
        await user.get_by_label("password", exact=False).last.fill(PASSWORD)
        await user.locator("button.authorize").click()
        await expect(user.get_by_text("Logout")).to_be_visible()
        await page.locator(".modal-ux .close-modal").click()
        health = page.locator(".opblock", has=page.locator('[data-path="/healthz"]')).first
        await health.locator(".opblock-summary-control").click()
        await health.get_by_role("button", name="Try it out").click()
        async with page.expect_response(f"{mounted.base}/healthz") as tried:
            await health.get_by_role("button", name="Execute").click()
        assert (await tried.value).status == 200
    assert failed == []
    own = (mounted.base, mounted.server.base + MOUNT, "data:")
    assert [url for url in asked if not url.startswith(own)] == []


async def test_the_page_and_the_reference_work_without_the_setting_too(database_url: str) -> None:
    async with serving(settings_for(database_url)) as server, launched() as browser:
        gateway = int(server.base.rpartition(":")[2])
        async with nginx_before(gateway, change=taking_away) as port:
            page = await browser.new_page()
            page.set_default_timeout(PATIENCE * 1000)
            await page.goto(f"http://127.0.0.1:{port}{MOUNT}/")
            await expect(page.get_by_role("button", name="Sign in")).to_be_visible()
            await page.goto(f"http://127.0.0.1:{port}{MOUNT}/docs")
            await expect(page.locator(".opblock").first).to_be_visible(timeout=30_000)


async def test_the_gateway_answers_with_and_without_the_path(start_server: StartServer) -> None:
    server = await start_server(public_url=f"https://example.com{MOUNT}")
    for path in ("/healthz", f"{MOUNT}/healthz", MOUNT, f"{MOUNT}/", "/metrics"):
        assert (await server.http.get(path)).status_code == 200, path
    for path in (f"{MOUNT}healthz", f"{MOUNT}{MOUNT}/healthz", f"{MOUNT}/metrics"):
        assert (await server.http.get(path)).status_code == 404, path
    document = (await server.http.get(f"{MOUNT}/openapi.json")).json()
    assert document["servers"] == [{"url": MOUNT}]
    assert "/v1/notifications" in document["paths"]


@pytest.mark.parametrize(
    ("target", "within"),
    [
        (b"/notify/v1/ws?a=/notify/b", b"/v1/ws?a=/notify/b"),
        (b"/notify/", b"/"),
        (b"/notify", b"/notify"),
        (b"/notify?x", b"/notify?x"),
        (b"/notifyer/x", b"/notifyer/x"),
        (b"/v1/notify/", b"/v1/notify/"),
        (b"http://host:1/notify/v1/ws", b"http://host:1/v1/ws"),
        (b"http://host", b"http://host"),
        (b"http://host/v1", b"http://host/v1"),
        (b"/notify/metrics", b"/notify/metrics"),
        (b"/notify/%6detrics?x", b"/notify/%6detrics?x"),
        (b"*", b"*"),
    ],
)
def test_the_path_is_removed_from_a_target(target: bytes, within: bytes) -> None:
    assert unmounted(target, MOUNT.encode()) == within


@pytest.mark.parametrize(
    "path", ["/a b", "/a//b", "/..", "/a/./b", "/%2e", "/a\\b", '/"', "/ä", "/a;b", "//"]
)
def test_a_path_that_clients_would_normalize_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"it must be a URL|its path must be segments"):
        read_public_url(f"https://example.com{path}x" if path == "//" else f"https://example.com{path}")


@pytest.mark.parametrize("path", ["", "/notify", "/a/b.c/~d_e-f", "/..."])
def test_a_path_of_plain_segments_is_accepted(path: str) -> None:
    assert read_public_url(f"https://example.com{path}/") == f"https://example.com{path}"
