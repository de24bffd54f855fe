"""What a client may send on a WebSocket besides messages, and how much of anything: on real connections."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import Close as CloseFrame
from websockets.frames import Frame, Opcode

from gateway.api import handshake
from gateway.delivery.client_connection import ClientConnection
from gateway.errors import Unauthorized
from gateway.protocol.wire import MAX_FRAME
from gateway.store.writer import Writer
from gateway.transport import socket as open_socket
from gateway.transport import turnstile
from gateway.transport.inbound import MAX_UNCOUNTED_BYTES
from gateway.transport.socket import LINGER_SECONDS, GatewaySocket
from gateway.transport.turnstile import Turnstile
from gateway.transport.websocket import GatewayWebSocket
from tests.support.clients import RawSocket, User, raw_socket
from tests.support.servers import LocalServer, StartServer
from tests.support.waiting import PATIENCE, until, until_none

PAYLOAD = b"x" * 100


def frame(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    """Return the frame as a client sends it."""
    return Frame(opcode, data, fin).serialize(mask=True)


def command(**fields: Any) -> bytes:
    """Return the frame of a command."""
    return frame(Opcode.TEXT, json.dumps(fields).encode())


PING = frame(Opcode.PING, PAYLOAD)
PONG = frame(Opcode.PONG)
BEGINNING = frame(Opcode.TEXT, fin=False)
FRAGMENT = frame(Opcode.CONT, fin=False)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough: none of this depends on it."""
    return sqlite_url


def connection_of(server: LocalServer) -> GatewaySocket:
    """Return the gateway's end of the only WebSocket there is."""
    held: set[Any] = {*server.uvicorn.server_state.connections}
    (connection,) = (one for one in held if isinstance(one, GatewaySocket))
    return connection


async def gone(server: LocalServer) -> None:
    """Wait until the gateway holds no WebSocket any more, be it open or closing."""
    held = server.uvicorn.server_state.connections
    kinds = GatewaySocket, GatewayWebSocket
    await until_none(lambda: [one for one in held if isinstance(one, kinds)], "WebSockets")


async def events(socket: RawSocket) -> AsyncIterator[Frame]:
    """Yield the frames that come, answering nothing."""
    while True:
        data = await asyncio.wait_for(socket._reader.read(65536), PATIENCE)
        assert data, "the connection has ended"
        socket._protocol.receive_data(data)
        for event in socket._protocol.events_received():
            if isinstance(event, Frame):
                yield event


async def answers(socket: RawSocket, number: int) -> list[str]:
    """Return the refs of the next `number` commands that were answered."""
    refs: list[str] = []
    async for event in events(socket):
        if event.opcode is Opcode.TEXT and (message := json.loads(bytes(event.data)))["type"] in {
            "ok",
            "error",
        }:
            refs.append(message["ref"])
        if len(refs) == number:
            break
    return refs


