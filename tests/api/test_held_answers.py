"""Answers of all users together: a bound on their bytes, and turns of the event loop."""

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gateway.api import answers
from gateway.auth.limits import held_answers
from gateway.auth.limits.held_answers import (
    MAX_PAGES_AT_ONCE,
    MAX_WAITING_PAGES,
    UNCOUNTED_BYTES,
    AnswerBytes,
    HeldAnswers,
)
from gateway.auth.limits.rate_limits import LONG_ANSWERS
from gateway.protocol.items import encode_item, encode_row
from gateway.store import inbox
from gateway.store.inbox import PAGE_BYTES
from gateway.transport.slices import SLICE_BYTES
from tests.api.test_long_answers import LARGEST, MANY, asking, count_rows, fill, items_of, key_of
from tests.support.clients import User
from tests.support.engine import Engine
from tests.support.servers import LocalServer, StartServer
from tests.support.waiting import PATIENCE, until

PAGE = "/v1/inbox?limit=200"
ROOM = 4 * PAGE_BYTES
SUBS = [f"u{number}" for number in range(12)]
ADDRESS = "192.0.2.1"


def limit(monkeypatch: pytest.MonkeyPatch, most: int, long: int) -> None:
    for module in (held_answers, answers):
        for name, value in (("MAX_ANSWER_BYTES", most), ("MAX_LONG_BYTES", long)):
            monkeypatch.setattr(module, name, value, raising=False)


async def users_with_long_pages(server: LocalServer) -> list[User]:
    # The kernel, too, is to take little of what is not read.
    server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    posts = [{"to": SUBS, "title": str(index), **LARGEST} for index in range(MANY)]
    answer = await server.service.post("/v1/notifications/batch", json=posts)
    assert answer.status_code == 201, answer.text
    return [await server.user(sub) for sub in SUBS]


