from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from gateway.auth import cutoffs, erasure, revocation, services, sessions, users
from gateway.auth.names import check_sub
from gateway.auth.services import new_key, parse_key
from gateway.auth.sessions import new_session
from gateway.database import models
from gateway.database.database import Database
from gateway.database.models import items, notifications
from gateway.errors import Conflict, InvalidToken, NotFound

NOW = 1_800_000_000_000


@pytest.mark.parametrize("sub", ["a", "x" * 255, "a/b", "ada@example.org", " ", "😀" * 255, "%2F"])
def test_a_sub_may_have_any_characters_except_control_characters(sub: str) -> None:
    assert check_sub(sub) == sub


@pytest.mark.parametrize("sub", ["", ".", "..", "x" * 256, "a\nb", "\0", "\x7f", "\x85", "a\ud800"])
def test_an_invalid_sub_is_refused_with_the_rule(sub: str) -> None:
    with pytest.raises(ValueError, match="it must"):
        check_sub(sub)


def test_a_key_parses_into_its_id_and_secret() -> None:
    key_id, secret, text = new_key()
    assert parse_key(text) == (key_id, secret)


def test_a_key_with_any_character_changed_is_not_valid() -> None:
    text = new_key()[2]
    for place, character in enumerate(text):
        changed = text[:place] + ("0" if character != "0" else "1") + text[place + 1 :]
        with pytest.raises(InvalidToken):
            parse_key(changed)


def add_some(connection: Connection, count: int, *subs: str) -> None:
    """Post `count` notifications to each of these users, who share them."""
    users.add_missing_users(connection, subs, NOW)
    keys = [users.get_user(connection, sub).id for sub in subs]
    for number in range(1, count + 1):
        posted = {"uuid": f"{keys[0]}-{number}", "service_id": 1, "title": "t", "category": "c"}
        more = {"priority": "normal", "recipients": len(subs), "created_at": NOW}
        statement = notifications.insert().values(posted | more).returning(notifications.c.id)
        notification = connection.execute(statement).scalar_one()
        for key in keys:
            row = {"user_id": key, "created_seq": number, "seq": number, "notification_id": notification}
            connection.execute(items.insert().values(row))


def count(connection: Connection, table: Any) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()


async def test_missing_users_are_added_and_existing_users_stay_unchanged(database: Database) -> None:
    await database.write(users.add_missing_users, ["b", "a", "b"], NOW)
    before = await database.read(users.get_user, "a")
    await database.write(users.add_missing_users, {"a", "c"}, NOW + 1)
    rows = await database.read(users.list_users, 0, 10)
    assert [row.sub for row in rows] == ["a", "b", "c"]
    assert await database.read(users.get_user, "a") == before
    assert len({row.epoch for row in rows}) == 3


async def test_no_user_is_added_twice(database: Database) -> None:
    await database.write(users.add_user, "ada", None, NOW)
    with pytest.raises(Conflict):
        await database.write(users.add_user, "ada", None, NOW)


async def sweep(database: Database, now_ms: int) -> None:
    for kind in (sessions, cutoffs, erasure):
        assert not await database.write(kind.sweep, now_ms)


