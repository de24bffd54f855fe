"""Records: table rows as callers get them, and the error for a missing row."""

from typing import Any

from sqlalchemy import Row

from gateway.errors import NotFound

Record = Row[*tuple[Any, ...]]
"""A row of one of the tables."""


def found(row: Record | None, kind: str, name: str) -> Record:
    """Return the row. Raises `NotFound` if it is None; `kind` and `name` say what was looked for."""
    if row is None:
        raise NotFound(f"There is no such {kind}.", name=name)
    return row
