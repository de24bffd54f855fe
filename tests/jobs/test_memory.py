"""Memory that is free again."""

import asyncio
import gc
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import pytest

from gateway.api.body import read_json
from gateway.jobs import memory
from gateway.protocol import items
from gateway.protocol.items import Content, Item, encode_item
from tests.support.databases import API_KEY
from tests.support.servers import LocalServer
from tests.support.waiting import PATIENCE, until

PROGRAM = """
import os
import sys
from gateway.jobs.memory import Memory

number = int(sys.argv[1])

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

memory = Memory()
memory.look()
before = rss()
held = [os.urandom(60_000) for _ in range(number)]
pin = os.urandom(60_000)
peak = rss()
memory.look()
del held
kept = rss()
size = number * 60_000
print(
    memory.look(),
    memory.look(),
    peak - before > size * 0.8,
    kept - before > size * 0.8,
    rss() - before < size * 0.2,
)
"""


@pytest.mark.parametrize("number", [100, 2_000], ids=["6 MB", "120 MB"])
def test_free_memory_below_memory_in_use_is_returned_once(number: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(number)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.stdout.split() == ["True", "False", "True", "True", "True"], ran.stderr


MAPPED = """
from gateway.api.body import read_json
from gateway.jobs import memory

def mapped():
    return memory.Memory()._read().hblkhd

memory.limit_holes()
bytes(16 * 1024 * 1024)
before = mapped()
held = bytes(1024 * 1024)
print(mapped() - before >= 1024 * 1024)
del held
print(mapped() == before)
"""


def test_a_large_block_is_returned_after_a_larger_block_was_freed() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", MAPPED], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.stdout.split() == ["True", "True"], ran.stderr


def request_of(method: str, path: str, bearer: str, body: bytes = b"", fields: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {bearer}\r\n{fields}"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


TOO_MUCH = {"to": "ada", "title": "x", "data": {"x": "y" * 20_000}}
REFUSED = [
    pytest.param("/v1/notifications", TOO_MUCH, 422, id="a post"),
    pytest.param("/v1/notifications/batch", [TOO_MUCH], 422, id="a batch"),
    pytest.param("/v1/notifications/batch", [{"to": "ada"}], 422, id="a member of a batch that is not there"),
    pytest.param("/v1/inbox/read", {"ids": ["x"] * 1001}, 422, id="too many ids"),
    pytest.param("/v1/inbox/read", {}, 422, id="neither of two members"),
    pytest.param("/v1/inbox/x", {"read": None}, 422, id="no change"),
    pytest.param("/v1/nowhere", {}, 404, id="an unknown path"),
    pytest.param("/v1/users", {}, 403, id="a scope that is not there"),
]


async def answered(server: LocalServer, request: bytes) -> int:
    """Send a request on a connection of its own, and return the status of the answer."""
    connections = server.uvicorn.server_state.connections
    others = set(connections)
    host, _, port = server.base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        async with asyncio.timeout(PATIENCE):
            return int((await reader.readuntil(b"\r\n")).split()[1])
    finally:
        writer.transport.abort()
        await until(lambda: connections <= others, "it is gone")


async def traces_left_by(server: LocalServer, request: bytes, status: int) -> list[str]:
    """Return where the errors were raised that only a collector of cycles frees behind a request."""
    assert await answered(server, request) == status
    gc.collect()
    gc.disable()
    try:
        assert await answered(server, request) == status
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return [one.tb_frame.f_code.co_qualname for one in gc.garbage if isinstance(one, TracebackType)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize(("path", "body", "status"), REFUSED)
async def test_a_refused_request_leaves_no_error_in_a_reference_cycle(
    server: LocalServer, path: str, body: object, status: int
) -> None:
    """It would keep the whole body until the collector runs, which is seldom."""
    ada = await server.user()
    assert ada.token is not None
    bearer = ada.token if path.startswith("/v1/inbox") or path == "/v1/users" else API_KEY
    method = "PATCH" if path == "/v1/inbox/x" else "POST"
    request = request_of(method, path, bearer, json.dumps(body).encode())
    assert await traces_left_by(server, request, status) == []


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param("X: y\r\n" * 101, 431, id="too many fields"),
        pytest.param("Host: another\r\n", 400, id="two hosts"),
        pytest.param("X\x00: y\r\n", 400, id="no field"),
    ],
)
async def test_a_refused_request_head_leaves_no_error_in_a_reference_cycle(
    server: LocalServer, fields: str, status: int
) -> None:
    request = request_of("GET", "/v1/inbox", "none", fields=fields)
    assert await traces_left_by(server, request, status) == []


async def test_encoded_contents_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """256 of them may take 11 MiB."""
    monkeypatch.setattr(memory, "CHECK_SECONDS", 0)
    encode_item(Item(Content("x", "x", None, "x", "normal", None, None, 0), 1, 1))
    kept = items._encode_new.cache_info
    assert kept().currsize
    job = asyncio.create_task(memory.Memory().run())
    try:
        await until(lambda: not kept().currsize, "they are freed")
    finally:
        job.cancel()


CACHES = """
import asyncio
import sys
from sqlalchemy import func, make_url, select, text
from gateway.database import sqlite
from gateway.api.body import read_json
from gateway.jobs import memory

SIZE = 4 * 1024 * 1024

def used():
    return memory.Memory()._read().uordblks

def fill(connection):
    connection.execute(text("CREATE TABLE blobs (blob)"))
    for _ in range(SIZE // 4000):
        connection.execute(text("INSERT INTO blobs VALUES (randomblob(4000))"))

def read(connection):
    connection.execute(text("SELECT count(*), sum(length(hex(blob))) FROM blobs")).all()

async def main():
    database = sqlite.SqliteDatabase(make_url(f"sqlite:///{sys.argv[1]}"))
    before = used()
    await database.write(fill)
    readers = [database._readers.connect() for _ in range(sqlite.SQLITE_READERS)]
    for reader in readers:
        read(reader)
        reader.close()
    await database.lookup(read)
    cached = used() - before
    await database.free_caches()
    print(cached // SIZE >= sqlite.SQLITE_READERS + 2, used() - before < SIZE // 2)
    database.close()

memory.limit_holes()
asyncio.run(main())
"""


def test_the_page_caches_of_every_connection_are_freed(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CACHES, str(tmp_path / "gateway.db")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout.split() == ["True", "True"], ran.stderr


def test_the_values_of_a_body_are_not_cached() -> None:
    """The cache of the parser takes a mebibyte, is never freed, and lies between memory that is."""
    first, second = (read_json(b'["a value"]') for _ in range(2))
    assert first == second
    assert first[0] is not second[0]
