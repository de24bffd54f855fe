"""Which sessions have ended: how long that is kept, and how it is found in the database."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from gateway.auth import revocation, services, sessions, users
from gateway.auth.revocation import ENDED_SESSION_TTL_SECONDS, LOOK_BACK_SECONDS, Ended, Finder, Revocation
from gateway.auth.sessions import PAGE, new_session
from gateway.auth.signing import MAX_TTL
from gateway.database import models
from gateway.database.database import Database
from gateway.errors import TokenRevoked
from tests.auth.test_tokens import NOW, Desk, open_desk

MANY = 10**6


# --- in memory ----------------------------------------------------------------------------------------------


def test_an_ended_session_is_remembered_for_exactly_its_ttl() -> None:
    ended = Ended()
    assert ended.add("s", NOW)
    assert not ended.add("s", NOW + 1)
    ended.forget(NOW + ENDED_SESSION_TTL_SECONDS - 0.001, MANY)
    assert "s" in ended
    ended.forget(NOW + ENDED_SESSION_TTL_SECONDS, MANY)
    assert "s" not in ended
    assert len(ended) == 0


def test_one_call_forgets_a_limited_number_and_repeated_calls_forget_all() -> None:
    ended = Ended()
    for number in range(1000):
        ended.add(str(number), NOW)
    left = []
    while ended:
        ended.forget(NOW + 1000, 64)
        left.append(len(ended))
    assert left == [max(1000 - 64 * n, 0) for n in range(1, 17)]


async def test_ending_a_session_forgets_its_tokens_then_closes_sockets_then_publishes(
    database: Database,
) -> None:
    calls: list[tuple[str, list[str]]] = []
    revocation = Revocation(
        database,
        on_ended=lambda ended: calls.append(("close", list(ended))),
        publish_ended=lambda ended: calls.append(("publish", list(ended))),
    )
    revocation.precede(lambda ended: calls.append(("forget", list(ended))))
    revocation.end(["s", "t"])
    revocation.end(["t"])
    assert calls == [("forget", ["s", "t"]), ("close", ["s", "t"]), ("publish", ["s", "t"])]
    assert revocation.drop(["t", "u"]) == ["u"]
    assert calls[3:] == [("forget", ["u"]), ("close", ["u"])]


@pytest.mark.parametrize("length", [16, 32], ids=["API keys", "sessions"])
async def test_the_number_of_remembered_ended_sessions_is_bounded_by_their_ttl(
    desk: Desk, length: int
) -> None:
    most = 0
    for number in range(1000):
        desk.clock.now += 1
        desk.revocation.drop([f"{number:0{length}x}"])
        most = max(most, len(desk.revocation))
    assert most <= ENDED_SESSION_TTL_SECONDS


async def test_a_token_stays_refused_after_the_end_of_its_session_leaves_memory(
    desk: Desk,
) -> None:
    session, other = await desk.session(), await desk.session()
    tokens = [await desk.token(session=session, expires_at=NOW + MAX_TTL) for _ in range(2)]
    lives = await desk.token(session=other, expires_at=NOW + MAX_TTL)
    for token in (*tokens, lives):
        await desk.tokens.verify(token)
    ended = await desk.database.write(sessions.end_sessions, models.sessions.c.id == session, NOW * 1000)
    desk.revocation.end(ended)
    assert list(desk.tokens.remembered) == [lives]
    for _ in range(2):
        for token in tokens:
            assert desk.tokens.recall(token) is None
            with pytest.raises(TokenRevoked):
                await desk.tokens.verify(token)
        # The first look finds the end in the database once more.
        for looks in (1, 2):
            desk.clock.now = NOW + looks * ENDED_SESSION_TTL_SECONDS
            await desk.revocation.find()
        assert not desk.tokens.is_ended(session)
        # Nor is it known once its row is gone.
        await desk.database.write(sessions.sweep, (NOW + MAX_TTL - 1) * 1000)
    assert desk.tokens.recall(lives) is not None


# --- in the database ----------------------------------------------------------------------------------------


@pytest.fixture
async def desk(database: Database) -> Desk:
    return await open_desk(database)


class Watched:
    """A database whose reads are counted, by the unit of work; between two of them something can be done."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.reads: list[str] = []
        self.rows = 0
        self.meanwhile: Callable[[], Any] | None = None

    async def read(self, work: Callable[..., Any], *args: Any) -> Any:
        found = await self._database.read(work, *args)
        self.reads.append(work.__name__)
        self.rows += len(found) if work is revocation.page_of else 0
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return found


