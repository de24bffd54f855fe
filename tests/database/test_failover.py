"""A fail-over of Postgres: what takes no writes is not kept, and check and readyz ask for a write."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

from gateway import cli
from gateway.backplane import Receiver
from gateway.backplane.postgres import PostgresBackplane
from gateway.database.database import open_database, takes_writes
from gateway.database.postgres import PostgresDatabase
from gateway.errors import Unavailable
from tests.support.databases import API_KEY, prepare, settings_for
from tests.support.postgres import Postgres, new_name, own_postgres
from tests.support.proxy import proxy_to
from tests.support.servers import serving
from tests.support.waiting import until

Said = Callable[..., tuple[int, str]]


def read_only(postgres: Postgres, url: str) -> str:
    return f"ALTER DATABASE {url.rsplit('/', 1)[1]} SET default_transaction_read_only = on"


def read_write(url: str) -> str:
    return f"ALTER DATABASE {url.rsplit('/', 1)[1]} RESET default_transaction_read_only"


def add(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE IF NOT EXISTS of_a_test ()"))


def is_old(connection: Connection) -> bool:
    return bool(connection.scalar(text("SELECT current_setting('default_transaction_read_only') = 'on'")))


async def test_the_first_refused_write_closes_all_earlier_connections(
    postgres: Postgres, postgres_url: str
) -> None:
    await postgres.execute(read_only(postgres, postgres_url))
    async with open_database(settings_for(postgres_url, database_pool_size=4)) as database:
        assert isinstance(database, PostgresDatabase)
        held = database.engines
        opened = [await engine.connect() for engine in held for _ in range(2)]
        for one in opened:
            assert await one.run_sync(is_old)
            await one.close()
        # New sessions can write, as after the name has moved; the old ones stay open, and cannot.
        await postgres.execute(read_write(postgres_url))
        await database.write(add)
        for engine in held:
            async with engine.connect() as one, engine.connect() as other:
                assert not await one.run_sync(is_old)
                assert not await other.run_sync(is_old)


async def test_repeated_refused_writes_do_not_reconnect_to_a_read_only_server(
    postgres: Postgres, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.database.postgres.MIN_REFRESH_INTERVAL_SECONDS", 3600)
    await postgres.execute(read_only(postgres, postgres_url))
    async with open_database(settings_for(postgres_url)) as database:
        assert isinstance(database, PostgresDatabase)

        async def session() -> int:
            return int(await database.read(lambda one: one.scalar(text("SELECT pg_backend_pid()"))) or 0)

        for _ in range(2):
            with pytest.raises(Unavailable):
                await database.write(add)
        kept = await session()
        for _ in range(5):
            with pytest.raises(Unavailable):
                await database.write(add)
        assert await session() == kept


async def test_a_write_in_a_read_snapshot_closes_no_connection(postgres_url: str) -> None:
    async with open_database(settings_for(postgres_url)) as database:
        before = await database.read(lambda one: one.scalar(text("SELECT pg_backend_pid()")))
        with pytest.raises(Unavailable):
            await database.read(add)
        assert await database.read(lambda one: one.scalar(text("SELECT pg_backend_pid()"))) == before


async def test_readyz_is_503_while_writes_fail_and_posts_recover_without_a_restart(
    postgres: Postgres, postgres_url: str
) -> None:
    async with serving(settings_for(postgres_url)) as server:
        server.expected.append("not ready")
        assert (await server.http.get("/readyz")).status_code == 200
        await postgres.execute(read_only(postgres, postgres_url))
        name = postgres_url.rsplit("/", 1)[1]
        await postgres.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )

        async def readyz() -> int:
            return (await server.http.get("/readyz")).status_code

        async def is_ready() -> bool:
            return await readyz() == 200

        async def is_unready() -> bool:
            return await readyz() == 503

        await until(is_unready, "readyz says that nothing can be written", within=30)
        await postgres.execute(read_write(postgres_url))
        await until(is_ready, "readyz is well again", within=30)
        ada = {"to": "ada", "title": "After the fail-over"}
        headers = {"Authorization": f"Bearer {API_KEY}"}
        answer = await server.http.post("/v1/notifications", json=ada, headers=headers)
        assert answer.status_code == 201


async def test_posts_and_hints_move_to_the_new_server_while_the_old_one_stays_up_read_only(
    postgres: Postgres, postgres_url: str
) -> None:
    new = make_url(postgres_url)
    with own_postgres() as process:
        await process.server.execute(f"CREATE DATABASE {new.database}")
        await process.server.execute(f"ALTER ROLE postgres PASSWORD '{new.password}'")
        old = Postgres(process.server.url.set(password=new.password))
        await prepare(old.url_of(str(new.database)))
        async with proxy_to(old.url.port or 0) as name:
            behind = new.set(host="127.0.0.1", port=name.port).render_as_string(hide_password=False)
            async with serving(settings_for(behind, backplane_url="postgres")) as server:
                server.expected.append("not ready")

                async def readyz(status: int) -> bool:
                    return (await server.http.get("/readyz")).status_code == status

                async def is_posted() -> bool:
                    ada = {"to": "ada", "title": "x"}
                    return (await server.service.post("/v1/notifications", json=ada)).status_code == 201

                async def nobody_is_left() -> bool:
                    return await old.connections_to(str(new.database)) == 0

                assert await is_posted()
                await until(lambda: server.state.backplane.listening, "the backplane listens", within=30)
                await old.execute("ALTER SYSTEM SET default_transaction_read_only = on")
                await old.execute("SELECT pg_reload_conf()")
                await until(lambda: readyz(503), "readyz says that nothing can be written", within=30)
                assert not await is_posted()
                name.move(new.port or 0)
                await until(is_posted, "a post is taken", within=60)
                await until(lambda: readyz(200), "readyz is well again", within=30)
                await until(nobody_is_left, "no connection to the old server is left", within=60)
                await until(lambda: server.state.backplane.listening, "the backplane listens", within=30)


async def test_a_backplane_works_on_a_read_only_server_if_there_is_no_other(
    postgres: Postgres, empty_postgres_url: str
) -> None:
    await postgres.execute(read_only(postgres, empty_postgres_url))
    resumed: list[object] = []
    backplane = PostgresBackplane(empty_postgres_url, check_interval=0.2)
    running = asyncio.create_task(backplane.run(Receiver(print, print, resumed.append)))
    try:
        with structlog.testing.capture_logs() as events:
            await until(lambda: len(resumed) > 2, "it connects anew, and hears itself", within=30)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert events == []


async def test_the_write_check_of_readyz_fails_on_an_unwritable_sqlite_file(sqlite_url: str) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    async with open_database(settings_for(f"sqlite:///file:{path}?mode=ro&uri=true")) as database:
        with pytest.raises(Unavailable):
            await database.write(takes_writes)
    async with open_database(settings_for(sqlite_url)) as database:
        assert await database.write(takes_writes)


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """A function that runs a command in this process, and returns its exit code and what it says."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, url: str) -> tuple[int, str]:
        monkeypatch.setenv("GATEWAY_DATABASE_URL", url)
        code = cli.run(command.split())
        text = capsys.readouterr()
        return code, text.out + text.err

    return run


