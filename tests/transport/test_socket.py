"""The socket, by section 5 of the contract, on real connections."""

import asyncio
import gc
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, update
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway.database.models import tickets, users
from gateway.delivery.client_connection import ClientConnection
from gateway.store.changes import CHUNK
from gateway.transport.socket import GatewaySocket
from gateway.transport.websocket import GatewayWebSocket
from tests.support.checker import Json
from tests.support.clients import Device, Service, Socket, User, open_socket, raw_socket
from tests.support.largest import WHOLE, largest
from tests.support.servers import LocalServer, StartServer
from tests.support.waiting import until, until_none

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@asynccontextmanager
async def live(user: User, **query: Any) -> AsyncIterator[Socket]:
    """Open a socket and bring it to `live`."""
    async with user.socket(**(query or {"since": "latest"})) as socket:
        await socket.next("live")
        yield socket


def seqs(messages: list[Json]) -> list[int]:
    return [message["seq"] for message in messages if message["type"] in {"notification", "changed", "read"}]


def kinds(messages: list[Json]) -> list[str]:
    return [message["type"] for message in messages]


# --- the beginning ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_encoding")
async def test_the_first_message_is_a_complete_hello(server: LocalServer) -> None:
    await server.service.notify_many("ada", 3)
    ada = await server.user("ada", ttl=600)
    page = await ada.inbox()
    async with ada.socket(since=0) as socket:
        hello = await socket.receive()
    assert TIME.fullmatch(hello.pop("expires_at"))
    assert hello == {
        "type": "hello",
        "sub": "ada",
        "epoch": page["epoch"],
        "seq": 3,
        "unread": 3,
        "unseen": 3,
        "heartbeat": 30,
    }


@pytest.mark.usefixtures("each_encoding")
async def test_a_resumed_socket_replays_later_changes_and_goes_live(server: LocalServer) -> None:
    await server.service.notify_many("ada", 5)
    ada = await server.user()
    epoch = (await ada.inbox())["epoch"]
    async with ada.socket(since=2, epoch=epoch) as socket:
        messages = await socket.until("live")
        assert kinds(messages) == ["hello", "notification", "notification", "notification", "live"]
        assert seqs(messages) == [3, 4, 5]
        assert messages[-1] == {"type": "live", "seq": 5, "unread": 5, "unseen": 5}
        await server.service.notify("ada", "6")
        message = await socket.receive()
    assert (message["type"], message["seq"]) == ("notification", 6)
    assert (message["unread"], message["unseen"]) == (6, 6)


@pytest.mark.usefixtures("each_encoding")
async def test_an_item_is_the_same_on_the_socket_and_over_rest(server: LocalServer) -> None:
    ada = await server.user()
    async with live(ada) as socket:
        await server.service.notify("ada", "Zürich 🎉", body="b", data={"x": [1, {"y": None}]}, url="/x")
        pushed = (await socket.next("notification"))["notification"]
    async with ada.socket(since=0) as socket:
        replayed = (await socket.next("notification"))["notification"]
    (fresh,) = (await ada.inbox())["items"]
    (changed,) = (await ada.get("/v1/inbox/changes", params={"since": 0})).json()["items"]
    assert pushed == replayed == fresh == changed


async def test_since_latest_replays_nothing(server: LocalServer) -> None:
    await server.service.notify_many("ada", 5)
    async with (await server.user()).socket(since="latest") as socket:
        messages = await socket.until("live")
        assert kinds(messages) == ["hello", "live"]
        await server.service.notify("ada")
        assert (await socket.receive())["seq"] == 6


async def test_without_since_the_newest_unread_items_are_sent_in_seq_order(
    server: LocalServer,
) -> None:
    ids = await server.service.notify_many("ada", 105)
    ada = await server.user()
    await ada.patch(f"/v1/inbox/{ids[50]}", json={"read": True})
    await ada.patch(f"/v1/inbox/{ids[60]}", json={"read": True})
    await ada.patch(f"/v1/inbox/{ids[60]}", json={"read": False})
    await ada.patch(f"/v1/inbox/{ids[70]}", json={"archived": True})
    await ada.delete(f"/v1/inbox/{ids[80]}")
    async with ada.socket() as socket:
        messages = await socket.until("live")
        sent = messages[1:-1]
        assert len(sent) == 100
        assert seqs(sent) == sorted(seqs(sent))
        got = {message["notification"]["id"] for message in sent}
        unread = [ids[n] for n in range(105) if n not in {50, 70, 80}]
        assert got == set(unread[-100:])
        assert messages[-1]["seq"] == 110
        await server.service.notify("ada")
        assert (await socket.receive())["seq"] == 111


