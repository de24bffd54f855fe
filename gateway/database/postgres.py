"""Postgres as the gateway wants it: two pools of asyncpg, and no connection in them that takes no writes."""

import time
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.observability.sqlstates import READ_ONLY

SPARE = 2
"""How many connections there are beyond the pool, for work that must not wait for it."""

LEAST_AGE = 1.0
"""How often connections are closed at most because they take no writes, in seconds."""

_OPENED = "opened_at"

_FITNESS = text(
    "SELECT current_setting('server_encoding') AS encoding, current_schema() AS schema,"
    " current_user AS owner, coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS creates,"
    # In a snapshot the transaction is read-only itself.
    " pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on' AS read_only,"
    " pg_is_in_recovery() AS standby"
)


class Pools:
    """A pool, and a few spare connections. Neither keeps a connection to a server that has been replaced.

    After a fail-over the old server may stay up, and its connections open: all of them read what is old, and
    none can write. So the first that is refused a write as read-only is closed, and with it all that were
    opened before then, in both pools.
    """

    def __init__(self, url: URL, size: int) -> None:
        self.main = self._open(url, size)
        self.spare = self._open(url, SPARE)
        self._useless_until = float("-inf")

    def _open(self, url: URL, size: int) -> AsyncEngine:
        engine = create_async_engine(
            _asyncpg_url(url),
            hide_parameters=True,
            pool_size=size,
            max_overflow=0,
            pool_timeout=10,
            connect_args={
                "timeout": 10,
                "command_timeout": 30,
                "server_settings": {
                    "application_name": "notification-gateway",
                    # A 2xx means committed, whatever the server's default is. No statement here gains from
                    # JIT, and none from reading a table whole to join it, which the planner would where it
                    # cannot know that a parameter names a few rows only.
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
        event.listen(engine.sync_engine, "checkout", self._refuse_useless)
        return engine

    def _handle_error(self, context: ExceptionContext) -> None:
        """Have the connection closed that was refused a write, unless it is one to the server of now."""
        connection = context.connection
        if getattr(context.original_exception, "sqlstate", None) != READ_ONLY or connection is None:
            return
        if connection.get_execution_options().get("postgresql_readonly"):
            return  # A snapshot, which is not to write.
        now = time.monotonic()
        # Where the server of now is read-only, too, it is asked again once in a while, not with each write.
        if now - self._useless_until >= LEAST_AGE:
            self._useless_until = now
        context.is_disconnect = connection.connection.info[_OPENED] <= self._useless_until

    def _refuse_useless(self, _connection: Any, record: Any, _proxy: Any) -> None:
        if record.info[_OPENED] <= self._useless_until:
            raise DisconnectionError

    async def close(self) -> None:
        """Close every connection."""
        await self.main.dispose()
        await self.spare.dispose()


def _note_opening(_connection: Any, record: Any) -> None:
    record.info[_OPENED] = time.monotonic()


def _asyncpg_url(url: URL) -> URL:
    """Return the URL as asyncpg wants it: its driver's name, and `ssl` where libpq says `sslmode`."""
    query = dict(url.query)
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    return url.set(drivername="postgresql+asyncpg", query=query)


def unfitness(connection: Connection, *, creates: bool, writes: bool) -> str | None:
    """Return why the database cannot hold a gateway's data, or None. A unit of work.

    With `creates` tables are to be made in it, with `writes` rows.
    """
    found = connection.execute(_FITNESS).one()
    if found.encoding != "UTF8":
        return (
            f"its encoding is {found.encoding}, and must be UTF8:"
            " make it anew with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )
    if found.schema is None:
        return "no schema of its search_path exists, or may be used"
    if (writes or creates) and found.read_only:
        return "it takes no writes: " + ("it is a standby" if found.standby else "it is read-only")
    if creates and not found.creates:
        return (
            f"its user may not make tables: GRANT CREATE ON SCHEMA {found.schema} TO {found.owner},"
            " or make that user its owner"
        )
    return None