def held_changes(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let the commands that change an inbox wait until this event is set."""
    gate = asyncio.Event()

    async def wait(*_: Any) -> None:
        await gate.wait()

    monkeypatch.setattr(Writer, "change", wait)
    return gate


# --- what counts as a command -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beginning", "unit"),
    [
        (b"", frame(Opcode.PING)),
        (b"", PONG),
        (BEGINNING, FRAGMENT),
        (BEGINNING, frame(Opcode.CONT, b"x", fin=False)),
        (b"", command(type="ping")),
    ],
    ids=["pings", "pongs", "empty fragments", "fragments", "commands"],
)
async def test_a_flood_of_frames_of_any_kind_closes_with_4029(
    start_server: StartServer, beginning: bytes, unit: bytes
) -> None:
    server = await start_server(commands_per_second=50)
    ada = await server.user()
    async with ada.socket(since="latest") as control:
        await control.next("live")
        async with raw_socket(ada, since="latest") as socket:
            await server.sockets(2)
            await socket.send_bytes(beginning + unit * 320)
            assert await socket.read_until_closed() == (4029, "too_many_commands")
        assert await control.said_so_far() == []


@pytest.mark.parametrize(("pings", "commands", "stays"), [(8, 8, True), (15, 15, False)])
async def test_pings_and_commands_are_counted_together(
    start_server: StartServer, *, pings: int, commands: int, stays: bool
) -> None:
    server = await start_server(commands_per_second=5)
    async with raw_socket(await server.user(), since="latest") as socket:
        await socket.send_bytes(PING * pings + command(type="ping", ref="asked") * commands)
        if stays:
            assert await answers(socket, commands) == ["asked"] * commands
        else:
            assert await socket.read_until_closed() == (4029, "too_many_commands")


@pytest.mark.parametrize(("fragments", "stays"), [(15, True), (40, False)])
async def test_a_message_costs_as_many_commands_as_it_has_frames(
    start_server: StartServer, *, fragments: int, stays: bool
) -> None:
    server = await start_server(commands_per_second=5)
    async with raw_socket(await server.user(), since="latest") as socket:
        message = json.dumps({"type": "ping", "ref": "asked"}).encode()
        end = frame(Opcode.CONT, message)
        await socket.send_bytes(BEGINNING + FRAGMENT * (fragments - 2) + end)
        if stays:
            assert await answers(socket, 1) == ["asked"]
        else:
            assert await socket.read_until_closed() == (4029, "too_many_commands")


async def test_a_pong_that_answers_a_ping_costs_nothing_and_any_other_does(start_server: StartServer) -> None:
    server = await start_server(ping_interval=0.1, commands_per_second=0.01)
    async with raw_socket(await server.user(), since="latest") as socket:
        pings = 0
        async for event in events(socket):
            if event.opcode is Opcode.PING:
                pings += 1
                await socket.send_bytes(frame(Opcode.PONG, bytes(event.data)))
            if pings == 5:
                break
        await until(lambda: connection_of(server)._ping is None, "the last pong has come")
        await socket.send_bytes(frame(Opcode.PONG, PAYLOAD))
        assert await socket.read_until_closed() == (4029, "too_many_commands")


# --- how much at a time -------------------------------------------------------------------------------------


async def test_a_flood_is_handled_a_few_frames_a_turn(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(commands_per_second=1e6)
    turns: list[int] = []
    feed, handle = GatewaySocket.feed, GatewaySocket._handle

    def counted_feed(self: GatewaySocket, data: bytes) -> None:
        turns.append(0)
        feed(self, data)

    def counted_handle(self: GatewaySocket, one: Any) -> None:
        turns[-1] += 1
        handle(self, one)

    monkeypatch.setattr(GatewaySocket, "feed", counted_feed)
    monkeypatch.setattr(GatewaySocket, "_handle", counted_handle)
    async with raw_socket(await server.user(), since="latest") as socket:
        await socket.send_bytes(PONG * 20_000)
        await until(lambda: sum(turns) == 20_000, "all have come")
    assert max(turns) <= 200


async def test_no_command_is_parsed_while_another_waits(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(commands_per_second=1e6)
    gate = held_changes(monkeypatch)
    taken: list[str] = []
    receive = ClientConnection.receive

    def counted(self: ClientConnection, message: str | bytes) -> bool:
        taken.append(json.loads(message)["ref"])
        return receive(self, message)

    monkeypatch.setattr(ClientConnection, "receive", counted)
    async with raw_socket(await server.user(), since="latest") as socket:
        await socket.send_bytes(command(type="seen", up_to=0, ref="first"))
        refs = [str(number) for number in range(1000)]
        await socket.send_bytes(b"".join(command(type="ping", ref=ref) for ref in refs))
        connection = connection_of(server)
        await until(lambda: connection._unfed, "some wait")
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(connection._received or b"") <= GatewaySocket.slice_bytes
        assert taken == ["first"]
        gate.set()
        assert await answers(socket, 1001) == ["first", *refs]


async def test_pings_and_closes_are_handled_while_a_command_waits(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(commands_per_second=1e6)
    gate = held_changes(monkeypatch)
    async with raw_socket(await server.user(), since="latest") as socket:
        await server.sockets(1)
        await socket.send_bytes(command(type="seen", up_to=0) + PING)
        async for event in events(socket):
            if event.opcode is Opcode.PONG:
                break
        await socket.send_bytes(frame(Opcode.CLOSE, CloseFrame(1000, "").serialize()))
        assert (await socket.read_until_closed())[0] == 1000
        await server.sockets(0)
        gate.set()


async def test_fragments_are_joined_as_they_arrive(start_server: StartServer) -> None:
    server = await start_server(commands_per_second=1e6)
    async with raw_socket(await server.user(), since="latest") as socket:
        text = json.dumps({"type": "ping", "ref": "asked"}).ljust(1000).encode()
        pieces = [frame(Opcode.CONT, text[n : n + 1], fin=False) for n in range(len(text))]
        await socket.send_bytes(BEGINNING + b"".join(pieces))
        connection = connection_of(server)
        await until(lambda: len(connection._message or b"") == len(text), "the fragments have come")
        await socket.send_bytes(FRAGMENT * 1000 + PING)
        async for event in events(socket):
            if event.opcode is Opcode.PONG:
                break
        assert bytes(connection._message or b"") == text
        await socket.send_bytes(frame(Opcode.CONT))
        assert await answers(socket, 1) == ["asked"]


async def test_small_fragments_of_more_than_16_kib_close_with_1009(start_server: StartServer) -> None:
    server = await start_server(commands_per_second=1e6)
    async with raw_socket(await server.user(), since="latest") as socket:
        piece = frame(Opcode.CONT, PAYLOAD, fin=False)
        await socket.send_bytes(BEGINNING + piece * (MAX_FRAME // len(PAYLOAD) + 1))
        assert (await socket.read_until_closed())[0] == 1009


# --- before it is served ------------------------------------------------------------------------------------


@asynccontextmanager
async def shake_hands(
    server: LocalServer, user: User | None, behind: bytes
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect, and send a handshake and what is `behind` it in one go."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.base.rpartition(":")[2]))
    writer.write(
        b"GET /v1/ws?since=latest HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    )
    if user is not None:
        writer.write(f"Authorization: Bearer {user.token}\r\n".encode())
    writer.write(b"\r\n" + behind)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def cut_off(reader: asyncio.StreamReader) -> None:
    """Wait until the connection is reset, or ended."""
    with suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE):
            while await reader.read(65536):
                pass


async def test_commands_right_behind_the_handshake_are_carried_out_in_their_order(
    server: LocalServer,
) -> None:
    frames = [command(type="ping", ref=str(number)) for number in range(70)]
    assert GatewaySocket.slice_bytes * 2 < len(b"".join(frames)) <= MAX_UNCOUNTED_BYTES
    async with shake_hands(server, await server.user(), b"".join(frames)) as (reader, _):
        for number in range(70):
            async with asyncio.timeout(10):
                await reader.readuntil(b'"ref":"%d"' % number)


async def test_a_flood_right_behind_the_handshake_ends_the_connection(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()

    async def wait(_: Any) -> None:
        await gate.wait()
        raise Unauthorized

    monkeypatch.setattr(handshake, "socket_user", wait)
    async with shake_hands(server, await server.user(), PONG * 40_000) as (reader, _):
        await cut_off(reader)
        await gone(server)
    gate.set()
    await until_none(lambda: server.uvicorn.server_state.tasks, "tasks")


class Parsed:
    """The bytes of each slice of frames that is parsed, and how often a socket has asked for a turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slices: list[int] = []
        self.asked = 0
        parse, passes = GatewaySocket._parse, Turnstile.passes

        def counted_parse(socket: GatewaySocket, data: bytes) -> None:
            self.slices.append(len(data))
            parse(socket, data)

        def counted_passes(gate: Turnstile, address: str, go_on: Any) -> bool:
            self.asked += isinstance(getattr(go_on, "__self__", None), GatewaySocket)
            return passes(gate, address, go_on)

        monkeypatch.setattr(GatewaySocket, "_parse", counted_parse)
        monkeypatch.setattr(Turnstile, "passes", counted_passes)


@pytest.mark.parametrize("size", [10, 600, MAX_UNCOUNTED_BYTES])
async def test_a_refused_client_gets_4001_and_its_early_frames_are_not_parsed(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(open_socket, "LINGER_SECONDS", 0.2)
    parsed = Parsed(monkeypatch)
    frames = (PING * 100)[: 2 * size]
    async with shake_hands(server, None, frames[:size]) as (reader, writer):
        await asyncio.wait_for(reader.readuntil(b"missing_token"), PATIENCE)
        # The first of these may be the end of a frame.
        writer.write(frames[size:])
        await cut_off(reader)
    await gone(server)
    assert parsed.slices == []


async def test_early_frames_of_an_accepted_client_are_parsed_in_turns(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = Parsed(monkeypatch)
    frames = b"".join(command(type="ping", ref=str(number)) for number in range(70))
    assert 2 * GatewaySocket.slice_bytes < len(frames) <= MAX_UNCOUNTED_BYTES
    async with shake_hands(server, await server.user(), frames) as (reader, _):
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b'"ref":"69"')
    assert sum(parsed.slices) == len(frames)
    assert max(parsed.slices) <= GatewaySocket.slice_bytes
    assert parsed.asked >= len([one for one in parsed.slices if one])


@pytest.mark.parametrize("after_a_close", [True, False])
async def test_each_slice_of_frames_takes_its_turn_among_all_connections(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, *, after_a_close: bool
) -> None:
    async with shake_hands(server, None if after_a_close else await server.user(), b"") as (reader, writer):
        await asyncio.wait_for(reader.readuntil(b"missing_token" if after_a_close else b'"live"'), PATIENCE)
        parsed = Parsed(monkeypatch)
        size = len(PONG) * (3 * GatewaySocket.slice_bytes // len(PONG))
        writer.write(PONG * (size // len(PONG)) + frame(Opcode.CLOSE, CloseFrame(1000, "").serialize()))
        await cut_off(reader)
    assert sum(parsed.slices) > 2 * GatewaySocket.slice_bytes
    assert parsed.asked >= len([one for one in parsed.slices if one > GatewaySocket.free_bytes])


async def test_frames_wait_for_other_connections_but_the_answer_to_a_ping_does_not(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(commands_per_second=1e6)
    async with raw_socket(await server.user(), since="latest") as socket:
        await server.sockets(1)
        connection = connection_of(server)
        waiting: list[Any] = []
        monkeypatch.setattr(Turnstile, "passes", lambda _, __, go_on: waiting.append(go_on))
        parsed: list[int] = []
        parse = connection._parse

        def counted(data: bytes) -> None:
            parsed.append(len(data))
            parse(data)

        monkeypatch.setattr(connection, "_parse", counted)
        await socket.send_bytes(PONG)
        await until(lambda: parsed, "it has come")
        assert (parsed, waiting) == ([len(PONG)], [])
        await socket.send_bytes(command(type="ping", ref="x" * 60))
        await until(lambda: waiting, "it asks for a turn")
        assert parsed == [len(PONG)]
        monkeypatch.undo()
        waiting[0]()
        assert await answers(socket, 1) == ["x" * 60]


async def test_small_frames_that_wait_are_answered_in_order(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(commands_per_second=1e6)
    async with raw_socket(await server.user(), since="latest") as socket:
        await server.sockets(1)
        monkeypatch.setattr(turnstile, "MAX_SMALL_BYTES", 0)
        asked: list[int] = []
        passes = Turnstile.passes_small

        def count(gate: Turnstile, size: int, address: str, go_on: Callable[[], None]) -> bool:
            asked.append(size)
            return passes(gate, size, address, go_on)

        monkeypatch.setattr(Turnstile, "passes_small", count)
        for number in range(20):
            await socket.send_bytes(command(type="ping", ref=str(number)))
        assert await answers(socket, 20) == [str(number) for number in range(20)]
        assert asked


# --- after a close ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beginning", "unit"),
    [
        (b"", frame(Opcode.PING)),
        (b"", PONG),
        (b"", frame(Opcode.TEXT, b"x")),
        (BEGINNING, FRAGMENT),
    ],
    ids=["pings", "pongs", "messages", "fragments"],
)
@pytest.mark.parametrize("who", ["a stranger", "a user"])
async def test_a_client_that_sends_after_a_close_is_read_briefly_and_cut_off(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, who: str, beginning: bytes, unit: bytes
) -> None:
    assert LINGER_SECONDS <= 2
    monkeypatch.setattr(open_socket, "LINGER_SECONDS", 0.2)
    fed = 0
    feed = GatewaySocket.feed

    def counted(self: GatewaySocket, data: bytes) -> None:
        nonlocal fed
        fed += len(data)
        feed(self, data)

    ada = await server.user()
    async with shake_hands(server, ada if who == "a user" else None, b"") as (reader, writer):
        if who == "a user":
            await reader.readuntil(b'"live"')
            await ada.http.delete("/v1/users/ada/sessions", headers=server.service.headers)
            await reader.readuntil(b"token_revoked")
        else:
            await reader.readuntil(b"missing_token")
        monkeypatch.setattr(GatewaySocket, "feed", counted)
        writer.write(beginning + unit * 20_000)
        await cut_off(reader)
        await gone(server)
    assert 0 < fed <= MAX_UNCOUNTED_BYTES + GatewaySocket.slice_bytes


async def test_a_client_that_is_silent_after_a_close_is_cut_off(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_socket, "LINGER_SECONDS", 0.2)
    async with shake_hands(server, None, b"") as (reader, _):
        await reader.readuntil(b"missing_token")
        await gone(server)


async def test_pings_after_a_close_are_not_answered(server: LocalServer) -> None:
    async with shake_hands(server, None, b"") as (reader, writer):
        await reader.readuntil(b"missing_token")
        writer.write(PING + frame(Opcode.CLOSE, CloseFrame(4001, "").serialize()))
        assert await asyncio.wait_for(reader.read(), 10) == b""


# --- clients that do not read -------------------------------------------------------------------------------


@asynccontextmanager
async def stalled(server: LocalServer) -> AsyncIterator[RawSocket]:
    """Yield a socket to which the gateway cannot write any more."""
    async with raw_socket(await server.user(), since="latest") as socket:
        await server.sockets(1)
        connection = connection_of(server)

        async def is_stalled() -> bool:
            await server.service.notify("ada", body="x" * 4000, data={"x": "y" * 8000})
            return not connection.writable.is_set()

        await until(is_stalled, "the gateway waits to write")
        yield socket


async def test_a_client_that_pings_without_reading_gets_only_the_last_pong(
    server: LocalServer,
) -> None:
    async with stalled(server) as socket:
        connection = connection_of(server)
        buffered = connection.transport.get_write_buffer_size()
        await socket.send_bytes(b"".join(frame(Opcode.PING, b"%03d" % n + PAYLOAD) for n in range(100)))
        await until(lambda: b"099" in connection._late_pong, "the last has come")
        assert connection.transport.get_write_buffer_size() == buffered
        pongs = []
        async for event in events(socket):
            if event.opcode is Opcode.PONG:
                pongs.append(bytes(event.data))
                break
        assert pongs == [b"099" + PAYLOAD]


@pytest.mark.parametrize("how", ["a close", "a broken frame", "a half-closed connection"])
async def test_a_client_that_ends_its_connection_without_reading_is_cut_off(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(open_socket, "LINGER_SECONDS", 0.2)
    async with stalled(server) as socket:
        if how == "a close":
            await socket.send_bytes(frame(Opcode.CLOSE, CloseFrame(1000, "").serialize()))
        elif how == "a broken frame":
            await socket.send_bytes(b"\xff\x80\x00\x00\x00\x00")
        else:
            socket._writer.write_eof()
        await gone(server)


def unsent_in_the_kernel(local: int, remote: int) -> int:
    """Return the bytes that the kernel keeps of a connection between these ports, whoever owns it."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, _, queues, *_ = line.split()
        if (int(here[-4:], 16), int(there[-4:], 16)) == (local, remote):
            return int(queues.partition(":")[0], 16)
    return 0


async def test_the_kernel_keeps_no_unsent_data_of_a_client_that_is_cut_off(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_socket, "LINGER_SECONDS", 0.2)
    async with stalled(server) as socket:
        client = socket._writer.get_extra_info("sockname")[1]
        port = server.listener.getsockname()[1]
        assert unsent_in_the_kernel(port, client) > 0
        await server.service.delete("/v1/users/ada/sessions")
        await gone(server)
        assert unsent_in_the_kernel(port, client) == 0


async def test_a_stalled_client_that_answers_a_close_is_still_cut_off(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_socket, "LINGER_SECONDS", 0.2)
    async with stalled(server) as socket:
        await server.service.delete("/v1/users/ada/sessions")
        await until(lambda: not connection_of(server)._open, "it is closed")
        await socket.send_bytes(frame(Opcode.CLOSE, CloseFrame(4001, "").serialize()))
        await gone(server)
