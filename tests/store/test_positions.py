"""Positions: the rows of users that another transaction changes during the wait for their locks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from itertools import count
from typing import TypeVar

import asyncpg
import pytest
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from gateway.database.database import Database, open_database
from gateway.store import positions
from gateway.store.changes import Changed, ItemUpdate
from gateway.store.positions import Positions
from tests.support.databases import settings_for
from tests.support.engine import Engine
from tests.support.postgres import Postgres
from tests.support.waiting import until

T = TypeVar("T")

COUNTED = """
CREATE FUNCTION jsonb_array_elements_text(jsonb) RETURNS TABLE (value text) LANGUAGE plpgsql ROWS 100 AS $$
BEGIN
    PERFORM nextval('unpackings');
    RETURN QUERY SELECT pg_catalog.jsonb_array_elements_text($1);
END $$
"""
"""A function in the place of the one that unpacks the names and the keys of users: it counts its calls."""

FEW, MANY = 2, 50


@pytest.fixture
async def other(postgres: Postgres, postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of another process, on a database that counts how often a parameter is unpacked."""
    name = make_url(postgres_url).database
    async with postgres.connected(name) as connection:
        await connection.execute("CREATE SEQUENCE unpackings")
        await connection.execute(COUNTED)
        # The functions of Postgres come first otherwise, named or not.
        await connection.execute(f"ALTER DATABASE {name} SET search_path TO public, pg_catalog")
        yield connection


@pytest.fixture
async def database(other: asyncpg.Connection, postgres_url: str) -> AsyncIterator[Database]:
    async with open_database(settings_for(postgres_url)) as opened:
        yield opened


def lock(connection: Connection, subs: list[str], ids: list[int]) -> list[int]:
    """Lock users, and return their keys."""
    return list(positions.lock(connection, subs, ids, 0).by_id)


async def while_users_change(other: asyncpg.Connection, work: Awaitable[T]) -> T:
    """Do what locks users while `other` changes all of them, and return what it has come to."""
    async with other.transaction():
        await other.execute("UPDATE users SET last_seq = last_seq + 1")
        locking = asyncio.ensure_future(work)

        async def waits() -> bool:
            blocked = (
                "SELECT EXISTS (SELECT FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)))"
            )
            found: bool = await other.fetchval(blocked)
            return found

        await until(waits, "it waits for the rows")
    return await locking


async def number_of(other: asyncpg.Connection) -> int:
    number: int = await other.fetchval("SELECT nextval('unpackings')")
    return number


@pytest.mark.parametrize("named", ["by sub", "by id"])
async def test_users_changed_during_a_lock_wait_are_not_unpacked_a_second_time(
    database: Database, other: asyncpg.Connection, named: str
) -> None:
    unpacked = []
    names = count()
    for number in (FEW, MANY):
        subs = [f"user-{next(names)}" for _ in range(number)]
        ids = await database.write(lock, subs, [])
        before = await number_of(other)
        wanted = (subs, []) if named == "by sub" else ([], ids)
        await while_users_change(other, database.write(lock, *wanted))
        unpacked.append(await number_of(other) - before - 1)
    # Once for the subs, and once for the ids.
    assert unpacked == [2, 2]


@pytest.mark.parametrize("named", ["by sub", "by id"])
async def test_no_user_changed_during_a_lock_wait_is_left_out(
    database: Database, other: asyncpg.Connection, named: str
) -> None:
    subs = [f"user-{number}" for number in range(MANY)]
    ids = await database.write(lock, subs, [])
    wanted = (subs, []) if named == "by sub" else ([], ids)
    found = await while_users_change(other, database.write(Positions, *wanted))
    assert {user_id: position.seq for user_id, position in found.by_id.items()} == dict.fromkeys(ids, 1)


async def test_changes_of_two_users_wait_for_another_process_and_are_both_made(
    database: Database, other: asyncpg.Connection, postgres_url: str
) -> None:
    engine = Engine(settings_for(postgres_url), database)
    async with engine.writer.running():
        users = [await engine.user(sub) for sub in ("ada", "bob")]
        post = engine.post("ada", "bob")
        await engine.store(post)
        marks = [ItemUpdate(user.id, (post.content.id,), read=True) for user in users]

        async def change_both() -> list[Changed]:
            return await asyncio.gather(*(engine.writer.change(mark) for mark in marks))

        changed = await while_users_change(other, change_both())
    assert [one.counts.unread for one in changed] == [0, 0]
    # 1 is the post and 2 is what the other process did.
    assert [one.counts.seq for one in changed] == [3, 3]


async def test_a_user_who_is_named_twice_has_one_position(database: Database) -> None:
    [user_id] = await database.write(lock, ["ada"], [])

    def lock_twice(connection: Connection) -> bool:
        locked = positions.lock(connection, ["ada"], [user_id], 0)
        return locked.by_sub["ada"] is locked.by_id[user_id] and len(locked.by_id) == 1

    assert await database.write(lock_twice)
