"""The edge of the stream: who may open it, limits, odd requests, and the end of the process.

They run on SQLite only: none of it depends on the database.
"""

import asyncio
import json
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.protocol.wire import MAX_FRAME
from tests.support.checker import Json
from tests.support.databases import API_KEY
from tests.support.servers import LocalServer, StartServer, process
from tests.support.streams import asked, live, open_stream, raw, rest, stream_of, streams_of
from tests.support.waiting import PATIENCE, until

APP = "https://app.example.com"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


# --- the end of the process ---------------------------------------------------------------------------------

STREAMS = 60


async def test_streams_are_drained_like_sockets(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        process(sqlite_url, tmp_path, grace_period=20) as (gateway, server),
        AsyncExitStack() as stack,
    ):
        users = [await server.user(f"user {number}") for number in range(STREAMS // 15)]
        streams = [await stack.enter_async_context(live(users[n % len(users)])) for n in range(STREAMS)]
        beside = await stack.enter_async_context(users[0].socket())
        await beside.next("live")
        gateway.signal(signal.SIGTERM)

        async def drains() -> bool:
            return (await server.http.get("/readyz")).status_code == 503

        await until(drains, "the gateway says that it is not ready")
        refused = await users[0].get("/v1/stream")
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) > 0
        assert await gateway.ended() == 0
        assert {await stream.closed() for stream in streams} == {(1012, "restart")}
        assert (await beside.closed())[0] == 1012
        assert "Traceback" not in gateway.log.read_text()


async def test_a_shutdown_closes_an_open_stream_with_1012(server: LocalServer) -> None:
    async with live(await server.user()) as stream:
        (held,) = streams_of(server)
        held.shutdown()
        held.shutdown()
        assert await stream.closed() == (1012, "restart")


# --- limits -------------------------------------------------------------------------------------------------


async def test_streams_and_sockets_of_a_user_share_one_limit(start_server: StartServer) -> None:
    server = await start_server(max_sockets_per_user=2)
    ada = await server.user("ada")
    async with live(ada), ada.socket() as beside:
        await beside.next("live")
        async with stream_of(ada) as third:
            assert await third.closed() == (4009, "too_many_sockets")
        async with ada.socket() as third_socket:
            assert (await third_socket.closed())[0] == 4009
        async with live(await server.user("bob")):
            pass
        await beside.connection.close()
        await server.sockets(1)
        async with live(ada):
            pass


async def test_a_full_process_ends_streams_with_1013(start_server: StartServer) -> None:
    server = await start_server(max_sockets=1)
    async with live(await server.user("ada")), stream_of(await server.user("bob")) as other:
        assert await other.closed() == (1013, "overloaded")


async def test_a_flood_of_streams_is_refused(start_server: StartServer) -> None:
    server = await start_server(handshakes_per_second=0.3)
    user = await server.user()
    for _ in range(3):
        async with live(user):
            pass
    refused = await user.get("/v1/stream")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["ratelimit-policy"] == '"handshakes";q=3;w=10'
    assert int(refused.headers["retry-after"]) >= 1


# --- who may open it ----------------------------------------------------------------------------------------


async def test_a_refusal_is_a_problem_with_a_challenge_for_every_token_source(
    start_server: StartServer,
) -> None:
    server = await start_server(ws_query_token=True)
    user = await server.user()
    ticket = (await user.post("/v1/auth/ticket")).json()["ticket"]
    async with open_stream(server.http, ticket=ticket) as stream:
        await stream.next("live")
    invalid, again = 'error="invalid_token"', {"Last-Event-ID": stream.last_id}
    for options, code, challenge in (
        ({}, "missing_token", "Bearer"),
        ({"headers": {"Authorization": "Bearer x"}}, "invalid_token", invalid),
        ({"headers": {"Authorization": "Basic x"}}, "missing_token", "Bearer"),
        ({"params": {"token": "x"}}, "invalid_token", invalid),
        ({"params": {"ticket": "x"}}, "invalid_token", invalid),
        # A browser that connects again by itself comes with the ticket it has used.
        (
            {"params": {"ticket": ticket}, "headers": again},
            "invalid_token",
            'error="invalid_token"',
        ),
        ({"params": {"ticket": ""}}, "invalid_token", invalid),
    ):
        answer = await server.http.get("/v1/stream", **cast("dict[str, Any]", options))
        assert (answer.status_code, answer.json()["code"]) == (401, code), options
        assert answer.headers["content-type"] == "application/problem+json"
        assert challenge in answer.headers["www-authenticate"]
    answer = await server.service.get("/v1/stream")
    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
    await server.sockets(0)


async def test_a_query_token_opens_no_stream_where_it_is_disabled(start_server: StartServer) -> None:
    server = await start_server(ws_query_token=False)
    user = await server.user()
    answer = await server.http.get("/v1/stream", params={"token": user.token})
    assert (answer.status_code, answer.json()["code"]) == (401, "missing_token")


async def test_a_page_of_another_origin_is_refused_before_its_token_is_checked(
    start_server: StartServer,
) -> None:
    server = await start_server(allowed_origins=APP)
    user = await server.user()
    for origin in (
        "https://evil.example",
        "null",
        f"{APP}.evil.example",
        server.base.replace("http", "https"),
    ):
        for caller in (user, server.stranger):
            answer = await caller.get("/v1/stream", headers={"Origin": origin})
            assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")
            assert "access-control-allow-origin" not in answer.headers
    async with live(user, headers={"Origin": server.base}):
        pass
    async with live(user, headers={"Origin": APP}) as stream:
        assert stream.response.headers["access-control-allow-origin"] == APP
        assert stream.response.headers["vary"] == "Origin"
    refused = await server.http.get("/v1/stream", headers={"Origin": APP})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, APP)
    preflight = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "last-event-id"}
    asks = await server.http.options("/v1/stream", headers={"Origin": APP, **preflight})
    assert asks.status_code == 200


