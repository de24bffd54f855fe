"""several items of a collapse key, the last counts of notifications, lanes of due work, a faster list.

Revision: 0007.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_COUNTS = ("missed", "delivered", "seen", "read")
_ONE = ("user_id", "service_id", "key")
_SEVERAL = (*_ONE, "notification_id")
# Those of `store/due_work`: wakes (5) by user, what is to be forgotten (6), and the rest by service and kind.
_LANES = """
UPDATE due_work SET lane = CASE kind
  WHEN 5 THEN -1 - user_id % 256
  WHEN 6 THEN 0
  ELSE kind + 8 * (SELECT service_id FROM notifications WHERE notifications.id = due_work.notification_id)
END
"""


def upgrade() -> None:
    _change_key(_SEVERAL, "SELECT user_id, service_id, key, notification_id FROM earlier_collapse_keys")
    for name in _COUNTS:
        op.add_column("notifications", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("due_work", sa.Column("lane", sa.BigInteger(), server_default="0", nullable=False))
    op.execute(_LANES)
    op.create_index("ix_due_work_lane_due_at_id", "due_work", ["lane", "due_at", "id"], unique=False)
    op.create_index(
        "ix_notifications_service_id_id_category_state",
        "notifications",
        ["service_id", "id", "category", "state"],
        unique=False,
    )
    op.drop_index("ix_notifications_service_id_id", table_name="notifications")


def downgrade() -> None:
    op.create_index("ix_notifications_service_id_id", "notifications", ["service_id", "id"], unique=False)
    op.drop_index("ix_notifications_service_id_id_category_state", table_name="notifications")
    op.drop_index("ix_due_work_lane_due_at_id", table_name="due_work")
    op.drop_column("due_work", "lane")
    for name in _COUNTS:
        op.drop_column("notifications", name)
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
