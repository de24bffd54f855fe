"""What a call of a user costs depends on its answer, and not on how large the inbox is."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, text, update

from gateway.auth.users import add_missing_users, get_user
from gateway.database.database import Database
from gateway.database.models import items, notifications, users
from gateway.database.sqlite import SqliteDatabase
from gateway.delivery.resume_point import ResumePoint, resume
from gateway.store import inbox, log
from gateway.store.changes import ItemUpdate, ReadUpTo, Seen
from gateway.store.inbox import Place, Query
from gateway.store.snoozes import Snooze
from gateway.store.transaction import commit

SMALL, LARGE = 400, 6_400
"""How many items two inboxes hold: one is sixteen times as large as the other."""

MOMENT = 1_700_000_000_000

STATES: dict[str, Callable[[int], dict[str, int | None]]] = {
    "unread": lambda _: {},
    "read": lambda _: {"read_at": MOMENT},
    "archived": lambda _: {"archived_at": MOMENT},
    "archived and read": lambda _: {"read_at": MOMENT, "archived_at": MOMENT},
    "deleted": lambda _: {"deleted_at": MOMENT},
    "snoozed": lambda number: {"snoozed_until": 2 * MOMENT + number},
    "in turn unread and read": lambda number: {"read_at": MOMENT if number % 2 else None},
}


def fill(connection: Connection, sub: str, size: int, state: str) -> int:
    """Give a user an inbox of this size, all of it in a state, and return the user's key."""
    add_missing_users(connection, [sub], 0)
    user_id: int = get_user(connection, sub).id
    numbers = range(1, size + 1)
    first = user_id * 1_000_000
    post = {"service_id": 1, "title": "x", "category": "c", "priority": "low", "recipients": 1}
    made = [{"id": first + one, "uuid": uuid_of(user_id, one), "created_at": 0} | post for one in numbers]
    connection.execute(insert(notifications), made)
    blank = {"read_at": None, "archived_at": None, "deleted_at": None, "snoozed_until": None}
    rows = [
        {"user_id": user_id, "created_seq": one, "seq": one, "notification_id": first + one}
        | blank
        | STATES[state](one)
        for one in numbers
    ]
    connection.execute(insert(items), rows)
    unread = sum(not any(row[time] for time in blank) for row in rows)
    counts = {"last_seq": size, "unread": unread, "unseen": unread}
    connection.execute(update(users).where(users.c.id == user_id).values(counts))
    return user_id


def uuid_of(user_id: int, number: int) -> str:
    """Return the id of an item of `fill`."""
    return f"00000000-0000-7000-8000-{user_id * 1_000_000 + number:012d}"


class Meter:
    """Counts what the database does: steps of its machine on SQLite, blocks of a reading on Postgres."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.count = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count while the block runs."""
        if self._connection.dialect.name == "sqlite":
            driver: Any = self._connection.connection.dbapi_connection
            driver.set_progress_handler(self._step, 1)
            try:
                yield
            finally:
                driver.set_progress_handler(None, 1)
        else:
            event.listen(self._connection, "before_cursor_execute", self._explain)
            try:
                yield
            finally:
                event.remove(self._connection, "before_cursor_execute", self._explain)

    def _step(self) -> int:
        self.count += 1
        return 0

    def _explain(self, _: Connection, cursor: Any, statement: str, parameters: Any, *_context: Any) -> None:
        if statement.startswith("SELECT"):
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
            (found,) = cursor.fetchone()
            plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
            self.count += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


Call = Callable[[Connection, int, int], object]


def _change(connection: Connection, change: ItemUpdate | ReadUpTo | Snooze | Seen) -> object:
    return commit(connection, [change], MOMENT + 1, False, ())


def _page(query: Query) -> Call:
    return lambda connection, user_id, _: inbox.list_items(connection, user_id, query)


