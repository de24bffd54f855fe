"""Index hints for SQLite.

SQLite plans without statistics. It assumes that a range of the primary key of `items`, which may be a whole
inbox, is as cheap as a range of an index that contains only the wanted rows. A statement therefore names its
index: `select(...).with_hint(items, BY_STATUS, "sqlite")`. Postgres needs no hint.
"""

from sqlalchemy import FromClause
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler

BY_STATUS = "INDEXED BY ix_items_user_id_place_created_seq"
"""Hint for reading a range of an inbox's items with one status."""

BY_WAKING = "INDEXED BY ix_items_user_id_snoozed_until_created_seq"
"""Hint for reading a range of an inbox's snoozed items."""

BY_CHANGE = "INDEXED BY ix_items_user_id_seq"
"""Hint for reading a range of a user's log."""


class HintingCompiler(SQLiteCompiler):
    """A compiler that renders the hints of a statement. SQLAlchemy's compiler omits them."""

    def get_from_hint_text(self, table: FromClause, text: str | None) -> str | None:  # noqa: ARG002 - an override
        """Return the text to render after a table's name."""
        return text