def store(
    connection: Connection, number: int, ended_at: int | None, name: str = "s", minted_by: int | None = None
) -> None:
    users.add_missing_users(connection, ["ada"], 0)
    user = users.get_user(connection, "ada").id
    rows = [
        {
            "id": f"{name}{n:06d}",
            "user_id": user,
            "created_at": n,
            "expires_at": (NOW + 900) * 1000,
            "ended_at": ended_at,
            "minted_by": minted_by,
        }
        for n in range(number)
    ]
    connection.execute(insert(models.sessions), rows)


async def found_by(look: AsyncIterator[list[revocation.Ending]]) -> list[str]:
    return [one.id async for page in look for one in page]


async def test_repeated_polls_read_each_ended_session_once(database: Database) -> None:
    watched = Watched(database)
    finder = Finder(watched)  # type: ignore[arg-type]
    await database.write(store, 30, NOW * 1000)
    assert len(await found_by(finder.look(NOW))) == 30
    for moment in range(1, LOOK_BACK_SECONDS + 1):
        assert await found_by(finder.look(NOW + moment)) == []
    assert watched.rows == 30
    assert watched.reads.count("tally") == LOOK_BACK_SECONDS + 1


async def test_thousands_of_sessions_that_end_together_are_found_in_pages(database: Database) -> None:
    watched = Watched(database)
    finder = Finder(watched)  # type: ignore[arg-type]
    number = 2 * PAGE + 1
    await database.write(store, PAGE, NOW * 1000, "z")
    await database.write(store, number, NOW * 1000 + 999)
    await database.write(store, 1, (NOW + 1) * 1000, "next")
    pages = [page async for page in finder.look(NOW)]
    assert [len(page) for page in pages] == [PAGE, PAGE, PAGE, 1, 1]
    assert len({one.id for page in pages for one in page}) == PAGE + number + 1


@pytest.mark.parametrize("late", [0.5, 5, LOOK_BACK_SECONDS - 1])
async def test_a_session_end_committed_late_is_found_by_the_next_poll(
    database: Database, late: float
) -> None:
    finder = Finder(database)
    await database.write(store, 3, NOW * 1000, "first")
    assert len(await found_by(finder.look(NOW + 0.1))) == 3
    await database.write(store, 1, NOW * 1000, "late")
    assert "late000000" in await found_by(finder.look(NOW + late))


async def test_a_session_end_committed_between_the_count_and_the_read_is_not_lost(
    database: Database,
) -> None:
    watched = Watched(database)
    finder = Finder(watched)  # type: ignore[arg-type]
    await database.write(store, PAGE, NOW * 1000, "first")

    async def behind_the_first_page() -> None:
        async def before_it() -> None:
            await database.write(store, 1, NOW * 1000, "a-late-one")

        watched.meanwhile = before_it

    watched.meanwhile = behind_the_first_page
    found = await found_by(finder.look(NOW))
    found += await found_by(finder.look(NOW))
    assert set(found) == {f"first{n:06d}" for n in range(PAGE)} | {"a-late-one000000"}


async def test_the_poll_after_a_failed_poll_finds_every_ended_session(database: Database) -> None:
    watched = Watched(database)
    finder = Finder(watched)  # type: ignore[arg-type]
    await database.write(store, PAGE + 1, NOW * 1000)

    async def fail() -> None:
        async def later() -> None:
            raise ConnectionError

        watched.meanwhile = later

    watched.meanwhile = fail
    with pytest.raises(ConnectionError):
        await found_by(finder.look(NOW))
    assert len(await found_by(finder.look(NOW))) == PAGE + 1


