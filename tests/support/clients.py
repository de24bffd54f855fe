"""Clients of the gateway, as its users would write them: HTTP with a token, a socket, and a whole device."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from typing import Any
from urllib.parse import urlencode

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from tests.support import packing
from tests.support.checker import Connected, DeviceHistory, Inbox, Json, ReadAfresh, Received, items_of
from tests.support.waiting import PATIENCE

SUBPROTOCOL = "notify.v1"
PACKED_SUBPROTOCOL = "notify.v1.msgpack"


@asynccontextmanager
async def http_client(base: str) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client for one gateway that takes no notice of this machine's proxies."""
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(
        base_url=base, verify=False, trust_env=False, timeout=PATIENCE, limits=limits
    ) as client:
        yield client


@dataclass(frozen=True)
class Caller:
    """Somebody who calls over HTTP with one token, or with none."""

    http: httpx.AsyncClient
    token: str | None

    @property
    def headers(self) -> dict[str, str]:
        """The header that says who calls."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    async def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        """Send one request. A keyword `json`, `content`, `data` or `params` goes to httpx."""
        return await self.http.request(method, path, headers={**self.headers, **(headers or {})}, **options)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """GET."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> httpx.Response:
        """POST."""
        return await self.request("POST", path, **options)

    async def patch(self, path: str, **options: Any) -> httpx.Response:
        """PATCH."""
        return await self.request("PATCH", path, **options)

    async def delete(self, path: str, **options: Any) -> httpx.Response:
        """DELETE."""
        return await self.request("DELETE", path, **options)


class Service(Caller):
    """A service: posts notifications and mints tokens. The API key of the tests' own may do everything."""

    async def notify(self, to: str | list[str], title: str = "Hello", **fields: Any) -> Json:
        """Post one notification that must be accepted, and return the answer."""
        answer = await self.post("/v1/notifications", json={"to": to, "title": title, **fields})
        assert answer.status_code == 201, answer.text
        body: Json = answer.json()
        return body

    async def notify_many(self, to: str, number: int, **fields: Any) -> list[str]:
        """Post `number` notifications in one batch, titled 1, 2, 3 …, and return their ids in that order."""
        posts = [{"to": to, "title": str(index), **fields} for index in range(1, number + 1)]
        answer = await self.post("/v1/notifications/batch", json=posts)
        assert answer.status_code == 201, answer.text
        return [item["id"] for item in answer.json()["items"]]

    async def mint(self, sub: str, **fields: Any) -> str:
        """Return a user access token for `sub`, who is created where unknown."""
        answer = await self.post(f"/v1/users/{sub}/tokens", json=fields)
        assert answer.status_code in {200, 201}, answer.text
        token: str = answer.json()["access_token"]
        return token

    async def user(self, sub: str, **fields: Any) -> "User":
        """Return `sub`, signed in by a token that this service minted."""
        return User(self.http, await self.mint(sub, **fields), sub)


@dataclass(frozen=True)
class User(Caller):
    """Somebody with an inbox."""

    sub: str

    async def inbox(self, **params: Any) -> Json:
        """Return one page of the inbox. Raises `NotNow` where the gateway says 503."""
        answer = await self.get("/v1/inbox", params=params)
        if answer.status_code == 503:
            raise NotNow(answer.text)
        assert answer.status_code == 200, answer.text
        body: Json = answer.json()
        return body

    async def whole_inbox(self) -> Inbox:
        """Read every page, archived and snoozed items too.

        Where the inbox changes meanwhile, `seq` is the number up to which nothing can be missing.
        """
        items: dict[str, Json] = {}
        first: Json | None = None
        for which in ({}, {"archived": "true"}, {"snoozed": "true"}):
            params: Json = {**which, "limit": 200}
            while True:
                page = await self.inbox(**params)
                first = first or page
                for item in page["items"]:
                    known = items.get(item["id"])
                    if known is None or known["seq"] < item["seq"]:
                        items[item["id"]] = item
                if page["next"] is None:
                    break
                params["cursor"] = page["next"]
        assert first is not None
        return Inbox(self.sub, first["seq"], first["unread"], first["unseen"], items)

    @asynccontextmanager
    async def socket(
        self, *, carrier: str = "header", encoding: str | None = None, **query: Any
    ) -> AsyncIterator["Socket"]:
        """Open a socket with the token in the named carrier: header, ticket, subprotocol or query.

        `encoding` is `json` or `msgpack`; without it, what `each_encoding` says.
        """
        offered = PACKED_SUBPROTOCOL if (encoding or Socket.encoding) == "msgpack" else SUBPROTOCOL
        options: dict[str, Any] = {"subprotocols": None if offered == SUBPROTOCOL else [offered]}
        if carrier == "header":
            options["headers"] = {"Authorization": f"Bearer {self.token}"}
        elif carrier == "subprotocol":
            options["subprotocols"] = [offered, f"bearer.{self.token}"]
        elif carrier == "ticket":
            query["ticket"] = (await self.post("/v1/auth/ticket")).json()["ticket"]
        else:
            query["token"] = self.token
        async with open_socket(str(self.http.base_url), **options, **query) as opened:
            yield opened


