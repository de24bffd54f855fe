"""Long answers: a page ends when it holds enough, and a user who reads none of them holds few."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import Connection

from gateway.api.inbox import MAX_PAGE
from gateway.auth.limits.rate_limits import LONG_ANSWERS, PAGE_READS
from gateway.protocol.items import Item
from gateway.store import inbox, log
from gateway.store.changes import CHUNK, ItemUpdate
from gateway.store.inbox import PAGE_BYTES, Query
from gateway.transport.slices import SLICE_BYTES
from tests.support.checker import Json
from tests.support.clients import Caller, User
from tests.support.engine import Engine
from tests.support.servers import LocalServer, StartServer
from tests.support.waiting import PATIENCE, until

LARGEST = {"body": "\x01" * 4000, "data": {"x": "y" * 8000}}
"""A control character takes six bytes in JSON."""

MANY = 70
"""So many of the largest items take more than two pages may."""


async def fill(server: LocalServer, sub: str, number: int) -> None:
    posts = [{"to": sub, "title": str(index), **LARGEST} for index in range(1, number + 1)]
    answer = await server.service.post("/v1/notifications/batch", json=posts)
    assert answer.status_code == 201, answer.text


def numbers_of(items: list[Json]) -> list[int]:
    return [int(item["title"]) for item in items]


# --- pages --------------------------------------------------------------------------------------------------


async def test_pages_of_the_largest_items_are_short_and_cover_the_whole_inbox(server: LocalServer) -> None:
    await fill(server, "ada", MANY)
    ada = await server.user()
    seen: list[int] = []
    params: Json = {"limit": 200}
    pages = 0
    while True:
        answer = await ada.get("/v1/inbox", params=params)
        assert len(answer.content) < 2 * PAGE_BYTES
        page = answer.json()
        seen += numbers_of(page["items"])
        pages += 1
        if page["next"] is None:
            break
        assert "cursor=" + page["next"] in answer.headers["link"]
        params["cursor"] = page["next"]
    assert seen == list(range(MANY, 0, -1))
    assert pages > 2


async def test_pages_of_the_largest_changes_are_short_and_cover_the_whole_log(server: LocalServer) -> None:
    await fill(server, "ada", MANY)
    ada = await server.user()
    seen: list[int] = []
    since, more, pages = 0, True, 0
    while more:
        answer = await ada.get("/v1/inbox/changes", params={"since": since, "limit": 1000})
        assert len(answer.content) < 2 * PAGE_BYTES
        page = answer.json()
        seen += numbers_of(page["items"])
        since, more = page["items"][-1]["seq"], page["more"]
        pages += 1
    assert seen == list(range(1, MANY + 1))
    assert pages > 2


async def test_pages_of_short_items_have_the_requested_size(server: LocalServer) -> None:
    await server.service.notify_many("ada", 1000)
    ada = await server.user()
    page = (await ada.get("/v1/inbox/changes", params={"limit": 1000})).json()
    assert numbers_of(page["items"]) == list(range(1, 1001))
    assert not page["more"]
    seen: list[int] = []
    params: Json = {"limit": 200}
    for _ in range(5):
        page = await ada.inbox(**params)
        assert len(page["items"]) == 200
        seen += numbers_of(page["items"])
        params["cursor"] = page["next"]
    assert page["next"] is None
    assert seen == list(range(1000, 0, -1))


async def test_a_byte_limit_never_cuts_a_page_inside_a_bulk_change(engine: Engine) -> None:
    user = await engine.user()
    posts = [engine.post("ada") for _ in range(CHUNK + 2)]
    await engine.store(*posts)
    ids = tuple(post.content.id for post in posts[:CHUNK])
    await engine.writer.change(ItemUpdate(user.id, ids, read=True))
    cursor, sizes = 0, []
    for _ in range(3):
        page = await engine.database.read(log.read_after, user.id, cursor, 1000, 1)
        assert page is not None
        (entry,) = page.entries
        cursor = entry.counts.seq
        sizes.append(len(entry.items))
        assert page.more == page.cut == (len(sizes) < 3)
    assert sizes == [1, 1, CHUNK]


def count_rows(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that gets each row of the inbox that a page fetches."""
    fetched: list[Any] = []
    read_page = inbox._read_page

    def counted(*asked: Any) -> Iterator[Any]:
        for row in read_page(*asked):
            fetched.append(row)
            yield row

    monkeypatch.setattr(inbox, "_read_page", counted)
    return fetched