async def test_an_empty_log_is_live_at_once(server: LocalServer) -> None:
    ada = await server.user()
    for query in ({}, {"since": 0}, {"since": "latest"}):
        async with ada.socket(**query) as socket:
            assert kinds(await socket.until("live")) == ["hello", "live"]


async def test_a_long_replay_is_complete(server: LocalServer) -> None:
    await server.service.notify_many("ada", 1000)
    async with (await server.user()).socket(since=0) as socket:
        messages = await socket.until("live")
    assert seqs(messages) == list(range(1, 1001))


@pytest.mark.parametrize("why", ["beyond the log", "too far back", "another epoch"])
@pytest.mark.usefixtures("each_encoding")
async def test_an_impossible_resume_gets_a_reset_and_continues_from_the_head(
    server: LocalServer, why: str
) -> None:
    await server.service.notify_many("ada", 1000)
    await server.service.notify("ada")
    ada = await server.user()
    epoch = (await ada.inbox())["epoch"]
    queries: dict[str, Json] = {
        "beyond the log": {"since": 1002, "epoch": epoch},
        "too far back": {"since": 0, "epoch": epoch},
        "another epoch": {"since": 1001, "epoch": "other"},
    }
    async with ada.socket(**queries[why]) as socket:
        messages = await socket.until("live")
        assert kinds(messages) == ["hello", "reset", "live"]
        reset = messages[1]
        assert reset == {
            "type": "reset",
            "epoch": epoch,
            "seq": 1001,
            "oldest_seq": 1,
            "unread": 1001,
            "unseen": 1001,
        }
        await server.service.notify("ada")
        assert (await socket.receive())["seq"] == 1002


async def test_a_recreated_user_has_a_new_epoch(server: LocalServer) -> None:
    await server.service.notify_many("ada", 3)
    epoch = (await (await server.user()).inbox())["epoch"]
    assert (await server.service.delete("/v1/users/ada")).status_code == 204
    await server.service.notify_many("ada", 3)
    async with (await server.user()).socket(since=3, epoch=epoch) as socket:
        assert kinds(await socket.until("live")) == ["hello", "reset", "live"]


async def test_an_invalid_resume_point_is_refused_before_the_upgrade(server: LocalServer) -> None:
    ada = await server.user()
    for since in ("-1", "x", "1.5", ""):
        with pytest.raises(InvalidStatus) as caught:
            async with ada.socket(since=since):
                pass
        assert caught.value.response.status_code == 422
    await server.sockets(0)


# --- live ---------------------------------------------------------------------------------------------------


async def test_every_socket_of_a_user_and_no_other_gets_every_change(server: LocalServer) -> None:
    ada, bob = await server.user("ada"), await server.user("bob")
    async with live(ada) as phone, live(ada) as laptop, live(bob) as other:
        (identifier,) = await server.service.notify_many("ada", 1)
        await ada.patch(f"/v1/inbox/{identifier}", json={"read": True})
        for socket in (phone, laptop):
            new, change = await socket.receive(), await socket.receive()
            assert (new["type"], new["seq"], new["unread"]) == ("notification", 1, 1)
            assert (change["type"], change["seq"], change["unread"]) == ("changed", 2, 0)
            assert [item["id"] for item in change["items"]] == [identifier]
            assert change["items"][0]["read_at"]
        assert await other.said_so_far() == []


@pytest.mark.usefixtures("each_encoding")
async def test_bulk_changes_are_one_message_and_a_long_read_is_sent_as_its_end(server: LocalServer) -> None:
    ids = await server.service.notify_many("ada", 150)
    ada = await server.user()
    async with live(ada) as socket:
        await ada.post("/v1/inbox/read", json={"ids": ids[:20]})
        change = await socket.receive()
        assert (change["type"], change["seq"], len(change["items"])) == ("changed", 151, 20)
        await ada.post("/v1/inbox/read", json={"up_to": 120})
        # No change touches more than 28 items.
        for seq, up_to in enumerate((48, 76, 104), 152):
            read = await socket.receive()
            left = 150 - up_to
            assert read == {"type": "read", "seq": seq, "up_to": up_to, "unread": left, "unseen": left}
        change = await socket.receive()
        assert (change["type"], change["seq"], len(change["items"])) == ("changed", 155, 16)
    async with ada.socket(since=151) as socket:
        changes = (await socket.until("live"))[1:-1]
        assert [(change["type"], change["seq"], len(change["items"])) for change in changes] == [
            ("changed", 152, 28),
            ("changed", 153, 28),
            ("changed", 154, 28),
            ("changed", 155, 16),
        ]


