"""The stream of server-sent events: it keeps every promise of the socket, over plain HTTP."""

import asyncio
import socket
import time
from pathlib import Path

import httpx
import pytest

from gateway.delivery import client_connection
from gateway.transport.stream import RETRY_MS
from tests.support.checker import History, Json, Post, judge
from tests.support.clients import GONE, User
from tests.support.servers import LocalServer, StartServer, process
from tests.support.streams import Event, Listener, asked, live, raw, rest, stream_of, streams_of, titles
from tests.support.waiting import PATIENCE, until, until_none

MOVES = {"notification", "changed", "read", "reset", "live"}
"""What moves a client, and so has an id."""


# --- what comes ---------------------------------------------------------------------------------------------


async def test_a_stream_sends_the_messages_of_a_socket_with_ids_that_mark_positions(
    start_server: StartServer,
) -> None:
    server = await start_server(heartbeat=1)
    ada = await server.user("ada", ttl=30)
    (first, *_) = await server.service.notify_many("ada", 120)
    async with ada.socket(since=0) as beside, stream_of(ada, since=0) as stream:
        events, said = await stream.until("token_expiring"), await beside.until("token_expiring")
        await ada.patch(f"/v1/inbox/{first}", json={"read": True})
        await ada.post("/v1/inbox/read", json={"up_to": 120})
        await ada.post("/v1/inbox/seen", json={"up_to": 120})
        await server.service.notify("ada", "\u2028 a line\nand\ranother 😀", data={"\n": "\r\n"})
        events += await stream.until("notification")
        said += await beside.until("notification")
        events += await stream.until("heartbeat")
        said += await beside.until("heartbeat")
    assert [event.message for event in events if event.kind != "heartbeat"] == [
        message for message in said if message["type"] != "heartbeat"
    ]
    kinds = {event.kind for event in events}
    assert kinds == (MOVES - {"reset"}) | {"hello", "token_expiring", "seen", "heartbeat"}
    epoch = events[0].message["epoch"]
    assert [event.id for event in events] == [
        f"{epoch}.{event.message['seq']}" if event.kind in MOVES else None for event in events
    ]


async def test_a_stream_response_forbids_caching_and_sets_the_retry_time(server: LocalServer) -> None:
    user = await server.user()
    waits = set()
    for _ in range(5):
        async with live(user) as stream:
            headers = stream.response.headers
            assert headers["content-type"] == "text/event-stream"
            assert headers.get_list("cache-control") == ["no-store"]
            assert headers["x-accel-buffering"] == "no"
            assert headers["connection"] == "close"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-request-id"]
            assert stream.retry is not None
            assert RETRY_MS[0] <= stream.retry <= RETRY_MS[1]
            waits.add(stream.retry)
    assert len(waits) > 1


@pytest.mark.parametrize("carrier", ["header", "ticket", "query"])
async def test_every_token_source_opens_a_stream(start_server: StartServer, carrier: str) -> None:
    server = await start_server(ws_query_token=True)
    async with live(await server.user(), carrier=carrier) as stream:
        await server.service.notify("ada", "Hello")
        assert titles([await stream.receive()]) == ["Hello"]


# --- where it starts ----------------------------------------------------------------------------------------


async def test_a_stream_resumes_after_the_last_event_with_exactly_the_missed_events(
    server: LocalServer,
) -> None:
    user = await server.user()
    async with live(user) as stream:
        await server.service.notify("ada", "seen by it")
        await stream.next("notification")
    await server.sockets(0)
    missed = [str(number) for number in range(1, 251)]
    await server.service.notify_many("ada", 250)
    # A browser that connects again sends the id along with the query it had in the first place.
    async with stream_of(user, headers={"Last-Event-ID": stream.last_id}, since="latest") as resumed:
        replayed = await resumed.until("live")
        await server.service.notify("ada", "live again")
        assert titles(await resumed.until("notification")) == ["live again"]
    assert [event.kind for event in replayed] == ["hello", *["notification"] * 250, "live"]
    assert titles(replayed) == missed


async def test_a_stream_starts_at_the_resume_point_of_the_query(server: LocalServer) -> None:
    user = await server.user()
    await server.service.notify_many("ada", 3)
    async with (
        stream_of(user) as newest,
        stream_of(user, since="latest") as nothing,
        stream_of(user, since=2) as two,
    ):
        first = await newest.until("live")
        assert titles(first) == ["1", "2", "3"]
        assert titles(await nothing.until("live")) == []
        assert titles(await two.until("live")) == ["3"]
    async with stream_of(user, since=2, epoch=first[0].message["epoch"]) as same:
        assert titles(await same.until("live")) == ["3"]
    async with stream_of(user, since=2, epoch="another") as other:
        assert [event.kind for event in await other.until("live")] == ["hello", "reset", "live"]


