"""Every route with every kind of caller: one table says what is expected, and a route without a row fails.

The routes are those of the OpenAPI, and the socket, which OpenAPI has no words for.
"""

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from websockets.exceptions import WebSocketException

from gateway.app import create_app
from tests.support.checker import Json
from tests.support.clients import Caller, Service, open_socket
from tests.support.databases import settings_for
from tests.support.issuer import Issuer, new_key
from tests.support.servers import LocalServer, StartServer

PASSWORD = "correct horse battery"
MISSING = "01a1fbec-66d3-7f3c-b907-ac5c85c58cb1"
"""The id of nothing."""

# --- who calls ----------------------------------------------------------------------------------------------

UNKNOWN = {
    "nobody": "missing_token",
    "garbage": "invalid_token",
    "a disabled user": "token_revoked",
    "an erased user": "token_revoked",
    "a user who signed out": "token_revoked",
    "a deleted service": "token_revoked",
    "a deleted key": "token_revoked",
    "a foreign issuer": "invalid_token",
}
"""Callers whose token does not hold, and what they are told."""

USERS = ("ada", "bob", "a trusted issuer's user")
SCOPES = ("notify", "tokens:mint", "admin")
SERVICES = (*SCOPES, "a token narrowed to tokens:mint")
CALLERS = (*UNKNOWN, *USERS, *SERVICES)


# --- what is expected ---------------------------------------------------------------------------------------

OPEN = dict.fromkeys(CALLERS, 200)


def only(status: int, *allowed: str, **others: int) -> dict[str, int]:
    """Return what these callers get; everybody else who is known gets 403, and who is not, 401."""
    known = dict.fromkeys((*USERS, *SERVICES), 403)
    return dict.fromkeys(UNKNOWN, 401) | known | dict.fromkeys(allowed, status) | others


def inbox(status: int) -> dict[str, int]:
    """Return what is expected where each user has an own one."""
    return only(status, *USERS)


def adas(status: int) -> dict[str, int]:
    """Return what is expected where it is ada's: other users are told that there is no such thing."""
    return only(status, "ada") | dict.fromkeys(USERS[1:], 404)


def admin(status: int) -> dict[str, int]:
    """Return what is expected of the management API."""
    return only(status, "admin")


@dataclass(frozen=True)
class Row:
    """What a route does for each caller, and how it is called: `path` and `body` are given what is fresh."""

    expected: dict[str, int]
    path: str
    body: Any = None
    form: dict[str, str] | None = None


PREFERENCES: Json = {"categories": {}, "timezone": None, "quiet_hours": [], "quiet_until": None}

