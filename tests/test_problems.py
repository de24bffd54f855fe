"""Errors are problems (RFC 9457), whatever part of the gateway makes them."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.checker import Json
from tests.clients import Service
from tests.servers import LocalServer

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
        ("DELETE", "/v1/auth/token", "POST"),
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
