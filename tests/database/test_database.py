"""Units of work on both databases: one snapshot, all or nothing, an honest answer when they cannot run."""

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import Connection, func, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.util import await_only

from gateway.auth import cutoffs, erasure, refresh_tokens, sessions, tickets, users
from gateway.auth import services as service_records
from gateway.database import sqlite
from gateway.database.database import Database, open_database
from gateway.database.models import services
from gateway.database.units import background, is_background
from gateway.errors import Unavailable
from gateway.jobs.retention import trim
from gateway.store import idempotency
from gateway.store.transaction import commit
from tests.support.databases import settings_for
from tests.support.postgres import Postgres, free_port
from tests.support.waiting import until


def add(connection: Connection, name: str = "one") -> None:
    values = {"client_id": name, "name": name, "scopes": "", "secret_hash": b"", "created_at": 0}
    connection.execute(insert(services).values(values))


def number(connection: Connection) -> int:
    """Count the services, without the one that every fresh database has."""
    found = select(func.count()).select_from(services).where(services.c.name != "tests")
    return connection.execute(found).scalar_one()


ADD_BEHIND_THE_BACK = (
    "INSERT INTO services (client_id, name, scopes, secret_hash, created_at) VALUES ('x', 'x', '', '', 0)"
)


def behind_the_back(database_url: str, statement: str) -> None:
    """Run one statement on a connection of its own, whatever this thread is in the middle of."""

    async def on_postgres() -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute(statement)
        await connection.close()

    def on_sqlite() -> None:
        connection = sqlite3.connect(database_url.removeprefix("sqlite:///"))
        with connection:
            connection.execute(statement)
        connection.close()

    run = on_sqlite if database_url.startswith("sqlite") else lambda: asyncio.run(on_postgres())
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


async def test_a_read_returns_an_earlier_write(database: Database) -> None:
    await database.write(add)
    assert await database.read(number) == 1


async def test_a_unit_of_work_takes_arguments_and_returns_its_value(database: Database) -> None:
    def work(_connection: Connection, left: str, *, right: str) -> str:
        return left + right

    assert await database.read(work, "a", right="b") == "ab"
    assert await database.write(work, "a", right="b") == "ab"


async def test_a_read_is_one_snapshot(database: Database, database_url: str) -> None:
    def twice(connection: Connection) -> tuple[int, int]:
        before = number(connection)
        behind_the_back(database_url, ADD_BEHIND_THE_BACK)
        return before, number(connection)

    assert await database.read(twice) == (0, 0)
    assert await database.read(number) == 1


async def test_a_read_may_not_write(database: Database) -> None:
    with pytest.raises((Unavailable, DBAPIError)):
        await database.read(add)
    assert await database.read(number) == 0


async def test_an_exception_in_a_unit_of_work_rolls_back_and_propagates(database: Database) -> None:
    def work(connection: Connection) -> None:
        add(connection)
        raise LookupError("changed my mind")

    with pytest.raises(LookupError, match="changed my mind"):
        await database.write(work)
    assert await database.read(number) == 0


async def test_a_constraint_violation_is_not_reported_as_unavailable(database: Database) -> None:
    await database.write(add)
    with pytest.raises(IntegrityError):
        await database.write(add)
    assert await database.read(number) == 1


async def test_a_database_error_contains_no_parameter_values(database: Database) -> None:
    await database.write(add, "a secret")
    with pytest.raises(IntegrityError) as caught:
        await database.write(add, "a secret")
    assert "INSERT INTO services" in str(caught.value)
    assert "a secret" not in str(caught.value)


async def test_many_units_of_work_at_once_all_run(database: Database) -> None:
    await asyncio.gather(*(database.write(add, f"service {index}") for index in range(20)))
    counts = await asyncio.gather(*(database.read(number) for _ in range(20)))
    assert counts == [20] * 20


