"""How many connections there may be: in all, from one address, and below the limit of open files."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from ipaddress import ip_network
from pathlib import Path
from typing import cast

import httpx
import pytest
from structlog.testing import capture_logs
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.transport import open_files
from gateway.transport.bare_answers import RETRY_AFTER_SECONDS
from gateway.transport.connections import CONNECTIONS, LOG_INTERVAL_SECONDS, Connections, Full
from tests.support.clients import http_client
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, Process, Server, StartServer
from tests.support.streams import stream_of
from tests.support.waiting import PATIENCE, until, until_none

HOME, AWAY = "192.0.2.1", "198.51.100.7"
ABROAD = "127.0.0.2"
"""An address of this machine that the tests take for another one's."""

FILES = 96
ROOM = 48
"""How many connections fit below that limit of open files."""


def fill(connections: Connections, *hosts: str) -> int:
    """Open connections from these addresses in turn, until there is no room, and return how many."""
    for number in range(10_000):
        try:
            connections.enter(hosts[number % len(hosts)])
        except Full:
            return number
    raise AssertionError("there is always room")


# --- the rules ----------------------------------------------------------------------------------------------


def test_an_address_may_hold_as_many_connections_as_remain_free_for_others() -> None:
    connections = Connections(100, 1000)
    assert [fill(connections, f"192.0.2.{number}") for number in range(4)] == [50, 25, 13, 6]
    assert len(connections) == 94, "each further address finds room"


def test_ipv6_addresses_and_their_wider_networks_have_separate_limits() -> None:
    connections = Connections(10_000, 10)
    assert fill(connections, HOME) == 10
    assert fill(connections, "2001:db8::1", "2001:db8::2") == 10
    assert fill(connections, *(f"2001:db8:0:{number:x}::1" for number in range(1, 31))) == 30
    assert fill(connections, *(f"2001:db8:0:{number:x}00::1" for number in range(1, 255))) == 120


def test_all_addresses_of_a_48_network_hold_no_more_than_remain_for_others() -> None:
    connections = Connections(100, 1000)
    assert fill(connections, *(f"2001:db8:0:{number:x}::1" for number in range(5000))) == 50
    connections.enter(AWAY)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "10.1.2.3", ""])
def test_loopback_proxies_and_unix_sockets_count_only_toward_the_total(host: str) -> None:
    connections = Connections(100, 10, ["10.0.0.0/8"])
    assert fill(connections, host) == 100
    with pytest.raises(Full) as refused:
        connections.enter(HOME)
    assert refused.value.status == HTTPStatus.SERVICE_UNAVAILABLE


def test_a_closed_connection_frees_its_place_and_is_forgotten() -> None:
    connections = Connections(100, 1)
    for _ in range(3):
        place = connections.enter("2001:db8::1")
        with pytest.raises(Full) as refused:
            connections.enter("2001:db8::2")
        assert refused.value.status == HTTPStatus.TOO_MANY_REQUESTS
        connections.leave(place)
    assert (len(connections), dict(connections._held)) == (0, {})


def test_refused_connections_are_all_counted_and_logged_once_a_minute() -> None:
    now, counted = 0.0, list[HTTPStatus]()
    connections = Connections(4, 1, on_refused=counted.append, clock=lambda: now)
    connections.enter(HOME)
    with capture_logs() as lines:
        for at in (0, 1, LOG_INTERVAL_SECONDS - 1, LOG_INTERVAL_SECONDS, LOG_INTERVAL_SECONDS + 1):
            now = at
            assert fill(connections, HOME) == 0
    assert counted == [HTTPStatus.TOO_MANY_REQUESTS] * 5
    assert [(line["refused"], line["network"]) for line in lines] == [(1, HOME), (3, HOME)]


@pytest.mark.parametrize(
    ("limit", "room"), [(2, 1), (64, 32), (FILES, ROOM), (1024, 914), (20_000, 15_000), (1 << 60, 15_000)]
)
def test_the_connection_limit_leaves_files_for_the_gateway_itself(limit: int, room: int) -> None:
    settings = settings_for("sqlite:///unused.db", max_sockets=5000)
    assert open_files.connections_within(limit, settings) == room


# --- on the wire --------------------------------------------------------------------------------------------


@pytest.fixture
def abroad(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all of loopback but the address of the good clients for other machines."""
    monkeypatch.setattr("gateway.transport.connections.LOOPBACK", (ip_network("127.0.0.1/32"),))


def connections_of(server: LocalServer) -> Connections:
    return cast("Connections", server.uvicorn.lifespan.state[CONNECTIONS])


@asynccontextmanager
async def idle(port: int, number: int, host: str = ABROAD) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Hold so many connections from an address, each of which asks for nothing."""
    opened = [await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0)) for _ in range(number)]
    try:
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.transport.abort()


