"""several items of a collapse key, and the recipients that a delivery has missed.

Revision: 0007.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_ONE = ("user_id", "service_id", "key")
_SEVERAL = (*_ONE, "notification_id")


def upgrade() -> None:
    _change_key(_SEVERAL, "SELECT user_id, service_id, key, notification_id FROM earlier_collapse_keys")
    op.add_column("notifications", sa.Column("missed", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("notifications", "missed")
    newest = "SELECT user_id, service_id, key, max(notification_id) FROM {} GROUP BY user_id, service_id, key"
    if op.get_bind().dialect.name != "sqlite":
        op.execute(
            "DELETE FROM collapse_keys WHERE (user_id, service_id, key, notification_id)"
            f" NOT IN ({newest.format('collapse_keys')})"
        )
    _change_key(_ONE, newest.format("earlier_collapse_keys"))


def _change_key(columns: tuple[str, ...], earlier: str) -> None:
    """Give the table this primary key. SQLite needs a new table, filled with the rows of `earlier`."""
    if op.get_bind().dialect.name != "sqlite":
        op.drop_constraint("pk_collapse_keys", "collapse_keys", type_="primary")
        op.create_primary_key("pk_collapse_keys", "collapse_keys", list(columns))
        return
    op.drop_index("ix_collapse_keys_notification_id", table_name="collapse_keys")
    op.rename_table("collapse_keys", "earlier_collapse_keys")
    op.create_table(
        "collapse_keys",
        sa.Column("user_id", _KEY, nullable=False),
        sa.Column("service_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("notification_id", _KEY, nullable=False),
        sa.ForeignKeyConstraint(
            ["notification_id"],
            ["notifications.id"],
            name=op.f("fk_collapse_keys_notification_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_collapse_keys_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(*columns, name=op.f("pk_collapse_keys")),
        sqlite_with_rowid=False,
    )
    op.execute(f"INSERT INTO collapse_keys (user_id, service_id, key, notification_id) {earlier}")
    op.drop_table("earlier_collapse_keys")
    op.create_index("ix_collapse_keys_notification_id", "collapse_keys", ["notification_id"], unique=False)
