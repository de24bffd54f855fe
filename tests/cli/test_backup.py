"""`gateway backup`: a copy of SQLite, made while the gateway writes."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from gateway.cli import run
from gateway.database import backup
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, serving

Said = pytest.CaptureFixture[str]


@pytest.fixture
async def server(sqlite_url: str) -> AsyncIterator[LocalServer]:
    """A gateway on SQLite."""
    async with serving(settings_for(sqlite_url)) as started:
        yield started


@pytest.fixture
def home(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for backups; the settings name a database of SQLite."""
    monkeypatch.setenv("GATEWAY_DATABASE_URL", sqlite_url)
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


async def test_a_backup_under_load_contains_all_earlier_posts_and_can_be_served(
    server: LocalServer, home: Path, capsys: Said
) -> None:
    await server.user()
    copy, answered = home / "copy.db", 0
    copying = None
    while copying is None or not copying.done():
        await server.service.notify("ada", title=str(answered))
        answered += 1
        if answered == 20:
            copying = asyncio.create_task(asyncio.to_thread(run, ["backup", str(copy)]))
    assert await copying == 0
    assert capsys.readouterr().out.startswith(f"Wrote {copy}: ")
    async with serving(settings_for(f"sqlite:///{copy}")) as restored:
        ada = await restored.user()
        unread = (await ada.inbox())["unread"]
        assert 20 <= unread <= answered
        titles = [item["title"] for item in (await ada.inbox(limit=200))["items"]]
        assert titles == [str(number) for number in range(unread - 1, -1, -1)][:200]


async def test_a_backup_is_readable_only_by_its_owner_with_any_umask(server: LocalServer, home: Path) -> None:
    before = os.umask(0)
    try:
        assert await asyncio.to_thread(run, ["backup", str(home / "copy.db")]) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((home / "copy.db").stat().st_mode) == 0o600
    assert names(home) == ["copy.db"]


async def test_a_backup_never_overwrites_an_existing_file(
    server: LocalServer, home: Path, capsys: Said
) -> None:
    (home / "file").write_text("mine")
    (home / "link").symlink_to(home / "nowhere")
    for name in ("file", "link"):
        assert await asyncio.to_thread(run, ["backup", str(home / name)]) == 1
        assert capsys.readouterr().err == f"gateway: {home / name}: it is there already; name a new file\n"
    assert (home / "file").read_text() == "mine"
    assert names(home) == ["file", "link"]


async def test_a_backup_keeps_a_file_created_at_its_target_during_the_copy(
    server: LocalServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = backup._copy

    def slow(source: Path, part: Path) -> None:
        copy(source, part)
        (home / "copy.db").write_text("theirs")

    monkeypatch.setattr(backup, "_copy", slow)
    assert await asyncio.to_thread(run, ["backup", str(home / "copy.db")]) == 1
    assert (home / "copy.db").read_text() == "theirs"
    assert names(home) == ["copy.db"]


async def test_a_failed_backup_prints_one_line_and_leaves_no_file(
    server: LocalServer, home: Path, capsys: Said
) -> None:
    target = home / "no" / "copy.db"
    assert await asyncio.to_thread(run, ["backup", str(target)]) == 1
    why = f"there is no folder {home / 'no'}: create it, or name another"
    assert capsys.readouterr().err == f"gateway: {target}: {why}\n"
    assert names(home) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "sqlite:///{home}/nowhere.db",
            (
                "GATEWAY_DATABASE_URL: there is no database at {home}/nowhere.db:"
                " name the one that the gateway serves from, or make one with gateway migrate"
            ),
        ),
        (
            "postgresql://gateway@127.0.0.1/gateway",
            "GATEWAY_DATABASE_URL: backup copies SQLite; use pg_dump (docs/operations.md)",
        ),
    ],
)
def test_a_backup_without_a_database_to_copy_creates_no_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said, url: str, said: str
) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", url.format(home=home))
    assert run(["backup", str(home / "copy.db")]) == 2
    assert capsys.readouterr().err == f"gateway: {said.format(home=home)}\n"
    assert names(home) == []


def test_a_backup_of_a_damaged_database_leaves_no_file(home: Path, sqlite_url: str, capsys: Said) -> None:
    source = Path(str(make_url(sqlite_url).database))
    whole = source.read_bytes()
    source.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    assert run(["backup", str(home / "copy.db")]) == 1
    assert capsys.readouterr().err.startswith(f"gateway: {source}: it cannot be copied: ")
    assert names(home) == []


def test_a_backup_leaves_a_file_that_is_not_a_database_unchanged(
    home: Path, sqlite_url: str, capsys: Said
) -> None:
    source = Path(str(make_url(sqlite_url).database))
    source.write_bytes(b"no database at all" * 100)
    source.chmod(0o644)
    assert run(["backup", str(home / "copy.db")]) == 2
    said = f"{source}: the database cannot be used (it is not a SQLite database)"
    assert capsys.readouterr().err == f"gateway: GATEWAY_DATABASE_URL: {said}\n"
    assert stat.S_IMODE(source.stat().st_mode) == 0o644
    assert names(home) == []
