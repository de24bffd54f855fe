"""Every forged token at every entrance: refused with the right code, and nothing else happens."""

import asyncio
import json
import os
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from sqlalchemy import Connection, func, select

from gateway.database.models import notifications, sessions
from gateway.protocol.wire import MAX_FRAME
from tests.support.clients import Caller, User
from tests.support.corpus import Forger, Forgery
from tests.support.servers import LocalServer, StartServer

MANY = {"handshakes_per_second": 1e6, "refusals_per_second": 1e6, "ws_query_token": True}


# --- nothing goes out ---------------------------------------------------------------------------------------


class Calls:
    """The addresses that this process connects to, and the names it looks up, while somebody listens."""

    _listening: ClassVar[list[list[Any]]] = []
    _hooked: ClassVar[bool] = False

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator[list[Any]]:
        """Yield the list in which they are noted. An audit hook cannot be taken away, so there is one."""
        if not cls._hooked:
            sys.addaudithook(cls._hear)
            cls._hooked = True
        heard: list[Any] = []
        cls._listening.append(heard)
        try:
            yield heard
        finally:
            cls._listening.remove(heard)

    @classmethod
    def _hear(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if not cls._listening:
            return
        if event in {"socket.connect", "socket.sendto"}:
            found: Any = arguments[1]
        elif event in {"socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen", "os.system"}:
            found = (event, *arguments[:1])
        elif event == "open" and str(arguments[0]).startswith(("/etc", "/proc/sys", "/dev/null")):
            found = (event, arguments[0])
        else:
            return
        for heard in cls._listening:
            heard.append(found)


async def test_the_listener_records_outgoing_connections(start_server: StartServer) -> None:
    async with baited() as (port, calls):
        with Calls.listening() as heard:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()
    assert ("127.0.0.1", port) in heard
    assert len(calls) == 1


@asynccontextmanager
async def baited() -> AsyncIterator[tuple[int, list[None]]]:
    """Yield a port that tokens point to, and a list of the connections to it."""
    calls: list[None] = []

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(None)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], calls
    finally:
        server.close()


# --- the entrances ------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """A gateway, a user whose socket is open, and the tokens to try."""

    server: LocalServer
    user: User
    forgeries: list[Forgery]
    tried: int = 0

    async def raw(self, head: bytes, *, until_closed: bool = True) -> bytes:
        """Send the head of a request as it is, and return all that comes back."""
        reader, writer = await asyncio.open_connection(self.server.http.base_url.host, self.port)
        try:
            writer.write(head)
            return await asyncio.wait_for(reader.read() if until_closed else _answer(reader), 10)
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()

    @property
    def port(self) -> int:
        port = self.server.http.base_url.port
        assert port is not None
        return port

    async def request(self, method: str, path: bytes, *lines: bytes, body: bytes = b"") -> str:
        """Return the status and the code of an answer; `closed` where the server only hangs up."""
        head = [method.encode() + b" " + path + b" HTTP/1.1", b"Host: gateway", b"Connection: close"]
        if body:
            head += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
        answer = await self.raw(b"\r\n".join([*head, *lines, b"", body]))
        return _status(answer)

    async def handshake(self, path: bytes = b"/v1/ws", *lines: bytes) -> str:
        """Return how a handshake ends: the code and the reason of the close, or the HTTP status."""
        head = [
            b"GET " + path + b" HTTP/1.1",
            b"Host: gateway",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        ]
        answer = await self.raw(b"\r\n".join([*head, *lines, b"", b""]), until_closed=False)
        if not answer.startswith(b"HTTP/1.1 101"):
            return _status(answer)
        _, _, frame = answer.partition(b"\r\n\r\n")
        assert frame[0] == 0x88, frame
        return f"{struct.unpack('!H', frame[2:4])[0]} {frame[4:].decode()}"


