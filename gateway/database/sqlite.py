"""SQLite as the gateway wants it: a write-ahead log, durable commits."""

import sqlite3
import time
from typing import Any, cast

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import QueuePool

from gateway.database.indexes import HintingCompiler


def open_engine(
    url: URL,
    begin: str | None,
    size: int,
    busy_timeout: float,
    *,
    query_only: bool = False,
    changes: bool = True,
) -> Engine:
    """Return an engine whose transactions begin with `begin`, or with nothing.

    Its `size` connections wait up to `busy_timeout` seconds for another process's lock. Unless it `changes`
    the file, the journal is left as it is.
    """
    engine = create_engine(
        url,
        poolclass=QueuePool,
        # Parameters are what users say, and keys: they do not belong into an error in a log.
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
        # What is deleted is overwritten, in pages that become free too: nothing erased stays in the file.
        connection.execute("PRAGMA secure_delete = ON")
        # A batch writes all over the indexes: the pages stay at hand, and are copied back less often.
        connection.execute("PRAGMA cache_size = -16384")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")

    if begin is not None:
        # On the driver's own connection: SQLAlchemy's way of saying one word costs a quarter of a short read.
        event.listen(engine, "begin", lambda connection: driver_of(connection).execute(begin))
    return engine


def driver_of(connection: Connection) -> sqlite3.Connection:
    """Return the connection of the driver."""
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)


def _use_wal(connection: sqlite3.Connection, timeout: float) -> None:
    """Turn the write-ahead log on, waiting up to `timeout` seconds for whoever else is about to.

    Two processes that open a new file at once may meet here, and SQLite does not wait by itself: both hold a
    shared lock and want an exclusive one, which waiting cannot give them (its docs of sqlite3_busy_handler).
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