@asynccontextmanager
async def open_socket(
    base: str,
    *,
    headers: Mapping[str, str] | None = None,
    subprotocols: list[str] | None = None,
    origin: str | None = None,
    **query: Any,
) -> AsyncIterator["Socket"]:
    """Open a socket with exactly these headers and this query, and close it at the end."""
    url = base.replace("http", "ws", 1).rstrip("/") + "/v1/ws"
    if query:
        url += "?" + urlencode(query)
    all_headers = {**(headers or {}), **({} if origin is None else {"Origin": origin})}
    async with connect(
        url,
        additional_headers=all_headers,
        subprotocols=[Subprotocol(one) for one in subprotocols] if subprotocols else None,
        compression=None,
        proxy=None,
        ping_interval=None,
        close_timeout=2,
        max_size=None,
    ) as connection:
        yield Socket(connection)


class Socket:
    """An open socket that takes and returns JSON, whichever encoding it speaks. Every wait has a deadline."""

    encoding = "json"
    """The encoding of the sockets of users; `each_encoding` changes it."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self._packed = connection.subprotocol == PACKED_SUBPROTOCOL

    def read(self, frame: str | bytes) -> Json:
        """Return a message as JSON has it."""
        assert isinstance(frame, bytes) is self._packed, "the gateway sends frames of one kind only"
        message: Json = packing.unpacked(frame) if isinstance(frame, bytes) else json.loads(frame)
        return message

    async def receive(self, *, within: float = PATIENCE) -> Json:
        """Return the next message. Raises `ConnectionClosed` when the gateway has closed."""
        async with asyncio.timeout(within):
            return self.read(await self.connection.recv())

    async def until(self, kind: str, *, within: float = PATIENCE) -> list[Json]:
        """Return the messages up to the first of this type, which is the last of the list."""
        messages: list[Json] = []
        async with asyncio.timeout(within):
            while not messages or messages[-1]["type"] != kind:
                messages.append(await self.receive())
        return messages

    async def next(self, kind: str, *, within: float = PATIENCE) -> Json:
        """Return the first message of this type; those before it are dropped."""
        return (await self.until(kind, within=within))[-1]

    async def send(self, **command: Any) -> None:
        """Send a command."""
        await self.connection.send(packing.packed(command) if self._packed else json.dumps(command))

    async def ask(self, **command: Any) -> Json:
        """Send a command with a `ref` and return its `ok` or `error`; what came before it is dropped."""
        return (await self.ask_all(**command))[-1]

    async def ask_all(self, **command: Any) -> list[Json]:
        """Send a command with a `ref` and return all that came, up to its `ok` or `error`."""
        await self.send(ref="asked", **command)
        messages: list[Json] = []
        while not messages or messages[-1]["type"] not in {"ok", "error"}:
            messages.append(await self.receive())
        assert messages[-1]["ref"] == "asked"
        return messages

    async def said_so_far(self) -> list[Json]:
        """Return all that the gateway has sent up to now: its answers come in order."""
        return (await self.ask_all(type="ping"))[:-1]

    async def closed(self, *, within: float = PATIENCE) -> tuple[int, str]:
        """Read until the gateway closes, and return the code and the reason of its close frame."""
        with suppress(ConnectionClosed):
            async with asyncio.timeout(within):
                while True:
                    await self.connection.recv()
        frame = self.connection.protocol.close_rcvd
        assert frame is not None, "the connection ended without a close frame"
        return frame.code, frame.reason


class RawSocket:
    """A WebSocket whose reading and answering the test decides, for clients that behave badly."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: ClientProtocol
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._protocol = protocol

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are, whatever they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def read_until_closed(self, *, within: float = PATIENCE) -> tuple[int, str]:
        """Read all that comes, answering nothing, and return the code and the reason of the close frame."""
        async with asyncio.timeout(within):
            while self._protocol.close_rcvd is None:
                data = await self._reader.read(65536)
                assert data, "the connection ended without a close frame"
                self._protocol.receive_data(data)
        return self._protocol.close_rcvd.code, self._protocol.close_rcvd.reason

    async def read_until(self, text: bytes) -> None:
        """Read until this text has come, which fails where the connection ends before."""
        read = b""
        async with asyncio.timeout(PATIENCE):
            while text not in read:
                data = await self._reader.read(65536)
                assert data, "the connection ended"
                read = read[-len(text) :] + data

    async def read_to_the_end(self) -> None:
        """Read until the connection ends, which fails where a close frame has come before."""
        async with asyncio.timeout(PATIENCE):
            while data := await self._reader.read(65536):
                self._protocol.receive_data(data)
        assert self._protocol.close_rcvd is None


