"""The backplane on Postgres: LISTEN and NOTIFY on a dedicated connection.

A transaction that notifies takes a lock that all such transactions of the database share, and notifies at
its commit. Hints are therefore sent in their own transaction, after the one that stored the changes, together
with all hints that have arrived meanwhile (https://www.postgresql.org/docs/current/sql-notify.html, "Notes").
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy.engine import make_url

from gateway.backplane.hints import PROBE, Hints, encode
from gateway.backplane.link import CHECK_INTERVAL, Link, Outdated
from gateway.database.opening import Openings

CHANNEL = "gateway"
"""The channel that every process listens to. Channels are per database, as gateways are."""

CONNECT_TIMEOUT_SECONDS = 5.0
"""How long connecting may take."""

_TAKES_NO_WRITES = "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on'"

_NOTIFY = "SELECT pg_notify($1, message) FROM unnest($2::text[]) AS message"


class PostgresBackplane(Link):
    """A backplane on Postgres. Every process receives every hint; users without a socket are ignored."""

    failures = (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
        TimeoutError,
    )

    def __init__(self, database_url: str, *, check_interval: float = CHECK_INTERVAL) -> None:
        super().__init__(
            make_url(database_url).render_as_string(hide_password=True), check_interval=check_interval
        )
        self._url = database_url
        self._connection: asyncpg.Connection
        self._closed = asyncio.Event()
        self._echo = asyncio.Event()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        self._closed.clear()
        # Hints need not be durable, so don't wait for the disk.
        options = {"application_name": "notification-gateway backplane", "synchronous_commit": "off"}
        openings = Openings()
        try:
            connection = await openings.open(
                self._url, timeout=CONNECT_TIMEOUT_SECONDS, server_settings=options
            )
        finally:
            await openings.end()
        try:
            connection.add_termination_listener(lambda _: self._closed.set())
            await connection.add_listener(CHANNEL, self._notified)
            self._connection = connection
            yield
        finally:
            connection.terminate()

    def _notified(self, _connection: asyncpg.Connection, _pid: int, _channel: str, message: object) -> None:
        if self._heard(str(message)):
            self._echo.set()

    async def _listen(self) -> None:
        await self._closed.wait()
        raise ConnectionError("the connection to Postgres was closed")

    async def _hear_oneself(self) -> None:
        """Raise `Outdated` if the server is read-only: after a failover the others notify on the new primary.

        If there is no new primary, each check reconnects to this server and its loopback message still
        arrives.
        """
        async with self._turn:
            if self.listening and await self._connection.fetchval(_TAKES_NO_WRITES):
                raise Outdated
        self._echo.clear()
        await self._send(PROBE)
        await self._echo.wait()

    async def _send(self, hints: Hints) -> None:
        messages = encode(self._origin, hints)
        # A connection runs one statement at a time.
        async with self._turn:
            await self._connection.execute(_NOTIFY, CHANNEL, messages)

    def follow(self, user_id: int) -> None:
        """Do nothing: every hint is received."""

    def forget(self, user_id: int) -> None:
        """Do nothing: every hint is received."""
