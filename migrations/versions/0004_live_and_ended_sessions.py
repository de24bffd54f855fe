"""indexes for live, ended and expired sessions.

Revision: 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _partial(name: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(
        op.f(name), "sessions", columns, unique=False, sqlite_where=condition, postgresql_where=condition
    )


def upgrade() -> None:
    op.drop_index(op.f("ix_sessions_ended_at"), table_name="sessions")
    _partial("ix_sessions_ended_at_id", ["ended_at", "id"], "ended_at IS NOT NULL")
    _partial(
        "ix_sessions_user_id_created_at_id_expires_at_ended_at",
        ["user_id", "created_at", "id", "expires_at", "ended_at"],
        "ended_at IS NULL AND user_id IS NOT NULL",
    )
    _partial(
        "ix_sessions_service_id_created_at_id_expires_at_ended_at",
        ["service_id", "created_at", "id", "expires_at", "ended_at"],
        "ended_at IS NULL AND service_id IS NOT NULL",
    )
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_sessions_expires_at"), table_name="sessions")
    op.drop_index(op.f("ix_sessions_service_id_created_at_id_expires_at_ended_at"), table_name="sessions")
    op.drop_index(op.f("ix_sessions_user_id_created_at_id_expires_at_ended_at"), table_name="sessions")
    op.drop_index(op.f("ix_sessions_ended_at_id"), table_name="sessions")
    op.create_index(op.f("ix_sessions_ended_at"), "sessions", ["ended_at"], unique=False)
