"""Larger bodies: counted to their caller while they are unfinished, parsed one at a time, and charged."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import pairwise
from typing import Any, cast
from unittest.mock import Mock

import pytest

from gateway.api import batch as batch_module
from gateway.api import body as body_module
from gateway.api.inbox import InboxRoute
from gateway.api.inbox_models import MAX_IDS
from gateway.auth.limits import body_queue as module
from gateway.auth.limits.body_queue import MAX_HELD, MAX_HELD_BY_ALL, SMALL_BODY, BodyQueue
from gateway.auth.limits.fair_turns import MAX_REST_SECONDS
from gateway.auth.limits.rate_limits import ITEMS_PER_KIB
from gateway.errors import GatewayError, Overloaded, RateLimited
from tests.support.clients import Service
from tests.support.databases import API_KEY
from tests.support.servers import LocalServer, StartServer
from tests.support.waiting import PATIENCE, until

JSON = {"Content-Type": "application/json"}
KIB = 1024
LARGEST = 256 * KIB
READ = "/v1/inbox/read"


def filled(value: Any, size: int) -> bytes:
    """Return JSON of exactly this size."""
    text = json.dumps(value).encode()
    return text[:-1] + b" " * (size - len(text)) + text[-1:]


POST = {"to": "ada", "title": "x"}


class Unfinished:
    """A request whose body goes on when the test says so."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def status(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return int((await self._reader.readuntil(b"\r\n\r\n"))[9:12])


@asynccontextmanager
async def begun(
    server: LocalServer, path: str, bearer: str | None, body: bytes, *, chunked: bool = False
) -> AsyncIterator[Unfinished]:
    """Send the head of a request, with the length of its body or in chunks, and nothing more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.base.rpartition(":")[2]))
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {bearer}\r\n"
        f"Content-Type: application/json\r\n{framing}\r\n\r\n"
    )
    try:
        one = Unfinished(reader, writer)
        await one.send(head.encode())
        yield one
    finally:
        writer.transport.abort()


async def another(server: LocalServer) -> Service:
    made = await server.service.post("/v1/services", json={"name": "other", "scopes": ["notify"]})
    key = await server.service.post(f"/v1/services/{made.json()['client_id']}/keys")
    return Service(server.http, key.json()["key"])


# --- turns --------------------------------------------------------------------------------------------------


async def test_the_event_loop_polls_sockets_and_runs_callbacks_between_two_turns() -> None:
    body_queue, loop = BodyQueue(), asyncio.get_running_loop()
    mine, theirs = socket.socketpair()
    seen: list[str] = []

    def hear() -> None:
        seen.extend(["socket"] * len(theirs.recv(100)))

    async def work() -> None:
        await body_queue.turn(1)
        seen.append("turn")
        loop.call_soon(seen.append, "callback")
        mine.send(b"x")

    with mine, theirs:
        loop.add_reader(theirs, hear)
        try:
            await asyncio.gather(*(work() for _ in range(40)))
            await until(lambda: len(seen) == 120, "all is seen")
        finally:
            loop.remove_reader(theirs)
    for number in range(40):
        assert seen[3 * number] == "turn"
        assert set(seen[3 * number : 3 * number + 3]) == {"turn", "callback", "socket"}


async def test_callers_take_turns_so_that_the_backlog_of_one_does_not_delay_the_others() -> None:
    body_queue = BodyQueue()
    order: list[int] = []

    async def work(caller: int) -> None:
        await body_queue.turn(caller)
        order.append(caller)

    await asyncio.gather(*(work(caller) for caller in [1] * 40 + [-1, 2]))
    assert order[:4] == [1, 1, -1, 2]
    assert order[4:] == [1] * 38


async def test_a_cancelled_turn_is_skipped() -> None:
    body_queue = BodyQueue()
    order: list[int] = []

    async def work(number: int) -> None:
        await body_queue.turn(1)
        order.append(number)

    tasks = [asyncio.create_task(work(number)) for number in range(4)]
    await asyncio.sleep(0)
    assert order == [0]
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert order == [0, 2, 3]
    await until(lambda: not body_queue._taken, "the next need not wait")


@pytest.mark.parametrize(("took", "rest"), [(0.02, 0.02), (3.0, MAX_REST_SECONDS)])
def test_the_body_queue_rests_for_as_long_as_the_last_turn_took(
    monkeypatch: pytest.MonkeyPatch, took: float, rest: float
) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 100.0 + took)
    loop = Mock()
    BodyQueue()._rest(loop, 100.0)
    assert loop.call_later.call_args.args[0] == pytest.approx(rest)


async def test_larger_bodies_that_complete_together_are_parsed_one_by_one(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is behind the JSON, validation and hashes, too: there is no wait within a turn."""
    other, user = await another(server), await server.user()
    turns: list[int] = []
    parsed: list[int] = []
    parse = body_module.read_json

    def noted(text: bytes | str) -> Any:
        if len(text) > SMALL_BODY:
            parsed.append(len(turns))
        return parse(text)

    async def count() -> None:
        while True:
            turns.append(0)
            await asyncio.sleep(0)

    monkeypatch.setattr(body_module, "read_json", noted)
    monkeypatch.setattr(batch_module, "read_json", noted)
    large, marks = filled(POST, LARGEST), filled({"up_to": 0}, 64 * KIB)
    kinds = [("/v1/notifications", API_KEY, large), ("/v1/notifications", other.token, large)]
    kinds += [
        (READ, user.token, marks),
        ("/v1/notifications/batch", other.token, b"[%b]" % filled(POST, 20 * KIB)),
    ]
    async with AsyncExitStack() as stack:
        each = []
        for path, bearer, body in kinds * 6:
            one = await stack.enter_async_context(begun(server, path, bearer, body))
            await one.send(body[:-1])
            each.append((one, body[-1:]))
        counting = asyncio.create_task(count())
        for one, last in each:
            await one.send(last)
        assert {await one.status() for one, _ in each} == {200, 201}
        counting.cancel()
    assert len(parsed) == 24
    assert all(later > earlier for earlier, later in pairwise(parsed))


