"""Row parameters: many rows in one statement, as a JSON parameter that the database unpacks into a table.

The statements of every commit have a parameter for each value instead, on SQLite (`prepared`).

docs/decisions/0005-many-rows-as-one-parameter.md compares the cost of the alternatives.
"""

from typing import Any

from sqlalchemy import FromClause, Select, Text, bindparam, cast, column, func, literal, select, values
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine


def rows(dialect: str, **columns: TypeEngine[Any]) -> FromClause:
    """Return the parameter `rows`, a JSON array of arrays, as a table of these columns.

    Any number of rows takes one statement with one parameter. With more steps, SQLite's driver would release
    the interpreter's lock and wait for it again at each one, and Postgres would need a message for each.
    """
    array = bindparam("rows", type_=Text)
    if dialect == "sqlite":
        each = func.json_each(array).table_valued("value")
        picked = [
            cast(func.json_extract(each.c.value, f"$[{index}]"), kind).label(name)
            for index, (name, kind) in enumerate(columns.items())
        ]
    else:
        each = func.jsonb_array_elements(cast(array, JSONB)).table_valued("value")
        picked = [
            cast(each.c.value.op("->>")(literal(index)), kind).label(name)
            for index, (name, kind) in enumerate(columns.items())
        ]
    return select(*picked).subquery("r")


def values_of(number: int, **columns: TypeEngine[Any]) -> FromClause:
    """Return so many rows of these columns as a table. Each value is a parameter: `{column}_{row}`."""
    table = values(*(column(name, kind) for name, kind in columns.items()), name="r")
    parameters = [
        tuple(bindparam(f"{name}_{row}", type_=kind) for name, kind in columns.items())
        for row in range(number)
    ]
    return table.data(parameters).cte("r")


def one_column(dialect: str, name: str, kind: TypeEngine[Any]) -> Select[Any]:
    """Return the parameter `name`, a JSON array, as a one-column selection for `IN`."""
    array = bindparam(name, type_=Text)
    if dialect == "sqlite":
        return select(func.json_each(array).table_valued("value").c.value)
    element = func.jsonb_array_elements_text(cast(array, JSONB)).table_valued("value").c.value
    return select(cast(element, kind))
