"""What the log says of a server that is away: once that it is, and why, and once that it is back."""

import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from gateway import cli
from gateway.auth.limits.counters import Shared
from gateway.database.database import open_database, takes_writes
from gateway.errors import Unavailable
from gateway.observability.outage import QUIET_SECONDS, DatabaseOutage, Outage
from gateway.protocol.terminal import counted
from gateway.settings.redis_url import without_password
from tests.support.databases import settings_for
from tests.support.postgres import Postgres, free_port
from tests.support.proxy import proxy_to
from tests.support.servers import process
from tests.support.waiting import until


def said(events: list[Any]) -> list[tuple[str, str | None]]:
    """Return what was logged, and the reason where there is one."""
    return [(event["event"], event.get("reason")) for event in events]


async def test_an_unreachable_postgres_is_logged_with_the_reason_and_so_is_its_recovery(
    postgres_url: str,
) -> None:
    url = make_url(postgres_url)
    async with proxy_to(url.port or 0) as proxy:
        behind = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
        async with open_database(settings_for(behind)) as database:
            assert await database.read(lambda connection: connection.scalar(text("SELECT 1"))) == 1
            with structlog.testing.capture_logs() as events:
                await proxy.close()
                for _ in range(3):
                    with pytest.raises(Unavailable):
                        await database.read(lambda connection: connection.scalar(text("SELECT 1")))
                await proxy.open()

                async def answers() -> bool:
                    try:
                        return bool(await database.read(lambda one: one.scalar(text("SELECT 1"))))
                    except Unavailable:
                        return False

                await until(answers, "it is back")
                assert await answers()
    assert [event for event, _ in said(events)] == ["the database is unavailable", "the database is back"]
    assert events[0]["reason"] == "Connection refused"
    assert events[0]["database"] == events[1]["database"] == make_url(behind).render_as_string()
    assert str(url.password) not in str(events)


async def test_a_successful_read_does_not_end_a_write_outage(postgres: Postgres, postgres_url: str) -> None:
    name = postgres_url.rsplit("/", 1)[1]
    await postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with open_database(settings_for(postgres_url)) as database:
        with structlog.testing.capture_logs() as events:
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await database.write(takes_writes)
                await database.read(lambda connection: connection.scalar(text("SELECT 1")))
            await postgres.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")

            async def is_written() -> bool:
                try:
                    return await database.write(takes_writes)
                except Unavailable:
                    return False

            await until(is_written, "it is written", within=30)
    assert said(events) == [
        ("the database refuses writes", "read only sql transaction (SQLSTATE 25006)"),
        ("the database accepts writes again", None),
    ]


async def test_a_sqlite_file_that_refuses_writes_is_logged_with_the_reason(sqlite_url: str) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    async with open_database(settings_for(f"sqlite:///file:{path}?mode=ro&uri=true")) as database:
        with structlog.testing.capture_logs() as events:
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await database.write(takes_writes)
                await database.read(lambda connection: connection.scalar(text("SELECT 1")))
    assert said(events) == [("the database refuses writes", "SQLITE_READONLY")]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_flapping_server_is_logged_again_only_if_an_outage_lasts() -> None:
    clock = Clock()
    outage = Outage("away", "back", clock=clock, server="x")
    with structlog.testing.capture_logs() as events:
        outage.begin(ConnectionRefusedError(111, "at password=secret"))
        outage.begin(TimeoutError())
        clock.now += 2
        outage.end()
        outage.begin(TimeoutError())
        outage.end()
        assert not outage.is_on
        outage.begin(TimeoutError())
        clock.now += QUIET_SECONDS
        outage.begin(TimeoutError())
        outage.end()
    assert said(events) == [
        ("away", "Connection refused"),
        ("back", None),
        ("away", "there was no answer in time"),
        ("back", None),
    ]
    assert [event.get("after_seconds") for event in events] == [None, 2.0, None, QUIET_SECONDS]


