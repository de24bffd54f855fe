"""The audit log: what is in a line, where it goes, and that nobody waits for it."""

import asyncio
import base64
import hashlib
import json
import logging
import os
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from passlib.hash import argon2

from gateway import cli
from gateway.auth import users
from gateway.observability import audit, sampling
from gateway.observability.audit import ALL_CALLERS, ONE_SERVICE, Event
from gateway.observability.sampling import FIRST, Sampler
from gateway.settings import SettingsError
from tests.support.checker import Json
from tests.support.clients import Service, open_socket
from tests.support.commands import RunCommand
from tests.support.servers import LocalServer
from tests.support.trail import Trail
from tests.support.waiting import until, until_sync

PASSWORD = "correct horse battery"


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
def test_no_value_breaks_out_of_its_line_or_its_quotes(text: str, tmp_path: Path) -> None:
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
    assert max(len(value) for value in fields.values() if isinstance(value, str)) <= audit.MAX_VALUE_LENGTH


def test_a_record_has_its_event_and_a_utc_time_and_omits_a_missing_actor(tmp_path: Path) -> None:
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


def test_a_new_file_is_started_after_the_old_one_is_moved(tmp_path: Path) -> None:
    file, moved = tmp_path / "audit.log", tmp_path / "audit.log.1"
    with audit.written_to(str(file)):
        audit.record(Event.LOGIN, actor="user:ada")
        until_sync(file.read_text, "the first line is written")
        file.rename(moved)
        audit.record(Event.LOGIN, actor="user:bob")
    assert "ada" in moved.read_text()
    assert "bob" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_new_lines_are_appended_to_an_existing_file(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    for sub in ("ada", "bob"):
        with audit.written_to(str(file)):
            audit.record(Event.LOGIN, actor=audit.user(sub))
    assert [json.loads(line)["actor"] for line in file.read_text().splitlines()] == ["user:ada", "user:bob"]


def test_an_unwritable_file_is_a_settings_error(tmp_path: Path) -> None:
    with (
        pytest.raises(SettingsError, match="GATEWAY_AUDIT_LOG"),
        audit.written_to(str(tmp_path / "no" / "x")),
    ):
        pass


def test_without_a_file_the_lines_go_to_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    with audit.written_to(None):
        audit.record(Event.LOGIN, actor="user:ada")
    assert json.loads(capsys.readouterr().err)["actor"] == "user:ada"


def test_a_full_pipe_blocks_no_caller_and_lost_lines_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_WAITING_LINES", 10)
    stuck, may_write = threading.Event(), threading.Event()
    written: list[str] = []

    class Stuck(logging.Handler):
        def __init__(self, *_: object, **__: object) -> None:
            super().__init__()

        def emit(self, record: logging.LogRecord) -> None:
            stuck.set()
            may_write.wait()
            written.append(record.getMessage())

    monkeypatch.setattr(audit, "PrivateFile", Stuck)
    with audit.written_to(str(tmp_path / "audit.log")):
        audit.record(Event.LOGIN, actor="user:ada", number=0)
        stuck.wait()
        # From here on the queue fills up: the line that tells what was lost finds it full.
        for number in range(1, 100):
            audit.record(Event.LOGIN, actor="user:ada", number=number)
        may_write.set()
    lines = [json.loads(line) for line in written]
    assert [line["number"] for line in lines if line["event"] == "login"] == list(range(11))
    assert [line["number"] for line in lines if line["event"] == "lost"] == [89]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604, 0o777], ids=oct)
