"""Due work: what happens by the clock, and the rest of a change to many inboxes.

Each piece is a row, and is done in the transaction that deletes the row: exactly once, in whichever process.
`jobs/schedule` looks for due rows (`due_turns`). Functions take a connection and never commit.
"""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    FromClause,
    Insert,
    Select,
    String,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    literal_column,
    select,
    tuple_,
    update,
)

from gateway.database.models import DELIVER, FORGET, WAKE, due_work, notifications
from gateway.database.prepared import PreparedRows
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps

PER_ROW = 5
"""How many inboxes more a post with options counts as: its own statements cost about as much."""


_KINDS = 8
"""Number of lanes of each service, one for each kind of its work: at least as many as there are kinds."""

_WAKE_LANES = 256
"""Number of lanes of all users, for the items that wake.

With a lane for each user, those with due work could not be found quickly among the many with other snoozed
items. A user with very many wakes delays those of one user in 256.
"""


class Due(NamedTuple):
    """A row of due work. `size` is the number of inboxes that it concerns, at most.

    `key` is the notification's, `user_id` the only user concerned or None, `after` the last user done.
    `due_at` is in ms.
    """

    id: int
    kind: int
    key: int
    user_id: int | None
    after: int
    size: int
    due_at: int

    @property
    def inboxes(self) -> int:
        """The number of inboxes that the work changes, at most, and 1 if it changes none."""
        return 1 if self.user_id is not None or self.kind == FORGET else self.size

    def weight(self, step: int) -> int:
        """Return what the work costs one transaction, in inboxes: at most `step` of a large change."""
        return PER_ROW + self.size if self.kind == DELIVER else 1 + min(self.inboxes, step)


SELECT = select(
    due_work.c.id,
    due_work.c.kind,
    due_work.c.notification_id,
    due_work.c.user_id,
    due_work.c.after,
    notifications.c.recipients,
    due_work.c.due_at,
).join_from(due_work, notifications, due_work.c.notification_id == notifications.c.id)
"""Selects the columns of `Due`."""


def add(connection: Connection, kind: int, due_at: int, key: int) -> int:
    """Store due work for a notification, and return its id. `due_at` is in ms."""
    [(number,)] = _INSERT.run(connection, [(key, kind, due_at)])
    return int(number)


def add_all(connection: Connection, work: Sequence[tuple[int, int, int]]) -> None:
    """Store due work for notifications, if there is any: the key, the kind, and the time in ms of each."""
    if work:
        _INSERT.run(connection, work)


def _insert(new: FromClause) -> Insert:
    service_id, kind = notifications.c.service_id, new.c.kind
    forgets = kind == literal_column(str(FORGET))
    lane = case((forgets, literal_column("0")), else_=service_id * literal_column(str(_KINDS)) + kind)
    columns = [column.name for column in new.c]
    chosen = select(new, lane).join_from(new, notifications, notifications.c.id == new.c.notification_id)
    return insert(due_work).from_select([*columns, "lane"], chosen).returning(due_work.c.id)


_INSERT = PreparedRows(_insert, notification_id=BigInteger(), kind=BigInteger(), due_at=BigInteger())


def cancel(connection: Connection, keys: Collection[int], kinds: Sequence[int]) -> None:
    """Delete the due work of these kinds for notifications."""
    connection.execute(
        delete(due_work).where(due_work.c.notification_id.in_(keys), due_work.c.kind.in_(kinds))
    )


def finish(connection: Connection, done: Collection[Due]) -> None:
    """Delete due work that is done, if there is any."""
    if done:
        connection.execute(delete(due_work).where(due_work.c.id.in_([one.id for one in done])))


def put_off(connection: Connection, number: int, until: int) -> None:
    """Let due work wait until a time in ms. A unit of work."""
    connection.execute(update(due_work).where(due_work.c.id == number).values(due_at=until))


def next_due_at(connection: Connection) -> int | None:
    """Return when the next work is due, in ms, or None."""
    moment: int | None = connection.scalar(select(func.min(due_work.c.due_at)))
    return moment


# --- snoozed items ------------------------------------------------------------------------------------------


def wake_at(connection: Connection, user_id: int, uuids: Sequence[str], until: int | None) -> None:
    """Wake these items of a user at `until`, in ms, or never. It replaces the time set before."""
    dialect = connection.dialect.name
    wanted = {"rows": dumps([(user_id, uuid) for uuid in uuids])}
    connection.execute(_delete_wakes(dialect), wanted)
    if until is not None:
        connection.execute(_insert_wakes(dialect), wanted | {"until": until})


def _snoozed(dialect: str) -> Select[Any]:
    wanted = rows(dialect, user_id=BigInteger(), uuid=String())
    return select(notifications.c.id, wanted.c.user_id).join_from(
        wanted, notifications, notifications.c.uuid == wanted.c.uuid
    )


@cache
def _delete_wakes(dialect: str) -> Any:
    these = tuple_(due_work.c.notification_id, due_work.c.user_id).in_(_snoozed(dialect))
    return delete(due_work).where(these, due_work.c.kind == WAKE)


@cache
def _insert_wakes(dialect: str) -> Any:
    snoozed = _snoozed(dialect)
    lane = -1 - snoozed.selected_columns.user_id % _WAKE_LANES
    new = snoozed.add_columns(literal(WAKE), bindparam("until", type_=BigInteger()), lane)
    return insert(due_work).from_select(["notification_id", "user_id", "kind", "due_at", "lane"], new)
