"""Many requests on one connection, and requests without an end: in order, in turn, and within bounds."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from gateway.transport import lingering, pipelining
from gateway.transport.chunked import MAX_STEP_CHUNKS, MAX_TRAILER_BYTES, STEP_BYTES, ChunkedBody
from gateway.transport.framing import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    MAX_PARAMETERS,
    MAX_PATH_BYTES,
    MAX_TARGET_BYTES,
)
from gateway.transport.http import GatewayHttp
from tests.support.databases import API_KEY
from tests.support.servers import LocalServer, StartServer
from tests.support.waiting import PATIENCE, until, until_none

UNWANTED = 256 * 1024

HEAD = (
    f"POST /v1/notifications HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {API_KEY}\r\n"
    "Content-Type: application/json\r\n"
).encode()
BODY = b'{"to":"ada","title":"Hello"}'
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
STRANGER = b"POST /v1/notifications HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET /nowhere HTTP/1.1\r\nHost: gateway\r\n\r\n"


class Wire:
    """A connection on which the test decides about each byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of the next answer."""
        async with asyncio.timeout(PATIENCE):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return int(head[9:12]), json.loads(await self.reader.readexactly(length))

    async def ended(self) -> bool:
        """Whether the gateway ends the connection, and says nothing before."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read() == b""

    async def is_served(self) -> bool:
        """Whether the connection is good for a request."""
        await self.send(WHOLE)
        return (await self.answer())[0] == 201


@asynccontextmanager
async def connected(server: LocalServer) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.base.rpartition(":")[2]))
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


async def protocol_of(server: LocalServer) -> GatewayHttp:
    """Return the server's end of the only connection."""
    (one,) = await until(lambda: list(server.uvicorn.server_state.connections), "a connection")
    return cast("GatewayHttp", one)


def padded(before: bytes, size: int, after: bytes) -> bytes:
    """Return bytes of this size."""
    return before + b"x" * (size - len(before) - len(after)) + after


# --- one request at a time ----------------------------------------------------------------------------------


async def test_five_hundred_pipelined_requests_are_answered_in_order(server: LocalServer) -> None:
    one = b"PUT /v1/users/%d HTTP/1.1\r\nHost: gateway\r\nContent-Length: 3\r\n\r\nabc"
    other = b"PUT /v1/%d HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    async with connected(server) as wire:
        wire.writer.write(b"".join((other if number % 2 else one) % number for number in range(500)))
        for number in range(500):
            assert (await wire.answer())[0] == (404 if number % 2 else 405)
        assert await wire.is_served()


async def test_a_client_that_reads_slowly_gets_all_responses(server: LocalServer) -> None:
    async with connected(server) as wire:
        transport = cast("asyncio.ReadTransport", wire.writer.transport)
        transport.pause_reading()
        wire.writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: gateway\r\n\r\n" * 200 + GET)
        protocol = await protocol_of(server)
        for _ in range(5):
            await until(lambda: protocol.flow.write_paused, "the answers wait to be read")
            transport.resume_reading()
            assert (await wire.answer())[0] == 200
            transport.pause_reading()
        transport.resume_reading()
        statuses = [(await wire.answer())[0] for _ in range(196)]
    assert statuses == [200] * 195 + [404]


