"""The end of a process: gentle to those who answer, and in time whatever the others do."""

import asyncio
import json
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import cast

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from gateway.delivery.drain import CLOSED_PER_SECOND, SPREAD_FRACTION, Drain
from gateway.delivery.hub import Hub
from gateway.protocol.close_codes import Close
from gateway.transport.http import GatewayHttp
from tests.support.databases import API_KEY, settings_for
from tests.support.servers import LocalServer, Process, process, serving
from tests.support.waiting import until


class Fake:
    """A subscriber that notes when it was closed, and how."""

    session = "s"
    position = (0, 0, 0)

    def __init__(self) -> None:
        self.closed: list[tuple[Close, str]] = []
        self.closed_at = 0.0

    def wake(self, seq: int) -> None:
        raise NotImplementedError

    def tick(self) -> None:
        raise NotImplementedError

    def close(self, code: Close, reason: str) -> None:
        self.closed.append((code, reason))
        self.closed_at = asyncio.get_running_loop().time()


def hub_of(stack: AsyncExitStack, fakes: list[Fake]) -> Hub:
    hub = Hub((), max_sockets=10_000, max_sockets_per_user=10_000)
    for number, fake in enumerate(fakes):
        hub.attach(number % 7, fake)
        stack.callback(hub.detach, number % 7, fake)
    return hub


