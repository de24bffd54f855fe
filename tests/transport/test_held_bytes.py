"""What the requests of a connection hold is counted from their first byte to their answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from websockets.frames import Frame, Opcode

from gateway.api import callers, handshake, notifications
from gateway.store.writer import Writer
from gateway.transport import turnstile
from gateway.transport.held_bytes import FIELD_BYTES, MAX_UNCOUNTED_BYTES
from gateway.transport.http import GatewayHttp
from gateway.transport.turnstile import TURNSTILE
from tests.support.clients import raw_socket
from tests.support.databases import API_KEY
from tests.support.servers import LocalServer
from tests.support.waiting import PATIENCE, until, until_none

FIELD = b"X-Field: " + b"x" * 50_000 + b"\r\n"
HEAD = (
    f"POST /v1/notifications HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {API_KEY}\r\n"
    "Content-Type: application/json\r\n"
).encode()
BODY = b'{"to":"ada","title":"Hello"}' + b" " * 15_000
BEGUN = HEAD + FIELD + b"Content-Length: %d\r\n\r\n" % len(BODY)
HANDSHAKE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough: none of this depends on it."""
    return sqlite_url


class Wire:
    """A connection on which the test decides about each byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        """Return the head of the next response."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(b"\r\n\r\n")


@asynccontextmanager
async def connected(server: LocalServer) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.base.rpartition(":")[2]))
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def held(server: LocalServer) -> int:
    """Return how many bytes are counted."""
    return int(server.uvicorn.lifespan.state[TURNSTILE].held_bytes)


async def released(server: LocalServer) -> None:
    await until(lambda: held(server) == 0, "nothing is counted")


async def test_the_head_and_body_of_a_request_count_until_the_response(server: LocalServer) -> None:
    async with connected(server) as wire:
        await wire.send(BEGUN)
        await until(lambda: len(BEGUN) < held(server) < len(BEGUN) + 1000, "the head counts")
        await wire.send(BODY[:-1])
        await until(lambda: held(server) > len(BEGUN) + len(BODY) - 1, "the body counts")
        await wire.send(BODY[-1:])
        assert (await wire.head()).startswith(b"HTTP/1.1 201 ")
        await released(server)


