"""The fast path of a post answers as the application does: status, headers, body, charges and metrics."""

import asyncio
import json
import logging
import math
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.api import notifications
from gateway.api.fast_post import FastPost
from gateway.auth.limits.fair_queue import FairQueue
from gateway.auth.token_cache import CachedToken
from gateway.database.sqlite import SqliteDatabase
from gateway.errors import Unavailable
from gateway.observability.console_log import request_id
from gateway.store.transaction import commit
from gateway.transport.fast_path import FAST_PATHS
from tests.api.test_posting import BAD, GOOD, NO_BODIES
from tests.support.checker import Json
from tests.support.clients import Service
from tests.support.databases import API_KEY
from tests.support.pairs import Answer, Wire, counted_requests, serving_two
from tests.support.servers import LocalServer
from tests.support.waiting import until, until_none

PLENTY = 10**6
"""A rate that no test uses up."""


class Spy(FastPost):
    """A fast path that counts what it takes."""

    taken = 0

    def take(self, head: Any, body: bytearray) -> Any:
        taken = super().take(head, body)
        self.taken += taken is not None
        return taken


@dataclass
class Pair:
    """Two gateways with databases of their own: one takes the fast path, the other one never does."""

    fast: LocalServer
    plain: LocalServer
    spy: Spy
    wires: list[Wire] = field(init=False)

    def __post_init__(self) -> None:
        self.wires = [Wire(self.fast), Wire(self.plain)]

    @property
    def servers(self) -> tuple[LocalServer, LocalServer]:
        return self.fast, self.plain

    async def ask(self, *pieces: bytes) -> tuple[Answer, bool]:
        """Send a request to both, and return the response, with whether the fast path was taken.

        Both must give the same response, and must have charged and counted the same.
        """
        before = self.spy.taken
        fast, plain = [await wire.ask(*pieces) for wire in self.wires]
        assert fast == plain
        assert ledger(self.fast) == ledger(self.plain)
        return fast, self.spy.taken > before


def ledger(server: LocalServer) -> dict[str, object]:
    """Return what a gateway has charged, and has counted in its metrics."""
    rate_limits = server.state.rate_limits
    service = server.state.tokens.remembered[API_KEY].principal.id
    held = rate_limits.body_queue._held
    levels = (rate_limits.posts, rate_limits.items, rate_limits.service_calls)
    spent: dict[str, object] = {str(index): each.level(service) for index, each in enumerate(levels)}
    return counted_requests(server) | spent | {"held": dict(held)}


@asynccontextmanager
async def pair(template: Path, folder: Path, **options: Any) -> AsyncIterator[Pair]:
    """Serve both. Their clocks stand still, and they trust the key of the tests."""
    async with serving_two(template, folder, **options) as (fast, plain):
        spy = Spy(fast.state)
        fast.uvicorn.lifespan.state[FAST_PATHS] = {("POST", notifications.PATH.encode()): spy}
        plain.uvicorn.lifespan.state[FAST_PATHS] = {}
        for server in (fast, plain):
            rate_limits = server.state.rate_limits
            for buckets in (rate_limits.posts, rate_limits.items, rate_limits.service_calls):
                buckets.clock = lambda: 0.0
            await server.service.get("/v1/users/nobody")
            trust(server, API_KEY)
        made = Pair(fast, plain, spy)
        try:
            yield made
        finally:
            for wire in made.wires:
                await wire.close()


def trust(server: LocalServer, token: str) -> None:
    """Trust a cached token or key without asking the database again."""
    known = server.state.tokens.remembered[token]
    server.state.tokens.remembered[token] = CachedToken(known.principal, known.handle, math.inf)


StartPair = Callable[..., Coroutine[Any, Any, Pair]]


