"""How much the kernel holds of a connection: little, and more for a body that the application takes."""

import socket

from gateway.transport.socket_buffers import UNREAD_BODY_BYTES, UNREAD_BYTES
from tests.support.clients import Service
from tests.support.servers import LocalServer

BODY = b'{"to": "ada", "title": "x", "body": "' + b"y" * 900 + b'"}\n'
"""A line of a batch."""


def sockets_of(server: LocalServer) -> list[socket.socket]:
    """Return the socket of each connection."""
    transports = [one.transport for one in server.uvicorn.server_state.connections]
    return [one.get_extra_info("socket") for one in transports]


def held_of(server: LocalServer) -> set[int]:
    """Return how much the kernel holds of each connection, in bytes."""
    # The kernel doubles what it is told (socket(7)).
    return {one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2 for one in sockets_of(server)}


async def send(server: LocalServer, caller: Service, size: int) -> int:
    headers = {"Content-Type": "application/x-ndjson"}
    answer = await caller.post("/v1/notifications/batch", content=BODY * (size // len(BODY)), headers=headers)
    return answer.status_code


async def test_the_kernel_buffer_of_a_connection_is_small_until_a_large_body_is_accepted(
    server: LocalServer,
) -> None:
    await server.service.notify("ada")
    assert held_of(server) == {UNREAD_BYTES}
    assert await send(server, server.service, 20_000) == 201
    assert held_of(server) == {UNREAD_BYTES}
    assert await send(server, server.service, 500_000) == 201
    assert held_of(server) == {UNREAD_BODY_BYTES}


async def test_the_kernel_sends_a_small_segment_without_waiting_for_an_acknowledgement(
    server: LocalServer,
) -> None:
    """The server runs on asyncio's own loop here. uvloop sets the option itself."""
    await server.service.notify("ada")
    assert [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in sockets_of(server)] == [1]
