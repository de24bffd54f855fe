"""Errors are problems (RFC 9457), whatever part of the gateway makes them."""

import asyncio
import itertools
import json
import re
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from sqlalchemy import Connection, text

from gateway.auth import users
from gateway.auth.services import new_key
from gateway.errors import Invalid
from tests.support.checker import Json
from tests.support.clients import Service, User
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, StartServer, serving

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


async def test_a_wrong_method_gets_a_405_problem_that_lists_the_allowed_methods(server: LocalServer) -> None:
    for method, path, allowed in (
        ("PUT", "/v1/notifications", "POST"),
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


async def test_an_unsupported_content_type_gets_a_problem(server: LocalServer) -> None:
    good = b'{"to": "ada", "title": "x"}'
    for path in ("/v1/notifications", "/v1/notifications/batch"):
        for kind in ("text/plain", "application/xml", "nonsense"):
            answer = await server.service.post(path, content=good, headers={"Content-Type": kind})
            assert answer.status_code in {415, 422}, answer.text
            assert answer.headers["content-type"] == "application/problem+json"


async def test_an_invalid_field_is_named_with_its_rule(
    server: LocalServer, subtests: pytest.Subtests
) -> None:
    many = "it must be the id of a user, or a list of 1 to 1,000 of them"
    post, no_object = {"title": "x"}, "it must be a JSON object"
    cases: list[tuple[str, object, str, str]] = [
        ("/v1/notifications", post | {"to": ""}, "to", "it must have 1 to 255 characters"),
        ("/v1/notifications", post | {"to": 5}, "to", many),
        ("/v1/notifications", post | {"to": []}, "to", many),
        ("/v1/notifications", post | {"to": ["ada"] * 1001}, "to", many),
        ("/v1/notifications", post | {"to": ["ada", ""]}, "to.1", "it must have at least 1 character"),
        ("/v1/notifications", [post], "body", f"{no_object}: an array is sent to /v1/notifications/batch"),
        ("/v1/notifications", post | {"to": "ada", "data": []}, "data", no_object),
        ("/v1/notifications/batch", [5], "0", no_object),
        ("/v1/users", [], "body", no_object),
    ]
    for path, body, field, message in cases:
        with subtests.test(f"{path} {field}"):
            answer = await server.service.post(path, json=body)
            found = check_problem(answer, 422, "validation_error")
            assert found["errors"] == [{"field": field, "message": message}]


async def test_an_unknown_member_gets_a_suggestion(server: LocalServer) -> None:
    there_is_none = "there is no such member"
    known = f"{there_is_none}, only disabled, password"
    ada = await server.user()
    cases: list[tuple[Service | User, str, str, Json, str, str]] = [
        (server.service, "POST", "/v1/notifications", {"to": "ada", "titel": "x"}, "titel", "title"),
        (server.service, "POST", "/v1/notifications", {"To": "ada", "title": "x"}, "To", "to"),
        (server.service, "POST", "/v1/users", {"sub": "bob", "passwrd": "x"}, "passwrd", "password"),
        (server.service, "POST", "/v1/users/ada/tokens", {"tll": 60}, "tll", "ttl"),
        (ada, "POST", "/v1/inbox/read", {"upto": 1}, "upto", "up_to"),
    ]
    for caller, method, path, body, field, meant in cases:
        answer = await caller.request(method, path, json=body)
        found = check_problem(answer, 422, "validation_error")
        message = f"{there_is_none}: did you mean {meant}?"
        assert {"field": field, "message": message} in found["errors"]
        assert f"{field}: {message}" in found["detail"]
    answer = await server.service.patch("/v1/users/ada", json={"colour": "red"})
    assert check_problem(answer, 422, "validation_error")["errors"] == [{"field": "colour", "message": known}]
    answer = await server.service.patch("/v1/users/ada", json={"disabled" * 100: True})
    assert check_problem(answer, 422, "validation_error")["errors"][0]["message"] == known


async def test_an_ndjson_error_names_the_line_number_that_an_editor_shows(
    server: LocalServer, subtests: pytest.Subtests
) -> None:
    good = '{"to": "ada", "title": "x"}'
    whole = "each notification takes one whole line (curl: --data-binary keeps line breaks, -d does not)"
    no = "it is not JSON at column"
    within, many = "it ends within an object", json.dumps({str(number): 0 for number in range(21)})
    cases = [
        (f'{good}\n\n\n{{"to": "ada"}}\n', "1.title", "line 4, title: it is required"),
        (f"\r\n{good}\r\n7\r\n", "1", "line 3: it must be a JSON object"),
        (
            f'{good}\n\n  {{"to": "ada",}}\n',
            "1",
            "line 3: it is not JSON at column 16: nothing follows the comma",
        ),
        (f'{good}\n{{"to": "ädä" "title"}}\n', "1", f"line 2: {no} 14: a comma or }}"),
        (
            f"\n\n{good}{good}",
            "0",
            f"line 3: {no} 28: something follows the end: {whole}",
        ),
        ('{\n"to": "ada",\n"title": "x"}', "0", f"line 1: {no} 1: {within}: {whole}"),
        (f"[{good}]", "0", "line 1: it must be a JSON object: an array is sent as application/json"),
        (f"\n{many}\n", "0", "line 2: it has more than 20 members"),
    ]
    for lines, field, detail in cases:
        with subtests.test(detail):
            headers = {"Content-Type": "application/x-ndjson"}
            answer = await server.service.post("/v1/notifications/batch", content=lines, headers=headers)
            found = check_problem(answer, 422, "validation_error")
            assert found["detail"].startswith(detail), found["detail"]
            assert found["errors"][0]["field"] == field
            assert re.search(r"line \d", found["errors"][0]["message"])


async def test_a_json_syntax_error_is_reported_with_its_line_and_column(
    server: LocalServer, subtests: pytest.Subtests
) -> None:
    one, many, no = "/v1/notifications", "/v1/notifications/batch", "it is not JSON at line"
    cases = [
        (
            one,
            '{"to": "ada",\n "title": \'x\'}',
            f"body: {no} 2, column 11: a value",
        ),
        (
            one,
            '{"to": "ada", "title": "x"',
            f"body: {no} 1, column 26: it ends within an object",
        ),
        (
            many,
            '[\n{"to": "ada", "title": "x"},\n{"to": "ada" "title"}]',
            "1: it is not JSON at line 3, column 14",
        ),
        (
            many,
            '[\n{"to": "ada", "title": "x"},\n {"to": NaN}]',
            "1: it is not JSON at line 3, column 9: a value",
        ),
        (
            many,
            '[\n{"to": "ada", "title": "x"}\n{}]',
            "body: it is not JSON at line 3, column 1: a comma or ]",
        ),
        (many, "[]\n\n[]", f"body: {no} 3, column 1: something follows"),
    ]
    for path, written, detail in cases:
        with subtests.test(detail):
            headers = {"Content-Type": "application/json"}
            answer = await server.service.post(path, content=written, headers=headers)
            found = check_problem(answer, 422, "validation_error")
            assert found["detail"].startswith(detail), found["detail"]


async def test_a_body_sent_to_the_wrong_post_route_gets_a_hint(server: LocalServer) -> None:
    good = '{"to": "ada", "title": "x"}'
    array = "send the array itself, such as [{…}, {…}], or objects on lines as application/x-ndjson"
    cases = {
        "/v1/notifications": (
            f"[{good}]",
            "body: it must be a JSON object: an array is sent to /v1/notifications/batch",
        ),
        "/v1/notifications/batch": (f"{good}\n{good}\n", f"body: it is not a JSON array: {array}"),
    }
    for path, (content, detail) in cases.items():
        headers = {"Content-Type": "application/json"}
        answer = await server.service.post(path, content=content, headers=headers)
        assert check_problem(answer, 422, "validation_error")["detail"] == detail


async def test_a_403_for_an_api_key_does_not_call_it_a_token(server: LocalServer) -> None:
    made = (await server.service.post("/v1/services", json={"name": "n", "scopes": ["notify"]})).json()
    keys = f"/v1/services/{made['client_id']}/keys"
    headers = {"Authorization": f"Bearer {(await server.service.post(keys)).json()['key']}"}
    for path in ("/v1/users", "/v1/inbox"):
        found = check_problem(await server.stranger.get(path, headers=headers), 403, "insufficient_scope")
        assert found["title"] == "The token or API key does not allow this"
    answer = await server.stranger.post("/v1/users", json={"sub": "x"}, headers=headers)
    assert "This needs the scope 'admin'" in check_problem(answer, 403, "insufficient_scope")["detail"]


async def test_a_browser_gets_an_html_404_and_other_clients_get_a_problem(
    server: LocalServer,
) -> None:
    html = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    answer = await server.stranger.get("/orders/7", headers=html)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["vary"] == "Accept"
    assert "There is no such page" in answer.text
    refused = [
        await server.stranger.get("/orders/7"),
        await server.stranger.get("/v1/orders/7", headers=html),
        await server.stranger.post("/orders/7", headers=html),
    ]
    for one in refused:
        check_problem(one, 404, "not_found")


async def test_a_misspelled_path_gets_a_suggestion(server: LocalServer) -> None:
    cases = {
        "/notifications": "/v1/notifications",
        "/api/v1/notifications": "/v1/notifications",
        "//v1/inbox": "/v1/inbox",
        "/v1/inbox/": "/v1/inbox",
        "/v1/notification": "/v1/notifications",
        "/users/ada/tokens": "/v1/users/{sub}/tokens",
        "/ws": "/v1/ws",
    }
    for path, meant in cases.items():
        answer = await server.service.get(path)
        found = check_problem(answer, 404, "not_found")
        assert found["detail"] == f"There is no such path: did you mean {meant}?"
    odd = {
        "/v1/users/a/b/tokens": "/v1/users/{sub}/tokens, with a slash in the id as %2F",
        "/v1/users/a/b/c/sessions": "/v1/users/{sub}/sessions, with a slash in the id as %2F",
        "/v1/users/a/b": "/v1/users/{sub}, with a slash in the id as %2F",
        "/v1/users//tokens": "/v1/users/{sub}/tokens, with an id that is not empty",
        "/v1/users/ada//tokens": "/v1/users/{sub}/tokens",
        "/v1/users/ada/": "/v1/users/{sub}",
    }
    for path, meant in odd.items():
        found = check_problem(await server.service.get(path), 404, "not_found")
        assert found["detail"] == f"There is no such path: did you mean {meant}?"
    found = check_problem(await server.service.get("/v1/nowhere"), 404, "not_found")
    assert found["detail"] == "There is no such path. Those of the API begin with /v1."
    found = check_problem(await server.service.get("/v1/notifications/batch"), 404, "not_found")
    found = check_problem(await server.service.delete("/v1/inbox"), 405, "method_not_allowed")
    assert found["detail"] == "This path takes another method: GET, HEAD."


async def test_an_error_about_an_api_key_calls_it_an_api_key(
    server: LocalServer, subtests: pytest.Subtests
) -> None:
    key = str(server.service.token)
    ada, posts = await server.user(), "/v1/notifications"
    no_bearer, bad_key = "The header Authorization", "The API key is not valid"
    cases: list[tuple[str, str, str, str, str]] = [
        (f"Bearer {key[:-1]}", posts, "invalid_token", bad_key, "mistyped"),
        (
            f"Bearer {new_key()[2]}",
            posts,
            "invalid_token",
            bad_key,
            "deleted",
        ),
        (
            key,
            posts,
            "missing_token",
            "The header Authorization",
            "'Authorization: Bearer ngk_…'",
        ),
        ("Basic eDp5", "/v1/users", "missing_token", no_bearer, "'Authorization: Bearer …'"),
        (
            f"Token {key}",
            "/v1/users",
            "missing_token",
            "The header Authorization",
            "'Authorization: Bearer …'",
        ),
        (
            "Bearer secret",
            posts,
            "invalid_token",
            "The token is not valid",
            "an API key (ngk_…)",
        ),
        *(
            (header, path, "missing_token", "A token or an API key is needed", "Nothing follows Bearer")
            for header in ("Bearer", "bearer")
            for path in (posts, "/v1/auth/ticket")
        ),
        *(
            (f"Bearer {given}", posts, "invalid_token", "The token is not valid", hint)
            for given, hint in {
                f"Bearer {key}": "The word Bearer comes twice",
                f'"{key}"': "in quotes or brackets",
                f"<{key}>": "in quotes or brackets",
                "$GATEWAY_KEY": "the name of a variable",
                "${GATEWAY_KEY}": "the name of a variable",
                "{{key}}": "the name of a variable",
                "undefined": "an unset variable",
                "None": "an unset variable",
            }.items()
        ),
        (f"Bearer {ada.token}", posts, "insufficient_scope", "The token", "not a user"),
    ]
    for header, path, code, title, hint in cases:
        with subtests.test(f"{code} {hint}"):
            answer = await server.http.post(path, headers={"Authorization": header}, json={})
            found = check_problem(answer, answer.status_code, code)
            assert found["title"].startswith(title)
            assert hint in found["detail"]
            assert key not in answer.text
    answer = await server.service.get("/v1/inbox")
    assert "not the key or token of a service" in check_problem(answer, 403, "insufficient_scope")["detail"]


async def test_a_post_to_a_star_creates_no_user(server: LocalServer) -> None:
    post = {"title": "x"}
    rule = "it does not stand for every user: name each recipient, up to 1,000 in one post"
    star = "'*' is not a user: name each recipient, up to 1,000 in one post"
    for to, field in (("*", "to"), (["ada", "*"], "to.1")):
        answer = await server.service.post("/v1/notifications", json=post | {"to": to})
        found = check_problem(answer, 422, "validation_error")
        assert found["errors"] == [{"field": field, "message": star}]
    named = ("all", "everyone", "EVERYone", "Everybody", "broadcast", "@here", " all ", ["ada", "@all"])
    for to in named:
        answer = await server.service.post("/v1/notifications", json=post | {"to": to})
        found = check_problem(answer, 422, "validation_error")
        name = to if isinstance(to, str) else to[-1]
        assert found["errors"] == [{"field": "to", "message": f"there is no user '{name}', and {rule}"}]
        assert found["detail"] == f"to: there is no user '{name}', and {rule}"
    answer = await server.service.post(
        "/v1/notifications/batch", json=[post | {"to": "ada"}, post | {"to": "*"}]
    )
    assert check_problem(answer, 422, "validation_error")["errors"] == [{"field": "1.to", "message": star}]
    assert await _subs(server) == []


async def test_a_user_with_the_sub_star_cannot_be_created(server: LocalServer) -> None:
    rule = "no user can be called '*', because no post reaches it: choose another id"
    for sub in ("*", " * "):
        for path, body in (("/v1/users", {"sub": sub}), (f"/v1/users/{quote(sub)}/tokens", {})):
            answer = await server.service.post(path, json=body)
            found = check_problem(answer, 422, "validation_error")
            assert found["errors"] == [{"field": "sub", "message": rule}]
    assert await _subs(server) == []


async def test_an_existing_user_with_the_sub_star_keeps_access(server: LocalServer) -> None:
    await server.state.database.write(users.add_missing_users, ["*"], 0)
    assert (await (await server.user("*")).inbox())["unread"] == 0


async def _subs(server: LocalServer) -> list[str]:
    users = (await server.service.get("/v1/users")).json()["items"]
    return [one["sub"] for one in users]


async def test_a_user_with_the_sub_all_is_an_ordinary_user(server: LocalServer) -> None:
    everyone = await server.user("all")
    await server.service.notify("all")
    assert (await everyone.inbox())["unread"] == 1


async def test_a_problem_type_links_to_its_code_on_the_errors_page(server: LocalServer) -> None:
    page = await server.stranger.get("/errors")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for path, code in (
        ("/v1/inbox", "missing_token"),
        ("/nowhere", "not_found"),
        ("/v1/ws", "upgrade_required"),
    ):
        problem = (await server.stranger.get(path)).json()
        assert (problem["code"], problem["type"]) == (code, f"/errors#{code}")
        assert f'<tr id="{code}">' in page.text


async def test_a_problem_type_is_an_absolute_url_if_the_public_url_is_set(
    start_server: StartServer,
) -> None:
    server = await start_server(public_url="https://example.com/notify/")
    problem = (await server.stranger.get("/v1/inbox")).json()
    assert problem["type"] == "https://example.com/notify/errors#missing_token"


async def test_a_problem_never_repeats_a_value_of_the_request(server: LocalServer) -> None:
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
    filled = re.sub(r"\{[^}]+\}", "%1B" * 600, path)
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


def test_the_length_of_an_error_is_limited() -> None:
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


async def test_no_error_exceeds_16_kib_for_any_request_to_any_path(sqlite_url: str) -> None:
    async with serving(settings_for(sqlite_url, unknown_recipients="reject")) as server:
        ada = Service(server.http, (await server.user("ada")).token)
        paths: dict[str, Json] = (await server.stranger.get("/openapi.json")).json()["paths"]
        statuses: list[int] = []
        for path, operations in {**paths, "/v1/ws": {"get": {}}, "/" + "n" * 4000: {"get": {}}}.items():
            is_users = re.match("/v1/(inbox|stream|ws|auth/ticket)", path)
            caller = ada if is_users else server.service
            statuses.append(await refusal(caller, "PUT", hostile(path)[0]))
            for method, options in itertools.product(operations, hostile(path)):
                statuses.append(await refusal(caller, method.upper(), options))
        assert {400, 404, 405, 413, 422, 426} <= set(statuses)
        assert statuses.count(422) > 100


async def test_an_unknown_members_name_is_truncated_and_too_many_members_are_one_error(
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


CREATE_FIRST = "create the user first, with POST /v1/users or gateway user add"
FIRST_TWO = "to: there is no user 'a'; to: there is no user 'b'"


async def test_the_detail_names_unknown_recipients_and_says_what_to_do(start_server: StartServer) -> None:
    server = await start_server(unknown_recipients="reject")
    cases: dict[str, list[str]] = {
        f"to: there is no user 'zed2': {CREATE_FIRST}": ["zed2"],
        f"{FIRST_TWO} (2 unknown recipients): {CREATE_FIRST}": ["b", "a"],
    }
    for detail, to in cases.items():
        answer = await server.service.post("/v1/notifications", json={"to": to, "title": "t"})
        problem = check_problem(answer, 422, "validation_error")
        assert problem["detail"] == detail
        assert problem["errors"] == [
            {"field": "to", "message": f"there is no user '{sub}'"} for sub in sorted(to)
        ]
    audiences = await server.service.post("/v1/notifications", json={"to": ["all", "@all"], "title": "t"})
    assert check_problem(audiences, 422, "validation_error")["detail"].endswith(" (2 unknown recipients)")


async def test_many_unknown_recipients_are_counted_and_only_the_first_are_named(
    start_server: StartServer,
) -> None:
    server = await start_server(unknown_recipients="reject")
    names = [f"{number:04}" + "x" * 251 for number in range(1000)]
    batch = [{"to": names[at : at + 200], "title": "t"} for at in range(0, len(names), 200)]
    one = {"to": names, "title": "t"}
    for path, body in (("/v1/notifications", one), ("/v1/notifications/batch", batch)):
        answer = await server.service.post(path, json=body)
        problem = check_problem(answer, 422, "validation_error")
        *three, rest = problem["detail"].split("; ")[:2] + problem["detail"].split("; ")[2].split("' (")
        assert three == [f"to: there is no user '{name[:63]}…'" for name in names[:2]] + [
            f"to: there is no user '{names[2][:63]}…"
        ]
        assert rest == f"1,000 unknown recipients): {CREATE_FIRST}"
        assert [one["message"][:22] for one in problem["errors"]] == [
            f"there is no user '{name[:4]}" for name in names[:20]
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
    await server.state.database.write(drop)
    return server


async def test_an_unexpected_error_is_a_problem_without_sql_or_a_traceback(broken: LocalServer) -> None:
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


async def test_head_options_and_trace_never_cause_a_server_error(server: LocalServer) -> None:
    for method in ("HEAD", "OPTIONS", "TRACE"):
        for path in ("/v1/inbox", "/v1/notifications", "/v1/ws", "/nowhere"):
            answer = await server.service.request(method, path)
            assert 200 <= answer.status_code < 500
