"""The floor of bulk posts: the same rows, written with bare `sqlite3`, one transaction for each bulk.

The writer is a process of its own, like a server: `python -m benchmarks.floor URL BULK COUNT RECIPIENTS`
writes to the database at this URL and prints the figures. Tables, indexes and pragmas are the gateway's.
"""

import asyncio
import json
import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from benchmarks.audience import content
from benchmarks.process import run_on_server_core
from benchmarks.report import CPU, Figures
from gateway.database import schema
from gateway.database.database import open_database
from gateway.database.sqlite import BUSY_TIMEOUT_SECONDS, driver_of, open_engine
from gateway.protocol.encoding import dumps
from gateway.settings import load_settings

_ROOT = Path(__file__).parent.parent

Floor = Callable[[str, int, int], Awaitable[Figures]]
"""Writes a kind of bulk so many times to so many recipients, and returns the cost of an item."""


@asynccontextmanager
async def floor() -> AsyncIterator[Floor]:
    """Yield a function that writes to a new database: `await write(bulk, count, recipients)`."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        url = f"sqlite:///{folder}/floor.db"
        async with open_database(load_settings(database_url=url)) as database:
            await database.write(schema.upgrade)

        async def write(bulk: str, count: int, recipients: int) -> Figures:
            command = [sys.executable, "-m", "benchmarks.floor", url, bulk, str(count), str(recipients)]
            figures: Figures = json.loads(await asyncio.to_thread(run_on_server_core, command, _ROOT))
            return figures

        yield write


class _Writer:
    """Bulk posts to the same recipients. Like the gateway, it knows the heads of the recipients' logs."""

    def __init__(self, driver: sqlite3.Connection, recipients: int) -> None:
        self._driver = driver
        driver.execute("BEGIN")
        driver.executemany(
            "INSERT INTO users (sub, epoch, created_at) VALUES (?, 'floor', 0) ON CONFLICT DO NOTHING",
            [(f"floor-{number:05}",) for number in range(recipients)],
        )
        driver.execute("COMMIT")
        self._heads = driver.execute("SELECT id, last_seq FROM users ORDER BY id").fetchall()
        ((self._key,),) = driver.execute("SELECT coalesce(max(id), 0) FROM notifications").fetchall()
        self._texts = [
            (one["title"], one["body"], one["category"], dumps(one["data"]))
            for one in map(content, range(recipients))
        ]

    def post(self) -> None:
        """Write one post to all recipients."""
        self._write(self._texts[:1], [1] * len(self._heads), len(self._heads))

    def batch(self) -> None:
        """Write one post to each recipient."""
        self._write(self._texts, range(1, len(self._heads) + 1), 1)

    def _write(self, texts: Sequence[tuple[Any, ...]], numbers: Sequence[int], recipients: int) -> None:
        """Write these posts in one transaction; `numbers` says which of them each recipient gets."""
        now, first = time.time_ns() // 1_000_000, self._key
        self._heads = [(user_id, seq + 1) for user_id, seq in self._heads]
        self._key += len(texts)
        self._driver.execute("BEGIN IMMEDIATE")
        self._driver.executemany(
            "INSERT INTO notifications (id, uuid, service_id, title, body, category, priority, data,"
            " recipients, created_at) VALUES (?, ?, 1, ?, ?, ?, 'normal', ?, ?, ?)",
            [
                (first + number, _uuid(now, first + number), *text, recipients, now)
                for number, text in enumerate(texts, 1)
            ],
        )
        self._driver.executemany(
            "INSERT INTO items (user_id, created_seq, seq, notification_id) VALUES (?, ?, ?, ?)",
            [
                (user_id, seq, seq, first + number)
                for (user_id, seq), number in zip(self._heads, numbers, strict=True)
            ],
        )
        self._driver.executemany(
            "UPDATE users SET last_seq = ?, unread = ?, unseen = ? WHERE id = ?",
            [(seq, seq, seq, user_id) for user_id, seq in self._heads],
        )
        self._driver.execute("COMMIT")


def _uuid(now: int, number: int) -> str:
    """Return a UUIDv7, of which the numbers are in order, as those of the gateway."""
    return str(uuid.UUID(int=now << 80 | 7 << 76 | 2 << 62 | number))


def measure(url: str, bulk: str, count: int, recipients: int) -> Figures:
    """Write a kind of bulk, `post` or `batch`, so many times; return the cost of one item."""
    engine = open_engine(make_url(url), None, 1, BUSY_TIMEOUT_SECONDS)
    with engine.connect() as connection:
        writer = _Writer(driver_of(connection), recipients)
        write = writer.post if bulk == "post" else writer.batch
        cpu, began = time.process_time(), time.perf_counter()
        for _ in range(count):
            write()
        cpu, took = time.process_time() - cpu, time.perf_counter() - began
    engine.dispose()
    items = count * recipients
    return {CPU: cpu / items * 1e6, "a second": items / took}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