async def said(reader: asyncio.StreamReader) -> bytes:
    """Return all that comes on a connection until the gateway closes it."""
    async with asyncio.timeout(PATIENCE):
        return await reader.read()


def port_of(server: Server) -> int:
    return int(server.base.rpartition(":")[2])


@pytest.mark.usefixtures("abroad")
async def test_a_connection_over_the_address_limit_gets_a_429_and_others_continue(
    start_server: StartServer,
) -> None:
    server = await start_server(connections_per_address=3)
    user = await server.user()
    held = connections_of(server)._held
    async with idle(port_of(server), 3) as before:
        await until(lambda: held[ABROAD] == 3, "three connections are open")
        async with idle(port_of(server), 1) as (newest,):
            head, _, body = (await said(newest)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
        assert b"retry-after: %d" % RETRY_AFTER_SECONDS in head.split(b"\r\n")
        assert b"connection: close" in head.split(b"\r\n")
        assert b'"code": "too_many_requests"' in body
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.base.replace("http", "ws") + "/v1/ws", local_addr=(ABROAD, 0))
        assert refused.value.response.status_code == 429
        assert not any(reader.at_eof() for reader in before)
        async with user.socket() as socket:
            await socket.until("live")
        metrics = (await server.http.get("/metrics")).text
        assert 'gateway_refusals_total{code="too_many_requests",status="429"} 2.0' in metrics
    await until_none(lambda: held[ABROAD], "connections of the address")
    async with idle(port_of(server), 3):
        await until(lambda: held[ABROAD] == 3, "there is room again")


async def test_a_socket_and_a_stream_are_counted_until_they_end(server: LocalServer) -> None:
    user = await server.user()
    connections = connections_of(server)
    assert len(connections) == 1, "that of the requests before"
    async with user.socket() as socket:
        await socket.until("live")
        assert len(connections) == 2
        async with stream_of(user) as stream:
            await stream.until("live")
            # It is the connection of the requests before.
            assert len(connections) == 2
    await until_none(lambda: len(connections), "connections")


# --- below a low limit of open files ------------------------------------------------------------------------


@asynccontextmanager
async def process_below(limit: str, sqlite_url: str, folder: Path) -> AsyncIterator[tuple[Process, Server]]:
    """Run a gateway below a limit of open files, which `ulimit` is told."""
    prefix = ["sh", "-c", f'ulimit {limit} && exec "$0" "$@"']
    process = Process(sqlite_url, folder, prefix=prefix, header_timeout=3600)
    try:
        await process.start()
        async with http_client(process.base) as http:
            yield process, Server(process.base, http)
    finally:
        if process.runs:
            process.kill()


async def test_serve_raises_the_soft_limit_of_open_files(sqlite_url: str, tmp_path: Path) -> None:
    async with process_below("-Sn 128 && ulimit -Hn 512", sqlite_url, tmp_path) as (process, _):
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (512, 512)


async def test_more_clients_than_files_do_not_affect_earlier_clients(sqlite_url: str, tmp_path: Path) -> None:
    async with process_below(f"-n {FILES}", sqlite_url, tmp_path) as (process, server):
        # Its connection is there; no thread has opened the database yet.
        assert (await server.http.get("/healthz")).status_code == 200
        async with idle(process.port, FILES + 20) as readers:
            refused = [await said(reader) for reader in readers[ROOM:]]
            assert {one.partition(b"\r\n")[0] for one in refused} == {b"HTTP/1.1 503 Service Unavailable"}
            await server.service.notify("ada")
            assert (await server.service.get("/v1/users")).status_code == 200
            metrics = (await server.http.get("/metrics")).text
            assert 'gateway_refusals_total{code="service_unavailable",status="503"}' in metrics
            assert sum(reader.at_eof() for reader in readers[:ROOM]) <= 1
        user = await until(lambda: arrives(server), "others are served once these have gone")
        assert user == 200
        log = process.log.read_text()
        assert log.count("connections are refused: raise the limit of open files (ulimit -n)") == 1
        assert "Traceback" not in log
        assert process.end() == 0


async def arrives(server: Server) -> int:
    """Return what a new client is answered; nothing while it is refused."""
    async with http_client(server.base) as http:
        try:
            status = (await http.get("/healthz")).status_code
        except httpx.TransportError:
            return 0
    return status if status == HTTPStatus.OK else 0
