"""The file of a SQLite database: what a wrong path does to it (nothing), who makes it, who serves from it."""

import asyncio
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from gateway.database import sqlite_file
from gateway.database.database import open_database
from gateway.database.sqlite_file import Opening, prepare, served
from gateway.settings import SettingsError
from tests.support.databases import settings_for

COMMANDS = (["check"], ["migrate"], ["user", "list"], ["token", "ada"], ["serve", "--port", "0"])


def run(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONWARNINGS": "", "COLUMNS": "200"}
    environment |= {f"GATEWAY_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def other_database(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (x)")
    path.chmod(0o664)
    return path


@pytest.mark.parametrize("opening", Opening)
@pytest.mark.parametrize("name", ["notes.txt", "empty", "folder", "pipe", "link", "chain", "file:notes.txt"])
def test_a_wrong_path_leaves_its_file_unchanged(tmp_path: Path, name: str, opening: Opening) -> None:
    (tmp_path / "notes.txt").write_text("not a database")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "notes.txt")
    (tmp_path / "chain").symlink_to(tmp_path / "link")
    for path in tmp_path.iterdir():
        path.chmod(0o777 if path.is_dir() else 0o664)
    before = {path: (mode(path), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    is_uri = name.startswith("file:")
    given = f"file:{tmp_path}/{name[5:]}?mode=rwc&uri=true" if is_uri else f"{tmp_path}/{name}"
    with pytest.raises(SettingsError, match=r"^GATEWAY_DATABASE_URL: "):
        prepare(make_url(f"sqlite:///{given}"), opening)
    assert {path: (mode(path), path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_no_command_changes_a_file_that_is_not_a_database(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "notes.txt").write_text("not a database")
    (tmp_path / "notes.txt").chmod(0o664)
    (tmp_path / "link.db").symlink_to("notes.txt")
    done = run(tmp_path, *command, database_url="sqlite:///link.db", audit_log="audit.log")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "it is not a SQLite database" in done.stderr
    assert mode(tmp_path / "notes.txt") == 0o664
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.db", "notes.txt"]


def test_check_changes_neither_the_mode_nor_the_journal_of_a_database(tmp_path: Path) -> None:
    file = other_database(tmp_path / "other.db")
    before = file.read_bytes()
    assert run(tmp_path, "check", database_url="sqlite:///other.db").returncode == 0
    assert (mode(file), file.read_bytes()) == (0o664, before)
    assert [path.name for path in tmp_path.iterdir()] == ["other.db"]


def test_opening_a_database_through_a_link_makes_it_and_its_sqlite_files_private(
    tmp_path: Path,
) -> None:
    file = other_database(tmp_path / "other.db")
    (tmp_path / "link.db").symlink_to(file)
    (tmp_path / "notes.txt").write_text("not SQLite's")
    (tmp_path / "notes.txt").chmod(0o664)
    (tmp_path / "other.db-wal").symlink_to("notes.txt")
    prepare(make_url(f"sqlite:///{tmp_path}/link.db"), Opening.EXISTING)
    assert (mode(file), mode(tmp_path / "notes.txt")) == (0o600, 0o664)


async def test_inspecting_the_file_drops_no_lock_of_this_process(tmp_path: Path) -> None:
    url = f"sqlite:///{other_database(tmp_path / 'other.db')}"
    async with open_database(settings_for(url)):
        with closing(sqlite3.connect(tmp_path / "other.db", isolation_level=None)) as mine:
            mine.execute("PRAGMA journal_mode = DELETE")
            mine.execute("BEGIN EXCLUSIVE")
            prepare(make_url(url), Opening.EXISTING)
            file = str(tmp_path / "other.db")
            other = f"import sqlite3; sqlite3.connect({file!r}, 0).execute('BEGIN IMMEDIATE')"
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", other, stderr=subprocess.PIPE
            )
            _, said = await process.communicate()
    assert b"database is locked" in said


@pytest.mark.parametrize(
    "command", [["user", "list"], ["user", "add", "ada"], ["key", "add", "x"], ["token", "ada"]]
)
def test_a_command_makes_no_database_in_another_folder(tmp_path: Path, command: list[str]) -> None:
    done = run(tmp_path, *command, audit_log="audit.log")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert str(tmp_path / "gateway.db") in done.stderr
    assert "or make one with gateway migrate" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_check_creates_no_database_and_names_the_commands_that_do(tmp_path: Path) -> None:
    done = run(tmp_path, "check")
    assert (done.returncode, list(tmp_path.iterdir())) == (0, [])
    assert f"{tmp_path}/gateway.db: does not exist yet: serve or migrate creates it" in done.stdout


@pytest.mark.parametrize(
    "command",
    [["service", "add", "shop", "--scope", "notify"], ["user", "add", "ada"], ["token", "ada"]],
    ids=lambda command: command[0],
)
def test_a_command_with_create_creates_the_database(tmp_path: Path, command: list[str]) -> None:
    assert run(tmp_path, *command, "--create").returncode == 0
    assert mode(tmp_path / "gateway.db") == 0o600


def test_every_command_names_its_database(tmp_path: Path) -> None:
    named = f"sqlite:///{tmp_path / 'gateway.db'}"
    assert named in run(tmp_path, "migrate").stderr
    made = run(tmp_path, "service", "add", "shop", "--scope", "notify")
    assert json.loads(made.stdout)["name"] == "shop"
    assert made.stderr.splitlines()[-1] == f"gateway: database: {named}"
    done = run(tmp_path, "user", "disable", "nobody")
    assert (
        done.stderr
        == f"gateway: There is no such user: 'nobody'. To see them: gateway user list (database: {named})\n"
    )
    assert f"database: {named}: reached" in run(tmp_path, "check").stdout


@contextmanager
def _holding(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Serve from the folder in a process of its own, until the block ends."""
    script = (
        "import sys; from sqlalchemy.engine import make_url\n"
        "from gateway.database.sqlite_file import served\n"
        "with served(make_url('sqlite:///gateway.db')): print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process


def test_a_second_server_on_one_file_is_refused_and_commands_still_work(tmp_path: Path) -> None:
    assert run(tmp_path, "migrate").returncode == 0
    with _holding(tmp_path):
        done = run(tmp_path, "serve", "--port", "0")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert f"another gateway serves from {tmp_path / 'gateway.db'}" in done.stderr
        assert run(tmp_path, "user", "add", "ada").returncode == 0


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_no_command_uses_a_file_with_several_hard_links(tmp_path: Path, command: list[str]) -> None:
    """Each name has a lock and a log of its own: two gateways would serve from one file."""
    file = other_database(tmp_path / "other.db")
    (tmp_path / "same.db").hardlink_to(file)
    before = file.read_bytes()
    done = run(tmp_path, *command, database_url="sqlite:///same.db", audit_log="audit.log")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "it has 2 names (hard links): remove all but one" in done.stderr
    assert (mode(file), file.read_bytes()) == (0o664, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.db", "same.db"]


def test_the_lock_is_released_however_the_process_ends(tmp_path: Path) -> None:
    url = make_url(f"sqlite:///{tmp_path}/gateway.db")
    with _holding(tmp_path) as process:
        with pytest.raises(SettingsError), served(url):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with served(url):
            assert mode(tmp_path / f"gateway.db{sqlite_file.LOCK_SUFFIX}") == 0o600


def test_a_process_with_the_same_metrics_folder_can_serve_from_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url(f"sqlite:///{tmp_path}/gateway.db")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "metrics"))
    monkeypatch.setattr(sqlite_file, "OWNER_TIMEOUT_SECONDS", 0.05)
    with _holding(tmp_path):
        with served(url):
            pass
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "others"))
        with pytest.raises(SettingsError), served(url):
            pass
