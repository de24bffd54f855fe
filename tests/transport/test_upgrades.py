"""Requests that would like to upgrade: to a WebSocket at a bad moment, and to what nobody here speaks."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from websockets.frames import Frame, Opcode

from gateway.errors import InvalidToken
from gateway.transport.http import GatewayHttp
from tests.support.clients import Service
from tests.support.servers import LocalServer
from tests.support.waiting import until

HANDSHAKE = (
    b"GET /v1/ws%b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%b\r\n"
)
SEPARATE = "each segment is read alone"


class Peer:
    """A raw connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, *segments: bytes) -> None:
        """Send the segments; each is read before the next one comes."""
        for segment in segments:
            self.writer.write(segment)
            await self.writer.drain()
            await asyncio.sleep(0.05)

    async def until(self, text: bytes) -> bytes:
        """Return what comes up to a text."""
        return await asyncio.wait_for(self.reader.readuntil(text), 20)

    async def rest(self) -> bytes:
        """Return all that comes until the server hangs up."""
        return await asyncio.wait_for(self.reader.read(), 20)


@asynccontextmanager
async def peer_of(server: LocalServer) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.base.rpartition(":")[2]))
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()
        # It may have been reset.
        with suppress(ConnectionError):
            await writer.wait_closed()


def post(service: Service, body: bytes, *more: bytes) -> bytes:
    """Return a post as a client that would rather speak HTTP/2 sends it: curl --http2, and Java."""
    head = [
        b"POST /v1/notifications HTTP/1.1",
        b"Host: x",
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
        b"Content-Type: application/json",
        b"Authorization: Bearer " + str(service.token).encode(),
        *more,
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


NOTIFICATION = b'{"to": "ada", "title": "Hello"}'


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("cut", [None, 40, -len(NOTIFICATION) - 20, -5])
async def test_a_post_with_an_http_2_upgrade_is_handled_as_a_post(
    server: LocalServer, framing: str, cut: int | None
) -> None:
    if framing == "length":
        request = post(server.service, NOTIFICATION, b"Content-Length: %d" % len(NOTIFICATION))
    else:
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(NOTIFICATION), NOTIFICATION)
        request = post(server.service, chunked, b"Transfer-Encoding: chunked")
    segments = [request] if cut is None else [request[:cut], request[cut:]]
    async with peer_of(server) as peer:
        for _ in range(2):
            # The connection stays for the next one.
            await peer.say(*segments)
            assert (await peer.until(b'"state":"delivered"}')).startswith(b"HTTP/1.1 201 ")
    assert (await (await server.user()).get("/v1/inbox")).json()["unread"] == 2


