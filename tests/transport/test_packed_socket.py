"""MessagePack on real sockets: how it is chosen, which frames it takes, and that it is encoded once.

What both encodings have in common is in `test_socket.py`, by the fixture `each_encoding`.
"""

import json
from typing import Any

import msgpack
import pytest
from websockets.exceptions import ConnectionClosed

from gateway.protocol.packing import pack_message
from gateway.protocol.wire import MAX_FRAME
from gateway.transport.fast_handshake import FAST_HANDSHAKE
from tests.protocol.test_packing import HOSTILE
from tests.support.clients import PACKED_SUBPROTOCOL, SUBPROTOCOL, Socket, User, open_socket
from tests.support.servers import LocalServer

BOTH = [PACKED_SUBPROTOCOL, SUBPROTOCOL]


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (BOTH, PACKED_SUBPROTOCOL),
        (BOTH[::-1], SUBPROTOCOL),
        ([PACKED_SUBPROTOCOL], PACKED_SUBPROTOCOL),
        (["notify.v2.msgpack", "NOTIFY.V1.MSGPACK", *BOTH[::-1]], SUBPROTOCOL),
        (["notify.v1.cbor", PACKED_SUBPROTOCOL], PACKED_SUBPROTOCOL),
        (["other"], None),
        ([], None),
    ],
    ids=str,
)
async def test_the_first_known_subprotocol_of_the_client_is_chosen(
    gateway: LocalServer, offered: list[str], chosen: str | None
) -> None:
    ada = await gateway.user()
    token = f"bearer.{ada.token}"
    ways: list[dict[str, Any]] = [{"subprotocols": offered, "headers": ada.headers}]
    ways += [{"subprotocols": protocols} for protocols in ([*offered, token], [token, *offered])]
    for way in ways:
        async with open_socket(gateway.base, **way) as socket:
            assert socket.connection.subprotocol == chosen
            assert (await socket.receive())["type"] == "hello"


@pytest.mark.parametrize("offered", [BOTH, BOTH[::-1]], ids=str)
async def test_an_unauthorized_client_gets_4001_with_its_chosen_subprotocol(
    gateway: LocalServer, offered: list[str]
) -> None:
    async with open_socket(gateway.base, subprotocols=[*offered, "bearer.garbage"]) as socket:
        with pytest.raises(ConnectionClosed):
            await socket.receive()
        assert await socket.closed() == (4001, "invalid_token")
        assert socket.connection.subprotocol == offered[0]


@pytest.mark.parametrize("fast", [True, False], ids=["on its connection", "by the application"])
async def test_a_handshake_can_open_a_messagepack_socket(gateway: LocalServer, *, fast: bool) -> None:
    if not fast:
        gateway.uvicorn.lifespan.state[FAST_HANDSHAKE] = None
    ada = await gateway.user()
    async with ada.socket(carrier="ticket", encoding="msgpack") as socket:
        assert socket.connection.subprotocol == PACKED_SUBPROTOCOL
        assert (await socket.receive())["sub"] == "ada"


async def live(user: User, socket: Socket) -> Socket:
    assert (await socket.until("live"))[0]["sub"] == user.sub
    return socket


@pytest.mark.parametrize(
    ("encoding", "frame", "reason"),
    [
        ("json", msgpack.packb({"type": "ping"}), "binary_frame"),
        ("msgpack", json.dumps({"type": "ping"}), "text_frame"),
    ],
)
async def test_a_frame_of_the_other_encoding_closes_with_1003(
    gateway: LocalServer, encoding: str, frame: str | bytes, reason: str
) -> None:
    ada = await gateway.user()
    async with ada.socket(encoding=encoding) as socket, ada.socket(encoding="json") as other:
        await live(ada, socket)
        await live(ada, other)
        await socket.connection.send(frame)
        assert await socket.closed() == (1003, reason)
        assert await other.said_so_far() == []


async def test_a_packed_string_that_is_not_utf_8_closes_with_1007(gateway: LocalServer) -> None:
    ada = await gateway.user()
    async with ada.socket(encoding="msgpack") as socket, ada.socket(encoding="msgpack") as other:
        await live(ada, socket)
        await live(ada, other)
        await socket.connection.send(b"\x82\xa4type\xa4ping\xa3ref\xa2\xff\xfe")
        assert await socket.closed() == (1007, "invalid_utf8")
        assert await other.said_so_far() == []