async def _answer(reader: asyncio.StreamReader) -> bytes:
    """Read the head of an answer, and behind a 101 one frame; behind anything else all there is."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    if not head.startswith(b"HTTP/1.1 101"):
        return head + await reader.read()
    frame = await reader.readexactly(2)
    return head + frame + await reader.readexactly(frame[1] & 0x7F)


def _status(answer: bytes) -> str:
    if not answer:
        return "closed"
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ")[1].decode()
    if b"application/problem+json" not in head:
        return status
    return f"{status} {json.loads(body)['code']}"


Entrance = Callable[[Scene, Forgery], Awaitable[tuple[str, set[str]]]]
"""Shows a token, and returns what came of it with all that may."""


def unfit(forgery: Forgery) -> set[str]:
    """Return how a header or an address that holds such a token may be refused before it is looked at."""
    return (
        set()
        if forgery.plain
        else {
            "400 bad_request",
            "400 validation_error",
            "414 uri_too_long",
            "431 request_header_fields_too_large",
            "closed",
        }
    )


def or_none(forgery: Forgery, prefix: str) -> set[str]:
    """Return the refusal of this token; of no text at all it may be said that it is missing."""
    return {f"{prefix} {forgery.code}"} | ({f"{prefix} missing_token"} if not forgery.token else set())


async def rest(scene: Scene, forgery: Forgery) -> tuple[str, set[str]]:
    got = await scene.request("GET", b"/v1/inbox", b"Authorization: Bearer " + forgery.token)
    return got, or_none(forgery, "401") | unfit(forgery)


async def post(scene: Scene, forgery: Forgery) -> tuple[str, set[str]]:
    got = await scene.request(
        "POST",
        b"/v1/notifications",
        b"Authorization: Bearer " + forgery.token,
        body=b'{"to": "ada", "title": "forged"}',
    )
    return got, or_none(forgery, "401") | unfit(forgery)


async def ws_header(scene: Scene, forgery: Forgery) -> tuple[str, set[str]]:
    got = await scene.handshake(b"/v1/ws", b"Authorization: Bearer " + forgery.token)
    return got, or_none(forgery, "4001") | unfit(forgery)


async def ws_subprotocol(scene: Scene, forgery: Forgery) -> tuple[str, set[str]]:
    got = await scene.handshake(b"/v1/ws", b"Sec-WebSocket-Protocol: notify.v1, bearer." + forgery.token)
    return got, or_none(forgery, "4001") | unfit(forgery) | {"400 bad_request"}


async def ws_query(scene: Scene, forgery: Forgery) -> tuple[str, set[str]]:
    got = await scene.handshake(b"/v1/ws?token=" + quote(forgery.token, safe="").encode())
    return got, or_none(forgery, "4001") | unfit(forgery)


async def ws_ticket(scene: Scene, forgery: Forgery) -> tuple[str, set[str]]:
    got = await scene.handshake(b"/v1/ws?ticket=" + quote(forgery.token, safe="").encode())
    return got, {"4001 invalid_token"} | unfit(forgery)


async def stream_header(scene: Scene, forgery: Forgery) -> tuple[str, set[str]]:
    got = await scene.request("GET", b"/v1/stream", b"Authorization: Bearer " + forgery.token)
    return got, or_none(forgery, "401") | unfit(forgery)


async def stream_query(scene: Scene, forgery: Forgery) -> tuple[str, set[str]]:
    got = await scene.request("GET", b"/v1/stream?token=" + quote(forgery.token, safe="").encode())
    return got, or_none(forgery, "401") | unfit(forgery)


async def auth_command(scene: Scene, forgery: Forgery) -> tuple[str, set[str]]:
    """Show it on an open socket, where a text that can be no token is an error of the command."""
    text = json.dumps({"type": "auth", "token": forgery.token.decode("utf-8", "surrogateescape"), "ref": "r"})
    async with scene.user.socket(since="latest") as socket:
        await socket.next("live")
        await socket.connection.send(text)
        message = await _next_or_close(socket)
    wanted = {f"4001 {forgery.code}"}
    if len(text) > MAX_FRAME:
        wanted = {"1009"}
    elif not forgery.plain:
        wanted |= {"error invalid_field", "error malformed"}
    return message, wanted | ({"error invalid_field"} if not forgery.token else set())


async def _next_or_close(socket: Any) -> str:
    try:
        message = await socket.receive()
    except Exception:  # noqa: BLE001 - however it ends, the close frame says why
        frame = socket.connection.protocol.close_rcvd
        assert frame is not None
        return f"{frame.code:d} {frame.reason}" if frame.code != 1009 else "1009"
    return f"{message['type']} {message.get('code', '')}"


async def refresh(scene: Scene, forgery: Forgery) -> tuple[str, set[str]]:
    got = await form(scene, "/v1/auth/token", b"grant_type=refresh_token&refresh_token=", forgery)
    if not forgery.token:
        return got, {"400 invalid_request"}
    return got, {"413 invalid_request"} if len(forgery.token) > 2**14 else {"400 invalid_grant"}


async def revoke(scene: Scene, forgery: Forgery) -> tuple[str, set[str]]:
    got = await form(scene, "/v1/auth/revoke", b"token=", forgery)
    if not forgery.token:
        return got, {"400 invalid_request"}
    return got, {"413 invalid_request"} if len(forgery.token) > 2**14 else {"200"}


async def form(scene: Scene, path: str, fields: bytes, forgery: Forgery) -> str:
    content = fields + quote(forgery.token, safe="").encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await scene.server.http.post(path, content=content, headers=kind)
    if answer.status_code == 200:
        return "200"
    body = answer.json()
    return f"{answer.status_code} {body.get('error', body.get('code'))}"


HEADERS = (rest, post, ws_header, ws_subprotocol, stream_header)
ENTRANCES: dict[str, Entrance] = {
    one.__name__: one for one in (*HEADERS, ws_query, ws_ticket, stream_query, auth_command, refresh, revoke)
}


# --- the tests ----------------------------------------------------------------------------------------------


async def forgeries(server: LocalServer, bait: str) -> tuple[str, list[Forgery]]:
    """Return a token that holds, and the corpus made from it."""
    good, spare = await server.service.mint("ada"), await server.service.mint("ada")
    revoked = await server.service.mint("ada")
    assert (await server.http.post("/v1/auth/revoke", data={"token": revoked})).status_code == 200
    gone = await server.service.mint("gone")
    assert (await server.service.delete("/v1/users/gone")).status_code == 204
    off = await server.service.mint("off")
    assert (await server.service.patch("/v1/users/off", json={"disabled": True})).status_code == 200
    known = {"revoked": revoked, "of an erased user": gone, "of a disabled user": off}
    own = server.state.tokens.keys.newest
    return good, Forger(own, good, spare, bait, known).forgeries()


def rows(connection: Connection) -> tuple[int, int]:
    posted = connection.scalar(select(func.count()).select_from(notifications)) or 0
    living = select(func.count()).select_from(sessions).where(sessions.c.ended_at.is_(None))
    return posted, connection.scalar(living) or 0


@pytest.mark.parametrize("entrance", ENTRANCES)
async def test_every_forgery_is_refused_with_its_code_and_without_side_effects(
    start_server: StartServer, entrance: str
) -> None:
    server = await start_server(**MANY)
    enter = ENTRANCES[entrance]
    async with baited() as (port, baits):
        good, corpus = await forgeries(server, f"http://127.0.0.1:{port}")
        assert len(corpus) >= 90
        user = User(server.http, good, "ada")
        scene = Scene(server, user, corpus)
        # Connections to the database may be opened anew while we listen.
        places = {("127.0.0.1", scene.port), *database_places(server)}
        async with user.socket() as bystander:
            await bystander.next("live")
            before = await server.state.database.read(rows)
            wrong: dict[str, str] = {}
            with Calls.listening() as heard:
                for forgery in corpus:
                    if enter in HEADERS and forgery.impossible_in_a_header:
                        continue
                    # A comma parts two subprotocols, and one of them would be the good token.
                    if enter is ws_subprotocol and b"," in forgery.token:
                        continue
                    got, wanted = await enter(scene, forgery)
                    if got not in wanted:
                        wrong[forgery.name] = f"{got}, not {' or '.join(sorted(wanted))}"
                    if enter is not auth_command:
                        assert len(server.state.hub) == 1, forgery.name
                    scene.tried += 1
            assert wrong == {}
            assert scene.tried >= 90
            assert [one for one in heard if not is_at(one, places)] == []
            assert baits == []
            # The good token still is one, its socket is open, and nothing was posted or revoked. What names
            # the spare session and is signed by us may end it: that is what revoking is for.
            posted, living = await server.state.database.read(rows)
            assert (posted, living) in {before, (before[0], before[1] - (enter is revoke))}
            assert {message["type"] for message in await bystander.said_so_far()} <= {"heartbeat"}
            assert (await user.inbox())["items"] == []


def database_places(server: LocalServer) -> Iterator[Any]:
    url = server.state.settings.database_url
    if url.startswith("postgresql"):
        from sqlalchemy.engine import make_url

        parsed = make_url(url)
        yield parsed.host, parsed.port


def is_at(heard: Any, places: set[Any]) -> bool:
    """Whether it is one of these places; the name of one that is looked up is looked up by the client."""
    if isinstance(heard, str | bytes):
        return os.fsdecode(heard).startswith("/")
    if heard[0] == "socket.getaddrinfo":
        return any(heard[1] == host for host, _ in places)
    return tuple(heard[:2]) in places


async def test_the_forgery_corpus_is_refused_if_a_secret_signs(start_server: StartServer) -> None:
    server = await start_server(jwt_secret="a secret of thirty-two bytes or more")
    good, corpus = await forgeries(server, "http://127.0.0.1:1")
    assert (await Caller(server.http, good).get("/v1/inbox")).status_code == 200
    scene = Scene(server, User(server.http, good, "ada"), corpus)
    wrong = {}
    for forgery in corpus:
        if not forgery.impossible_in_a_header:
            got, wanted = await rest(scene, forgery)
            if got not in wanted:
                wrong[forgery.name] = got
    assert wrong == {}
