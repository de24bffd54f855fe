"""Cutoffs, and the version before, which keeps them as rows of `sessions`."""

import hashlib

import pytest
from sqlalchemy import Connection, text

from gateway.auth import cutoffs, revocation, sessions, users
from gateway.auth.cutoffs import CUTOFF_TTL_MS
from gateway.database.database import Database

NOW = 1_800_000_000_000


@pytest.fixture(autouse=True)
async def _ada(database: Database) -> None:
    await database.write(users.add_missing_users, ["ada", "bob"], NOW)


def mark_of(sub: str) -> str:
    return "x-m" + hashlib.sha256(sub.encode()).hexdigest()[:29]


def log_out_as_the_version_before(connection: Connection, sub: str, now_ms: int) -> None:
    """Run the statements of the version before: the row stands for a cutoff, and ends with the sessions."""
    connection.execute(text("DELETE FROM sessions WHERE id = :mark"), {"mark": mark_of(sub)})
    connection.execute(
        text(
            "INSERT INTO sessions (id, user_id, created_at, expires_at, ended_at)"
            " SELECT :mark, id, :now, :until, :now FROM users WHERE sub = :sub"
        ),
        {"mark": mark_of(sub), "sub": sub, "now": now_ms, "until": now_ms + CUTOFF_TTL_MS},
    )


def cutoff_as_the_version_before(connection: Connection, sub: str) -> int:
    found = text("SELECT created_at FROM sessions WHERE id = :mark")
    return connection.scalar(found, {"mark": mark_of(sub)}) or 0


def sweep_as_the_version_before(connection: Connection, now_ms: int) -> None:
    connection.execute(text("DELETE FROM sessions WHERE expires_at <= :now"), {"now": now_ms})


async def test_a_cutoff_belongs_to_one_user_and_moves_with_each_sign_out(database: Database) -> None:
    assert await database.read(cutoffs.ended_at, "ada") == 0
    for moment in (NOW, NOW + 1):
        await database.write(users.log_out, "ada", moment)
        assert await database.read(cutoffs.ended_at, "ada") == moment
    assert await database.read(cutoffs.ended_at, "bob") == 0


async def test_a_cutoff_does_not_count_as_an_ended_session(database: Database) -> None:
    assert await database.write(users.log_out, "ada", NOW) == []
    assert await database.read(revocation.page_of, NOW // 1000, NOW, "") == []
    assert await database.write(sessions.end_some_sessions, NOW) == []


async def test_a_cutoff_outlives_its_user_and_applies_to_the_next_user_of_the_sub(database: Database) -> None:
    await database.write(users.release_user, "ada", NOW)
    await database.write(users.add_user, "ada", None, NOW + 1)
    assert await database.read(cutoffs.ended_at, "ada") == NOW
    await database.write(users.log_out, "ada", NOW + 2)
    assert await database.read(cutoffs.ended_at, "ada") == NOW + 2


async def test_cutoffs_are_deleted_in_steps_after_all_earlier_tokens_have_expired(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutoffs, "_SWEEP_LIMIT", 1)
    for sub in ("ada", "bob"):
        await database.write(users.log_out, sub, NOW)
    assert not await database.write(cutoffs.sweep, NOW + CUTOFF_TTL_MS - 1)
    steps = [await database.write(cutoffs.sweep, NOW + CUTOFF_TTL_MS) for _ in range(3)]
    assert steps == [True, True, False]
    await database.write(sessions.sweep, NOW + CUTOFF_TTL_MS)
    assert await database.read(cutoffs.ended_at, "ada") == 0


async def test_this_version_and_the_previous_one_respect_each_others_cutoffs(database: Database) -> None:
    await database.write(log_out_as_the_version_before, "ada", NOW)
    assert await database.read(cutoffs.ended_at, "ada") == NOW
    await database.write(users.log_out, "ada", NOW + 1)
    assert await database.read(cutoff_as_the_version_before, "ada") == NOW + 1
    # The newer one holds, whichever version wrote it.
    await database.write(log_out_as_the_version_before, "ada", NOW + 2)
    assert await database.read(cutoffs.ended_at, "ada") == NOW + 2
    await database.write(users.log_out, "bob", NOW)
    assert await database.read(cutoff_as_the_version_before, "bob") == NOW


async def test_the_sweeps_of_both_versions_keep_a_cutoff_until_it_expires(database: Database) -> None:
    await database.write(users.log_out, "ada", NOW)
    for moment in (NOW + sessions.ENDED_SESSION_TTL_MS, NOW + CUTOFF_TTL_MS - 1):
        await database.write(sessions.sweep, moment)
        await database.write(cutoffs.sweep, moment)
        await database.write(sweep_as_the_version_before, moment)
        assert await database.read(cutoffs.ended_at, "ada") == NOW
        assert await database.read(cutoff_as_the_version_before, "ada") == NOW
