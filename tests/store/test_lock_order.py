"""On Postgres, transactions that change the same notifications wait for each other, and never in a circle."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from sqlalchemy import Connection, Table, event, func, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.util import await_only

from gateway.auth import users
from gateway.auth.erasure import erase_some
from gateway.database.database import Database, open_database
from gateway.database.models import collapse_keys, items, scheduled_recipients
from gateway.jobs.retention import trim
from gateway.store.arrivals import Options, Post
from gateway.store.changes import ItemUpdate
from gateway.store.lifecycle import Edit, Withdrawal
from gateway.store.transaction import Submission
from tests.support.databases import settings_for
from tests.support.engine import Engine, Gate
from tests.support.postgres import Postgres
from tests.support.transactions import batch, meet, waits_or_ends
from tests.support.waiting import until

FAR = 10**14
DAY_MS = 24 * 60 * 60 * 1000


@pytest.fixture
async def opened(postgres: Postgres, postgres_url: str) -> AsyncIterator[Database]:
    """A database in which no deadlock may happen."""
    async with open_database(settings_for(postgres_url)) as database:
        yield database
    async with postgres.connected() as connection:
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = $1"
        name = make_url(postgres_url).database
        # A backend may report what it has counted only when it ends.
        assert await connection.fetchval(deadlocks, name) == 0


@pytest.fixture
async def engine(opened: Database, postgres_url: str) -> AsyncIterator[Engine]:
    engine = Engine(settings_for(postgres_url), opened)
    async with engine.writer.running():
        yield engine


def scheduled(engine: Engine, *to: str, key: str | None = None) -> Post:
    return engine.post(*to)._replace(options=Options(deliver_at=FAR, collapse_key=key))


def withdrawal(post: Post) -> Withdrawal:
    return Withdrawal(1, None, post.content.id)


def rows_of(table: Table) -> Callable[[Connection], int]:
    count = select(func.count()).select_from(table)
    return lambda connection: int(connection.execute(count).scalar_one())


async def test_a_replacement_and_a_cancellation_of_one_wait_for_each_other(
    engine: Engine, opened: Database
) -> None:
    earlier = scheduled(engine, "ada", key="k")
    await engine.store(earlier)
    later = scheduled(engine, "ada", key="k")
    replacing = batch(Submission((later,), "{}"))
    await meet(opened, replacing, "DELETE FROM scheduled_recipients", batch(withdrawal(earlier)))
    assert await opened.read(rows_of(scheduled_recipients)) == 1


async def test_an_erasure_and_a_cancellation_of_one_wait_for_each_other(
    engine: Engine, opened: Database
) -> None:
    ada = await engine.user()
    post = scheduled(engine, "ada", "bob")
    await engine.store(post)
    await opened.write(users.release_user, "ada", 0)

    def erase(connection: Connection) -> None:
        erase_some(connection, ada.id)

    await meet(opened, erase, "DELETE FROM scheduled_recipients", batch(withdrawal(post)))
    assert await opened.read(rows_of(scheduled_recipients)) == 0


async def test_changes_of_several_notifications_are_in_one_order(engine: Engine, opened: Database) -> None:
    one, other = engine.post("ada"), engine.post("bob")
    await engine.store(one, other)
    forth = batch(Edit(1, None, one.content.id, {"title": "a"}), withdrawal(other))
    back = batch(withdrawal(other), Edit(1, None, one.content.id, {"title": "b"}))
    await meet(opened, forth, "UPDATE notifications", back)


async def test_replacements_of_several_notifications_are_in_one_order(
    engine: Engine, opened: Database
) -> None:
    first, second = scheduled(engine, "ada", "cyd", key="a"), scheduled(engine, "bob", "dan", key="b")
    await engine.store(first, second)
    forth = [scheduled(engine, "ada", key="a"), scheduled(engine, "bob", key="b")]
    back = [scheduled(engine, "dan", key="b"), scheduled(engine, "cyd", key="a")]
    await meet(
        opened,
        batch(Submission(tuple(forth), "{}")),
        "INSERT INTO notifications",
        batch(Submission(tuple(back), "{}")),
    )
    assert await opened.read(rows_of(scheduled_recipients)) == 4


async def test_an_erasure_locks_all_notifications_of_a_step_in_one_order(
    engine: Engine, opened: Database
) -> None:
    ada = await engine.user()
    delivered, later = engine.post("ada", "bob"), scheduled(engine, "ada", "bob")
    await engine.store(delivered, later)
    await opened.write(users.release_user, "ada", 0)

    def erase(connection: Connection) -> None:
        erase_some(connection, ada.id)

    both = batch(Edit(1, None, delivered.content.id, {"title": "a"}), withdrawal(later))
    await meet(opened, erase, "SELECT notifications.id", both)


async def test_a_user_who_is_erased_and_named_again_is_created_before_others_are_locked(
    engine: Engine, opened: Database
) -> None:
    await engine.user("ada")
    await engine.user("bob")
    gate = Gate()
    posted, again = (batch(Submission((engine.post("ada", "bob"),), "{}")) for _ in range(2))

    def post(connection: Connection) -> None:
        def hold(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
            if statement.startswith("INSERT INTO users") and not gate.held:
                await_only(gate.hold())

        event.listen(connection, "before_cursor_execute", hold)
        posted(connection)

    def erase(connection: Connection) -> None:
        users.release_user(connection, "bob", 0)

    # The post has locked Ada, and waits for Bob, who is erased.
    meeting = asyncio.create_task(meet(opened, erase, "UPDATE users", post))
    await gate.reached()
    # It is about to create Bob. Another one does, and comes for Ada.
    other = asyncio.create_task(opened.write(again))
    await until(lambda: waits_or_ends(opened, other), "the other one waits for a lock, or ends")
    gate.let_go()
    await asyncio.gather(meeting, other)
    assert await opened.read(rows_of(items)) == 4


async def test_a_purge_forgets_the_collapse_keys_of_its_users(engine: Engine, opened: Database) -> None:
    """With the notification, whose other recipients it has not locked, it would wait for posts to these."""
    post = engine.post("ada", "bob")._replace(options=Options(collapse_key="k"))
    await engine.store(post)
    bob = await engine.user("bob")
    await engine.writer.change(ItemUpdate(bob.id, (post.content.id,), deleted=True))
    await opened.write(make_deletions_old)
    assert await opened.write(trim, 2 * DAY_MS) is False
    assert await opened.read(rows_of(collapse_keys)) == 1
    assert await opened.read(rows_of(items)) == 1


def make_deletions_old(connection: Connection) -> None:
    connection.execute(update(items).where(items.c.deleted_at.is_not(None)).values(deleted_at=0))
