"""What is past goes: every client learns of it, the counts stay right, and nobody resumes over a hole."""

import asyncio
import time
from collections.abc import AsyncIterator
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, func, literal, select, update
from sqlalchemy.util import await_only

from gateway.auth import cutoffs, erasure, sessions, tickets, users
from gateway.cli import run
from gateway.database import models
from gateway.database.database import LockingDatabase, open_database
from gateway.database.models import idempotency_keys, items, notifications
from gateway.delivery.resume_point import ResumePoint
from gateway.errors import Unavailable
from gateway.jobs import retention as retention_module
from gateway.jobs.retention import STEP, Retention, trim
from gateway.jobs.schedule import Schedule
from gateway.protocol.times import timestamp
from gateway.store import idempotency
from gateway.store.changes import CHUNK
from gateway.store.idempotency import Reservation
from gateway.store.log import head
from gateway.store.transaction import Submission
from gateway.store.writer import Writer
from tests.support.clients import User
from tests.support.databases import settings_for
from tests.support.engine import Engine
from tests.support.servers import LocalServer, StartServer, serving
from tests.support.waiting import until

DAY = 86_400
KEEP = 90 * DAY


@pytest.fixture
async def locking(database_url: str) -> AsyncIterator[LockingDatabase]:
    async with open_database(settings_for(database_url)) as opened:
        yield opened


class Clock:
    """The gateway's time, in days from now."""

    def __init__(self) -> None:
        self.days = 0.0

    def __call__(self) -> float:
        return time.time() + self.days * DAY


def retention_of(server: LocalServer, clock: Clock, keep: int | None = KEEP) -> Retention:
    database = server.state.database
    assert isinstance(server.state.writer, Writer)
    server.state.writer.clock = clock
    return Retention(database, server.state.writer, keep=keep, clock=clock)  # type: ignore[arg-type]


def rows_of(connection: Connection) -> tuple[int, int]:
    """Count the items and the notifications."""
    number = [connection.scalar(select(func.count()).select_from(table)) for table in (items, notifications)]
    return number[0] or 0, number[1] or 0


async def counts(user: User) -> tuple[int, int, int]:
    page = await user.inbox(limit=1)
    return page["seq"], page["unread"], page["unseen"]


async def test_an_expired_item_is_deleted_and_an_open_socket_is_notified(server: LocalServer) -> None:
    clock = Clock()
    retention = retention_of(server, clock)
    ids = await server.service.notify_many("ada", 3)
    ada = await server.user(ttl=DAY)
    async with ada.socket(since=3) as socket:
        await socket.next("live")
        await retention.sweep()
        clock.days = 91
        await retention.sweep()
        message = await socket.next("changed")
        assert sorted(item["id"] for item in message["items"]) == sorted(ids)
        assert all(item["deleted_at"] and item["title"] is None for item in message["items"])
        assert (message["seq"], message["unread"], message["unseen"]) == (4, 0, 0)
    assert await counts(ada) == (4, 0, 0)
    assert (await ada.inbox())["items"] == []


async def test_unexpired_items_stay_and_the_seq_continues(server: LocalServer) -> None:
    clock = Clock()
    retention = retention_of(server, clock, keep=DAY)
    await server.service.notify_many("ada", STEP + 5)
    ada = await server.user(ttl=DAY)
    clock.days = 0.9
    await retention.sweep()
    assert await counts(ada) == (STEP + 5, STEP + 5, STEP + 5)
    clock.days = 1.1
    await retention.sweep()
    seq, unread, unseen = await counts(ada)
    assert (seq > STEP + 5, unread, unseen) == (True, 0, 0)
    await server.service.notify("ada")
    clock.days = 0
    await retention.sweep()
    assert await counts(ada) == (seq + 1, 1, 1)