# --- odd requests -------------------------------------------------------------------------------------------


async def test_an_http_1_0_client_gets_events_without_chunked_encoding(server: LocalServer) -> None:
    user = await server.user()
    async with raw(server, asked(user, version="1.0")) as (reader, _):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"transfer-encoding" not in head.lower()
        assert (await reader.readuntil(b"\n\n")).startswith(b"retry: ")
        assert (await reader.readuntil(b"\n\n")).startswith(b'event: hello\ndata: {"type":"hello",')


async def test_a_head_request_gets_the_headers_and_registers_no_stream(server: LocalServer) -> None:
    user = await server.user()
    async with raw(server, asked(user, "HEAD")) as (reader, _):
        head, _, body = (await rest(reader)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"content-type: text/event-stream" in head
        assert body == b""
    assert len(server.state.hub) == 0
    assert (await server.stranger.request("HEAD", "/v1/stream")).status_code == 401


async def test_methods_other_than_get_and_head_are_refused(server: LocalServer) -> None:
    answer = await (await server.user()).post("/v1/stream")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_a_percent_encoded_path_opens_the_stream(server: LocalServer) -> None:
    async with raw(server, asked(await server.user(), path="/v1/%73tream")) as (reader, _):
        await reader.readuntil(b"event: hello\n")


@pytest.mark.parametrize("first", [True, False])
async def test_a_request_before_a_stream_is_answered_and_a_request_behind_it_is_not(
    server: LocalServer, first: bool
) -> None:
    user = await server.user()
    other = b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n"
    request = other + asked(user) if first else asked(user) + other * 3
    async with raw(server, request) as (reader, writer):
        got = await reader.readuntil(b"event: live\n")
        assert (b'{"status":"ok",' in got) == first
        writer.write(other)
        await server.service.notify("ada", "Hello")
        got = await reader.readuntil(b"event: notification\n")
        assert b"HTTP/1.1" not in got
        await server.sockets(1)
    # It is noticed that it has gone, whatever it has asked for meanwhile.
    await server.sockets(0)


async def test_the_body_of_a_stream_request_is_ignored_up_to_a_limit(server: LocalServer) -> None:
    user = await server.user()
    async with raw(server, asked(user, more="Content-Length: 1000000\r\n") + b"x" * 1000) as (reader, writer):
        await reader.readuntil(b"event: live\n")
        writer.write(b"x" * (MAX_FRAME + 1))
        async with asyncio.timeout(PATIENCE):
            assert b'"code":1009' in await reader.readuntil(b'"payload_too_large"}')
    await server.sockets(0)


async def test_a_client_that_closes_its_sending_side_is_removed(server: LocalServer) -> None:
    async with raw(server, asked(await server.user())) as (reader, writer):
        await reader.readuntil(b"event: live\n")
        writer.write_eof()
        await server.sockets(0)


async def test_a_websocket_at_the_path_of_the_stream_is_refused(server: LocalServer) -> None:
    user = await server.user()
    upgrade = (
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )
    async with raw(server, asked(user, more=upgrade)) as (reader, _):
        assert (await rest(reader)).startswith(b"HTTP/1.1 404 ")


async def test_the_log_omits_the_query_and_the_audit_log_records_why_a_stream_ended(
    sqlite_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "audit.log"
    settings = {"access_log": True, "log_level": "debug", "audit_log": log, "ws_query_token": True}
    async with process(sqlite_url, tmp_path, **settings) as (gateway, server):
        user = await server.user()
        async with live(user, carrier="query", epoch="canary") as stream:
            await server.service.delete("/v1/users/ada/sessions")
            assert await stream.closed() == (4001, "token_revoked")
        text = gateway.log.read_text()
        assert '"GET /v1/stream?[redacted]' in text
        assert "canary" not in text
        assert (user.token or "") not in text

        def events() -> list[Json]:
            return [one for one in map(json.loads, log.read_text().splitlines()) if one["event"] == "refused"]

        (refused,) = await until(events, "it is in the audit log")
        assert (refused["route"], refused["status"], refused["code"]) == ("/v1/stream", 4001, "token_revoked")
        assert API_KEY not in log.read_text()