TABLE = {
    "POST /v1/notifications": Row(only(201, "notify"), "/v1/notifications", {"to": "ada", "title": "Hello"}),
    "POST /v1/notifications/batch": Row(
        only(201, "notify"), "/v1/notifications/batch", [{"to": "ada", "title": "Hello"}]
    ),
    "GET /v1/notifications": Row(only(200, "admin", "notify"), "/v1/notifications"),
    # The one who posted it is another service; `admin` reads and changes any.
    "GET /v1/notifications/{id}": Row(only(200, "admin", notify=404), "/v1/notifications/{id}"),
    "PATCH /v1/notifications/{id}": Row(
        only(200, "admin", notify=404), "/v1/notifications/{id}", {"title": "New"}
    ),
    "DELETE /v1/notifications/{id}": Row(only(200, "admin", notify=404), "/v1/notifications/{id}"),
    "GET /v1/notifications/{id}/answers": Row(
        only(200, "admin", notify=404), "/v1/notifications/{id}/answers"
    ),
    "GET /v1/inbox": Row(inbox(200), "/v1/inbox"),
    "GET /v1/inbox/changes": Row(inbox(200), "/v1/inbox/changes"),
    "POST /v1/inbox/read": Row(inbox(200), "/v1/inbox/read", {"up_to": 1}),
    "POST /v1/inbox/seen": Row(inbox(200), "/v1/inbox/seen", {"up_to": 1}),
    "GET /v1/inbox/preferences": Row(inbox(200), "/v1/inbox/preferences"),
    "PUT /v1/inbox/preferences": Row(inbox(200), "/v1/inbox/preferences", PREFERENCES),
    "GET /v1/stream": Row(inbox(200), "/v1/stream"),
    "GET /v1/inbox/{id}": Row(adas(200), "/v1/inbox/{id}"),
    "PATCH /v1/inbox/{id}": Row(adas(200), "/v1/inbox/{id}", {"read": True}),
    "DELETE /v1/inbox/{id}": Row(adas(204), "/v1/inbox/{id}"),
    "POST /v1/inbox/{id}/actions/{action}": Row(adas(200), "/v1/inbox/{id}/actions/yes"),
    # Who signs in has no token yet; one that is sent along is not looked at.
    "POST /v1/auth/token": Row(
        OPEN,
        "/v1/auth/token",
        form={"grant_type": "password", "username": "signs-in", "password": PASSWORD},
    ),
    "POST /v1/auth/revoke": Row(OPEN, "/v1/auth/revoke", form={"token": "no token"}),
    "POST /v1/auth/ticket": Row(inbox(200), "/v1/auth/ticket"),
    "GET /.well-known/jwks.json": Row(OPEN, "/.well-known/jwks.json"),
    "GET /.well-known/oauth-authorization-server": Row(OPEN, "/.well-known/oauth-authorization-server"),
    "GET /healthz": Row(OPEN, "/healthz"),
    "GET /readyz": Row(OPEN, "/readyz"),
    "POST /v1/users": Row(admin(201), "/v1/users", {"sub": "{new}"}),
    "GET /v1/users": Row(admin(200), "/v1/users"),
    "GET /v1/users/{sub}": Row(admin(200), "/v1/users/{sub}"),
    "PATCH /v1/users/{sub}": Row(admin(200), "/v1/users/{sub}", {"disabled": True}),
    "DELETE /v1/users/{sub}": Row(admin(204), "/v1/users/{sub}"),
    "DELETE /v1/users/{sub}/sessions": Row(admin(204), "/v1/users/{sub}/sessions"),
    "POST /v1/users/{sub}/tokens": Row(
        only(201, "tokens:mint", "a token narrowed to tokens:mint"), "/v1/users/{sub}/tokens"
    ),
    "GET /v1/users/{sub}/preferences": Row(admin(200), "/v1/users/{sub}/preferences"),
    "PUT /v1/users/{sub}/preferences": Row(admin(200), "/v1/users/{sub}/preferences", PREFERENCES),
    "POST /v1/services": Row(admin(201), "/v1/services", {"name": "new", "scopes": ["notify"]}),
    "GET /v1/services": Row(admin(200), "/v1/services"),
    "GET /v1/services/{client_id}": Row(admin(200), "/v1/services/{client_id}"),
    "DELETE /v1/services/{client_id}": Row(admin(204), "/v1/services/{client_id}"),
    "POST /v1/services/{client_id}/keys": Row(admin(201), "/v1/services/{client_id}/keys"),
    "GET /v1/services/{client_id}/keys": Row(admin(200), "/v1/services/{client_id}/keys"),
    "DELETE /v1/services/{client_id}/keys/{key_id}": Row(
        admin(204), "/v1/services/{client_id}/keys/{key_id}"
    ),
}

SOCKET = dict.fromkeys(UNKNOWN, 4001) | dict.fromkeys(USERS, 1000) | dict.fromkeys(SERVICES, 4003)
"""With which code a socket closes: 1000 is the client's own, after `hello`."""


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    paths = create_app(settings_for("sqlite:///unused.db")).openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert routes == set(TABLE)


def test_every_row_covers_every_caller() -> None:
    rows = {name: row.expected for name, row in TABLE.items()} | {"the socket": SOCKET}
    assert {name: set(expected) ^ set(CALLERS) for name, expected in rows.items()} == {
        name: set() for name in rows
    }


def test_every_protected_operation_declares_its_security_in_openapi() -> None:
    paths = create_app(settings_for("sqlite:///unused.db")).openapi()["paths"]
    secured = {
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        for method, operation in methods.items()
        if operation.get("security")
    }
    assert secured == {name for name, row in TABLE.items() if row.expected is not OPEN}


# --- the callers --------------------------------------------------------------------------------------------


async def backend(server: LocalServer, *scopes: str) -> tuple[Json, Json]:
    """Return a new service and a key of it."""
    made = await server.service.post("/v1/services", json={"name": "s", "scopes": list(scopes)})
    key = await server.service.post(f"/v1/services/{made.json()['client_id']}/keys")
    return made.json(), key.json()


async def service_token(server: LocalServer, service: Json, scope: str = "") -> str:
    form = {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {})
    credentials = base64.b64encode(f"{service['client_id']}:{service['client_secret']}".encode()).decode()
    headers = {"Authorization": f"Basic {credentials}"}
    answer = await server.stranger.post("/v1/auth/token", data=form, headers=headers)
    token: str = answer.json()["access_token"]
    return token


async def use(server: LocalServer, token: str) -> str:
    """Show a token once while it holds, so that it is remembered, and return it."""
    assert (await Caller(server.http, token).get("/v1/inbox")).status_code in {200, 403}
    return token


