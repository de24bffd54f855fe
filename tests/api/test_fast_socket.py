"""The fast path of a handshake answers as the application does: head, frames, charges and metrics."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from fastapi import FastAPI
from starlette.types import Scope

from gateway.api.fast_socket import FastSocket
from gateway.auth.limits.token_buckets import Buckets
from gateway.transport.fast_handshake import FAST_HANDSHAKE
from gateway.transport.http import GatewayHttp
from tests.support.clients import User
from tests.support.databases import API_KEY
from tests.support.pairs import counted_requests, same_for_all, serving_two
from tests.support.servers import LocalServer
from tests.support.waiting import PATIENCE, until

END = b"\r\n\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
UPGRADE = (
    b"GET /v1/ws?since=latest HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    + KEY
    + b"Sec-WebSocket-Version: 13\r\n"
)
BEARER = b"Authorization: Bearer TOKEN\r\n"
FIREFOX = (
    b"GET /v1/ws?since=0&epoch=EPOCH HTTP/1.1\r\nHost: app.example\r\nUser-Agent: Mozilla/5.0\r\n"
    b"Accept: */*\r\n"
    b"Accept-Language: de,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\nSec-WebSocket-Version: 13\r\n"
    b"Origin: http://app.example\r\nSec-WebSocket-Protocol: notify.v1, bearer.TOKEN\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n" + KEY + b"Connection: keep-alive, Upgrade\r\n"
    b"Cookie: a=b\r\nSec-Fetch-Mode: websocket\r\nPragma: no-cache\r\nUpgrade: websocket\r\n"
)


class Spy(FastSocket):
    """A fast path that counts the handshakes it is asked for, and those that it accepts."""

    asked = accepted = 0

    async def authorize(self, scope: Scope) -> Any:
        self.asked += 1
        authorized = await super().authorize(scope)
        self.accepted += 1
        return authorized


class Answer(NamedTuple):
    """The head of the response, and what comes after it: until `live`, or until the connection ends."""

    head: bytes
    rest: bytes


@dataclass
class Pair:
    """Two gateways with databases of their own: one takes the fast path, the other one never does."""

    fast: LocalServer
    plain: LocalServer
    users: tuple[User, User]
    spy: Spy

    async def ask(self, request: bytes, behind: bytes = b"") -> tuple[Answer, int, int]:
        """Send a handshake to both. Return the answer, and how often the fast path was asked and accepted.

        Both must give the same answer, and must have charged and counted the same.
        """
        asked, accepted = self.spy.asked, self.spy.accepted
        answers = []
        for server, user in zip((self.fast, self.plain), self.users, strict=True):
            epoch = (await user.inbox())["epoch"]
            exact = request.replace(b"TOKEN", str(user.token).encode()).replace(b"EPOCH", epoch.encode())
            if b"TICKET" in exact:
                ticket = (await user.post("/v1/auth/ticket")).json()["ticket"]
                exact = exact.replace(b"TICKET", ticket.encode())
            answers.append(await converse(server, exact + END[2:] + behind, epoch))
            await server.sockets(0)
        assert answers[0] == answers[1]
        assert ledger(self.fast) == ledger(self.plain)
        return answers[0], self.spy.asked - asked, self.spy.accepted - accepted


async def converse(server: LocalServer, request: bytes, epoch: str) -> Answer:
    """Send bytes, and return what comes, without what is different in each answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.base.rpartition(":")[2]))
    writer.write(request)
    try:
        async with asyncio.timeout(PATIENCE):
            head = await reader.readuntil(END)
            rest = b""
            while b'"live"' not in rest and (data := await reader.read(65_536)):
                rest += data
    finally:
        writer.transport.abort()
    rest = rest.replace(epoch.encode(), b"EPOCH")
    return Answer(same_for_all(head), same_for_all(rest.partition(b'"token_expires_at"')[0]))


def ledger(server: LocalServer) -> dict[str, object]:
    """Return what a gateway has charged, and has counted in its metrics."""
    return counted_requests(server) | {
        "levels": [sorted(each._levels.items()) for each in buckets_of(server)]
    }


def buckets_of(server: LocalServer) -> list[Buckets]:
    """Return the token buckets that a handshake is charged to."""
    rate_limits = server.state.rate_limits
    networks = (rate_limits.handshakes, rate_limits.refusals)
    return [rate_limits.socket_commands, *(one for each in networks for one in each._widths)]