@pytest.fixture
async def start_pair(_sqlite_template: Path, tmp_path: Path) -> AsyncIterator[StartPair]:
    """A function that starts both with the settings it is given."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Pair:
            return await stack.enter_async_context(pair(_sqlite_template, tmp_path, **options))

        yield start


@pytest.fixture
async def both(start_pair: StartPair) -> Pair:
    """Both, with limits that no test reaches."""
    return await start_pair(posts_per_second=PLENTY, items_per_second=PLENTY)


BODY = b'{"to": "ada", "title": "x"}'
USUAL = {
    "Host": "gateway",
    "Authorization": f"Bearer {API_KEY}",
    "Content-Type": "application/json",
}


def request(
    body: bytes = BODY,
    line: str = "POST /v1/notifications HTTP/1.1",
    length: bool = True,
    **headers: str | None,
) -> bytes:
    """Return the bytes of a request: the usual headers, changed by `headers`, of which None drops one."""
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {name: value for name, value in (USUAL | changed).items() if value is not None}
    if length:
        fields.setdefault("Content-Length", str(len(body)))
    lines = [line, *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def encoded(fields: Json) -> bytes:
    return json.dumps({"to": "ada", "title": "x", **fields}).encode()


# --- bodies -------------------------------------------------------------------------------------------------


async def test_every_valid_body_takes_the_fast_path(both: Pair, subtests: pytest.Subtests) -> None:
    for fields in [*GOOD, {"to": ["ada", "bob", "ada"]}, {"to": [f"user {n}" for n in range(1000)]}]:
        with subtests.test(str(fields)[:80]):
            answer, fast = await both.ask(request(encoded(fields)))
            assert (answer.code, fast) == (201, True), answer
    stored = [await _stored(server) for server in both.servers]
    assert stored[0] == stored[1]
    assert len(stored[0]) > len(GOOD) / 2


async def _stored(server: LocalServer) -> list[Json]:
    """Return what has been posted to ada, without ids and times."""
    items: list[Json] = (await (await server.user("ada")).inbox())["items"]
    return [{name: item[name] for name in item.keys() - {"id", "created_at"}} for item in items]


ODD_BODIES = [
    b"\xef\xbb\xbf" + BODY,
    b"\xef\xbb\xbf\xef\xbb\xbf" + BODY,
    b" \r\n\t" + BODY + b"\n",
    BODY + b"x",
    BODY[:-1] + b",}",
    b'{"to": "bob", "to": "ada", "title": "x"}',
    b'{"title": "", "title": "x", "to": "ada"}',
    b'{"title": "x", "title": "", "to": "ada"}',
    b'{"to": "ada", "title": "x", "extra": 1}',
    b'{"to": "ada", "title": "x", ' + b", ".join(b'"m%d": 1' % n for n in range(30)) + b"}",
    b'{"to": "ada", "title": "x", "data": {"n": -0.0, "e": 1e5, "i": 123456789012345678901234567890}}',
    b'{"to": "ada", "title": "x", "data": {"n": Infinity}}',
    b'{"to": "ada", "title": "x", "data": {"n": -1e400}}',
    b'{"to": "ada", "title": "\\u0000"}',
    b'{"to": "ada", "title": "\\ud83c\\udf89"}',
    b'{"to": "ada", "title": "\\udf89\\ud83c"}',
    b'{"to": "*", "title": "x"}',
    b'{"to": ["ada", "*"], "title": "x"}',
    json.dumps({"to": "ada", "title": "x"}).encode("utf-16"),
    b'{"to": "ada", "title": "x", "body": "' + b"y" * 3000 + b'"}',
    BODY[:-1] + b" " * (16 * 1024 - len(BODY)) + b"}",
    BODY[:-1] + b" " * (16 * 1024 - len(BODY) + 1) + b"}",
    BODY[:-1] + b" " * (256 * 1024) + b"}",
]


async def test_every_other_body_is_answered_as_the_application_does(
    both: Pair, subtests: pytest.Subtests
) -> None:
    bodies = [*NO_BODIES, *ODD_BODIES, *(encoded(fields) for _, fields in BAD)]
    for body in bodies:
        with subtests.test(body[:80].decode(errors="replace")):
            answer, fast = await both.ask(request(body))
            assert fast == (answer.code == 201 and len(body) <= 16 * 1024), answer


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
FIELDS = {
    "to": st.sampled_from(["ada", "bob", ["ada"], ["ada", "bob"], [], "", "*"]) | VALUES,
    "title": st.text(max_size=30) | VALUES,
    "body": st.text(max_size=50) | VALUES,
    "category": st.sampled_from(["a.b_c", "Upper"]) | VALUES,
    "priority": st.sampled_from(["low", "high", "LOW"]) | VALUES,
    "url": st.sampled_from(["/x", "https://a.example/", "//a", "javascript:x"]) | VALUES,
    "data": st.dictionaries(st.text(max_size=5), VALUES, max_size=4) | VALUES,
    "other": VALUES,
}
GOOD_TO = {"to": st.just("ada"), "title": st.text("abcé🎉", min_size=1, max_size=20)}


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Return a body that is a notification, or nearly one, or hardly JSON."""
    members = draw(st.permutations(list(FIELDS)))[: draw(st.integers(0, 4))]
    valid = draw(st.booleans())
    pairs = [(name, draw(FIELDS[name])) for name in members if not (valid and name in GOOD_TO)]
    pairs += [(name, draw(GOOD_TO[name])) for name in GOOD_TO if valid]
    pairs += draw(st.lists(st.sampled_from(pairs), max_size=1)) if pairs else []
    escapes = draw(st.booleans())
    text = ", ".join(
        f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=escapes)}" for name, value in pairs
    )
    body = f"{{{text}}}".encode(errors="surrogatepass")
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.binary(max_size=3)) + body[at + draw(st.integers(0, 3)) :]
    return body