async def test_pages_are_cut_short_when_unread_pages_reach_the_memory_limit(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, 2 * ROOM, ROOM)
    users = await users_with_long_pages(server)
    held = server.state.rate_limits.held_answers.bytes
    lengths = []
    async with AsyncExitStack() as stack:
        for user in users:
            reader = await stack.enter_async_context(asking(user, PAGE))
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            lengths.append(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
            assert held.total <= 2 * ROOM
        # A network may have half of it.
        assert sum(length > 2 * SLICE_BYTES for length in lengths) == ROOM // 2 // PAGE_BYTES
        assert max(lengths[-5:]) <= 2 * SLICE_BYTES
    await until(lambda: held.total == 0, "the clients that have gone hold nothing")
    async with asking(users[0], PAGE) as reader:
        assert len(json.dumps(await items_of(reader))) > PAGE_BYTES // 2
    await until(lambda: held.total == 0, "what was read is not held")


async def test_a_page_or_item_without_room_in_memory_gets_a_503(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(server, "ada", MANY)
    await server.service.notify_many("bob", 5)
    ada, bob = await server.user(), await server.user("bob")
    item, *others = (await ada.inbox(limit=3))["items"]
    assert len(others) == 2
    # One bulk change: its page is not cut, so it is longer than a slice, but takes a single turn.
    await ada.post("/v1/inbox/read", json={"ids": [item["id"], *(other["id"] for other in others)]})
    path = f"/v1/inbox/{item['id']}"
    slots = server.state.rate_limits.long_answers.of(await key_of(server, "ada"))
    limit(monkeypatch, UNCOUNTED_BYTES, UNCOUNTED_BYTES)
    for refused in (
        await ada.get(PAGE),
        await ada.get("/v1/inbox/changes?limit=1000"),
        await ada.get(f"/v1/inbox/changes?since={MANY}"),
        await ada.get(path),
        await ada.patch(path, json={"read": True}),
    ):
        assert refused.status_code == 503
        assert refused.json()["code"] == "overloaded"
        assert int(refused.headers["retry-after"]) >= 1
    assert len((await bob.inbox(limit=200))["items"]) == 5
    held = server.state.rate_limits.held_answers
    assert slots._value == LONG_ANSWERS
    assert (held.bytes.total, held.making._value) == (0, MAX_PAGES_AT_ONCE)


async def test_a_timed_out_client_releases_its_held_bytes(start_server: StartServer) -> None:
    server = await start_server(body_timeout=0.5)
    users = await users_with_long_pages(server)
    held = server.state.rate_limits.held_answers.bytes
    async with asking(users[0], PAGE):
        await until(lambda: held.total > PAGE_BYTES // 2, "the answer is counted")
        await until(lambda: held.total == 0, "it is cut off")


async def test_an_unread_response_of_one_slice_is_counted(server: LocalServer) -> None:
    server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await fill(server, "ada", 4)
    ada = await server.user()
    held = server.state.rate_limits.held_answers.bytes
    async with asking(ada, "/v1/inbox?limit=1"):
        await until(lambda: UNCOUNTED_BYTES < held.total <= SLICE_BYTES, "it is counted while it is not read")
    await until(lambda: held.total == 0, "it has gone")


async def test_an_unread_list_of_a_service_is_counted(server: LocalServer) -> None:
    server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await fill(server, "ada", 4)
    held = server.state.rate_limits.held_answers.bytes
    async with asking(server.service, "/v1/notifications"):
        await until(lambda: held.total > UNCOUNTED_BYTES, "it is counted while it is not read")
    await until(lambda: held.total == 0, "it has gone")


async def test_pages_are_encoded_in_bounded_turns(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = await users_with_long_pages(server)
    turn = HeldAnswers.turn
    encoded: list[int] = []
    most: list[int] = []
    turns: list[int] = []

    def noted(encode: Callable[[Any], str]) -> Callable[[Any], str]:
        def encode_noted(item: Any) -> str:
            text = encode(item)
            encoded.append(len(text))
            return text

        return encode_noted

    async def counted(self: HeldAnswers, caller: int) -> None:
        most.append(sum(encoded))
        encoded.clear()
        await turn(self, caller)
        turns.append(caller)
        asyncio.get_running_loop().call_soon(lambda: most.append(sum(encoded)))

    monkeypatch.setattr(answers, "encode_item", noted(encode_item))
    monkeypatch.setattr(inbox, "encode_row", noted(encode_row))
    monkeypatch.setattr(HeldAnswers, "turn", counted)
    pages = await asyncio.gather(*(user.inbox(limit=200) for user in users[:MAX_PAGES_AT_ONCE]))
    assert all(len(page["items"]) > 20 for page in pages)
    assert max(most) < inbox.TURN_BYTES + MAX_PAGES_AT_ONCE * 2 * len(json.dumps(LARGEST)) + SLICE_BYTES
    assert len(turns) >= MAX_PAGES_AT_ONCE * (PAGE_BYTES // 2 // inbox.TURN_BYTES)


async def test_a_page_fetches_at_most_one_item_over_its_size_limit(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await engine.user()
    await engine.store(*(engine.post("ada", title="x" * 8000) for _ in range(50)))
    fetched = count_rows(monkeypatch)
    page = await engine.database.read(inbox.list_items, user.id, inbox.Query(50), SLICE_BYTES)
    assert page is not None
    assert page.cut
    assert len(fetched) == len(page.encoded) + len(page.items) + 1


async def test_long_pages_over_the_concurrency_and_queue_limits_are_cut_short() -> None:
    held = HeldAnswers()
    tasks = [asyncio.create_task(held.begin()) for _ in range(MAX_PAGES_AT_ONCE + MAX_WAITING_PAGES + 1)]
    await until(tasks[-1].done, "the last does not wait")
    assert not tasks[-1].result()
    done = [task.done() for task in tasks]
    assert done == [True] * MAX_PAGES_AT_ONCE + [False] * MAX_WAITING_PAGES + [True]
    tasks[MAX_PAGES_AT_ONCE].cancel()
    await until(tasks[MAX_PAGES_AT_ONCE].done, "one has gone")
    for _ in tasks:
        held.making.release()
    assert all(await asyncio.gather(*tasks[MAX_PAGES_AT_ONCE + 1 : -1]))


def test_one_network_cannot_hold_more_bytes_than_remain_for_others() -> None:
    held = HeldAnswers()
    mine, more, other = (AnswerBytes(held, one) for one in (ADDRESS, ADDRESS, "192.0.2.2"))
    with mine, more, other:
        assert mine.fits(50, 100)
        assert not more.fits(1, 100)
        assert other.fits(25, 100)
        assert mine.fits(20, 100)
        assert more.fits(10, 100)
        assert held.bytes.total == 55
    assert held.bytes.total == 0
