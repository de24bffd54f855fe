"""The rows of collapse keys: the items that the next notification of a key replaces.

These are the newest item of a key, and a few older ones that came back from the archive. A row may outlive
the state of its item: whoever reads rows checks it. Functions take a connection and never commit.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    Connection,
    Delete,
    Insert,
    Select,
    String,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

from gateway.database.models import collapse_keys, items, notifications
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps
from gateway.protocol.items import CONTENT_FIELDS, Content, Item
from gateway.store.log import ITEM_COLUMNS

Keyed: TypeAlias = tuple[int, int, str]
"""A collapse key in one inbox: the ids of the user and the service, and the key."""

MAX_ITEMS = 4
"""Maximum number of items of a key in an inbox that one post replaces: it must not change very many."""


def find(connection: Connection, wanted: Collection[Keyed]) -> list[tuple[Keyed, Item]]:
    """Return the items of these keys, without their contents: a tombstone has none.

    Those of a key are in the order in which they entered.
    """
    found = connection.execute(_select_items(connection.dialect.name), {"rows": dumps(list(wanted))})
    return [
        ((user_id, service_id, key), Item(_NOTHING._replace(id=uuid), *states))
        for user_id, service_id, key, uuid, *states in found
    ]


_NOTHING = Content("", "", None, "", "", None, None, 0)


@cache
def _select_items(dialect: str) -> Select[Any]:
    wanted = _wanted(dialect)
    return (
        select(*wanted.c, notifications.c.uuid, *ITEM_COLUMNS[CONTENT_FIELDS:])
        .join_from(
            wanted,
            collapse_keys,
            and_(
                collapse_keys.c.user_id == wanted.c.user_id,
                collapse_keys.c.service_id == wanted.c.service_id,
                collapse_keys.c.key == wanted.c.key,
            ),
        )
        .join(
            items,
            and_(
                items.c.notification_id == collapse_keys.c.notification_id,
                items.c.user_id == collapse_keys.c.user_id,
            ),
        )
        .join(notifications, notifications.c.id == items.c.notification_id)
        .order_by(items.c.user_id, items.c.created_seq)
    )


def _wanted(dialect: str) -> Any:
    return rows(dialect, user_id=BigInteger(), service_id=BigInteger(), key=String())


def replace(connection: Connection, earlier: Collection[Keyed], new: Mapping[Keyed, int]) -> None:
    """Let these notifications, by the keys of their rows, take the place of the items of `earlier` keys."""
    dialect = connection.dialect.name
    if earlier:
        connection.execute(_delete(dialect), {"rows": dumps(list(earlier))})
    if new:
        taken = [(*keyed, notification_id) for keyed, notification_id in new.items()]
        connection.execute(_insert(dialect), {"rows": dumps(taken)})


@cache
def _delete(dialect: str) -> Delete:
    key = (collapse_keys.c.user_id, collapse_keys.c.service_id, collapse_keys.c.key)
    return delete(collapse_keys).where(tuple_(*key).in_(select(_wanted(dialect))))


@cache
def _insert(dialect: str) -> Insert:
    number = BigInteger()
    new = rows(dialect, user_id=number, service_id=number, key=String(), notification_id=number)
    return insert(collapse_keys).from_select([column.name for column in new.c], select(new))


def restore(connection: Connection, revived: Sequence[tuple[int, str]]) -> None:
    """Record items that have come back from the archive, by the ids of their users and notifications.

    A key has at most `MAX_ITEMS` rows. More items stay when the next one comes.
    """
    parameters = {"rows": dumps(revived), "max_items": MAX_ITEMS}
    connection.execute(_restore(connection.dialect.name), parameters)


@cache
def _restore(dialect: str) -> Any:
    statement = (postgresql if dialect == "postgresql" else sqlite).insert(collapse_keys)
    wanted = rows(dialect, user_id=BigInteger(), uuid=String())
    keyed = (wanted.c.user_id, notifications.c.service_id, notifications.c.collapse_key.label("key"))
    place = func.row_number().over(partition_by=keyed, order_by=notifications.c.id.desc())
    back = (
        select(*keyed, notifications.c.id.label("notification_id"), place.label("place"))
        .join_from(wanted, notifications, notifications.c.uuid == wanted.c.uuid)
        .where(notifications.c.collapse_key.is_not(None))
        .subquery()
    )
    others = (
        select(func.count())
        .where(
            collapse_keys.c.user_id == back.c.user_id,
            collapse_keys.c.service_id == back.c.service_id,
            collapse_keys.c.key == back.c.key,
            collapse_keys.c.notification_id != back.c.notification_id,
        )
        .scalar_subquery()
    )
    columns = ("user_id", "service_id", "key", "notification_id")
    chosen = select(*(back.c[name] for name in columns)).where(
        back.c.place + others <= bindparam("max_items")
    )
    return statement.from_select(columns, chosen).on_conflict_do_nothing()
