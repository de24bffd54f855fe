"""Killed in the middle of a change to a thousand inboxes: the next process finishes it by itself."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from gateway.database.database import Database, open_database
from gateway.database.models import EXPIRE, EXPIRED, REENTER, TOUCH, WITHDRAW, metadata
from tests.support.clients import GONE, Service
from tests.support.databases import settings_for
from tests.support.servers import Process, process, processes
from tests.support.waiting import until

MANY = [f"user {number}" for number in range(1000)]

ENDS = ("unsent", "expired")
KINDS = {"unsent": WITHDRAW, "edited": TOUCH, "notified again": REENTER, "expired": EXPIRE}


def now() -> int:
    return int(time.time() * 1000)


def under_way(connection: Connection) -> set[int]:
    """Return the kinds of the changes that have begun, and have steps left."""
    statement = "SELECT kind FROM due_work JOIN notifications ON notifications.id = notification_id"
    asked = f"{statement} WHERE kind IN ({WITHDRAW}, {TOUCH}, {REENTER})"
    return set(connection.scalars(text(f"{asked} OR (kind = {EXPIRE} AND state = {EXPIRED})")))


def expire_now(connection: Connection, identifier: str) -> None:
    connection.execute(
        text("UPDATE notifications SET expires_at = :now WHERE uuid = :id"),
        {"now": now(), "id": identifier},
    )
    connection.execute(
        text(
            f"UPDATE due_work SET due_at = :now WHERE kind = {EXPIRE}"
            " AND notification_id = (SELECT id FROM notifications WHERE uuid = :id)"
        ),
        {"now": now(), "id": identifier},
    )


def faults(connection: Connection) -> list[Any]:
    """Return the users whose counts or whose head differ from a recount of their items."""
    statement = """
        SELECT users.sub, last_seq, unread, unseen, count(*), max(items.seq),
               sum(CASE WHEN deleted_at IS NULL AND read_at IS NULL AND archived_at IS NULL THEN 1 ELSE 0 END)
        FROM users JOIN items ON items.user_id = users.id
        GROUP BY users.id, users.sub, last_seq, unread, unseen
        HAVING last_seq <> max(items.seq) OR unread <> unseen OR unread <>
               sum(CASE WHEN deleted_at IS NULL AND read_at IS NULL AND archived_at IS NULL THEN 1 ELSE 0 END)
    """
    return list(connection.execute(text(statement)).all())


def everything(connection: Connection) -> str:
    return repr([connection.execute(table.select()).all() for table in metadata.sorted_tables])


def items_of(identifier: str) -> Callable[[Connection], Counter[tuple[Any, ...]]]:
    """Return a unit of work that counts the items of a notification by why they were deleted."""
    statement = text(
        "SELECT items.deleted_reason, notifications.title FROM items"
        " JOIN notifications ON notifications.id = notification_id WHERE uuid = :id"
    )
    return lambda connection: Counter(
        tuple(row) for row in connection.execute(statement, {"id": identifier}).all()
    )


def heads(connection: Connection) -> set[int]:
    return set(connection.scalars(text("SELECT last_seq FROM users")))


async def ask(service: Service, method: str, identifier: str, **members: Any) -> None:
    """Ask for a change, whose answer never comes."""
    with suppress(*GONE):
        await service.request(method, f"/v1/notifications/{identifier}", json=members or None)


async def change_and_kill(
    gateway: Process, service: Service, database: Database, ids: dict[str, str], title: str
) -> set[str]:
    """Begin all four changes, kill the gateway, and return those that it had not finished."""
    await database.write(expire_now, ids["expired"])
    await until(lambda: database.read(under_way), "the expiry has begun")
    asked = [
        asyncio.create_task(ask(service, "DELETE", ids["unsent"])),
        asyncio.create_task(ask(service, "PATCH", ids["edited"], title=title)),
        asyncio.create_task(ask(service, "PATCH", ids["notified again"], title=title, renotify=True)),
    ]

    async def all_begun() -> bool:
        kinds = await database.read(under_way)
        return len(kinds) >= 3 or all(one.done() for one in asked)

    await until(all_begun, "the changes have begun")
    gateway.kill()
    await asyncio.gather(*asked)
    kinds = await database.read(under_way)
    return {name for name, kind in KINDS.items() if kind in kinds}


async def finished(database: Database) -> bool:
    return not await database.read(under_way)


async def changes_done(database: Database, ids: dict[str, str], old: dict[str, str], new: str) -> list[str]:
    """Return the changes that have been made, each of which must have been made for everybody."""
    done = []
    for name, identifier in ids.items():
        found = await database.read(items_of(identifier))
        changed = {(name, ""): 1000} if name in ENDS else {(None, new): 1000}
        assert found in (changed, {(None, old[name]): 1000}), name
        if found == changed:
            done.append(name)
    return done


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.soak)])
async def test_a_change_to_a_thousand_inboxes_is_finished_after_kill_9(
    database_url: str, tmp_path: Path, rounds: int, record_property: Callable[[str, object], None]
) -> None:
    interrupted: Counter[str] = Counter()
    longest = 0.0
    async with AsyncExitStack() as stack:
        gateway, server = await stack.enter_async_context(process(database_url, tmp_path))
        database = await stack.enter_async_context(open_database(settings_for(database_url)))
        for turn in range(rounds):
            old = {name: f"horse {name} {turn} battery" for name in KINDS}
            ids = {
                name: (await server.service.notify(MANY, title, ttl=100_000))["id"]
                for name, title in old.items()
            }
            (head,) = await database.read(heads)
            new = f"staple {turn}"
            interrupted.update(await change_and_kill(gateway, server.service, database, ids, new))
            await gateway.start()
            began = time.monotonic()
            await until(lambda: finished(database), "the changes are finished")
            longest = max(longest, time.monotonic() - began)
            done = await changes_done(database, ids, old, new)
            # One number each for every change, for everybody alike.
            assert await database.read(heads) == {head + len(done)}
            assert await database.read(faults) == []
            stored = await database.read(everything)
            assert [name for name in done if old[name] in stored] == []
    record_property("interrupted", dict(interrupted))
    record_property("longest", longest)
    assert interrupted, "each change was finished before the process was killed"


async def test_the_living_process_delivers_when_the_other_one_is_killed(
    postgres_url: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async with (
        processes(2, postgres_url, tmp_path) as ((first, one), (second, other)),
        open_database(settings_for(postgres_url)) as database,
    ):
        ada = await other.user()
        begun = 0
        for gateway, server in ((first, one), (second, other)):
            if not gateway.runs:
                continue
            posts = [
                {"to": ["ada", f"user {number % 9}"], "title": str(number), "deliver_at": moment(1)}
                for number in range(300)
            ]
            answer = await server.service.post("/v1/notifications/batch", json=posts)
            assert answer.status_code == 201, answer.text
            begun += 300
            if gateway is first:
                await until(lambda: some_left(database), "some are delivered")
                first.kill()

            async def all_there(wanted: int = begun) -> bool:
                return bool((await ada.inbox(limit=1))["seq"] == wanted)

            await until(all_there, "all are delivered")
            assert await database.read(faults) == []
        page = await ada.inbox(limit=1)
        assert (page["seq"], page["unread"]) == (600, 600)
        record_property("delay_ms", await database.read(longest_delay))


async def some_left(database: Database) -> bool:
    """Whether some are delivered, and most likely not all."""
    return await database.read(number_of_items) > 0


def number_of_items(connection: Connection) -> int:
    number: int = connection.execute(text("SELECT count(*) FROM items")).scalar_one()
    return number


def longest_delay(connection: Connection) -> int:
    found: int = connection.execute(
        text("SELECT max(created_at - deliver_at) FROM notifications WHERE deliver_at IS NOT NULL")
    ).scalar_one()
    return found


def moment(seconds: float) -> str:
    """Return a time so many seconds ahead."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + seconds)) + ".500Z"
