"""Errors are problems (RFC 9457), whatever part of the gateway makes them."""

import asyncio
import itertools
import re
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import Connection, text

from gateway.errors import Invalid
from tests.checker import Json
from tests.clients import Service
from tests.databases import settings_for
from tests.servers import LocalServer, StartServer, serving

PROBLEM = {"type", "title", "status", "detail", "code"}


def check_problem(answer: Any, status: int, code: str) -> Json:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: Json = answer.json()
    assert set(body) - {"errors"} == PROBLEM
    assert (body["status"], body["code"]) == (status, code)
    assert isinstance(body["title"], str)
    assert isinstance(body["detail"], str)
    for error in body.get("errors", ()):
        assert set(error) == {"field", "message"}
    return body


async def test_an_unknown_path_is_a_404_problem(server: LocalServer) -> None:
    ada = await server.user()
    for path in ("/v1/nowhere", "/v1", "/v1/inbox/", "//v1/inbox", "/v1/inbox/a/b", "/%00", "/v1/../secret"):
        check_problem(await ada.get(path), 404, "not_found")


async def test_a_wrong_method_is_a_405_problem_that_says_which_are_right(server: LocalServer) -> None:
    for method, path, allowed in (
        ("GET", "/v1/notifications", "POST"),
        ("PUT", "/v1/inbox", "GET"),
        ("DELETE", "/v1/users", "POST"),
        ("POST", "/v1/inbox", "GET"),
    ):
        answer = await server.service.request(method, path)
        check_problem(answer, 405, "method_not_allowed")
        assert allowed in answer.headers["allow"]


async def test_401_403_404_413_and_422_are_problems(server: LocalServer) -> None:
    ada = await server.user()
    check_problem(await server.stranger.get("/v1/inbox"), 401, "missing_token")
    check_problem(await server.service.get("/v1/inbox"), 403, "insufficient_scope")
    missing = "/v1/inbox/01936f00-0000-7000-8000-000000000001"
    check_problem(await ada.get(missing), 404, "not_found")
    headers = {"Content-Type": "application/json"}
    too_large = await server.service.post("/v1/notifications", content=b" " * 300_000, headers=headers)
    check_problem(too_large, 413, "payload_too_large")
    invalid = await server.service.post("/v1/notifications", json={"to": "ada", "title": ""})
    body = check_problem(invalid, 422, "validation_error")
    assert [error["field"] for error in body["errors"]] == ["title"]


async def test_a_body_of_another_type_is_a_problem(server: LocalServer) -> None:
    good = b'{"to": "ada", "title": "x"}'
    for path in ("/v1/notifications", "/v1/notifications/batch"):
        for kind in ("text/plain", "application/xml", "nonsense"):
            answer = await server.service.post(path, content=good, headers={"Content-Type": kind})
            assert answer.status_code in {415, 422}, answer.text
            assert answer.headers["content-type"] == "application/problem+json"


async def test_a_field_that_is_wrong_is_named_with_what_is_expected_of_it(
    server: LocalServer, subtests: pytest.Subtests
) -> None:
    many = "it must be the id of a user, or a list of 1 to 1,000 of them"
    post, no_object = {"title": "x"}, "it must be a JSON object"
    cases: list[tuple[str, object, str, str]] = [
        ("/v1/notifications", post | {"to": ""}, "to", "it must have 1 to 255 characters"),
        ("/v1/notifications", post | {"to": 5}, "to", many),
        ("/v1/notifications", post | {"to": []}, "to", many),
        ("/v1/notifications", post | {"to": ["ada"] * 1001}, "to", many),
        ("/v1/notifications", post | {"to": ["ada", ""]}, "to.1", "String should have at least 1 character"),
        ("/v1/notifications", [post], "body", no_object),
        ("/v1/notifications", post | {"to": "ada", "data": []}, "data", no_object),
        ("/v1/notifications/batch", [5], "0", no_object),
        ("/v1/users", [], "body", no_object),
    ]
    for path, body, field, message in cases:
        with subtests.test(f"{path} {field}"):
            answer = await server.service.post(path, json=body)
            found = check_problem(answer, 422, "validation_error")
            assert found["errors"] == [{"field": field, "message": message}]


