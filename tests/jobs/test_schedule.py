"""The schedule: due work is done once and in order, whatever the clock does and however late it is."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from sqlalchemy import Connection, Table, func, select

from gateway.auth import services, users
from gateway.auth.erasure import erase_some
from gateway.database.database import LockingDatabase, open_database
from gateway.database.models import due_work, items, notifications, scheduled_recipients
from gateway.errors import GatewayError
from gateway.jobs import schedule
from gateway.jobs.schedule import Schedule
from gateway.store.arrivals import Options, Post
from gateway.store.lifecycle import Edit
from tests.support.actions import overdue
from tests.support.databases import settings_for
from tests.support.engine import Engine
from tests.support.waiting import until

NOON = 1_800_000_000.0
HOUR = 3600.0


@dataclass
class Clock:
    """The time of a process, in seconds since 1970, as somebody has set it."""

    now: float = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def locking(database_url: str) -> AsyncIterator[LockingDatabase]:
    async with open_database(settings_for(database_url)) as opened:
        yield opened


@dataclass
class Home:
    """A process: its engine, its clock, and its schedule, which works when a test tells it to."""

    engine: Engine
    clock: Clock
    schedule: Schedule

    def at(self, seconds: float, *to: str, title: str = "Hello", **fields: Any) -> Post:
        """Return a post that is due so many seconds after noon."""
        post = self.engine.post(*to, title=title)
        expires = fields.pop("expires_at", None)
        content = post.content._replace(expires_at=None if expires is None else ms(expires))
        return post._replace(content=content, options=Options(deliver_at=ms(seconds), **fields))


def ms(seconds: float) -> int:
    """Return the time so many seconds after noon, in ms."""
    return int((NOON + seconds) * 1000)


@pytest.fixture
async def home(locking: LockingDatabase, database_url: str) -> AsyncIterator[Home]:
    one = home_on(locking, database_url)
    async with one.engine.writer.running():
        yield one


def home_on(locking: LockingDatabase, database_url: str) -> Home:
    clock = Clock()
    engine = Engine(settings_for(database_url), locking)
    engine.writer.clock = clock
    return Home(engine, clock, Schedule(locking, engine.writer, clock))


def inbox(connection: Connection) -> list[str]:
    """Return the titles of what has been delivered to anybody and is there, in the order of arrival."""
    arrived = (
        select(notifications.c.title).join_from(items, notifications).where(items.c.deleted_at.is_(None))
    )
    return list(connection.scalars(arrived.order_by(items.c.created_seq)))


def rows_of(table: Table) -> Callable[[Connection], int]:
    count = select(func.count()).select_from(table)
    return lambda connection: connection.execute(count).scalar_one()


async def test_work_is_done_once_whether_the_clock_is_set_back_or_forward(
    home: Home, locking: LockingDatabase
) -> None:
    await home.engine.store(home.at(60, title="minute"), home.at(2 * HOUR, title="hours"))
    await home.schedule.work()
    assert await locking.read(inbox) == []
    home.clock.now = NOON + 61
    await home.schedule.work()
    assert await locking.read(inbox) == ["minute"]
    home.clock.now = NOON - HOUR  # set back: it is not due any more, and is not delivered again
    await home.schedule.work()
    home.clock.now = NOON + 61
    await home.schedule.work()
    assert await locking.read(inbox) == ["minute"]
    home.clock.now = NOON + 3 * HOUR  # set forward
    await home.schedule.work()
    home.clock.now = NOON
    await home.schedule.work()
    assert await locking.read(inbox) == ["minute", "hours"]
    assert await locking.read(rows_of(due_work)) == 0


async def test_a_schedule_that_sleeps_notices_that_the_clock_was_set(
    home: Home, locking: LockingDatabase
) -> None:
    await home.engine.store(home.at(HOUR))
    running = asyncio.create_task(home.schedule.run())
    try:
        home.clock.now = NOON + HOUR + 1

        async def delivered() -> bool:
            return await locking.read(inbox) == ["Hello"]

        await until(delivered, "it is delivered")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_after_downtime_what_is_due_comes_in_the_order_of_its_time_whoever_sent_it(
    home: Home, locking: LockingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "FOUND", 7)
    await locking.write(services.add_service, "other", ["notify"], b"", 0)
    late = sorted(range(40), key=lambda number: number * 17 % 40)
    for number in late:
        one = home.at(number, title=str(number))._replace(service_id=1 + number % 2)
        await home.engine.store(one)
    expired = home.at(5, title="expired", expires_at=50)
    await home.engine.store(expired)
    home.clock.now = NOON + HOUR
    await home.schedule.work()
    assert await locking.read(inbox) == [str(number) for number in range(40)]


async def test_a_service_does_not_wait_for_the_flood_of_another_while_a_process_looks(
    home: Home, locking: LockingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "FOUND", 7)
    await locking.write(services.add_service, "other", ["notify"], b"", 0)
    await home.schedule.work()
    await home.engine.store(*(home.at(1, title="flood") for _ in range(40)))
    await home.engine.store(home.at(2, title="other")._replace(service_id=2))
    home.clock.now = NOON + 5
    await home.schedule.work()
    arrived = await locking.read(inbox)
    assert len(arrived) == 41
    assert arrived.index("other") < 7


async def test_a_time_to_live_begins_at_the_delivery_even_if_that_is_late(
    home: Home, locking: LockingDatabase
) -> None:
    await home.engine.store(home.at(1, ttl=60))
    home.clock.now = NOON + HOUR
    await home.schedule.work()
    assert await locking.read(inbox) == ["Hello"]
    home.clock.now = NOON + HOUR + 59
    await home.schedule.work()
    assert await locking.read(inbox) == ["Hello"]
    home.clock.now = NOON + HOUR + 60
    await home.schedule.work()
    assert await locking.read(inbox) == []


async def test_a_post_that_waits_for_longer_than_its_time_to_live_is_no_mistake(
    home: Home, locking: LockingDatabase
) -> None:
    """Its sender has named no time, so none can be wrong."""
    post = home.engine.post()
    post = post._replace(content=post.content._replace(expires_at=ms(1)), options=Options(ttl=1))
    home.clock.now = NOON + 2
    await home.engine.store(post)
    await home.schedule.work()
    assert await locking.read(inbox) == []
    assert await locking.read(last_seqs) == [2]


async def test_two_schedules_deliver_each_one_once(
    home: Home, locking: LockingDatabase, database_url: str
) -> None:
    """They do it at the same time, as they may if one has lost the lock that keeps the other away."""
    other = home_on(locking, database_url)
    posts = [home.at(number, "ada", f"user {number}", title=str(number)) for number in range(30)]
    await home.engine.store(*posts)
    due = await locking.read(overdue, ms(HOUR))
    home.clock.now = other.clock.now = NOON + HOUR
    async with other.engine.writer.running():
        for group in schedule._groups(due):
            await asyncio.gather(*(one.schedule._finish(group) for one in (home, other)))
    assert await locking.read(rows_of(items)) == 60
    assert len(set(await locking.read(inbox))) == 30


async def test_a_piece_of_work_that_fails_holds_up_no_other_and_is_tried_again(
    home: Home, locking: LockingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    await home.engine.store(*(home.at(number, title=str(number)) for number in range(5)))
    (broken,) = await locking.read(overdue, ms(2), 1)
    advance = home.engine.writer.advance

    async def fails(asked: Any) -> Any:
        if broken in asked.due:
            raise GatewayError("It could not be stored.")
        return await advance(asked)

    home.clock.now = NOON + 10
    with monkeypatch.context() as patched, structlog.testing.capture_logs() as logs:
        patched.setattr(home.engine.writer, "advance", fails)
        await home.schedule.work()
    assert await locking.read(inbox) == ["1", "2", "3", "4"]
    assert [entry["event"] for entry in logs] == ["due work failed, and is tried again later"]
    home.clock.now = NOON + 10 + schedule.RETRY_SECONDS
    await home.schedule.work()
    assert await locking.read(inbox) == ["1", "2", "3", "4", "0"]


async def test_what_an_edit_left_behind_is_finished_when_its_lease_is_over(
    home: Home, locking: LockingDatabase
) -> None:
    post = home.engine.post("ada", "bob")
    await home.engine.store(post)
    await home.engine.writer.begin(Edit(1, None, post.content.id, {"title": "new"}))
    await home.schedule.work()
    assert await locking.read(last_seqs) == [1, 1]
    home.clock.now += 5
    await home.schedule.work()
    assert await locking.read(last_seqs) == [2, 2]


def last_seqs(connection: Connection) -> list[int]:
    return list(connection.scalars(select(items.c.seq)))


async def test_an_erasure_removes_what_is_scheduled_in_steps(home: Home, locking: LockingDatabase) -> None:
    ada = await home.engine.user()
    await home.engine.store(*(home.at(number, "ada") for number in range(5)))
    await home.engine.store(home.at(9, "ada", "bob"))
    await locking.write(users.release_user, "ada", 0)
    steps = 1
    while await locking.write(erase_some, ada.id, 2):
        steps += 1
    assert steps == 4
    assert await locking.read(rows_of(notifications)) == 1
    assert await locking.read(rows_of(scheduled_recipients)) == 1
    home.clock.now = NOON + HOUR
    await home.schedule.work()
    assert await locking.read(rows_of(items)) == 1


class Elsewhere:
    """A database whose advisory lock another process holds."""

    def __init__(self, database: LockingDatabase) -> None:
        self._database = database
        self.looks = 0

    async def read(self, look: Any, *given: Any) -> Any:
        """Read, and count it."""
        self.looks += 1
        return await self._database.read(look, *given)

    @asynccontextmanager
    async def exclusively(self, _lock: int) -> AsyncIterator[bool]:
        """Yield that the lock is taken."""
        yield False


async def test_a_process_rests_while_another_one_works(
    home: Home, locking: LockingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    await home.engine.store(home.at(-1, "ada"))
    rests: list[float] = []

    async def rest(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) == 5:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", rest)
    elsewhere: Any = Elsewhere(locking)
    with pytest.raises(asyncio.CancelledError):
        await Schedule(elsewhere, home.engine.writer, home.clock).run()
    assert rests == [schedule.TICK_SECONDS, *[0, schedule.TICK_SECONDS] * 2]
    assert await locking.read(inbox) == []
