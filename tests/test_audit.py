"""The audit log: what is in a line, where it goes, and that nobody waits for it."""

import asyncio
import base64
import json
import logging
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from passlib.hash import argon2

from gateway import accounts, audit
from gateway.audit import Event
from gateway.settings import SettingsError
from tests.checker import Json
from tests.clients import Service, open_socket
from tests.servers import LocalServer
from tests.waiting import until, until_sync

PASSWORD = "correct horse battery"


class Trail(logging.Handler):
    """What was recorded, as the objects of its lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Json] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line."""
        self.lines.append(json.loads(record.getMessage()))

    def of(self, event: Event) -> list[Json]:
        """Return the lines of one event, without the time and the id of the request."""
        own = {"time", "request_id"}
        return [{k: v for k, v in one.items() if k not in own} for one in self.lines if one["event"] == event]

    def last(self, event: Event) -> Json:
        """Return the newest line of one event."""
        return self.of(event)[-1]


@pytest.fixture
def trail() -> Iterator[Trail]:
    """What is recorded in this process."""
    handler = Trail()
    audit.logger.addHandler(handler)
    audit.logger.setLevel(logging.INFO)
    audit.logger.propagate = False
    yield handler
    audit.logger.propagate = True
    audit.logger.setLevel(logging.NOTSET)
    audit.logger.removeHandler(handler)