async def test_any_body_is_answered_as_the_application_does(both: Pair) -> None:
    found: list[bytes] = []

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(bodies())
    def draw(body: bytes) -> None:
        found.append(body)

    draw()
    ways = set()
    for body in found:
        answer, fast = await both.ask(request(body))
        assert fast == (answer.code == 201), (body, answer)
        ways.add((answer.code, fast))
    assert ways == {(201, True), (422, False)}


# --- heads --------------------------------------------------------------------------------------------------

CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)

FAST_HEADS: dict[str, bytes] = {
    "forwarded": request(X_Forwarded_For="192.0.2.1", X_Forwarded_Proto="https"),
    "forwarded by two": request(X_Forwarded_For="192.0.2.1, 127.0.0.1", X_Forwarded_Proto="HTTPS, http"),
    "usual": request(),
    "http 1.0": request(line="POST /v1/notifications HTTP/1.0"),
    "http 1.0, kept alive": request(line="POST /v1/notifications HTTP/1.0", Connection="keep-alive"),
    "no host, http 1.0": request(line="POST /v1/notifications HTTP/1.0", Host=None),
    "close": request(Connection="close"),
    "empty query": request(line="POST /v1/notifications? HTTP/1.1"),
    "absolute target": request(line="POST http://gateway/v1/notifications HTTP/1.1"),
    "charset": request(Content_Type="application/json; charset=utf-8"),
    "its own id": request(X_Request_ID="given"),
    "an id that is none": request(X_Request_ID="a b"),
    "key": request(Idempotency_Key="k" * 255),
    "trace": request(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    "spaces around the token": request(Authorization=f"Bearer   {API_KEY} "),
    "upgrade": request(Connection="upgrade", Upgrade="h2c"),
    "cookie": request(Cookie="a=b"),
}

SLOW_HEADS: dict[str, bytes] = {
    "get": request(b"", "GET /v1/notifications HTTP/1.1"),
    "put": request(line="PUT /v1/notifications HTTP/1.1"),
    "options": request(b"", "OPTIONS /v1/notifications HTTP/1.1"),
    "escaped path": request(line="POST /v1/notification%73 HTTP/1.1"),
    "query": request(line="POST /v1/notifications?x=1 HTTP/1.1"),
    "slash": request(line="POST /v1/notifications/ HTTP/1.1"),
    "encoded slash": request(line="POST /v1%2Fnotifications HTTP/1.1"),
    "no host": request(Host=None),
    "no token": request(Authorization=None),
    "a bare key": request(Authorization=API_KEY),
    "basic": request(Authorization="Basic eDp5"),
    "bad token": request(Authorization="Bearer nonsense"),
    "unknown key": request(Authorization=f"Bearer {API_KEY[:-4]}0000"),
    "small letters": request(Authorization=f"bearer {API_KEY}"),
    "empty key": request(Idempotency_Key=""),
    "long key": request(Idempotency_Key="k" * 256),
    "text": request(Content_Type="text/plain"),
    "no type": request(Content_Type=None),
    "other json": request(Content_Type="application/problem+json"),
    "other charset": request(Content_Type="application/json; charset=latin-1"),
    "identity": request(Content_Encoding="identity"),
    "gzip": request(Content_Encoding="gzip"),
    "origin": request(Origin="https://app.example"),
    "foreign origin": request(Origin="https://evil.example"),
    "expect": request(Expect="100-continue"),
    "unknown": request(X_Unknown="1"),
    "chunked": request(CHUNKED, length=False, Transfer_Encoding="chunked"),
    "no length": request(b"", length=False),
    "two ids": request(X_Request_ID="one").replace(
        b"X-Request-ID: one", b"X-Request-ID: one\r\nX-Request-ID: two"
    ),
    "two types": request().replace(b"Content-Type", b"Content-Type: application/json\r\nContent-Type"),
    "two tokens": request().replace(b"Authorization", b"Authorization: Bearer x\r\nAuthorization"),
}


@pytest.mark.parametrize("proxies", [(), ("127.0.0.1",)], ids=["direct", "proxied"])
async def test_any_head_is_answered_as_the_application_does(
    start_pair: StartPair, subtests: pytest.Subtests, proxies: tuple[str, ...]
) -> None:
    limits: Json = {
        "posts_per_second": PLENTY,
        "items_per_second": PLENTY,
        "service_calls_per_second": PLENTY,
    }
    limits |= {"allowed_origins": ("https://app.example",), "forwarded_allow_ips": proxies}
    limits |= {"anonymous_per_second": PLENTY, "refusals_per_second": PLENTY}
    both = await start_pair(**limits)
    for expected, heads in ((True, FAST_HEADS), (False, SLOW_HEADS)):
        for name, sent in heads.items():
            with subtests.test(name):
                _, fast = await both.ask(sent)
                assert fast == expected
                for wire in both.wires:
                    await wire.close()


async def test_a_keep_alive_connection_mixes_fast_and_slow_requests_in_any_order(both: Pair) -> None:
    asked = [FAST_HEADS["usual"], SLOW_HEADS["unknown"], request(b"{}"), FAST_HEADS["key"], FAST_HEADS["key"]]
    for sent in asked * 2:
        await both.ask(sent)
    sent = b"".join(asked)
    for wire in both.wires:
        assert wire.streams is not None
        wire.streams[1].write(sent)
    answers = [[await wire.read() for _ in asked] for wire in both.wires]
    assert answers[0] == answers[1]
    assert [answer.code for answer in answers[0]] == [201, 201, 422, 201, 201]


# --- bodies that arrive late --------------------------------------------------------------------------------


async def test_a_body_that_comes_after_its_head_takes_the_fast_path(both: Pair) -> None:
    head, rest = request()[: -len(BODY)], BODY
    for pieces in ((head, rest), (head[:50], head[50:], rest[:5], rest[5:])):
        answer, fast = await both.ask(*pieces)
        assert (answer.code, fast) == (201, True)
    answer, fast = await both.ask(head.replace(b'"x"', b'"y"'), BODY[:-2] + b"\xff}")
    assert (answer.code, fast) == (422, False)


async def test_a_body_counts_against_its_caller_until_it_is_complete(both: Pair) -> None:
    for wire in both.wires:
        body_queue = wire.server.state.rate_limits.body_queue
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wire.ask(request()[:-5]), 0.2)
        assert list(body_queue._held.values()) == [len(BODY)]
        await wire.close()
        await until_none(body_queue._held.keys, "bodies of callers")
    await until(lambda: ledger(both.fast) == ledger(both.plain), "both have counted the same")


