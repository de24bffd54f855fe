"""Connections that cost the load generator little, so that the server is what saturates.

Raw asyncio protocols: a keep-alive HTTP/1.1 connection with one request at a time, and a WebSocket that reads
frames where they lie. Neither is a client for anything else: they believe what the server says.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, cast

TIMEOUT = 60.0
"""How long anything here waits for the server, in seconds."""

_TEXT, _BINARY, _CLOSE, _PING = 0x1, 0x2, 0x8, 0x9

_LIVE = (b'{"type":"live"', b"\x84\xa4type\xa4live")
"""How the message `live` begins, in JSON and in MessagePack."""

_PACKED = "sec-websocket-protocol: notify.v1.msgpack\r\n"

# A client must mask; a key of zeros masks for nothing (RFC 6455, section 5.3).
_NO_MASK = bytes(4)


class Answer(NamedTuple):
    """An answer over HTTP. `head` is its status line and headers."""

    status: int
    head: bytes
    body: bytes

    @property
    def etag(self) -> str:
        """Its `ETag`. Raises `UnexpectedAnswer` if it has none."""
        for line in self.head.decode("latin-1").split("\r\n"):
            name, _, value = line.partition(":")
            if name.lower() == "etag":
                return value.strip()
        raise UnexpectedAnswer(f"no ETag: {self.head!r}")


class UnexpectedAnswer(Exception):
    """The server did not do what the benchmark measures."""


def request(
    method: str,
    path: str,
    bearer: str,
    body: bytes = b"",
    kind: str = "application/json",
    *,
    etag: str | None = None,
) -> bytes:
    """Return a whole request. `kind` is the content type of the body, `etag` that of the client's copy."""
    head = f"{method} {path} HTTP/1.1\r\nhost: benchmark\r\nauthorization: Bearer {bearer}\r\n"
    if etag is not None:
        head += f"if-none-match: {etag}\r\n"
    if body:
        head += f"content-type: {kind}\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class HttpConnection(asyncio.Protocol):
    """One keep-alive connection. `send` waits for the answer before the next may be called."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request under way."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Resolve the answer when it is whole."""
        data = self._received + data if self._received else data
        end = data.find(b"\r\n\r\n") + 4
        if end < 4 or len(data) < end + _content_length(data[:end]):
            self._received = data
            return
        self._received = b""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(int(data[9:12]), data[:end], data[end:]))

    async def send(self, data: bytes) -> Answer:
        """Send a request and return its answer. Raises `UnexpectedAnswer` unless it is 2xx or 304."""
        if self._transport is None:
            raise ConnectionError("not connected")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        answer = await self._answer
        if not 200 <= answer.status < 300 and answer.status != 304:
            raise UnexpectedAnswer(f"{data[:60]!r}: {answer.head[:40]!r} {answer.body[:400]!r}")
        return answer

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


def _content_length(head: bytes) -> int:
    lower = head.lower()
    start = lower.find(b"content-length:")
    return int(lower[start + 15 : lower.index(b"\r\n", start)]) if start >= 0 else 0


async def connect(port: int) -> HttpConnection:
    """Connect to the server on this port."""
    loop = asyncio.get_running_loop()
    return (await loop.create_connection(HttpConnection, "127.0.0.1", port))[1]


class Socket(asyncio.Protocol):
    """One WebSocket. `on_text` is called with each message after `live`, as bytes; `packed`: MessagePack."""

    def __init__(self, path: str, token: str, *, packed: bool = False) -> None:
        self.on_text: Callable[[bytes], None] | None = None
        self.live: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._request = (
            f"GET {path} HTTP/1.1\r\nhost: benchmark\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n"
            f"authorization: Bearer {token}\r\n{_PACKED if packed else ''}\r\n"
        ).encode()
        self._received = b""
        self._upgraded = False
        self._farewell = "the connection was lost"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so to whoever waits."""
        self._fail(exc or UnexpectedAnswer(self._farewell))
        self._transport = None
        if not self._lost.done():
            self._lost.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self.live.done():
            self.live.set_exception(error)

    def data_received(self, data: bytes) -> None:
        """Take the upgrade, then every whole frame."""
        data = self._received + data if self._received else data
        position = 0
        if not self._upgraded:
            position = data.find(b"\r\n\r\n") + 4
            if position < 4:
                self._received = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self._fail(UnexpectedAnswer(repr(data[:400])))
                return
            self._upgraded = True
        self._received = data[self._frames(data, position) :]

    def _frames(self, data: bytes, position: int) -> int:
        """Take the whole frames that begin at `position`; return where the first torn one begins."""
        while len(data) >= position + 2:
            start, length = position + 2, data[position + 1]
            if length == 126:
                start, length = position + 4, int.from_bytes(data[position + 2 : position + 4], "big")
            elif length == 127:
                start, length = position + 10, int.from_bytes(data[position + 2 : position + 10], "big")
            if len(data) < start + length:
                break
            self._frame(data[position] & 0xF, data[start : start + length])
            position = start + length
        return position

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode in {_TEXT, _BINARY}:
            if self.live.done():
                if self.on_text is not None:
                    self.on_text(payload)
            elif payload.startswith(_LIVE):
                self.live.set_result(None)
        elif opcode == _PING:
            self._write(0x8A, payload)
        elif opcode == _CLOSE:
            self._farewell = f"closed with {int.from_bytes(payload[:2], 'big')} {payload[2:]!r}"

    def _write(self, first: int, payload: bytes) -> None:
        """Write a frame of up to 125 bytes."""
        if self._transport is None:
            raise UnexpectedAnswer(self._farewell)
        self._transport.write(bytes((first, 0x80 | len(payload))) + _NO_MASK + payload)

    def send(self, text: bytes) -> None:
        """Send a text frame of up to 125 bytes."""
        self._write(0x81, text)

    def stop_reading(self) -> None:
        """Read nothing more, as a client that hangs."""
        if self._transport is not None:
            self._transport.pause_reading()

    def read_on(self) -> None:
        """Read again."""
        if self._transport is not None:
            self._transport.resume_reading()

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self._transport is None

    async def close(self) -> None:
        """Close with 1000 and wait for the server to end the connection, unless it has."""
        if self._transport is not None:
            self._write(0x88, b"\x03\xe8")
        await asyncio.wait_for(self._lost, TIMEOUT)


async def open_socket(port: int, path: str, token: str, *, packed: bool = False) -> Socket:
    """Open a socket and wait until it is live.

    Raises `UnexpectedAnswer` when the server refuses it.
    """
    loop = asyncio.get_running_loop()
    _, socket = await loop.create_connection(lambda: Socket(path, token, packed=packed), "127.0.0.1", port)
    await asyncio.wait_for(socket.live, TIMEOUT)
    return socket
