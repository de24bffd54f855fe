"""The write-ahead log of SQLite stays bounded, also while reads overlap without a pause."""

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from gateway.database import turns, wal
from gateway.database.database import Database, open_database
from gateway.database.wal import WriteAheadLog
from tests.support.databases import settings_for

LIMIT = 256 * 1024
BLOB = 64 * 1024


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(wal, "MAX_BYTES", LIMIT)
    monkeypatch.setattr(wal, "RETRY_BYTES", BLOB)
    return tmp_path / "gateway.db"


def size_of(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


def create(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE blobs (value BLOB)"))


def write(connection: Connection) -> None:
    connection.execute(text("DELETE FROM blobs"))
    connection.execute(text("INSERT INTO blobs VALUES (zeroblob(:size))"), {"size": BLOB})


def read(connection: Connection) -> None:
    connection.execute(text("SELECT count(*) FROM blobs")).scalar_one()
    time.sleep(0.01)


async def read_without_a_pause(database: Database, caller: int, stop: asyncio.Event) -> None:
    turns.caller.set(caller)
    while not stop.is_set():
        await asyncio.gather(database.read(read), database.read(read))


async def test_continuously_overlapping_reads_do_not_let_the_wal_grow(path: Path) -> None:
    async with open_database(settings_for(f"sqlite:///{path}")) as database:
        await database.write(create)
        stop = asyncio.Event()
        readers = [asyncio.create_task(read_without_a_pause(database, one, stop)) for one in range(3)]
        sizes = []
        for _ in range(200):
            await database.write(write)
            sizes.append(size_of(path))
        stop.set()
        await asyncio.gather(*readers)
    assert len([size for size in sizes if size < LIMIT]) > 20
    assert max(sizes) < 20 * LIMIT, "200 writes are 50 times the limit"


def filled(path: Path) -> sqlite3.Connection:
    writer = sqlite3.connect(path, isolation_level=None)
    writer.executescript(
        "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE blobs (value)"
    )
    while size_of(path) <= LIMIT:
        writer.execute("INSERT INTO blobs VALUES (zeroblob(?))", (BLOB,))
    return writer


def test_the_wait_for_an_endless_read_doubles_each_time(path: Path) -> None:
    writer, reader = filled(path), sqlite3.connect(path, isolation_level=None)
    log, waits = WriteAheadLog(path), []
    writer.execute("PRAGMA busy_timeout = 1234")
    assert log.is_due()
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM blobs").fetchone()
    for _ in range(2):
        waits.append(log.wait_ms)
        log.restart(writer)
        assert not log.is_due(), "it has not grown since"
        writer.execute("INSERT INTO blobs VALUES (zeroblob(?))", (2 * BLOB,))
        assert log.is_due()
    reader.execute("COMMIT")
    log.restart(writer)
    assert waits == [wal.FIRST_WAIT_MS, 2 * wal.FIRST_WAIT_MS]
    assert (size_of(path), log.is_due(), log.wait_ms) == (0, False, wal.FIRST_WAIT_MS)
    assert writer.execute("PRAGMA busy_timeout").fetchone() == (1234,)
    for connection in (reader, writer):
        connection.close()


def test_no_checkpoint_is_due_without_a_wal(tmp_path: Path) -> None:
    assert not WriteAheadLog(tmp_path / "gateway.db").is_due()