async def test_a_caller_over_its_limit_is_refused_before_its_body_comes(
    start_pair: StartPair,
) -> None:
    both = await start_pair(posts_per_second=1)
    for number in range(6):
        answer, fast = await both.ask(request()[: -len(BODY)] if number > 3 else request())
        assert (answer.code, fast) == ((429, False) if number > 3 else (201, True))
        for wire in both.wires if number > 3 else ():
            await wire.close()


# --- limits and failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [
        {"posts_per_second": 1, "items_per_second": PLENTY},
        {"posts_per_second": PLENTY, "items_per_second": 2},
    ],
)
async def test_both_paths_charge_and_refuse_the_same_posts(start_pair: StartPair, limits: Json) -> None:
    three = encoded({"to": ["ada", "bob", "cyd"]})
    asked = [BODY, b"{}", three, encoded({"body": "y" * 3000}), BODY, three, BODY, b"{}", BODY]
    both = await start_pair(**limits)
    codes = [(await both.ask(request(body)))[0].code for body in asked]
    assert codes.count(429) >= 2
    assert codes[:3] == [201, 422, 201]


async def test_an_idempotency_key_replays_the_response_and_its_reuse_is_refused(both: Pair) -> None:
    for body, code in ((BODY, 201), (BODY, 201), (encoded({"title": "y"}), 422), (BODY, 201)):
        answer, fast = await both.ask(request(body, Idempotency_Key="k"))
        assert (answer.code, fast) == (code, True)
    assert (b"idempotent-replayed", b"true") in answer.headers


