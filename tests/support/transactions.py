"""Transactions that meet: one is held while another one comes for the same rows. On Postgres only."""

import asyncio
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.util import await_only

from gateway.database.database import Database
from gateway.store.transaction import Committed, Outcome, Work, commit
from tests.support.engine import Gate
from tests.support.waiting import until


async def meet(
    database: Database, held: Callable[[Connection], Any], after: str, other: Callable[[Connection], Any]
) -> tuple[Any, Any]:
    """Hold a transaction after its first statement that begins so, until another waits or has ended.

    Return the results of both.
    """
    gate = Gate()

    def holding(connection: Connection) -> Any:
        def hold(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
            if statement.startswith(after) and not gate.held:
                await_only(gate.hold())

        event.listen(connection, "after_cursor_execute", hold)
        return held(connection)

    first = asyncio.create_task(database.write(holding))
    await gate.reached()
    second = asyncio.create_task(database.write(other))
    await until(lambda: waits_or_ends(database, second), "the other one waits for a lock, or ends")
    gate.let_go()
    results = await asyncio.gather(first, second)
    return results[0], results[1]


async def waits_or_ends(database: Database, task: asyncio.Task[Any]) -> bool:
    """Return whether a transaction waits for a lock, or the task has ended."""
    return task.done() or bool(await database.read(_number_waiting))


def _number_waiting(connection: Connection) -> int:
    activity = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    number: int = connection.execute(text(f"{activity} AND wait_event_type = 'Lock'")).scalar_one()
    return number


def batch(*work: Work, now: int = 0) -> Callable[[Connection], list[Outcome]]:
    """Return a unit of work that does what a writer does with this batch."""

    def write(connection: Connection) -> list[Outcome]:
        committed: Committed = commit(connection, work, now, True, ())
        return committed.outcomes

    return write
