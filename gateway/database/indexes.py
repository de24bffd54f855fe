"""Indexes that SQLite is told to read.

SQLite plans without statistics. It takes a range of the primary key of `items`, which may be a whole inbox,
for as cheap as a range of an index that holds nothing but the wanted rows. A statement therefore names its
index: `select(...).with_hint(items, BY_PLACE, "sqlite")`. Postgres needs no hint.
"""

from sqlalchemy import FromClause
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler

BY_STATUS = "INDEXED BY ix_items_user_id_place_created_seq"
"""Read a range of one place of an inbox."""

BY_CHANGE = "INDEXED BY ix_items_user_id_seq"
"""Read a range of the log of a user."""


class HintingCompiler(SQLiteCompiler):
    """Writes the hints of a statement, which SQLAlchemy leaves out for SQLite."""

    def get_from_hint_text(self, table: FromClause, text: str | None) -> str | None:  # noqa: ARG002 - SQLAlchemy's
        """Return what follows the name of a table."""
        return text