async def test_a_problem_tells_no_value_of_the_request(server: LocalServer) -> None:
    secret = "a secret that must stay one"
    requests: list[tuple[Service, str, str, Json]] = [
        (server.service, "POST", "/v1/users", {"json": {"sub": "ada", "password": secret, "x": secret}}),
        (server.service, "POST", "/v1/users", {"json": {"sub": "ada", "password": [secret]}}),
        (Service(server.http, secret.replace(" ", "-")), "GET", "/v1/inbox", {}),
        (server.service, "POST", "/v1/notifications", {"json": {"to": "ada", "title": [secret]}}),
    ]
    for caller, method, path, options in requests:
        answer = await caller.request(method, path, **options)
        assert answer.status_code >= 400
        assert secret not in answer.text
        assert secret.replace(" ", "-") not in answer.text


LONG = '\U0001f511\x1b"' * 20_000
"""What is long in JSON too: four bytes, six, or two for a character."""

MOST = 16 * 1024
"""How many bytes an error has at most, head and body each."""


def hostile(path: str) -> list[Json]:
    """Return requests whose path, query, headers and bodies are as long as they can be."""
    unknown = {f"{LONG[:2000]}{number}": LONG[:100] for number in range(20)}
    many = {f"{number:x}": number for number in range(20_000)}
    filled = re.sub(r"\{[^}]+\}", "%1B" * 2000, path)
    return [
        {"url": filled, "content": b""},
        {"url": filled, "json": unknown},
        {"url": filled, "json": many},
        {"url": filled, "json": {LONG: 1}},
        {"url": filled, "json": {LONG[:3000]: 1}},
        {
            "url": filled,
            "json": {"to": LONG[:600], "ids": [LONG[:300]], "sub": LONG[:600], "scopes": [LONG[:600]]},
        },
        {"url": filled, "json": [unknown] * 5},
        {"url": filled, "json": {"to": [LONG[:1000]] * 100, "title": LONG, "ids": [LONG[:300]] * 100}},
        {"url": filled, "json": {"sub": LONG, "password": LONG, "name": LONG, "scopes": [LONG[:999]] * 50}},
        {"url": filled, "content": b"{" + b'"' * 1000, "headers": {"Content-Type": "application/json"}},
        {"url": filled, "data": {"grant_type": LONG, "scope": LONG}},
        {"url": f"{filled}?{urlencode({LONG[:900]: 1})}&limit={'1' * 9000}&cursor={'%1B' * 5000}"},
        {"url": f"{filled}?epoch={'e' * 9000}&since={'1' * 9000}&category={'c' * 9000}"},
        {"url": filled, "headers": {"Idempotency-Key": "k" * 9000, "X-Request-ID": "i" * 9000}},
        {"url": filled, "headers": {"Content-Type": "t" * 9000, "Last-Event-ID": "1" * 9000}},
        {
            "url": filled,
            "headers": {"Authorization": "Bearer " + "e." * 9000, "Origin": "http://" + "o" * 9000},
        },
    ]


def test_an_error_is_bounded_whoever_raises_it() -> None:
    error = Invalid(LONG, errors=[{"field": LONG, "message": LONG}] * 1000)
    assert [len(error.detail), len(str(error)), len(error.errors)] == [1000, 1000, 20]
    assert {(len(one["field"]), len(one["message"])) for one in error.errors} == {(64, 200)}
    assert error.detail.isprintable()


async def refusal(caller: Service, method: str, options: Json) -> int:
    """Send a request, and return the status of a refusal, whose size is looked at; else 0."""
    headers = {**caller.headers, **options.get("headers", {})}
    async with caller.http.stream(method, **{**options, "headers": headers}) as answer:
        if answer.status_code < 400:
            return 0
        assert len(await answer.aread()) <= MOST, (method, options["url"][:50], answer.text[:200])
        assert sum(len(name) + len(value) for name, value in answer.headers.raw) <= MOST
        return answer.status_code