async def test_only_one_pipelined_request_is_parsed_until_it_is_answered(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = [], asyncio.Event()

    async def hold(scope: Any, receive: Any, send: Any) -> None:
        begun.append(scope["path"])
        await receive()
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    async with connected(server) as wire:
        protocol = await protocol_of(server)
        monkeypatch.setattr(protocol, "app", hold)
        wire.writer.write(b"".join(b"GET /%d HTTP/1.1\r\nHost: gateway\r\n\r\n" % n for n in range(10_000)))
        await until(lambda: begun, "the first request")
        assert begun == ["/0"]
        assert protocol.scope["path"] == "/0"
        assert not protocol.pipeline
        assert protocol.flow.read_paused
        assert len(protocol.unparsed) <= 256 * 1024
        go_on.set()
        for number in range(100):
            assert await wire.answer() == (200, {})
            assert f"/{number}" in begun


async def test_no_request_starts_while_responses_are_unread(server: LocalServer) -> None:
    async with connected(server) as wire:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        wire.writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: gateway\r\n\r\n" * 1000)
        protocol = await protocol_of(server)
        await until(lambda: protocol.flow.write_paused, "the answers wait to be read")
        state = server.uvicorn.server_state
        await until(lambda: len(state.tasks) <= 1, "no request but the one whose answer is not read")
        answered = state.total_requests
        for _ in range(100):
            await asyncio.sleep(0)
        assert (len(state.tasks) <= 1, state.total_requests) == (True, answered)
        assert protocol.unparsed


async def test_a_client_that_disconnects_before_its_responses_causes_no_error(server: LocalServer) -> None:
    """`server` fails the test where anything is logged as an error."""
    async with connected(server) as wire:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        wire.writer.write((b"GET /openapi.json HTTP/1.1\r\nHost: gateway\r\n\r\n" + WHOLE) * 200)
        protocol = await protocol_of(server)
        await until(lambda: protocol.flow.write_paused, "the answers wait to be read")
    await until_none(lambda: server.uvicorn.server_state.connections, "connections")
    await until_none(lambda: server.uvicorn.server_state.tasks, "requests")
    assert protocol.unparsed == b""


async def test_other_clients_are_served_between_the_requests_of_one(server: LocalServer) -> None:
    async with connected(server) as greedy, connected(server) as modest:
        assert await modest.is_served()
        greedy.writer.write(GET * 5000)
        assert (await greedy.answer())[0] == 404
        assert await modest.is_served()
        served = len(greedy.reader._buffer)  # type: ignore[attr-defined]
        assert served < 4900 * 300


async def test_requests_behind_one_that_closes_the_connection_are_dropped(server: LocalServer) -> None:
    last = b"GET /nowhere HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
    async with connected(server) as wire:
        await wire.send(GET + last + GET * 20)
        assert [(await wire.answer())[0] for _ in range(2)] == [404, 404]
        assert await wire.ended()


async def test_a_handshake_behind_a_request_and_its_commands_are_handled_in_order(
    server: LocalServer,
) -> None:
    user = await server.user()
    handshake = (
        b"GET /v1/ws?since=latest HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Authorization: Bearer %b\r\n\r\n" % str(user.token).encode()
    )
    ping = b'{"type":"ping","ref":"behind"}'
    frame = b"\x81" + bytes((0x80 | len(ping),)) + b"\0\0\0\0" + ping
    async with connected(server) as wire:
        await wire.send(WHOLE + handshake + frame)
        assert (await wire.answer())[0] == 201
        async with asyncio.timeout(PATIENCE):
            await wire.reader.readuntil(b"HTTP/1.1 101 ")
            await wire.reader.readuntil(b'"ref":"behind"')


# --- heads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 100_000])
async def test_requests_may_come_in_pieces_of_any_size(server: LocalServer, step: int) -> None:
    chunks = b"\r\n".join(b"%x;a=b\r\n%c" % (1, byte) for byte in BODY) + b"\r\n0\r\nX-A: b\r\n\r\n"
    stream = b"\r\n" + WHOLE + CHUNKED + chunks + GET
    async with connected(server) as wire:
        for at in range(0, len(stream), step):
            wire.writer.write(stream[at : at + step])
            await asyncio.sleep(0)
        assert [(await wire.answer())[0] for _ in range(3)] == [201, 201, 404]


@pytest.mark.parametrize(("extra", "status"), [(0, 404), (1, 431)])
@pytest.mark.parametrize("pieces", [1, 2])
async def test_a_request_head_is_limited_to_64_kib(
    server: LocalServer, extra: int, status: int, pieces: int
) -> None:
    head = padded(b"GET /nowhere HTTP/1.1\r\nHost: gateway\r\nX-A: ", MAX_HEAD_BYTES + extra, b"\r\n\r\n")
    cut = 50_000 if pieces == 2 else len(head)
    async with connected(server) as wire:
        await wire.send(head[:cut])
        if pieces == 2:
            protocol = await protocol_of(server)
            await until(lambda: protocol._head, "the first piece")
            await wire.send(head[cut:])
        answer, problem = await wire.answer()
        assert (answer, problem["status"]) == (status, status)
        assert await (wire.ended() if extra else wire.is_served())


async def test_a_client_refused_while_it_sends_gets_the_response(server: LocalServer) -> None:
    async with connected(server) as wire:
        wire.writer.write(b"GET /nowhere HTTP/1.1\r\nHost: gateway\r\nX-A: " + b"a" * 450_000)
        assert (await wire.answer())[0] == 431
        assert await wire.ended()


@pytest.mark.parametrize(("extra", "status"), [(0, 404), (1, 431)])
async def test_a_request_head_is_limited_to_100_fields(server: LocalServer, extra: int, status: int) -> None:
    fields = b"a:\r\n" * (MAX_FIELDS - 1 + extra)
    async with connected(server) as wire:
        await wire.send(b"GET /nowhere HTTP/1.1\r\nHost: gateway\r\n" + fields + b"\r\n")
        assert (await wire.answer())[0] == status
        assert await (wire.ended() if extra else wire.is_served())


async def test_line_ends_before_a_request_are_limited(server: LocalServer) -> None:
    async with connected(server) as wire:
        await wire.send(b"\r\n" * (MAX_HEAD_BYTES // 2))
        assert await wire.is_served()
        await wire.send(b"\r\n" * (MAX_HEAD_BYTES // 2 + 1))
        assert (await wire.answer())[0] == 431
        assert await wire.ended()


async def test_data_that_is_not_http_is_refused_at_its_first_piece(server: LocalServer) -> None:
    async with connected(server) as wire:
        await wire.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert (await wire.answer())[0] == 400
        assert await wire.ended()


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\n", b"\n\r\n"])
async def test_a_request_head_ends_only_with_an_empty_line(server: LocalServer, end: bytes) -> None:
    async with connected(server) as wire:
        await wire.send(b"GET /nowhere HTTP/1.1\r\nHost: gateway" + end + GET)
        assert (await wire.answer())[0] == 400
        assert await wire.ended()


HANDSHAKE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
)


@pytest.mark.parametrize("path", [b"/nowhere", b"/v1/ws", b"/v1/stream"])
@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"Host: a\r\nHost: a\r\n",
        b"Host: a\r\nhost: b\r\n",
        b"Host: a/b\r\n",
        b"Host: a b\r\n",
        b"Host: " + b"a" * 301 + b"\r\n",
        b"Host: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer a\r\n",
        b"Host: a\r\nContent-Type: text/plain\r\nContent-Type: application/json\r\n",
        b"Host: a\r\nIdempotency-Key: a\r\nIdempotency-Key: b\r\n",
    ],
)
async def test_a_request_that_allows_smuggling_is_refused(
    server: LocalServer, path: bytes, fields: bytes
) -> None:
    upgrade = HANDSHAKE if path == b"/v1/ws" else b""
    async with connected(server) as wire:
        await wire.send(b"GET " + path + b" HTTP/1.1\r\n" + fields + upgrade + b"\r\n")
        status, problem = await wire.answer()
        assert (status, problem["code"]) == (400, "bad_request")
        assert await wire.ended()


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /nowhere\r\n", 400),
        (b"GET /nowhere HTTP/0.9\r\nHost: a\r\n", 400),
        (b"GET /nowhere HTTP/2.0\r\nHost: a\r\n", 400),
        (b"GET /nowhere HTTP/1.0\r\n", 404),
        (b"GET /nowhere HTTP/1.0\r\nHost: a\r\nHost: a\r\n", 400),
        (b"GET /nowhere HTTP/1.1\r\nHost:\r\nConnection: close\r\n", 404),
        (b"GET /nowhere HTTP/1.1\r\nHost: [::1]:8000\r\nConnection: close\r\n", 404),
    ],
)
async def test_http_1_1_needs_a_host_and_http_1_0_does_not(
    server: LocalServer, line: bytes, status: int
) -> None:
    async with connected(server) as wire:
        await wire.send(line + b"\r\n")
        assert (await wire.answer())[0] == status
        assert await wire.ended()