@pytest.mark.parametrize("command", ["read", "archive", "snooze"])
async def test_no_change_exceeds_the_message_limit_of_clients(server: LocalServer, command: str) -> None:
    """`websockets`, for one, refuses more than 1 MiB, and would be sent the same again when it resumes."""
    body = [{"to": "ada", **largest(WHOLE)}] * CHUNK
    posted = await server.service.post("/v1/notifications/batch", json=body)
    assert posted.status_code == 201
    ids = [item["id"] for item in posted.json()["items"]]
    ada = await server.user()
    async with live(ada) as socket:
        until = {"until": in_an_hour()} if command == "snooze" else {}
        await socket.send(type=command, ids=ids, **until)
        changes = [await socket.receive() for _ in range(3)]
    async with ada.socket(since=CHUNK) as socket:
        replayed = (await socket.until("live"))[1:-1]
    # The counts of each are those of now.
    assert [(one["seq"], one["items"]) for one in replayed] == [(one["seq"], one["items"]) for one in changes]
    lengths = [
        len(json.dumps(change, ensure_ascii=False, separators=(",", ":")).encode()) for change in changes
    ]
    assert [item["id"] for change in changes for item in change["items"]] == ids
    assert all(500_000 < length <= 2**20 for length in lengths)


def in_an_hour() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


@pytest.mark.usefixtures("each_encoding")
async def test_archiving_and_deleting_are_sent_as_changes(server: LocalServer) -> None:
    one, two = await server.service.notify_many("ada", 2)
    ada = await server.user()
    async with live(ada) as socket:
        await ada.patch(f"/v1/inbox/{one}", json={"archived": True})
        change = await socket.receive()
        assert (change["items"][0]["id"], change["unread"]) == (one, 1)
        assert change["items"][0]["archived_at"]
        await ada.delete(f"/v1/inbox/{two}")
        change = await socket.receive()
        (item,) = change["items"]
        assert {name for name, value in item.items() if value is not None} == {
            "id",
            "created_seq",
            "seq",
            "deleted_at",
            "deleted_reason",
        }


@pytest.mark.usefixtures("each_encoding")
async def test_the_seen_mark_is_sent_without_a_seq(server: LocalServer) -> None:
    await server.service.notify_many("ada", 5)
    ada = await server.user()
    async with live(ada) as phone, live(ada) as laptop:
        await ada.post("/v1/inbox/seen", json={"up_to": 3})
        for socket in (phone, laptop):
            assert await socket.receive() == {"type": "seen", "up_to": 3, "unseen": 2}
        await ada.post("/v1/inbox/seen", json={"up_to": 2})
        assert await phone.said_so_far() == []


@pytest.mark.usefixtures("each_encoding")
async def test_heartbeats_are_sent_during_silence(start_server: StartServer) -> None:
    server = await start_server(heartbeat=0.2)
    await server.service.notify_many("ada", 2)
    ada = await server.user()
    async with ada.socket(since="latest") as socket:
        assert (await socket.receive())["heartbeat"] == pytest.approx(0.2)
        await socket.next("live")
        for _ in range(2):
            assert await socket.receive() == {"type": "heartbeat", "seq": 2, "unread": 2, "unseen": 2}


# --- commands -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_encoding")
async def test_each_command_takes_effect_before_its_response(server: LocalServer) -> None:
    ids = await server.service.notify_many("ada", 6)
    ada = await server.user()

    async def states() -> dict[str, str]:
        whole = await ada.whole_inbox()
        return {
            item["title"]: "".join(
                letter for letter, name in (("r", "read_at"), ("a", "archived_at")) if item[name]
            )
            for item in whole.items.values()
        }

    async with live(ada) as socket:
        answer = await socket.ask(type="read", ids=ids[:2])
        assert answer == {"type": "ok", "ref": "asked"}
        assert await states() == {"1": "r", "2": "r", "3": "", "4": "", "5": "", "6": ""}
        assert (await socket.ask(type="unread", ids=ids[:1]))["type"] == "ok"
        assert (await states())["1"] == ""
        assert (await socket.ask(type="read", up_to=3))["type"] == "ok"
        assert await states() == {"1": "r", "2": "r", "3": "r", "4": "", "5": "", "6": ""}
        assert (await socket.ask(type="archive", ids=ids[3:5]))["type"] == "ok"
        assert (await states())["4"] == "a"
        assert (await socket.ask(type="delete", ids=ids[5:]))["type"] == "ok"
        assert "6" not in await states()
        assert (await socket.ask(type="seen", up_to=100))["type"] == "ok"
        assert (await socket.ask(type="ping"))["type"] == "ok"
        page = await ada.inbox()
        assert (page["unread"], page["unseen"]) == (0, 0)