@pytest.mark.parametrize("position", ["other.1", "{epoch}.4", "{epoch}." + "9" * 30])
@pytest.mark.parametrize("nonsense", [False, True])
async def test_an_event_id_that_is_not_a_position_of_the_log_gets_a_reset(
    server: LocalServer, position: str, nonsense: bool
) -> None:
    user = await server.user()
    await server.service.notify_many("ada", 3)
    epoch = (await user.inbox())["epoch"]
    ids = [position.format(epoch=epoch)]
    if nonsense:
        ids = [".", "1", f"{epoch}", f"{epoch}.", f"{epoch}.-1", f"{epoch}.1 x", "\u00b2.\u00b2", "x" * 9000]
    for one in ids:
        async with stream_of(user, headers={"Last-Event-ID": one.encode()}) as stream:  # type: ignore[dict-item]
            hello, reset, at_end = await stream.until("live")
            assert (hello.kind, reset.kind, at_end.kind) == ("hello", "reset", "live")
            assert reset.id == at_end.id == f"{epoch}.3"
    assert server.state.writer._delivered == {}


async def test_the_last_event_id_acknowledges_and_a_position_in_the_query_does_not(
    server: LocalServer,
) -> None:
    user = await server.user()
    first, second = [await server.service.notify("ada", title) for title in ("first", "second")]

    async def delivered(posted: Json) -> int:
        number: int = (await server.service.get(f"/v1/notifications/{posted['id']}")).json()["delivered"]
        return number

    async with live(user, since=2) as stream:
        epoch = stream.last_id.removesuffix(".2")
    async with live(user, headers={"Last-Event-ID": f"{epoch}.1"}):
        await until(lambda: delivered(first), "the sender is told that it is delivered")
    # What the query says would have been stored with it, for the mark only rises.
    assert await delivered(second) == 0


async def test_an_invalid_resume_point_is_refused_with_a_problem(server: LocalServer) -> None:
    user = await server.user()
    for query in ({"since": "x"}, {"since": "-1"}, {"since": "1", "epoch": "e" * 65}):
        answer = await user.get("/v1/stream", params=query)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")


async def test_a_stream_loses_nothing_when_the_gateway_is_killed(sqlite_url: str, tmp_path: Path) -> None:
    async with process(sqlite_url, tmp_path) as (gateway, server):
        listener, posts = Listener(await server.user(), "browser"), list[Post]()

        async def post(number: int) -> None:
            title, headers = str(number), {"Idempotency-Key": str(number)}
            body = {"to": "ada", "title": title}
            while True:
                try:
                    answer = await server.service.post("/v1/notifications", json=body, headers=headers)
                except GONE:
                    await asyncio.sleep(0.05)
                else:
                    posts.append(Post(title, ("ada",), answer.status_code, {answer.json()["id"]}))
                    return

        listening = asyncio.create_task(listener.run(pause=0.05))
        for number in range(60):
            await post(number)
            if number == 30:
                gateway.kill()
                await gateway.start()
        await until(lambda: len(listener.history.items) == 60, "all have come")
        inbox = await listener.user.whole_inbox()
        listening.cancel()
        await asyncio.wait([listening])
    assert judge(History(posts, [listener.history], {"ada": inbox})) == []
    assert listener.connections == 2


# --- how it ends --------------------------------------------------------------------------------------------


async def test_the_end_of_a_session_closes_its_streams_with_the_reason(server: LocalServer) -> None:
    async def revoke(user: User) -> httpx.Response:
        return await server.http.post("/v1/auth/revoke", data={"token": user.token})

    async def sign_out(user: User) -> httpx.Response:
        return await server.service.delete(f"/v1/users/{user.sub}/sessions")

    async def disable(user: User) -> httpx.Response:
        return await server.service.patch(f"/v1/users/{user.sub}", json={"disabled": True})

    async def erase(user: User) -> httpx.Response:
        return await server.service.delete(f"/v1/users/{user.sub}")

    for end in (revoke, sign_out, disable, erase):
        user = await server.user(end.__name__)
        async with live(user) as stream, live(await server.user("somebody-else")) as other:
            assert (await end(user)).is_success
            answered_at = time.monotonic()
            assert await stream.closed() == (4001, "token_revoked")
            assert time.monotonic() - answered_at < 1
            await server.service.notify("somebody-else", "Hello")
            assert titles([await other.receive()]) == ["Hello"]
        assert (await user.get("/v1/stream")).status_code == 401


