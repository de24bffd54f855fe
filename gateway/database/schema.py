"""Schema upgrades: Alembic's migrations, run as a unit of work.

Alembic is loaded only to migrate. To compare the schema with this code takes the names of the files and one
row, and a process that serves saves 12 MiB.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from gateway.database.database import Database, takes_writes
from gateway.observability.reasons import answer
from gateway.settings import SettingsError

if TYPE_CHECKING:
    from alembic.config import Config

_LOCK = 0x676174657761
"""Postgres advisory lock of the process that migrates, while others wait ("gatewa" in ASCII)."""


def upgrade(connection: Connection) -> None:
    """Migrate to the newest schema. A unit of work. On SQLite, the transaction itself is the lock."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    if not pending(connection):
        return
    from alembic import command

    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def pending(connection: Connection) -> bool:
    """Return whether a migration must be run. A unit of work.

    With a schema from a newer version, none must: this version works with it, because migrations only add. So
    old processes can restart during a rolling upgrade, and after an upgrade is rolled back.
    """
    return _revision(connection) in {None, *earlier()}


@cache
def earlier() -> frozenset[str]:
    """Return all revisions that this code knows, except the newest. Cached per process."""
    files = sorted(file.name for file in (_migrations() / "versions").glob("[0-9]*.py"))
    return frozenset(name.partition("_")[0] for name in files[:-1])


def serves(connection: Connection, earlier: frozenset[str]) -> bool:
    """Return whether the schema is new enough for this code. Pass the result of `earlier()`.

    A newer schema is also fine: during an upgrade of the gateway, its old processes keep serving.
    """
    revision = _revision(connection)
    return revision is not None and revision not in earlier


def _revision(connection: Connection) -> str | None:
    """Return the revision of the schema, as Alembic has stored it, or None for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


async def is_pending(database: Database, *, writes: bool = False) -> bool:
    """Return whether a migration must be run. Call it before any other use of the database.

    Raises `SettingsError` if the configured database can't be used, whatever the reason. With `writes`, it is
    also raised if the database doesn't accept writes.
    """
    try:
        is_waiting, why = await database.read(_inspect, writes=writes)
        if writes and not (is_waiting or why):
            await database.write(takes_writes)
    except Exception as error:
        raise SettingsError(f"{_UNUSABLE} ({answer(error.__cause__ or error)})") from error
    if why is not None:
        raise SettingsError(f"{_UNUSABLE} ({why})")
    return is_waiting


_UNUSABLE = "GATEWAY_DATABASE_URL: the database cannot be used"


def _inspect(connection: Connection, *, writes: bool) -> tuple[bool, str | None]:
    is_waiting = pending(connection)
    if connection.dialect.name != "postgresql":
        return is_waiting, None
    from gateway.database.postgres import unusable_because

    return is_waiting, unusable_because(connection, creates=is_waiting, writes=writes)


def alembic_config() -> "Config":
    """Return an Alembic configuration with the path of the package's migrations."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_migrations()))
    config.set_main_option("path_separator", "os")
    return config


def _migrations() -> Path:
    """Return the folder of the migrations: in the package if installed, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"
