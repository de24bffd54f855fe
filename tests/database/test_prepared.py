"""Prepared statements: the driver's rows and SQLAlchemy's errors, on both databases."""

from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Connection,
    FromClause,
    Insert,
    Select,
    String,
    Update,
    bindparam,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError

from gateway.auth.users import add_missing_users
from gateway.database.database import Database, open_database
from gateway.database.models import users
from gateway.database.prepared import MAX_ROWS, Prepared, PreparedRows
from gateway.errors import Unavailable
from tests.support.databases import settings_for

SECRET = "what only the user may read"


async def test_a_prepared_statement_returns_rows_and_constants_and_is_built_once(database: Database) -> None:
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


async def test_an_update_without_rows_returns_an_empty_result_and_is_committed(database: Database) -> None:
    statement = Prepared(lambda _: update(users).where(users.c.sub == bindparam("of")).values(unread=7))
    await database.write(add_missing_users, ["ada"], 0)
    assert len(await database.write(statement.run, {"of": "ada"})) == 0
    assert await database.read(lambda connection: connection.scalar(select(users.c.unread))) == 7


async def test_a_failure_raises_a_sqlalchemy_error_without_parameter_values(database: Database) -> None:
    statement = Prepared(lambda _: insert(users).values(sub=bindparam("sub"), created_at=0, epoch=None))
    with pytest.raises(DBAPIError) as raised:
        await database.write(statement.run, {"sub": SECRET})
    assert SECRET not in str(raised.value)


async def test_rows_are_read_one_by_one(database: Database) -> None:
    statement = Prepared(lambda _: select(users.c.sub).where(users.c.id > bindparam("after")).order_by("id"))
    await database.write(add_missing_users, ["ada", "bob", "eve"], 0)

    def read(connection: Connection, number: int) -> list[Any]:
        with statement.reading(connection, {"after": 0}) as rows:
            return [sub for _, (sub,) in zip(range(number), rows, strict=False)]

    assert await database.read(read, 2) == ["ada", "bob"]
    assert await database.read(read, 5) == ["ada", "bob", "eve"]


@pytest.mark.parametrize("late", [False, True])
async def test_a_failure_while_rows_are_read_is_sqlalchemys(sqlite_url: str, late: bool) -> None:
    """The first row fails with the statement, a later one while the rows are read."""
    statement = Prepared(
        lambda _: select(func.json(users.c.sub)).where(users.c.id > bindparam("after")).order_by("id")
    )

    def read(connection: Connection) -> None:
        with (
            pytest.raises(DBAPIError, match="malformed JSON"),
            statement.reading(connection, {"after": 0}) as rows,
        ):
            list(rows)

    async with open_database(settings_for(sqlite_url)) as database:
        await database.write(add_missing_users, [*(["1", "2"] if late else []), SECRET], 0)
        await database.read(read)


async def test_a_refused_write_of_a_prepared_statement_is_an_outage(database: Database) -> None:
    statement = Prepared(lambda _: update(users).values(unread=1))

    def write(connection: Connection) -> object:
        return statement.run(connection, {})

    with pytest.raises(Unavailable):
        await database.read(write)


def insert_users(new: FromClause) -> Insert:
    names = ["sub", "epoch", "created_at"]
    return insert(users).from_select(names, select(new)).returning(users.c.sub, users.c.created_at)


INSERT_USERS = PreparedRows(insert_users, sub=String(), epoch=String(), created_at=BigInteger())


@pytest.mark.parametrize("number", [0, 1, 2, 3, MAX_ROWS - 1, MAX_ROWS, 2 * MAX_ROWS + 5])
async def test_a_statement_takes_any_number_of_rows(database: Database, number: int) -> None:
    values = [(f"user-{row}", "epoch", row) for row in range(number)]
    inserted = await database.write(INSERT_USERS.run, values)
    assert sorted(map(tuple, inserted)) == sorted((sub, created_at) for sub, _, created_at in values)
    stored = await database.read(
        lambda connection: connection.execute(select(users.c.sub, users.c.created_at)).all()
    )
    assert sorted(map(tuple, stored)) == sorted(map(tuple, inserted))


async def test_each_row_is_updated_with_its_own_values(database: Database) -> None:
    def update_users(new: FromClause) -> Update:
        return update(users).where(users.c.id == new.c.id).values(unread=new.c.unread)

    statement = PreparedRows(update_users, id=BigInteger(), unread=BigInteger())
    await database.write(INSERT_USERS.run, [(f"user-{row}", "epoch", row) for row in range(7)])
    ids = await database.read(lambda connection: list(connection.scalars(select(users.c.id))))
    await database.write(statement.run, [(one, 10 * one) for one in ids[1:]])
    unread = await database.read(
        lambda connection: dict(connection.execute(select(users.c.id, users.c.unread)).all())
    )
    assert unread == {one: 0 if one == ids[0] else 10 * one for one in ids}


async def test_a_refused_row_is_sqlalchemys_error_without_the_values(database: Database) -> None:
    with pytest.raises(DBAPIError) as raised:
        await database.write(INSERT_USERS.run, [("ada", "epoch", 0), (SECRET, None, 0)])
    assert SECRET not in str(raised.value)
    assert await database.read(lambda connection: connection.scalars(select(users.c.sub)).all()) == []


async def test_a_statement_with_a_parameter_besides_its_rows_is_refused(sqlite_url: str) -> None:
    statement = PreparedRows(
        lambda new: update(users).where(users.c.id == new.c.id).values(unread=bindparam("unread")),
        id=BigInteger(),
    )
    with pytest.raises(AssertionError, match="other parameters"):
        async with open_database(settings_for(sqlite_url)) as database:
            await database.write(statement.run, [(1,)])