async def test_a_small_body_waits_for_no_turn(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.state.rate_limits.body_queue, "turn", Mock(side_effect=AssertionError))
    answer = await server.service.post("/v1/notifications", content=filled(POST, SMALL_BODY), headers=JSON)
    assert answer.status_code == 201


# --- what is here -------------------------------------------------------------------------------------------


def test_held_body_bytes_are_limited_per_caller_and_in_total() -> None:
    body_queue = BodyQueue()
    for _ in range(MAX_HELD // LARGEST):
        body_queue.hold(1, LARGEST)
    with pytest.raises(RateLimited) as raised:
        body_queue.hold(1, 1)
    assert raised.value.headers["RateLimit-Policy"] == f'"bodies";q={MAX_HELD};w=1'
    body_queue.hold(-1, LARGEST)
    body_queue.release(1, LARGEST)
    body_queue.hold(1, LARGEST)
    with suppress(Overloaded):
        for caller in range(2, 100_000):
            body_queue.hold(caller, LARGEST)
    assert MAX_HELD_BY_ALL - LARGEST < body_queue._held_by_all <= MAX_HELD_BY_ALL


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("kind", ["post", "batch", "inbox"])
async def test_each_caller_has_its_own_limit_of_unfinished_bodies(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, kind: str, chunked: bool
) -> None:
    user, other, held = await server.user(), await another(server), server.state.rate_limits.body_queue._held
    path, bearer, theirs = {
        "post": ("/v1/notifications", API_KEY, other.token),
        "batch": ("/v1/notifications/batch", API_KEY, other.token),
        "inbox": (READ, user.token, (await server.user("bob")).token),
    }[kind]
    size = InboxRoute.max_body if kind == "inbox" else LARGEST
    body = filled({"up_to": 0} if kind == "inbox" else [POST] if kind == "batch" else POST, size)
    first, rest = body[: SMALL_BODY + 1], body[SMALL_BODY + 1 :]
    if chunked:
        first, rest = (b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (first, rest))
        rest += b"0\r\n\r\n"
    monkeypatch.setattr(module, "MAX_HELD", 2 * size)
    async with AsyncExitStack() as stack:

        async def begin(bearer: str | None) -> Unfinished:
            one = await stack.enter_async_context(begun(server, path, bearer, body, chunked=chunked))
            await one.send(first)
            return one

        two = [await begin(bearer) for _ in range(2)]
        await until(lambda: list(held.values()) == [2 * size], "both are held")
        assert await (await begin(bearer)).status() == 429
        allowed = await begin(theirs)
        for one in (allowed, *two):
            await one.send(rest)
            assert await one.status() in {200, 201}
        await until(lambda: not held, "nothing is held")
        await begin(bearer)
        await until(lambda: held, "one is held")
    await until(lambda: not held, "who has gone holds nothing")


async def test_unfinished_small_bodies_count_against_their_caller(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, held = await another(server), server.state.rate_limits.body_queue._held
    body = filled(POST, 1000)
    monkeypatch.setattr(module, "MAX_HELD", 2000)
    async with AsyncExitStack() as stack:

        async def begin(bearer: str | None, size: int) -> Unfinished:
            one = await stack.enter_async_context(begun(server, "/v1/notifications", bearer, body))
            await one.send(body[:size])
            return one

        two = [await begin(API_KEY, 1) for _ in range(2)]
        await until(lambda: list(held.values()) == [2000], "both are held")
        assert await (await begin(API_KEY, 1)).status() == 429
        # One that comes at once is not counted, nor refused.
        assert await (await begin(API_KEY, 1000)).status() == 201
        allowed = await begin(other.token, 1)
        for one in (allowed, *two):
            await one.send(body[1:])
            assert await one.status() == 201
        await until(lambda: not held, "nothing is held")


async def test_a_body_received_in_small_chunks_is_joined_into_bytes() -> None:
    async def receive() -> dict[str, Any]:
        pieces.append(b"xy")
        return {"type": "http.request", "body": b"xy", "more_body": len(pieces) < 1000}

    pieces: list[bytes] = []
    request = body_module.BoundedRequest({"type": "http", "headers": []}, cast("Any", receive))
    request.max_body = LARGEST
    assert await request.body() == b"xy" * 1000
    assert type(await request.body()) is bytes


# --- how large they may be, and what they cost --------------------------------------------------------------


async def test_an_inbox_body_has_at_most_64_kib_which_fits_1000_indented_ids(
    server: LocalServer,
) -> None:
    user = await server.user()
    ids = [f"019a9b1c-0000-7000-8000-{number:012}" for number in range(MAX_IDS)]
    text = json.dumps({"ids": ids}, indent=8).encode()
    assert len(text) < InboxRoute.max_body == 64 * KIB
    assert (await user.post(READ, content=text, headers=JSON)).status_code == 200
    for size, status in ((64 * KIB, 200), (64 * KIB + 1, 413)):
        answer = await user.post(READ, content=filled({"up_to": 0}, size), headers=JSON)
        assert answer.status_code == status
    assert answer.json()["detail"] == "The body is over 64 KiB: send less at once."


@pytest.mark.parametrize("path", ["/v1/users", "/v1/services"])
async def test_a_management_body_has_at_most_16_kib(server: LocalServer, path: str) -> None:
    known = {"sub": "ada"} if path == "/v1/users" else {"name": "a", "scopes": ["notify"]}
    for size, status in ((16 * KIB, 201), (16 * KIB + 1, 413)):
        answer = await server.service.post(path, content=filled(known, size), headers=JSON)
        assert answer.status_code == status
    assert answer.json()["detail"] == "The body is over 16 KiB: send less at once."


async def test_too_many_ids_are_reported_as_one_error(server: LocalServer) -> None:
    answer = await (await server.user()).post(READ, json={"ids": ["no"] * (MAX_IDS + 1)})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": "ids", "message": "it must have at most 1,000 ids"}]


async def test_each_stored_kib_of_a_post_beyond_the_first_counts_as_an_item(
    start_server: StartServer,
) -> None:
    """The budget of items bounds the bytes that a service stores."""
    server = await start_server(items_per_second=500)
    items = server.state.rate_limits.items
    items.clock = lambda: 0.0
    sizes = {KIB: 1, KIB + 1: 2, 2 * KIB: 2, 2 * KIB + 1: 3, SMALL_BODY: 16, SMALL_BODY + 1: 17, 20 * KIB: 20}
    for size, cost in sizes.items():
        before = items.level(1)
        answer = await server.service.post("/v1/notifications", content=filled(POST, size), headers=JSON)
        assert (answer.status_code, before - items.level(1)) == (201, cost)
    to_many = POST | {"to": ["ada", "bob", "cy"]}
    for size, cost in ((2 * KIB, 3), (4 * KIB, 4)):
        before = items.level(1)
        await server.service.post("/v1/notifications", content=filled(to_many, size), headers=JSON)
        assert before - items.level(1) == cost


@pytest.mark.parametrize("valid", [True, False])
async def test_each_kib_of_a_post_beyond_16_counts_as_4_items(start_server: StartServer, valid: bool) -> None:
    server = await start_server(items_per_second=500)
    items = server.state.rate_limits.items
    items.clock = lambda: 0.0
    post = POST if valid else POST | {"title": ""}
    for size, cost in ((SMALL_BODY, 16 if valid else 1), (32 * KIB, 65), (LARGEST, 1 + 240 * 4)):
        before = items.level(1)
        await server.service.post("/v1/notifications", content=filled(post, size), headers=JSON)
        assert before - items.level(1) == cost
    for _ in range(2):
        await server.service.post("/v1/notifications", content=filled(post, LARGEST), headers=JSON)
    last = await server.service.post("/v1/notifications", content=filled(post, LARGEST), headers=JSON)
    assert last.status_code == 429


@pytest.mark.parametrize(("distinct", "cost"), [(1, 1 + 240 * 4), (400, 1 + 240 * 4), (1000, 1000)])
async def test_a_post_is_charged_for_its_recipients_if_they_exceed_its_size(
    start_server: StartServer, distinct: int, cost: int
) -> None:
    server = await start_server(items_per_second=500)
    items = server.state.rate_limits.items
    items.clock = lambda: 0.0
    post = {"to": [f"user-{number % distinct}" for number in range(1000)], "title": "x"}
    answer = await server.service.post("/v1/notifications", content=filled(post, LARGEST), headers=JSON)
    assert answer.json()["recipients"] == distinct
    assert 2000 - items.level(1) == cost


async def test_a_large_item_of_a_batch_is_charged_like_a_single_post(start_server: StartServer) -> None:
    server = await start_server(items_per_second=500)
    items = server.state.rate_limits.items
    items.clock = lambda: 0.0
    body = b"[%b]" % filled(POST, 48 * KIB)
    answer = await server.service.post("/v1/notifications/batch", content=body, headers=JSON)
    assert answer.status_code == 201
    assert 2000 - items.level(1) == 32 * ITEMS_PER_KIB


async def test_each_16_kib_of_a_users_body_counts_as_a_request(start_server: StartServer) -> None:
    server = await start_server(commands_per_second=1)
    user = await server.user()
    commands = server.state.rate_limits.commands
    commands.clock = lambda: 0.0
    for size, cost in ((SMALL_BODY, 1), (SMALL_BODY + 1, 2), (64 * KIB, 4)):
        commands._levels.clear()
        answer = await user.post(READ, content=filled({"up_to": 0}, size), headers=JSON)
        assert answer.status_code == 200
        ((level, _),) = commands._levels.values()
        assert 4 - level == cost


async def test_a_large_body_of_a_service_over_its_item_limit_is_not_parsed(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(items_per_second=1)
    rate_limits = server.state.rate_limits
    rate_limits.items.charge(1, 100)
    monkeypatch.setattr(rate_limits, "begin_post", lambda _service: None)
    monkeypatch.setattr(body_module, "read_json", Mock(side_effect=AssertionError))
    answer = await server.service.post("/v1/notifications", content=filled(POST, LARGEST), headers=JSON)
    assert answer.status_code == 429
    assert not rate_limits.body_queue._held
    with pytest.raises(GatewayError):
        rate_limits.charge_body(1, LARGEST)
