"""Bringing the schema up to date: Alembic's migrations, run as a unit of work."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from gateway.database.database import Database, takes_writes
from gateway.database.postgres import unfitness
from gateway.observability.reasons import answer
from gateway.settings import SettingsError

_LOCK = 0x676174657761
"""The advisory lock of Postgres under which one process migrates while others wait ("gatewa" in ASCII)."""


def upgrade(connection: Connection) -> None:
    """Migrate to the newest schema. On SQLite the transaction itself is the lock."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    if not pending(connection):
        return
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def pending(connection: Connection) -> bool:
    """Whether a migration is waiting to be run.

    None is in a schema that a newer version has made: this one works on it, for migrations only add. So an
    old process starts again while the others are upgraded, and after an upgrade was taken back.
    """
    known = [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()]
    return MigrationContext.configure(connection).get_current_revision() in {None, *known[1:]}


@cache
def earlier() -> frozenset[str]:
    """Return the revisions before the newest that this code knows, read once per process."""
    scripts = ScriptDirectory.from_config(alembic_config())
    head = scripts.get_current_head()
    return frozenset(one.revision for one in scripts.walk_revisions() if one.revision != head)


def serves(connection: Connection, earlier: frozenset[str]) -> bool:
    """Whether the schema is new enough for this code, given what `earlier` returns.

    One that is newer is, too: while a gateway is upgraded its old processes go on.
    """
    revision = MigrationContext.configure(connection).get_current_revision()
    return revision is not None and revision not in earlier


async def is_pending(database: Database, *, writes: bool = False) -> bool:
    """Return whether a migration is waiting, as the first thing that is asked of a database.

    Raises `SettingsError` where the one that the settings name cannot be used at all, whatever the reason;
    with `writes`, also where it takes none.
    """
    try:
        is_waiting, why = await database.read(_look, writes=writes)
        if writes and not (is_waiting or why):
            await database.write(takes_writes)
    except Exception as error:
        raise SettingsError(f"{_UNUSABLE} ({answer(error.__cause__ or error)})") from error
    if why is not None:
        raise SettingsError(f"{_UNUSABLE} ({why})")
    return is_waiting


_UNUSABLE = "GATEWAY_DATABASE_URL: the database cannot be used"


def _look(connection: Connection, *, writes: bool) -> tuple[bool, str | None]:
    is_waiting = pending(connection)
    if connection.dialect.name != "postgresql":
        return is_waiting, None
    return is_waiting, unfitness(connection, creates=is_waiting, writes=writes)


def alembic_config() -> Config:
    """Return the configuration under which Alembic finds the migrations of the package."""
    config = Config()
    config.set_main_option("script_location", str(_migrations()))
    config.set_main_option("path_separator", "os")
    return config


def _migrations() -> Path:
    """Return where the migrations are: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"
