"""The migrations, on both databases."""

import ast
import asyncio
import hashlib
import subprocess
import sys

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from gateway.auth import cutoffs
from gateway.auth.users import log_out
from gateway.database import schema
from gateway.database.database import open_database
from gateway.database.models import metadata
from tests.support.databases import settings_for

EVERY_TABLE = set(metadata.tables)


def config_for(connection: Connection) -> Config:
    config = schema.alembic_config()
    config.attributes["connection"] = connection
    return config


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names()) - {"alembic_version"}


def test_the_earlier_revisions_match_alembic() -> None:
    scripts = ScriptDirectory.from_config(schema.alembic_config())
    (newest,) = scripts.get_heads()
    assert schema.earlier() == {one.revision for one in scripts.walk_revisions()} - {newest}


def test_a_gateway_on_sqlite_serves_without_loading_alembic_or_an_orm() -> None:
    code = "import sys, gateway.app, gateway.server.run; print([*sys.modules])"
    loaded = ast.literal_eval(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert {"alembic", "mako", "sqlalchemy.orm", "asyncpg", "redis", "zxcvbn"}.isdisjoint(loaded)


async def test_an_empty_database_has_a_pending_migration_until_it_is_upgraded(
    empty_database_url: str,
) -> None:
    async with open_database(settings_for(empty_database_url)) as database:
        assert await database.read(schema.pending)
        await database.write(schema.upgrade)
        assert not await database.read(schema.pending)
        assert await database.read(tables) == EVERY_TABLE


async def test_migrating_again_changes_nothing(empty_database_url: str) -> None:
    async with open_database(settings_for(empty_database_url)) as database:
        await database.write(schema.upgrade)
        await database.write(schema.upgrade)
        assert await database.read(tables) == EVERY_TABLE


async def test_the_schema_of_a_newer_version_is_left_unchanged(empty_database_url: str) -> None:
    def upgrade_as_a_newer_version(connection: Connection) -> None:
        connection.execute(text("UPDATE alembic_version SET version_num = 'newer'"))

    async with open_database(settings_for(empty_database_url)) as database:
        await database.write(schema.upgrade)
        await database.write(upgrade_as_a_newer_version)
        assert not await database.read(schema.pending)
        # Another process may have upgraded while this one waited for the lock.
        await database.write(schema.upgrade)
        assert await database.read(tables) == EVERY_TABLE


async def test_the_migrations_make_exactly_the_tables_of_the_models(empty_database_url: str) -> None:
    def check(connection: Connection) -> None:
        command.check(config_for(connection))

    async with open_database(settings_for(empty_database_url)) as database:
        await database.write(schema.upgrade)
        await database.write(check)


async def test_the_migrations_can_be_reverted_and_reapplied(empty_database_url: str) -> None:
    def downgrade(connection: Connection) -> None:
        command.downgrade(config_for(connection), "base")

    async with open_database(settings_for(empty_database_url)) as database:
        await database.write(schema.upgrade)
        await database.write(downgrade)
        assert await database.read(tables) == set()
        await database.write(schema.upgrade)
        assert await database.read(tables) == EVERY_TABLE


async def test_two_processes_may_migrate_at_once(empty_database_url: str) -> None:
    settings = settings_for(empty_database_url)
    async with open_database(settings) as one, open_database(settings) as other:
        await asyncio.gather(one.write(schema.upgrade), other.write(schema.upgrade))
        assert await one.read(tables) == EVERY_TABLE


async def test_token_cutoffs_survive_the_upgrade_and_the_downgrade(empty_database_url: str) -> None:
    def insert_as_0004(connection: Connection) -> None:
        command.upgrade(config_for(connection), "0004")
        connection.execute(text("INSERT INTO users (id, sub, created_at, epoch) VALUES (7, 'ada', 1, 'e')"))
        session = "INSERT INTO sessions (id, user_id, created_at, expires_at, ended_at) VALUES "
        connection.execute(text(session + f"('{mark_of('ada')}', 7, 5, 9, 5), ('x-ab', 7, 2, 9, 5)"))

    def table(connection: Connection) -> list[tuple[str, int, int]]:
        return [tuple(row) for row in connection.execute(text("SELECT * FROM token_cutoffs"))]

    def marks(connection: Connection) -> list[tuple[str, int]]:
        statement = "SELECT id, created_at FROM sessions WHERE id LIKE 'x-m%' ORDER BY created_at"
        return [tuple(row) for row in connection.execute(text(statement))]

    async with open_database(settings_for(empty_database_url)) as database:
        await database.write(insert_as_0004)
        await database.write(schema.upgrade)
        assert await database.read(table) == [(mark_of("ada")[3:], 5, 9)]
        assert await database.read(cutoffs.ended_at, "ada") == 5
        await database.write(log_out, "ada", 6)
        await database.write(lambda connection: command.downgrade(config_for(connection), "0004"))
        assert await database.read(marks) == [(mark_of("ada"), 6)]
        await database.write(schema.upgrade)
        assert await database.read(cutoffs.ended_at, "ada") == 6


def mark_of(sub: str) -> str:
    return "x-m" + hashlib.sha256(sub.encode()).hexdigest()[:29]


async def test_the_newest_item_of_a_collapse_key_survives_the_upgrade_and_the_downgrade(
    empty_database_url: str,
) -> None:
    def insert_as_0006(connection: Connection) -> None:
        command.upgrade(config_for(connection), "0006")
        connection.execute(text("INSERT INTO users (id, sub, created_at, epoch) VALUES (7, 'ada', 1, 'e')"))
        for key in (1, 2):
            connection.execute(
                text(
                    "INSERT INTO notifications (id, uuid, service_id, title, category, priority, recipients,"
                    " created_at) VALUES (:key, :uuid, 3, 't', 'default', 'normal', 1, 1)"
                ),
                {"key": key, "uuid": f"0000000{key}-0000-7000-8000-000000000000"},
            )
        connection.execute(text("INSERT INTO collapse_keys VALUES (7, 3, 'build', 1)"))

    def table(connection: Connection) -> list[tuple[int, int, str, int]]:
        statement = "SELECT * FROM collapse_keys ORDER BY notification_id"
        return [tuple(row) for row in connection.execute(text(statement))]

    async with open_database(settings_for(empty_database_url)) as database:
        await database.write(insert_as_0006)
        await database.write(schema.upgrade)
        assert await database.read(table) == [(7, 3, "build", 1)]
        insert = text("INSERT INTO collapse_keys VALUES (7, 3, 'build', 2)")
        await database.write(lambda connection: connection.execute(insert) and None)
        assert len(await database.read(table)) == 2
        await database.write(lambda connection: command.downgrade(config_for(connection), "0006"))
        assert await database.read(table) == [(7, 3, "build", 2)]
