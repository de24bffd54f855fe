"""What is held for clients that lag: bounded over all sockets and streams of the process."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import pytest

from gateway.auth.limits.network_bytes import NetworkBytes
from gateway.protocol.close_codes import Close
from gateway.transport import socket as open_socket
from gateway.transport import unsent
from gateway.transport.unsent import HIGH_WATER_BYTES, UNSENT, UnsentProtocol
from tests.support.clients import User, raw_socket
from tests.support.servers import LocalServer
from tests.support.waiting import PATIENCE, until

LONG = {"title": "Long", "body": "\u0001" * 4000}
"""A notification of 24 KB."""

NUMBER = 12
"""So many of them are more than the kernel and the transport take."""

LIVE = b'"type":"live"'
TOO_SLOW = (Close.TOO_SLOW, "too_slow")


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is unsent knows nothing of databases."""
    return sqlite_url


@pytest.fixture
async def server(server: LocalServer) -> LocalServer:
    server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return server


async def reader_of_much(server: LocalServer, sub: str = "ada") -> User:
    """Return a user with more to read than a transport takes."""
    for _ in range(NUMBER):
        await server.service.notify(sub, **LONG)
    return await server.user(sub)


def held(server: LocalServer) -> NetworkBytes:
    return cast("NetworkBytes", server.uvicorn.lifespan.state[UNSENT])


def protocols(server: LocalServer) -> list[UnsentProtocol]:
    found = cast("set[object]", server.uvicorn.server_state.connections)
    return [one for one in found if isinstance(one, UnsentProtocol)]


@asynccontextmanager
async def stream(user: User) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a stream of which nothing is read."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    base = user.http.base_url
    await asyncio.get_running_loop().sock_connect(plain, (base.host, base.port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=4096)
    writer.write(f"GET /v1/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {user.token}\r\n\r\n".encode())
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_unsent_data_counts_until_it_is_read_or_discarded(server: LocalServer) -> None:
    user = await reader_of_much(server)
    async with raw_socket(user), stream(user) as (reader, _):
        await until(lambda: len([one for one in protocols(server) if one._unsent]) == 2, "both lag")
        assert {one._unsent and one._unsent[0] for one in protocols(server)} == {"127.0.0.1"}
        buffered = sum(one.transport.get_write_buffer_size() for one in protocols(server))
        counted = held(server).total
        assert counted >= buffered > HIGH_WATER_BYTES
        while b"event: live" not in await reader.read(65536):
            pass
        await until(lambda: len([one for one in protocols(server) if one._unsent]) == 1, "one has read")
        assert held(server).total < counted
    await until(lambda: not held(server).total and not held(server)._by_network, "nothing counts")


async def test_the_data_of_an_up_to_date_client_is_not_counted(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[object] = []
    monkeypatch.setattr(held(server), "add", lambda *one: counted.append(one))
    user = await server.user("ada")
    async with user.socket(since=0) as reading:
        for _ in range(20):
            await server.service.notify("ada")
            await reading.next("notification")
    assert counted == []


async def test_a_client_that_lags_over_the_total_limit_is_closed_at_once(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await reader_of_much(server)
    async with raw_socket(user) as first:
        await until(lambda: held(server).total, "the first lags")
        # Room for the first, which alone is its network, and not for the second.
        monkeypatch.setattr(unsent, "MAX_UNSENT_BYTES", 3 * held(server).total)
        async with raw_socket(user) as second:
            assert await second.read_until_closed() == TOO_SLOW
        async with stream(user) as (reader, _):
            async with asyncio.timeout(PATIENCE):
                assert b'"code":4008,"reason":"too_slow"' in await reader.read()
        await server.sockets(1)
        await first.read_until(LIVE)


async def test_one_network_has_no_more_unsent_data_than_remains_for_others(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await reader_of_much(server)
    held(server).add("192.0.2.1", 1_000_000)
    async with raw_socket(user) as raw:
        await until(lambda: held(server).total > 1_000_000, "it lags")
        size = held(server).total - 1_000_000
        # Room for two in all, but not for two of one network.
        monkeypatch.setattr(unsent, "MAX_UNSENT_BYTES", 1_000_000 + 3 * size)
        async with raw_socket(user) as another:
            assert await another.read_until_closed() == TOO_SLOW
        await raw.read_until(LIVE)
    held(server).add("192.0.2.1", -1_000_000)


async def test_a_slow_reader_over_the_lingering_limit_is_cut_off_at_once(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unsent, "MAX_UNSENT_BYTES", 1)
    monkeypatch.setattr(unsent, "MAX_LINGERING_BYTES", 0)
    monkeypatch.setattr(open_socket, "LINGER_SECONDS", 3600.0)
    user = await reader_of_much(server)
    async with AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(raw_socket(user)) for _ in range(5)]
        await until(lambda: not protocols(server), "they are gone, although none has read")
        assert not held(server).total
        for raw in raws:
            with pytest.raises(ConnectionResetError):
                await raw.read_to_the_end()