@pytest.mark.parametrize(
    ("sockets", "grace_period", "seconds"),
    [
        (CLOSED_PER_SECOND, 1, SPREAD_FRACTION),
        (CLOSED_PER_SECOND // 2, 60, 0.5),
        (3 * CLOSED_PER_SECOND, 1, SPREAD_FRACTION),
    ],
)
async def test_socket_closes_are_spread_over_half_of_the_grace_period_or_by_the_rate(
    sockets: int, grace_period: float, seconds: float
) -> None:
    fakes = [Fake() for _ in range(sockets)]
    async with AsyncExitStack() as stack:
        await Drain(hub_of(stack, fakes), grace_period).close_sockets()
    assert all(fake.closed == [(Close.RESTART, "restart")] for fake in fakes)
    moments = sorted(fake.closed_at for fake in fakes)
    # None is closed before its time: the tenth part of them not before a tenth of the time has passed.
    for tenth in range(10):
        place = sockets * tenth // 10
        assert moments[place] - moments[0] >= seconds * place / sockets - 0.02


async def test_few_sockets_are_closed_at_once() -> None:
    fakes = [Fake()]
    async with AsyncExitStack() as stack:
        closing = Drain(hub_of(stack, fakes), 60).close_sockets()
        with pytest.raises(StopIteration):
            closing.send(None)
    assert fakes[0].closed == [(Close.RESTART, "restart")]


# --- real processes -----------------------------------------------------------------------------------------

SOCKETS = 150
"""They are closed within a second and a half."""


async def test_a_draining_process_goes_through_every_step(database_url: str, tmp_path: Path) -> None:
    async with (
        process(database_url, tmp_path, grace_period=20) as (gateway, server),
        AsyncExitStack() as stack,
    ):
        users = [await server.user(f"user {number}") for number in range(SOCKETS // 15)]
        sockets = [await stack.enter_async_context(users[n % len(users)].socket()) for n in range(SOCKETS)]
        for socket in sockets:
            await socket.next("live")
        told_at = time.monotonic()
        gateway.signal(signal.SIGTERM)
        await until(lambda: is_draining(server.http), "the gateway says that it is not ready")
        answer = await server.service.post("/v1/notifications", json={"to": "user 0", "title": "Late"})
        assert (answer.status_code, answer.headers["connection"]) == (201, "close")
        with pytest.raises(InvalidStatus) as refused:
            async with users[0].socket():
                pass
        assert refused.value.response.status_code == 503
        assert await gateway.ended() == 0
        assert time.monotonic() - told_at < 20
        assert {await socket.closed() for socket in sockets} == {(1012, "restart")}
        assert "Traceback" not in gateway.log.read_text()
        await gateway.start()
        assert [item["title"] for item in (await users[0].inbox())["items"]] == ["Late"]


async def is_draining(http: httpx.AsyncClient) -> bool:
    answer = await http.get("/readyz")
    return answer.status_code == 503 and answer.headers.get("connection") == "close"


JSON = {"Content-Type": "application/json"}
BODY = json.dumps({"to": "ada", "title": "Hello"}).encode()
HEAD = (
    "POST /v1/notifications HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
    f"Authorization: Bearer {API_KEY}\r\nContent-Length: {len(BODY)}\r\n\r\n"
).encode()


@asynccontextmanager
async def half_a_post(gateway: Process) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Begin a post whose body has not come to its end, and wait until the gateway waits for the rest."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        writer.write(HEAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY[:5])
        await writer.drain()
        yield reader, writer
    finally:
        writer.transport.abort()


async def refuses(gateway: Process) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    except OSError:
        return True
    writer.transport.abort()
    return False


async def test_a_request_under_way_is_finished(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        process(sqlite_url, tmp_path, grace_period=60) as (gateway, _),
        half_a_post(gateway) as (reader, writer),
    ):
        gateway.signal(signal.SIGTERM)
        await until(lambda: refuses(gateway), "the gateway does not listen any more")
        writer.write(BODY[5:])
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 201 ")
        assert b"connection: close" in answer
        assert await gateway.ended() == 0


async def test_a_second_signal_ends_the_process_at_once(sqlite_url: str, tmp_path: Path) -> None:
    async with process(sqlite_url, tmp_path, grace_period=600) as (gateway, _), half_a_post(gateway):
        gateway.signal(signal.SIGHUP)
        await until(lambda: refuses(gateway), "one process that is alone takes SIGHUP for SIGTERM")
        gateway.signal(signal.SIGTERM)
        # Within a second it is an echo: the drain goes on until somebody is_repeated.
        ended = asyncio.create_task(gateway.ended())

        async def insisted() -> bool:
            if not ended.done():
                gateway.signal(signal.SIGINT)
            return ended.done()

        await until(insisted, "a later one ends it")
        assert await ended == 1


async def test_an_unfinished_request_is_cut_off_within_the_grace_period(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with process(sqlite_url, tmp_path, grace_period=3) as (gateway, _), half_a_post(gateway):
        told_at = time.monotonic()
        assert await asyncio.to_thread(gateway.end) == 0
        assert time.monotonic() - told_at < 3
        assert "Traceback" not in gateway.log.read_text()


async def test_a_hanging_database_does_not_delay_the_shutdown(sqlite_url: str, tmp_path: Path) -> None:
    async with process(sqlite_url, tmp_path, grace_period=2) as (gateway, server):
        await server.http.get("/healthz")
        # Whoever has the lock of the database holds up the writer for five seconds.
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN IMMEDIATE")
            post = asyncio.create_task(server.service.post("/v1/notifications", content=BODY, headers=JSON))
            for _ in range(5):
                await server.http.get("/healthz")
            assert not post.done()
            told_at = time.monotonic()
            assert await asyncio.to_thread(gateway.end) == 0
            assert time.monotonic() - told_at < 3
            with pytest.raises(httpx.TransportError):
                await post


async def raw(server: LocalServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, GatewayHttp]:
    """Connect, and return what serves the connection, too."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.base.rpartition(":")[2]))
    connections = server.uvicorn.server_state.connections
    await until(lambda: connections, "it is accepted")
    (served,) = connections
    return reader, writer, cast("GatewayHttp", served)


async def test_a_draining_process_answers_a_request_on_a_new_connection(
    sqlite_url: str,
) -> None:
    async with serving(settings_for(sqlite_url)) as server:
        reader, writer, served = await raw(server)
        served.shutdown()
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await writer.wait_closed()


async def test_an_idle_new_connection_does_not_delay_the_shutdown(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.transport.http.FIRST_REQUEST_SECONDS", 0.05)
    async with serving(settings_for(sqlite_url)) as server:
        reader, writer, served = await raw(server)
        served.shutdown()
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await writer.wait_closed()