def test_a_file_readable_by_others_becomes_private(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "audit.log"
    file.write_text("")
    file.chmod(mode)
    assert audit.check(str(file)) == f"can be written; its mode {mode:o} becomes 600"
    assert stat.S_IMODE(file.stat().st_mode) == mode, "to look at it changes nothing"
    with audit.written_to(str(file)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert audit.check(str(file)) == "can be written"


def test_a_replacement_file_becomes_private_too(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    with audit.written_to(str(file)):
        file.rename(tmp_path / "audit.log.1")
        file.write_text("")
        file.chmod(0o644)
        audit.record(Event.LOGIN, actor="user:ada")
    assert "ada" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def refused(path: Path) -> str:
    """Return why a file is refused: by `check` and at the start alike."""
    with pytest.raises(SettingsError) as checked:
        audit.check(str(path))
    with pytest.raises(SettingsError) as opened, audit.written_to(str(path)):
        pass
    assert str(checked.value) == str(opened.value)
    assert str(checked.value).startswith("GATEWAY_AUDIT_LOG: ")
    return str(checked.value)


@pytest.mark.parametrize(
    "content",
    [
        b"root:x:0:0:root:/root:/bin/sh\n",
        b"\n",
        b"\xff\0" * 50_000,
        b'{"time": "2026-01-01T00:00:00Z", "level": "info"}\n',
        b'{"time": 1, "event": "login"}\n',
        b'["time", "event"]\n',
        b"[" * 100_000,
    ],
    ids=["passwd", "blank line", "binary", "log of another", "number", "array", "brackets"],
)
def test_a_file_that_is_not_an_audit_log_is_refused_and_left_unchanged(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "of-another"
    file.write_bytes(content)
    file.chmod(0o644)
    assert "it is not an audit log: name one, or a file that does not exist yet" in refused(file)
    assert file.read_bytes() == content
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_a_command_leaves_a_file_that_is_not_an_audit_log_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("of-another").write_text("mine\n")
    monkeypatch.setenv("GATEWAY_AUDIT_LOG", "of-another")
    assert cli.run(["user", "add", "ada", "--create"]) == 2
    said = capsys.readouterr().err
    assert (said.count("\n"), "GATEWAY_AUDIT_LOG: " in said) == (1, True)
    assert Path("of-another").read_text() == "mine\n"


def test_a_replacement_file_that_is_not_an_audit_log_is_left_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    with audit.written_to(str(file)):
        file.rename(tmp_path / "audit.log.1")
        file.write_text("mine\n")
        audit.record(Event.LOGIN, actor="user:ada")
    assert file.read_text() == "mine\n"


def test_a_link_to_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("")
    link = tmp_path / "audit.log"
    link.symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in refused(link)


def test_a_file_of_another_user_is_refused_but_for_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "audit.log"
    file.write_text("")
    if os.geteuid() == 0:
        os.chown(file, 1, -1)
    owner = file.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert "another user" in refused(file)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert audit.check(str(file)).startswith("can be written")


def test_a_world_writable_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    assert str(folder) in refused(folder / "audit.log")
    assert list(folder.iterdir()) == []
    folder.chmod(0o1777)
    assert audit.check(str(folder / "audit.log")) == "can be made"


def test_a_device_can_be_the_audit_log() -> None:
    assert audit.check("/dev/null") == "can be written"
    with audit.written_to("/dev/null"):
        audit.record(Event.LOGIN, actor="user:ada")


# --- samples ------------------------------------------------------------------------------------------------


class Clock:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_of_many_similar_events_are_recorded_and_then_each_doubling() -> None:
    clock, rest = Clock(), list[tuple[str, int]]()
    sampler = Sampler[str](lambda kind, number: rest.append((kind, number)), clock)
    told = [number for number in (sampler.take("a") for _ in range(1000)) if number]
    assert told == [1] * FIRST + [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST, 16 * FIRST]
    clock.now = 61
    sampler.tell_rest()
    assert rest == [("a", 1000 - sum(told))]
    assert sampler.take("a") == 1, "a new window begins"


def test_the_remaining_count_is_recorded_with_the_next_event_or_at_the_end() -> None:
    clock, rest = Clock(), list[tuple[str, int]]()
    sampler = Sampler[str](lambda kind, number: rest.append((kind, number)), clock)
    for _ in range(FIRST + 3):
        sampler.take("a")
    sampler.tell_rest()
    assert rest == []
    clock.now = 61
    for _ in range(FIRST + 1):
        sampler.take("b")
    assert rest == [("a", 3)]
    sampler.tell_rest(everything=True)
    assert rest == [("a", 3), ("b", 1)]


def test_a_sampler_tracks_a_limited_number_of_kinds_and_loses_no_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampling, "MAX_KINDS", 10)
    rest = list[tuple[int, int]]()
    sampler = Sampler[int](lambda kind, number: rest.append((kind, number)), Clock())
    told = sum(sampler.take(kind) for kind in range(100) for _ in range(FIRST + 1))
    assert len(sampler._windows) == 10
    assert rest == [(kind, 1) for kind in range(90)]
    sampler.tell_rest(everything=True)
    assert told + sum(number for _, number in rest) == 100 * (FIRST + 1)


def test_lines_of_a_group_are_bounded_and_lose_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MAX_KINDS", 10)
    clock = Clock()
    rest: list[tuple[str, int]] = []
    sampler = Sampler[str](lambda kind, number: rest.append((kind, number)), clock)
    own = []
    for minute in range(2):
        for number in range(4000):
            clock.now = minute * 60 + number / 100
            kind = str(number % 200)
            told = sampler.take(kind, [("tens" + kind[:-1], 2 * FIRST), ("all", 4 * FIRST)])
            own += [told] if told else []
    sampler.tell_rest(everything=True)
    assert sum(own) + sum(number for _, number in rest) == 2 * 4000
    # In each minute the first, each doubling, and the rest; then what is told at the end.
    assert len(own) + len(rest) <= 2 * (4 * FIRST + 8) + 4 * FIRST
    assert {kind for kind, _ in rest} >= {"all"}


def test_a_flood_of_refusals_becomes_a_few_lines_with_counts(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    with audit.written_to(str(file)):
        for number in range(5000):
            audit.record(
                Event.REFUSED, actor=None, source="192.0.2.1", code="invalid_token", route=f"/{number}"
            )
            audit.record(Event.REFUSED, actor=None, source=f"2001:db8::{number:x}", code="invalid_token")
            audit.record(Event.LOGIN_FAILED, actor=None, source="192.0.2.1", why="rate_limited")
        audit.record(Event.REFUSED, actor=None, source="192.0.2.1", code="missing_token")
        audit.record(Event.REFUSED, actor=None, source="192.0.2.2", code="invalid_token")
        audit.record(Event.REFUSED, actor="user:ada", source="192.0.2.1", code="invalid_token")
        for _ in range(100):
            audit.record(Event.LOGIN, actor="user:ada", source="192.0.2.1")
            audit.record(Event.REFRESH_REUSED, actor="user:ada", source="192.0.2.1")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    sampled = [line for line in lines if line["event"] in {"refused", "login_failed"}]
    assert len(sampled) < 3 * (FIRST + 10)
    assert sum(line.get("number", 1) for line in sampled) == 3 * 5000 + 3
    assert len(lines) - len(sampled) == 200, "a success, and a token that was stolen, have a line each"
    from_v6 = [line for line in sampled if line["source"].startswith("2001:db8::")]
    assert sum(line.get("number", 1) for line in from_v6) == 5000
    assert {line["code"] for line in from_v6} == {"invalid_token"}


def test_endless_refreshes_of_a_user_become_a_few_lines_with_counts(trail: Trail) -> None:
    def refresh(sub: str, number: int, repeated: bool | None = None) -> None:
        source, session = f"192.0.2.{number % 250}", f"{number % 100}"
        audit.record(
            Event.REFRESHED, actor=audit.user(sub), source=source, session=session, repeated=repeated
        )

    for number in range(6000):
        refresh("ada", number)
    refresh("ada", 0, repeated=True)
    audit._sampler.tell_rest(everything=True)
    lines = trail.of(Event.REFRESHED)
    assert len(lines) <= FIRST + 10
    assert sum(line.get("number", 1) for line in lines) == 6001
    assert {line["actor"] for line in lines} == {"user:ada"}
    assert [line["session"] for line in lines[:FIRST]] == [str(number) for number in range(FIRST)]
    assert [line["session"] for line in lines if line.get("repeated")] == ["0"]


def test_refreshes_of_many_users_have_a_line_each(trail: Trail) -> None:
    for number in range(3 * ALL_CALLERS):
        audit.record(Event.REFRESHED, actor=audit.user(f"user {number}"), source="192.0.2.1", session="s")
    audit._sampler.tell_rest(everything=True)
    lines = trail.of(Event.REFRESHED)
    assert len({line["actor"] for line in lines}) == len(lines) == 3 * ALL_CALLERS


def test_repeated_actions_of_a_service_become_a_few_lines_with_counts(trail: Trail) -> None:
    def mint(service: str, sub: str) -> None:
        who = {"actor": audit.service(service), "subject": audit.user(sub), "source": "192.0.2.1"}
        audit.record(Event.TOKEN_MINTED, **who, session="s", ttl=60)
        audit.record_ended(["a", "b"], "too_many_sessions", **who)

    for number in range(5000):
        mint("shop", f"user {number}")
        audit.record(Event.LOGIN, actor="service:shop", source="192.0.2.1", grant="client_credentials")
    for _ in range(1000):
        mint("wiki", "ada")
    audit._sampler.tell_rest(everything=True)
    of_shop = [one for one in trail.of(Event.TOKEN_MINTED) if one["actor"] == "service:shop"]
    assert {one.get("subject") for one in of_shop[:ONE_SERVICE]} == {
        f"user:user {number}" for number in range(ONE_SERVICE)
    }
    assert len(of_shop) <= ONE_SERVICE + 10
    of_wiki = [one for one in trail.of(Event.TOKEN_MINTED) if one["actor"] == "service:wiki"]
    assert (len(of_wiki) <= FIRST + 10, {one["subject"] for one in of_wiki}) == (True, {"user:ada"})
    assert sum(one.get("number", 1) for one in of_shop) == 5000
    assert sum(one.get("number", 1) for one in of_wiki) == 1000
    ended, logins = trail.of(Event.SESSIONS_ENDED), trail.of(Event.LOGIN)
    assert (len(ended) <= ONE_SERVICE + FIRST + 20, len(logins) <= FIRST + 10) == (True, True)
    assert sum(one["number"] for one in ended) == 2 * 6000
    assert sum(one.get("number", 1) for one in logins) == 5000


def test_a_long_name_is_shortened_in_a_line_and_stays_distinct(trail: Trail) -> None:
    subs = [start + end for start in ("\U0001f600" * 254, "x" * 254, "\x01" * 254) for end in "ab"]
    for sub in subs:
        audit.record(Event.USER_CREATED, actor=None, subject=audit.user(sub))
    named = [line["subject"] for line in trail.lines]
    assert len(set(named)) == len(subs)
    assert max(len(json.dumps(name)) for name in named) <= audit.MAX_VALUE_BYTES
    digest = hashlib.sha256(f"user:{subs[0]}".encode()).hexdigest()[-16:]
    assert re.fullmatch(f"user:\U0001f600+…{digest}", named[0])
    audit.record(Event.USER_CREATED, actor=None, subject=audit.user("ж" * 80))
    assert trail.last(Event.USER_CREATED)["subject"] == "user:" + "ж" * 80


@pytest.mark.parametrize(
    ("source", "bound"),
    [
        ("2001:db8:0:{0:x}::1", 4 * FIRST + 20),
        ("2001:db8:0:{0:x}00::1", 16 * FIRST + 20),
        ("2001:db8:{0:x}::1", ALL_CALLERS + 20),
        ("198.18.{1}.{0}", ALL_CALLERS + 20),
    ],
    ids=["a /56", "a /48", "all networks", "all addresses"],
)
def test_a_flood_from_many_networks_becomes_a_few_lines_with_counts(
    trail: Trail, source: str, bound: int
) -> None:
    for number in range(12_000):
        address = source.format(number % 250, number % 7)
        audit.record(Event.REFUSED, actor=None, source=address, code="missing_token", status=401)
    assert len(trail.lines) <= bound
    others = ["192.0.2.1", "2001:db8:ffff::1"]
    for other in others:
        audit.record(Event.REFUSED, actor="user:ada", source=other, code="insufficient_scope", status=403)
    audit._sampler.tell_rest(everything=True)
    assert len(trail.lines) <= 2 * bound
    lines = trail.of(Event.REFUSED)
    assert sum(line.get("number", 1) for line in lines) == 12_000 + len(others)
    assert [line["source"] for line in lines if line["code"] == "insufficient_scope"] == others
    assert {line["status"] for line in lines if line["code"] == "missing_token"} == {401}


def test_a_line_for_a_network_names_it_and_a_line_for_all_callers_names_none(trail: Trail) -> None:
    def last_of(sources: Iterator[str]) -> Json:
        for source in sources:
            audit.record(Event.LOGIN_FAILED, actor=None, source=source, why="unknown")
        return next(line for line in reversed(trail.of(Event.LOGIN_FAILED)) if "number" in line)

    once = {"event": "login_failed", "why": "unknown"}
    in_56 = last_of(f"2001:db8:0:{number % 80:x}::1" for number in range(8 * FIRST))
    assert in_56 == once | {"number": 4 * FIRST, "source": "2001:db8::/56"}
    everybody = last_of(f"198.18.{number % 7}.{number % 250}" for number in range(2 * ALL_CALLERS))
    assert everybody == once | {"number": ALL_CALLERS}


async def test_a_flood_of_requests_without_a_token_leaves_a_few_lines(
    server: LocalServer, trail: Trail
) -> None:
    for _ in range(4 * FIRST):
        assert (await server.stranger.get("/v1/inbox")).status_code == 401
    lines = trail.of(Event.REFUSED)
    assert [line.get("number") for line in lines] == [None] * FIRST + [FIRST, 2 * FIRST]
    assert {(line["code"], line["route"], line["source"]) for line in lines} == {
        ("missing_token", "/v1/inbox", "127.0.0.1")
    }


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


async def test_a_refresh_repeated_within_the_grace_period_is_marked(
    server: LocalServer, trail: Trail
) -> None:
    await server.service.post("/v1/users", json={"sub": "ada", "password": PASSWORD})
    form = {"grant_type": "refresh_token", "refresh_token": (await sign_in(server))["refresh_token"]}
    answers = [(await server.stranger.post("/v1/auth/token", data=form)).json() for _ in range(2)]
    assert answers[0]["refresh_token"] == answers[1]["refresh_token"]
    first, repeated = trail.of(Event.REFRESHED)
    assert "repeated" not in first
    assert repeated == first | {"repeated": True}


async def test_reuse_of_a_refresh_token_is_recorded(server: LocalServer, trail: Trail) -> None:
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


async def test_failed_logins_are_recorded_without_unknown_user_names(
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


async def test_actions_of_an_admin_are_recorded(server: LocalServer, trail: Trail) -> None:
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


async def test_refused_callers_are_recorded_on_rest_and_on_sockets(server: LocalServer, trail: Trail) -> None:
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


async def test_a_socket_refused_for_its_origin_is_recorded(server: LocalServer, trail: Trail) -> None:
    ada = await server.user("ada")
    headers = {"Authorization": f"Bearer {ada.token}"}
    with pytest.raises(Exception, match="403"):
        async with open_socket(server.base, headers=headers, origin="https://evil.example"):
            pass
    assert trail.last(Event.REFUSED)["code"] == "origin_not_allowed"


async def test_posting_and_reading_an_inbox_are_not_recorded(server: LocalServer, trail: Trail) -> None:
    ada = await server.user("ada")
    trail.lines.clear()
    await server.service.post("/v1/notifications", json={"to": "ada", "title": "Hello"})
    await ada.inbox()
    async with ada.socket() as socket:
        await socket.until("live")
    await server.sockets(0)
    assert trail.lines == []


async def test_an_outdated_hash_is_renewed_by_the_next_sign_in_or_two_concurrent_ones(
    server: LocalServer,
) -> None:
    old = argon2.using(type="ID", memory_cost=8192, time_cost=1, parallelism=1).hash(PASSWORD)
    await server.state.database.write(users.add_user, "ada", old, 0)
    answers = await asyncio.gather(*(sign_in(server) for _ in range(5)))
    assert all("access_token" in answer for answer in answers)
    row = await server.state.database.read(users.get_user, "ada")
    assert row.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert "access_token" in await sign_in(server)


# --- the command line ---------------------------------------------------------------------------------------


def test_actions_of_the_operator_are_recorded(
    sqlite_url: str, tmp_path: Path, run_command: RunCommand
) -> None:
    file = tmp_path / "audit.log"

    def gateway(*arguments: str, stdin: str = "") -> Any:
        done = run_command(*arguments, stdin=stdin, database_url=sqlite_url, audit_log=str(file))
        assert done.stderr == f"gateway: database: {sqlite_url}\n"
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


def test_the_command_line_explains_why_a_password_is_refused(
    sqlite_url: str, run_command: RunCommand
) -> None:
    stdin = "password1234\n"
    done = run_command("user", "add", "ada", "--password-stdin", stdin=stdin, database_url=sqlite_url)
    assert done.returncode == 2
    assert "common" in done.stderr
    assert "password1234" not in done.stderr


async def test_the_rest_api_explains_why_a_password_is_refused(server: LocalServer) -> None:
    for password, why in (("password1234", "common"), ("ada@example.com!", "own id")):
        fields = {"sub": "ada@example.com", "password": password}
        answer = await server.service.post("/v1/users", json=fields)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "password")
        assert why in answer.text
        assert password not in answer.text
    await server.service.post("/v1/users", json={"sub": "ada@example.com"})
    answer = await server.service.patch("/v1/users/ada@example.com", json={"password": "password1234"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "password")


async def test_the_event_loop_keeps_running_while_passwords_are_hashed(server: LocalServer) -> None:
    await server.service.post("/v1/users", json={"sub": "ada", "password": PASSWORD})
    ada = await server.user("ada")
    logins = [asyncio.create_task(sign_in(server)) for _ in range(4)]
    await until(lambda: server.state.passwords.turns.taken > 0, "a password is hashed")
    assert (await ada.inbox())["seq"] == 0
    assert all("access_token" in answer for answer in await asyncio.gather(*logins))
