"""Fresh databases for tests, each a copy of one that Alembic's migrations made once per run."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from gateway.auth import services
from gateway.auth.tokens import digest
from gateway.database import schema
from gateway.database.database import open_database
from gateway.settings import Settings
from tests.support.postgres import Postgres, new_name

POLLS_PER_SECOND = 1000
"""How many requests of one user a test may make: `until` looks every few milliseconds."""


def settings_for(database_url: str, **overrides: Any) -> Settings:
    """Return settings that owe nothing to the machine: a free port, no `.env`, and only what is asked for.

    But for the rate of commands and requests: a test that polls asks more often than people do.
    """
    wanted: dict[str, Any] = {
        "database_url": database_url,
        "port": 0,
        "log_level": "warning",
        "commands_per_second": POLLS_PER_SECOND,
        **overrides,
    }
    return Settings(_env_file=None, **wanted)


KEY_ID, _SECRET, API_KEY = services.new_key()
"""The API key of a service that every fresh database has, and that may do everything."""


async def prepare(database_url: str) -> None:
    """Bring an empty database to the newest schema, as `gateway migrate` does, and add the tests' service."""
    async with open_database(settings_for(database_url)) as database:
        await database.write(schema.upgrade)
        await database.write(add_service)


def add_service(connection: Connection) -> None:
    """Make the tests' service and its key."""
    service = services.add_service(connection, "tests", services.SERVICE_SCOPES, b"", 0)
    services.add_key(connection, service.client_id, KEY_ID, digest(_SECRET), 0)


def sqlite_template(folder: Path) -> Path:
    """Return a migrated SQLite file, of which a copy is a fresh database."""
    file = folder / "template.db"
    asyncio.run(prepare(f"sqlite:///{file}"))
    return file


def sqlite_copy(template: Path, folder: Path) -> str:
    """Return the URL of a fresh SQLite database in `folder`."""
    file = folder / "gateway.db"
    shutil.copyfile(template, file)
    file.chmod(0o600)
    return f"sqlite:///{file}"


@contextmanager
def postgres_template(postgres: Postgres) -> Iterator[str]:
    """Yield the name of a migrated Postgres database that nobody is connected to."""
    name = new_name()
    asyncio.run(postgres.execute(f"CREATE DATABASE {name}"))
    try:
        asyncio.run(prepare(postgres.url_of(name)))
        yield name
    finally:
        asyncio.run(postgres.execute(f"DROP DATABASE {name} WITH (FORCE)"))


@asynccontextmanager
async def postgres_copy(postgres: Postgres, template: str | None) -> AsyncIterator[str]:
    """Yield the URL of a fresh Postgres database, an empty one without `template`, and drop it at the end."""
    name = new_name()
    source = f"TEMPLATE {template}" if template else ""
    await postgres.execute(f"CREATE DATABASE {name} {source} STRATEGY FILE_COPY")
    try:
        yield postgres.url_of(name)
    finally:
        await postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def open_connections(postgres: Postgres, database_url: str) -> int:
    """Return how many connections Postgres counts on the database of `database_url`."""
    return await postgres.connections_to(make_url(database_url).database or "")
