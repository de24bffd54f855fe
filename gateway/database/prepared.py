"""Prepared statements: SQLAlchemy compiles each of them once, and the driver executes it.

They are for the statements of every commit and every handshake. On SQLite, SQLAlchemy's own execution takes
more CPU than such a statement itself (docs/decisions/0022-hot-statements-go-to-the-driver.md).
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Delete, Insert, Select, Update
from sqlalchemy.exc import DBAPIError

from gateway.database.sqlite import driver_of

Statement = Select[Any] | Insert | Update | Delete


class Prepared:
    """A statement for both databases.

    `build` returns it for a dialect, and is called once for each. Its parameters and its columns must have
    the same type in Python and in the driver: numbers, texts or bytes, but no booleans.
    """

    def __init__(self, build: Callable[[str], Statement]) -> None:
        self._build = build
        self._postgres: Statement | None = None
        self._sql = ""
        self._names: Sequence[str] = ()
        self._constants: Mapping[str, Any] = {}

    def run(self, connection: Connection, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Execute the statement, and return its rows. Raises SQLAlchemy's `DBAPIError`."""
        if connection.dialect.name != "sqlite":
            return self._run_on_postgres(connection, parameters)
        if not self._sql:
            self._compile(connection)
        values = {**self._constants, **parameters}
        try:
            return driver_of(connection).execute(self._sql, [values[name] for name in self._names]).fetchall()
        except sqlite3.Error as error:
            raise DBAPIError.instance(self._sql, None, error, sqlite3.Error, hide_parameters=True) from error

    def _compile(self, connection: Connection) -> None:
        compiled = self._build("sqlite").compile(dialect=connection.dialect)
        self._names = tuple(compiled.positiontup or ())
        self._constants = {
            name: value for name, value in compiled.params.items() if not compiled.binds[name].required
        }
        # Last, because another thread may run the statement at the same time.
        self._sql = str(compiled)

    def _run_on_postgres(
        self, connection: Connection, parameters: Mapping[str, Any]
    ) -> Sequence[Sequence[Any]]:
        """Execute the statement through SQLAlchemy, which also notices a lost connection."""
        if self._postgres is None:
            self._postgres = self._build(connection.dialect.name)
        result = connection.execute(self._postgres, parameters)
        return result.all() if result.returns_rows else ()