async def test_the_effect_of_a_command_reaches_all_sockets_of_the_user(server: LocalServer) -> None:
    ids = await server.service.notify_many("ada", 2)
    ada = await server.user()
    async with live(ada) as phone, live(ada) as laptop:
        await phone.send(type="read", ids=ids)
        for socket in (phone, laptop):
            change = await socket.receive()
            assert (change["type"], change["seq"], change["unread"]) == ("changed", 3, 0)


@pytest.mark.usefixtures("each_encoding")
async def test_a_command_without_a_ref_takes_effect_without_a_response(server: LocalServer) -> None:
    ids = await server.service.notify_many("ada", 1)
    ada = await server.user()
    async with live(ada) as socket:
        await socket.send(type="read", ids=ids)
        assert kinds(await socket.said_so_far()) == ["changed"]
        assert (await ada.inbox())["unread"] == 0


@pytest.mark.usefixtures("each_encoding")
async def test_an_ack_only_raises_the_delivered_count(server: LocalServer) -> None:
    ids = await server.service.notify_many("ada", 3)
    ada = await server.user()

    async def delivered() -> list[int]:
        answers = [await server.service.get(f"/v1/notifications/{one}") for one in ids]
        return [answer.json()["delivered"] for answer in answers]

    async with live(ada) as socket:
        assert (await socket.ask(type="ack", seq=2))["type"] == "ok"
        assert await delivered() == [1, 1, 0]
        assert (await socket.ask(type="ack", seq=1))["type"] == "ok"
        assert await delivered() == [1, 1, 0]
        await socket.send(type="ack", seq=3)

        async def all_delivered() -> bool:
            return await delivered() == [1, 1, 1]

        await until(all_delivered, "the acknowledgement without ref is stored")


@pytest.mark.usefixtures("each_encoding")
async def test_ids_of_another_user_change_nothing(server: LocalServer) -> None:
    ids = await server.service.notify_many("bob", 1)
    ada, bob = await server.user("ada"), await server.user("bob")
    async with live(ada) as socket:
        for kind in ("read", "unread", "archive", "delete"):
            await socket.ask(type=kind, ids=ids)
    page = await bob.inbox()
    assert (page["seq"], page["unread"]) == (1, 1)
    assert (await ada.inbox())["seq"] == 0


MALFORMED = [
    "",
    "nonsense",
    "{",
    "[]",
    "null",
    "5",
    '"ping"',
    "{}",
    '{"type": null}',
    '{"type": "nonsense"}',
    '{"type": ["read"]}',
    '{"type": "hello"}',
    '{"type": "read"}',
    '{"type": "read", "ids": "x"}',
    '{"type": "read", "ids": [1]}',
    '{"type": "read", "ids": ["nonsense"]}',
    '{"type": "read", "up_to": -1}',
    '{"type": "read", "up_to": 1e3}',
    '{"type": "seen", "up_to": "x"}',
    '{"type": "ack", "seq": 9999999999999999999999}',
    '{"type": "ack", "seq": 5000}',
    '{"type": "ping", "ref": 5}',
    '{"type": "ping", "ref": "' + "x" * 65 + '"}',
    '{"type": "ping", "ref": "\\ud800"}',
    "[" * 8000,
    '{"a":' * 2000,
    '{"type": "ping", "x": ' + "9" * 5000 + "}",
    "\x00",
    "NaN",
]


async def test_an_invalid_command_gets_an_error_and_affects_no_other_socket(
    server: LocalServer, subtests: pytest.Subtests
) -> None:
    ada, bob = await server.user("ada"), await server.user("bob")
    async with live(ada) as socket, live(ada) as sibling, live(bob) as control:
        for number, frame in enumerate(MALFORMED, 1):
            with subtests.test(frame[:60]):
                await socket.connection.send(frame)
                message = await socket.receive()
                assert message["type"] == "error"
                assert set(message) == {"type", "ref", "code", "detail"}
                await server.service.notify(["ada", "bob"])
                for healthy in (socket, sibling, control):
                    assert (await healthy.receive())["seq"] == number