async def ended_ids(database: Database) -> list[str]:
    return [one.id for one in await database.read(revocation.page_of, NOW // 1000, NOW, "")]


async def start_session(database: Database, sub: str) -> str:
    session = new_session(NOW + 10**9)
    assert await database.write(sessions.start_user_session, sub, session, NOW)
    return session.id


@pytest.mark.parametrize("changes", [{"disabled": True}, {"password_hash": "new"}, {"password_hash": None}])
async def test_disabling_a_user_or_changing_the_password_ends_the_sessions(
    database: Database, changes: dict[str, Any]
) -> None:
    await database.write(users.add_missing_users, ["ada", "bob"], NOW)
    session = await start_session(database, "ada")
    others = await start_session(database, "bob")
    _, gone = await database.write(users.update_user, "ada", changes, NOW)
    assert gone == [session]
    owner = await database.read(sessions.find_session_owner, others)
    assert owner is not None
    assert not owner.ended


async def test_enabling_a_user_ends_nothing(database: Database) -> None:
    await database.write(users.add_missing_users, ["ada"], NOW)
    await start_session(database, "ada")
    assert (await database.write(users.update_user, "ada", {"disabled": False}, NOW))[1] == []


async def test_no_session_starts_with_a_replaced_password(database: Database) -> None:
    await database.write(users.add_user, "ada", "old", NOW)
    session = new_session(NOW + 1000)
    await database.write(users.update_user, "ada", {"password_hash": "new"}, NOW)
    assert not await database.write(sessions.start_user_session, "ada", session, NOW, password_hash="old")
    assert await database.write(sessions.start_user_session, "ada", session, NOW, password_hash="new")


async def test_releasing_a_user_frees_the_sub_and_ends_the_sessions(database: Database) -> None:
    await database.write(add_some, 1, "ada")
    session = await start_session(database, "ada")
    user_id, gone = await database.write(users.release_user, "ada", NOW)
    assert gone == [session]
    assert await database.read(erasure.released_users) == [user_id]
    assert (await database.write(users.add_user, "ada", None, NOW)).id > user_id
    owner = await database.read(sessions.find_session_owner, session)
    assert owner is not None
    assert owner.ended


async def test_an_erasure_runs_in_steps_and_keeps_the_data_of_others(database: Database) -> None:
    await database.write(add_some, 3, "ada")
    await database.write(add_some, 2, "eve", "bob")
    eve, _ = await database.write(users.release_user, "eve", NOW)
    ada, _ = await database.write(users.release_user, "ada", NOW)
    assert await database.write(erasure.erase_some, ada, 2)
    assert await database.read(count, items) == 5
    assert not await database.write(erasure.erase_some, ada, 2)
    assert not await database.write(erasure.erase_some, eve, 100)
    assert await database.read(count, notifications) == 2
    assert [row.sub for row in await database.read(users.list_users, 0, 10)] == ["bob"]
    await sweep(database, NOW + cutoffs.CUTOFF_TTL_MS)
    assert await database.read(count, models.users) == 1


async def test_the_row_of_an_erased_user_is_deleted_after_all_earlier_tokens_expire(
    database: Database,
) -> None:
    await database.write(add_some, 1, "ada")
    session = await start_session(database, "ada")
    user_id, _ = await database.write(users.release_user, "ada", NOW)
    assert not await database.write(erasure.erase_some, user_id)
    await sweep(database, NOW + sessions.ENDED_SESSION_TTL_MS - 1)
    assert await ended_ids(database) == [session]
    await sweep(database, NOW + sessions.ENDED_SESSION_TTL_MS)
    assert await ended_ids(database) == []
    assert await database.read(cutoffs.ended_at, "ada") == NOW
    await sweep(database, NOW + cutoffs.CUTOFF_TTL_MS)
    assert await database.read(cutoffs.ended_at, "ada") == 0
    assert await database.read(count, models.sessions) == await database.read(count, models.users) == 0


async def test_an_unknown_user_or_service_is_not_found(database: Database) -> None:
    for work in (users.release_user, users.log_out):
        with pytest.raises(NotFound):
            await database.write(work, "nobody", NOW)
    for find in (users.get_user, services.get_service):
        with pytest.raises(NotFound):
            await database.read(find, "nobody")
    with pytest.raises(NotFound):
        await database.write(services.delete_key, "nobody", "0")


async def test_deleting_a_service_deletes_its_sessions_and_keys(database: Database) -> None:
    service = await database.write(services.add_service, "shop", ["notify"], b"", NOW)
    session = new_session(NOW + 1000)
    await database.write(services.start_service_session, service.client_id, session, NOW)
    await database.write(services.add_key, service.client_id, "key", b"", NOW)
    gone = await database.write(services.delete_service, service.client_id, NOW)
    assert sorted(gone) == sorted([session.id, "key"])
    assert await database.read(sessions.find_session_owner, session.id) is None
    assert await database.read(services.find_key, "key") is None


async def test_a_key_is_deleted_by_its_own_service_only(database: Database) -> None:
    mine = await database.write(services.add_service, "mine", ["notify"], b"", NOW)
    other = await database.write(services.add_service, "other", ["notify"], b"", NOW)
    await database.write(services.add_key, mine.client_id, "key", b"", NOW)
    with pytest.raises(NotFound):
        await database.write(services.delete_key, other.client_id, "key")
    await database.write(services.delete_key, mine.client_id, "key")
