"""Answers that nobody reads: what each of them holds, in the gateway and in the kernel."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any, cast

import pytest
import uvloop

from gateway.server.run import listen
from gateway.settings import Settings
from gateway.transport import slices
from gateway.transport.http import GatewayHttp
from gateway.transport.lingering import LINGER_BYTES
from gateway.transport.slices import SLICE_BYTES, SharedResponse
from gateway.transport.socket_buffers import UNSENT_BYTES, has_left
from gateway.transport.unsent import HIGH_WATER_BYTES
from gateway.web.reference import SWAGGER_VERSION
from tests.support.servers import LocalServer
from tests.support.waiting import PATIENCE, until, until_none

FILE = f"/docs/{SWAGGER_VERSION}/swagger-ui-bundle.js"
MANY = 4 * 1024 * 1024


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Unread answers know nothing of databases."""
    return sqlite_url


@asynccontextmanager
async def unread(
    server: LocalServer, requests: bytes
) -> AsyncIterator[tuple[asyncio.StreamReader, GatewayHttp]]:
    """Send requests on a connection of which little fits into the kernel, and read nothing yet."""
    server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    address = ("127.0.0.1", int(server.base.rpartition(":")[2]))
    await asyncio.get_running_loop().sock_connect(plain, address)
    reader, writer = await asyncio.open_connection(sock=plain, limit=4096)
    writer.write(requests)
    try:
        (protocol,) = await until(
            lambda: [one for one in connections(server) if one.flow.write_paused],
            "the answer waits to be read",
        )
        yield reader, protocol
    finally:
        writer.transport.abort()


def connections(server: LocalServer) -> list[GatewayHttp]:
    return [cast("GatewayHttp", one) for one in server.uvicorn.server_state.connections]


def asking(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: gateway", *fields, "\r\n"]).encode()


async def body_of(reader: asyncio.StreamReader) -> bytes:
    """Read an answer."""
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return await reader.readexactly(length)


# --- what is held -------------------------------------------------------------------------------------------


def test_the_kernel_buffers_little_unread_data() -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(listen(Settings(port=0)))
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        accepted = stack.enter_context(listener.accept()[0])
        accepted.setblocking(False)
        taken = 0
        while taken < MANY:
            try:
                taken += accepted.send(b"x" * SLICE_BYTES)
            except BlockingIOError:
                break
        # It looks before each of its own buffers, of up to 64 KiB.
        assert taken <= UNSENT_BYTES + 2 * SLICE_BYTES


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_public_file_is_sent_without_copies(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    content, given = b"x" * (3 * SLICE_BYTES + 1), list[Any]()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            given.append(message["body"])

    async def answer() -> bool:
        await SharedResponse(content)({"type": "http"}, cast("Any", None), send)
        return slices._keeps_views()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        whole = runner.run(answer())
    assert b"".join(given) == content
    assert all((one.obj if isinstance(one, memoryview) else one) is content for one in given)
    assert whole or new_loop is asyncio.new_event_loop
    assert len(given) == (1 if whole else 4)


async def test_an_unread_large_file_holds_no_request(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_keeps_views", lambda: True)
    whole = (await server.http.get(FILE)).content
    async with unread(server, asking(FILE) + asking("/openapi.json")) as (reader, protocol):
        await until_none(lambda: server.uvicorn.server_state.tasks, "requests")
        assert protocol.transport.get_write_buffer_size() > len(whole) - 4 * SLICE_BYTES
        assert await body_of(reader) == whole
        assert (await body_of(reader)).startswith(b'{"openapi"')


async def test_unread_small_responses_delay_the_next_request(server: LocalServer) -> None:
    async with unread(server, asking("/nowhere") * 1000) as (reader, protocol):
        assert protocol.transport.get_write_buffer_size() < HIGH_WATER_BYTES + 4096
        for _ in range(1000):
            assert b"not_found" in await body_of(reader)


async def test_sockets_and_streams_have_a_small_write_buffer(server: LocalServer) -> None:
    ada = await server.user()
    request = asking("/v1/stream", f"Authorization: Bearer {ada.token}")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.base.rpartition(":")[2]))
    async with ada.socket() as opened:
        await opened.until("live")
        writer.write(request)
        await server.sockets(2)
        carriers = [one for one in connections(server) if not isinstance(one, GatewayHttp)]
        limits = [one.transport.get_write_buffer_limits() for one in carriers]
        assert limits == [(HIGH_WATER_BYTES // 4, HIGH_WATER_BYTES)] * 2
    writer.transport.abort()
    assert not reader.at_eof()


# --- who reads, though slowly -------------------------------------------------------------------------------


async def test_a_client_that_reads_a_slice_in_time_is_not_cut_off(server: LocalServer) -> None:
    async with unread(server, asking(FILE)) as (_, protocol):
        left = protocol.transport.get_write_buffer_size()
        protocol._check_reading(left + SLICE_BYTES)
        assert not protocol.transport.is_closing()
        protocol._stop_waiting()
        protocol._check_reading(left + SLICE_BYTES - 1)
        assert protocol.transport.is_closing()


async def test_a_client_that_still_reads_keeps_its_connection(server: LocalServer) -> None:
    async with unread(server, asking("/nowhere") * 1000) as (_, protocol):
        protocol.timeout_keep_alive_handler()
        assert not protocol.transport.is_closing()
        protocol.flow.resume_writing()
        protocol._unset_keepalive_if_required()
        protocol.timeout_keep_alive_handler()
        assert protocol.transport.is_closing()


async def test_a_closing_connection_lingers_only_while_its_client_reads(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_keeps_views", lambda: True)
    async with unread(server, asking(FILE, "Connection: close")) as (reader, protocol):
        await until(protocol.transport.is_closing, "the answer is handed over")
        left = protocol.transport.get_write_buffer_size()
        cast("asyncio.TimerHandle", protocol._lingering).cancel()
        protocol._check_lingering(left + LINGER_BYTES)
        lingering = cast("asyncio.TimerHandle", protocol._lingering)
        assert not lingering.cancelled()
        assert protocol in connections(server)
        lingering.cancel()
        protocol._check_lingering(left + LINGER_BYTES - 1)
        await until_none(lambda: connections(server), "connections")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await body_of(reader)


async def test_a_client_that_has_closed_its_sending_side_gets_its_last_answer_whole(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_keeps_views", lambda: True)
    whole = (await server.http.get(FILE)).content
    async with unread(server, asking(FILE) + asking("/healthz")) as (reader, protocol):
        await until_none(lambda: server.uvicorn.server_state.tasks, "requests")
        cast("Any", reader)._transport.write_eof()
        await until(lambda: has_left(protocol.transport), "the server could know")
        protocol._enter()  # The turn of the second request comes.
        assert await body_of(reader) == whole
        assert await reader.read() == b""