async def test_cancelled_units_of_work_leak_no_postgres_connection(
    postgres: Postgres, postgres_url: str
) -> None:
    def sleep(connection: Connection) -> None:
        connection.execute(text("SELECT pg_sleep(60)"))

    async def sleeping() -> bool:
        async with postgres.connected() as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE query = $1 AND state = 'active'"
            return bool(await connection.fetchval(query, "SELECT pg_sleep(60)"))

    settings = settings_for(postgres_url, database_pool_size=2)
    async with open_database(settings) as database:
        for run in (database.read, database.write) * 3:
            task = asyncio.create_task(run(sleep))
            await until(sleeping, "the unit of work is under way")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.wait_for(database.write(add), 5)
        assert await asyncio.wait_for(database.read(number), 5) == 1


async def test_cancelled_units_of_work_leak_no_sqlite_connection(sqlite_url: str) -> None:
    def wait(_connection: Connection, started: threading.Event, go: threading.Event) -> None:
        started.set()
        go.wait(10)

    async with open_database(settings_for(sqlite_url)) as database:
        for run in (database.read, database.write) * 6:
            started, go = threading.Event(), threading.Event()
            task = asyncio.create_task(run(wait, started, go))
            await until(started.is_set, "the unit of work is under way")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go.set()
        await asyncio.wait_for(database.write(add), 5)
        assert await asyncio.wait_for(database.read(number), 5) == 1


async def test_a_new_sqlite_file_is_accessible_only_to_its_owner(tmp_path: Path) -> None:
    def permissions() -> dict[str, int]:
        return {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}

    before = os.umask(0o022)
    try:
        async with open_database(settings_for(f"sqlite:///{tmp_path / 'new.db'}")) as database:
            await database.write(lambda connection: connection.execute(text("CREATE TABLE t (x)")))
            assert permissions() == {"new.db": 0o600, "new.db-wal": 0o600, "new.db-shm": 0o600}
    finally:
        os.umask(before)


async def test_sqlite_syncs_every_commit_and_checks_foreign_keys(sqlite_url: str) -> None:
    def pragmas(connection: Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in names]

    async with open_database(settings_for(sqlite_url)) as database:
        assert await database.write(pragmas) == ["wal", 2, 1]


async def test_postgres_waits_for_every_commit_to_be_durable(postgres: Postgres, postgres_url: str) -> None:
    name = postgres_url.rsplit("/", 1)[1]
    await postgres.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")

    def setting(connection: Connection) -> str:
        return str(connection.execute(text("SHOW synchronous_commit")).scalar_one())

    async with open_database(settings_for(postgres_url)) as database:
        assert await database.write(setting) == "on"


async def test_a_locked_sqlite_file_is_unavailable_until_the_lock_is_released(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.05)
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    try:
        async with open_database(settings_for(sqlite_url)) as database:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable):
                await database.write(add)
            assert await database.read(number) == 0
            other.execute("ROLLBACK")
            await database.write(add)
            assert await database.read(number) == 1
    finally:
        other.close()


async def test_a_full_sqlite_file_is_unavailable_for_writing_but_still_readable(sqlite_url: str) -> None:
    def fill(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        add(connection, "x" * 100_000)

    async with open_database(settings_for(sqlite_url)) as database:
        with pytest.raises(Unavailable):
            await database.write(fill)
        assert await database.read(number) == 0


async def test_a_read_only_sqlite_file_is_unavailable_for_writing(sqlite_url: str) -> None:
    file = sqlite_url.removeprefix("sqlite:///")
    async with open_database(settings_for(f"sqlite:///file:{file}?mode=ro&uri=true")) as database:
        assert await database.read(number) == 0
        with pytest.raises(Unavailable):
            await database.write(add)


async def test_a_read_only_postgres_is_unavailable_for_writing(postgres: Postgres, postgres_url: str) -> None:
    name = postgres_url.rsplit("/", 1)[1]
    await postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with open_database(settings_for(postgres_url)) as database:
        assert await database.read(number) == 0
        with pytest.raises(Unavailable):
            await database.write(add)


async def test_an_unreachable_postgres_is_unavailable() -> None:
    nowhere = f"postgresql://postgres:secret@127.0.0.1:{free_port()}/postgres"
    async with open_database(settings_for(nowhere)) as database:
        with pytest.raises(Unavailable) as caught:
            await database.read(number)
    assert "secret" not in str(caught.value)


async def test_connections_terminated_by_postgres_are_replaced(postgres: Postgres, postgres_url: str) -> None:
    name = postgres_url.rsplit("/", 1)[1]
    async with open_database(settings_for(postgres_url, database_pool_size=2)) as database:
        await asyncio.gather(*(database.read(number) for _ in range(4)))
        async with postgres.connected() as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
            )
        await until(lambda: answers(lambda: database.read(number)), "the pool has healed")
        await until(lambda: answers(lambda: database.write(add, "two")), "the pool has healed")