async def test_a_cutoff_is_not_found_as_an_ended_session(database: Database) -> None:
    await database.write(store, 1, None)
    assert await database.write(users.log_out, "ada", NOW * 1000) == ["s000000"]
    assert await found_by(Finder(database).look(NOW)) == ["s000000"]


async def test_a_session_ended_elsewhere_is_announced_once_and_remembered_for_its_ttl(desk: Desk) -> None:
    await desk.database.write(store, 1, NOW * 1000)
    desk.revocation.drop(["s000000"])  # a hint came first, and tells nothing but the name
    await desk.revocation.find()
    desk.clock.now = NOW + ENDED_SESSION_TTL_SECONDS - 0.1
    await desk.revocation.find()
    assert desk.tokens.is_ended("s000000")
    assert desk.ended == ["s000000"]
    desk.clock.now = NOW + ENDED_SESSION_TTL_SECONDS
    await desk.revocation.find()
    assert not desk.tokens.is_ended("s000000")


async def test_the_cache_of_verified_tokens_is_limited_in_bytes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await desk.session()
    tokens = [await desk.token(session=session) for _ in range(5)]
    monkeypatch.setattr("gateway.auth.token_cache.MAX_TOKEN_BYTES", 2 * len(tokens[0]) + 10)
    for token in tokens:
        await desk.tokens.verify(token)
        await desk.tokens.verify(token)
    assert list(desk.tokens.remembered) == tokens[-2:]
    assert desk.tokens.remembered.size == sum(map(len, tokens[-2:]))


# --- the oldest ends ----------------------------------------------------------------------------------------


async def test_a_session_over_the_limit_ends_only_the_oldest_session(database: Database) -> None:
    def start(number: int, now: int, lasts: int = 10**6) -> Any:
        made = new_session(now + lasts)._replace(id=f"s{number}")
        return database.write(sessions.start_user_session, "ada", made, now, limit=3)

    await database.write(users.add_missing_users, ["ada"], 0)
    for number in range(3):
        assert await start(number, 1000 + number) == ([],)
    assert await start(3, 1003) == (["s0"],)
    # What was stored just now lives, whatever another process's clock said of the others.
    assert await start(4, 500) == (["s1"],)
    assert await start(5, 2000) == (["s4"],)
    # Those that have expired do not count.
    assert await start(6, 2 * 10**6) == ([],)
    assert await start(7, 2 * 10**6 + 1, lasts=1) == ([],)
    assert await start(8, 2 * 10**6 + 2) == ([],)


async def test_each_service_has_its_own_session_limit(database: Database) -> None:
    names = [
        (await database.write(services.add_service, name, ["notify"], b"", 0)).client_id for name in "ab"
    ]
    for now in range(3):
        for name in names:
            made = new_session(10**6)._replace(id=f"{name}{now}")
            done = await database.write(services.start_service_session, name, made, now, limit=2)
            assert done.ended == ([f"{name}0"] if now == 2 else [])


async def test_a_lowered_session_limit_ends_sessions_in_steps(database: Database) -> None:
    await database.write(store, 2 * PAGE + 50, None)
    made = new_session((NOW + 900) * 1000)
    counts = []
    for _ in range(4):
        made = new_session((NOW + 900) * 1000)
        done = await database.write(sessions.start_user_session, "ada", made, NOW * 1000, limit=20)
        assert done is not None
        counts.append(len(done.ended))
    assert counts == [PAGE, PAGE, 33, 1]


async def test_many_sessions_of_a_deleted_service_end_in_steps(database: Database) -> None:
    service = await database.write(services.add_service, "a", ["notify"], b"", 0)
    await database.write(store, PAGE + 1, None, minted_by=service.id)
    for now in range(2):
        await database.write(services.start_service_session, service.client_id, new_session(10**6), now)
    ended = [len(await database.write(services.end_some, service.client_id, NOW)) for _ in range(3)]
    assert ended == [PAGE, 3, 0]
    assert await database.write(services.delete_service, service.client_id, NOW) == []
