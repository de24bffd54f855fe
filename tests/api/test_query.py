"""What is read of a request whose caller is not known: a little of it, however much there is."""

import re
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection

from gateway.api.callers import MAX_ADDRESS_CHARACTERS, client_address
from gateway.api.json_route import JsonRoute
from gateway.api.query import parameter
from gateway.errors import MAX_DETAIL, MAX_ERRORS, MAX_FIELD
from gateway.observability.audit import Event
from gateway.transport.conditional import MAX_VALIDATORS, MAX_VALIDATORS_LENGTH, is_known
from tests.support.clients import open_socket
from tests.support.servers import LocalServer, StartServer
from tests.support.trail import Trail


def connection(query: bytes = b"", **scope: Any) -> HTTPConnection:
    return HTTPConnection({"type": "http", "query_string": query, "headers": [], **scope})


@pytest.mark.parametrize(
    "query",
    [
        b"",
        b"since=1",
        b"since=",
        b"a=1&since=2",
        b"since=1&since=2&a=3",
        b"notsince=1",
        b"a=since=1",
        b"since=a=b&epoch=1",
        b"since=a+b%20%C3%A9%FF%zz",
        b"&&since=1&&",
        b"since=\xc3\xa9",
        b"Since=1",
    ],
)
def test_reading_one_query_parameter_agrees_with_parsing_the_whole_query(query: bytes) -> None:
    assert parameter(connection(query), "since") == QueryParams(query).get("since")


async def test_each_route_with_parameters_refuses_unknown_and_repeated_ones(server: LocalServer) -> None:
    ada = await server.user()
    client_id = (await server.service.get("/v1/services")).json()["items"][0]["client_id"]
    by_a_user = {"/v1/inbox", "/v1/inbox/changes"}
    posted = (await server.service.notify("ada"))["id"]
    by_a_service = {
        "/v1/users",
        "/v1/services",
        "/v1/services/{client_id}/keys",
        "/v1/notifications",
        "/v1/notifications/{id}/answers",
    }
    app = server.uvicorn.config.app
    assert isinstance(app, FastAPI)
    solved = {
        route.path for route in app.routes if isinstance(route, APIRoute) and route.dependant.query_params
    }
    assert solved == by_a_user | by_a_service
    for path in sorted(solved):
        caller = ada if path in by_a_user else server.service
        at = path.format(client_id=client_id, id=posted)
        assert (await caller.get(f"{at}?limit=1")).status_code == 200
        answer = await caller.get(f"{at}?limti=1")
        assert answer.status_code == 422
        assert answer.json()["errors"] == [
            {"field": "limti", "message": "there is no such parameter: did you mean limit?"}
        ]
        answer = await caller.get(f"{at}?limit=1&limit=1")
        assert answer.json()["errors"] == [
            {"field": "limit", "message": "it comes more than once: give it once"}
        ]
        assert (await server.stranger.get(f"{at}?limti=1")).status_code == 401
        other = server.service if caller is ada else ada
        assert (await other.get(f"{at}?limti=1")).status_code == 403


async def test_each_route_without_parameters_refuses_any(server: LocalServer) -> None:
    ada = await server.user("ada")
    app = server.uvicorn.config.app
    assert isinstance(app, FastAPI)
    routes = [
        route
        for route in app.routes
        if isinstance(route, JsonRoute) and route.requires_token and not route.dependant.query_params
    ]
    assert {"/v1/notifications", "/v1/notifications/batch", "/v1/auth/ticket", "/v1/inbox/{id}"} <= {
        route.path for route in routes
    }
    for route in routes:
        method = min(route.methods or ())
        at = re.sub("{.*?}", "ada", route.path)
        body = {"to": "ada", "title": "T"} if method in {"POST", "PATCH"} else None
        caller = ada if at.startswith(("/v1/inbox", "/v1/auth")) else server.service
        answer = await caller.http.request(method, f"{at}?dry_run=1", headers=caller.headers, json=body)
        assert (route.path, answer.status_code) == (route.path, 422)
        assert answer.json()["errors"] == [
            {"field": "dry_run", "message": "there is no such parameter: leave it out"}
        ]
        answer = await server.http.request(method, f"{at}?dry_run=1", json=body)
        assert (route.path, answer.status_code) == (route.path, 401)
    assert (await ada.inbox())["items"] == [], "nothing was done"


