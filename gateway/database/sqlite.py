"""SQLite with one writing thread and a few reading threads, a write-ahead log, and durable commits."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import QueuePool

from gateway.database import sqlite_file
from gateway.database.failures import passes, raise_unavailable
from gateway.database.indexes import HintingCompiler
from gateway.database.priority_thread import PriorityThread
from gateway.database.sqlite_file import Opening
from gateway.database.turns import Turns
from gateway.database.units import is_background
from gateway.database.wal import WriteAheadLog
from gateway.errors import Unavailable
from gateway.observability.outage import DatabaseOutage

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 5.0
"""How long a statement waits for another process's lock, in seconds."""

SQLITE_READERS = 4
"""Number of reading threads, each with a connection."""

MAX_READS_PER_CALLER, MAX_WRITES_PER_CALLER = 2, 4
"""Maximum number of units of work that one caller may have in the reading and in the writing threads."""

_FREE_CACHE = "PRAGMA shrink_memory"


class SqliteDatabase:
    """SQLite with one writing thread and a few reading threads, which WAL lets work at the same time."""

    def __init__(self, url: URL, opening: Opening = Opening.CREATE) -> None:
        sqlite_file.prepare(url, opening)
        engine = partial(open_engine, url, changes=opening is not Opening.LOOK)
        self._writer = engine("BEGIN IMMEDIATE", 1, BUSY_TIMEOUT_SECONDS)
        self._readers = engine("BEGIN", SQLITE_READERS, BUSY_TIMEOUT_SECONDS, query_only=True)
        self.engines = (self._readers, self._writer)
        self._lookup_engine = engine(None, 1, 0, query_only=True)
        self._lookup_connection: Connection | None = None
        self._outage = DatabaseOutage(f"sqlite:///{sqlite_file.path_of(url)}")
        self._writing = PriorityThread("sqlite-writer")
        self._reading = ThreadPoolExecutor(SQLITE_READERS, thread_name_prefix="sqlite-reader")
        self._reads, self._writes = Turns(MAX_READS_PER_CALLER), Turns(MAX_WRITES_PER_CALLER)
        self._wal = WriteAheadLog(sqlite_file.path_of(url))

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` on one snapshot, in a reading thread."""
        async with self._reads.of_caller():
            return await self._run(self._reading.submit, self._readers, work, *args, **kwargs)

    async def lookup(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` on the event loop, because finding a row takes less time than waking a thread.

        In WAL mode, a reader hardly ever has to wait. If it would, the work runs in a reading thread instead.
        """
        try:
            if self._lookup_connection is None:
                self._lookup_connection = self._lookup_engine.connect()
            # For SQLAlchemy, this connection stays in one transaction forever. Its own way of beginning and
            # ending a transaction costs as much as finding the row.
            driver = driver_of(self._lookup_connection)
            driver.execute("BEGIN")
            try:
                return work(self._lookup_connection, *args, **kwargs)
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
        """Run `work` in the writing thread, with the lock on the whole database, and commit it."""
        submit = self._writing.submit_background if is_background(work) else self._writing.submit
        async with self._writes.of_caller():
            return await self._run(submit, self._writer, work, *args, **kwargs)

    @asynccontextmanager
    async def exclusively(self, lock: int) -> AsyncIterator[bool]:  # noqa: ARG002 - the protocol's
        """Yield True, because only one process serves from a file."""
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
                result = work(connection, *args, **kwargs)
            if engine is self._writer and self._wal.is_due():
                with engine.connect() as connection:
                    self._wal.restart(driver_of(connection))
            return result

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

    async def free_caches(self) -> None:
        """Free the cached pages: a few reads of large inboxes fill the caches of all connections.

        A reading connection keeps its pages only until the next commit anyway.
        """
        with suppress(DBAPIError, sqlite3.Error):
            for _ in range(SQLITE_READERS):
                # The pool returns the connection that has been idle for longest.
                await asyncio.wrap_future(self._reading.submit(_free_cache, self._readers))
            if self._lookup_connection is not None:
                driver_of(self._lookup_connection).execute(_FREE_CACHE)
            await asyncio.wrap_future(self._writing.submit_background(partial(_free_cache, self._writer)))

    def close(self) -> None:
        """Wait for the running work, then close every connection."""
        self._writing.shutdown()
        self._reading.shutdown()
        if self._lookup_connection is not None:
            self._lookup_connection.close()
        for engine in (self._lookup_engine, *self.engines):
            engine.dispose()


def open_engine(
    url: URL,
    begin: str | None,
    size: int,
    busy_timeout: float,
    *,
    query_only: bool = False,
    changes: bool = True,
) -> Engine:
    """Return an engine that executes `begin` to begin a transaction, or nothing if it is None.

    Its `size` connections wait up to `busy_timeout` seconds for another process's lock. Without `changes`,
    the journal mode of the file is kept.
    """
    engine = create_engine(
        url,
        poolclass=QueuePool,
        # Parameters contain users' content and keys, which must not appear in logged errors.
        hide_parameters=True,
        pool_size=size,
        max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": busy_timeout},
    )

    engine.dialect.statement_compiler = HintingCompiler

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        if changes:
            _use_wal(connection, busy_timeout)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA query_only = {query_only:d}")
        # Overwrite deleted content, in freed pages too, so that erased data doesn't remain in the file.
        connection.execute("PRAGMA secure_delete = ON")
        # A batch writes to pages all over the indexes. Cache more of them, and checkpoint less often.
        connection.execute("PRAGMA cache_size = -16384")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")

    if begin is not None:

        def do_begin(pooled: Any) -> None:
            pooled.dbapi_connection.execute(begin)

        # As an event of the engine, this would cost every statement five searches for listeners.
        engine.dialect.do_begin = do_begin  # type: ignore[assignment,method-assign]
    return engine


def _free_cache(engine: Engine) -> None:
    with engine.connect() as connection:
        driver_of(connection).execute(_FREE_CACHE)


def driver_of(connection: Connection) -> sqlite3.Connection:
    """Return the driver's connection."""
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)


def _use_wal(connection: sqlite3.Connection, timeout: float) -> None:
    """Turn on the write-ahead log, waiting up to `timeout` seconds for another process that does the same.

    Two processes that open a new file at once may conflict here, and SQLite doesn't wait by itself: both hold
    a shared lock and want an exclusive one, so they would deadlock (SQLite's docs of sqlite3_busy_handler).
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
        else:
            return