async def test_a_scheduled_notification_is_kept_from_its_delivery_on(server: LocalServer) -> None:
    clock = Clock()
    retention = retention_of(server, clock, keep=DAY)
    schedule = Schedule(server.state.database, server.state.writer, clock)  # type: ignore[arg-type]
    deliver_at = timestamp(int((time.time() + 2 * DAY) * 1000))
    await server.service.notify("ada", deliver_at=deliver_at)
    clock.days = 2.1
    await schedule.work()
    await retention.sweep()
    assert await counts(await server.user()) == (1, 1, 1)
    clock.days = 3.0
    await retention.sweep()
    assert await counts(await server.user()) == (1, 1, 1)
    clock.days = 4.2
    await retention.sweep()
    assert await counts(await server.user()) == (2, 0, 0)


async def test_a_deleted_item_is_purged_after_a_day_and_no_sooner(server: LocalServer) -> None:
    clock = Clock()
    retention = retention_of(server, clock, keep=None)
    ada = await server.user(ttl=DAY)
    both = await server.service.notify(["ada", "bob"])
    (only,) = await server.service.notify_many("ada", 1)
    for one in (both["id"], only):
        assert (await ada.delete(f"/v1/inbox/{one}")).status_code == 204
    clock.days = 0.99
    await retention.sweep()
    assert await server.state.database.read(rows_of) == (3, 2)
    clock.days = 1.01
    await retention.sweep()
    # Bob still has his, so its notification stays; what nobody has is gone, for its sender too.
    assert await server.state.database.read(rows_of) == (1, 1)
    sent = await server.service.get(f"/v1/notifications/{both['id']}")
    assert (sent.status_code, sent.json()["recipients"]) == (200, 2)
    assert (await server.service.get(f"/v1/notifications/{only}")).status_code == 404
    assert await counts(ada) == (4, 0, 0)
    assert await counts(await server.user("bob")) == (1, 1, 1)


async def trimmed(server: LocalServer) -> User:
    """Return a user whose log has lost its numbers up to 3, and stands at 4."""
    clock = Clock()
    retention = retention_of(server, clock)
    ids = await server.service.notify_many("ada", 2)
    ada = await server.user(ttl=DAY)
    await ada.delete(f"/v1/inbox/{ids[0]}")
    clock.days = 2
    await retention.sweep()
    await server.service.notify("ada")
    return ada


async def test_a_socket_that_resumes_from_before_purged_entries_is_reset(server: LocalServer) -> None:
    ada = await trimmed(server)
    for since, types in ((2, ["hello", "reset", "live"]), (3, ["hello", "notification", "live"])):
        async with ada.socket(since=since) as socket:
            messages = await socket.until("live")
            assert [message["type"] for message in messages] == types
            if since == 2:
                assert (messages[1]["seq"], messages[1]["oldest_seq"], messages[1]["unread"]) == (4, 4, 2)


async def test_changes_since_a_seq_before_purged_entries_are_refused(server: LocalServer) -> None:
    ada = await trimmed(server)
    refused = await ada.get("/v1/inbox/changes", params={"since": 2})
    assert (refused.status_code, refused.json()["code"]) == (410, "reset_required")
    answered = await ada.get("/v1/inbox/changes", params={"since": 3})
    assert [item["seq"] for item in answered.json()["items"]] == [4]


async def test_a_slow_client_behind_purged_entries_is_reset(
    locking: LockingDatabase, database_url: str
) -> None:
    engine = Engine(settings_for(database_url, tail_bytes=0), locking)
    async with engine.writer.running():
        user = await engine.user()
        await engine.store(engine.post(), engine.post())
        async with engine.connected(user, ResumePoint(since=2)) as (wire, _):
            await wire.has("live")
            mark = update(models.users).where(models.users.c.id == user.id).values(trimmed_seq=3)
            await engine.database.write(lambda connection: connection.execute(mark).rowcount)
            await engine.store()
            await wire.has("reset")
            await wire.has("live", 2)
        reset = next(message for message in wire.sent if message["type"] == "reset")
        assert (reset["seq"], reset["oldest_seq"]) == (3, 4)


async def test_one_process_at_a_time_runs_retention_and_another_takes_over_when_it_ends(
    locking: LockingDatabase, database_url: str
) -> None:
    if database_url.startswith("sqlite"):
        async with locking.exclusively(7) as alone:
            assert alone
        return
    async with open_database(settings_for(database_url)) as other:
        async with locking.exclusively(7) as first, other.exclusively(7) as second:
            assert (first, second) == (True, False)
        async with other.exclusively(7) as second, locking.exclusively(8) as different:
            assert (second, different) == (True, True)


