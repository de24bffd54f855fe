"""The database interface: one way to read and one way to write, on SQLite and on Postgres.

A unit of work is a plain function that takes a SQLAlchemy `Connection` and never commits. On SQLite, it runs
in a thread, once for a whole transaction. On Postgres, it runs on asyncpg through SQLAlchemy's greenlets. So
the SQL is written only once, and costs one hop per transaction, not one per statement
(docs/decisions/0002-plain-functions-over-connections.md).
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, false, update
from sqlalchemy.engine import URL, make_url

from gateway.database import sqlite_file
from gateway.database.models import users
from gateway.database.sqlite import SqliteDatabase
from gateway.database.sqlite_file import Opening
from gateway.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


class Database(Protocol):
    """Runs units of work. Every method raises `Unavailable` if the database can't be used now.

    A unit of work is retried for a short time if it was certainly rolled back, because of another transaction
    or a lost connection. It must therefore change nothing except the database.
    """

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` on one snapshot, read-only."""
        ...

    async def lookup(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` like `read`. It must look up only a few rows by their keys, and end quickly."""
        ...

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` and commit it durably. Roll it back if it raises.

        Work marked as `background` lets all other work go first.

        A cancelled caller doesn't know whether the work was committed. The same holds if `Unavailable` is
        raised, because the connection may have been lost during the commit.
        """
        ...


def takes_writes(connection: Connection) -> bool:
    """Return True if the database accepts writes, without writing. A unit of work for `write`.

    Otherwise the database's error is raised: SQLite and Postgres both refuse an UPDATE, even one of no rows,
    if the file or the session is read-only.
    """
    connection.execute(update(users).where(false()).values(disabled=users.c.disabled))
    return True


def name_of(url: URL) -> str:
    """Return a database's URL without its password. A file is named by its absolute path."""
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{sqlite_file.path_of(url)}"
    return url.render_as_string(hide_password=True)


class LockingDatabase(Database, Protocol):
    """A database that also offers a lock between processes."""

    def exclusively(self, lock: int) -> AbstractAsyncContextManager[bool]:
        """Yield whether this process holds `lock` while the block runs. At most one process does."""
        ...

    async def free_caches(self) -> None:
        """Free the memory in which this process caches pages of the database."""
        ...


@asynccontextmanager
async def open_database(
    settings: Settings, opening: Opening = Opening.CREATE
) -> AsyncIterator[LockingDatabase]:
    """Open the configured database, and close it at the end of the block. Raises `SettingsError`.

    `opening` says what the call may do to a SQLite file.
    """
    url = make_url(settings.database_url)
    is_sqlite = url.get_backend_name() == "sqlite"
    if is_sqlite:
        with closing(SqliteDatabase(url, opening)) as sqlite:
            yield sqlite
    else:
        # SQLAlchemy's asyncio extension imports its ORM, which a gateway on SQLite doesn't need.
        from gateway.database.postgres import PostgresDatabase

        postgres = PostgresDatabase(url, settings.database_pool_size)
        try:
            yield postgres
        finally:
            await postgres.close()
