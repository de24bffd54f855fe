"""The Alembic environment: runs the migrations on a given connection, or on the database in the settings."""

import asyncio

from alembic import context
from sqlalchemy import Connection

from gateway.database.database import open_database
from gateway.database.models import metadata
from gateway.settings import load_settings


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


async def run_from_settings() -> None:
    async with open_database(load_settings()) as database:
        await database.write(run)


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    asyncio.run(run_from_settings())