async def test_a_lock_that_is_released_leaves_its_connection_to_the_pool(postgres_url: str) -> None:
    """The schedule takes it each time that work is due."""
    async with open_database(settings_for(postgres_url)) as opened:

        def process_of(connection: Connection) -> int | None:
            return connection.scalar(select(func.pg_backend_pid()))

        before = await opened.read(process_of)
        async with opened.exclusively(7) as alone:
            assert alone
        assert await opened.read(process_of) == before
        with pytest.raises(RuntimeError, match="it fails"):
            async with opened.exclusively(7):
                raise RuntimeError("it fails")
        async with open_database(settings_for(postgres_url)) as other, other.exclusively(7) as alone:
            assert alone


async def test_a_retention_round_without_the_lock_changes_nothing(
    locking: LockingDatabase, database_url: str
) -> None:
    engine = Engine(settings_for(database_url), locking)
    async with engine.writer.running():
        user = await engine.user()
        await engine.store()
        retention = Retention(locking, engine.writer, keep=KEEP)
        async with locking.exclusively(0x7265746169) as alone:
            await retention.sweep()
            # One process serves from a SQLite file, so it is always alone.
            found = await locking.read(head, user.id)
            assert alone
            assert found is not None
            assert found[1].unread == (0 if database_url.startswith("sqlite") else 1)
        await retention.sweep()
        found = await locking.read(head, user.id)
        assert found is not None
        assert found[1].unread == 0


async def test_expired_keys_sessions_and_tickets_are_deleted(
    locking: LockingDatabase, database_url: str
) -> None:
    engine = Engine(settings_for(database_url), locking)
    clock = Clock()
    async with engine.writer.running():
        await engine.user()
        reservation = Reservation(1, "k", b"1", "{}")
        await engine.writer.post(Submission((engine.post(),), "{}", reservation))
        session = sessions.new_session(int(time.time() * 1000) + 1000)
        await locking.write(sessions.start_user_session, "ada", session, 0)
        ticket = tickets.NewTicket(b"t", session.id, "inbox", 0, int(time.time() * 1000) + 1000)
        await locking.write(tickets.add_ticket, ticket)
        retention = Retention(locking, engine.writer, keep=None, clock=clock)
        await retention.sweep()
        kept = [idempotency_keys, models.sessions, models.tickets]

        def number(connection: Connection) -> list[int | None]:
            return [connection.scalar(select(func.count()).select_from(table)) for table in kept]

        assert await locking.read(number) == [1, 1, 1]
        clock.days = 1.01
        await retention.sweep()
        assert await locking.read(number) == [0, 0, 0]


async def test_many_expired_keys_are_deleted_in_steps(
    locking: LockingDatabase, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "SWEEP_LIMIT", 2)
    reservations = [Reservation(1, f"k{number}", b"1", "{}") for number in range(3)]
    await locking.write(idempotency.reserve, reservations, 0)
    assert await locking.write(idempotency.sweep, idempotency.TTL_MS)
    assert not await locking.write(idempotency.sweep, idempotency.TTL_MS)
    assert await locking.read(idempotency.answered, reservations, 0) == {}


async def test_a_user_erased_during_a_round_causes_no_failure(
    locking: LockingDatabase, database_url: str
) -> None:
    engine = Engine(settings_for(database_url), locking)
    async with engine.writer.running():
        user = await engine.user()
        await engine.store(engine.post("ada", "bob"))
        retention = Retention(locking, engine.writer, keep=KEEP)
        change, erased = engine.writer.change, list[int]()

        async def erase_first(*args: object) -> object:
            if not erased:
                erased.append(user.id)
                await locking.write(users.release_user, "ada", 0)
                await locking.write(erasure.erase_some, user.id)
                await locking.write(sessions.sweep, cutoffs.CUTOFF_TTL_MS + 1)
                await locking.write(erasure.sweep, cutoffs.CUTOFF_TTL_MS + 1)
            return await change(*args)  # type: ignore[arg-type]

        engine.writer.change = erase_first  # type: ignore[method-assign, assignment]
        await retention.sweep()
        bob = await locking.read(users.get_user, "bob")
        assert (bob.unread, bob.last_seq) == (0, 2)


