"""Connections: one way to read and one way to write, on SQLite and on Postgres.

A unit of work is a plain function that takes a SQLAlchemy `Connection` and never commits. On SQLite it runs
in a thread, once for a whole transaction; on Postgres it runs on asyncpg through SQLAlchemy's greenlets. So
the SQL of the gateway is written once, and costs one hop per transaction, not one per statement
(docs/decisions/0002-plain-functions-over-connections.md).
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from functools import partial
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

from sqlalchemy import Connection, Engine, false, func, select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from gateway.database import sqlite_file
from gateway.database.failures import passes, raise_unavailable
from gateway.database.models import users
from gateway.database.postgres import Pools
from gateway.database.priority_thread import PriorityThread
from gateway.database.sqlite import driver_of, open_engine
from gateway.database.sqlite_file import Opening
from gateway.database.turns import Turns
from gateway.errors import Unavailable
from gateway.observability.backoff import pause_after, spread
from gateway.observability.outage import DatabaseOutage
from gateway.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT = 5.0
"""How long a statement waits for another process's lock, in seconds."""

SQLITE_READERS = 4

_SNAPSHOT: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


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

    async def glance(
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


def background(work: Callable[P, T]) -> Callable[P, T]:
    """Mark a unit of work as one that may wait: sign-ins and revocations never queue behind it."""
    work.__dict__[_BACKGROUND] = True
    return work


_BACKGROUND = "background"


def is_background(work: Callable[..., object]) -> bool:
    """Whether a unit of work is marked as one that may wait."""
    return hasattr(work, _BACKGROUND)


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


SQLITE_READS, SQLITE_WRITES = 2, 4
"""How many units of work of one caller are with the reading threads, and with the writing one, at a time."""

POSTGRES_SHARE = 3
"""How many callers it takes to have all connections of the pool."""

RETRY_FOR = 2.0
"""How long a unit of work that was rolled back is begun again, in seconds."""

_FIRST_PAUSE = 0.01


class SqliteDatabase:
    """SQLite: one thread writes, a few read. WAL lets them do it at the same time."""

    def __init__(self, url: URL, opening: Opening = Opening.CREATE) -> None:
        sqlite_file.prepare(url, opening)
        engine = partial(open_engine, url, changes=opening is not Opening.LOOK)
        self._writer = engine("BEGIN IMMEDIATE", 1, BUSY_TIMEOUT)
        self._readers = engine("BEGIN", SQLITE_READERS, BUSY_TIMEOUT, query_only=True)
        self._glances = engine(None, 1, 0, query_only=True)
        self._glancing: Connection | None = None
        self._outage = DatabaseOutage(name_of(url))
        self._writing = PriorityThread("sqlite-writer")
        self._reading = ThreadPoolExecutor(SQLITE_READERS, thread_name_prefix="sqlite-reader")
        self._reads, self._writes = Turns(SQLITE_READS), Turns(SQLITE_WRITES)

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` on one snapshot in a reading thread."""
        async with self._reads.of_caller():
            return await self._run(self._reading.submit, self._readers, work, *args, **kwargs)

    async def glance(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` on the event loop: finding a row takes less time than waking a thread to do it.

        In WAL mode a reader hardly ever waits. When it would have to, a reading thread does.
        """
        try:
            if self._glancing is None:
                self._glancing = self._glances.connect()
            # One connection, which SQLAlchemy takes to be in one transaction for ever: its own way to begin
            # and to end one costs as much as finding the row.
            driver = driver_of(self._glancing)
            driver.execute("BEGIN")
            try:
                return work(self._glancing, *args, **kwargs)
            finally:
                driver.execute("COMMIT")
        except (OperationalError, sqlite3.OperationalError):
            return await self.read(work, *args, **kwargs)
        except DBAPIError as error:
            raise_unavailable(error)
            raise error from None

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` in the writing thread, behind the lock of the whole database."""
        submit = self._writing.submit_patient if is_background(work) else self._writing.submit
        async with self._writes.of_caller():
            return await self._run(submit, self._writer, work, *args, **kwargs)

    @asynccontextmanager
    async def exclusively(self, lock: int) -> AsyncIterator[bool]:  # noqa: ARG002 - the protocol's
        """Say yes: one process serves from one file."""
        yield True

    async def _run(
        self,
        submit: Callable[[Callable[[], T]], Future[T]],
        engine: Engine,
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        def transaction() -> T:
            with engine.begin() as connection:
                return work(connection, *args, **kwargs)

        try:
            result = await asyncio.wrap_future(submit(transaction))
        except DBAPIError as error:
            if passes(error):
                self._outage.note(error, writes=engine is self._writer)
            raise_unavailable(error)
            raise error from None
        except sqlite3.OperationalError as error:
            self._outage.note(error, writes=engine is self._writer)
            raise Unavailable("The database cannot be used now.") from error
        self._outage.over(wrote=engine is self._writer)
        return result

    def close(self) -> None:
        """Wait for what is running, then close every connection."""
        self._writing.shutdown()
        self._reading.shutdown()
        if self._glancing is not None:
            self._glancing.close()
        for engine in (self._glances, self._readers, self._writer):
            engine.dispose()


class PostgresDatabase:
    """Postgres through asyncpg: a small pool for everything; a read is one snapshot.

    While the pool is taken, by slow pages perhaps, `glance` and `write` have a few connections more: what
    they do is over soon, and nobody signs in or out without it. Work that is marked as `background` waits.
    """

    def __init__(self, url: URL, size: int) -> None:
        self._size = size
        self._turns = Turns(max(2, size // POSTGRES_SHARE))
        self._pools = Pools(url, size)
        self._outage = DatabaseOutage(name_of(url))
        self._engine, self._spare = engines = (self._pools.main, self._pools.spare)
        self._snapshots = {engine: engine.execution_options(**_SNAPSHOT) for engine in engines}

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` on one snapshot."""
        async with self._turns.of_caller():
            return await self._run(self._snapshots[self._engine], work, *args, **kwargs)

    async def glance(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` on one snapshot, on a spare connection where the others are taken."""
        async with self._turns.of_caller():
            return await self._run(self._snapshots[self._free()], work, *args, **kwargs)

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` and commit it."""
        async with self._turns.of_caller():
            engine = self._engine if is_background(work) else self._free()
            return await self._run(engine, work, *args, **kwargs)

    def _free(self) -> AsyncEngine:
        pool = cast("QueuePool", self._engine.pool)
        return self._engine if pool.checkedout() < self._size else self._spare

    async def _run(
        self,
        engine: AsyncEngine,
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        writes = engine is self._engine or engine is self._spare
        deadline = time.monotonic() + RETRY_FOR
        failures = 0
        while True:
            try:
                result = await self._run_once(engine, work, *args, **kwargs)
            except Unavailable as error:
                failures += 1
                pause = pause_after(failures, _FIRST_PAUSE, RETRY_FOR)
                if not error.retryable or time.monotonic() + pause > deadline:
                    # That all connections are taken is no outage.
                    if not isinstance(error.__cause__, PoolTimeoutError):
                        self._outage.note(error.__cause__ or error, writes=writes)
                    raise
            else:
                self._outage.over(wrote=writes)
                return result
            # Two that met in a deadlock must not meet again: no two wait equally long.
            await asyncio.sleep(spread(pause))

    @staticmethod
    async def _run_once(
        engine: AsyncEngine,
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        committing = False
        try:
            async with engine.begin() as connection:
                result = await connection.run_sync(work, *args, **kwargs)
                committing = True
        except DBAPIError as error:
            raise_unavailable(error, committing=committing)
            raise error from None
        except (OSError, TimeoutError, PoolTimeoutError) as error:
            raise Unavailable("The database cannot be reached now.") from error
        return result

    @asynccontextmanager
    async def exclusively(self, lock: int) -> AsyncIterator[bool]:
        """Try to take an advisory lock, on a connection of its own."""
        try:
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                try:
                    taken = await connection.scalar(select(func.pg_try_advisory_lock(lock)))
                    yield bool(taken)
                finally:
                    # The lock is the connection's, so it ends with it, and never goes back to the pool.
                    await connection.invalidate()
        except DBAPIError as error:
            raise_unavailable(error)
            raise error from None
        except (OSError, TimeoutError, PoolTimeoutError) as error:
            raise Unavailable("The database cannot be reached now.") from error

    async def close(self) -> None:
        """Close every connection."""
        await self._pools.close()