async def test_an_expired_token_ends_its_stream(server: LocalServer) -> None:
    user = await server.user("ada", ttl=2)
    ends = (await server.state.tokens.verify(user.token or "")).expires_at or 0
    async with stream_of(user) as stream:
        assert (await stream.until("token_expiring"))[-1].id is None
        assert await stream.closed() == (4001, "token_expired")
        assert -0.1 < time.time() - ends < 1
    await server.sockets(0)


async def test_a_disconnected_client_is_removed_at_once(server: LocalServer) -> None:
    async with live(await server.user()):
        await server.sockets(1)
        await until(lambda: "gateway_streams 1.0" in exposed(server), "a stream is counted")
        await until(lambda: "gateway_sockets 1.0" in exposed(server), "and among the sockets")
    await server.sockets(0)
    await until(lambda: "gateway_streams 0.0" in exposed(server), "none is left")
    assert 'gateway_closes_total{by="client",code="1005"} 1.0' in exposed(server)
    assert streams_of(server) == []
    await until_none(lambda: server.uvicorn.server_state.tasks, "tasks")


def exposed(server: LocalServer) -> str:
    return server.state.metrics.exposition("")[0].decode()


async def test_a_failure_ends_the_stream_with_1011(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("as if by a mistake")

    user = await server.user()
    assert (await user.inbox())["items"] == []  # its token is known from now on
    server.expected.append("a client's loop failed")
    monkeypatch.setattr(client_connection, "resume", fail)
    async with stream_of(user) as stream:
        assert await stream.closed() == (1011, "internal_error")
    monkeypatch.undo()
    await server.sockets(0)


# --- slow and silent clients --------------------------------------------------------------------------------


async def test_a_client_that_does_not_read_uses_one_buffer_and_is_closed_with_4008(
    start_server: StartServer,
) -> None:
    server = await start_server(send_timeout=1)
    ada = await server.user("ada")
    request = asked(ada, path="/v1/stream?since=latest")
    async with live(ada) as reading, raw(server, request, buffer=4096) as (reader, _):
        await server.sockets(2)
        number, most = 0, 0
        while len(server.state.hub) == 2:
            number += 1
            await server.service.notify("ada", str(number), body="x" * 4000, data={"x": "y" * 8000})
            assert (await reading.receive()).message["seq"] == number
            held = [one.transport.get_write_buffer_size() for one in streams_of(server)]
            most = max(most, *held)
            assert number < 5000, "the gateway keeps everything for a client that does not read"
        assert 0 < most < 200_000
        # Who begins to read at last is told why it ended, behind what it had not read.
        assert b'data: {"type":"close","code":4008,"reason":"too_slow"}\n\n' in await rest(reader)
        await server.service.notify("ada", "Hello")
        assert titles([await reading.receive()]) == ["Hello"]


async def test_a_stream_client_that_reads_late_gets_every_change(server: LocalServer) -> None:
    user = await server.user()
    async with stream_of(user, since=0) as stream:
        for _ in range(3):
            await server.service.notify_many("ada", 400)
        events: list[Event] = []
        while len(titles(events)) < 1200:
            events.append(await stream.receive())
    assert [event.message["seq"] for event in events if event.kind == "notification"] == [*range(1, 1201)]


async def test_the_kernel_times_out_a_client_whose_machine_is_unreachable(start_server: StartServer) -> None:
    server = await start_server(ping_interval=3, ping_timeout=4)
    async with live(await server.user()):
        (held,) = streams_of(server)
        plain = held.transport.get_extra_info("socket")
        assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000


async def test_a_stream_has_no_deadline(start_server: StartServer) -> None:
    server = await start_server(header_timeout=0.3, body_timeout=0.3, heartbeat=0.2)
    user = await server.user()
    async with live(user) as stream, raw(server, asked(user, more="Content-Length: 9\r\n")) as (reader, _):
        began = time.monotonic()
        while time.monotonic() - began < 1:
            await stream.next("heartbeat")
        await server.sockets(2)
        async with asyncio.timeout(PATIENCE):
            for _ in range(4):
                await reader.readuntil(b"event: heartbeat\n")
