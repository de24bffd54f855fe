"""What commands and the API both do: in one transaction, announced after the commit, and in the audit log."""

import json
import logging
from collections.abc import Collection
from typing import Any

import pytest

from gateway.auth import services, sessions, users
from gateway.auth.administration import Administration
from gateway.auth.sessions import new_session
from gateway.database.database import Database
from gateway.errors import Conflict, NotFound
from gateway.observability import audit

FAR = 2**50


class Desk:
    """An administration, what it announced, and what it wrote in the audit log."""

    def __init__(self, database: Database, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, audit.logger.name)
        self._caplog = caplog
        self.database = database
        self.announced: list[list[str]] = []
        self.admin = Administration(database, "service:a", "192.0.2.1", on_ended=self._announce)

    def _announce(self, ended: Collection[str]) -> None:
        self.announced.append(list(ended))

    def lines(self) -> list[dict[str, Any]]:
        lines = [json.loads(record.getMessage()) for record in self._caplog.records]
        self._caplog.clear()
        assert all(line.pop("actor") == "service:a" for line in lines)
        assert all(line.pop("source") == "192.0.2.1" and line.pop("time") for line in lines)
        return lines

    async def session(self, sub: str) -> str:
        session = new_session(FAR)
        assert await self.database.write(sessions.start_user_session, sub, session, 0)
        return session.id


@pytest.fixture
def desk(database: Database, caplog: pytest.LogCaptureFixture) -> Desk:
    return Desk(database, caplog)


async def test_a_service_can_be_created_with_a_key(desk: Desk) -> None:
    made = await desk.admin.create_service("shop", ["notify", "admin"], with_key=True)
    assert made.key is not None
    assert services.parse_key(made.key.text)[0] == made.key.id
    assert await desk.database.read(services.find_key, made.key.id) is not None
    subject = f"service:{made.row.client_id}"
    assert desk.lines() == [
        {"event": "service_created", "scopes": ["admin", "notify"], "subject": subject},
        {"event": "key_created", "key": made.key.id, "subject": subject},
    ]
    assert (await desk.admin.create_service("other", ["notify"])).key is None
    assert [line["event"] for line in desk.lines()] == ["service_created"]


async def test_a_service_and_its_key_are_made_in_one_transaction(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise Conflict("no")

    monkeypatch.setattr(services, "add_key", fail)
    with pytest.raises(Conflict):
        await desk.admin.create_service("shop", ["notify"], with_key=True)
    made = await desk.database.read(services.list_services, 0, 10)
    assert "shop" not in [row.name for row in made]
    assert desk.lines() == []


async def test_the_sessions_of_a_deleted_service_are_announced_page_by_page(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("services", "administration"):
        monkeypatch.setattr(f"gateway.auth.{module}.PAGE", 2)
    client_id = (await desk.admin.create_service("shop", ["notify"])).row.client_id
    key = await desk.admin.create_key(client_id)
    started = [new_session(FAR) for _ in range(3)]
    for session in started:
        await desk.database.write(services.start_service_session, client_id, session, 0)
    desk.lines()
    await desk.admin.delete_service(client_id)
    announced = [handle for page in desk.announced for handle in page]
    assert sorted(announced) == sorted([key.id, *(session.id for session in started)])
    assert [len(ended) for ended in desk.announced] == [2, 1, 1]
    assert desk.lines() == [{"event": "service_deleted", "number": 4, "subject": f"service:{client_id}"}]


async def test_a_deleted_key_is_announced(desk: Desk) -> None:
    client_id = (await desk.admin.create_service("shop", ["notify"])).row.client_id
    key = await desk.admin.create_key(client_id)
    desk.lines()
    await desk.admin.delete_key(client_id, key.id)
    assert desk.announced == [[key.id]]
    assert desk.lines() == [{"event": "key_deleted", "key": key.id, "subject": f"service:{client_id}"}]
    with pytest.raises(NotFound):
        await desk.admin.delete_key(client_id, key.id)
    assert desk.announced == [[key.id]]
    assert desk.lines() == []


@pytest.mark.parametrize(
    ("changes", "changed", "disabled"),
    [
        ({}, [], False),
        ({"password_hash": "h"}, ["password"], False),
        ({"disabled": True}, ["disabled"], True),
        ({"password_hash": None, "disabled": True}, ["disabled", "password"], True),
    ],
    ids=str,
)
async def test_a_user_change_is_audited_with_the_changed_fields_and_ended_sessions(
    desk: Desk, changes: dict[str, Any], changed: list[str], disabled: bool
) -> None:
    await desk.admin.create_user("ada", "hash")
    assert desk.lines() == [{"event": "user_created", "password": "set", "subject": "user:ada"}]
    session = await desk.session("ada")
    _, ended = await desk.admin.change_user("ada", changes)
    expected: list[dict[str, Any]] = [
        {"event": "user_changed", "changed": changed, "disabled": disabled, "subject": "user:ada"}
    ]
    if changes:
        ends = {"event": "sessions_ended", "why": "user_changed", "number": 1, "sessions": [session]}
        expected.append(ends | {"subject": "user:ada"})
    assert ended == ([session] if changes else [])
    assert desk.announced == [ended]
    assert desk.lines() == expected


async def test_a_sign_out_without_a_session_is_not_audited(desk: Desk) -> None:
    await desk.admin.create_user("ada", None)
    session = await desk.session("ada")
    assert desk.lines() == [{"event": "user_created", "password": "none", "subject": "user:ada"}]
    assert await desk.admin.log_out("ada") == [session]
    assert [(line["event"], line["why"]) for line in desk.lines()] == [("sessions_ended", "logout")]
    assert await desk.admin.log_out("ada") == []
    assert desk.lines() == []


async def test_the_sessions_of_an_erased_user_are_announced_before_the_inbox_is_erased(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.admin.create_user("ada", None)
    session = await desk.session("ada")
    steps = iter([True, False])

    def erase_some(_connection: object, _user_id: int) -> bool:
        assert desk.announced == [[session]]
        return next(steps)

    monkeypatch.setattr("gateway.auth.erasure.erase_some", erase_some)
    desk.lines()
    await desk.admin.erase_user("ada")
    assert list(steps) == []
    assert await desk.database.read(users.find_user, "ada") is None
    assert [line["event"] for line in desk.lines()] == ["user_deleted", "sessions_ended"]