@pytest.mark.parametrize("separate", [False, True], ids=["one segment", SEPARATE])
async def test_a_body_is_never_parsed_as_another_request(server: LocalServer, separate: bool) -> None:
    hidden = b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: x\r\n\r\n"
    request = post(server.service, b"", b"Content-Length: %d" % len(hidden))
    async with peer_of(server) as peer:
        await peer.say(request, hidden) if separate else await peer.say(request + hidden)
        # Where the next request is answered, everything before it was.
        await peer.say(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answers = await peer.rest()
    assert answers.count(b"HTTP/1.1 ") == 2
    assert answers.startswith(b"HTTP/1.1 422 ")
    assert b'"keys"' not in answers


async def test_many_pipelined_upgrades_are_all_answered(server: LocalServer) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with peer_of(server) as peer:
        await peer.say(one * 200 + last)
        assert (await peer.rest()).count(b"HTTP/1.1 200 ") == 201


@pytest.mark.parametrize(
    "field",
    [
        b"Upgrade: " + b"a," * 20_000 + b"\r\n",
        b"Upgrade: a, b, c\r\n" * 6,
        b"Connection: " + b"a," * 20 + b"\r\n",
        b"Connection: a\r\n" * 17,
        b"Sec-WebSocket-Protocol: a,b\r\n" * 9,
    ],
    ids=["one Upgrade", "many Upgrades", "one Connection", "many Connections", "many protocols"],
)
async def test_the_lists_of_a_handshake_are_limited_in_every_field(server: LocalServer, field: bytes) -> None:
    head = HANDSHAKE % (b"", b"")
    async with peer_of(server) as peer:
        # The last field of the name is the one that uvicorn looks at.
        await peer.say(head.replace(b"Upgrade: websocket", field + b"Upgrade: websocket"))
        assert (await peer.rest()).startswith(b"HTTP/1.1 431 ")


async def test_cookies_are_not_read(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def parse(text: str) -> dict[str, str]:
        read.append(text)
        return {}

    monkeypatch.setattr("starlette.requests.cookie_parser", parse)
    head = b'GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: a="%b"\r\n\r\n'
    async with peer_of(server) as peer:
        await peer.say(head % (b"\\" * 60_000))
        assert (await peer.rest()).startswith(b"HTTP/1.1 200 ")
    assert read == []


async def test_a_tunnel_is_refused(server: LocalServer) -> None:
    async with peer_of(server) as peer:
        await peer.say(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\nhello")
        refused = await peer.rest()
    assert refused.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in refused


@pytest.mark.parametrize("separate", [False, True], ids=["one segment", SEPARATE])
async def test_a_handshake_does_not_overtake_the_answer_before_it(
    server: LocalServer, separate: bool
) -> None:
    form = b"grant_type=password&username=nobody&password=wrong"
    slow = (
        b"POST /v1/auth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(form), form)
    )
    handshake = HANDSHAKE % (b"", b"")
    async with peer_of(server) as peer:
        if separate:
            peer.writer.write(slow)
            await asyncio.sleep(0)
            peer.writer.write(handshake)
        else:
            await peer.say(slow + handshake)
        answers = await peer.rest()
    first, _, second = answers.partition(b"invalid_grant")
    assert first.startswith(b"HTTP/1.1 400 ")
    # Then it has its turn: without a token it is accepted, and closed.
    assert b"HTTP/1.1 101 " in second
    assert second.endswith(b"missing_token")
    assert len(server.state.hub) == 0


async def test_a_handshake_behind_a_response_opens_a_lasting_socket(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await server.user()
    handshake = HANDSHAKE % (b"?since=latest", b"Authorization: Bearer %b\r\n" % str(user.token).encode())
    async with peer_of(server) as peer:
        await peer.say(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await peer.until(b"}")
        await peer.say(handshake)
        await peer.until(b'"type":"live"')
        await server.service.notify(user.sub, title="still here")
        await peer.until(b"still here")


@pytest.mark.parametrize("cut", [None, 0, 3, 20])
async def test_data_sent_directly_behind_a_handshake_is_not_lost(
    server: LocalServer, cut: int | None
) -> None:
    user = await server.user()
    handshake = HANDSHAKE % (b"?since=latest", b"Authorization: Bearer %b\r\n" % str(user.token).encode())
    pings = b"".join(
        Frame(Opcode.TEXT, json.dumps({"type": "ping", "ref": ref}).encode()).serialize(mask=True)
        for ref in ("first", "second")
    )
    async with peer_of(server) as peer:
        if cut is None:
            await peer.say(handshake + pings)
        else:
            await peer.say(handshake + pings[:cut], pings[cut:])
        answered = await peer.until(b'"ref":"second"}')
    assert answered.startswith(b"HTTP/1.1 101 ")
    assert b'"ref":"first"}' in answered


async def test_a_flood_behind_a_handshake_waits_in_the_kernel_until_its_refusal(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, over = asyncio.Event(), asyncio.Event()
    read: list[int] = []
    data_received = GatewayHttp.data_received

    def noted(http: GatewayHttp, data: bytes) -> None:
        read.append(len(data))
        data_received(http, data)

    async def late(*_: object) -> None:
        asked.set()
        await over.wait()
        raise InvalidToken

    monkeypatch.setattr(server.state.tokens, "verify", late)
    async with peer_of(server) as peer:
        await peer.say(HANDSHAKE % (b"", b"Authorization: Bearer x\r\n"))
        await asked.wait()
        monkeypatch.setattr(GatewayHttp, "data_received", noted)
        with suppress(ConnectionError):
            await peer.say(b"x" * 70_000)
            await asyncio.sleep(0.1)
            assert read == []
            over.set()
            # The refusal may still be written before the flood is read.
            assert b"live" not in await peer.rest()
    over.set()


async def test_a_request_target_can_be_an_absolute_url(server: LocalServer) -> None:
    user = await server.user()
    handshake = HANDSHAKE % (b"?since=latest", b"Authorization: Bearer %b\r\n" % str(user.token).encode())
    async with peer_of(server) as peer:
        await peer.say(handshake.replace(b"GET /v1/ws", b"GET http://x/v1/ws"))
        assert (await peer.until(b'"type":"live"')).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        ((HANDSHAKE % (b"", b"")).replace(b"Version: 13", b"Version: 8"), 400),
        ((HANDSHAKE % (b"", b"")).replace(b"GET", b"POST"), 405),
        ((HANDSHAKE % (b"", b"")).replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short"), 400),
        (b"NONSENSE / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost x\r\n\r\n", 400),
    ],
)
async def test_a_refusal_below_the_application_is_a_problem_too(
    server: LocalServer, request_head: bytes, status: int
) -> None:
    async with peer_of(server) as peer:
        await peer.say(request_head)
        head, _, body = (await peer.rest()).partition(b"\r\n\r\n")
    problem = json.loads(body)
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert (problem["status"], problem["type"]) == (status, "about:blank")
    headers = head.lower()
    assert b"content-type: application/problem+json" in headers
    assert b"x-content-type-options: nosniff" in headers
    assert b"x-request-id: " in headers
    if b"Version: 8" in request_head:
        assert b"sec-websocket-version: 13" in headers
    await until(lambda: len(server.state.hub) == 0, "nothing is registered")