# --- bodies -------------------------------------------------------------------------------------------------


def chunked(*, trailer: int = 0, extension: int = 0) -> bytes:
    """Return a body in chunks with trailers, or an extension, of this size: all that is no data."""
    if trailer:
        return padded(b"0\r\nX-A: ", trailer, b"\r\n\r\n")
    return padded(b"0;a=", extension, b"\r\n\r\n")


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("kind", ["trailer", "extension"])
async def test_trailers_and_chunk_extensions_are_limited_to_16_kib(
    server: LocalServer, kind: str, extra: int
) -> None:
    async with connected(server) as wire:
        await wire.send(CHUNKED + chunked(**{kind: MAX_TRAILER_BYTES + extra}))
        status, problem = await wire.answer()
        assert status == (431 if extra else 422)
        if extra:
            assert problem["code"] == "request_header_fields_too_large"
        assert await (wire.ended() if extra else wire.is_served())


async def test_endless_trailers_are_refused_while_other_clients_are_served(server: LocalServer) -> None:
    async with connected(server) as wire, connected(server) as other:
        await wire.send(CHUNKED + b"%x\r\n%b\r\n0\r\nX-A: " % (len(BODY), BODY))
        for _ in range(MAX_TRAILER_BYTES // 1024 + 1):
            await wire.send(b"a" * 1024)
        assert await other.is_served()
        assert (await wire.answer())[0] == 431
        assert await wire.ended()


async def test_a_trailer_is_not_added_to_the_request_headers(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []

    async def read(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        seen.extend(name for name, _ in scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    async with connected(server) as wire:
        monkeypatch.setattr(await protocol_of(server), "app", read)
        await wire.send(CHUNKED + b"2\r\n{}\r\n0\r\nX-Late: b\r\nHost: other\r\n\r\n")
        assert (await wire.answer())[0] == 200
    assert seen == [b"host", b"authorization", b"content-type", b"transfer-encoding"]


@pytest.mark.parametrize(("data", "status"), [(b"a", 422), (b"\r\n\r\n" * 10, 201), (b"x" * 100, 422)])
async def test_the_end_of_a_large_body_in_small_chunks_is_found(
    server: LocalServer, data: bytes, status: int
) -> None:
    chunk = b"%x\r\n%b\r\n" % (len(data), data)
    count = 4 * STEP_BYTES // len(chunk)
    text = json.dumps({"to": "ada", "title": "Hello"}).encode()
    async with connected(server) as wire:
        wire.writer.write(CHUNKED + chunk * count + b"%x\r\n%b\r\n0\r\n\r\n" % (len(text), text) + WHOLE)
        assert [(await wire.answer())[0] for _ in range(2)] == [status, 201]


@pytest.mark.parametrize("cut", range(1, 5))
async def test_the_end_of_a_body_is_found_if_it_arrives_in_two_pieces(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    go_on = asyncio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    async with connected(server) as wire:
        protocol = await protocol_of(server)
        monkeypatch.setattr(protocol, "app", wait)
        await wire.send((CHUNKED + b"0\r\n\r\n")[:-cut])
        await until(lambda: protocol.cycle, "the head")
        await wire.send(b"0\r\n\r\n"[-cut:] + GET * 100)
        await until(lambda: protocol.unparsed, "what comes behind it")
        assert len(protocol.unparsed) - protocol.unparsed_at == len(GET) * 100
        assert not protocol.pipeline
        go_on.set()
        assert [(await wire.answer())[0] for _ in range(101)] == [200] * 101


class Steps:
    """What the connection of a client took of a body in chunks, and in which turn of the event loop."""

    def __init__(self, protocol: GatewayHttp, monkeypatch: pytest.MonkeyPatch) -> None:
        self.turns: list[list[tuple[int, int]]] = []
        take, take_body = protocol._take, protocol._take_body

        def counted_take(data: bytes, at: int) -> None:
            self.turns.append([])
            take(data, at)

        def counted_take_body(data: bytes, at: int) -> int:
            chunks = protocol._chunks or ChunkedBody()
            before = chunks.lines
            end = take_body(data, at)
            self.turns[-1].append((end - at, chunks.lines - before))
            return end

        monkeypatch.setattr(protocol, "_take", counted_take)
        monkeypatch.setattr(protocol, "_take_body", counted_take_body)

    @property
    def all(self) -> list[tuple[int, int]]:
        """The bytes and the lines of each step."""
        return [step for turn in self.turns for step in turn]


async def test_small_chunks_are_parsed_over_several_turns(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(server) as wire:
        steps = Steps(await protocol_of(server), monkeypatch)
        await wire.send(CHUNKED + b"1\r\na\r\n" * (8 * STEP_BYTES // 6) + b"0\r\n\r\n")
        assert (await wire.answer())[0] == 422
    assert sum(size for size, _ in steps.all) > 7 * STEP_BYTES
    assert max(size for size, _ in steps.all) <= 6 * MAX_STEP_CHUNKS
    assert max(map(len, steps.turns)) == 1


@pytest.mark.parametrize("data", [b"\r\n", b"\r\n\r\n0\r\n\r\n", b"x"])
async def test_chunk_data_takes_one_step_per_16_kib_whatever_its_content(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    size = 2 * STEP_BYTES // len(data) * len(data)
    async with connected(server) as wire:
        steps = Steps(await protocol_of(server), monkeypatch)
        await wire.send(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (size, data * (size // len(data))))
        assert (await wire.answer())[0] == 422
    assert sum(lines for _, lines in steps.all) == 3
    assert sum(size for size, _ in steps.all) > 2 * STEP_BYTES
    # A step may also end with the piece that had come.
    assert len(steps.all) <= 8


async def test_each_step_of_a_chunked_body_takes_its_turn_among_all_connections(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(server) as wire:
        protocol = await protocol_of(server)
        steps, asked = Steps(protocol, monkeypatch), 0
        passes = protocol.turnstile.passes

        def counted(address: str, go_on: Any) -> bool:
            nonlocal asked
            asked += go_on == protocol._enter
            return passes(address, go_on)

        monkeypatch.setattr(protocol.turnstile, "passes", counted)
        await wire.send(CHUNKED + b"1\r\na\r\n" * (8 * STEP_BYTES // 6) + b"0\r\n\r\n")
        assert (await wire.answer())[0] == 422
    # The first step is taken in the turn of the head.
    assert asked >= len(steps.all) > 8 * STEP_BYTES // (6 * MAX_STEP_CHUNKS)


async def test_a_step_of_a_chunked_body_waits_for_other_connections(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(server) as wire:
        await wire.send(CHUNKED)
        protocol = await protocol_of(server)
        await until(lambda: protocol._chunks, "the head")
        waiting: list[Any] = []
        monkeypatch.setattr(protocol.turnstile, "passes", lambda _, go_on: waiting.append(go_on))
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
        await wire.send(body)
        await until(lambda: waiting, "it asks for a turn")
        assert protocol.unparsed[protocol.unparsed_at :] == body
        assert protocol.flow.read_paused
        monkeypatch.undo()
        waiting[0]()
        assert (await wire.answer())[0] == 201
        assert len(waiting) == 1


async def test_an_unwanted_body_keeps_its_deadline_while_it_waits_for_its_turn(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(server) as wire:
        await wire.send(STRANGER)
        assert (await wire.answer())[0] == 401
        protocol = await protocol_of(server)
        monkeypatch.setattr(protocol.turnstile, "passes", lambda *_: False)
        await wire.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
        await until(lambda: protocol.flow.read_paused, "it waits")
        protocol._on_timeout()
        assert protocol.transport.is_closing()
        assert protocol.unparsed == b""


async def test_a_wanted_body_gets_more_time_while_the_gateway_does_not_read(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(server) as wire:
        await wire.send(CHUNKED)
        protocol = await protocol_of(server)
        await until(lambda: protocol._chunks, "the head")
        waiting: list[Any] = []
        monkeypatch.setattr(protocol.turnstile, "passes", lambda _, go_on: waiting.append(go_on))
        await wire.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
        await until(lambda: waiting, "it asks for a turn")
        protocol._on_timeout()
        monkeypatch.undo()
        waiting[0]()
        assert (await wire.answer())[0] == 201


async def test_an_unwanted_chunked_body_is_parsed_for_4096_chunks(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(server) as wire:
        protocol = await protocol_of(server)
        steps = Steps(protocol, monkeypatch)
        await wire.send(STRANGER)
        assert (await wire.answer())[0] == 401
        await wire.send(b"1\r\na\r\n" * 200_000 + b"0\r\n\r\n")
        assert await wire.ended()
    lines = sum(lines for _, lines in steps.all)
    assert pipelining.MAX_UNWANTED_CHUNKS < lines <= pipelining.MAX_UNWANTED_CHUNKS + MAX_STEP_CHUNKS


async def test_an_unwanted_body_of_4000_chunks_leaves_the_connection_usable(
    server: LocalServer,
) -> None:
    async with connected(server) as wire:
        for _ in range(2):
            await wire.send(STRANGER)
            assert (await wire.answer())[0] == 401
            await wire.send(b"100\r\n" + b"x" * 256 + b"\r\n")
            await wire.send((b"100\r\n" + b"x" * 256 + b"\r\n") * 3999 + b"0\r\n\r\n")
        assert await wire.is_served()


async def test_a_chunked_batch_of_many_megabytes_is_accepted(server: LocalServer) -> None:
    batch = json.dumps([{"to": "ada", "title": "Hello", "body": "x" * 4000}] * 1000).encode()
    head = HEAD.replace(b"/v1/notifications", b"/v1/notifications/batch")
    size = 50_000
    pieces = [batch[at : at + size] for at in range(0, len(batch), size)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    async with connected(server) as wire:
        await wire.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        assert (await wire.answer())[0] == 201
        assert await wire.is_served()


async def test_a_chunked_body_ends_only_with_an_empty_line(server: LocalServer) -> None:
    for end in (b"0\n\n", b"0\r\n\n", b"0\r\nX-A: b\n\r\n"):
        async with connected(server) as wire:
            await wire.send(CHUNKED + end + GET)
            assert (await wire.answer())[0] == 400
            assert await wire.ended()


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_the_rest_of_a_body_after_the_response_is_limited(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, extra: int, framing: str
) -> None:
    monkeypatch.setattr(pipelining, "MAX_UNWANTED_BYTES", UNWANTED)
    if framing == "length":
        field, begin, end = b"Content-Length: %d" % (UNWANTED + extra), b"", b""
    else:
        field, begin, end = b"Transfer-Encoding: chunked", b"40000\r\n", b"\r\n0\r\n\r\n"
    rest = padded(begin, UNWANTED + extra, end)
    if begin:
        data = UNWANTED + extra - len(b"3fff0\r\n") - len(end)
        rest = b"%x\r\n" % data + b"x" * data + end
    async with connected(server) as wire:
        await wire.send(b"POST /v1/notifications HTTP/1.1\r\nHost: gateway\r\n" + field + b"\r\n\r\n")
        assert (await wire.answer())[0] == 401
        await wire.send(rest)
        assert await (wire.ended() if extra else wire.is_served())


@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_an_endless_unwanted_body_ends_the_connection(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, method: bytes
) -> None:
    monkeypatch.setattr(lingering, "LINGER_SECONDS", 0.2)
    async with connected(server) as wire:
        await wire.send(
            method + b" /v1/notifications HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert (await wire.answer())[0] in {401, 405}
        protocol = await protocol_of(server)

        async def send_on() -> None:
            while True:
                await wire.send(b"400\r\n" + b"x" * 1024 + b"\r\n")

        with pytest.raises(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                await send_on()
        assert protocol._over


async def test_an_unread_body_does_not_accumulate_in_memory(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        asked.set()
        await go_on.wait()
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    async with connected(server) as wire:
        protocol = await protocol_of(server)
        monkeypatch.setattr(protocol, "app", wait)
        wire.writer.write(CHUNKED + chunk * 500 + b"0\r\n\r\n")
        await asked.wait()
        await until(lambda: protocol.flow.read_paused and not protocol._held, "what has come is parsed")
        assert len(protocol.cycle.body) < 1024 * 1024
        go_on.set()
        assert await wire.answer() == (200, {})
        assert len(protocol.cycle.body) == 0


async def test_a_closed_connection_does_not_wait_for_a_client_that_does_not_read(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering, "LINGER_SECONDS", 0.2)
    server = await start_server()
    async with connected(server) as wire:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        protocol = await protocol_of(server)
        # Below its high-water mark a transport does not say that its client reads nothing.
        monkeypatch.setattr(protocol, "pause_writing", lambda: None)
        protocol.transport.write(b"x" * 32 * 1024 * 1024)
        await wire.send(b"GET /nowhere HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
        await until(protocol.transport.is_closing, "the answer")
        assert protocol.transport.get_write_buffer_size() > 0
        await until_none(lambda: server.uvicorn.server_state.connections, "connections")


# --- what is dear to decode ---------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [0, 1])
async def test_a_path_is_limited_to_4_kib(server: LocalServer, extra: int) -> None:
    path = b"/%2F" + b"%" * (MAX_PATH_BYTES - 4 + extra)
    async with connected(server) as wire:
        await wire.send(b"GET " + path + b"?a=b HTTP/1.1\r\nHost: gateway\r\n\r\n")
        assert (await wire.answer())[0] == (414 if extra else 404)


@pytest.mark.parametrize("extra", [0, 1])
async def test_a_target_is_limited_to_10_kib(server: LocalServer, extra: int) -> None:
    target = b"/%2F?" + b"%" * (MAX_TARGET_BYTES - 5 + extra)
    async with connected(server) as wire:
        await wire.send(b"GET " + target + b" HTTP/1.1\r\nHost: gateway\r\n\r\n")
        status, problem = await wire.answer()
        assert (status, problem["code"]) == ((414, "uri_too_long") if extra else (404, "not_found"))


@pytest.mark.parametrize("extra", [0, 1])
async def test_a_query_is_limited_to_100_parameters(server: LocalServer, extra: int) -> None:
    query = b"&".join([b"%41"] * (MAX_PARAMETERS + extra))
    async with connected(server) as wire:
        await wire.send(b"GET /healthz?" + query + b" HTTP/1.1\r\nHost: gateway\r\n\r\n")
        assert (await wire.answer())[0] == (414 if extra else 200)


@pytest.mark.parametrize(
    "field",
    [b"Connection: Upgrade" + b",a" * 16, b"Connection: Upgrade\r\nSec-WebSocket-Protocol: a" + b",a" * 16],
)
async def test_the_lists_of_a_handshake_are_limited_to_16_items(server: LocalServer, field: bytes) -> None:
    handshake = (
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    )
    async with connected(server) as wire:
        await wire.send(b"GET /v1/ws HTTP/1.1\r\nHost: gateway\r\n" + handshake + field + b"\r\n\r\n")
        assert (await wire.answer())[0] == 431


async def test_the_head_of_an_answered_request_is_not_kept_in_memory(server: LocalServer) -> None:
    field = b"X-Field: " + b"x" * 50_000 + b"\r\n"
    async with connected(server) as wire:
        await wire.send(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n" + field + b"\r\n")
        assert (await wire.answer())[0] == 200
        protocol = await protocol_of(server)
        assert (protocol.headers, protocol.cycle.scope["headers"]) == ([], [])
        assert await wire.is_served()
