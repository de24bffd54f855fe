"""Clients that ask in odd ways: what they get is right, and nobody else notices."""

import asyncio
import json
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.errors import Invalid
from gateway.store.writer import Writer
from tests.support.servers import LocalServer, StartServer, process
from tests.support.waiting import until


async def raw(server: LocalServer, request: bytes) -> bytes:
    """Send bytes and return all that comes until the server hangs up."""
    host, _, port = server.base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()


UPGRADE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


async def test_a_handshake_with_a_long_header_is_answered_normally(server: LocalServer) -> None:
    """Cookies of other sites on the same host may be long; uvicorn's second parser hung up at 8 KiB."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.base.rpartition(":")[2]))
    writer.write(UPGRADE + b"Cookie: " + b"x" * 20_000 + b"\r\n\r\n")
    answer = await asyncio.wait_for(reader.readuntil(b"missing_token"), 5)
    assert answer.startswith(b"HTTP/1.1 101 ")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (UPGRADE + b"Content-Length: 5\r\n\r\nhello", 400),
        (UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (UPGRADE.replace(b"/v1/ws", "/v1/ws?since=\u00e9".encode()) + b"\r\n", 400),
        (UPGRADE.replace(b"GET", b"POST") + b"\r\n", 405),
        (UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n", 505),
        (UPGRADE.replace(b"Version: 13", b"Version: 8") + b"\r\n", 400),
        (UPGRADE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short") + b"\r\n", 400),
    ],
)
async def test_an_invalid_rfc_6455_handshake_is_refused_and_closed(
    server: LocalServer, request_head: bytes, status: int
) -> None:
    answer = await raw(server, request_head)
    assert answer.split(b" ", 2)[1] == b"%d" % status
    await server.sockets(0)


async def test_unfinished_handshakes_do_not_disturb_the_shutdown(database_url: str, tmp_path: Path) -> None:
    async with process(database_url, tmp_path) as (gateway, server):
        writers = []
        for begun in (UPGRADE, UPGRADE + b"Cookie: " + b"x" * 9000 + b"\r\n\r\n"):
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(begun)
            await writer.drain()
            writers.append(writer)
        async with (await server.user()).socket(since="latest") as socket:
            await socket.next("live")
            ended = asyncio.create_task(asyncio.to_thread(gateway.end, signal.SIGTERM))
            assert (await socket.closed())[0] == 1012
            assert await ended == 0
        for writer in writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        assert "Traceback" not in gateway.log.read_text()


async def test_a_websocket_to_an_unknown_path_is_refused_with_a_problem(server: LocalServer) -> None:
    answer = await raw(server, UPGRADE.replace(b"/v1/ws", b"/v1/nowhere") + b"\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert b"application/problem+json" in head.lower()
    assert json.loads(body)["code"] == "not_found"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/users", "GET, HEAD, POST"),
        ("/v1/inbox/00000000-0000-7000-8000-000000000000", "DELETE, GET, HEAD, PATCH"),
        ("/v1/users/ada", "DELETE, GET, HEAD, PATCH"),
    ],
)
async def test_405_names_every_method_of_the_path(server: LocalServer, path: str, allowed: str) -> None:
    answer = await server.http.put(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("path", ["/v1/inbox/read", "/v1/inbox/seen", "/v1/users", "/v1/notifications"])
async def test_an_unauthenticated_request_is_refused_before_its_body_is_parsed(
    server: LocalServer, path: str
) -> None:
    json_type = {"Content-Type": "application/json"}
    answer = await server.http.post(path, content=b"garbage", headers=json_type)
    assert answer.status_code == 401


@pytest.mark.parametrize("since", ["9223372036854775806", "9223372036854775807", "9" * 40])
async def test_a_position_beyond_any_log_gets_a_reset(server: LocalServer, since: str) -> None:
    ada = await server.user()
    async with ada.socket(since=since) as socket:
        assert (await socket.next("reset"))["seq"] == 0


async def test_an_entirely_invalid_batch_is_refused_quickly_at_its_first_item(server: LocalServer) -> None:
    worst = [{"to": [""] * 1000, "title": "x"}] * 900
    began = time.process_time()
    answer = await server.service.post("/v1/notifications/batch", json=worst)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) <= 20
    assert {error["field"].split(".")[0] for error in answer.json()["errors"]} == {"0"}
    assert time.process_time() - began < 5


async def test_a_body_with_far_too_many_members_is_refused_with_a_short_response(server: LocalServer) -> None:
    many = {f"m{number}": 1 for number in range(5_000)}
    answer = await server.service.post("/v1/notifications/batch", json=[many])
    assert answer.status_code == 422
    ada = await server.user()
    refused = await ada.post("/v1/inbox/read", json=many)
    assert refused.status_code == 422
    assert max(len(answer.content), len(refused.content)) < 10_000


async def test_lines_beyond_the_thousandth_are_not_read(server: LocalServer) -> None:
    answer = await server.service.post(
        "/v1/notifications/batch",
        content=b"1\n" * 1_000_000,
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert answer.status_code == 422


@pytest.mark.parametrize(
    "url", ["http://x:abc", "http://x:99999", "http://a\u202eb/", "http://a\u3000b/", "/\u2028/x"]
)
async def test_an_invalid_or_deceptive_url_is_refused(server: LocalServer, url: str) -> None:
    answer = await server.service.post("/v1/notifications", json={"to": "ada", "title": "x", "url": url})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "url"


async def test_marking_read_beyond_the_end_leaves_later_arrivals_unread(server: LocalServer) -> None:
    """What arrives between the steps of a long read stays unread, however far `up_to` reaches."""
    ada = await server.user()
    for _ in range(3):
        await server.service.post(
            "/v1/notifications/batch", json=[{"to": "ada", "title": str(n)} for n in range(300)]
        )
    reading = asyncio.create_task(ada.post("/v1/inbox/read", json={"up_to": 2**53}))
    writer: Writer = server.state.writer
    await until(lambda: writer._waiting or reading.done(), "the first step waits")
    later = [await server.service.notify("ada", f"later {number}") for number in range(5)]
    assert (await reading).status_code == 200
    unread = (await ada.inbox(unread="true", limit=200))["items"]
    assert {item["id"] for item in unread} <= {one["id"] for one in later}
    assert {one["id"] for one in later[1:]} <= {item["id"] for item in unread}


async def test_acks_without_a_new_position_count_as_commands(start_server: StartServer) -> None:
    server = await start_server(commands_per_second=50)
    ada = await server.user()
    async with ada.socket(since="latest") as socket:
        await socket.next("live")
        for _ in range(400):
            await socket.send(type="ack", seq=0)
        assert await socket.closed() == (4029, "too_many_commands")


def test_an_error_in_many_fields_names_each_field() -> None:
    error = Invalid.field("title", "too long")
    assert error.errors == [{"field": "title", "message": "too long"}]
