"""rotated refresh tokens.

Revision: 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("previous_hash", sa.LargeBinary(), nullable=True))
    op.add_column("sessions", sa.Column("rotated_at", sa.BigInteger(), nullable=True))
    op.add_column("sessions", sa.Column("refresh_seed", sa.LargeBinary(), nullable=True))
    op.add_column("sessions", sa.Column("minted_by", sa.BigInteger(), nullable=True))
    op.create_index(op.f("ix_sessions_previous_hash"), "sessions", ["previous_hash"], unique=True)
    op.create_index(op.f("ix_sessions_minted_by"), "sessions", ["minted_by"], unique=False)
    op.create_table(
        "spent_refresh_tokens",
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("session_id", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sessions.id"],
            name=op.f("fk_spent_refresh_tokens_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_spent_refresh_tokens")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_spent_refresh_tokens_session_id"), "spent_refresh_tokens", ["session_id"], unique=False
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_spent_refresh_tokens_session_id"), table_name="spent_refresh_tokens")
    op.drop_table("spent_refresh_tokens")
    op.drop_index(op.f("ix_sessions_minted_by"), table_name="sessions")
    op.drop_index(op.f("ix_sessions_previous_hash"), table_name="sessions")
    op.drop_column("sessions", "minted_by")
    op.drop_column("sessions", "refresh_seed")
    op.drop_column("sessions", "rotated_at")
    op.drop_column("sessions", "previous_hash")
