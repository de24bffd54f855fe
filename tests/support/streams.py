"""Clients of the stream: one that reads it as a browser does, and one that decides about each byte."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx

from gateway.transport.stream import GatewayStream
from tests.support.checker import Connected, Json
from tests.support.clients import Device, User
from tests.support.servers import LocalServer
from tests.support.waiting import PATIENCE


@asynccontextmanager
async def open_stream(
    http: httpx.AsyncClient, *, headers: Mapping[str, str] | None = None, **query: Any
) -> AsyncIterator["Stream"]:
    """Open a stream with exactly these headers and this query. Raises `httpx.HTTPStatusError` if refused."""
    async with http.stream("GET", "/v1/stream", params=query, headers=headers, timeout=None) as response:
        if response.status_code != 200:
            await response.aread()
            response.raise_for_status()
        yield Stream(response)


@asynccontextmanager
async def stream_of(
    user: User, *, carrier: str = "header", headers: Mapping[str, str] | None = None, **query: Any
) -> AsyncIterator["Stream"]:
    """Open a stream with the token in the named carrier: header, ticket or query."""
    sent = dict(headers or {})
    if carrier == "header":
        sent.update(user.headers)
    elif carrier == "ticket":
        query["ticket"] = (await user.post("/v1/auth/ticket")).json()["ticket"]
    else:
        query["token"] = user.token
    async with open_stream(user.http, headers=sent, **query) as opened:
        yield opened


@asynccontextmanager
async def live(user: User, **options: Any) -> AsyncIterator["Stream"]:
    """Open a stream, and wait until its replay is over."""
    async with stream_of(user, **options) as stream:
        await stream.next("live")
        yield stream


@dataclass(frozen=True)
class Event:
    """One event of a stream: its type, the id it came with, and its message."""

    kind: str
    id: str | None
    message: Json


def titles(events: list[Event]) -> list[str]:
    """Return the titles of the notifications among these events."""
    return [event.message["notification"]["title"] for event in events if event.kind == "notification"]


class EndOfStream(Exception):
    """The stream has ended."""


class Stream:
    """An open stream of events, read as HTML, section 9.2.6, says. Every wait has a deadline."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.retry: int | None = None
        self.last_id = ""
        self._bytes = response.aiter_raw()
        self._buffer = b""

    async def _block(self) -> dict[str, str]:
        while b"\n\n" not in self._buffer:
            try:
                self._buffer += await anext(self._bytes)
            except StopAsyncIteration:
                raise EndOfStream from None
        block, _, self._buffer = self._buffer.partition(b"\n\n")
        fields = (line.partition(": ") for line in block.decode().split("\n"))
        return {name: value for name, _, value in fields}

    async def receive(self, *, within: float = PATIENCE) -> Event:
        """Return the next event. Raises `EndOfStream`."""
        async with asyncio.timeout(within):
            fields = await self._block()
            while "data" not in fields:
                self.retry = int(fields["retry"])
                fields = await self._block()
        event = Event(fields["event"], fields.get("id"), json.loads(fields["data"]))
        assert event.message["type"] == event.kind
        self.last_id = event.id or self.last_id
        return event

    async def until(self, kind: str, *, within: float = PATIENCE) -> list[Event]:
        """Return the events up to the first of this type, which is the last of the list."""
        events: list[Event] = []
        async with asyncio.timeout(within):
            while not events or events[-1].kind != kind:
                events.append(await self.receive(within=within))
        return events

    async def next(self, kind: str, *, within: float = PATIENCE) -> Event:
        """Return the first event of this type; those before it are dropped."""
        return (await self.until(kind, within=within))[-1]

    async def closed(self, *, within: float = PATIENCE) -> tuple[int, str]:
        """Read until the gateway ends the stream, and return the code and the reason of its last event."""
        last = await self.next("close", within=within)
        assert last.id is None
        try:
            left = await self.receive(within=within)
        except EndOfStream:
            return last.message["code"], last.message["reason"]
        raise AssertionError(f"there is more behind the close: {left}")


class Listener(Device):
    """A device that listens to a stream, and resumes it as a browser does."""

    _last_id = ""

    async def _follow(self) -> None:
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        since, epoch = self.history.seq, self._epoch
        async with stream_of(self.user, headers=headers, since=since, epoch=epoch) as stream:
            self.connections += 1
            self.history.events.append(Connected(self.history.seq))
            try:
                while True:
                    event = await stream.receive(within=60)
                    await self.take(event.message)
                    self._last_id = event.id or self._last_id
            except EndOfStream:
                raise ConnectionResetError from None


# --- byte by byte -------------------------------------------------------------------------------------------


@asynccontextmanager
async def raw(
    server: LocalServer, request: bytes, *, buffer: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Send a request as it is. `buffer` is how much the kernel and this process may take unread, in bytes."""
    plain = socket.socket()
    if buffer is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    plain.setblocking(False)
    port = int(server.base.rpartition(":")[2])
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=buffer or 2**16)
    writer.write(request)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def asked(
    user: User, method: str = "GET", path: str = "/v1/stream", *, version: str = "1.1", more: str = ""
) -> bytes:
    """Return the head of a request for a stream."""
    head = f"{method} {path} HTTP/{version}\r\nHost: gateway\r\nAuthorization: Bearer {user.token}\r\n"
    return f"{head}{more}\r\n".encode()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Return all that comes until the server hangs up."""
    async with asyncio.timeout(PATIENCE):
        return await reader.read()


def streams_of(server: LocalServer) -> list[GatewayStream]:
    """Return the streams that the server holds."""
    held = cast("set[object]", server.uvicorn.server_state.connections)
    return [one for one in held if isinstance(one, GatewayStream)]
