"""The order of due work: whoever has much of it delays nobody else, and each inbox is filled in order."""

import pytest
from sqlalchemy import Connection, event, select, update

from gateway.database.database import Database
from gateway.database.models import (
    DELIVER,
    EXPIRE,
    WAKE,
    items,
    notifications,
)
from gateway.store.arrivals import Options, Post
from gateway.store.due_steps import Advance
from gateway.store.due_turns import OVERDUE, Turns, find_due
from gateway.store.due_work import Due, wake_at
from tests.support.actions import overdue
from tests.support.engine import Engine

NOON = 1_800_000_000_000
MANY = 30


def offer(post: Post, at: int = NOON, service_id: int = 1) -> Post:
    """Return a post that ends at a time."""
    content = post.content._replace(expires_at=at)
    return post._replace(content=content, service_id=service_id, options=Options())


def scheduled(post: Post, at: int = NOON, service_id: int = 1) -> Post:
    """Return a post that is due at a time."""
    return post._replace(service_id=service_id, options=Options(deliver_at=at))


def snooze_all(connection: Connection) -> None:
    """Snooze all items until noon."""
    connection.execute(update(items).values(snoozed_until=NOON))
    snoozed = connection.execute(
        select(items.c.user_id, notifications.c.uuid).join_from(items, notifications)
    )
    for user_id, uuid in snoozed.all():
        wake_at(connection, user_id, [uuid], NOON)


async def flood(engine: Engine, kind: int) -> None:
    """Store much work of one kind, all of one service or of one user, that is due at noon."""
    if kind == WAKE:
        await engine.store(*(engine.post("ada") for _ in range(MANY)))
        await engine.database.write(snooze_all)
        return
    change = {EXPIRE: offer, DELIVER: scheduled}[kind]
    await engine.store(*(change(engine.post(f"user {number}")) for number in range(MANY)))


def uuids_of(connection: Connection, found: list[Due]) -> list[str]:
    keys = [one.key for one in found]
    rows = connection.execute(
        select(notifications.c.id, notifications.c.uuid).where(notifications.c.id.in_(keys))
    )
    by_key = {row[0]: row[1] for row in rows}
    return [by_key[key] for key in keys]


async def look(engine: Engine, limit: int, turns: Turns | None = None) -> list[str]:
    """Return the ids of the notifications whose work is taken at noon and a second, in a running process."""
    waiting = await engine.database.read(find_due, NOON + 1000, 0, limit)
    return await engine.database.read(uuids_of, (turns or Turns()).take(waiting, limit))


@pytest.mark.parametrize("kind", [WAKE, EXPIRE, DELIVER])
async def test_whoever_has_much_due_work_delays_nobody_elses(engine: Engine, kind: int) -> None:
    await flood(engine, kind)
    delivery = scheduled(engine.post("bob"), NOON + 2, service_id=2)
    expiry = offer(engine.post("carol"), NOON + 1, service_id=3)
    await engine.store(delivery, expiry)
    found = await look(engine, 6)
    assert len(found) == 4
    assert {delivery.content.id, expiry.content.id} < set(found)


@pytest.mark.parametrize("kind", [EXPIRE, DELIVER])
async def test_much_work_of_one_kind_delays_no_other_work_of_its_service(engine: Engine, kind: int) -> None:
    await flood(engine, kind)
    other = (scheduled if kind == EXPIRE else offer)(engine.post("bob"), NOON + 2)
    await engine.store(other)
    assert other.content.id in await look(engine, 3)


async def test_a_look_takes_deliveries_then_expiries_then_wakes(engine: Engine) -> None:
    await engine.store(engine.post("ada"))
    await engine.database.write(snooze_all)
    expiry, late, early = offer(engine.post()), scheduled(engine.post(), NOON + 2), scheduled(engine.post())
    await engine.store(expiry, late, early)
    found = await engine.database.read(overdue, NOON + 1000)
    assert [one.kind for one in found] == [DELIVER, DELIVER, EXPIRE, WAKE]
    assert (await engine.database.read(uuids_of, found))[:2] == [early.content.id, late.content.id]


async def test_a_look_reads_few_rows_of_a_large_backlog(engine: Engine) -> None:
    for service_id in (1, 2, 3):
        await engine.store(
            *(scheduled(engine.post(), NOON + number, service_id=service_id) for number in range(MANY))
        )
    waiting = await engine.database.read(find_due, NOON + 1000, 0, 12)
    assert [len(lane) for lane in waiting.values()] == [4, 4, 4]
    for lane in waiting.values():
        assert [one.due_at for one in lane] == [NOON + number for number in range(4)]


async def test_pieces_that_are_due_at_the_same_time_come_in_the_order_of_their_posts(engine: Engine) -> None:
    posts = [scheduled(engine.post()) for _ in range(MANY)]
    for post in posts:
        await engine.store(post)
    assert await look(engine, 10) == [post.content.id for post in posts[:10]]


async def test_wide_posts_delay_narrow_ones_by_one_turn(engine: Engine) -> None:
    crowd = [f"user {number}" for number in range(20)]
    wide = [offer(engine.post(*crowd)) for _ in range(3)]
    narrow = [offer(engine.post("bob"), NOON + 1, service_id=2) for _ in range(5)]
    await engine.store(*wide, *narrow)
    turns = Turns()
    # What is larger than a look is found all the same.
    assert await look(engine, 4, turns) == [wide[0].content.id]
    # Nothing is done meanwhile, so it is found again.
    assert set(await look(engine, 4, turns)) == {post.content.id for post in (wide[0], *narrow[:2])}