async def test_a_request_with_unknown_parameters_counts_against_the_budget(start_server: StartServer) -> None:
    server = await start_server(commands_per_second=0.5, service_calls_per_second=0.5)
    ada = await server.user("ada")
    for caller, path in ((ada, "/v1/inbox/x"), (server.service, "/v1/users/ada")):
        codes = [(await caller.get(f"{path}?x=1")).status_code for _ in range(5)]
        assert set(codes) == {422, 429}


async def test_the_oauth_and_public_endpoints_ignore_unknown_parameters(server: LocalServer) -> None:
    assert (await server.http.post("/v1/auth/revoke?x=1", data={"token": "none"})).status_code == 200
    for path in ("/healthz", "/.well-known/jwks.json"):
        assert (await server.http.get(f"{path}?x=1")).status_code == 200


async def test_many_unknown_parameters_get_a_bounded_answer(server: LocalServer) -> None:
    ada = await server.user()
    query = "&".join(f"{'x' * 100}{number}%0A=secret" for number in range(50))
    answer = await ada.get(f"/v1/inbox?{query}")
    errors = answer.json()["errors"]
    assert (answer.status_code, len(errors), "secret" in answer.text) == (422, MAX_ERRORS, False)
    assert all(len(error["field"]) <= MAX_FIELD and error["field"].isprintable() for error in errors)
    assert len(answer.json()["detail"]) <= MAX_DETAIL


async def test_a_handshake_decodes_only_the_query_parameters_that_it_needs(
    server: LocalServer, trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await server.user()
    await server.service.notify("ada")
    ticket = (await ada.post("/v1/auth/ticket")).json()["ticket"]

    def decode(_: HTTPConnection) -> QueryParams:
        raise AssertionError("the whole query is decoded")

    def queried(**known: Any) -> dict[str, Any]:
        return {f"%a{number}": "" for number in range(40)} | known | {f"%b{n}": "" for n in range(40)}

    monkeypatch.setattr(HTTPConnection, "query_params", property(decode))
    good, bad = queried(ticket=ticket, since=0), queried(ticket="none")
    async with open_socket(server.base, **good) as socket:
        assert [message["type"] for message in await socket.until("live")][1:-1] == ["notification"]
    async with open_socket(server.base, **bad) as socket:
        assert (await socket.closed())[0] == 4001
    (refused,) = trail.of(Event.REFUSED)
    assert refused["carrier"] == "ticket"


@pytest.mark.parametrize(
    ("if_none_match", "known"),
    [
        ("", False),
        ('"a"', True),
        ('W/"a"', True),
        ('"b"', False),
        ('"b", W/"a"', True),
        ("*", True),
        (", ".join(['"b"'] * (MAX_VALIDATORS - 1) + ['"a"']), True),
        (", ".join(['"b"'] * MAX_VALIDATORS + ['"a"']), False),
        ('"a"' + " " * (MAX_VALIDATORS_LENGTH - 3), True),
        ('"a"' + " " * (MAX_VALIDATORS_LENGTH - 2), False),
    ],
)
def test_if_none_match_is_evaluated_only_within_the_validator_limits(if_none_match: str, known: bool) -> None:
    for etag in ('"a"', 'W/"a"'):
        assert is_known(if_none_match, etag) is known


@pytest.mark.parametrize("path", ["/app.js", "/v1/inbox", "/.well-known/jwks.json"])
async def test_an_overlong_if_none_match_gets_the_full_response(server: LocalServer, path: str) -> None:
    ada = await server.user()
    etag = (await ada.get(path)).headers["etag"]
    known = await ada.get(path, headers={"If-None-Match": etag})
    assert known.status_code == 304
    many = await ada.get(path, headers={"If-None-Match": ",".join([etag] * (MAX_VALIDATORS + 1))})
    assert (many.status_code, many.headers["etag"]) == (200, etag)


def test_an_overlong_client_address_is_truncated() -> None:
    assert client_address(connection(client=("2001:db8::1", 1))) == "2001:db8::1"
    assert client_address(connection(client=("x" * 60_000, 1))) == "x" * MAX_ADDRESS_CHARACTERS
