"""The demo: its user can post to themselves from the page, and nobody can do anything else with that."""

import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.server.run import prepare
from tests.support.clients import User
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, StartServer, process, serving

PATH = "/demo/notifications"
OTHER = "https://app.example.com"


@dataclass
class Demo:
    """A gateway in demo mode, its user, and the key and the code that were printed."""

    server: LocalServer
    user: User
    key: str
    code: str

    async def post(self, token: str | None = None, **fields: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token or self.user.token}"} | fields.pop("headers", {})
        body = {"to": "demo", "title": "Hello"} | fields
        return await self.server.http.post(PATH, json=body, headers=headers)


@pytest.fixture
async def demo(database_url: str) -> AsyncIterator[Demo]:
    # The page of another origin may call the API: that is not enough here.
    settings = settings_for(database_url, allowed_origins=OTHER)
    text = await prepare(settings, 8000, demo=True)
    password, key = re.findall(r"demo / (\S+)|Bearer ([^']+)", text)
    async with serving(settings, demo=True) as server:
        form = {"grant_type": "password", "username": "demo", "password": password[0]}
        answer = await server.http.post("/v1/auth/token", data=form)
        yield Demo(server, User(server.http, answer.json()["access_token"], "demo"), key[1], code_in(text))


async def test_the_user_of_the_demo_posts_to_their_own_inbox(demo: Demo) -> None:
    answer = await demo.post(
        title="To myself", priority="urgent", url="/x", headers={"Origin": demo.server.base}
    )
    assert answer.status_code == 201, answer.text
    [item] = (await demo.user.inbox())["items"]
    assert (item["id"], item["title"], item["priority"]) == (answer.json()["id"], "To myself", "urgent")


async def test_only_the_demo_user_can_post_and_only_to_themselves(demo: Demo) -> None:
    ada = await demo.server.user("ada")
    refused = [
        await demo.server.http.post(PATH, json={"to": "demo", "title": "x"}),
        await demo.post("garbage"),
        await demo.post(ada.token),
        await demo.post(ada.token, to="ada"),
        await demo.post(demo.key),
        await demo.post(to="ada"),
        await demo.post(to=["demo", "ada"]),
        await demo.post(headers={"Origin": OTHER}),
        await demo.post(headers={"Origin": "null"}),
        await demo.post(headers={"Origin": demo.server.base.replace("127.0.0.1", "localhost")}),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in refused] == [
        *((401, "missing_token"), (401, "invalid_token")),
        *((403, "insufficient_scope"),) * 5,
        *((403, "origin_not_allowed"),) * 3,
    ]
    for user in (demo.user, ada):
        assert (await user.inbox())["items"] == []


async def test_demo_posts_are_validated_like_service_posts(demo: Demo) -> None:
    refused = [
        await demo.post(url="javascript:alert(1)"),
        await demo.post(category="Not Allowed"),
        await demo.post(title=""),
        await demo.post(more=1),
    ]
    assert [answer.status_code for answer in refused] == [422] * 4
    assert [answer.json()["errors"][0]["field"] for answer in refused] == ["url", "category", "title", "more"]


async def test_without_a_demo_the_post_path_is_404_and_the_page_has_no_form(
    start_server: StartServer,
) -> None:
    server = await start_server()
    user = await server.user("demo")
    answer = await user.post(PATH, json={"to": "demo", "title": "x"})
    assert answer.status_code == 404
    assert "data-demo" not in (await server.http.get("/")).text


async def test_the_demo_page_is_marked_as_a_demo_and_contains_no_key(demo: Demo) -> None:
    page = await demo.server.http.get("/")
    assert "<html data-demo " in page.text
    assert "ngk_" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")


async def test_the_serve_option_starts_a_demo(sqlite_url: str, tmp_path: Path) -> None:
    async with process(sqlite_url, tmp_path, options=["--demo"]) as (gateway, server):
        assert "<html data-demo " in (await server.http.get("/")).text
        assert (await server.http.post(PATH, json={"to": "demo", "title": "x"})).status_code == 401
        said = gateway.log.read_text()
        assert "Sign in:    demo / " in said
        code = code_in(said)
        assert (await server.http.post("/demo/session", data={"code": code})).status_code == 200
        # It is printed, once, and in no line of the log.
        assert gateway.log.read_text().count(code) == 1


# --- the link -----------------------------------------------------------------------------------------------

FORM_PATH = "/demo/session"


def code_in(text: str) -> str:
    [code] = re.findall(r"^  The inbox:  http://\S+/#code=(\S+)$", text, re.MULTILINE)
    return str(code)


async def test_the_link_of_the_demo_signs_in_once(database_url: str) -> None:
    settings = settings_for(database_url, allowed_origins=OTHER)
    text = await prepare(settings, 8000, demo=True)
    form = {"code": code_in(text)}
    async with serving(settings, demo=True) as server:
        others = [
            await server.http.post(FORM_PATH, data=form, headers={"Origin": OTHER}),
            await server.http.post(FORM_PATH, data={"code": "x" * 43}),
            await server.http.post(FORM_PATH, data={}),
        ]
        assert [answer.status_code for answer in others] == [403, 401, 401]
        answer = await server.http.post(FORM_PATH, data=form, headers={"Origin": server.base})
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        assert answer.json()["scope"] == "inbox"
        user = User(server.http, answer.json()["access_token"], "demo")
        assert (await user.inbox())["items"] == []
        refresh = {"grant_type": "refresh_token", "refresh_token": answer.json()["refresh_token"]}
        assert (await server.http.post("/v1/auth/token", data=refresh)).status_code == 200
        again = await server.http.post(FORM_PATH, data=form)
        assert (again.status_code, again.json()["code"]) == (401, "invalid_token")
        # Whoever comes second ends nothing for the first.
        assert (await user.inbox())["items"] == []


async def test_the_code_of_an_earlier_start_is_invalid(database_url: str) -> None:
    settings = settings_for(database_url)
    codes = [code_in(await prepare(settings, 8000, demo=True)) for _ in range(2)]
    assert codes[0] != codes[1]
    async with serving(settings, demo=True) as server:
        answers = [await server.http.post(FORM_PATH, data={"code": code}) for code in codes]
        assert [answer.status_code for answer in answers] == [401, 200]


async def test_a_code_expires_after_ten_minutes(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(database_url)
    begun = int(time.time() * 1000) - 601_000
    with monkeypatch.context() as patched:
        patched.setattr("gateway.server.run.now_ms", lambda: begun)
        code = code_in(await prepare(settings, 8000, demo=True))
    async with serving(settings, demo=True) as server:
        assert (await server.http.post(FORM_PATH, data={"code": code})).status_code == 401


async def test_a_code_opens_no_connection_and_a_ticket_starts_no_session(demo: Demo) -> None:
    ticket = (await demo.user.post("/v1/auth/ticket")).json()["ticket"]
    answer = await demo.server.http.post(FORM_PATH, data={"code": ticket})
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
    stream = await demo.server.http.get("/v1/stream", params={"ticket": demo.code})
    assert (stream.status_code, stream.json()["code"]) == (403, "insufficient_scope")


async def test_a_body_that_is_not_a_form_gets_an_oauth_error(demo: Demo) -> None:
    answer = await demo.server.http.post(FORM_PATH, json={"code": "x"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_without_a_demo_the_code_form_is_404(start_server: StartServer) -> None:
    server = await start_server()
    assert (await server.http.post(FORM_PATH, data={"code": "x" * 43})).status_code == 404
