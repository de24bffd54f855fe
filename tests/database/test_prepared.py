"""Prepared statements: the driver's rows and SQLAlchemy's errors, on both databases."""

from typing import Any

import pytest
from sqlalchemy import Connection, Select, bindparam, insert, literal, select, update
from sqlalchemy.exc import DBAPIError

from gateway.auth.users import add_missing_users
from gateway.database.database import Database
from gateway.database.models import users
from gateway.database.prepared import Prepared
from gateway.errors import Unavailable

SECRET = "what only the user may read"


async def test_it_returns_rows_by_parameters_and_constants_and_is_built_once(database: Database) -> None:
    built: list[str] = []

    def build(dialect: str) -> Select[Any]:
        built.append(dialect)
        return select(users.c.id, users.c.sub, literal("constant")).where(users.c.sub == bindparam("sub"))

    statement = Prepared(build)
    await database.write(add_missing_users, ["ada", "bob"], 0)
    for sub in ("ada", "bob", "ada"):
        ((number, *rest),) = await database.read(statement.run, {"sub": sub})
        assert isinstance(number, int)
        assert rest == [sub, "constant"]
    assert len(await database.read(statement.run, {"sub": "eve"})) == 0
    assert len(built) == 1


async def test_a_change_without_rows_returns_none_and_is_committed(database: Database) -> None:
    statement = Prepared(lambda _: update(users).where(users.c.sub == bindparam("of")).values(unread=7))
    await database.write(add_missing_users, ["ada"], 0)
    assert len(await database.write(statement.run, {"of": "ada"})) == 0
    assert await database.read(lambda connection: connection.scalar(select(users.c.unread))) == 7


async def test_a_failure_is_sqlalchemys_and_quotes_no_parameter(database: Database) -> None:
    statement = Prepared(lambda _: insert(users).values(sub=bindparam("sub"), created_at=0, epoch=None))
    with pytest.raises(DBAPIError) as raised:
        await database.write(statement.run, {"sub": SECRET})
    assert SECRET not in str(raised.value)


async def test_a_refused_write_is_an_outage_as_with_any_other_statement(database: Database) -> None:
    statement = Prepared(lambda _: update(users).values(unread=1))

    def write(connection: Connection) -> object:
        return statement.run(connection, {})

    with pytest.raises(Unavailable):
        await database.read(write)
