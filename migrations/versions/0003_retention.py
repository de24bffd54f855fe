"""column and index for retention.

Revision: 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("users", sa.Column("trimmed_seq", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index(
        op.f("ix_items_deleted_at"),
        "items",
        ["deleted_at"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NOT NULL"),
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_items_deleted_at"), table_name="items")
    op.drop_column("users", "trimmed_seq")