@pytest.mark.usefixtures("each_encoding")
async def test_an_error_carries_the_ref_of_its_command(server: LocalServer) -> None:
    async with live(await server.user()) as socket:
        await socket.send(type="read", ref="mine")
        message = await socket.receive()
        assert (message["type"], message["ref"]) == ("error", "mine")
        await socket.send(type="ping", ref="x" * 64)
        assert await socket.receive() == {"type": "ok", "ref": "x" * 64}


# --- tokens and carriers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", ["header", "ticket", "subprotocol", "query"])
async def test_each_token_source_opens_a_socket(server: LocalServer, carrier: str) -> None:
    async with (await server.user()).socket(carrier=carrier) as socket:
        assert (await socket.receive())["sub"] == "ada"
        expected = "notify.v1" if carrier == "subprotocol" else None
        assert socket.connection.subprotocol == expected
        await server.sockets(1)


async def test_a_query_token_opens_no_socket_where_it_is_disabled(start_server: StartServer) -> None:
    server = await start_server(ws_query_token=False)
    ada = await server.user()
    async with ada.socket(carrier="query") as socket:
        assert await socket.closed() == (4001, "missing_token")
    async with ada.socket(carrier="header") as socket:
        assert (await socket.receive())["type"] == "hello"


async def test_the_first_token_source_with_a_token_decides(server: LocalServer) -> None:
    ada, bob = await server.user("ada"), await server.user("bob")
    good = {"Authorization": f"Bearer {ada.token}"}
    bad = {"Authorization": "Bearer garbage"}
    async with open_socket(server.base, headers=good, token=bob.token) as socket:
        assert (await socket.receive())["sub"] == "ada"
    async with open_socket(server.base, headers=bad, token=bob.token) as socket:
        assert await socket.closed() == (4001, "invalid_token")
    protocols = ["notify.v1", f"bearer.{bob.token}"]
    async with open_socket(server.base, subprotocols=protocols, token=ada.token) as socket:
        assert (await socket.receive())["sub"] == "bob"
    async with open_socket(server.base, subprotocols=protocols, ticket="garbage") as socket:
        assert await socket.closed() == (4001, "invalid_token")


async def test_a_ticket_opens_one_socket_only(server: LocalServer) -> None:
    ada = await server.user()
    ticket = (await ada.post("/v1/auth/ticket")).json()["ticket"]

    async def use() -> str:
        async with open_socket(server.base, ticket=ticket) as socket:
            try:
                return str((await socket.receive())["type"])
            except ConnectionClosed:
                return str(await socket.closed())

    outcomes = await asyncio.gather(*(use() for _ in range(5)))
    assert sorted(outcomes) == ["(4001, 'invalid_token')"] * 4 + ["hello"]


async def test_a_ticket_is_refused_after_30_seconds(server: LocalServer) -> None:
    def age(connection: Connection) -> None:
        connection.execute(update(tickets).values(expires_at=tickets.c.expires_at - 30_000))

    ada = await server.user()
    answer = (await ada.post("/v1/auth/ticket")).json()
    assert answer["expires_in"] == 30
    await server.state.database.write(age)
    async with open_socket(server.base, ticket=answer["ticket"]) as socket:
        assert await socket.closed() == (4001, "invalid_token")


async def test_the_token_is_never_echoed_as_a_subprotocol(server: LocalServer) -> None:
    ada = await server.user()
    for protocols in (
        ["notify.v1", f"bearer.{ada.token}"],
        [f"bearer.{ada.token}", "notify.v1"],
        ["other", "notify.v1", f"bearer.{ada.token}"],
    ):
        async with open_socket(server.base, subprotocols=protocols) as socket:
            assert socket.connection.subprotocol == "notify.v1"
            assert (await socket.receive())["type"] == "hello"
            response = socket.connection.response
            assert response is not None
            assert ada.token is not None
            assert ada.token not in str(response.headers)


