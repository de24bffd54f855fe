"""Many scheduled for one second: all are delivered once and in order, and posts are answered."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from gateway.database.database import Database, open_database
from tests.support.clients import Service
from tests.support.databases import settings_for
from tests.support.servers import process
from tests.support.waiting import until

BATCH = 1000
USERS = 50


async def schedule(service: Service, number: int, due: datetime) -> None:
    """Schedule so many, due at a millisecond each of this second, the later ones first."""
    for start in range(0, number, BATCH):
        posts = []
        for turn in range(start, start + BATCH):
            moment = due + timedelta(milliseconds=(number - 1 - turn) * 1000 // number)
            posts.append({"to": f"user {turn % USERS}", "title": str(turn), "deliver_at": moment.isoformat()})
        answer = await service.post("/v1/notifications/batch", json=posts)
        assert answer.status_code == 201, answer.text


def left(connection: Connection) -> int:
    number: int = connection.execute(text("SELECT count(*) FROM due_work")).scalar_one()
    return number


def in_order(connection: Connection) -> bool:
    """Whether everybody got theirs in the order of their times."""
    found = connection.execute(
        text(
            "SELECT user_id, deliver_at FROM items JOIN notifications ON notifications.id = notification_id"
            " WHERE deliver_at IS NOT NULL ORDER BY user_id, created_seq"
        )
    ).all()
    return [tuple(row) for row in found] == sorted(tuple(row) for row in found)


def figures(connection: Connection) -> tuple[int, int, int]:
    """Return how many items there are, how many different ones, and the delay of the last one in ms."""
    row = connection.execute(
        text(
            "SELECT count(*), count(DISTINCT notification_id), max(created_at - deliver_at)"
            " FROM items JOIN notifications ON notifications.id = notification_id"
            " WHERE deliver_at IS NOT NULL"
        )
    ).one()
    return row[0], row[1], row[2]


async def post_until(done: asyncio.Event, service: Service) -> list[float]:
    """Post to somebody else all the time, and return how long the answers took."""
    waits = []
    while not done.is_set():
        began = time.monotonic()
        await service.notify("somebody else")
        waits.append(time.monotonic() - began)
    return sorted(waits)


async def all_delivered(database: Database) -> bool:
    return await database.read(left) == 0


@pytest.mark.parametrize(
    ("number", "ahead"), [(2_000, 5), pytest.param(100_000, 300, marks=pytest.mark.soak)]
)
async def test_all_that_is_scheduled_for_one_second_is_delivered_once_and_in_order(
    database_url: str,
    tmp_path: Path,
    number: int,
    ahead: int,
    record_property: Callable[[str, object], None],
) -> None:
    async with (
        process(database_url, tmp_path) as (_, server),
        open_database(settings_for(database_url)) as database,
    ):
        due = datetime.now(UTC) + timedelta(seconds=ahead)
        await schedule(server.service, number, due)
        done = asyncio.Event()
        posting = asyncio.create_task(post_until(done, server.service))
        await until(lambda: all_delivered(database), "all are delivered", within=ahead + 600)
        done.set()
        waits = await posting
        items, different, delay = await database.read(figures)
        assert (items, different) == (number, number)
        assert await database.read(in_order)
        record_property("posts", len(waits))
        record_property("p99_ms", round(waits[len(waits) * 99 // 100] * 1000))
        record_property("delay_ms", delay)
