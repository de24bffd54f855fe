"""What pages of other origins may do, and what a browser is told with each answer."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import update
from structlog.testing import capture_logs
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.database import models
from gateway.protocol.links import is_link, safe_url
from gateway.settings import SettingsError, load_settings, origins
from gateway.settings.origins import own_origin, read_origin
from gateway.store import inbox
from tests.support.clients import User
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, StartServer

APP = "https://app.example.com"

# --- origins ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("HTTPS://App.Example.COM", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("http://app.example.com:443", "http://app.example.com:443"),
        ("https://app.example.com:80", "https://app.example.com:80"),
        ("https://app.example.com:8443", "https://app.example.com:8443"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]"),
        ("https://app.example.com.", "https://app.example.com."),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("https://Bücher.example", "https://xn--bcher-kva.example"),
        ("https://" + "ü" * 200 + ".example", None),
        ("null", None),
        ("", None),
        ("*", None),
        ("https://*", None),
        ("https://*.example.com", None),
        ("https://", None),
        ("app.example.com", None),
        ("https:app.example.com", None),
        ("https:///app.example.com", None),
        ("ftp://app.example.com", None),
        ("wss://app.example.com", None),
        ("file://", None),
        ("https://app.example.com/", None),
        ("https://app.example.com/path", None),
        ("https://app.example.com?query", None),
        ("https://user@app.example.com", None),
        ("https://app.example.com\\.evil.example", None),
        ("https://app.example.com evil.example", None),
        ("https://app.example.com:", None),
        ("https://app.example.com:port", None),
        ("https://app.example.com:1:2", None),
        ("https://::1", None),
        ("https://app.example.com\n", None),
    ],
)
def test_an_origin_is_normalized_as_browsers_serialize_it(text: str, origin: str | None) -> None:
    assert read_origin(text) == origin


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (f"{APP}/", f"'{APP}/': leave out the slash at the end"),
        ("*", "'*': there is no wildcard: name each origin"),
        ("https://*.example.com", "'https://*.example.com': there is no wildcard: name each origin"),
        (f"{APP} https://b.example", f"'{APP} https://b.example': separate origins by commas"),
        (f'["{APP}", "https://b.example"]', f"'[\"{APP}\"': separate origins by commas"),
        ("http://[::1]:80/", "'http://[::1]:80/': leave out the slash at the end"),
        ("app.example.com", "'app.example.com': begin with https://, or http://"),
        ("localhost:5173", "'localhost:5173': begin with https://, or http://"),
        (f"{APP}/page", f"'{APP}/page' is not an origin such as"),
        ("app.example.com/", "'app.example.com/': begin with https://, or http://"),
        ("null", "'null' is not an origin such as"),
    ],
)
def test_the_error_for_an_invalid_allowed_origin_says_what_to_do(listed: str, said: str) -> None:
    with pytest.raises(SettingsError, match="^GATEWAY_ALLOWED_ORIGINS: " + re.escape(said)):
        load_settings(allowed_origins=f"https://other.example,{listed}")


@pytest.mark.parametrize(
    ("scheme", "host", "origin"),
    [
        ("ws", "gateway.example", "http://gateway.example"),
        ("ws", "Gateway.Example:80", "http://gateway.example"),
        ("wss", "gateway.example:443", "https://gateway.example"),
        ("wss", "gateway.example:80", "https://gateway.example:80"),
        ("https", "gateway.example", "https://gateway.example"),
        ("http", "[::1]:8000", "http://[::1]:8000"),
        ("ws", "", None),
        ("ws", "a/b", None),
    ],
)
def test_the_origin_of_a_request_is_its_scheme_and_its_host(
    scheme: str, host: str, origin: str | None
) -> None:
    assert own_origin(scheme, host) == origin


async def opens(user: User, *origins: str, **headers: str) -> bool:
    """Whether a page of this origin, or of none, gets a socket; a refusal must be the one of origins."""
    all_headers = [("Authorization", f"Bearer {user.token}"), *(("Origin", one) for one in origins)]
    all_headers += [(name.replace("_", "-"), value) for name, value in headers.items()]
    url = str(user.http.base_url).replace("http", "ws", 1).rstrip("/") + "/v1/ws"
    try:
        async with connect(url, additional_headers=all_headers, proxy=None, close_timeout=2) as connection:
            assert json.loads(await connection.recv())["type"] == "hello"
            return True
    except InvalidStatus as error:
        refused = error.response
    assert refused.status_code == 403
    assert json.loads(refused.body or b"")["code"] == "origin_not_allowed"
    return False


async def test_a_socket_is_opened_from_the_gateways_own_origin_and_from_no_other(server: LocalServer) -> None:
    user = await server.user()
    own, port = server.base, server.base.rpartition(":")[2]
    assert await opens(user)
    assert await opens(user, own)
    for origin in (
        "null",
        "",
        own.replace("http", "https"),
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        f"http://localhost:{port}",
        f"http://127.0.0.1.:{port}",
        f"{own}.evil.example",
        f"http://evil.example#{own}",
        f"{own}/",
        f"{own}, {own}",
        APP,
    ):
        assert not await opens(user, origin), origin
    await server.sockets(0)


async def test_a_handshake_with_two_origin_headers_gets_a_400(server: LocalServer) -> None:
    user = await server.user()
    headers = [("Authorization", f"Bearer {user.token}"), ("Origin", APP), ("Origin", server.base)]
    url = server.base.replace("http", "ws", 1) + "/v1/ws"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, additional_headers=headers, proxy=None):
            pass
    assert refused.value.response.status_code == 400


async def test_a_page_on_http_cannot_open_a_socket_to_a_gateway_on_https(start_server: StartServer) -> None:
    server = await start_server(forwarded_allow_ips="127.0.0.1")
    user = await server.user()
    assert await opens(user, server.base.replace("http", "https"), X_Forwarded_Proto="https")
    assert not await opens(user, server.base, X_Forwarded_Proto="https")
    assert await opens(user, server.base)


async def test_a_handshake_ignores_x_forwarded_proto_from_an_untrusted_peer(server: LocalServer) -> None:
    user = await server.user()
    https = server.base.replace("http", "https")
    assert not await opens(user, https, X_Forwarded_Proto="https")


async def test_an_allowed_origin_opens_sockets(start_server: StartServer) -> None:
    server = await start_server(allowed_origins=f"{APP},HTTP://Other.example:80")
    user = await server.user()
    for origin in (APP, f"{APP}:443", "http://other.example", server.base):
        assert await opens(user, origin), origin
    for origin in ("http://app.example.com", f"{APP}:8443", f"{APP}.", "https://x.app.example.com", "null"):
        assert not await opens(user, origin), origin


@pytest.mark.parametrize(
    "origins", ["*", "null", "app.example.com", f"{APP}/", f"{APP}/path", "ws://a.example"]
)
def test_an_invalid_allowed_origin_stops_the_start(
    origins: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATEWAY_ALLOWED_ORIGINS", origins)
    with pytest.raises(SettingsError, match=r"^GATEWAY_ALLOWED_ORIGINS: "):
        load_settings()


def test_allowed_origins_are_stored_as_browsers_serialize_them() -> None:
    settings = settings_for("sqlite:///x.db", allowed_origins="HTTPS://App.example.com:443")
    assert settings.allowed_origins == ("https://app.example.com",)
    with pytest.raises(ValidationError):
        settings_for("sqlite:///x.db", allowed_origins="https://a.example:x")


# --- CORS ---------------------------------------------------------------------------------------------------

PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,baggage,idempotency-key,traceparent",
}


async def test_a_page_of_an_allowed_origin_may_call_the_api(start_server: StartServer) -> None:
    server = await start_server(allowed_origins=APP)
    asked = await server.http.options("/v1/notifications", headers={"Origin": APP, **PREFLIGHT})
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == APP
    assert set(asked.headers["access-control-allow-methods"].split(", ")) == {
        "GET",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
    }
    # A wildcard would not cover Authorization (Fetch Standard, section 4.9).
    assert asked.headers["access-control-allow-headers"] == PREFLIGHT["Access-Control-Request-Headers"]

    user = await server.user()
    for answer in (
        await user.get("/v1/inbox", headers={"Origin": APP}),
        await server.stranger.get("/v1/inbox", headers={"Origin": APP}),
        await server.stranger.get("/v1/nothing", headers={"Origin": APP}),
    ):
        assert answer.headers["access-control-allow-origin"] == APP
        assert "Origin" in answer.headers["vary"]
        exposed = set(answer.headers["access-control-expose-headers"].split(", "))
        assert exposed >= {"ETag", "Link", "Location", "Retry-After", "RateLimit"}
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", f"{APP}.evil.example", "http://app.example.com"]
)
async def test_a_page_of_another_origin_gets_no_cors_headers(start_server: StartServer, origin: str) -> None:
    server = await start_server(allowed_origins=APP)
    asked = await server.http.options("/v1/notifications", headers={"Origin": origin, **PREFLIGHT})
    assert asked.status_code == 400
    answer = await server.http.get("/.well-known/jwks.json", headers={"Origin": origin})
    for one in (asked, answer):
        assert "access-control-allow-origin" not in one.headers


@pytest.mark.parametrize("allowed", ["", APP], ids=["no list", "a list"])
async def test_an_origin_that_is_refused_is_logged_once(
    start_server: StartServer, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origins, "_logged", set())
    server = await start_server(allowed_origins=allowed)
    with capture_logs() as lines:
        for _ in range(3):
            await server.http.options("/v1/inbox", headers={"Origin": "https://shop.example", **PREFLIGHT})
            await server.http.options("/v1/inbox", headers={"Origin": APP, **PREFLIGHT})
            await server.http.options("/v1/inbox", headers={"Origin": server.base, **PREFLIGHT})
        socket = {"Origin": "https://other.example", "Connection": "Upgrade", "Upgrade": "websocket"}
        key = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
        for _ in range(2):
            assert (await server.http.get("/v1/ws", headers={**socket, **key})).status_code == 403
    refused = [line["origin"] for line in lines if "GATEWAY_ALLOWED_ORIGINS" in line["event"]]
    others = [] if allowed else [APP]
    assert refused == ["https://shop.example", *others, "https://other.example"]


def test_no_more_than_a_hundred_refused_origins_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "_logged", set())
    with capture_logs() as lines:
        for number in range(150):
            origins.log_refused(f"https://{number}.example", None)
    assert len(lines) == 100


async def test_cors_is_off_without_allowed_origins(server: LocalServer) -> None:
    answer = await server.http.get("/.well-known/jwks.json", headers={"Origin": APP})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    asked = await server.http.options("/v1/notifications", headers={"Origin": APP, **PREFLIGHT})
    assert asked.status_code == 405


async def test_a_request_without_an_origin_gets_no_cors_headers(
    start_server: StartServer,
) -> None:
    server = await start_server(allowed_origins=APP)
    answer = await (await server.user()).get("/v1/inbox")
    assert not [name for name in answer.headers if name.startswith("access-control")]


# --- headers ------------------------------------------------------------------------------------------------


async def answers(server: LocalServer) -> dict[str, Any]:
    """Return one answer of each kind."""
    user, http = await server.user(), server.http
    return {
        "posted": await server.service.post("/v1/notifications", json={"to": "ada", "title": "Hello"}),
        "inbox": await user.get("/v1/inbox"),
        "unchanged": await user.get(
            "/v1/inbox", headers={"If-None-Match": (await user.get("/v1/inbox")).headers["etag"]}
        ),
        "changes": await user.get("/v1/inbox/changes", params={"since": 0}),
        "users": await server.service.get("/v1/users"),
        "keys": await http.get("/.well-known/jwks.json"),
        "token": await http.post("/v1/auth/token", data={"grant_type": "password"}),
        "openapi": await http.get("/openapi.json"),
        "401": await http.get("/v1/inbox"),
        "404": await http.get("/nothing"),
        "405": await http.delete("/v1/inbox"),
        "422": await server.service.post("/v1/notifications", json={}),
        "426": await http.get("/v1/ws"),
        "page": await http.get("/"),
        "script": await http.get("/app.js"),
        "docs": await http.get("/docs"),
        "redoc": await http.get("/redoc"),
    }


async def test_every_response_has_the_security_headers(server: LocalServer) -> None:
    for name, answer in (await answers(server)).items():
        headers = answer.headers
        assert headers.get_list("x-content-type-options") == ["nosniff"], name
        assert headers.get_list("referrer-policy") == ["no-referrer"], name
        (policy,) = headers.get_list("content-security-policy")
        assert policy.startswith("default-src 'none'; "), name
        assert "frame-ancestors 'none'" in policy, name
        assert "strict-transport-security" not in headers, name
        if answer.headers.get("content-type", "").endswith("json"):
            assert policy == "default-src 'none'; frame-ancestors 'none'", name
        caching = headers.get_list("cache-control")
        assert len(caching) <= 1, name
        if answer.request.method == "GET":
            assert caching, name
            public = name == "keys"
            assert ("public" in caching[0]) == public, name
        assert "server" not in headers, name


async def test_an_unexpected_error_has_the_security_headers(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("as if by a mistake")

    user = await server.user()
    server.expected.append("as if by a mistake")
    server.expected.append("Exception in ASGI application")
    monkeypatch.setattr(inbox, "list_items", fail)
    answer = await user.get("/v1/inbox")
    monkeypatch.undo()
    assert answer.status_code == 500
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_only_responses_over_https_enable_hsts(start_server: StartServer) -> None:
    server = await start_server(forwarded_allow_ips="127.0.0.1")
    for path in ("/", "/v1/inbox", "/docs"):
        answer = await server.http.get(path, headers={"X-Forwarded-Proto": "https"})
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        answer = await server.http.get(path)
        assert "strict-transport-security" not in answer.headers


async def test_an_untrusted_x_forwarded_proto_does_not_enable_hsts(server: LocalServer) -> None:
    answer = await server.http.get("/", headers={"X-Forwarded-Proto": "https"})
    assert "strict-transport-security" not in answer.headers


# --- links --------------------------------------------------------------------------------------------------

HOSTILE = [
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    " javascript:alert(1)",
    "java\tscript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:x",
    "file:///etc/passwd",
    "//evil.example",
    "/\\evil.example",
    "/\t/evil.example",
    "https:evil.example",
    "https://",
    "http://[::1",
    "evil.example",
    "",
]


@pytest.mark.parametrize("url", HOSTILE)
def test_hostile_urls_are_not_links(url: str) -> None:
    assert not is_link(url)
    assert safe_url(url) is None
    assert safe_url("/inbox") == "/inbox"
    assert safe_url("https://example.com/?a=b#c") == "https://example.com/?a=b#c"
    assert safe_url(None) is None


@pytest.mark.parametrize("url", [*HOSTILE[:5], "//evil.example"])
async def test_a_post_with_an_unsafe_url_gets_a_422(server: LocalServer, url: str) -> None:
    answer = await server.service.post("/v1/notifications", json={"to": "ada", "title": "Hi", "url": url})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "url"


async def test_a_stored_unsafe_url_is_never_returned(server: LocalServer) -> None:
    user = await server.user()
    posted = await server.service.notify("ada", url="https://example.com/")
    table = models.notifications

    def spoil(connection: Any) -> None:
        connection.execute(update(table).values(url="javascript:alert(1)"))

    await server.state.database.write(spoil)
    (item,) = (await user.inbox())["items"]
    assert item["url"] is None
    assert (await user.get(f"/v1/inbox/{posted['id']}")).json()["url"] is None
    changes = await user.get("/v1/inbox/changes", params={"since": 0})
    assert [one["url"] for one in changes.json()["items"]] == [None]
    sent = await server.service.get(f"/v1/notifications/{posted['id']}")
    assert sent.json()["url"] is None
    # The copy in memory is what was posted; a socket that reads the log is shown what the log holds.
    server.state.recent.forget(1)
    async with user.socket() as socket:
        (shown,) = [one for one in await socket.until("live") if one["type"] == "notification"]
    assert shown["notification"]["url"] is None
    for text in (changes.text, sent.text, json.dumps(shown)):
        assert "javascript" not in text