async def test_an_unauthorized_client_gets_only_4001_and_the_reason(
    server: LocalServer, subtests: pytest.Subtests
) -> None:
    ada = await server.user()
    token = ada.token or ""
    head, body, signature = token.split(".")
    revoked = await server.user("rev")
    await revoked.http.post("/v1/auth/revoke", data={"token": revoked.token})
    expired = (await server.user("exp", ttl=1)).token
    none = "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0"
    cases: dict[str, tuple[str | None, str]] = {
        "no token": (None, "missing_token"),
        "garbage": ("garbage", "invalid_token"),
        "an empty token": ("", "missing_token"),
        "a wrong signature": (f"{head}.{body}.{signature[:-4]}AAAA", "invalid_token"),
        "another body": (f"{head}.{body[:-4]}AAAA.{signature}", "invalid_token"),
        "no algorithm": (f"{none}.{body}.", "invalid_token"),
        "no algorithm and a signature": (f"{none}.{body}.{signature}", "invalid_token"),
        "a megabyte's worth": ("x" * 6000, "invalid_token"),
        "an api key that is none": ("ngk_0000000000000000_" + "0" * 72, "invalid_token"),
        "a revoked one": (revoked.token, "token_revoked"),
        "an expired one": (expired, "token_expired"),
    }

    async def has_expired() -> bool:
        return (await Service(server.http, expired).get("/v1/inbox")).status_code == 401

    await until(has_expired, "the token of one second has expired")
    for name, (given, reason) in cases.items():
        ways: list[Json] = [{"headers": {} if given is None else {"Authorization": f"Bearer {given}"}}]
        if given is None:
            ways += [{"subprotocols": ["notify.v1"]}]
        else:
            ways += [{"subprotocols": ["notify.v1", f"bearer.{given}"]}, {"token": given}]
        for way in ways:
            with subtests.test(name, way=str(list(way))):
                async with open_socket(server.base, **way) as socket:
                    with pytest.raises(ConnectionClosed):
                        await socket.receive()
                    assert await socket.closed() == (4001, reason)
                    offered = "subprotocols" in way
                    assert socket.connection.subprotocol == ("notify.v1" if offered else None)
                assert len(server.state.hub) == 0


async def test_a_token_without_the_inbox_scope_closes_with_4003(server: LocalServer) -> None:
    async with open_socket(
        server.base, headers={"Authorization": f"Bearer {server.service.token}"}
    ) as socket:
        code, _ = await socket.closed()
        assert code == 4003
    assert len(server.state.hub) == 0


@pytest.mark.usefixtures("each_encoding")
async def test_a_socket_gets_token_expiring_before_it_is_closed_at_expiry(server: LocalServer) -> None:
    ada = await server.user("ada", ttl=2)
    async with ada.socket(since="latest") as socket:
        hello = await socket.receive()
        notice = await socket.next("token_expiring")
        assert notice == {"type": "token_expiring", "expires_at": hello["expires_at"]}
        assert await socket.closed() == (4001, "token_expired")


@pytest.mark.usefixtures("each_encoding")
async def test_a_new_in_band_token_keeps_the_socket_open(server: LocalServer) -> None:
    ada = await server.user("ada", ttl=2)
    other = await server.service.mint("ada", ttl=600)
    async with live(ada) as socket:
        assert (await socket.ask(type="auth", token=other))["type"] == "ok"

        async def has_expired() -> bool:
            return (await ada.get("/v1/inbox")).status_code == 401

        await until(has_expired, "the first token has expired")
        await server.service.notify("ada")
        assert (await socket.next("notification"))["seq"] == 1


@pytest.mark.parametrize("whose", ["bob's", "garbage"])
@pytest.mark.usefixtures("each_encoding")
async def test_an_invalid_in_band_token_is_never_accepted(server: LocalServer, whose: str) -> None:
    ada = await server.user()
    token = await server.service.mint("bob") if whose == "bob's" else "garbage"
    async with live(ada) as socket:
        await socket.send(type="auth", token=token, ref="a")
        try:
            assert (await socket.receive())["type"] == "error"
            await server.service.notify("bob")
            assert await socket.said_so_far() == []
        except ConnectionClosed:
            assert (await socket.closed())[0] == 4001


async def test_ending_the_sessions_closes_open_sockets_within_a_second(server: LocalServer) -> None:
    ada, bob = await server.user("ada"), await server.user("bob")
    async with live(ada) as one, live(ada) as two, live(bob) as other:
        assert (await server.service.delete("/v1/users/ada/sessions")).status_code in {200, 204}
        for socket in (one, two):
            assert await socket.closed(within=1) == (4001, "token_revoked")
        assert await other.said_so_far() == []
    assert (await ada.get("/v1/inbox")).json()["code"] == "token_revoked"


