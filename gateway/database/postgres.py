"""Postgres through asyncpg: two connection pools, which drop connections to servers that refuse writes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy import Connection, event, func, select, text
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

from gateway.database.failures import raise_unavailable
from gateway.database.opening import Openings
from gateway.database.turns import Turns
from gateway.database.units import is_background
from gateway.errors import Unavailable
from gateway.observability.backoff import pause_after, spread
from gateway.observability.outage import DatabaseOutage
from gateway.observability.sqlstates import READ_ONLY

P = ParamSpec("P")
T = TypeVar("T")

CALLERS_TO_FILL_POOL = 3
"""Number of callers that it takes to use all connections of the pool. Each may use this share of it."""

RETRY_SECONDS = 2.0
"""How long a unit of work that was rolled back is retried, in seconds."""

_FIRST_PAUSE_SECONDS = 0.01

_SNAPSHOT: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

SPARE_CONNECTIONS = 2
"""Number of connections besides the pool, for work that must not wait for the pool."""

MIN_REFRESH_INTERVAL_SECONDS = 1.0
"""Minimum time between two rounds of dropping read-only connections, in seconds."""

_OPENED = "opened_at"

_CAPABILITIES = text(
    "SELECT current_setting('server_encoding') AS encoding, current_schema() AS schema,"
    " current_user AS owner, coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS creates,"
    # Not `transaction_read_only`, because the transaction of a snapshot is always read-only.
    " pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on' AS read_only,"
    " pg_is_in_recovery() AS standby"
)


class PostgresDatabase:
    """Postgres through asyncpg, with a small pool. Each read is one snapshot.

    If the pool is exhausted, for example by slow pages, `lookup` and `write` use a few spare connections.
    Their work is short, and signing in or out depends on it. Work marked as `background` waits for the pool.
    """

    def __init__(self, url: URL, size: int) -> None:
        self._size = size
        self._turns = Turns(max(2, size // CALLERS_TO_FILL_POOL))
        self._pools = Pools(url, size)
        self._outage = DatabaseOutage(url.render_as_string(hide_password=True))
        self._engine, self._spare = self.engines = (self._pools.main, self._pools.spare)
        self._snapshots = {engine: engine.execution_options(**_SNAPSHOT) for engine in self.engines}

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` on one snapshot."""
        async with self._turns.of_caller():
            return await self._run(self._snapshots[self._engine], work, *args, **kwargs)

    async def lookup(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` on one snapshot, on a spare connection if the pool is exhausted."""
        async with self._turns.of_caller():
            return await self._run(self._snapshots[self._free()], work, *args, **kwargs)

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` and commit it. If the pool is exhausted, only `background` work waits for it."""
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
        deadline = time.monotonic() + RETRY_SECONDS
        failures = 0
        while True:
            try:
                result = await self._run_once(engine, work, *args, **kwargs)
            except Unavailable as error:
                failures += 1
                pause = pause_after(failures, _FIRST_PAUSE_SECONDS, RETRY_SECONDS)
                if not error.retryable or time.monotonic() + pause > deadline:
                    # An exhausted pool isn't an outage.
                    if not isinstance(error.__cause__, PoolTimeoutError):
                        self._outage.note(error.__cause__ or error, writes=writes)
                    raise
            else:
                self._outage.over(wrote=writes)
                return result
            # Random pauses, so that two transactions that deadlocked don't meet again.
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
        """Yield whether this process got an advisory lock, on a dedicated connection."""
        try:
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                try:
                    taken = await connection.scalar(select(func.pg_try_advisory_lock(lock)))
                    yield bool(taken)
                finally:
                    # Close the connection, which holds the lock. It must not return to the pool.
                    await connection.invalidate()
        except DBAPIError as error:
            raise_unavailable(error)
            raise error from None
        except (OSError, TimeoutError, PoolTimeoutError) as error:
            raise Unavailable("The database cannot be reached now.") from error

    async def free_caches(self) -> None:
        """Do nothing: the server caches the pages."""

    async def close(self) -> None:
        """Close every connection."""
        await self._pools.close()


class Pools:
    """A main pool and a few spare connections. Both drop connections to a server that has been replaced.

    After a failover, the old server may stay up with its connections open. They read stale data and can't
    write. So when a write is first refused as read-only, both pools drop every connection opened before then.
    """

    def __init__(self, url: URL, size: int) -> None:
        self._openings = Openings()
        self.main = self._open(url, size)
        self.spare = self._open(url, SPARE_CONNECTIONS)
        self._stale_until = float("-inf")

    def _open(self, url: URL, size: int) -> AsyncEngine:
        engine = create_async_engine(
            _asyncpg_url(url),
            hide_parameters=True,
            pool_size=size,
            max_overflow=0,
            pool_timeout=10,
            connect_args={
                "async_creator_fn": self._openings.open,
                "timeout": 10,
                "command_timeout": 30,
                "server_settings": {
                    "application_name": "notification-gateway",
                    # A 2xx means committed, whatever the server's default. No statement benefits from JIT, or
                    # from reading a whole table for a join. The planner would choose that, because it can't
                    # know that a parameter contains only a few rows.
                    "synchronous_commit": "on",
                    "jit": "off",
                    "enable_hashjoin": "off",
                    "enable_mergejoin": "off",
                    "timezone": "UTC",
                },
            },
        )
        event.listen(engine.sync_engine, "handle_error", self._handle_error)
        event.listen(engine.sync_engine, "connect", _note_opening)
        event.listen(engine.sync_engine, "checkout", self._refuse_stale)
        return engine

    def _handle_error(self, context: ExceptionContext) -> None:
        """Close the connection if a write on it was refused, unless it goes to the current server."""
        connection = context.connection
        if getattr(context.original_exception, "sqlstate", None) != READ_ONLY or connection is None:
            return
        if connection.get_execution_options().get("postgresql_readonly"):
            return  # A snapshot, which must not write.
        now = time.monotonic()
        # If the current server is read-only too, reconnect to it once in a while, not after each write.
        if now - self._stale_until >= MIN_REFRESH_INTERVAL_SECONDS:
            self._stale_until = now
        context.is_disconnect = connection.connection.info[_OPENED] <= self._stale_until

    def _refuse_stale(self, _connection: Any, record: Any, _proxy: Any) -> None:
        if record.info[_OPENED] <= self._stale_until:
            raise DisconnectionError

    async def close(self) -> None:
        """Close every connection."""
        await self.main.dispose()
        await self.spare.dispose()
        await self._openings.end()


def _note_opening(_connection: Any, record: Any) -> None:
    record.info[_OPENED] = time.monotonic()


def _asyncpg_url(url: URL) -> URL:
    """Return the URL for asyncpg: with its driver's name, and with `ssl` instead of libpq's `sslmode`."""
    query = dict(url.query)
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    return url.set(drivername="postgresql+asyncpg", query=query)


def unusable_because(connection: Connection, *, creates: bool, writes: bool) -> str | None:
    """Return why the gateway can't use the database, or None if it can. A unit of work.

    With `creates`, the gateway must be able to create tables. With `writes`, it must be able to write rows.
    """
    found = connection.execute(_CAPABILITIES).one()
    if found.encoding != "UTF8":
        return (
            f"its encoding is {found.encoding}, and must be UTF8:"
            " recreate it with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )
    if found.schema is None:
        return "no schema of its search_path exists, or may be used"
    if (writes or creates) and found.read_only:
        return "it refuses writes: " + ("it is a standby" if found.standby else "it is read-only")
    if creates and not found.creates:
        return (
            f"its user may not make tables: GRANT CREATE ON SCHEMA {found.schema} TO {found.owner},"
            " or make that user its owner"
        )
    return None