# --- a line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'a"b\\',
        "a line\n{}",
        "a\r\nb",
        "esc \x1b[31m",
        "\u2028\u2029\u202e\x85\x00\x7f",
        "half \ud800",
        "x" * 100_000,
    ],
    ids=ascii,
)
def test_no_value_leaves_its_line_or_its_quotes(text: str, tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    with audit.written_to(str(file)):
        audit.record(
            Event.REFUSED, actor=audit.user(text), subject=text, source=text, why=text, changed=[text] * 1000
        )
    (line,) = file.read_bytes().split(b"\n")[:-1]
    assert len(line) < 100_000
    assert all(0x20 <= byte < 0x7F for byte in line)
    fields = json.loads(line)
    assert fields["actor"][:10] == f"user:{text}"[:10]
    assert set(fields) == {"time", "event", "actor", "subject", "source", "why", "changed"}
    assert max(len(value) for value in fields.values() if isinstance(value, str)) <= audit.LONGEST


def test_details_cannot_say_that_something_else_has_happened(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    with audit.written_to(str(file)):
        audit.record(Event.REFUSED, actor=None, code="x")
    fields = json.loads(file.read_text())
    assert (fields["event"], "actor" in fields) == ("refused", False)
    assert fields["time"].endswith("Z")


# --- the file -----------------------------------------------------------------------------------------------


def test_only_its_owner_may_read_the_file_whatever_the_umask(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    before = os.umask(0)
    try:
        with audit.written_to(str(file)):
            audit.record(Event.LOGIN, actor="user:ada")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_that_was_moved_is_begun_anew(tmp_path: Path) -> None:
    file, moved = tmp_path / "audit.log", tmp_path / "audit.log.1"
    with audit.written_to(str(file)):
        audit.record(Event.LOGIN, actor="user:ada")
        until_sync(file.read_text, "the first line is written")
        file.rename(moved)
        audit.record(Event.LOGIN, actor="user:bob")
    assert "ada" in moved.read_text()
    assert "bob" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_was_there_stays(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    for sub in ("ada", "bob"):
        with audit.written_to(str(file)):
            audit.record(Event.LOGIN, actor=audit.user(sub))
    assert [json.loads(line)["actor"] for line in file.read_text().splitlines()] == ["user:ada", "user:bob"]


def test_a_file_that_cannot_be_written_is_a_wrong_setting(tmp_path: Path) -> None:
    with (
        pytest.raises(SettingsError, match="GATEWAY_AUDIT_LOG"),
        audit.written_to(str(tmp_path / "no" / "x")),
    ):
        pass


def test_without_a_file_the_lines_go_to_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    with audit.written_to(None):
        audit.record(Event.LOGIN, actor="user:ada")
    assert json.loads(capsys.readouterr().err)["actor"] == "user:ada"


def test_nobody_waits_for_a_pipe_that_is_full_and_what_is_lost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "WAITING", 10)
    may_write = threading.Event()
    written: list[str] = []

    class Stuck(logging.Handler):
        def __init__(self, *_: object, **__: object) -> None:
            super().__init__()

        def emit(self, record: logging.LogRecord) -> None:
            may_write.wait(10)
            written.append(record.getMessage())

    monkeypatch.setattr(audit, "_PrivateFile", Stuck)
    with audit.written_to(str(tmp_path / "audit.log")):
        for number in range(100):
            audit.record(Event.LOGIN, actor="user:ada", number=number)
        may_write.set()
        until_sync(lambda: any('"lost"' in line for line in written), "what was lost is said")
    lines = [json.loads(line) for line in written]
    kept = [line["number"] for line in lines if line["event"] == "login"]
    (lost,) = [line["number"] for line in lines if line["event"] == "lost"]
    assert kept == sorted(set(kept))
    assert lost + len(kept) == 100


# --- who did what -------------------------------------------------------------------------------------------


async def sign_in(server: LocalServer, sub: str = "ada", password: str = PASSWORD) -> Json:
    form = {"grant_type": "password", "username": sub, "password": password}
    answer: Json = (await server.stranger.post("/v1/auth/token", data=form)).json()
    return answer


async def test_signing_in_and_out_is_recorded(server: LocalServer, trail: Trail) -> None:
    await server.service.post("/v1/users", json={"sub": "ada", "password": PASSWORD})
    first = await sign_in(server)
    login = trail.last(Event.LOGIN)
    assert (login["actor"], login["source"], login["grant"]) == ("user:ada", "127.0.0.1", "password")
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    second = (await server.stranger.post("/v1/auth/token", data=form)).json()
    assert trail.last(Event.REFRESHED)["session"] == login["session"]
    ada = Service(server.http, second["access_token"])
    await ada.post("/v1/auth/ticket")
    assert trail.last(Event.TICKET_ISSUED)["actor"] == "user:ada"
    await server.stranger.post("/v1/auth/revoke", data={"token": second["refresh_token"]})
    ended = trail.last(Event.SESSIONS_ENDED)
    assert (ended["why"], ended["number"], ended["sessions"]) == ("revoked", 1, [login["session"]])


async def test_a_refresh_token_that_comes_twice_is_recorded(server: LocalServer, trail: Trail) -> None:
    await server.service.post("/v1/users", json={"sub": "ada", "password": PASSWORD})
    tokens = [(await sign_in(server))["refresh_token"]]
    for _ in range(2):
        form = {"grant_type": "refresh_token", "refresh_token": tokens[-1]}
        tokens.append((await server.stranger.post("/v1/auth/token", data=form)).json()["refresh_token"])
    for token in (tokens[0], "unknown"):
        form = {"grant_type": "refresh_token", "refresh_token": token}
        assert (await server.stranger.post("/v1/auth/token", data=form)).status_code == 400
    assert trail.last(Event.REFRESH_REUSED)["actor"] == "user:ada"
    assert trail.last(Event.REFRESH_REUSED)["session"] == trail.last(Event.LOGIN)["session"]
    assert trail.last(Event.REFRESH_FAILED) == {"event": "refresh_failed", "source": "127.0.0.1"}


async def test_failed_logins_are_recorded_and_a_name_that_nobody_has_is_not(
    server: LocalServer, trail: Trail
) -> None:
    for sub, fields in (("ada", {"password": PASSWORD}), ("disabled", {"password": PASSWORD}), ("bare", {})):
        await server.service.post("/v1/users", json={"sub": sub, **fields})
    await server.service.patch("/v1/users/disabled", json={"disabled": True})
    for sub in ("ada", "disabled", "bare", "my secret typed into the wrong field", "\x00"):
        await sign_in(server, sub, "not the password")
    assert [(line.get("actor"), line["why"]) for line in trail.of(Event.LOGIN_FAILED)] == [
        ("user:ada", "wrong_password"),
        ("user:disabled", "disabled"),
        ("user:bare", "no_password"),
        (None, "unknown_user"),
        (None, "unknown_user"),
    ]
    assert "typed into" not in json.dumps(trail.lines)


async def test_what_an_admin_does_is_recorded(server: LocalServer, trail: Trail) -> None:
    admin = server.service
    made = (await admin.post("/v1/services", json={"name": "shop", "scopes": ["notify"]})).json()
    client, secret = made["client_id"], made["client_secret"]
    key = (await admin.post(f"/v1/services/{client}/keys")).json()
    credentials = base64.b64encode(f"{client}:{secret}".encode()).decode()
    for sent in (credentials, base64.b64encode(f"{client}:wrong".encode()).decode()):
        form = {"grant_type": "client_credentials"}
        await server.stranger.post("/v1/auth/token", data=form, headers={"Authorization": f"Basic {sent}"})
    await admin.request("DELETE", f"/v1/services/{client}/keys/{key['id']}")
    await admin.request("DELETE", f"/v1/services/{client}")
    await admin.post("/v1/users", json={"sub": "ada", "password": PASSWORD})
    await server.user("ada")
    await admin.patch("/v1/users/ada", json={"disabled": True, "password": None})
    await admin.patch("/v1/users/ada", json={"disabled": False})
    await server.user("ada")
    await admin.request("DELETE", "/v1/users/ada/sessions")
    await admin.request("DELETE", "/v1/users/ada")
    happened = [(line["event"], line.get("subject")) for line in trail.lines]
    service, user = f"service:{client}", "user:ada"
    assert happened == [
        ("service_created", service),
        ("key_created", service),
        ("login", None),
        ("login_failed", None),
        ("key_deleted", service),
        ("service_deleted", service),
        ("user_created", user),
        ("token_minted", user),
        ("user_changed", user),
        ("sessions_ended", user),
        ("user_changed", user),
        ("token_minted", user),
        ("sessions_ended", user),
        ("user_deleted", user),
    ]
    by_admin = [line for line in trail.lines if not line["event"].startswith("login")]
    assert len({line["actor"] for line in by_admin}) == 1
    assert {line["source"] for line in trail.lines} == {"127.0.0.1"}
    assert [line["why"] for line in trail.of(Event.SESSIONS_ENDED)] == ["user_changed", "logout"]
    text = json.dumps(trail.lines)
    assert not any(one in text for one in (secret, key["key"], credentials, PASSWORD, "$argon2"))


async def test_who_is_refused_is_recorded_by_rest_and_by_socket(server: LocalServer, trail: Trail) -> None:
    ada = await server.user("ada")
    await server.stranger.get("/v1/inbox")
    await Service(server.http, "garbage").get("/v1/users/somebody%20else")
    await ada.get("/v1/users")
    await server.service.get("/v1/inbox")
    refused = [
        (one.get("actor"), one["code"], one["status"], one["route"]) for one in trail.of(Event.REFUSED)
    ]
    assert refused[:3] == [
        (None, "missing_token", 401, "/v1/inbox"),
        (None, "invalid_token", 401, "/v1/users/{sub}"),
        ("user:ada", "insufficient_scope", 403, "/v1/users"),
    ]
    assert str(refused[3][0]).startswith("service:")
    trail.lines.clear()
    async with open_socket(server.base, ticket="none") as socket:
        await socket.closed()
    async with open_socket(
        server.base, headers={"Authorization": f"Bearer {server.service.token}"}
    ) as socket:
        await socket.closed()
    async with ada.socket() as socket, (await server.user("bob")).socket() as other:
        await socket.until("live")
        await other.until("live")
        await socket.send(type="auth", token="garbage")
        await socket.closed()
        await server.service.request("DELETE", "/v1/users/bob/sessions")
        await other.closed()
    refused = [
        (one.get("actor", "")[:8], one["code"], one["status"], one.get("carrier"))
        for one in trail.of(Event.REFUSED)
    ]
    assert refused == [
        ("", "invalid_token", 4001, "ticket"),
        ("service:", "insufficient_scope", 4003, "header"),
        ("user:ada", "invalid_token", 4001, "socket"),
        ("user:bob", "token_revoked", 4001, "socket"),
    ]


async def test_a_page_of_another_origin_is_recorded(server: LocalServer, trail: Trail) -> None:
    ada = await server.user("ada")
    headers = {"Authorization": f"Bearer {ada.token}"}
    with pytest.raises(Exception, match="403"):
        async with open_socket(server.base, headers=headers, origin="https://evil.example"):
            pass
    assert trail.last(Event.REFUSED)["code"] == "origin_not_allowed"


async def test_a_post_and_a_look_into_the_inbox_leave_no_line(server: LocalServer, trail: Trail) -> None:
    ada = await server.user("ada")
    trail.lines.clear()
    await server.service.post("/v1/notifications", json={"to": "ada", "title": "Hello"})
    await ada.inbox()
    async with ada.socket() as socket:
        await socket.until("live")
    await server.sockets(0)
    assert trail.lines == []


async def test_an_old_hash_is_renewed_by_the_next_sign_in_and_by_two_at_once(server: LocalServer) -> None:
    old = argon2.using(type="ID", memory_cost=8192, time_cost=1, parallelism=1).hash(PASSWORD)
    await server.parts.database.write(accounts.add_user, "ada", old, 0)
    answers = await asyncio.gather(*(sign_in(server) for _ in range(5)))
    assert all("access_token" in answer for answer in answers)
    row = await server.parts.database.read(accounts.get_user, "ada")
    assert row.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert "access_token" in await sign_in(server)


# --- the command line ---------------------------------------------------------------------------------------


def test_what_the_operator_does_is_recorded(sqlite_url: str, tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    environment = os.environ | {"GATEWAY_DATABASE_URL": sqlite_url, "GATEWAY_AUDIT_LOG": str(file)}

    def gateway(*arguments: str, stdin: str = "") -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            env=environment,
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return done.stdout

    gateway("user", "add", "ada", "--password-stdin", stdin=PASSWORD + "\n")
    token = gateway("token", "ada").strip()
    gateway("user", "disable", "ada")
    gateway("user", "enable", "ada")
    gateway("user", "delete", "ada")
    made = json.loads(gateway("service", "add", "shop", "--scope", "notify"))
    key = json.loads(gateway("key", "add", made["client_id"]))
    gateway("key", "delete", made["client_id"], key["id"])
    gateway("service", "delete", made["client_id"])
    gateway("signing-key", "rotate")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["event"] for line in lines] == [
        "user_created",
        "token_minted",
        "user_changed",
        "sessions_ended",
        "user_changed",
        "user_deleted",
        "service_created",
        "key_created",
        "key_deleted",
        "service_deleted",
        "signing_key_rotated",
    ]
    assert {(line["actor"], line["source"]) for line in lines} == {(f"operator:{os.getuid()}", "cli")}
    assert not any(one in file.read_text() for one in (token, made["client_secret"], key["key"], PASSWORD))


def test_the_operator_is_told_why_a_password_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "user", "add", "ada", "--password-stdin"],
        env=os.environ | {"GATEWAY_DATABASE_URL": sqlite_url},
        cwd=tmp_path,
        input="password1234\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "common" in done.stderr
    assert "password1234" not in done.stderr


async def test_rest_says_why_a_password_is_refused(server: LocalServer) -> None:
    for password, why in (("password1234", "common"), ("ada@example.com!", "own id")):
        fields = {"sub": "ada@example.com", "password": password}
        answer = await server.service.post("/v1/users", json=fields)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "password")
        assert why in answer.text
        assert password not in answer.text
    await server.service.post("/v1/users", json={"sub": "ada@example.com"})
    answer = await server.service.patch("/v1/users/ada@example.com", json={"password": "password1234"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "password")


async def test_the_loop_goes_on_while_passwords_are_hashed(server: LocalServer) -> None:
    await server.service.post("/v1/users", json={"sub": "ada", "password": PASSWORD})
    ada = await server.user("ada")
    logins = [asyncio.create_task(sign_in(server)) for _ in range(4)]
    await until(lambda: server.parts.passwords._waiting > 0, "a password is hashed")
    assert (await ada.inbox())["seq"] == 0
    assert all("access_token" in answer for answer in await asyncio.gather(*logins))
