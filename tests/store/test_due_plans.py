"""A million scheduled posts cost an idle gateway nothing: it looks at the first row of an index."""

import pytest
from sqlalchemy import Connection, event, text

from gateway.database.database import Database, open_database
from gateway.jobs.schedule import FOUND, Schedule
from gateway.store.due_work import find_due, next_due_at
from tests.support.databases import settings_for
from tests.support.engine import Engine

FAR = 4_000_000_000_000


def fill(connection: Connection, number: int) -> None:
    """Store so many scheduled notifications without the gateway: it would take too long."""
    numbers = {
        "sqlite": (
            "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :number)"
            " SELECT i FROM n)"
        ),
        "postgresql": "(SELECT generate_series(1, CAST(:number AS integer)) AS i)",
    }[connection.dialect.name]
    connection.execute(
        text(
            "INSERT INTO notifications"
            " (uuid, service_id, title, category, priority, recipients, created_at, state, deliver_at)"
            f" SELECT CAST(i AS varchar(36)), 1, 'x', 'default', 'normal', 1, 0, 0, {FAR} + i"
            f" FROM {numbers} AS s"
        ),
        {"number": number},
    )
    connection.execute(
        text(
            "INSERT INTO due_work (due_at, kind, notification_id) SELECT deliver_at, 0, id FROM notifications"
        )
    )
    connection.execute(text("ANALYZE"))


def plan_of(connection: Connection, statement: str, parameters: dict[str, int]) -> str:
    explain = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN"}[connection.dialect.name]
    return "\n".join(str(row[-1]) for row in connection.execute(text(f"{explain} {statement}"), parameters))


@pytest.mark.parametrize("number", [5_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
async def test_what_is_scheduled_for_later_is_not_read(database: Database, number: int) -> None:
    await database.write(fill, number)

    def look(connection: Connection) -> list[str]:
        statements: list[str] = []

        def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
            statements.append(statement)

        event.listen(connection, "before_cursor_execute", note)
        assert next_due_at(connection) == FAR + 1
        assert find_due(connection, FAR, FOUND) == []
        event.remove(connection, "before_cursor_execute", note)
        return statements

    assert len(await database.read(look)) == 2
    plans = await database.read(
        lambda connection: [
            plan_of(connection, "SELECT min(due_at) FROM due_work", {}),
            plan_of(
                connection,
                "SELECT due_work.id, recipients FROM due_work JOIN notifications"
                " ON due_work.notification_id = notifications.id WHERE due_at <= :now"
                " ORDER BY due_at, due_work.id LIMIT :limit",
                {"now": FAR, "limit": FOUND},
            ),
        ]
    )
    for plan in plans:
        assert "ix_due_work_due_at_id" in plan, plan
        assert "Seq Scan" not in plan, plan
        assert "SCAN notifications" not in plan, plan


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
        await database.write(fill, 10)
        await schedule.work()
        assert reads == [find_due]
