"""Records: rows of the tables as callers get them, and the error for one that is missing."""

from typing import Any

from sqlalchemy import Row

from gateway.errors import NotFound

Record = Row[*tuple[Any, ...]]
"""A row of one of the tables."""


def found(row: Record | None, kind: str, name: str) -> Record:
    """Return the row. Raises `NotFound` where no row of this kind has this name."""
    if row is None:
        raise NotFound(f"There is no such {kind}.", name=name)
    return row