async def test_a_body_counts_before_and_after_the_application_reads_it(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, poster = asyncio.Event(), callers.poster

    async def wait(request: Any) -> Any:
        await go_on.wait()
        return await poster(request)

    monkeypatch.setattr(notifications, "poster", wait)
    body = BODY + b" " * 50_000
    async with connected(server) as wire:
        await wire.send(HEAD + b"Content-Length: %d\r\n\r\n" % (len(body) + 1) + body)
        await until(lambda: held(server) > len(body), "it counts, though it is not taken")
        go_on.set()
        await until(lambda: server.state.rate_limits.body_queue._held, "it is counted")
        await wire.send(b" ")
        assert (await wire.head()).startswith(b"HTTP/1.1 201 ")
        await released(server)


async def test_many_short_fields_count_by_their_memory_use(server: LocalServer) -> None:
    fields = b"".join(b"a%d:b\r\n" % number for number in range(90))
    head = HEAD + fields + b"Content-Length: 1\r\n\r\n"
    assert len(head) < MAX_UNCOUNTED_BYTES < 90 * FIELD_BYTES
    async with connected(server) as wire:
        await wire.send(head)
        await until(lambda: held(server) > 90 * FIELD_BYTES, "they count")
    await released(server)


async def test_a_small_request_is_not_counted(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    gate = server.uvicorn.lifespan.state[TURNSTILE]
    monkeypatch.setattr(gate, "hold", lambda _, size: counted.append(size))
    async with connected(server) as wire:
        await wire.send(HEAD + b"Content-Length: 28\r\n\r\n" + BODY[:28])
        assert (await wire.head()).startswith(b"HTTP/1.1 201 ")
    assert counted == []


async def test_a_request_over_the_limit_gets_a_503_and_earlier_and_small_requests_continue(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turnstile, "MAX_HELD_BYTES", 250_000)
    async with connected(server) as first, connected(server) as second, connected(server) as third:
        await first.send(BEGUN)
        await until(lambda: held(server) >= len(BEGUN), "it has come")
        await second.send(BEGUN)
        await until(lambda: held(server) >= 2 * len(BEGUN), "it has come")
        await third.send(BEGUN)
        refusal = await third.head()
        assert refusal.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: " in refusal
        assert (await server.http.get("/healthz")).status_code == 200
        assert (await server.service.post("/v1/notifications", json={"to": "ada", "title": "x"})).is_success
        for wire in (first, second):
            await wire.send(BODY)
            assert (await wire.head()).startswith(b"HTTP/1.1 201 ")
    await released(server)


async def test_a_body_over_the_limit_gets_a_503(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(server) as wire:
        await wire.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY))
        monkeypatch.setattr(turnstile, "MAX_HELD_BYTES", 10_000)
        await wire.send(BODY[:-1])
        assert (await wire.head()).startswith(b"HTTP/1.1 503 ")
    await released(server)


async def test_a_request_of_a_disconnected_client_counts_while_the_application_holds_it(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, poster = asyncio.Event(), callers.poster

    async def wait(request: Any) -> Any:
        await go_on.wait()
        return await poster(request)

    monkeypatch.setattr(notifications, "poster", wait)
    async with connected(server) as wire:
        await wire.send(BEGUN)
        await until(lambda: held(server) > len(BEGUN), "the head counts")
    await until_none(lambda: list(server.uvicorn.server_state.connections), "connections")
    assert held(server) > len(BEGUN)
    go_on.set()
    await released(server)


async def test_a_handshake_counts_until_it_is_answered(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, go_on, whose = await server.user(), asyncio.Event(), callers.socket_user

    async def wait(connection: Any) -> Any:
        await go_on.wait()
        return await whose(connection)

    monkeypatch.setattr(handshake, "socket_user", wait)
    head = HANDSHAKE + f"Authorization: Bearer {user.token}\r\n".encode() + FIELD + b"\r\n"
    async with connected(server) as wire:
        await wire.send(head)
        await until(lambda: held(server) >= len(head), "it counts")
        go_on.set()
        assert (await wire.head()).startswith(b"HTTP/1.1 101 ")
        await released(server)


async def test_an_invalid_handshake_no_longer_counts_after_its_refusal(server: LocalServer) -> None:
    async with connected(server) as wire:
        await wire.send(HANDSHAKE.replace(b"Version: 13", b"Version: 12") + FIELD + b"\r\n")
        assert (await wire.head()).startswith(b"HTTP/1.1 400 ")
        await released(server)


async def test_an_idle_connection_holds_no_data_of_the_previous_request(server: LocalServer) -> None:
    async with connected(server) as wire:
        await wire.send(b"GET /healthz?" + b"q" * 9000 + b" HTTP/1.1\r\nHost: gateway\r\n" + FIELD + b"\r\n")
        assert (await wire.head()).startswith(b"HTTP/1.1 200 ")
        (one,) = server.uvicorn.server_state.connections
        protocol = cast("GatewayHttp", one)
        await released(server)
        assert (protocol.url, protocol.headers) == (b"", [])
        assert protocol.scope is protocol.cycle.scope
        assert dict(protocol.scope) == {"headers": []}


# --- messages of sockets ------------------------------------------------------------------------------------


async def test_an_unfinished_message_counts_until_its_end(server: LocalServer) -> None:
    user = await server.user()
    begun = Frame(Opcode.TEXT, b" " * 6000, fin=False).serialize(mask=True)
    text = b'{"type":"read","ref":"a","ids":[]}' + b" " * 5000
    rest = Frame(Opcode.CONT, text).serialize(mask=True)
    async with raw_socket(user) as socket:
        await socket.send_bytes(begun)
        await until(lambda: held(server) == 6000, "the fragment counts")
        await socket.send_bytes(rest[:-1])
        await until(lambda: held(server) == 6000 + len(rest) - 1, "the piece of a frame counts")
        await socket.send_bytes(rest[-1:])
        await released(server)


async def test_a_message_behind_a_command_counts_until_it_is_executed(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, change = asyncio.Event(), Writer.change

    async def held_back(writer: Writer, *arguments: Any) -> Any:
        await gate.wait()
        return await change(writer, *arguments)

    monkeypatch.setattr(Writer, "change", held_back)
    seen = b'{"type":"seen","up_to":0}'
    async with raw_socket(await server.user()) as socket:
        await socket.send_bytes(Frame(Opcode.TEXT, seen).serialize(mask=True))
        await socket.send_bytes(Frame(Opcode.TEXT, seen + b" " * 9000).serialize(mask=True))
        await until(lambda: held(server) == len(seen) + 9000, "the message counts")
        gate.set()
        await released(server)


async def test_an_unfinished_message_over_the_limit_closes_its_socket_with_1013(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await server.user()
    begun = Frame(Opcode.TEXT, b" " * 6000, fin=False).serialize(mask=True)
    monkeypatch.setattr(turnstile, "MAX_HELD_BYTES", 20_000)
    async with raw_socket(user) as first, raw_socket(user) as second:
        await first.send_bytes(begun)
        await until(lambda: held(server) == 6000, "it counts")
        await second.send_bytes(begun)
        assert await second.read_until_closed() == (1013, "overloaded")
        assert held(server) == 6000
    await released(server)
