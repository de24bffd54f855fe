"""Users who listen, and what is posted to them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from benchmarks.client import Socket, open_socket, request
from benchmarks.subjects import Subject, each

BODY = "Your order has left the warehouse and will be with you between nine and eleven tomorrow."

_NUMBER = b'"title":"'
_PACKED_NUMBER = b"\xa5title\xa8"


class Deliveries:
    """The posts of one load, numbered from 0, and when each was sent and received."""

    def __init__(self, posts: int, copies: int = 1, *, packed: bool = False) -> None:
        self._mark = _PACKED_NUMBER if packed else _NUMBER
        self.posted = [0.0] * posts
        self.latencies: list[float] = []
        self._missing = posts * copies
        self._complete = asyncio.Event()

    def received(self, message: bytes) -> None:
        """Take a message of a socket. Where it has a title, that is the number of a post, in eight digits."""
        found = message.find(self._mark)
        if found < 0:
            return
        start = found + len(self._mark)
        self.latencies.append(time.perf_counter() - self.posted[int(message[start : start + 8])])
        self._missing -= 1
        if not self._missing:
            self._complete.set()

    async def complete(self) -> None:
        """Wait until every socket has received what was posted to its user; TimeoutError after a minute."""
        async with asyncio.timeout(60):
            await self._complete.wait()


def content(number: int) -> dict[str, object]:
    """Return a notification of an ordinary size, without its recipient."""
    return {
        "title": f"{number:08}",
        "body": BODY,
        "category": "orders.shipped",
        "data": {"order": number, "carrier": "post", "parcels": [1, 2]},
    }


class Audience:
    """A subject, the users it posts to and the sockets they hold."""

    def __init__(
        self, subject: Subject, users: Sequence[str], sockets: Sequence[Socket], *, packed: bool = False
    ) -> None:
        self.packed = packed
        self.subject = subject
        self.users = users
        self.sockets = sockets
        self.copies = len(sockets) // len(users)

    def listen(self, deliveries: Deliveries, *, acknowledge: bool = False) -> None:
        """Let the sockets report to these deliveries; `acknowledge` has each message answered with an ack."""
        for socket in self.sockets:
            socket.on_text = partial(_acknowledge, socket, deliveries) if acknowledge else deliveries.received

    def post(self, number: int) -> bytes:
        """Return the request that posts this number to the user whose turn it is."""
        body = json.dumps({"to": self.users[number % len(self.users)], **content(number)})
        return request("POST", self.subject.posts, self.subject.bearer, body.encode())


def _acknowledge(socket: Socket, deliveries: Deliveries, message: bytes) -> None:
    start = message.index(b'"seq":') + 6
    socket.send(b'{"type":"ack","seq":%b}' % message[start : message.index(b",", start)])
    deliveries.received(message)


@asynccontextmanager
async def audience(
    subject: Subject, prefix: str, users: int, copies: int = 1, *, packed: bool = False
) -> AsyncIterator[Audience]:
    """Connect `copies` sockets for each of this many new users; `packed`: they take MessagePack."""
    subs = [f"{prefix}-{number:05}" for number in range(users)]
    tokens = await subject.tokens([sub for sub in subs for _ in range(copies)])
    sockets: list[Socket] = []

    async def connect(_worker: int, token: str) -> None:
        path = f"{subject.sockets}?since=latest"
        sockets.append(await open_socket(subject.server.port, path, token, packed=packed))

    async def close(_worker: int, socket: Socket) -> None:
        await socket.close()

    await each(tokens, range(32), connect)
    try:
        yield Audience(subject, subs, sockets, packed=packed)
    finally:
        await each(sockets, range(32), close)
