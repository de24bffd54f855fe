"""the life of a notification: schedule, edits, expiry, collapse keys, snoozes, answers, preferences.

Revision: 0006.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_OLD_STATUS = (
    "CASE WHEN deleted_at IS NOT NULL THEN 4"
    " WHEN archived_at IS NOT NULL AND read_at IS NOT NULL THEN 3"
    " WHEN archived_at IS NOT NULL THEN 2"
    " WHEN read_at IS NOT NULL THEN 1"
    " ELSE 0 END"
)
_STATUS = _OLD_STATUS.replace("THEN 4", "THEN 4 WHEN snoozed_until IS NOT NULL THEN 5")

_OLD_COLUMNS = "user_id, created_seq, seq, notification_id, read_at, archived_at, deleted_at"


def _partial(table: str, columns: list[str], where: str) -> None:
    name = f"ix_{table}_{'_'.join(columns)}"
    condition = sa.text(where)
    op.create_index(
        op.f(name), table, columns, unique=False, sqlite_where=condition, postgresql_where=condition
    )


def _number(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)


def upgrade() -> None:
    op.add_column("users", sa.Column("preferences", sa.Text(), nullable=True))
    op.add_column("users", _number("preferences_version"))
    for column in (
        sa.Column("icon", sa.Text(), nullable=True),
        sa.Column("actions", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("edited_at", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.SmallInteger(), server_default="1", nullable=False),
        _number("muted"),
        sa.Column("deliver_at", sa.BigInteger(), nullable=True),
        sa.Column("ttl", sa.BigInteger(), nullable=True),
        sa.Column("collapse_key", sa.String(length=64), nullable=True),
    ):
        op.add_column("notifications", column)
    op.create_index(
        op.f("ix_notifications_service_id_id"), "notifications", ["service_id", "id"], unique=False
    )
    _partial("notifications", ["state", "id"], "state <> 1")
    _partial("notifications", ["service_id", "state", "id"], "state <> 1")
    _create_tables()
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_items(_STATUS, new=True)
        return
    for column in (
        sa.Column("snoozed_until", sa.BigInteger(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("deleted_reason", sa.String(length=9), nullable=True),
    ):
        op.add_column("items", column)
    _replace_status(_STATUS)
    _partial("items", ["user_id", "snoozed_until", "created_seq"], "snoozed_until IS NOT NULL")


def _create_tables() -> None:
    op.create_table(
        "scheduled_recipients",
        sa.Column("notification_id", _KEY, nullable=False),
        sa.Column("user_id", _KEY, nullable=False),
        sa.Column("service_id", sa.BigInteger(), nullable=False),
        sa.Column("collapse_key", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(
            ["notification_id"],
            ["notifications.id"],
            name=op.f("fk_scheduled_recipients_notification_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_scheduled_recipients_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("notification_id", "user_id", name=op.f("pk_scheduled_recipients")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_scheduled_recipients_user_id"), "scheduled_recipients", ["user_id"], unique=False
    )
    _partial("scheduled_recipients", ["user_id", "service_id", "collapse_key"], "collapse_key IS NOT NULL")
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
        sa.PrimaryKeyConstraint(
            "user_id", "service_id", "key", "notification_id", name=op.f("pk_collapse_keys")
        ),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_collapse_keys_notification_id"), "collapse_keys", ["notification_id"], unique=False
    )
    op.create_table(
        "due_work",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("notification_id", _KEY, nullable=False),
        sa.Column("user_id", _KEY, nullable=True),
        _number("after"),
        sa.ForeignKeyConstraint(
            ["notification_id"],
            ["notifications.id"],
            name=op.f("fk_due_work_notification_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_due_work_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_due_work")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_due_work_due_at_id"), "due_work", ["due_at", "id"], unique=False)
    op.create_index(
        op.f("ix_due_work_notification_id_user_id"), "due_work", ["notification_id", "user_id"], unique=False
    )
    op.create_index(op.f("ix_due_work_user_id"), "due_work", ["user_id"], unique=False)


def _replace_status(status: str) -> None:
    """Compute the column `place` by another rule. Postgres rewrites the table."""
    op.drop_index(op.f("ix_items_user_id_place_created_seq"), table_name="items")
    op.drop_column("items", "place")
    op.add_column(
        "items", sa.Column("place", sa.SmallInteger(), sa.Computed(status, persisted=True), nullable=False)
    )
    op.create_index(
        op.f("ix_items_user_id_place_created_seq"), "items", ["user_id", "place", "created_seq"], unique=False
    )


def _rebuild_items(status: str, *, new: bool) -> None:
    """Copy the items into a table with another `place`. SQLite cannot change a stored computed column."""
    op.rename_table("items", "items_before")
    added = [
        sa.Column("snoozed_until", sa.BigInteger(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("deleted_reason", sa.String(length=9), nullable=True),
    ]
    op.create_table(
        "items",
        sa.Column("user_id", _KEY, nullable=False),
        sa.Column("created_seq", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("notification_id", _KEY, nullable=False),
        sa.Column("read_at", sa.BigInteger(), nullable=True),
        sa.Column("archived_at", sa.BigInteger(), nullable=True),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        *(added if new else ()),
        sa.Column("place", sa.SmallInteger(), sa.Computed(status, persisted=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["notification_id"], ["notifications.id"], name=op.f("fk_items_notification_id")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_items_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "created_seq", name=op.f("pk_items")),
        sqlite_with_rowid=False,
    )
    op.execute(f"INSERT INTO items ({_OLD_COLUMNS}) SELECT {_OLD_COLUMNS} FROM items_before")
    op.drop_table("items_before")  # its indexes go with it
    op.create_index(op.f("ix_items_user_id_seq"), "items", ["user_id", "seq"], unique=False)
    op.create_index(
        op.f("ix_items_user_id_place_created_seq"), "items", ["user_id", "place", "created_seq"], unique=False
    )
    op.create_index(
        op.f("ix_items_notification_id_user_id"), "items", ["notification_id", "user_id"], unique=True
    )
    _partial("items", ["deleted_at"], "deleted_at IS NOT NULL")
    if new:
        _partial("items", ["user_id", "snoozed_until", "created_seq"], "snoozed_until IS NOT NULL")


def downgrade() -> None:
    # Snoozed items are in the inbox again.
    unread = "snoozed_until IS NOT NULL AND deleted_at IS NULL AND read_at IS NULL AND archived_at IS NULL"
    count = f"SELECT count(*) FROM items WHERE user_id = users.id AND {unread}"
    op.execute(
        f"UPDATE users SET unread = unread + ({count}), unseen = unseen + ({count} AND created_seq > seen_seq)"
        f" WHERE id IN (SELECT user_id FROM items WHERE {unread})"
    )
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_items(_OLD_STATUS, new=False)
    else:
        op.drop_index(op.f("ix_items_user_id_snoozed_until_created_seq"), table_name="items")
        _replace_status(_OLD_STATUS)
        for column in ("snoozed_until", "answer", "deleted_reason"):
            op.drop_column("items", column)
    for table in ("due_work", "collapse_keys", "scheduled_recipients"):
        op.drop_table(table)
    op.drop_index(op.f("ix_notifications_service_id_state_id"), table_name="notifications")
    op.drop_index(op.f("ix_notifications_state_id"), table_name="notifications")
    op.drop_index(op.f("ix_notifications_service_id_id"), table_name="notifications")
    for column in (
        "icon",
        "actions",
        "expires_at",
        "edited_at",
        "state",
        "muted",
        "deliver_at",
        "ttl",
        "collapse_key",
    ):
        op.drop_column("notifications", column)
    op.drop_column("users", "preferences_version")
    op.drop_column("users", "preferences")