@asynccontextmanager
async def pair(template: Path, folder: Path, **options: Any) -> AsyncIterator[Pair]:
    """Serve both. Their clocks stand still."""
    async with serving_two(template, folder, **options) as (fast, plain):
        users = await fast.user(), await plain.user()
        for server in (fast, plain):
            for buckets in buckets_of(server):
                buckets.clock = lambda: 0.0
        spy = Spy(cast("FastAPI", fast.uvicorn.config.app))
        fast.uvicorn.lifespan.state[FAST_HANDSHAKE] = spy
        plain.uvicorn.lifespan.state[FAST_HANDSHAKE] = None
        yield Pair(fast, plain, users, spy)


StartPair = Callable[..., Coroutine[Any, Any, Pair]]


@pytest.fixture
async def start_pair(_sqlite_template: Path, tmp_path: Path) -> AsyncIterator[StartPair]:
    """A function that starts both with the settings it is given."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Pair:
            return await stack.enter_async_context(pair(_sqlite_template, tmp_path, **options))

        yield start


@pytest.mark.parametrize(
    "request_head",
    [
        UPGRADE + BEARER,
        UPGRADE.replace(b"?since=latest", b"") + BEARER,
        UPGRADE.replace(b"since=latest", b"since=0&epoch=other") + BEARER,
        UPGRADE.replace(b"since=latest", b"ticket=TICKET"),
        UPGRADE + BEARER + b"X-Request-ID: mine-1\r\n",
        UPGRADE + BEARER + b"X-Request-ID: not a line\r\n",
        UPGRADE + BEARER + b"X-Forwarded-For: 10.0.0.1\r\n",
        UPGRADE + BEARER + b"Content-Length: 0\r\n",
        UPGRADE.replace(b"Connection: Upgrade", b"connection: UPGRADE") + BEARER,
        UPGRADE + b"Sec-WebSocket-Protocol: other, bearer.TOKEN\r\n",
        FIREFOX,
    ],
)
async def test_the_fast_path_accepts_a_common_handshake_like_the_application(
    start_pair: StartPair, request_head: bytes
) -> None:
    both = await start_pair()
    answer, asked, accepted = await both.ask(request_head)
    assert answer.head.startswith(b"HTTP/1.1 101 ")
    assert b'"live"' in answer.rest
    assert (asked, accepted) == (1, 1)


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (UPGRADE, b"101"),
        (UPGRADE + BEARER.replace(b"TOKEN", b"nonsense"), b"101"),
        (UPGRADE + BEARER.replace(b"TOKEN", API_KEY.encode()), b"101"),
        (UPGRADE + BEARER.replace(b"Bearer", b"Basic"), b"101"),
        (UPGRADE.replace(b"since=latest", b"ticket=unknown"), b"101"),
        (UPGRADE + BEARER + b"Origin: https://elsewhere.example\r\n", b"403"),
        (UPGRADE.replace(b"since=latest", b"since=x") + BEARER, b"422"),
        (UPGRADE.replace(b"since=latest", b"since=1&epoch=" + b"x" * 65) + BEARER, b"422"),
    ],
)
async def test_the_fast_path_refuses_a_common_handshake_like_the_application(
    start_pair: StartPair, request_head: bytes, status: bytes
) -> None:
    both = await start_pair()
    answer, asked, accepted = await both.ask(request_head)
    assert answer.head.split()[1] == status
    assert b'"live"' not in answer.rest
    assert (asked, accepted) == (1, 0)


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (UPGRADE.replace(b"GET", b"POST") + BEARER, b"405"),
        (UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0") + BEARER, b"505"),
        (UPGRADE.replace(b": 13", b": 8") + BEARER, b"400"),
        (UPGRADE.replace(KEY, b"Sec-WebSocket-Key: c2hvcnQ=\r\n") + BEARER, b"400"),
        (UPGRADE.replace(KEY, b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n") + BEARER, b"400"),
        (UPGRADE.replace(KEY, b"") + BEARER, b"400"),
        (UPGRADE + KEY + BEARER, b"400"),
        (UPGRADE + BEARER + b"Sec-WebSocket-Protocol: a b\r\n", b"400"),
        (UPGRADE + BEARER + b"Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: notify.v1\r\n", b"101"),
        (UPGRADE.replace(b"/v1/ws", b"/v1/nowhere") + BEARER, b"404"),
        (UPGRADE.replace(b"/v1/ws", b"/v1/ws/") + BEARER, b"404"),
        (UPGRADE.replace(b"/v1/ws", b"/v1%2Fws") + BEARER, b"404"),
        (UPGRADE.replace(b"/v1/ws", b"http://x/v1/ws") + BEARER, b"101"),
        (UPGRADE.replace(b"Connection: Upgrade", b"Connection: upgrade, x") + BEARER, b"101"),
        (UPGRADE + BEARER + b"Content-Length: 5\r\n", b"400"),
        (UPGRADE + BEARER + b"Transfer-Encoding: chunked\r\n", b"400"),
    ],
)
async def test_an_unusual_handshake_goes_to_the_application(
    start_pair: StartPair, request_head: bytes, status: bytes
) -> None:
    both = await start_pair()
    answer, asked, _ = await both.ask(request_head)
    assert (answer.head.split()[1], asked) == (status, 0)


async def test_frames_sent_together_with_the_handshake_are_processed(start_pair: StartPair) -> None:
    both = await start_pair()
    answer, _, accepted = await both.ask(UPGRADE + BEARER, b"\x81\x00")
    assert answer.rest.endswith(b"\x88\x10\x03\xeaprotocol_error")
    assert accepted == 1


async def test_a_handshake_over_the_limit_of_its_address_is_charged_and_refused_once(
    start_pair: StartPair,
) -> None:
    both = await start_pair(handshakes_per_second=0.1)
    statuses = [(await both.ask(UPGRADE + BEARER))[0].head.split()[1] for _ in range(3)]
    assert statuses == [b"101", b"429", b"429"]


async def test_a_draining_process_refuses_a_handshake_before_it_checks_the_token(
    start_pair: StartPair,
) -> None:
    both = await start_pair()
    both.fast.state.drain.began = both.plain.state.drain.began = True
    answer, asked, accepted = await both.ask(UPGRADE)
    assert (answer.head.split()[1], asked, accepted) == (b"503", 1, 0)


FORWARDED = b"X-Forwarded-For: 10.0.0.1, 10.0.0.2\r\nX-Forwarded-Proto: https\r\n"


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"", b"101"),
        (FORWARDED, b"101"),
        (FORWARDED + b"Origin: https://x\r\n", b"101"),
        (FORWARDED + b"Origin: http://x\r\n", b"403"),
        (b"X-Forwarded-Proto: HTTP, https\r\nOrigin: http://x\r\n", b"101"),
        (b"X-Forwarded-For: ::ffff:10.0.0.1\r\nX-Forwarded-For: nonsense\r\n", b"101"),
    ],
)
async def test_a_handshake_through_a_trusted_proxy_uses_the_forwarded_headers(
    start_pair: StartPair, lines: bytes, status: bytes
) -> None:
    both = await start_pair(forwarded_allow_ips="127.0.0.1")
    answer, asked, accepted = await both.ask(UPGRADE + BEARER + lines)
    assert (answer.head.split()[1], asked, accepted) == (status, 1, int(status == b"101"))


@pytest.mark.parametrize("who", ["the client", "the gateway"])
@pytest.mark.parametrize("token", ["good", "bad"])
async def test_a_connection_closed_during_token_verification_leaks_nothing(
    start_pair: StartPair, monkeypatch: pytest.MonkeyPatch, token: str, who: str
) -> None:
    both = await start_pair()
    gate, verify = asyncio.Event(), both.fast.state.tokens.verify

    async def held(text: str) -> Any:
        await gate.wait()
        return await verify(text if token == "good" else "nonsense")

    monkeypatch.setattr(both.fast.state.tokens, "verify", held)
    _, writer = await asyncio.open_connection("127.0.0.1", int(both.fast.base.rpartition(":")[2]))
    writer.write(UPGRADE + BEARER.replace(b"TOKEN", str(both.users[0].token).encode()) + END[2:])
    await until(lambda: both.spy.asked, "it is verified")
    state = both.fast.uvicorn.server_state
    if who == "the client":
        writer.transport.abort()
    else:
        held_ones = [one for one in state.connections if isinstance(one, GatewayHttp) and one._upgrading]
        held_ones[0].transport.abort()
        await until(lambda: held_ones[0] not in state.connections, "it has ended")
        writer.close()
    gate.set()
    idle = len(both.fast.http._transport._pool.connections)  # type: ignore[attr-defined]
    await until(lambda: len(state.connections) == idle and not state.tasks, "it has ended")
    assert len(both.fast.state.hub) == 0