async def test_a_round_continues_where_an_interrupted_round_stopped(
    locking: LockingDatabase, database_url: str
) -> None:
    engine = Engine(settings_for(database_url), locking)
    engine.writer.clock = lambda: 0
    async with engine.writer.running():
        user = await engine.user()
        for _ in range(3):
            await engine.store(*[engine.post() for _ in range(STEP)])
        retention = Retention(locking, engine.writer, keep=KEEP)
        change, left = engine.writer.change, [2]

        async def fails_in_between(*args: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                raise Unavailable
            return await change(*args)  # type: ignore[arg-type]

        engine.writer.change = fails_in_between  # type: ignore[method-assign, assignment]
        with pytest.raises(Unavailable):
            await retention.sweep()
        assert (await locking.read(users.get_user, "ada")).unread == 2 * STEP
        await retention.sweep()
        ada = await locking.read(users.get_user, "ada")
        assert (ada.unread, ada.trimmed_seq) == (0, ada.last_seq)
        assert await locking.read(rows_of) == (0, 0)
        found = await locking.read(head, user.id)
        assert found is not None
        assert found[1].trimmed == 3 * (STEP + ceil(STEP / CHUNK))


async def test_a_gateway_runs_retention_by_itself_and_continues_after_an_outage(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "INTERVAL_SECONDS", 0.01)
    server = await start_server()
    away = asyncio.Event()
    database = server.state.database
    read = database.read

    async def fails(*args: Any, **kwargs: Any) -> Any:
        if args[0] is retention_module.find_expired:
            away.set()
            raise Unavailable
        return await read(*args, **kwargs)

    database.read = fails  # type: ignore[method-assign]
    await away.wait()
    await server.service.notify("ada")
    await database.write(make_old)
    database.read = read  # type: ignore[method-assign]
    ada = await server.user()

    async def gone() -> bool:
        return await counts(ada) == (2, 0, 0)

    await until(gone, "the item is deleted")


async def test_concurrent_purges_of_the_last_two_items_remove_the_notification(postgres_url: str) -> None:
    """Each would see the item of the other, as neither has committed."""
    both_removed, removed = asyncio.Barrier(2), list[str]()

    def remove(connection: Connection, user_id: int) -> None:
        (key,) = connection.scalars(select(items.c.notification_id).where(items.c.user_id == user_id))
        connection.execute(delete(items).where(items.c.user_id == user_id))
        if not removed:
            await_only(both_removed.wait())
        erasure.remove_unheld(connection, {key})
        removed.append("once")

    async with open_database(settings_for(postgres_url)) as opened:
        engine = Engine(settings_for(postgres_url), opened)
        async with engine.writer.running():
            ada, bob = await engine.user(), await engine.user("bob")
            await engine.store(engine.post("ada", "bob"))
        await asyncio.gather(*(opened.write(remove, user.id) for user in (ada, bob)))
        assert await opened.read(rows_of) == (0, 0)


async def test_expired_items_of_many_users_are_deleted_in_few_steps(
    locking: LockingDatabase, database_url: str
) -> None:
    """Steps of a few items each would not keep up with a service that stores thousands a second."""
    engine = Engine(settings_for(database_url), locking)
    engine.writer.clock = lambda: 0
    users_of_all = [f"user-{number}" for number in range(STEP)]
    steps: list[str] = []
    write = locking.write

    async def counted(work: Any, *args: Any) -> Any:
        steps.append(work.__name__)
        return await write(work, *args)

    async with engine.writer.running():
        for _ in range(2):
            await engine.store(engine.post(*users_of_all))
        locking.write = counted  # type: ignore[method-assign, assignment]
        await Retention(locking, engine.writer, keep=KEEP).sweep()
        assert await locking.read(rows_of) == (0, 0)
    assert steps.count("commit") <= 12
    assert steps.count("trim") <= 3


def make_old(connection: Connection) -> None:
    """Let everything have been posted in 1970, as the ids say."""
    old = literal("00000000") + func.substr(notifications.c.uuid, 9)
    connection.execute(update(notifications).values(uuid=old, created_at=0))


async def test_posts_continue_while_many_items_are_deleted(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "STEP", 28)
    server = await start_server()
    retention = retention_of(server, Clock())
    subs = [f"user-{number}" for number in range(40)]
    for _ in range(25):
        await server.service.notify(subs)
    await server.state.database.write(make_old)
    removing = asyncio.create_task(retention.sweep())
    posted = 0
    while not removing.done():
        await server.service.notify("ada", title=str(posted))
        posted += 1
    await removing
    assert posted > 10
    assert await counts(await server.user()) == (posted, posted, posted)
    for sub in subs[:3]:
        assert (await (await server.user(sub)).inbox())["unread"] == 0


async def test_a_position_in_a_restored_log_belongs_to_another_epoch(
    server: LocalServer,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ada, bob = await server.user(), await server.user("bob")
    await server.service.notify(["ada", "bob"])
    epochs = [(await user.inbox())["epoch"] for user in (ada, bob)]
    monkeypatch.setenv("GATEWAY_DATABASE_URL", database_url)
    assert await asyncio.to_thread(run, ["backup-epoch"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("Renewed the epochs of 2 users, and ended 2 sessions.\n")
    assert '"event":"epochs_renewed","number":2' in said.err
    assert '"event":"sessions_ended","why":"restored","number":2' in said.err

    async def is_ended() -> bool:
        return bool((await ada.get("/v1/inbox")).status_code == 401)

    # What had ended after the backup would be there again.
    await until(is_ended, "the sessions of before have ended")
    ada, bob = await server.user(), await server.user("bob")
    renewed = [(await user.inbox())["epoch"] for user in (ada, bob)]
    assert len({*epochs, *renewed}) == 4
    assert all(len(epoch) == 16 for epoch in renewed)
    async with ada.socket(since=1, epoch=epochs[0]) as socket:
        assert [message["type"] for message in await socket.until("live")] == ["hello", "reset", "live"]
    async with ada.socket(since=1, epoch=renewed[0]) as socket:
        assert [message["type"] for message in await socket.until("live")] == ["hello", "live"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90d", 90 * DAY), ("12h", 43_200), ("60", 60), ("2m", 120), ("none", None)]
)
def test_the_retention_setting_is_a_duration_or_none(text: str, seconds: int | None) -> None:
    assert settings_for("sqlite:///x.db", retention=text).retention_seconds == seconds


@pytest.mark.parametrize("text", ["", "59", "90 days", "-5d", "1w", "0", "٣d", "1d ", "forever"])
def test_an_invalid_retention_stops_the_start_with_one_line(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_RETENTION", text)
    assert run(["check"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gateway: GATEWAY_RETENTION: ")
    assert said.count("\n") == 1


# --- what is erased -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["the user is erased", "the item is deleted"])
async def test_the_file_contains_no_data_of_an_erased_user(sqlite_url: str, how: str) -> None:
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    secret = "the-word-that-must-go"
    async with serving(settings_for(sqlite_url)) as server:
        for number in range(60):  # enough that whole pages become free
            await server.service.notify("ada", f"{number}", body=f"{secret} " * 100)
        database = server.state.database
        await database.write(checkpoint)
        assert secret.encode() in await asyncio.to_thread(file.read_bytes)
        if how == "the user is erased":
            assert (await server.service.delete("/v1/users/ada")).status_code == 204
        else:
            await Retention(database, server.state.writer, keep=0).expire(in_days(1))  # type: ignore[arg-type]
            while await database.write(trim, in_days(3)):
                pass
        await database.write(checkpoint)
        assert await database.read(free_pages) > 0
        assert secret.encode() not in await asyncio.to_thread(file.read_bytes)


def checkpoint(connection: Connection) -> None:
    """Bring what is committed into the file itself."""
    connection.connection.commit()
    assert connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0] == 0


def free_pages(connection: Connection) -> int:
    return int(connection.exec_driver_sql("PRAGMA freelist_count").scalar_one())


def in_days(days: int) -> int:
    return int(time.time() + days * 86_400) * 1000