CALLS: dict[str, Call] = {
    "a page": _page(Query()),
    "a page of what is unread": _page(Query(unread=True)),
    "a page of what is read": _page(Query(unread=False)),
    "a page of the archive": _page(Query(archived=True)),
    "a page of a category that is there": _page(Query(category="c")),
    "a page of a category that is not": _page(Query(category="none")),
    "a page from the middle on": lambda connection, user_id, size: inbox.list_items(
        connection, user_id, Query(before=size // 2)
    ),
    "a page of what is snoozed": _page(Query(snoozed=True)),
    "a later page of what is snoozed": lambda connection, user_id, size: inbox.list_items(
        connection, user_id, Query(snoozed=True, after=Place(2 * MOMENT + size // 2, size // 2))
    ),
    "a page of a snoozed category that is there": _page(Query(snoozed=True, category="c")),
    "a page of a snoozed category that is not": _page(Query(snoozed=True, category="none")),
    "the newest unread items": lambda connection, user_id, _: inbox.newest_unread(connection, user_id),
    "a handshake": lambda connection, user_id, _: resume(connection, user_id, ResumePoint()),
    "one item": lambda connection, user_id, size: inbox.find_item(
        connection, user_id, uuid_of(user_id, size // 2)
    ),
    "the state of the log": lambda connection, user_id, _: log.head(connection, user_id),
    "all changes": lambda connection, user_id, _: log.read_after(connection, user_id, 0),
    "changes from the middle on": lambda connection, user_id, size: log.read_after(
        connection, user_id, size // 2
    ),
    "one step of reading all": lambda connection, user_id, _: _change(connection, ReadUpTo(user_id, 10**9)),
    "a later step of reading all": lambda connection, user_id, size: _change(
        connection, ReadUpTo(user_id, 10**9, after=size // 2)
    ),
    "marking items": lambda connection, user_id, size: _change(
        connection,
        ItemUpdate(user_id, tuple(uuid_of(user_id, size // 2 + one) for one in range(20)), archived=True),
    ),
    "deleting an item": lambda connection, user_id, size: _change(
        connection, ItemUpdate(user_id, (uuid_of(user_id, size - 5),), deleted=True)
    ),
    "snoozing items": lambda connection, user_id, size: _change(
        connection,
        Snooze(user_id, tuple(uuid_of(user_id, size // 4 + one) for one in range(20)), 3 * MOMENT),
    ),
    "ending the snooze of items": lambda connection, user_id, size: _change(
        connection, Snooze(user_id, tuple(uuid_of(user_id, size // 4 + one) for one in range(20)), None)
    ),
    "marking what is not there": lambda connection, user_id, _: _change(
        connection, ItemUpdate(user_id, (uuid_of(0, 1),), read=True)
    ),
    "the first move of the mark": lambda connection, user_id, _: _change(connection, Seen(user_id, 1)),
    "another move of the mark": lambda connection, user_id, _: _change(connection, Seen(user_id, 2)),
    "a move of the mark to the end but one": lambda connection, user_id, size: _change(
        connection, Seen(user_id, size - 1)
    ),
    "a move of the mark to the end": lambda connection, user_id, size: _change(
        connection, Seen(user_id, size)
    ),
}


MOVES = {name for name in CALLS if "the mark" in name}


def measure(connection: Connection, state: str) -> dict[str, list[int]]:
    """Return what each call costs in a small inbox and in a large one, which are in the same tables."""
    inboxes = [(fill(connection, f"{size} items", size, state), size) for size in (SMALL, LARGE)]
    if connection.dialect.name == "postgresql":
        connection.execute(text("ANALYZE"))
    costs: dict[str, list[int]] = {name: [] for name in CALLS}
    for user_id, size in inboxes:
        for name, call in CALLS.items():
            meter = Meter(connection)
            with meter.running():
                call(connection, user_id, size)
            costs[name].append(meter.count)
    return costs


@pytest.mark.parametrize("state", STATES)
async def test_no_call_costs_more_in_a_sixteen_times_larger_inbox(
    database: Database, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_SCANNED_SEQS", SMALL // 2)
    costs = await database.write(measure, state)
    # A mark that moves where nothing is unread is one UPDATE on Postgres, and reads nothing besides.
    moves = set() if isinstance(database, SqliteDatabase) or state == "unread" else MOVES
    assert {name for name, (small, _) in costs.items() if small == 0} <= moves
    # An index range may begin within a block here and at the start of one there.
    spare = 0 if isinstance(database, SqliteDatabase) else 4
    dearer = {name: cost for name, cost in costs.items() if cost[1] > 1.3 * cost[0] + spare}
    assert dearer == {}