STORED = 3 * inbox.ITEMS_PER_READ
READS = [
    pytest.param(
        lambda connection, user_id, size: log.read_after(connection, user_id, 0, 1000, size),
        STORED,
        id="changes",
    ),
    pytest.param(
        lambda connection, user_id, size: inbox.list_items(connection, user_id, Query(200), size),
        201,
        id="inbox",
    ),
]


@pytest.mark.parametrize(("read", "most"), READS)
async def test_a_page_read_stops_at_its_byte_limit(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[Connection, int, int], Any],
    most: int,
) -> None:
    user = await engine.user()
    await engine.store(*(engine.post("ada") for _ in range(STORED)))
    rows = count_rows(monkeypatch)
    to_item = log.to_item

    def counted(row: Any) -> Item:
        rows.append(row)
        return to_item(row)

    monkeypatch.setattr(log, "to_item", counted)
    await engine.database.read(read, user.id, 1)
    assert len(rows) <= inbox.ITEMS_PER_READ
    rows.clear()
    await engine.database.read(read, user.id, PAGE_BYTES)
    assert len(rows) == most


# --- clients that do not read -------------------------------------------------------------------------------


CHANGES = "/v1/inbox/changes?limit=1000"


@asynccontextmanager
async def asking(caller: Caller, path: str) -> AsyncIterator[asyncio.StreamReader]:
    """Ask for a page on a connection of its own, of which nothing is read ahead."""
    base = caller.http.base_url
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, (base.host, base.port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=4096)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n"
        f"Authorization: Bearer {caller.token}\r\n\r\n".encode()
    )
    try:
        yield reader
    finally:
        writer.transport.abort()


async def items_of(reader: asyncio.StreamReader) -> list[Json]:
    """Read an answer to its end."""
    async with asyncio.timeout(PATIENCE):
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    items: list[Json] = json.loads(body)["items"]
    return items


def unsent(server: LocalServer) -> list[int]:
    """Return how many bytes wait in each connection for a client that does not read."""
    connections = server.uvicorn.server_state.connections
    return [size for one in connections if (size := one.transport.get_write_buffer_size())]


async def stalled(server: LocalServer, stack: AsyncExitStack, user: User) -> None:
    """Ask for as many long answers as are held at once, and read none."""
    # The kernel, too, is to take little of what is not read.
    server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for _ in range(LONG_ANSWERS):
        await stack.enter_async_context(asking(user, CHANGES))
    await until(lambda: len(unsent(server)) == LONG_ANSWERS, "the long answers wait to be read")


async def reads_long(server: LocalServer, user: User, path: str = CHANGES) -> int:
    """Return how many items a long answer has."""
    async with asking(user, path) as reader:
        return len(await items_of(reader))


async def test_a_slow_reader_delays_only_long_responses_of_the_same_user(
    server: LocalServer,
) -> None:
    for sub in ("ada", "bob"):
        await fill(server, sub, MANY)
    ada, bob = await server.user(), await server.user("bob")
    async with AsyncExitStack() as stack:
        await stalled(server, stack, ada)
        assert max(unsent(server)) <= 3 * SLICE_BYTES
        paths = (CHANGES, "/v1/inbox?limit=200")
        further = [asyncio.create_task(reads_long(server, ada, path)) for path in paths]
        assert await reads_long(server, bob) > 1
        for path in ("/v1/inbox?limit=1", "/v1/inbox/changes?limit=1", f"/v1/inbox/changes?since={MANY}"):
            answer = await ada.get(path)
            assert answer.status_code == 200, path
        assert (await ada.get("/v1/inbox?limit=1", headers={"If-None-Match": "*"})).status_code == 304
        assert not any(task.done() for task in further)
    assert all(number > 1 for number in await asyncio.gather(*further))


