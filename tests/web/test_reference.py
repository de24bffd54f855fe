"""The API reference at /docs: whose files it runs, what it may ask, and that it works without a network."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from importlib.resources import files
from typing import Any, cast, get_args

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from playwright.async_api import expect

from gateway import web
from gateway.api.json_route import Body
from gateway.app import create_app
from gateway.transport.slices import SLICE_BYTES
from gateway.web.reference import SWAGGER_VERSION
from tests.support.browsers import launched
from tests.support.databases import API_KEY, settings_for
from tests.support.profiles import PASSWORD
from tests.support.servers import LocalServer, StartServer
from tests.support.waiting import PATIENCE, until

SWAGGER = files(web).joinpath("swagger")
SCRIPT = f"/docs/{SWAGGER_VERSION}/swagger-ui-bundle.js"
PATHS = ("/docs", "/docs/start.js", SCRIPT, f"/docs/{SWAGGER_VERSION}/swagger-ui.css")
OWN = {"README.md", "index.html", "start.js"}
HASHES = {
    "LICENSE": "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
    "NOTICE": "0d20d1adef18aee3f40dd258172155521ce702ac445cb5f7b7d60ed32dad2fb2",
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui-bundle.js.LICENSE.txt": "37eb6e7e59aed57b2c1acf076574b818ea07b74265717e0bd67b59e0baf9abbb",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}
"""The SHA-256 of each file of swagger-ui-dist, as the npm registry has it."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The page knows nothing of databases."""
    return sqlite_url


def test_the_swagger_ui_files_match_the_release() -> None:
    assert {
        file.name: sha256(file.read_bytes()).hexdigest() for file in SWAGGER.iterdir() if file.name not in OWN
    } == HASHES
    assert f"`swagger-ui-dist` {SWAGGER_VERSION}, unchanged" in SWAGGER.joinpath("README.md").read_text()


async def test_the_page_and_its_policy_name_no_other_origin(server: LocalServer) -> None:
    for path in PATHS:
        answer = await server.http.get(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        state = dict(part.strip().split(" ", 1) for part in policy.split(";"))
        assert state == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' data:",
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
    page = (await server.http.get("/docs")).text
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page)) == {
        f".{path}" for path in (*PATHS[1:], "/favicon.svg", "/openapi.json")
    }


