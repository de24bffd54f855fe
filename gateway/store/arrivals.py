"""Arrivals: posts enter the logs of their recipients, each as the next `seq`.

Functions take a connection and never commit. They take positions whose rows the transaction has locked.
"""

from collections.abc import Container, Sequence
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import BigInteger, Connection, FromClause, Insert, SmallInteger, String, Text, insert, select
from sqlalchemy.types import TypeEngine

from gateway.database.models import DELIVERED, EXPIRE, FORGET, SCHEDULED, items, notifications
from gateway.database.prepared import PreparedRows
from gateway.protocol.items import Content, Item
from gateway.store import collapse, due_work
from gateway.store.entries import Entry
from gateway.store.notification_rows import KEPT_MS, save
from gateway.store.positions import Position, Positions
from gateway.store.preferences import is_quiet, mutes

ITEMS_PER_INSERT = 1000
"""About how many items one statement inserts. On Postgres the event loop builds the statement."""


class Options(NamedTuple):
    """The options of a post. Times are in ms, `ttl` in seconds from delivery. None for most posts.

    With `deliver_at`, the post is scheduled. `expires_at` is part of the content.
    """

    deliver_at: int | None = None
    ttl: int | None = None
    collapse_key: str | None = None


class Post(NamedTuple):
    """One notification and its distinct recipients.

    `options` is None for a post without any, and without an icon, actions and `expires_at`, as most are.
    """

    content: Content
    service_id: int
    recipients: tuple[str, ...]
    options: Options | None = None


Arrival: TypeAlias = tuple[Content, int, Sequence[Position], int, str | None]
"""A notification that enters logs: content, key of its row, recipients, service, and collapse key."""


def append(
    connection: Connection,
    posts: Sequence[Post],
    positions: Positions,
    followed: Container[int],
    now: int,
    required: Container[str] = (),
) -> list[Entry]:
    """Store posts, and let them enter the logs of their recipients, in the order of `posts`.

    Return the entries of the users whose ids are `followed`. `now` is in ms.
    """
    keys = insert_notifications(connection, posts)
    by_sub = positions.by_sub
    arrivals: list[Arrival] = []
    expiring: list[tuple[int, int, int]] = []
    for content, service_id, recipients, options in posts:
        key = keys[content.id]
        collapse_key = None
        if options is not None:
            collapse_key = options.collapse_key
            if content.expires_at is not None:
                expiring.append((key, EXPIRE, content.expires_at))
        reached = [by_sub[sub] for sub in recipients]
        arrivals.append((content, key, reached, service_id, collapse_key))
    if expiring:
        due_work.add_all(connection, expiring)
    return enter(connection, arrivals, followed, now, required)


def enter(
    connection: Connection,
    arrivals: Sequence[Arrival],
    followed: Container[int],
    now: int,
    required: Container[str] = (),
) -> list[Entry]:
    """Let stored notifications enter the logs of their recipients, in this order.

    A notification doesn't enter the log of a recipient who has muted its category, unless it is `required`.
    Return the entries of the users whose ids are `followed`. `now` is in ms.
    """
    entries: list[Entry] = []
    muted: list[tuple[int, int, bool]] = []
    rows_of_items: list[tuple[int, int, int]] = []
    for content, key, positions, service_id, collapse_key in arrivals:
        if collapse_key is not None:
            # The earlier one may be of the same transaction.
            _insert_items(connection, rows_of_items)
            unmuted = [position for position in positions if not mutes(position, content, required)]
            entries += collapse.replace(connection, service_id, collapse_key, key, unmuted, now)
        left_out = 0
        for position in positions:
            if position.preferences is not None and mutes(position, content, required):
                left_out += 1
                continue
            position.seq += 1
            position.unread += 1
            position.unseen += 1
            rows_of_items.append((position.user_id, position.seq, key))
            if position.user_id in followed:
                item = Item(content, position.seq, position.seq)
                entry = Entry(position.user_id, position.counts(), (item,), fresh=True)
                entry.service_id = service_id
                if position.preferences is not None:
                    entry.quiet = is_quiet(position, content, now)
                entries.append(entry)
        if left_out:
            muted.append((key, left_out, left_out == len(positions)))
        if len(rows_of_items) >= ITEMS_PER_INSERT:
            _insert_items(connection, rows_of_items)
    _insert_items(connection, rows_of_items)
    if muted:
        _store_muted(connection, muted, now)
    return entries


def _store_muted(connection: Connection, muted: Sequence[tuple[int, int, bool]], now: int) -> None:
    """Store how many recipients have muted a notification. One that nobody gets is forgotten one day."""
    for key, number, by_all in muted:
        save(connection, key, {"muted": number})
        if by_all:
            due_work.add(connection, FORGET, now + KEPT_MS, key)


def _insert_items(connection: Connection, rows_of_items: list[tuple[int, int, int]]) -> None:
    """Insert the items, and empty the list."""
    if rows_of_items:
        _INSERT_ITEMS.run(connection, rows_of_items)
        rows_of_items.clear()


def _insert_item_rows(new: FromClause) -> Insert:
    columns = ["user_id", "created_seq", "seq", "notification_id"]
    return insert(items).from_select(
        columns, select(new.c.user_id, new.c.seq, new.c.seq.label("last"), new.c.notification_id)
    )


_INSERT_ITEMS = PreparedRows(
    _insert_item_rows, user_id=BigInteger(), seq=BigInteger(), notification_id=BigInteger()
)


def insert_notifications(connection: Connection, posts: Sequence[Post]) -> dict[str, int]:
    """Store the rows of posts, and return their keys by id."""
    plain, special = [], []
    for content, service_id, recipients, options in posts:
        uuid, title, body, category, priority, url, data, created_at, icon, actions, expires_at, _ = content
        basic = (uuid, service_id, title, body, category, priority, url, data, len(recipients), created_at)
        if options is None:
            plain.append(basic)
        else:
            state = DELIVERED if options.deliver_at is None else SCHEDULED
            special.append((*basic, icon, actions, expires_at, state, *options))
    inserted = list(_INSERT_PLAIN.run(connection, plain)) if plain else []
    if special:
        inserted += _INSERT_SPECIAL.run(connection, special)
    return {uuid: key for uuid, key in inserted}  # noqa: C416 - rows are not pairs to a type checker


def _insert_notification_rows(new: FromClause) -> Insert:
    return (
        insert(notifications)
        .from_select([column.name for column in new.c], select(new))
        .returning(notifications.c.uuid, notifications.c.id)
    )


_PLAIN: dict[str, TypeEngine[Any]] = {
    "uuid": String(),
    "service_id": BigInteger(),
    "title": Text(),
    "body": Text(),
    "category": String(),
    "priority": String(),
    "url": Text(),
    "data": Text(),
    "recipients": BigInteger(),
    "created_at": BigInteger(),
}
_INSERT_PLAIN = PreparedRows(_insert_notification_rows, **_PLAIN)
_INSERT_SPECIAL = PreparedRows(
    _insert_notification_rows,
    **_PLAIN,
    icon=Text(),
    actions=Text(),
    expires_at=BigInteger(),
    state=SmallInteger(),
    deliver_at=BigInteger(),
    ttl=BigInteger(),
    collapse_key=String(),
)