async def test_a_foreign_origin_is_refused_with_403_before_the_upgrade(start_server: StartServer) -> None:
    server = await start_server(allowed_origins="https://app.example.com")
    ada = await server.user()
    headers = {"Authorization": f"Bearer {ada.token}"}
    for origin in (
        "https://evil.example",
        "null",
        "https://app.example.com.evil.example",
        "nonsense",
        "file://",
    ):
        with pytest.raises(InvalidStatus) as caught:
            async with open_socket(server.base, headers=headers, origin=origin):
                pass
        response = caught.value.response
        assert response.status_code == 403
        assert response.headers["content-type"] == "application/problem+json"
        assert json.loads(response.body)["code"] == "origin_not_allowed"
    assert len(server.state.hub) == 0
    for origin in ("https://app.example.com", server.base):
        async with open_socket(server.base, headers=headers, origin=origin) as socket:
            assert (await socket.receive())["type"] == "hello"


# --- the other close codes ----------------------------------------------------------------------------------


async def test_a_close_by_the_client_is_answered_with_1000(server: LocalServer) -> None:
    ada = await server.user()
    async with live(ada) as socket:
        await socket.connection.close(1000)
        assert socket.connection.close_code == 1000
    await server.sockets(0)


async def test_a_binary_frame_closes_with_1003(server: LocalServer) -> None:
    async with live(await server.user()) as socket:
        await socket.connection.send(b"binary")
        code, _ = await socket.closed()
        assert code == 1003


async def test_a_frame_of_16_kib_is_read_and_a_larger_one_closes_with_1009(server: LocalServer) -> None:
    async with live(await server.user()) as socket:
        await socket.connection.send(json.dumps({"type": "ping", "ref": "a"}).ljust(16 * 1024))
        assert (await socket.receive())["type"] == "ok"
        await socket.connection.send("x" * (16 * 1024 + 1))
        code, _ = await socket.closed()
        assert code == 1009


async def test_a_message_in_fragments_over_16_kib_closes_with_1009(server: LocalServer) -> None:
    async with live(await server.user()) as socket:
        await socket.connection.send("x" * 6000 for _ in range(3))
        code, _ = await socket.closed()
        assert code == 1009


async def test_text_that_is_not_utf_8_closes_only_its_socket_with_1007(server: LocalServer) -> None:
    ada = await server.user()
    async with live(ada) as control, raw_socket(ada, since="latest") as socket:
        await server.sockets(2)
        await socket.send_bytes(b"\x81\x82\x00\x00\x00\x00\xff\xff")
        code, _ = await socket.read_until_closed()
        assert code == 1007
        assert await control.said_so_far() == []


async def test_a_frame_that_violates_rfc_6455_closes_only_its_socket_with_1002(server: LocalServer) -> None:
    ada = await server.user()
    async with live(ada) as control, raw_socket(ada, since="latest") as socket:
        await server.sockets(2)
        await socket.send_bytes(b"\xff\x80\x00\x00\x00\x00")
        code, _ = await socket.read_until_closed()
        assert code == 1002
        assert await control.said_so_far() == []


async def test_a_socket_over_the_limit_of_its_user_closes_with_4009(start_server: StartServer) -> None:
    server = await start_server(max_sockets_per_user=2)
    ada, bob = await server.user("ada"), await server.user("bob")
    async with live(ada) as one, live(ada) as two:
        async with ada.socket() as third:
            assert (await third.closed())[0] == 4009
        async with live(bob) as other:
            assert await other.said_so_far() == []
        assert await one.said_so_far() == []
        await two.connection.close()
        await server.sockets(1)
        async with live(ada) as again:
            assert await again.said_so_far() == []


async def test_the_default_limit_is_twenty_sockets_per_user(server: LocalServer) -> None:
    assert server.state.settings.max_sockets_per_user == 20


async def test_a_full_process_closes_with_1013(start_server: StartServer) -> None:
    server = await start_server(max_sockets=1)
    ada, bob = await server.user("ada"), await server.user("bob")
    async with live(ada) as one:
        async with bob.socket() as other:
            assert (await other.closed())[0] == 1013
        assert await one.said_so_far() == []


@pytest.mark.usefixtures("each_encoding")
async def test_too_many_commands_close_with_4029(start_server: StartServer) -> None:
    server = await start_server(commands_per_second=5)
    ada = await server.user()
    async with live(ada) as socket, live(ada) as control:
        for _ in range(60):
            await socket.send(type="ping")
        assert (await socket.closed())[0] == 4029
        assert await control.said_so_far() == []


async def test_a_client_that_answers_no_ping_closes_with_4008(start_server: StartServer) -> None:
    server = await start_server(ping_interval=0.1, ping_timeout=0.3)
    ada = await server.user()
    async with live(ada) as healthy:
        async with raw_socket(ada, since="latest") as silent:
            assert (await silent.read_until_closed())[0] == 4008
        await server.sockets(1)
        assert await healthy.said_so_far() == []


