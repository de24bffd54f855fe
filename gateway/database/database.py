"""Databases: one way to read and one way to write, on SQLite and on Postgres.

A unit of work is a plain function that takes a SQLAlchemy `Connection` and never commits. On SQLite it runs
in a thread, once for a whole transaction; on Postgres it runs on asyncpg through SQLAlchemy's greenlets. So
the SQL of the gateway is written once, and costs one hop per transaction, not one per statement
(docs/decisions/0002-plain-functions-over-connections.md).
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, false, update
from sqlalchemy.engine import URL, make_url

from gateway.database import sqlite_file
from gateway.database.models import users
from gateway.database.postgres import PostgresDatabase
from gateway.database.sqlite import SqliteDatabase
from gateway.database.sqlite_file import Opening
from gateway.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


class Database(Protocol):
    """Where units of work run. Every call raises `Unavailable` when the database cannot be used now.

    A unit of work that has certainly left nothing behind, because another transaction or a lost connection
    has ended it, is run again for a moment. So it changes nothing but the database.
    """

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` on one snapshot, without the right to change anything."""
        ...

    async def lookup(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Do what `read` does, for work that looks up a few rows by their keys and is over at once."""
        ...

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` and commit it durably; whatever it raises rolls it back.

        Work that is marked as `background` lets all other work go first.

        A caller that is cancelled does not know whether the work was committed. Nor does one to whom
        `Unavailable` is raised: the connection may have been lost while the database committed.
        """
        ...


def takes_writes(connection: Connection) -> bool:
    """Ask the database whether it would take a write, and write nothing. A unit of work for `write`.

    Both refuse to change rows, even none, where a session or a file is read-only.
    """
    connection.execute(update(users).where(false()).values(disabled=users.c.disabled))
    return True


def name_of(url: URL) -> str:
    """Return the URL of a database without its password; a file with its whole path."""
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{sqlite_file.path_of(url)}"
    return url.render_as_string(hide_password=True)


class LockingDatabase(Database, Protocol):
    """A database whose processes can also take turns."""

    def exclusively(self, lock: int) -> AbstractAsyncContextManager[bool]:
        """Say whether this process alone has `lock` while the block runs: never two of them at once."""
        ...


@asynccontextmanager
async def open_database(
    settings: Settings, opening: Opening = Opening.CREATE
) -> AsyncIterator[LockingDatabase]:
    """Open the database that the settings name, and close it at the end. Raises `SettingsError`.

    `opening` says what may be done to the file of SQLite.
    """
    url = make_url(settings.database_url)
    is_sqlite = url.get_backend_name() == "sqlite"
    if is_sqlite:
        with closing(SqliteDatabase(url, opening)) as sqlite:
            yield sqlite
    else:
        postgres = PostgresDatabase(url, settings.database_pool_size)
        try:
            yield postgres
        finally:
            await postgres.close()
