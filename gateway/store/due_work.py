"""Due work: what happens by the clock, and the rest of a change to many inboxes.

Each piece is a row, and is done in the transaction that deletes the row: exactly once, in whichever process.
`jobs/schedule` looks for due rows. Functions take a connection and never commit.
"""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    String,
    bindparam,
    delete,
    func,
    insert,
    literal,
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


class Due(NamedTuple):
    """A row of due work. `size` is the number of inboxes that it concerns, at most.

    `key` is the notification's, `user_id` the only user concerned or None, `after` the last user done.
    """

    id: int
    kind: int
    key: int
    user_id: int | None
    after: int
    size: int

    @property
    def inboxes(self) -> int:
        """The number of inboxes that the work changes, at most, and 1 if it changes none."""
        return 1 if self.user_id is not None or self.kind == FORGET else self.size

    def weight(self, step: int) -> int:
        """Return what the work costs one transaction, in inboxes: at most `step` of a large change."""
        return PER_ROW + self.size if self.kind == DELIVER else 1 + min(self.inboxes, step)


def add(connection: Connection, kind: int, due_at: int, key: int, user_id: int | None = None) -> int:
    """Store due work for a notification, and return its id. `due_at` is in ms."""
    values = {"kind": kind, "due_at": due_at, "notification_id": key, "user_id": user_id}
    number: int = connection.execute(insert(due_work).returning(due_work.c.id), values).scalar_one()
    return number


def add_all(connection: Connection, work: Sequence[tuple[int, int, int]]) -> None:
    """Store due work for notifications, if there is any: the key, the kind, and the time in ms of each."""
    if work:
        _INSERT.run(connection, work)


_INSERT = PreparedRows(
    lambda new: insert(due_work).from_select([column.name for column in new.c], select(new)),
    notification_id=BigInteger(),
    kind=BigInteger(),
    due_at=BigInteger(),
)


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
    new = _snoozed(dialect).add_columns(literal(WAKE), bindparam("until", type_=BigInteger()))
    return insert(due_work).from_select(["notification_id", "user_id", "kind", "due_at"], new)
