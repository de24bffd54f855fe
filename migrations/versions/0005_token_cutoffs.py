"""table of token cutoffs.

Revision: 0005.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "token_cutoffs",
        sa.Column("sub_hash", sa.String(length=29), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sub_hash", name=op.f("pk_token_cutoffs")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_token_cutoffs_expires_at"), "token_cutoffs", ["expires_at"], unique=False)
    # The rows in `sessions` stay: processes of the previous version read and write them (`auth/cutoffs`).
    op.execute(
        "INSERT INTO token_cutoffs (sub_hash, ended_at, expires_at)"
        " SELECT substr(id, 4), created_at, expires_at FROM sessions WHERE id LIKE 'x-m%'"
    )


def downgrade() -> None:
    # Nothing needs to be copied back: each cutoff is also a row in `sessions`.
    op.drop_index(op.f("ix_token_cutoffs_expires_at"), table_name="token_cutoffs")
    op.drop_table("token_cutoffs")
