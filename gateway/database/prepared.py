"""Prepared statements: SQLAlchemy compiles each of them once, and the driver executes it.

They are for the statements of every commit and every handshake. On SQLite, SQLAlchemy's own execution takes
more CPU than such a statement itself (docs/decisions/0022-hot-statements-go-to-the-driver.md).
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import chain, product
from typing import Any

from sqlalchemy import Connection, Delete, FromClause, Insert, Select, Update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from gateway.database.rows import rows, values_of
from gateway.database.sqlite import driver_of
from gateway.protocol.encoding import dumps

MAX_ROWS = 64
"""Maximum number of rows in one statement on SQLite, a power of two."""

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
            return _execute_on_postgres(connection, self._built(connection), parameters)
        if not self._sql:
            self._compile(connection)
        values = {**self._constants, **parameters}
        return _execute(connection, self._sql, [values[name] for name in self._names])

    @contextmanager
    def reading(
        self, connection: Connection, parameters: Mapping[str, Any]
    ) -> Iterator[Iterable[Sequence[Any]]]:
        """Execute the statement, and yield its rows one by one: SQLite reads none beyond the last one taken.

        Raises SQLAlchemy's `DBAPIError`.
        """
        if connection.dialect.name != "sqlite":
            with connection.execute(self._built(connection), parameters) as result:
                yield result
            return
        if not self._sql:
            self._compile(connection)
        values = {**self._constants, **parameters}
        try:
            found = driver_of(connection).execute(self._sql, [values[name] for name in self._names])
            with closing(found):
                yield found
        except sqlite3.Error as error:
            raise _sqlalchemy_error(self._sql, error) from error

    def _compile(self, connection: Connection) -> None:
        compiled = self._build("sqlite").compile(dialect=connection.dialect)
        self._names = tuple(compiled.positiontup or ())
        self._constants = {
            name: value for name, value in compiled.params.items() if not compiled.binds[name].required
        }
        # Last, because another thread may run the statement at the same time.
        self._sql = str(compiled)

    def _built(self, connection: Connection) -> Statement:
        if self._postgres is None:
            self._postgres = self._build(connection.dialect.name)
        return self._postgres


class PreparedRows:
    """A statement that takes rows of these columns. `build` returns it for a table of them.

    On SQLite each value is a parameter, because reading it from JSON takes several times as long. To have few
    texts, the rows are divided into powers of two. On Postgres all rows are one parameter (`rows`).
    """

    def __init__(self, build: Callable[[FromClause], Statement], **columns: TypeEngine[Any]) -> None:
        self._build = build
        self._columns = columns
        self._postgres: Statement | None = None
        self._texts: dict[int, str] = {}

    def run(self, connection: Connection, values: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
        """Execute the statement for these rows, and return its rows. Raises SQLAlchemy's `DBAPIError`."""
        if connection.dialect.name != "sqlite":
            if self._postgres is None:
                self._postgres = self._build(rows(connection.dialect.name, **self._columns))
            return _execute_on_postgres(connection, self._postgres, {"rows": dumps(values)})
        found: list[Sequence[Any]] = []
        first = 0
        for number in _powers_of_two(len(values)):
            text = self._texts.get(number) or self._compile(connection, number)
            found += _execute(connection, text, list(chain.from_iterable(values[first : first + number])))
            first += number
        return found

    def _compile(self, connection: Connection, number: int) -> str:
        compiled = self._build(values_of(number, **self._columns)).compile(dialect=connection.dialect)
        if compiled.positiontup != [f"{name}_{row}" for row, name in product(range(number), self._columns)]:
            raise AssertionError("the statement has other parameters than the rows, or in another order")
        text = self._texts[number] = str(compiled)
        return text


def _powers_of_two(number: int) -> Iterator[int]:
    """Return powers of two up to `MAX_ROWS`, largest first, whose sum is the number."""
    power = MAX_ROWS
    while number:
        if number >= power:
            number -= power
            yield power
        else:
            power //= 2


def _execute(connection: Connection, text: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
    try:
        return driver_of(connection).execute(text, values).fetchall()
    except sqlite3.Error as error:
        raise _sqlalchemy_error(text, error) from error


def _sqlalchemy_error(text: str, error: sqlite3.Error) -> Exception:
    """Return the error that SQLAlchemy's own execution would raise."""
    return DBAPIError.instance(text, None, error, sqlite3.Error, hide_parameters=True)


def _execute_on_postgres(
    connection: Connection, statement: Statement, parameters: Mapping[str, Any]
) -> Sequence[Sequence[Any]]:
    """Execute a statement through SQLAlchemy, which also notices a lost connection."""
    result = connection.execute(statement, parameters)
    return result.all() if result.returns_rows else ()