async def test_a_short_page_is_not_delayed_by_a_slow_reader(server: LocalServer) -> None:
    await fill(server, "ada", MANY)
    ada = await server.user()
    async with AsyncExitStack() as stack:
        await stalled(server, stack, ada)
        await server.service.notify_many("ada", 20)
        answer = await ada.get("/v1/inbox/changes", params={"since": MANY, "limit": 1000})
        assert numbers_of(answer.json()["items"]) == list(range(1, 21))


async def test_a_timed_out_client_releases_its_response_slot(start_server: StartServer) -> None:
    server = await start_server(body_timeout=0.5)
    await fill(server, "ada", MANY)
    ada = await server.user()
    async with AsyncExitStack() as stack:
        await stalled(server, stack, ada)
        assert await reads_long(server, ada) > 1


async def test_a_client_that_disconnects_while_waiting_takes_no_response_slot(server: LocalServer) -> None:
    await fill(server, "ada", MANY)
    ada = await server.user()
    slots = server.state.rate_limits.long_answers.of(await key_of(server, "ada"))
    async with slots, slots, asking(ada, CHANGES):
        await until(lambda: slots._waiters, "the answer waits")
    for _ in range(LONG_ANSWERS + 1):
        assert await reads_long(server, ada) > 1
    await until(lambda: slots._value == LONG_ANSWERS, "all slots are free")


async def test_concurrent_page_reads_of_one_user_are_limited_so_that_others_can_read(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob = await server.user(), await server.user("bob")
    begun: list[int] = []
    may_go_on = asyncio.Event()
    read = server.state.database.read

    async def waiting(work: Any, *args: Any) -> Any:
        # The background tasks read, too, without a size.
        if args in {(PAGE_BYTES,), (SLICE_BYTES,)}:
            begun.append(len(begun))
            await may_go_on.wait()
        return await read(work, *args)

    monkeypatch.setattr(server.state.database, "read", waiting)
    pages = [asyncio.create_task(ada.get("/v1/inbox/changes?limit=1000")) for _ in range(10)]
    await until(lambda: len(begun) == PAGE_READS, "the first pages are read")
    pages.append(asyncio.create_task(bob.get("/v1/inbox")))
    await until(lambda: len(begun) > PAGE_READS, "the other user's is read beside them")
    assert len(begun) == PAGE_READS + 1
    may_go_on.set()
    assert [answer.status_code for answer in await asyncio.gather(*pages)] == [200] * 11


async def key_of(server: LocalServer, sub: str) -> int:
    token = (await server.user(sub)).token
    assert token is not None
    principal: Any = await server.state.tokens.verify(token)
    number: int = principal.id
    return number


# --- what it counts as --------------------------------------------------------------------------------------


async def test_a_long_page_is_charged_before_it_is_read_and_the_unused_part_is_refunded(
    start_server: StartServer,
) -> None:
    server = await start_server(commands_per_second=0.001)
    commands = server.state.rate_limits.commands
    ada, key = await server.user(), await key_of(server, "ada")
    await fill(server, "ada", MANY)

    def left() -> int:
        return round(commands.level(key))

    commands.charge(key, -1000)
    commands._burst = 1000
    slots = server.state.rate_limits.long_answers.of(key)
    async with slots, slots:
        asked = asyncio.create_task(reads_long(server, ada))
        await until(lambda: slots._waiters, "the answer waits")
        assert left() == 1000 - 1 - 1000 // MAX_PAGE
    await asked
    assert left() == 1000 - 1
    await server.service.notify_many("bob", 1000)
    bob, key = await server.user("bob"), await key_of(server, "bob")
    assert await reads_long(server, bob) == 1000
    assert left() == 1000 - 1 - 1000 // MAX_PAGE
