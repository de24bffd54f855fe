"""Clients that send slowly, or nothing: they hold a connection for as long as the settings say."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import pytest

from gateway.settings import Settings
from gateway.transport.framing import MAX_HEAD_BYTES
from gateway.transport.http import GatewayHttp
from tests.support.databases import API_KEY
from tests.support.servers import LocalServer, StartServer
from tests.support.waiting import PATIENCE, until

SHORT = 0.3
LONG = 60.0
HEAD = (
    f"POST /v1/notifications HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {API_KEY}\r\n"
    "Content-Type: application/json\r\n"
).encode()
BODY = b'{"to":"ada","title":"Hello"}'
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


@dataclass
class Wire:
    """A connection on which the test decides about each byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, bytes]:
        """Return the status and the body of the next answer."""
        async with asyncio.timeout(PATIENCE):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return int(head[9:12]), await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """Return what comes until the gateway closes the connection."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    async def trickle(self, data: bytes) -> bytes:
        """Send a byte now and then until the gateway closes; return what came."""
        ended = asyncio.create_task(self.rest())
        for byte in data * 10_000:
            if ended.done():
                break
            self.writer.write(bytes((byte,)))
            await asyncio.wait([ended], timeout=SHORT / 10)
        return await ended


@asynccontextmanager
async def connected(server: LocalServer) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.base.rpartition(":")[2]))
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture
async def hasty(start_server: StartServer) -> LocalServer:
    """A gateway that waits for nobody."""
    return await start_server(header_timeout=SHORT, body_timeout=SHORT)


async def test_a_silent_client_is_disconnected_after_the_header_timeout(start_server: StartServer) -> None:
    server = await start_server(header_timeout=SHORT, body_timeout=LONG)
    async with connected(server) as wire:
        began = time.monotonic()
        assert await wire.rest() == b""
        assert time.monotonic() - began >= SHORT * 0.9


@pytest.mark.parametrize(
    "start",
    [
        b"G",
        b"GET /v1/inbox HTTP/1.1\r\n",
        b"GET /v1/inbox HTTP/1.1\r\nHost: gateway\r\nX-A: ",
        b"\r\n\r\n",
        b"GET /v1/ws HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    ],
    ids=["one byte", "a request line", "half a header", "line breaks", "half a handshake"],
)
async def test_an_unfinished_head_ends_the_connection(start_server: StartServer, start: bytes) -> None:
    server = await start_server(header_timeout=SHORT, body_timeout=LONG)
    async with connected(server) as wire:
        wire.send(start)
        assert await wire.rest() == b""


@pytest.mark.parametrize("drip", [b"X-A: b\r\n", b"a"], ids=["headers", "letters"])
async def test_a_trickling_head_does_not_extend_its_deadline(start_server: StartServer, drip: bytes) -> None:
    server = await start_server(header_timeout=SHORT, body_timeout=LONG)
    async with connected(server) as wire:
        wire.send(b"GET /v1/inbox HTTP/1.1\r\nHost: gateway\r\nX-B: ")
        began = time.monotonic()
        assert await wire.trickle(drip) == b""
        assert time.monotonic() - began < SHORT * 5


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"]
)
@pytest.mark.parametrize("drip", [b"", b"1"], ids=["silent", "trickling"])
async def test_a_body_that_does_not_arrive_in_time_is_answered_with_408(
    start_server: StartServer, framing: bytes, drip: bytes
) -> None:
    server = await start_server(header_timeout=LONG, body_timeout=SHORT)
    async with connected(server) as wire:
        wire.send(HEAD + framing)
        if b"chunked" in framing:
            wire.send(b"186a0\r\n")
        head, _, body = (await wire.trickle(drip) if drip else await wire.rest()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 Request Timeout")
        assert b"content-type: application/problem+json" in head
        assert b"connection: close" in head
        assert b"x-content-type-options: nosniff" in head
        assert json.loads(body) == {
            "type": "about:blank",
            "title": "Request Timeout",
            "status": 408,
            "detail": "The body did not arrive in time.",
            "code": "request_timeout",
        }


async def test_a_form_that_does_not_arrive_in_time_is_answered_with_408(hasty: LocalServer) -> None:
    async with connected(hasty) as wire:
        wire.send(
            b"POST /v1/auth/token HTTP/1.1\r\nHost: gateway\r\nContent-Length: 100\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\ngrant_type=password"
        )
        assert (await wire.rest()).startswith(b"HTTP/1.1 408 ")


async def test_a_client_refused_before_its_body_cannot_keep_sending_it(hasty: LocalServer) -> None:
    async with connected(hasty) as wire:
        wire.send(b"POST /v1/notifications HTTP/1.1\r\nHost: gateway\r\nContent-Length: 100000\r\n\r\n")
        assert (await wire.answer())[0] == 401
        assert await wire.trickle(b"1") == b""


async def test_a_connection_stays_open_for_requests_that_arrive_whole(start_server: StartServer) -> None:
    server = await start_server(header_timeout=SHORT, body_timeout=SHORT)
    async with connected(server) as wire:
        began = time.monotonic()
        while time.monotonic() - began < SHORT * 3:
            wire.send(WHOLE)
            assert (await wire.answer())[0] == 201


def test_the_keep_alive_timeout_exceeds_that_of_common_http_clients() -> None:
    """Which client closes first is a race otherwise, and a request of the other gets no response."""
    kept_by = {"httpx": 5, "undici": 4, "aiohttp": 15, "AWS's balancer, nginx's upstreams": 60}
    assert Settings().keep_alive > max(kept_by.values())


async def test_a_connection_waits_for_its_next_request_for_the_keep_alive_timeout(
    start_server: StartServer,
) -> None:
    patient = await start_server(keep_alive=600, header_timeout=SHORT)
    async with connected(patient) as wire:
        for _ in range(2):
            wire.send(WHOLE)
            assert (await wire.answer())[0] == 201
            # Longer than a head may take: none is on its way.
            await asyncio.sleep(SHORT * 1.5)
    brief = await start_server(keep_alive=1)
    async with connected(brief) as wire:
        wire.send(WHOLE)
        assert (await wire.answer())[0] == 201
        assert await wire.rest() == b""


async def test_no_timer_remains_after_a_request_is_complete(server: LocalServer) -> None:
    async with connected(server) as wire:
        wire.send(WHOLE[:-5])
        (connection,) = await until(lambda: list(server.uvicorn.server_state.connections), "a connection")
        protocol = cast("GatewayHttp", connection)
        wire.send(WHOLE[-5:])
        assert (await wire.answer())[0] == 201
        assert protocol._timer is None
        wire.send(b"GET / HTTP")
        await until(lambda: protocol._timer, "the next head is waited for")


async def test_the_second_request_of_a_connection_has_a_deadline_too(hasty: LocalServer) -> None:
    for start in (b"GET / HTTP/1.1\r\n", b"\r\n", WHOLE[:-1]):
        async with connected(hasty) as wire:
            wire.send(WHOLE)
            assert (await wire.answer())[0] == 201
            wire.send(start)
            assert (await wire.rest()).partition(b"\r\n")[0] in {b"", b"HTTP/1.1 408 Request Timeout"}


async def test_requests_sent_in_one_go_are_all_answered(hasty: LocalServer) -> None:
    async with connected(hasty) as wire:
        wire.send(WHOLE * 5)
        assert [(await wire.answer())[0] for _ in range(5)] == [201] * 5


async def test_an_open_socket_has_no_deadline(start_server: StartServer) -> None:
    server = await start_server(header_timeout=SHORT, body_timeout=SHORT, commands_per_second=1e6)
    user = await server.user()
    async with user.socket() as socket:
        await socket.until("live")
        began = time.monotonic()
        while time.monotonic() - began < SHORT * 3:
            assert (await socket.ask(type="ping"))["type"] == "ok"


async def test_a_body_and_a_partial_next_head_do_not_count_as_a_long_head(server: LocalServer) -> None:
    body = b'{"to":"ada","title":"Hello","body":"%s"}' % (b" " * 3 * MAX_HEAD_BYTES)
    async with connected(server) as wire:
        wire.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body + WHOLE[:20])
        assert (await wire.answer())[0] == 422
        wire.send(WHOLE[20:])
        assert (await wire.answer())[0] == 201


async def test_a_client_that_disconnects_during_its_body_causes_no_error(server: LocalServer) -> None:
    async with connected(server) as wire:
        wire.send(WHOLE[:-5])
        await until(lambda: len(server.uvicorn.server_state.tasks) == 1, "the body is waited for")
    await until(lambda: not server.uvicorn.server_state.tasks, "nobody is waited for")


async def test_a_client_that_sends_requests_and_never_reads_is_cut_off(start_server: StartServer) -> None:
    server = await start_server(header_timeout=LONG, body_timeout=SHORT)
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: gateway\r\n\r\n" * 400
    async with connected(server) as wire:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        wire.send(asked)
        held = server.uvicorn.server_state.connections
        await until(
            lambda: any(cast("GatewayHttp", one).flow.write_paused for one in held),
            "the answers wait to be read",
        )
        await until(lambda: not held, "the client is cut off")


async def test_an_endless_head_is_refused(server: LocalServer) -> None:
    async with connected(server) as wire:
        wire.send(b"GET / HTTP/1.1\r\nHost: gateway\r\nX-A: ")
        for _ in range(MAX_HEAD_BYTES // 1024 + 1):
            wire.send(b"a" * 1024)
            await wire.writer.drain()
        assert (await wire.rest()).startswith(b"HTTP/1.1 431 ")