async def test_the_fast_path_refuses_unknown_recipients_if_configured(
    start_pair: StartPair,
) -> None:
    both = await start_pair(unknown_recipients="reject")
    answer, fast = await both.ask(request(encoded({"to": ["ada", "bob"]})))
    assert (answer.code, fast) == (422, True)


async def test_a_post_to_an_audience_is_refused(both: Pair) -> None:
    answer, fast = await both.ask(request(encoded({"to": "@all"})))
    assert (answer.code, fast) == (422, True)


async def test_a_failure_after_the_charge_is_rendered_once_and_charged_once(
    both: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(self: SqliteDatabase, work: Any, *args: Any, **options: Any) -> Any:
        if work is commit:
            raise Unavailable("The database is away.")
        return await write(self, work, *args, **options)

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    write = SqliteDatabase.write
    for server in both.servers:
        server.expected += ["a request failed", "Exception in ASGI application"]
    with monkeypatch.context() as patch:
        patch.setattr(SqliteDatabase, "write", unavailable)
        answer, fast = await both.ask(request())
        assert (answer.code, fast) == (503, True)
    with monkeypatch.context() as patch:
        patch.setattr(FairQueue, "put", lambda *_: False)
        assert (await both.ask(request()))[0].code == 503
    with monkeypatch.context() as patch:
        patch.setattr(notifications, "to_post", broken)
        assert (await both.ask(request()))[0].code == 500
    for wire in both.wires:
        await wire.close()
    answer, fast = await both.ask(request())
    assert (answer.code, fast) == (201, True)


def unanswered(server: LocalServer) -> list[Any]:
    """Return the connections with a request that is not answered."""
    connections: list[Any] = list(server.uvicorn.server_state.connections)
    return [one for one in connections if one.cycle is not None and not one.cycle.response_complete]


async def test_a_post_of_a_client_that_disconnects_is_stored_and_leaks_nothing(
    both: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = asyncio.Event()
    write = SqliteDatabase.write

    async def slow(self: SqliteDatabase, work: Any, *args: Any, **options: Any) -> Any:
        await go_on.wait()
        return await write(self, work, *args, **options)

    monkeypatch.setattr(SqliteDatabase, "write", slow)
    for wire in both.wires:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wire.ask(request()), 0.2)
        await wire.close()
    try:
        await until(lambda: not unanswered(both.fast), "the gateway has noticed")
    finally:
        go_on.set()
    await until(lambda: ledger(both.fast) == ledger(both.plain), "both have counted the same")
    assert both.spy.taken == 1


async def test_a_draining_gateway_closes_the_connection(both: Pair) -> None:
    for server in both.servers:
        state = server.uvicorn.server_state
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
    answer, fast = await both.ask(request())
    assert (answer.code, fast, both.wires[0].streams) == (201, True, None)
    assert answer.headers.count((b"connection", b"close")) == 1


async def test_a_service_without_the_scope_and_a_user_are_refused_by_the_application(both: Pair) -> None:
    for make in (_minters_key, _users_token):
        tokens = [await make(server) for server in both.servers]
        for _ in range(2):
            answers = [
                await wire.ask(request(Authorization=f"Bearer {token}"))
                for wire, token in zip(both.wires, tokens, strict=True)
            ]
            assert answers[0] == answers[1]
            assert answers[0].code == 403
    assert both.spy.taken == 0


async def _minters_key(server: LocalServer) -> str:
    made = await server.service.post("/v1/services", json={"name": "other", "scopes": ["tokens:mint"]})
    key = await server.service.post(f"/v1/services/{made.json()['client_id']}/keys")
    return str(key.json()["key"])


async def _users_token(server: LocalServer) -> str:
    return str((await server.user()).token)


async def test_a_deleted_key_is_refused_on_the_fast_path(both: Pair) -> None:
    made = await both.fast.service.post("/v1/services", json={"name": "other", "scopes": ["notify"]})
    path = f"/v1/services/{made.json()['client_id']}/keys"
    key = (await both.fast.service.post(path)).json()
    other = Service(both.fast.http, key["key"])
    await other.notify("ada")
    trust(both.fast, key["key"])
    await other.notify("ada")
    assert both.spy.taken == 1
    assert (await both.fast.service.delete(f"{path}/{key['id']}")).status_code == 204
    assert (await other.post("/v1/notifications", json={"to": "ada", "title": "x"})).status_code == 401
    assert both.spy.taken == 1


# --- who takes it -------------------------------------------------------------------------------------------

CLIENTS = {
    "curl": ["User-Agent: curl/8.14.1", "Accept: */*"],
    "Go": ["User-Agent: Go-http-client/1.1", "Accept-Encoding: gzip"],
    "Node's fetch": [
        "connection: keep-alive",
        "accept: */*",
        "accept-language: *",
        "sec-fetch-mode: cors",
        "user-agent: node",
        "accept-encoding: gzip, deflate",
    ],
    "aiohttp": ["Accept: */*", "Accept-Encoding: gzip, deflate", "User-Agent: Python/3.13 aiohttp/3.12.15"],
    "Guzzle": ["User-Agent: GuzzleHttp/7"],
    "Ruby": [
        "Accept-Encoding: gzip;q=1.0,deflate;q=0.6,identity;q=0.3",
        "Accept: */*",
        "User-Agent: Ruby",
        "Connection: close",
    ],
}
"""The headers that clients send besides those of the request itself."""


async def test_requests_of_common_http_clients_take_the_fast_path(
    both: Pair, subtests: pytest.Subtests
) -> None:
    for name, lines in CLIENTS.items():
        with subtests.test(name):
            head, _, body = request().partition(b"\r\n\r\n")
            answer, fast = await both.ask("\r\n".join([head.decode(), *lines, "", ""]).encode() + body)
            assert (answer.code, fast) == (201, True)
    url, asked = f"{both.fast.base}/v1/notifications", {"to": "ada", "title": "x"}
    for post in (httpx.post, requests.post):
        taken = both.spy.taken
        sent: Callable[..., Any] = post
        headers = {"Authorization": f"Bearer {API_KEY}"}
        answered = await asyncio.to_thread(sent, url, json=asked, headers=headers)
        assert (answered.status_code, both.spy.taken) == (201, taken + 1)


# --- what is logged -----------------------------------------------------------------------------------------


class _Lines(logging.Handler):
    """Keeps each line with the id of the request that was being served."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = re.sub(r"127\.0\.0\.1:\d+", "PEER", record.getMessage())
        self.lines.append((text, request_id()))


@pytest.mark.parametrize(("proxies", "peer"), [((), "PEER"), (("127.0.0.1",), "192.0.2.1:0")])
async def test_both_paths_log_the_same_access_log_line_with_the_request_id(
    start_pair: StartPair, proxies: tuple[str, ...], peer: str
) -> None:
    logger, lines = logging.getLogger("uvicorn.access"), _Lines()
    both = await start_pair(access_log=True, forwarded_allow_ips=proxies)
    logger.addHandler(lines)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        for wire in both.wires:
            await wire.close()
        _, fast = await both.ask(request(X_Request_ID="given", X_Forwarded_For="192.0.2.1"))
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)
    assert fast
    assert lines.lines == [(f'{peer} - "POST /v1/notifications HTTP/1.1" 201', "given")] * 2
