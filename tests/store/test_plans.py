"""What a client waits for reads ranges of indexes: no statement walks through a whole inbox."""

import re
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event, func, select

from gateway.auth import cutoffs, erasure, revocation, services, sessions, tickets, users
from gateway.auth.sessions import new_session
from gateway.database.database import open_database
from gateway.database.models import items
from gateway.database.sqlite import SqliteDatabase
from gateway.jobs.retention import Retention, trim
from gateway.protocol.times import timestamp
from tests.support.actions import set_actions
from tests.support.clients import User
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, serving

LARGE = re.compile(r"\b(items|notifications|users|idempotency_keys)\b")
RANGE_OF_INBOX = re.compile(r"SEARCH items USING PRIMARY KEY \(user_id=\? AND created_seq[<>]")


class Plans:
    """The query plans of every statement that the gateway runs meanwhile."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []
        self._statements: set[str] = set()

    @contextmanager
    def noted(self, database: SqliteDatabase) -> Any:
        """Note them while the block runs. The driver tells of each statement, whoever has executed it."""
        engines = database.engines
        for engine in engines:
            event.listen(engine, "checkout", self._listen)
        try:
            yield
        finally:
            for engine in engines:
                event.remove(engine, "checkout", self._listen)
        with closing(sqlite3.connect(str(database.engines[0].url.database))) as connection:
            for statement in self._statements:
                self.steps += [
                    (str(row[3]), statement) for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
                ]

    def _listen(self, connection: sqlite3.Connection, *_: Any) -> None:
        connection.set_trace_callback(self._note)

    def _note(self, statement: str) -> None:
        if statement.startswith(("SELECT", "UPDATE", "INSERT", "DELETE", "WITH")):
            self._statements.add(statement)

    def walks(self) -> list[str]:
        """Return the steps that read all of a large table, or all that one user has of it.

        A range of the primary key of `items` is a part of an inbox, of which a filter may drop all but a few.
        """
        whole = [
            f"{step}\n  of {statement}"
            for step, statement in self.steps
            if (step.startswith("SCAN") and LARGE.search(step))
            or (LARGE.search(step) and step.endswith("(user_id=?)"))
            or RANGE_OF_INBOX.match(step)
        ]
        return sorted(set(whole))


@pytest.fixture
async def server(sqlite_url: str) -> AsyncIterator[LocalServer]:
    async with serving(settings_for(sqlite_url)) as one:
        yield one


async def use_everything(server: LocalServer, ada: User, ids: list[str]) -> None:
    """Do what clients do all day."""
    post = {"to": ["ada", "bob"], "title": "x"}
    await server.service.post("/v1/notifications", json=post, headers={"Idempotency-Key": "k"})
    await server.service.notify_many("ada", 3)
    await server.service.get(f"/v1/notifications/{ids[0]}")
    for params in ({}, {"unread": "true"}, {"archived": "true"}, {"category": "default"}):
        await ada.inbox(**params)
    await ada.patch(f"/v1/inbox/{ids[6]}", json={"snoozed_until": timestamp(in_days(1))})
    await ada.patch(f"/v1/inbox/{ids[7]}", json={"snoozed_until": timestamp(in_days(1))})
    await ada.patch(f"/v1/inbox/{ids[7]}", json={"snoozed_until": None})
    for params in ({}, {"category": "default"}):
        await ada.inbox(snoozed="true", **params)
    await server.state.database.write(set_actions, ids[8])
    await ada.post(f"/v1/inbox/{ids[8]}/actions/yes")
    await server.service.get(f"/v1/notifications/{ids[8]}/answers")
    await ada.get("/v1/inbox/changes", params={"since": 1})
    await ada.get(f"/v1/inbox/{ids[0]}")
    await ada.patch(f"/v1/inbox/{ids[0]}", json={"read": True})
    await ada.post("/v1/inbox/read", json={"ids": ids[1:3]})
    await ada.post("/v1/inbox/read", json={"up_to": 5})
    await ada.post("/v1/inbox/seen", json={"up_to": 5})
    await ada.delete(f"/v1/inbox/{ids[3]}")
    for query in ({"since": 0}, {}, {"since": "latest"}):
        async with ada.socket(**query) as socket:
            await socket.next("live")
            await socket.ask(type="ack", seq=3)
            await socket.ask(type="archive", ids=ids[4:6])


def in_days(days: int) -> int:
    return int(time.time() + days * 86_400) * 1000


def number_of_items(connection: Connection) -> int | None:
    return connection.scalar(select(func.count()).select_from(items))


async def test_no_statement_walks_through_a_whole_inbox(server: LocalServer) -> None:
    ids = await server.service.notify_many("ada", 10)
    ada = await server.user()
    database = server.state.database
    assert isinstance(database, SqliteDatabase)
    plans = Plans()
    with plans.noted(database):
        await use_everything(server, ada, ids)
        # What was posted just now is deleted, and two days later removed.
        await Retention(database, server.state.writer, keep=0).expire(in_days(1))
        assert await database.write(trim, in_days(3)) is False
    assert await database.read(number_of_items) == 0
    assert len(plans.steps) > 30
    assert plans.walks() == []


async def test_no_session_statement_scans_all_sessions(sqlite_url: str) -> None:
    plans = Plans()
    async with open_database(settings_for(sqlite_url)) as database:
        assert isinstance(database, SqliteDatabase)
        await database.write(users.add_missing_users, ["ada"], 0)
        client = (await database.write(services.add_service, "a", ["notify"], b"", 0)).client_id
        with plans.noted(database):
            for _ in range(2):
                await database.write(sessions.start_user_session, "ada", new_session(10), 0, limit=1)
                await database.write(services.start_service_session, client, new_session(10), 0, limit=1)
            assert len(await database.read(revocation.tally, 0)) == 1
            assert len(await database.read(revocation.page_of, 0, 0, "")) == 2
            await database.write(services.end_some, client, 1)
            await database.write(users.log_out, "ada", 1)
            for sweep in (sessions.sweep, tickets.sweep, cutoffs.sweep, erasure.sweep):
                await database.write(sweep, 10**9)
    # A statement that takes many rows as one parameter goes through that.
    assert [step for step, _ in plans.steps if step.startswith("SCAN") and "VIRTUAL TABLE" not in step] == []
    oldest = [
        step for step, statement in plans.steps if "created_at DESC" in statement and "INDEX ix_" in step
    ]
    assert len(oldest) == 4
    assert all(step.startswith("SEARCH sessions USING COVERING INDEX") for step in oldest)