async def test_a_file_with_a_versioned_path_is_cached_as_immutable(server: LocalServer) -> None:
    keeping = [(await server.http.get(path)).headers["cache-control"] for path in PATHS]
    assert keeping == ["no-cache"] * 2 + ["public, max-age=31536000, immutable"] * 2
    whole = await server.http.get(SCRIPT)
    assert sha256(whole.content).hexdigest() == HASHES["swagger-ui-bundle.js"]
    again = await server.http.get(SCRIPT, headers={"If-None-Match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await server.http.head(SCRIPT)).headers["content-length"] == str(len(whole.content))


@pytest.mark.parametrize("path", [SCRIPT, "/openapi.json"])
async def test_a_client_that_requests_a_large_file_without_reading_uses_little_memory(
    server: LocalServer, path: str
) -> None:
    host, port = server.base.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() * 50)
    waiting = await until(lambda: [size for size in unsent(server) if size], "the client does not read")
    writer.transport.abort()
    assert max(waiting) <= 4 * SLICE_BYTES


def unsent(server: LocalServer) -> list[int]:
    """Return how many bytes wait for each client."""
    return [one.transport.get_write_buffer_size() for one in server.uvicorn.server_state.connections]


async def test_the_document_is_rendered_once_and_is_the_same_bytes_each_time(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[int] = []
    openapi = FastAPI.openapi

    def noted(app: FastAPI) -> dict[str, Any]:
        rendered.append(1)
        return openapi(app)

    monkeypatch.setattr(FastAPI, "openapi", noted)
    answers = await asyncio.gather(*(server.http.get("/openapi.json") for _ in range(20)))
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["info"]["title"] == "Notification Gateway"
    assert answers[0].headers["content-type"] == "application/json"
    assert rendered == [1]
    assert cast("FastAPI", server.uvicorn.config.app).openapi_schema is None, "only the bytes are kept"
    again = await server.http.get("/openapi.json", headers={"If-None-Match": answers[0].headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_redoc_redirects_to_the_reference(server: LocalServer) -> None:
    answer = await server.http.get("/redoc")
    assert (answer.status_code, answer.headers["location"]) == (308, "docs")


async def test_disabling_the_reference_disables_the_openapi_document_too(start_server: StartServer) -> None:
    server = await start_server(api_docs=False)
    for path in (*PATHS, "/redoc", "/openapi.json"):
        answer = await server.http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    assert (await server.http.get("/")).status_code == 200


@pytest.fixture
async def troubles() -> AsyncIterator[list[str]]:
    """What a page has complained of. At the end there must be nothing."""
    found: list[str] = []
    yield found
    assert found == []


async def test_the_reference_requests_only_the_gateway_and_a_user_can_try_out_the_api(
    server: LocalServer, troubles: list[str]
) -> None:
    created = await server.service.post("/v1/users", json={"sub": "ada", "password": PASSWORD})
    assert created.status_code == 201
    await server.service.notify("ada", "tried out")
    async with launched() as browser:
        context = await browser.new_context()
        page = await context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
        await page.goto(f"{server.base}/docs")
        document = (await server.http.get("/openapi.json")).json()
        operations = sum(len(path) for path in document["paths"].values())
        await expect(page.locator(".opblock")).to_have_count(operations, timeout=30_000)

        await page.get_by_role("button", name="Authorize").first.click()
        user = page.locator(".auth-container", has=page.get_by_text("OAuth2, password"))
        await user.get_by_label("username").fill("ada")
        await user.get_by_label("password", exact=False).last.fill(PASSWORD)
        await user.get_by_text("select all").click()
        await user.locator("button.authorize").click()
        await expect(user.get_by_text("Logout")).to_be_visible()
        service = page.locator(".auth-container", has=page.get_by_text("http, Bearer"))
        await service.get_by_role("textbox").fill(API_KEY)
        await service.locator("button.authorize").click()
        await page.locator(".modal-ux .close-modal").click()

        inbox = page.locator(".opblock", has=page.locator('[data-path="/v1/inbox"]')).first
        await inbox.locator(".opblock-summary-control").click()
        await inbox.get_by_role("button", name="Try it out").click()
        await inbox.get_by_role("button", name="Execute").click()
        await expect(inbox.locator(".live-responses-table .highlight-code").first).to_contain_text(
            "tried out"
        )
        kept = await page.evaluate("({ ...sessionStorage, ...localStorage })")
        await context.close()
    assert kept == {}, "what was typed in is not kept"
    assert {url for url in asked if not url.startswith(("data:", f"{server.base}/"))} == set()
    assert f"{server.base}/v1/auth/token" in asked


def bodies() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield each route with a JSON body, with the type of the body and its description in OpenAPI."""
    app = create_app(settings_for("sqlite:///unused.db"))
    schemas = app.openapi()["components"]["schemas"]
    for route in app.routes:
        if isinstance(route, APIRoute) and route.body_field is not None:
            body = route.body_field.field_info.annotation
            for model in [body, *get_args(body)]:
                if isinstance(model, type) and issubclass(model, Body):
                    yield f"{min(route.methods or ())} {route.path}", model, schemas[model.__name__]


def test_each_example_of_a_body_is_accepted() -> None:
    found = {route: (model, schema.get("examples", [])) for route, model, schema in bodies()}
    for route, (model, examples) in found.items():
        for example in examples:
            assert model.model_validate(example), route
    without = {route for route, (_, examples) in found.items() if not examples}
    assert without == {
        "POST /v1/inbox/seen",
        "POST /v1/inbox/{id}/actions/{action}",
        "POST /v1/users",
        "PATCH /v1/users/{sub}",
        "POST /v1/users/{sub}/tokens",
        "POST /v1/services",
    }


def test_the_members_of_a_notification_are_described() -> None:
    named = {"deliver_at", "expires_at", "ttl", "url", "style", "icon", "collapse_key", "actions", "data"}
    schemas = create_app(settings_for("sqlite:///unused.db")).openapi()["components"]["schemas"]
    for model in ("Notification", "Edited", "Action"):
        members = schemas[model]["properties"]
        assert [name for name in named & members.keys() if not members[name].get("description")] == [], model


def test_errors_are_described_as_they_are_sent() -> None:
    document = create_app(settings_for("sqlite:///unused.db")).openapi()
    assert not {"HTTPValidationError", "ValidationError"} & document["components"]["schemas"].keys()