async def all_callers(server: LocalServer, trusted: Issuer) -> dict[str, str | None]:
    """Return the token of each kind of caller."""
    mine = server.service
    tokens: dict[str, str | None] = {"nobody": None, "garbage": "garbage"}
    ends: dict[str, Callable[[str], Awaitable[httpx.Response]]] = {
        "a disabled user": lambda sub: mine.patch(f"/v1/users/{sub}", json={"disabled": True}),
        "an erased user": lambda sub: mine.request("DELETE", f"/v1/users/{sub}"),
        "a user who signed out": lambda sub: mine.request("DELETE", f"/v1/users/{sub}/sessions"),
    }
    for caller, end in ends.items():
        sub = caller.replace(" ", "-")
        tokens[caller] = await use(server, await mine.mint(sub))
        assert (await end(sub)).is_success
    every = await backend(server, *SCOPES)
    tokens["a deleted service"] = await use(server, await service_token(server, every[0]))
    tokens["a deleted key"] = await use(server, every[1]["key"])
    tokens["a token narrowed to tokens:mint"] = await service_token(
        server, (await backend(server, *SCOPES))[0], "tokens:mint"
    )
    path = f"/v1/services/{every[0]['client_id']}"
    assert (await mine.request("DELETE", f"{path}/keys/{every[1]['id']}")).is_success
    assert (await mine.request("DELETE", path)).is_success
    for scope in SCOPES:
        tokens[scope] = (await backend(server, scope))[1]["key"]
    for sub in ("ada", "bob"):
        tokens[sub] = await mine.mint(sub, ttl=3600)
    tokens["a trusted issuer's user"] = trusted.token("visitor")
    tokens["a foreign issuer"] = Issuer([new_key()], name="https://evil.example/").token("ada")
    return tokens


@asynccontextmanager
async def world(start_server: StartServer) -> AsyncIterator[tuple[LocalServer, dict[str, str | None]]]:
    """Yield a gateway and the tokens of all callers."""
    async with Issuer([new_key()]).serving() as trusted:
        server = await start_server(
            trusted_issuers=json.dumps([trusted.trusted()]), login_limit="", login_limit_per_address=""
        )
        await server.service.post("/v1/users", json={"sub": "signs-in", "password": PASSWORD})
        yield server, await all_callers(server, trusted)


class Fresh:
    """What routes act upon, made anew for each request, so that no request depends on another."""

    def __init__(self, server: LocalServer) -> None:
        self._service = server.service
        self._number = 0

    async def values(self, path: str) -> dict[str, str]:
        """Return a value for each name in a path, of something that is there."""
        self._number += 1
        made = {"new": f"new-{self._number}"}
        if "{id}" in path:
            actions = [{"id": "yes", "label": "Yes"}]
            made["id"] = (await self._service.notify("ada", actions=actions))["id"]
        if "{sub}" in path:
            made["sub"] = f"target-{self._number}"
            await self._service.post("/v1/users", json={"sub": made["sub"]})
        if "{client_id}" in path:
            service = await self._service.post("/v1/services", json={"name": "s", "scopes": ["notify"]})
            made["client_id"] = service.json()["client_id"]
        if "{key_id}" in path:
            made["key_id"] = (await self._service.post(f"/v1/services/{made['client_id']}/keys")).json()["id"]
        return made


async def call(
    caller: Caller, route: str, row: Row, values: dict[str, str], query: dict[str, str] | None = None
) -> httpx.Response:
    """Call a route once. Of an answer without an end only the head is read."""
    options: dict[str, Any] = {}
    if row.form is not None:
        options["data"] = row.form
    elif row.body is not None:
        options["json"] = json.loads(json.dumps(row.body).replace("{new}", values["new"]))
    method, path = route.split(maxsplit=1)[0], row.path.format_map(values)
    if row.path == "/v1/stream":
        async with caller.http.stream(method, path, headers=caller.headers, params=query) as answer:
            if not answer.is_success:
                await answer.aread()
            return answer
    return await caller.request(method, path, **options)


# --- the matrix ---------------------------------------------------------------------------------------------


async def test_every_route_answers_every_caller_with_the_status_in_the_table(
    start_server: StartServer,
) -> None:
    wrong = []
    async with world(start_server) as (server, tokens):
        fresh = Fresh(server)
        for route, row in TABLE.items():
            for name in CALLERS:
                answer = await call(
                    Caller(server.http, tokens[name]), route, row, await fresh.values(row.path)
                )
                if answer.status_code != row.expected[name] or not as_it_should_say(answer, name):
                    wrong.append((route, name, row.expected[name], answer.status_code, answer.text[:150]))
    assert wrong == [], "\n".join(map(str, wrong))


def as_it_should_say(answer: httpx.Response, caller: str) -> bool:
    """Whether a refusal says why, in the body and in the challenge (RFC 6750, section 3)."""
    challenge = answer.headers.get("www-authenticate", "")
    if answer.status_code == 401:
        words = "Bearer" if caller == "nobody" else 'error="invalid_token"'
        return answer.json()["code"] == UNKNOWN[caller] and words in challenge
    if answer.status_code == 403:
        return answer.json()["code"] == "insufficient_scope" and 'error="insufficient_scope"' in challenge
    return answer.status_code != 404 or answer.json()["code"] == "not_found"


