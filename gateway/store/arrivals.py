"""Arrivals: posts enter the logs of their recipients, each as the next `seq`.

Functions take a connection and never commit. They take positions whose rows the transaction has locked.
"""

from collections.abc import Container, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import BigInteger, Connection, FromClause, Insert, SmallInteger, String, Text, insert, select
from sqlalchemy.types import TypeEngine

from gateway.database.models import DELIVERED, EXPIRE, FORGET, SCHEDULED, items, notifications
from gateway.database.prepared import PreparedRows
from gateway.protocol.items import Content, Item
from gateway.store import due_work
from gateway.store.collapse import Replacements
from gateway.store.collapse_keys import Keyed
from gateway.store.entries import Entry
from gateway.store.notification_rows import KEPT_MS, store_muted
from gateway.store.positions import Position, Positions
from gateway.store.preferences import is_quiet, mutes

ITEMS_PER_INSERT = 1000
"""Maximum number of items that one statement inserts. On Postgres the event loop builds the statement."""


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
        reached = list(map(by_sub.__getitem__, recipients))
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
    replacements = None
    for content, key, positions, service_id, collapse_key in arrivals:
        if collapse_key is not None and replacements is None:
            replacements = Replacements(connection, _keyed(arrivals), now)
        left_out = 0
        for position in positions:
            if position.preferences is not None and mutes(position, content, required):
                left_out += 1
                continue
            if replacements is not None and collapse_key is not None:
                entries += replacements.replace(position, service_id, collapse_key, content, key)
            position.seq += 1
            position.unread += 1
            position.unseen += 1
            rows_of_items.append((position.user_id, position.seq, key))
            if position.user_id in followed:
                entries.append(_entry(position, content, service_id, now))
        if left_out:
            muted.append((key, left_out, left_out == len(positions)))
    _insert_items(connection, rows_of_items)
    if replacements is not None:
        replacements.store()
    if muted:
        _store_muted(connection, muted, now)
    return entries


def _store_muted(connection: Connection, muted: Sequence[tuple[int, int, bool]], now: int) -> None:
    """Store how many recipients have muted notifications. One that nobody gets is forgotten one day."""
    store_muted(connection, [(key, number) for key, number, _ in muted])
    due_work.add_all(connection, [(key, FORGET, now + KEPT_MS) for key, _, by_all in muted if by_all])


def _entry(position: Position, content: Content, service_id: int, now: int) -> Entry:
    """Return the entry of the item that has just entered a log."""
    item = Item(content, position.seq, position.seq)
    entry = Entry(position.user_id, position.counts(), (item,), fresh=True)
    entry.service_id = service_id
    if position.preferences is not None:
        entry.quiet = is_quiet(position, content, now)
    return entry


def _keyed(arrivals: Sequence[Arrival]) -> Iterator[Keyed]:
    for _, _, positions, service_id, collapse_key in arrivals:
        if collapse_key is not None:
            for position in positions:
                yield position.user_id, service_id, collapse_key


def _insert_items(connection: Connection, rows_of_items: Sequence[tuple[int, int, int]]) -> None:
    for start in range(0, len(rows_of_items), ITEMS_PER_INSERT):
        _INSERT_ITEMS.run(connection, rows_of_items[start : start + ITEMS_PER_INSERT])


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