@asynccontextmanager
async def raw_socket(user: User, *, buffer: int = 4096, **query: Any) -> AsyncIterator[RawSocket]:
    """Open a socket that answers nothing, and of which nothing is read beyond the handshake.

    `buffer` is how much the kernel and this process may take of what is not read, in bytes.
    """
    base = user.http.base_url
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, (base.host, base.port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=buffer)
    uri = f"ws://{base.host}:{base.port}/v1/ws?{urlencode(query)}"
    protocol = ClientProtocol(parse_uri(uri))
    request = protocol.connect()
    request.headers["Authorization"] = f"Bearer {user.token}"
    protocol.send_request(request)
    writer.write(b"".join(protocol.data_to_send()))
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        protocol.receive_data(head)
        assert protocol.state is State.OPEN, head
        yield RawSocket(reader, writer, protocol)
    finally:
        writer.transport.abort()


class NotNow(Exception):
    """The gateway has said 503."""


GONE = (OSError, WebSocketException, httpx.TransportError, TimeoutError, NotNow)
"""What a device meets when its gateway is killed, or starts, or has lost its database."""


class Device:
    """A client that keeps a copy of one inbox by the protocol, through lost connections, and records all.

    One that is told of `elsewhere`, the same user at other gateways, goes to the next of them whenever it
    loses one. `encoding` is that of its sockets. `arrived` says when it first met each item, on the clock
    `time.monotonic`.
    """

    def __init__(self, user: User, name: str, *elsewhere: User, encoding: str | None = None) -> None:
        self.user = user
        self._encoding = encoding
        self.history = DeviceHistory(name, user.sub)
        self.connections = 0
        self.closes: list[int] = []
        self.arrived: dict[str, float] = {}
        self._homes = cycle((*elsewhere, user))
        self._epoch: str | None = None

    async def run(self, *, pause: float = 0.02) -> None:
        """Follow the inbox until cancelled; reconnect and resume whenever the connection is lost."""
        while True:
            try:
                if self._epoch is None:
                    await self._read_afresh()
                await self._follow()
            except GONE as error:
                if isinstance(error, ConnectionClosed):
                    self.closes.append(error.rcvd.code if error.rcvd else 1006)
                self.user = next(self._homes)
                await asyncio.sleep(pause)

    async def _follow(self) -> None:
        position: Json = {"since": self.history.seq, "epoch": self._epoch}
        async with self.user.socket(encoding=self._encoding, **position) as opened:
            self.connections += 1
            self.history.events.append(Connected(self.history.seq))
            while True:
                message = opened.read(await opened.connection.recv())
                await self.take(message)
                if message["type"] in {"notification", "changed", "read", "live"}:
                    await opened.send(type="ack", seq=self.history.seq)

    async def take(self, message: Json) -> None:
        """Apply one message, as a client must."""
        mine = self.history
        seq = message.get("seq")
        moves = message["type"] in {"notification", "changed", "read"}
        applied = moves and seq is not None and seq > mine.seq
        mine.events.append(Received(message, applied))
        if applied:
            self._apply(message)
            mine.seq = message["seq"]
        if seq is None or seq >= mine.seq:
            mine.unread = message.get("unread", mine.unread)
            mine.unseen = message.get("unseen", mine.unseen)
        if message["type"] == "reset":
            await self._read_afresh()
        self._note(items_of(message))

    def _note(self, items: Iterable[Json]) -> None:
        now = time.monotonic()
        for item in items:
            self.arrived.setdefault(item["id"], now)

    def _apply(self, message: Json) -> None:
        for item in items_of(message):
            self._keep(item)
        if message["type"] == "read":
            for item in self.history.items.values():
                unread = not (item["read_at"] or item["deleted_at"] or item.get("snoozed_until"))
                if item["created_seq"] <= message["up_to"] and unread:
                    item.update(read_at="told", seq=message["seq"])

    def _keep(self, item: Json) -> None:
        known = self.history.items.get(item["id"])
        if known is None or known["seq"] <= item["seq"]:
            self.history.items[item["id"]] = dict(item)

    async def _read_afresh(self) -> None:
        page = await self.user.inbox(limit=1)
        fresh = await self.user.whole_inbox()
        mine = self.history
        mine.events.append(ReadAfresh(fresh.seq, {key: dict(item) for key, item in fresh.items.items()}))
        mine.items = {key: dict(item) for key, item in fresh.items.items()}
        mine.seq, mine.unread, mine.unseen = fresh.seq, fresh.unread, fresh.unseen
        self._epoch = page["epoch"]
        self._note(mine.items.values())