async def test_a_refused_request_changes_nothing(start_server: StartServer) -> None:
    async with world(start_server) as (server, tokens):
        ada, service = Caller(server.http, tokens["ada"]), server.service
        posted = (await service.notify("ada"))["id"]
        fresh = Fresh(server)
        values = await fresh.values("{sub}{client_id}{key_id}") | {"id": posted}

        async def state() -> list[str]:
            paths = ("/v1/users/{sub}", "/v1/services/{client_id}", "/v1/services/{client_id}/keys")
            seen = [await service.get(path.format_map(values)) for path in paths]
            return [one.text for one in (*seen, await ada.get("/v1/inbox"))]

        before = await state()
        for route, row in TABLE.items():
            for name in CALLERS:
                if row.expected[name] in {401, 403, 404}:
                    answer = await call(Caller(server.http, tokens[name]), route, row, values)
                    assert answer.status_code == row.expected[name], (route, name)
        assert await state() == before


async def test_a_resource_of_another_caller_gets_the_same_404_as_a_missing_one(
    start_server: StartServer,
) -> None:
    async with world(start_server) as (server, tokens):
        posted = (await server.service.notify("ada"))["id"]
        bob, notify = Caller(server.http, tokens["bob"]), Service(server.http, tokens["notify"])
        asks: list[tuple[str, Callable[[str], Awaitable[httpx.Response]]]] = [
            ("read", lambda one: bob.get(f"/v1/inbox/{one}")),
            ("change", lambda one: bob.patch(f"/v1/inbox/{one}", json={"read": True})),
            ("delete", lambda one: bob.request("DELETE", f"/v1/inbox/{one}")),
            ("mark read", lambda one: bob.post("/v1/inbox/read", json={"ids": [one]})),
            ("look up", lambda one: notify.get(f"/v1/notifications/{one}")),
            ("edit", lambda one: notify.patch(f"/v1/notifications/{one}", json={"title": "x"})),
            ("take back", lambda one: notify.delete(f"/v1/notifications/{one}")),
        ]
        for what, ask in asks:
            others, missing = await ask(posted), await ask(MISSING)
            assert (others.status_code, others.text) == (missing.status_code, missing.text), what
            varying = {"date", "x-request-id"}
            assert {k: v for k, v in others.headers.items() if k not in varying} == {
                k: v for k, v in missing.headers.items() if k not in varying
            }, what
        item = (await Caller(server.http, tokens["ada"]).get(f"/v1/inbox/{posted}")).json()
        assert (item["read_at"], item["deleted_at"]) == (None, None)


@pytest.mark.parametrize("carrier", ["header", "subprotocol", "query"])
async def test_the_socket_closes_for_every_caller_with_the_code_in_the_table(
    start_server: StartServer, carrier: str
) -> None:
    wrong = []
    async with world(start_server) as (server, tokens):
        for name in CALLERS:
            code, reason = await close_of(server, tokens[name], carrier)
            if code != SOCKET[name] or (code == 4001 and reason != UNKNOWN[name]):
                wrong.append((name, SOCKET[name], code, reason))
        await server.sockets(0)
    assert wrong == []


@pytest.mark.parametrize("carrier", ["header", "query"])
async def test_the_stream_answers_every_caller_with_the_status_in_the_table(
    start_server: StartServer, carrier: str
) -> None:
    wrong, row = [], TABLE["GET /v1/stream"]
    async with world(start_server) as (server, tokens):
        for name in CALLERS:
            token = tokens[name]
            query = {"token": token} if token is not None and carrier == "query" else {}
            caller = Caller(server.http, token if carrier == "header" else None)
            answer = await call(caller, "GET /v1/stream", row, {}, query)
            if answer.status_code != row.expected[name] or not as_it_should_say(answer, name):
                wrong.append((name, row.expected[name], answer.status_code))
        await server.sockets(0)
    assert wrong == []


async def close_of(server: LocalServer, token: str | None, carrier: str) -> tuple[int, str]:
    """Open a socket, and return how it closes: with 1000 where `hello` comes, else as the gateway says."""
    options: dict[str, Any] = {"subprotocols": ["notify.v1"]}
    if token is not None and carrier == "header":
        options["headers"] = {"Authorization": f"Bearer {token}"}
    elif token is not None and carrier == "subprotocol":
        options["subprotocols"].append(f"bearer.{token}")
    elif token is not None:
        options["token"] = token
    async with open_socket(server.base, **options) as socket:
        try:
            assert (await socket.receive())["type"] == "hello"
        except WebSocketException:
            return await socket.closed()
    return 1000, ""
