"""A million scheduled posts cost an idle gateway nothing: it looks at the first row of an index."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from gateway.auth.users import add_missing_users
from gateway.database.database import Database, open_database
from gateway.jobs.schedule import FOUND, Schedule
from gateway.protocol.items import MAX_SEQ
from gateway.store.due_turns import find_due
from gateway.store.due_work import next_due_at
from gateway.store.sent import Filter, list_sent
from tests.support.databases import settings_for
from tests.support.engine import Engine

FAR = 4_000_000_000_000
USERS = 500
PART = 50_000


async def fill(database: Database, number: int) -> None:
    """Store so many scheduled notifications without the gateway: it would take too long."""
    await database.write(add_missing_users, [f"user {one}" for one in range(USERS)], 0)
    # On Postgres a statement has half a minute, on a slow machine, too.
    for start in range(0, number, PART):
        await database.write(fill_part, start, min(PART, number - start))
    await database.write(lambda connection: connection.execute(text("ANALYZE")) and None)


def fill_part(connection: Connection, start: int, number: int) -> None:
    numbers = {
        "sqlite": (
            "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :number)"
            " SELECT i + :start AS i FROM n)"
        ),
        "postgresql": (
            "(SELECT CAST(:start AS integer) + generate_series(1, CAST(:number AS integer)) AS i)"
        ),
    }[connection.dialect.name]
    parameters = {"start": start, "number": number}
    connection.execute(
        text(
            "INSERT INTO notifications"
            " (uuid, service_id, title, category, priority, recipients, created_at, state, deliver_at)"
            f" SELECT CAST(i AS varchar(36)), 1, 'x', 'default', 'normal', 1, 0, 0, {FAR} + i"
            f" FROM {numbers} AS s"
        ),
        parameters,
    )
    last = "(SELECT coalesce(max(notification_id), 0) FROM {})"
    connection.execute(
        text(
            "INSERT INTO due_work (due_at, kind, notification_id, lane)"
            " SELECT deliver_at, 0, id, 8 * (id % 9) FROM notifications"
            f" WHERE id > {last.format('due_work')}"
        )
    )
    connection.execute(
        text(
            "INSERT INTO scheduled_recipients (notification_id, user_id, service_id)"
            f" SELECT id, id % {USERS} + 1, 1 FROM notifications"
            f" WHERE id > {last.format('scheduled_recipients')}"
        )
    )


def plans_of(connection: Connection, look: Callable[[], object]) -> list[str]:
    """Return the plan of each statement that a function executes."""
    explain = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN"}[connection.dialect.name]
    executed: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
        executed.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    look()
    event.remove(connection, "before_cursor_execute", note)
    return [
        "\n".join(str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {statement}", parameters))
        for statement, parameters in executed
    ]


@pytest.mark.parametrize("number", [5_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
async def test_what_is_scheduled_for_later_is_not_read(database: Database, number: int) -> None:
    await fill(database, number)

    def look(connection: Connection) -> list[str]:
        def sleep_and_find() -> None:
            assert next_due_at(connection) == FAR + 1
            assert find_due(connection, FAR, 0, FOUND) == {}

        return plans_of(connection, sleep_and_find)

    plans = await database.read(look)
    assert len(plans) == 2
    for plan in plans:
        assert "ix_due_work_due_at_id" in plan, plan
        assert "SCAN due_work\n" not in plan, plan
        assert "Seq Scan" not in plan, plan
        assert "SCAN notifications" not in plan, plan


async def test_a_backlog_is_read_from_the_beginning_of_its_lanes(database: Database) -> None:
    await fill(database, 5_000)
    plans = await database.read(
        lambda connection: plans_of(connection, lambda: find_due(connection, FAR + 50, 0, 10))
    )
    assert len(plans) == 3
    assert "ix_due_work_due_at_id" in plans[0], plans[0]
    for plan in plans[1:]:
        assert "ix_due_work_lane_due_at_id" in plan, plan
    for plan in plans:
        assert "Seq Scan on due_work" not in plan, plan
        assert "Seq Scan on notifications" not in plan, plan
        assert "SCAN due_work" not in plan, plan
        assert "SCAN notifications" not in plan, plan


async def test_a_search_of_a_senders_list_reads_no_contents(database: Database, database_url: str) -> None:
    await fill(database, 5_000)
    query = Filter(1, 50, MAX_SEQ, "none", None)
    plans = await database.read(lambda connection: plans_of(connection, lambda: list_sent(connection, query)))
    for plan in plans:
        assert "Seq Scan" not in plan, plan
        # SQLite would read the pages of long contents on its way to the columns behind them.
        assert "SCAN notifications" not in plan, plan
        assert ("COVERING INDEX ix_notif" if database_url.startswith("sqlite") else "Index") in plan, plan


async def test_an_idle_schedule_makes_one_look_for_each_time_it_wakes(
    database: Database, database_url: str
) -> None:
    async with open_database(settings_for(database_url)) as opened:
        engine = Engine(settings_for(database_url), opened)
        schedule = Schedule(opened, engine.writer)
        reads = []
        read = opened.read

        async def counted(work: object, *args: object) -> object:
            reads.append(work)
            return await read(work, *args)  # type: ignore[arg-type]

        opened.read = counted  # type: ignore[method-assign, assignment]
        await fill(database, 10)
        await schedule.work()
        assert reads == [find_due]