def piece(number: int, due_at: int = 0, size: int = 1) -> Due:
    return Due(number, EXPIRE, number, None, 0, size, due_at)


def ids(taken: list[Due]) -> list[int]:
    return [one.id for one in taken]


def test_each_piece_is_from_the_lane_that_has_had_least() -> None:
    turns = Turns()
    wide, narrow = (
        [piece(number, size=10) for number in range(9)],
        [piece(10 + number) for number in range(90)],
    )
    taken = [one for _ in range(5) for one in turns.take({1: wide, 2: narrow}, 10)]
    assert sum(one.inboxes for one in taken if one.size > 1) in range(20, 31)
    assert sum(one.inboxes for one in taken if one.size == 1) in range(20, 31)


def test_all_wakes_together_get_the_turns_of_one_lane() -> None:
    turns = Turns()
    waiting = {-lane: [piece(1000 * lane + number) for number in range(30)] for lane in range(1, 11)}
    waiting |= {9: [piece(number) for number in range(300)]}
    taken = [one for _ in range(4) for one in turns.take(waiting, 60)]
    assert sum(one.id < 1000 for one in taken) in range(110, 131)


async def test_wakes_of_very_many_users_delay_no_delivery(engine: Engine) -> None:
    await engine.store(engine.post(*(f"user {number}" for number in range(MANY))))
    await engine.database.write(snooze_all)
    posts = [scheduled(engine.post("bob"), NOON + 2) for _ in range(MANY)]
    await engine.store(*posts)
    assert len({post.content.id for post in posts} & set(await look(engine, 50))) in range(20, 26)


def test_a_lane_gets_no_turns_for_the_time_in_which_it_had_no_work() -> None:
    turns = Turns()
    first, second = (
        [piece(number) for number in range(50)],
        [piece(50 + number, due_at=1) for number in range(50)],
    )
    for _ in range(4):
        turns.take({1: first}, 10)
    assert ids(turns.take({1: first, 2: second}, 4)) == [0, 1, 50, 51]
    # Nor is what it has had remembered once it has none.
    turns.take({1: first}, 40)
    assert ids(turns.take({1: first, 2: second}, 4)) == [0, 1, 50, 51]


async def finish(engine: Engine, since: int, limit: int) -> None:
    """Do all that is due at noon and a second, look for look."""
    engine.writer.clock = lambda: (NOON + 1000) / 1000
    turns = Turns()
    while waiting := await engine.database.read(find_due, NOON + 1000, since, limit):
        await engine.writer.advance(Advance(tuple(turns.take(waiting, limit))))


async def store_for_ada(engine: Engine) -> list[Post]:
    """Store scheduled posts of two services, first those of the one and then those of the other."""
    posts = [
        scheduled(engine.post("ada"), NOON + number, service_id=1 + (number > 20)) for number in range(MANY)
    ]
    await engine.store(*posts)
    return posts


async def test_after_a_downtime_all_is_done_in_the_order_of_its_time_whoever_sent_it(
    engine: Engine, database: Database
) -> None:
    ada = await engine.user("ada")
    posts = await store_for_ada(engine)
    await finish(engine, NOON + 500, 8)
    assert await database.read(ids_of, ada.id) == [post.content.id for post in posts]


async def test_what_is_due_after_a_downtime_does_not_wait_for_all_that_is_overdue(engine: Engine) -> None:
    await flood(engine, DELIVER)
    new = scheduled(engine.post("bob"), NOON + 700, service_id=2)
    await engine.store(new)
    waiting = await engine.database.read(find_due, NOON + 1000, NOON + 500, 8)
    assert len(waiting[OVERDUE]) == 9
    assert new.content.id in await engine.database.read(uuids_of, Turns().take(waiting, 8))


async def test_what_a_service_has_overdue_comes_before_its_later_notifications(
    engine: Engine, database: Database
) -> None:
    ada = await engine.user("ada")
    posts = [scheduled(engine.post("ada"), NOON + 20 * number) for number in range(MANY)]
    await engine.store(*posts)
    await finish(engine, NOON + 500, 8)
    assert await database.read(ids_of, ada.id) == [post.content.id for post in posts]


async def test_each_service_keeps_its_order_while_lanes_take_turns(
    engine: Engine, database: Database
) -> None:
    ada = await engine.user("ada")
    posts = await store_for_ada(engine)
    await finish(engine, 0, 8)
    arrived = await database.read(ids_of, ada.id)
    assert len(arrived) == MANY
    for service in (posts[:21], posts[21:]):
        expected = [post.content.id for post in service]
        assert [uuid for uuid in arrived if uuid in set(expected)] == expected


def ids_of(connection: Connection, user_id: int) -> list[str]:
    """Return the ids of a user's notifications, in the order of arrival."""
    arrived = select(notifications.c.uuid).join_from(items, notifications)
    return list(connection.scalars(arrived.where(items.c.user_id == user_id).order_by(items.c.created_seq)))


async def test_a_look_takes_as_many_statements_for_many_lanes_as_for_two(
    engine: Engine, database: Database
) -> None:
    for services in (2, 20):
        await engine.store(
            *(
                scheduled(engine.post(), NOON + number, service_id=1 + number % services)
                for number in range(MANY)
            )
        )
        assert await database.read(statements_of_look, 10) == 3


def statements_of_look(connection: Connection, limit: int) -> int:
    """Return how many statements a look takes."""
    executed: list[str] = []
    event.listen(connection, "before_cursor_execute", lambda *given: executed.append(given[2]))
    find_due(connection, NOON + 1000, 0, limit)
    return len(executed)