async def answers(work: Callable[[], Awaitable[object]]) -> bool:
    """Whether `work` is done now; `Unavailable` is the only other outcome that is allowed."""
    try:
        await work()
    except Unavailable:
        return False
    return True


async def test_opening_a_new_file_waits_while_another_process_sets_it_up(tmp_path: Path) -> None:
    """SQLite waits for most locks by itself, but not for this one: 40 % of such starts failed at once."""
    file = tmp_path / "new.db"
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE theirs (id INTEGER)")
    async with open_database(settings_for(f"sqlite:///{file}")) as database:
        reading = asyncio.create_task(database.read(lambda connection: connection.scalar(text("SELECT 1"))))
        done, _ = await asyncio.wait({reading}, timeout=0.2)
        assert not done
        other.execute("COMMIT")
        assert await reading == 1
    other.close()


async def test_a_sign_in_waits_for_the_running_transaction_but_not_for_queued_posts(
    sqlite_url: str,
) -> None:
    """SQLite has one writer: what is marked as background, as posts are, lets the rest go first."""
    started, go = threading.Event(), threading.Event()
    done: list[str] = []

    @background
    def hold(_: Connection) -> None:
        started.set()
        go.wait(10)

    @background
    def post(_: Connection) -> None:
        done.append("post")

    def sign_in(_: Connection) -> None:
        done.append("sign-in")

    async with open_database(settings_for(sqlite_url)) as database:
        waiting = [asyncio.create_task(database.write(hold))]
        await until(started.is_set, "a transaction runs")
        waiting += [asyncio.create_task(database.write(work)) for work in (post, post, sign_in)]
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*waiting)
    assert done == ["sign-in", "post", "post"]


async def test_slow_pages_on_all_connections_do_not_delay_sign_ins(postgres_url: str) -> None:
    pages_go_on = asyncio.Event()
    reading: list[int] = []

    def page(_: Connection) -> None:
        reading.append(1)
        await_only(pages_go_on.wait())

    size = 3
    async with open_database(settings_for(postgres_url, database_pool_size=size)) as database:
        pages = [asyncio.create_task(database.read(page)) for _ in range(2 * size)]
        await until(lambda: len(reading) == size, "every connection of the pool is taken")
        async with asyncio.timeout(5):
            assert await database.lookup(number) == 0
            await asyncio.gather(*(database.write(add, f"service {index}") for index in range(5)))
        posts = asyncio.create_task(database.write(background(lambda _: None)))
        assert await database.lookup(number) == 5
        assert not any(task.done() for task in [*pages, posts])
        pages_go_on.set()
        await asyncio.gather(*pages, posts)


@pytest.mark.parametrize(
    "work",
    [
        commit,
        trim,
        sessions.sweep,
        tickets.sweep,
        cutoffs.sweep,
        erasure.sweep,
        erasure.erase_some,
        idempotency.sweep,
    ],
    ids=lambda work: f"{work.__module__}.{work.__name__}",
)
def test_posts_and_retention_run_as_background_work(work: Callable[..., object]) -> None:
    assert is_background(work)


@pytest.mark.parametrize(
    "work",
    [
        users.log_out,
        users.update_user,
        users.release_user,
        sessions.start_user_session,
        tickets.add_ticket,
        tickets.redeem_ticket,
        refresh_tokens.refresh,
        refresh_tokens.revoke,
        service_records.delete_service,
        service_records.delete_key,
        service_records.add_key,
    ],
    ids=lambda work: work.__name__,
)
def test_sign_in_and_sign_out_do_not_run_as_background_work(work: Callable[..., object]) -> None:
    assert not is_background(work)
