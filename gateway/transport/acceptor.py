"""The acceptor: takes new connections off the kernel's queue before the queue makes anybody wait.

That queue is one line for everybody. So it is emptied as fast as may be, and who has a turn is decided
behind it, by network (`turnstile`).
"""

import asyncio
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import cast

import structlog

from gateway.transport.bare_answers import refusal_of
from gateway.transport.connections import Connections, Full, Place

logger = structlog.get_logger(__name__)

BACKLOG = 4096
"""How many new connections may wait in the kernel; it may allow fewer (`net.core.somaxconn`)."""

PER_PASS = 256
"""How many connections are accepted in one pass of the event loop at most, besides the first."""

PASS = 0.005
"""How long they may take, in seconds: the loop has others to look at, and other workers accept, too."""


class Acceptor:
    """Accepts the connections of a listener, from `start` until `close`. It belongs to the event loop.

    uvloop accepts one connection in a pass, which costs little. The others that wait behind it are accepted
    here, and refused where there is no room: that costs a fifth of what a refusal by a protocol does.
    asyncio's own loop accepts all of them by itself.

    `make` returns a protocol. It is given the place of the connection, or None where the protocol is to find
    one itself.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[Place | None], asyncio.Protocol],
        connections: Connections,
    ) -> None:
        self._listener = listener
        self._make = make
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._queue = select.poll()
        self._queue.register(listener.fileno(), select.POLLIN)
        self._server: asyncio.Server | None = None
        self._emptying: asyncio.Handle | None = None
        self._beginning: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Accept from here on. Workers share the file of a listener, so none may wait at it."""
        self._listener.setblocking(False)
        self._server = await self._loop.create_server(self._first, sock=self._listener, backlog=BACKLOG)

    def close(self) -> None:
        """Let go of the listener; what was accepted goes on."""
        if self._emptying is not None:
            self._emptying.cancel()
        if self._server is not None:
            self._server.close()
        self._listener.close()

    def _first(self) -> asyncio.Protocol:
        """Return the protocol of what the event loop has accepted, and see to those behind it."""
        if self._emptying is None and self._queue.poll(0):
            self._emptying = self._loop.call_soon(self._empty)
        return self._protocol(None)

    def _protocol(self, place: Place | None) -> asyncio.Protocol:
        """Return a protocol in any case: uvloop would never accept anything again without one."""
        try:
            return self._make(place)
        except Exception:
            logger.exception("an accepted connection could not begin")
            if place is not None:
                self._connections.leave(place)
            return _Closes()

    def _empty(self) -> None:
        self._emptying = None
        until = perf_counter() + PASS
        for _ in range(PER_PASS):
            try:
                accepted, address = self._listener.accept()
            except OSError:
                # There are no more, or no file for one, or that client has gone. The loop comes back to it.
                return
            accepted.setblocking(False)
            self._enter(accepted, address[0])
            if perf_counter() >= until:
                return

    def _enter(self, accepted: socket.socket, host: str) -> None:
        try:
            place = self._connections.enter(host)
        except Full as full:
            with suppress(OSError), accepted:
                accepted.send(refusal_of(full))
            return
        task = self._loop.create_task(self._begin(accepted, place))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _begin(self, accepted: socket.socket, place: Place) -> None:
        try:
            await self._loop.connect_accepted_socket(partial(self._protocol, place), accepted)
        except OSError:
            self._connections.leave(place)
            accepted.close()


class _Closes(asyncio.Protocol):
    """The protocol of a connection that has none: it ends."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """End it."""
        cast("asyncio.Transport", transport).abort()
