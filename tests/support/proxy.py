"""A TCP proxy between the gateway and what it talks to, that stalls, swallows and cuts as it is told."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import Enum, auto

from tests.support.postgres import free_port


class Way(Enum):
    """The direction of what is relayed."""

    TO_SERVER = auto()
    TO_CLIENT = auto()


_NO_FAREWELL = struct.pack("ii", 1, 0)
"""Of SO_LINGER: a close sends a reset (socket(7))."""

BOTH_WAYS = (Way.TO_SERVER, Way.TO_CLIENT)


class Proxy:
    """Relays connections to one port of this machine."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.connections = 0
        self._target = target
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self._open = {way: asyncio.Event() for way in Way}
        for one in self._open.values():
            one.set()
        self._swallowed: frozenset[Way] = frozenset()
        self.lets_upgrade = True
        """Whether a connection may become a WebSocket. Where not, one that asks for it is ended."""
        self._ends: set[asyncio.StreamWriter] = set()

    def __len__(self) -> int:
        """Return how many connections are relayed."""
        return len(self._ends) // 2

    async def open(self) -> None:
        """Take connections."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)

    async def close(self) -> None:
        """Be dead: end what is relayed, and refuse what comes."""
        if self._server is not None:
            self._server.close()
        for relay in self._relays:
            relay.cancel()
        if self._relays:
            await asyncio.wait(self._relays)

    def stall(self, *ways: Way) -> None:
        """Hold what goes these ways, or both; nothing is lost, and nothing is closed."""
        for way in ways or BOTH_WAYS:
            self._open[way].clear()

    def flow(self) -> None:
        """Let all that was held go on."""
        for way in BOTH_WAYS:
            self._open[way].set()

    @contextmanager
    def stalled(self, *ways: Way) -> Iterator[None]:
        """Hold what goes these ways while the block runs; then all of it goes on."""
        self.stall(*ways)
        try:
            yield
        finally:
            self.flow()

    @contextmanager
    def swallowed(self, *ways: Way) -> Iterator[None]:
        """Take what goes these ways and pass none of it on, as for a peer that has lost its power.

        Nothing is said of it: with both ways this is a half-open connection. New ones fare alike. At the end
        all of them are cut, for what they have lost never comes again.
        """
        self._swallowed = frozenset(ways)
        try:
            yield
        finally:
            self._swallowed = frozenset()
            self.cut()

    def move(self, target: int) -> None:
        """Lead new connections to another port, as when a name moves; those that are open stay."""
        self._target = target

    def cut(self) -> None:
        """Reset every connection: both of its ends are told at once, and what was under way is gone."""
        for end in self._ends:
            # One whose other end has gone just now is closed already.
            with suppress(OSError):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_FAREWELL)
            end.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until an end of it is gone."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        # That it was ended is not a failure of the server that began it.
        with suppress(asyncio.CancelledError):
            await self._relay_until_an_end_is_gone(reader, writer)
        self._relays.discard(task)

    async def _relay_until_an_end_is_gone(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self._ends |= ends
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer, Way.TO_SERVER)),
            asyncio.create_task(self._pump(far_reader, writer, Way.TO_CLIENT)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._ends -= ends
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._open[way].wait()
                if not self.lets_upgrade and b"\r\nupgrade: websocket\r\n" in data.lower():
                    return
                if way not in self._swallowed:
                    writer.write(data)
                    await writer.drain()
            # What was said before the end still arrives, as it would without a proxy.
            await asyncio.wait_for(_flushed(writer), 1)


async def _flushed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def proxy_to(target: int) -> AsyncIterator[Proxy]:
    """Open a proxy in front of a port of this machine, and end what it relays at the end."""
    proxy = Proxy(target)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()