class Refused(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__("of host=db password=secret")
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (Refused("28P01"), "the database is unavailable"),
        (Refused("57P03"), "the database is unavailable"),
        (Refused("53300"), "the database is unavailable"),
        (Refused("53100"), "the database refuses writes"),
        (Refused("25006"), "the database refuses writes"),
        (Refused("55000"), "the database is unavailable"),
        (Refused("55006"), "the database is unavailable"),
        (Refused("42501"), "the database is unavailable"),
        (Refused("25P03"), "the database is unavailable"),
        (Refused("F0000"), "the database is unavailable"),
        (Refused("XX000"), "the database is unavailable"),
        (Refused("40P01"), None),
        (Refused("55P03"), None),
        (Refused("57014"), None),
    ],
    ids=lambda one: getattr(one, "sqlstate", one),
)
def test_a_transient_error_is_not_logged_as_an_outage(error: Exception, event: str | None) -> None:
    with structlog.testing.capture_logs() as events:
        DatabaseOutage("x").note(DBAPIError("SELECT 1", None, error))
    assert [one["event"] for one in events] == ([] if event is None else [event])
    assert "secret" not in str(events)


def test_a_write_without_privileges_is_logged_as_a_refused_write() -> None:
    with structlog.testing.capture_logs() as events:
        DatabaseOutage("x").note(DBAPIError("SELECT 1", None, Refused("42501")), writes=True)
    assert [one["event"] for one in events] == ["the database refuses writes"]


async def test_the_start_and_end_of_a_redis_outage_are_logged_once_each() -> None:
    clock = Clock()
    shared = Shared(f"redis://:a-secret@127.0.0.1:{free_port()}/2", clock=clock)
    with structlog.testing.capture_logs() as events:
        for _ in range(3):
            await shared.incr("key", 60)
            clock.now += 60
        assert await shared.fault() == "Connection refused"
        shared._redis = Shared.__mro__[1]()
        await shared.incr("key", 60)
    await shared.close()
    assert [event for event, _ in said(events)] == [
        "the redis of the rate limits is unavailable: counting in memory",
        "the redis of the rate limits is back",
    ]
    assert events[0]["reason"] == "Connection refused"
    assert "a-secret" not in str(events)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:a%2Fb@host/1?client_name=secret", "redis://host:6379/1"),
        ("rediss://:p@[::1]:7000", "rediss://[::1]:7000"),
    ],
)
def test_a_redis_address_is_shown_without_credentials(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_check_reports_the_address_and_the_reason_of_an_unreachable_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sqlite_url: str
) -> None:
    port = free_port()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gateway.backplane.REACH_SECONDS", 1)
    for name, value in {
        "DATABASE_URL": sqlite_url,
        "BACKPLANE_URL": f"redis://:a-secret@127.0.0.1:{port}/0",
        "RATE_LIMIT_URL": f"redis://:a-secret@127.0.0.1:{port}/1",
    }.items():
        monkeypatch.setenv(f"GATEWAY_{name}", value)
    assert cli.run(["check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"backplane: redis: not reached at redis://127.0.0.1:{port}/0: Connection refused" in lines
    where = f"rate limits: redis: not reached at redis://127.0.0.1:{port}/1: Connection refused"
    assert f"{where}; sign-ins count in memory" in lines
    assert "a-secret" not in str(lines)


async def test_a_json_log_has_one_schema_and_records_serving_and_the_stop_signal(
    sqlite_url: str, tmp_path: Path
) -> None:
    settings = {"log_format": "json", "access_log": True, "typo": "x"}
    async with process(sqlite_url, tmp_path, **settings) as (gateway, server):
        await server.service.notify("ada")
        await server.http.post(
            "/v1/auth/token", data={"grant_type": "password", "username": "a", "password": "b"}
        )
        await server.http.get("/v1/inbox")
        assert gateway.end(signal.SIGHUP) == 0
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
    assert [line for line in lines if not {"timestamp", "level", "logger", "event"} <= line.keys()] == []
    events = [line["event"] for line in lines]
    assert events.index("Application startup complete.") < events.index("serving")
    assert {"login_failed", "refused"} <= {one["event"] for one in lines if one["logger"] == "gateway.audit"}
    assert [one["signal"] for one in lines if one["event"] == "stopping"] == ["SIGHUP"]
    assert any(one["logger"] == "uvicorn.access" for one in lines)
    assert any("GATEWAY_TYPO is not a setting" in event for event in events)


def test_a_count_of_one_is_singular() -> None:
    assert [counted(number, "user") for number in (0, 1, 2, 1200)] == [
        "0 users",
        "1 user",
        "2 users",
        "1,200 users",
    ]


def test_a_sqlite_error_without_a_name_is_logged_by_its_class() -> None:
    with structlog.testing.capture_logs() as events:
        DatabaseOutage("x").note(sqlite3.OperationalError("no such table: secret"))
    assert "secret" not in str(events)