async def test_a_client_that_does_not_read_is_closed_with_4008_without_delaying_others(
    start_server: StartServer,
) -> None:
    server = await start_server(send_timeout=0.5)
    ada, bob = await server.user("ada"), await server.user("bob")
    async with live(ada) as reading, live(bob) as other, raw_socket(ada, since="latest") as stalled:
        await server.sockets(3)
        number = 0
        while len(server.state.hub) == 3:
            number += 1
            await server.service.notify(["ada", "bob"], str(number), body="x" * 4000, data={"x": "y" * 8000})
            for socket in (reading, other):
                assert (await socket.receive(within=2))["seq"] == number
            assert number < 5000, "the gateway keeps everything for a client that does not read"
        assert (await stalled.read_until_closed())[0] == 4008
        assert await reading.said_so_far() == []


@pytest.mark.usefixtures("each_encoding")
async def test_a_client_that_reads_late_gets_every_change(server: LocalServer) -> None:
    ada = await server.user()
    device = Device(ada, "late")
    async with ada.socket(since=0) as socket:
        for _ in range(3):
            await server.service.notify_many("ada", 400)
        while device.history.seq < 1200:
            await device.take(await socket.receive())
    assert seqs(list(device.history.messages())) == list(range(1, 1201))
    assert len(device.history.items) == 1200


# --- other ways in ------------------------------------------------------------------------------------------


async def test_a_plain_get_of_the_socket_path_causes_no_server_error(server: LocalServer) -> None:
    ada = await server.user()
    answer = await ada.get("/v1/ws")
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"


async def test_an_unknown_path_refuses_the_upgrade(server: LocalServer) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with open_socket(server.base + "/nowhere"):
            pass
    assert caught.value.response.status_code in {403, 404}


async def test_a_disabled_user_gets_4001(server: LocalServer) -> None:
    ada = await server.user()
    answer = await server.service.patch("/v1/users/ada", json={"disabled": True})
    assert answer.status_code == 200
    async with ada.socket() as socket:
        assert await socket.closed() == (4001, "token_revoked")


async def test_no_socket_holds_a_connection_of_the_pool(start_server: StartServer) -> None:
    server = await start_server(database_pool_size=2)
    ada = await server.user()
    async with live(ada), live(ada), live(ada), live(ada):
        await server.sockets(4)
        answers = await asyncio.gather(*(ada.get("/v1/inbox") for _ in range(10)))
        assert {answer.status_code for answer in answers} == {httpx.codes.OK}


async def test_a_wrong_unread_count_in_the_database_is_reported_unchanged(server: LocalServer) -> None:
    """The counts come from the counter row, so the checker's comparison with the items means something."""

    def spoil(connection: Connection) -> None:
        connection.execute(update(users).values(unread=7))

    await server.service.notify("ada")
    await server.state.database.write(spoil)
    assert (await (await server.user()).inbox())["unread"] == 7


async def test_a_served_or_refused_socket_leaves_no_reference_cycle(server: LocalServer) -> None:
    """A collector that seldom runs would keep what a crowd of them was made of."""
    ada = await server.user()
    kinds = GatewaySocket, GatewayWebSocket, ClientConnection

    async def come_and_go() -> None:
        async with ada.socket() as socket:
            await socket.until("live")
        async with User(server.http, "no token", "ada").socket() as socket:
            assert (await socket.closed())[0] == 4001
        await server.sockets(0)

    await come_and_go()
    gc.collect()
    gc.disable()
    try:
        await come_and_go()
        await until_none(
            lambda: [one for one in server.uvicorn.server_state.connections if isinstance(one, kinds)],
            "sockets",
        )
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [one for one in gc.garbage if isinstance(one, kinds)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def test_a_replay_of_what_was_seen_meanwhile_ends_with_the_exact_counts(server: LocalServer) -> None:
    """The seen mark moves without an entry, and the entry before it still has the counts of its commit."""
    ada = await server.user()
    async with ada.socket() as watching:
        await watching.next("live")
        await server.service.notify("ada")
        await watching.next("notification")
        assert (await ada.post("/v1/inbox/seen", json={"up_to": 1})).status_code == 200
        async with ada.socket(since=0) as resumed:
            live = await resumed.next("live")
    assert (live["seq"], live["unread"], live["unseen"]) == (1, 1, 0)