def test_check_reports_that_a_read_only_database_refuses_writes(
    postgres: Postgres, postgres_url: str, said: Said
) -> None:
    asyncio.run(postgres.execute(read_only(postgres, postgres_url)))
    code, text = said("check", postgres_url)
    assert (code, text.count("\n")) == (2, 1)
    assert "it refuses writes: it is read-only" in text


@pytest.mark.parametrize("command", ["check", "migrate", "user list", "token ada"])
def test_a_database_without_utf8_is_reported_in_one_line(
    postgres: Postgres, command: str, said: Said
) -> None:
    name = new_name()
    made = f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    asyncio.run(postgres.execute(made))
    try:
        code, text = said(command, postgres.url_of(name))
    finally:
        asyncio.run(postgres.execute(f"DROP DATABASE {name} WITH (FORCE)"))
    assert (code, text.count("\n")) == (2, 1)
    assert "its encoding is LATIN1, and must be UTF8" in text


@pytest.mark.parametrize("command", ["check", "migrate", "user list"])
def test_a_missing_create_privilege_is_reported_in_one_line(
    postgres: Postgres, empty_postgres_url: str, command: str, said: Said
) -> None:
    role, address = new_name(), empty_postgres_url.partition("@")[2]
    asyncio.run(postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'of-a-test'"))
    try:
        code, text = said(command, f"postgresql://{role}:of-a-test@{address}")
    finally:
        asyncio.run(postgres.execute(f"DROP ROLE {role}"))
    assert (code, text.count("\n")) == (2, 1)
    assert f"GRANT CREATE ON SCHEMA public TO {role}" in text
