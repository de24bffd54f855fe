"""The database's tables. Times are integers, in milliseconds since 1970. Keys are integers.

docs/architecture.md explains the counters on `users` and the indexes of `items`.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite assigns row numbers only to a column whose type is exactly INTEGER.
Key = BigInteger().with_variant(Integer(), "sqlite")


def _number(name: str, *, default: int | None = 0) -> "Column[int]":
    server_default = None if default is None else str(default)
    return Column(name, BigInteger, nullable=default is None, server_default=server_default)


users = Table(
    "users",
    metadata,
    Column("id", Key, primary_key=True),
    # NULL while the user is being erased: the sub may be used again, and the rows are being deleted.
    Column("sub", String(255), unique=True),
    Column("password_hash", Text),
    Column("disabled", Boolean, nullable=False, server_default=false()),
    Column("created_at", BigInteger, nullable=False),
    # The user's log: its identity, its last seq, and the counts that are exact at that seq.
    Column("epoch", String(16), nullable=False),
    _number("last_seq"),
    _number("unread"),
    _number("unseen"),
    # Watermarks: up to where the user has seen the inbox, and one of the user's clients has acknowledged.
    _number("seen_seq"),
    _number("delivered_seq"),
    # The highest seq of a purged item. A client whose position is lower can't replay, and gets a reset.
    _number("trimmed_seq"),
    # The preferences as JSON, NULL for nearly all users, and how often they changed (`store/preferences`).
    Column("preferences", Text),
    _number("preferences_version"),
    # An erased user's id must never be reused for another user's log.
    sqlite_autoincrement=True,
)

services = Table(
    "services",
    metadata,
    Column("id", Key, primary_key=True),
    Column("client_id", String(64), nullable=False, unique=True),
    Column("name", String(200), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("service_id", ForeignKey("services.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

_ENDED = "ended_at IS NOT NULL"

# Every access token belongs to a session. Ending the session revokes its tokens.
sessions = Table(
    "sessions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), index=True),
    Column("service_id", ForeignKey("services.id", ondelete="CASCADE"), index=True),
    # The current refresh token, the previous one, and the seed that derives the current one from the previous
    # one (`refresh_tokens`).
    Column("refresh_hash", LargeBinary, unique=True),
    Column("previous_hash", LargeBinary),
    Column("rotated_at", BigInteger),
    Column("refresh_seed", LargeBinary),
    # The service that minted the tokens. May outlive the service; deliberately not a foreign key.
    Column("minted_by", BigInteger, index=True),
    Column("created_at", BigInteger, nullable=False),
    # Indexed for the deletion of expired sessions.
    Column("expires_at", BigInteger, nullable=False, index=True),
    Column("ended_at", BigInteger),
    CheckConstraint("(user_id IS NULL) <> (service_id IS NULL)", name="one_owner"),
    Index(None, "previous_hash", unique=True),
    # Ended sessions, to count and page through without reading the table.
    Index(None, "ended_at", "id", sqlite_where=text(_ENDED), postgresql_where=text(_ENDED)),
    # An owner's live sessions by age: beyond a limit, the oldest are ended. `ended_at`, which is NULL in all
    # of them, makes the index covering for SQLite.
    *(
        Index(
            None,
            owner,
            "created_at",
            "id",
            "expires_at",
            "ended_at",
            sqlite_where=text(f"ended_at IS NULL AND {owner} IS NOT NULL"),
            postgresql_where=text(f"ended_at IS NULL AND {owner} IS NOT NULL"),
        )
        for owner in ("user_id", "service_id")
    ),
)

# When all sessions of a user were last ended (`cutoffs`). The hash of the `sub` outlives the user.
token_cutoffs = Table(
    "token_cutoffs",
    metadata,
    Column("sub_hash", String(29), primary_key=True),
    Column("ended_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
    sqlite_with_rowid=False,
)

# Recognizes refresh tokens older than a session's last two, by the hash of their family, or of the token if
# it has none (`refresh_tokens`). Reuse of one is treated as theft.
used_refresh_tokens = Table(
    "spent_refresh_tokens",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    sqlite_with_rowid=False,
)

tickets = Table(
    "tickets",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("scope", Text, nullable=False),
    Column("token_expires_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", String(64), primary_key=True),
    Column("private_pem", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # A retired key signs no more tokens. It verifies until the last token that it signed has expired.
    Column("retired_at", BigInteger),
)

_NOT_DELIVERED = "state <> 1"

notifications = Table(
    "notifications",
    metadata,
    Column("id", Key, primary_key=True),
    # A UUIDv7, so that new rows go to the end of the index.
    Column("uuid", String(36), nullable=False, unique=True),
    # The service that posted it. May outlive the service; deliberately not a foreign key.
    Column("service_id", BigInteger, nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text),
    Column("category", String(64), nullable=False),
    Column("priority", String(6), nullable=False),
    Column("url", Text),
    Column("data", Text),
    Column("recipients", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("icon", Text),
    Column("actions", Text),
    _number("expires_at", default=None),
    _number("edited_at", default=None),
    # What the sender sees (`store/sent`): the state, and how many recipients have muted the category.
    Column("state", SmallInteger, nullable=False, server_default="1"),
    _number("muted"),
    # The sender's request: when to deliver, in seconds how long to keep it then, which one to replace.
    _number("deliver_at", default=None),
    _number("ttl", default=None),
    Column("collapse_key", String(64)),
    # How many recipients it no longer had when it was delivered: erased, or with a newer one of its key.
    _number("missed", default=None),
    # The counts of one that has left every inbox: they don't change any more (`store/sent`).
    _number("delivered", default=None),
    _number("seen", default=None),
    _number("read", default=None),
    # The sender's list, with what it is searched for, and the few in it that are not simply delivered.
    Index(None, "service_id", "id", "category", "state"),
    *(
        Index(None, *columns, "id", sqlite_where=text(_NOT_DELIVERED), postgresql_where=text(_NOT_DELIVERED))
        for columns in (("state",), ("service_id", "state"))
    ),
    sqlite_autoincrement=True,
)

SCHEDULED, DELIVERED, CANCELLED, UNSENT, EXPIRED = range(5)
"""The states of a notification, as the column `state` stores them."""

# The recipients of a scheduled notification. They have no item until it is delivered.
scheduled_recipients = Table(
    "scheduled_recipients",
    metadata,
    Column("notification_id", ForeignKey("notifications.id", ondelete="CASCADE"), nullable=False),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    # Those of the notification, for the lookup of an earlier one with the same key.
    Column("service_id", BigInteger, nullable=False),
    Column("collapse_key", String(64)),
    PrimaryKeyConstraint("notification_id", "user_id"),
    Index(
        None,
        "user_id",
        "service_id",
        "collapse_key",
        sqlite_where=text("collapse_key IS NOT NULL"),
        postgresql_where=text("collapse_key IS NOT NULL"),
    ),
    sqlite_with_rowid=False,
)

# The items that the next notification of a key replaces (`store/collapse_keys`).
collapse_keys = Table(
    "collapse_keys",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("service_id", BigInteger, nullable=False),
    Column("key", String(64), nullable=False),
    Column("notification_id", ForeignKey("notifications.id", ondelete="CASCADE"), nullable=False, index=True),
    PrimaryKeyConstraint("user_id", "service_id", "key", "notification_id"),
    sqlite_with_rowid=False,
)

DELIVER, EXPIRE, WITHDRAW, TOUCH, REENTER, WAKE, FORGET = range(7)
"""The kinds of due work, as the column `kind` stores them (`store/due_work`)."""

# What happens by the clock, and the rest of changes to many inboxes: see `store/due_work`.
due_work = Table(
    "due_work",
    metadata,
    Column("id", Key, primary_key=True),
    Column("due_at", BigInteger, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("notification_id", ForeignKey("notifications.id", ondelete="CASCADE"), nullable=False),
    # The only user concerned, or NULL: all recipients.
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), index=True),
    # The id of the last user whose inbox is done.
    _number("after"),
    # Whose turn it is done in (`store/due_work`).
    _number("lane"),
    Index(None, "due_at", "id"),
    Index(None, "lane", "due_at", "id"),
    Index(None, "notification_id", "user_id"),
    sqlite_autoincrement=True,
)

UNREAD, READ, ARCHIVED_UNREAD, ARCHIVED_READ, DELETED, SNOOZED = range(6)
"""The six statuses of an item, as the column `place` stores them."""

_STATUS = (
    "CASE WHEN deleted_at IS NOT NULL THEN 4"
    " WHEN snoozed_until IS NOT NULL THEN 5"
    " WHEN archived_at IS NOT NULL AND read_at IS NOT NULL THEN 3"
    " WHEN archived_at IS NOT NULL THEN 2"
    " WHEN read_at IS NOT NULL THEN 1"
    " ELSE 0 END"
)

items = Table(
    "items",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    # The seq at which the item entered the log: its order in the inbox.
    Column("created_seq", BigInteger, nullable=False),
    # The seq of its last change: its order in a replay. The items of one bulk change share it.
    Column("seq", BigInteger, nullable=False),
    Column("notification_id", ForeignKey("notifications.id"), nullable=False),
    Column("read_at", BigInteger),
    Column("archived_at", BigInteger),
    Column("deleted_at", BigInteger),
    Column("snoozed_until", BigInteger),
    # The user's answer, as JSON, and why the item was deleted: NULL if by its user.
    Column("answer", Text),
    Column("deleted_reason", String(9)),
    Column("place", SmallInteger, Computed(_STATUS, persisted=True), key="status", nullable=False),
    PrimaryKeyConstraint("user_id", "created_seq"),
    # A replay reads a range of this index.
    Index(None, "user_id", "seq"),
    # An inbox page reads a range of this index for each status that it shows, and never scans other items.
    Index(None, "user_id", "status", "created_seq"),
    # For finding an item by its notification, and for the sender's counts.
    Index(None, "notification_id", "user_id", unique=True),
    # The snoozed items, soonest first.
    Index(
        None,
        "user_id",
        "snoozed_until",
        "created_seq",
        sqlite_where=text("snoozed_until IS NOT NULL"),
        postgresql_where=text("snoozed_until IS NOT NULL"),
    ),
    # For purging. It contains only deleted items, so posting an item doesn't write to it.
    Index(
        None,
        "deleted_at",
        sqlite_where=text("deleted_at IS NOT NULL"),
        postgresql_where=text("deleted_at IS NOT NULL"),
    ),
    sqlite_with_rowid=False,
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("service_id", ForeignKey("services.id", ondelete="CASCADE"), nullable=False),
    Column("key", String(255), nullable=False),
    Column("request_hash", LargeBinary, nullable=False),
    Column("response", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False, index=True),
    PrimaryKeyConstraint("service_id", "key"),
)
