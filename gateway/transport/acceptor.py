"""An acceptor, which empties the kernel's queue of new connections before clients have to wait in it.

All clients share that queue, and its order is fixed. So the acceptor empties it as fast as possible, and the
`turnstile` then gives turns by network.
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
"""Maximum number of new connections in the kernel's queue, which may allow fewer (`net.core.somaxconn`)."""

MAX_PER_PASS = 256
"""Maximum number of connections accepted in one pass of the event loop, besides the first."""

MAX_PER_BUSY_PASS = 32
"""The same while requests wait for their turn.

To begin the connections takes longer than to accept them. More would leave too little time for the requests.
"""

MAX_PASS_SECONDS = 0.005
"""How long accepting may take in one pass, in seconds.

The loop has other work, and other workers accept, too.
"""


class Acceptor:
    """Accepts the connections of a listener, from `start` until `close`.

    Use it only on the event loop's thread. uvloop accepts one connection per pass, which costs little. This
    class accepts the others in the queue, and refuses them if there is no room: that costs a fifth of a
    refusal by a protocol. asyncio's own loop accepts all of them itself.

    `make` returns a protocol. Its argument is the place of the connection, or None if the protocol must get
    one itself. `is_busy` returns whether requests wait for their turn.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[Place | None], asyncio.Protocol],
        connections: Connections,
        is_busy: Callable[[], bool],
    ) -> None:
        self._listener = listener
        self._is_busy = is_busy
        self._make = make
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._queue = select.poll()
        self._queue.register(listener.fileno(), select.POLLIN)
        self._server: asyncio.Server | None = None
        self._emptying: asyncio.Handle | None = None
        self._beginning: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start accepting. The listener must not block, because another worker may accept first."""
        self._listener.setblocking(False)
        self._server = await self._loop.create_server(self._first, sock=self._listener, backlog=BACKLOG)

    def close(self) -> None:
        """Close the listener. Accepted connections continue."""
        if self._emptying is not None:
            self._emptying.cancel()
        if self._server is not None:
            self._server.close()
        self._listener.close()

    def _first(self) -> asyncio.Protocol:
        """Return a protocol for the connection that the loop accepted, and schedule the rest of the queue."""
        if self._emptying is None and self._queue.poll(0):
            self._emptying = self._loop.call_soon(self._empty)
        return self._protocol(None)

    def _protocol(self, place: Place | None) -> asyncio.Protocol:
        """Return a protocol, and never raise: after an exception uvloop would never accept again."""
        try:
            return self._make(place)
        except Exception:
            logger.exception("an accepted connection could not begin")
            if place is not None:
                self._connections.leave(place)
            return _ClosingProtocol()

    def _empty(self) -> None:
        self._emptying = None
        until = perf_counter() + MAX_PASS_SECONDS
        for _ in range(MAX_PER_BUSY_PASS if self._is_busy() else MAX_PER_PASS):
            try:
                accepted, address = self._listener.accept()
            except OSError:
                # The queue is empty, no file is free, or the client has gone. The loop will try again.
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


class _ClosingProtocol(asyncio.Protocol):
    """A fallback protocol that aborts its connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Abort the connection."""
        cast("asyncio.Transport", transport).abort()