async def test_no_error_is_longer_than_16_kib_whatever_is_sent_to_whatever_path(sqlite_url: str) -> None:
    async with serving(settings_for(sqlite_url, unknown_recipients="reject")) as server:
        ada = Service(server.http, (await server.user("ada")).token)
        paths: dict[str, Json] = (await server.stranger.get("/openapi.json")).json()["paths"]
        statuses: list[int] = []
        for path, operations in {**paths, "/v1/ws": {"get": {}}, "/" + "n" * 9000: {"get": {}}}.items():
            is_users = re.match("/v1/(inbox|stream|ws|auth/ticket)", path)
            caller = ada if is_users else server.service
            statuses.append(await refusal(caller, "PUT", hostile(path)[0]))
            for method, options in itertools.product(operations, hostile(path)):
                statuses.append(await refusal(caller, method.upper(), options))
        assert {400, 404, 405, 413, 422, 426} <= set(statuses)
        assert statuses.count(422) > 100


async def test_a_member_that_no_body_has_is_named_in_short_and_too_many_are_not_looked_at(
    server: LocalServer,
) -> None:
    ada = await server.user("ada")
    for caller, method, path in (
        (server.service, "POST", "/v1/notifications"),
        (server.service, "POST", "/v1/users"),
        (ada, "POST", "/v1/inbox/read"),
    ):
        answer = await caller.request(method, path, json={"x" * 10_000: 1})
        fields = [one["field"] for one in check_problem(answer, 422, "validation_error")["errors"]]
        assert "x" * 63 + "…" in fields
        many = await caller.request(method, path, json=dict.fromkeys(map(str, range(21)), 1))
        (error,) = check_problem(many, 422, "validation_error")["errors"]
        assert (error["field"], "20 members" in error["message"]) == ("body", True)


async def test_of_many_unknown_recipients_the_first_are_named_and_all_are_counted(
    start_server: StartServer,
) -> None:
    server = await start_server(unknown_recipients="reject")
    names = [f"{number:04}" + "x" * 251 for number in range(1000)]
    batch = [{"to": names, "title": "t"}] * 5
    for path, body in (("/v1/notifications", batch[0]), ("/v1/notifications/batch", batch)):
        answer = await server.service.post(path, json=body)
        problem = check_problem(answer, 422, "validation_error")
        assert problem["detail"] == "1,000 recipients are not known to the gateway."
        assert [one["message"][:22] for one in problem["errors"]] == [
            f"There is no user '{name[:4]}" for name in names[:20]
        ]
        assert len(answer.content) < MOST


@pytest.fixture
async def broken(server: LocalServer) -> LocalServer:
    """A gateway whose database has lost a table: what nobody has foreseen."""

    def drop(connection: Connection) -> None:
        connection.execute(text("DROP TABLE items"))

    # It is in the log, where it belongs.
    server.expected += ["items", "could not be stored", "Exception in ASGI application"]
    await server.user()
    await server.parts.database.write(drop)
    return server


async def test_what_nobody_has_foreseen_is_a_problem_without_sql_or_a_trace(broken: LocalServer) -> None:
    ada = await broken.user()
    attempts = (
        ada.get("/v1/inbox"),
        broken.service.post("/v1/notifications", json={"to": "ada", "title": "x"}),
        ada.post("/v1/inbox/read", json={"up_to": 1}),
    )
    for answer in await asyncio.gather(*attempts):
        assert answer.status_code in {500, 503}
        body = check_problem(answer, answer.status_code, answer.json()["code"])
        for word in ("SELECT", "items", "Traceback", "sqlite", "asyncpg", "sqlalchemy"):
            assert word not in str(body)
    assert await broken.user() is not None


async def test_head_and_options_are_no_failures(server: LocalServer) -> None:
    for method in ("HEAD", "OPTIONS", "TRACE"):
        for path in ("/v1/inbox", "/v1/notifications", "/v1/ws", "/nowhere"):
            answer = await server.service.request(method, path)
            assert 200 <= answer.status_code < 500