async def test_a_packed_command_that_is_not_a_map_gets_an_error_and_closes_no_socket(
    gateway: LocalServer,
) -> None:
    ada = await gateway.user()
    async with ada.socket(encoding="msgpack") as socket, ada.socket(encoding="json") as other:
        await live(ada, socket)
        await live(ada, other)
        for data in HOSTILE.values():
            await socket.connection.send(data[:MAX_FRAME])
            message = await socket.receive()
            assert (message["type"], message["code"], message["ref"]) == ("error", "malformed", None)
        assert await socket.ask(type="ping") == {"type": "ok", "ref": "asked"}
        assert await other.said_so_far() == []


async def test_a_binary_frame_of_16_kib_is_read_and_a_larger_one_closes_with_1009(
    gateway: LocalServer,
) -> None:
    ada = await gateway.user()
    async with ada.socket(encoding="msgpack") as socket:
        await live(ada, socket)
        head = b"\x83\xa4type\xa4ping\xa3ref\xa1a\xa1x\xc5"
        size = 16 * 1024 - len(head) - 2
        data = head + size.to_bytes(2, "big") + b"\0" * size
        await socket.connection.send(iter([data[:9000], data[9000:]]))
        assert await socket.receive() == {"type": "ok", "ref": "a"}
        await socket.connection.send(data + b"\0")
        assert (await socket.closed())[0] == 1009


async def test_both_encodings_carry_the_same_messages_live_and_replayed(server: LocalServer) -> None:
    ada = await server.user()
    async with ada.socket(encoding="json") as plain, ada.socket(encoding="msgpack") as packed:
        for socket in (plain, packed):
            await live(ada, socket)
        data = {"id": 7, "created_at": None, "x": [1.5, -1, {"é": 2**63}], "__proto__": {"a": True}}
        await server.service.notify("ada", "Zürich 🎉", body="b\n", url="/x", data=data)
        (one,) = (await ada.inbox())["items"]
        await packed.send(type="read", ids=[one["id"]])
        await packed.next("changed")
        await packed.send(type="delete", ids=[one["id"].upper()])
        await packed.next("changed")
        await plain.until("changed")
        await plain.until("changed")
        await server.service.notify("ada", "2")
        assert await plain.receive() == await packed.receive()
    replays = []
    for encoding in ("json", "msgpack"):
        async with ada.socket(encoding=encoding, since=0) as socket:
            replay = await socket.until("live")
            replay[0].pop("expires_at")
            replays.append(replay)
    assert replays[0] == replays[1]
    tombstone = replays[1][1]["items"][0]
    assert (tombstone["id"], tombstone["title"]) == (one["id"], None)
    assert tombstone["deleted_at"]


async def test_data_of_the_maximum_depth_reaches_a_messagepack_socket(gateway: LocalServer) -> None:
    ada = await gateway.user()
    async with ada.socket(encoding="msgpack") as socket:
        await live(ada, socket)
        data: Any = {}
        for depth in range(1, 1000):
            data = {"x": data}
            if depth < 190:
                continue
            answer = await gateway.service.post(
                "/v1/notifications", json={"to": "ada", "title": str(depth), "data": data}
            )
            if answer.status_code != 201:
                break
            item = (await socket.next("notification"))["notification"]
            assert (item["title"], item["data"]) == (str(depth), data)
        assert answer.status_code == 422
        assert await socket.ask(type="ping") == {"type": "ok", "ref": "asked"}


async def test_a_message_is_packed_once_per_user_and_only_for_messagepack_sockets(
    gateway: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[str] = []

    def pack(payload: bytes) -> bytes:
        if (kind := json.loads(payload)["type"]) not in {"hello", "live", "heartbeat"}:
            packed.append(kind)
        return pack_message(payload)

    monkeypatch.setattr("gateway.protocol.wire.pack_message", pack)
    ada, bob = await gateway.user("ada"), await gateway.user("bob")
    async with ada.socket(encoding="json") as plain, bob.socket(encoding="json") as other:
        for user, socket in ((ada, plain), (bob, other)):
            await live(user, socket)
        await gateway.service.notify(["ada", "bob"])
        for socket in (plain, other):
            await socket.next("notification")
        assert packed == []
        async with (
            ada.socket(encoding="msgpack", since="latest") as one,
            ada.socket(encoding="msgpack", since="latest") as two,
        ):
            for socket in (one, two):
                await live(ada, socket)
            await gateway.service.notify(["ada", "bob"])
            for socket in (plain, other, one, two):
                assert (await socket.next("notification"))["seq"] == 2
        assert packed == ["notification"]
