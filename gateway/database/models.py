"""The tables. Times are milliseconds since 1970, in integers; keys are integers.

The reasons for the counters on `users` and for the indexes of `items` are in docs/architecture.md.
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

# SQLite numbers rows by itself only in a column whose type is exactly INTEGER.
Key = BigInteger().with_variant(Integer(), "sqlite")


def _number(name: str, *, default: int | None = 0) -> "Column[int]":
    server_default = None if default is None else str(default)
    return Column(name, BigInteger, nullable=default is None, server_default=server_default)


users = Table(
    "users",
    metadata,
    Column("id", Key, primary_key=True),
    # A user who is being erased has no sub any more: the name is free, and the rows are on their way out.
    Column("sub", String(255), unique=True),
    Column("password_hash", Text),
    Column("disabled", Boolean, nullable=False, server_default=false()),
    Column("created_at", BigInteger, nullable=False),
    # The log of the user: which one it is, its last number, and the counts that are exact at that number.
    Column("epoch", String(16), nullable=False),
    _number("last_seq"),
    _number("unread"),
    _number("unseen"),
    # Watermarks: what the user's badge has shown, and what one of the user's clients has acknowledged.
    _number("seen_seq"),
    _number("delivered_seq"),
    # The highest number of which an item was removed: a client before it cannot be told what became of it.
    _number("trimmed_seq"),
    # An erased user's number must never name another user's log.
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

# Every access token belongs to a session; a session that has ended takes its tokens with it.
sessions = Table(
    "sessions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), index=True),
    Column("service_id", ForeignKey("services.id", ondelete="CASCADE"), index=True),
    # The refresh token that holds, the one before it, and what the one that holds was derived from the one
    # before it with (`refresh_tokens`).
    Column("refresh_hash", LargeBinary, unique=True),
    Column("previous_hash", LargeBinary),
    Column("rotated_at", BigInteger),
    Column("refresh_seed", LargeBinary),
    # The service that had the tokens of this session minted. A number that names nobody is no harm.
    Column("minted_by", BigInteger, index=True),
    Column("created_at", BigInteger, nullable=False),
    # Expired sessions are swept by it.
    Column("expires_at", BigInteger, nullable=False, index=True),
    Column("ended_at", BigInteger),
    CheckConstraint("(user_id IS NULL) <> (service_id IS NULL)", name="one_owner"),
    Index(None, "previous_hash", unique=True),
    # What has ended, in pages: counted and read without the table.
    Index(None, "ended_at", "id", sqlite_where=text(_ENDED), postgresql_where=text(_ENDED)),
    # The live sessions of an owner by age: beyond a limit the oldest end. `ended_at`, null in all of them,
    # spares SQLite a look at the table.
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

# When all sessions of a user last ended, by a hash of the `sub`, which outlives the user (`cutoffs`).
token_cutoffs = Table(
    "token_cutoffs",
    metadata,
    Column("sub_hash", String(29), primary_key=True),
    Column("ended_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
    sqlite_with_rowid=False,
)

# By what the refresh tokens before those two are recognised: the hash of their family, or of a token that has
# none (`refresh_tokens`). Reuse of one is treated as theft.
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
    # A retired key signs nothing more; it verifies until the last token it signed has expired.
    Column("retired_at", BigInteger),
)

notifications = Table(
    "notifications",
    metadata,
    Column("id", Key, primary_key=True),
    # UUIDv7, so that the index grows at its right edge.
    Column("uuid", String(36), nullable=False, unique=True),
    # The service that posted it, which may be gone by now: a number that names nobody is no harm.
    Column("service_id", BigInteger, nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text),
    Column("category", String(64), nullable=False),
    Column("priority", String(6), nullable=False),
    Column("url", Text),
    Column("data", Text),
    Column("recipients", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

UNREAD, READ, ARCHIVED_UNREAD, ARCHIVED_READ, DELETED = range(5)
"""The five statuses of an item, as the column `place` stores them."""

_STATUS = (
    "CASE WHEN deleted_at IS NOT NULL THEN 4"
    " WHEN archived_at IS NOT NULL AND read_at IS NOT NULL THEN 3"
    " WHEN archived_at IS NOT NULL THEN 2"
    " WHEN read_at IS NOT NULL THEN 1"
    " ELSE 0 END"
)

items = Table(
    "items",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    # Where the item entered the log: its order in the inbox.
    Column("created_seq", BigInteger, nullable=False),
    # Its last change: its place in a replay. The items of one bulk change share it.
    Column("seq", BigInteger, nullable=False),
    Column("notification_id", ForeignKey("notifications.id"), nullable=False),
    Column("read_at", BigInteger),
    Column("archived_at", BigInteger),
    Column("deleted_at", BigInteger),
    Column("place", SmallInteger, Computed(_STATUS, persisted=True), key="status", nullable=False),
    PrimaryKeyConstraint("user_id", "created_seq"),
    # Replay reads a range of this one.
    Index(None, "user_id", "seq"),
    # The pages of an inbox read a range of this one for each place they show, so no page scans what it hides.
    Index(None, "user_id", "status", "created_seq"),
    # One item by its notification, and the sender's counts.
    Index(None, "notification_id", "user_id", unique=True),
    # What retention removes. It holds the deleted items only, so an item that is posted costs it nothing.
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
