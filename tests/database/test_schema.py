"""The migrations, on both databases."""

import asyncio

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect, text

from gateway.database import schema
from gateway.database.database import open_database
from gateway.database.models import metadata
from tests.support.databases import settings_for

EVERY_TABLE = set(metadata.tables)


def config_for(connection: Connection) -> Config:
    config = schema._config()
    config.attributes["connection"] = connection
    return config


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names()) - {"alembic_version"}


async def test_an_empty_database_has_a_migration_pending_and_then_none(empty_database_url: str) -> None:
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


async def test_a_schema_that_a_newer_version_has_made_is_left_as_it_is(empty_database_url: str) -> None:
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


async def test_the_migrations_can_be_undone_and_done_again(empty_database_url: str) -> None:
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
