"""A connection that has ended is freed at once, however its client ended it."""

import asyncio
import gc
import socket
import struct
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.databases import API_KEY
from tests.support.servers import LocalServer
from tests.support.waiting import PATIENCE, until

POST = b'{"to":"ada","title":"Hello"}'

HANDSHAKE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: %b\r\nSec-WebSocket-Key: %b\r\n\r\n"
)

REQUESTS = {
    "none": b"",
    "half a head": b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n",
    "half a body": b"POST /v1/tokens HTTP/1.1\r\nHost: gateway\r\nContent-Length: 9\r\n\r\n{",
    "served by the application": b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "refused by the application": b"GET /v1/me HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "served by the fast path": (
        b"POST /v1/notifications HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (API_KEY.encode(), len(POST), POST)
    ),
    "refused by the fast path": (
        b"POST /v1/notifications HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: 2\r\n\r\n{}" % API_KEY.encode()
    ),
    "a handshake without a token": HANDSHAKE % (b"13", b"MDEyMzQ1Njc4OWFiY2RlZg=="),
    "a handshake of another version": HANDSHAKE % (b"12", b"MDEyMzQ1Njc4OWFiY2RlZg=="),
    "a handshake with a wrong key": HANDSHAKE % (b"13", b"="),
}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough: none of this depends on it."""
    return sqlite_url


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Stop the garbage collector: what is freed then was in no reference cycle."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def close(client: socket.socket) -> None:
    client.close()


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("end", [close, reset])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_a_closed_connection_is_freed_at_once(
    server: LocalServer, request_: bytes, end: Callable[[socket.socket], None]
) -> None:
    loop = asyncio.get_running_loop()
    before = set(map(id, server.uvicorn.server_state.connections))
    with ExitStack() as stack:
        client = stack.enter_context(socket.socket())
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", int(server.base.rpartition(":")[2])))
        (made,) = await until(lambda: new_ones(server, before), "the server has the connection")
        await loop.sock_sendall(client, request_)
        if request_.endswith((b"\r\n\r\n", b"}")):
            async with asyncio.timeout(PATIENCE):
                assert (await loop.sock_recv(client, 4096)).startswith(b"HTTP/1.1 ")
        end(client)
    await until(lambda: made() is None, "the connection is freed")


def new_ones(server: LocalServer, before: set[int]) -> list[weakref.ref[object]]:
    """Return the connections that the server didn't have before."""
    return [weakref.ref(one) for one in server.uvicorn.server_state.connections if id(one) not in before]
