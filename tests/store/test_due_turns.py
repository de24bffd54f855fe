"""The order of due work: whoever has much of it delays nobody else, and each inbox is filled in order."""

import pytest
from sqlalchemy import Connection, event, insert, select, update

from gateway.database.database import Database
from gateway.database.models import (
    DELIVER,
    EXPIRE,
    WAKE,
    due_work,
    items,
    notifications,
)
from gateway.store import due_turns
from gateway.store.arrivals import Options, Post
from gateway.store.due_steps import Advance
from gateway.store.due_turns import find_due
from gateway.store.due_work import Due
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
    wakes = select(items.c.notification_id, items.c.user_id)
    found = [(NOON, WAKE, *row) for row in connection.execute(wakes)]
    columns = ("due_at", "kind", "notification_id", "user_id")
    connection.execute(insert(due_work), [dict(zip(columns, row, strict=True)) for row in found])


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


async def look(engine: Engine, limit: int) -> list[str]:
    """Return the ids of the notifications whose work is found at noon and a second."""
    found = await engine.database.read(find_due, NOON + 1000, limit)
    return await engine.database.read(uuids_of, found)


@pytest.mark.parametrize("kind", [WAKE, EXPIRE, DELIVER])
async def test_whoever_has_much_due_work_delays_nobody_elses(engine: Engine, kind: int) -> None:
    await flood(engine, kind)
    delivery = scheduled(engine.post("bob"), NOON + 2, service_id=2)
    expiry = offer(engine.post("carol"), NOON + 1, service_id=3)
    await engine.store(delivery, expiry)
    found = await look(engine, 6)
    assert len(found) == 6
    assert {delivery.content.id, expiry.content.id} < set(found)


async def test_a_look_takes_deliveries_then_expiries_then_wakes(engine: Engine) -> None:
    await engine.store(engine.post("ada"))
    await engine.database.write(snooze_all)
    expiry, late, early = offer(engine.post()), scheduled(engine.post(), NOON + 2), scheduled(engine.post())
    await engine.store(expiry, late, early)
    found = await engine.database.read(find_due, NOON + 1000, 10)
    assert [one.kind for one in found] == [DELIVER, DELIVER, EXPIRE, WAKE]
    assert (await engine.database.read(uuids_of, found))[:2] == [early.content.id, late.content.id]


@pytest.mark.parametrize("kind", [WAKE, EXPIRE])
async def test_more_than_a_window_of_other_work_hides_no_delivery(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    monkeypatch.setattr(due_turns, "WINDOW", 5)
    await flood(engine, kind)
    delivery = scheduled(engine.post("bob"), NOON + 2, service_id=2)
    await engine.store(delivery)
    assert (await look(engine, 3))[0] == delivery.content.id


async def test_turns_count_inboxes(engine: Engine) -> None:
    crowd = [f"user {number}" for number in range(20)]
    wide = [offer(engine.post(*crowd)) for _ in range(3)]
    narrow = [offer(engine.post("bob"), NOON + 1, service_id=2) for _ in range(5)]
    await engine.store(*wide, *narrow)
    expected = [wide[0].content.id, *(post.content.id for post in narrow)]
    assert await look(engine, 30) == expected
    # What is larger than a look is found all the same.
    assert await look(engine, 4) == [wide[0].content.id]


async def finish(engine: Engine, limit: int) -> None:
    """Do all that is due at noon and a second, look for look."""
    engine.writer.clock = lambda: (NOON + 1000) / 1000
    while found := await engine.database.read(find_due, NOON + 1000, limit):
        await engine.writer.advance(Advance(tuple(found)))


async def test_a_recipient_gets_deliveries_in_order_whichever_service_has_its_turn(
    engine: Engine, database: Database
) -> None:
    ada, bob = await engine.user("ada"), await engine.user("bob")
    flood = [scheduled(engine.post("ada"), NOON + number) for number in range(MANY)]
    shared = scheduled(engine.post("ada", "bob"), NOON + 20, service_id=2)
    later = scheduled(engine.post("bob"), NOON + 21, service_id=2)
    free = scheduled(engine.post("carol"), NOON + 22, service_id=2)
    await engine.store(*flood, shared, later, free)
    found = await look(engine, 8)
    # Only `free` may overtake: `shared` is later than work of Ada's that waits, and `later` than `shared`.
    assert found == [*(post.content.id for post in flood[:4]), free.content.id]
    await finish(engine, 8)
    in_order = sorted([*flood, shared], key=due_at)
    assert await database.read(ids_of, ada.id) == [post.content.id for post in in_order]
    assert await database.read(ids_of, bob.id) == [shared.content.id, later.content.id]


def due_at(post: Post) -> int:
    assert post.options is not None
    assert post.options.deliver_at is not None
    return post.options.deliver_at


def ids_of(connection: Connection, user_id: int) -> list[str]:
    """Return the ids of a user's notifications, in the order of arrival."""
    arrived = select(notifications.c.uuid).join_from(items, notifications)
    return list(connection.scalars(arrived.where(items.c.user_id == user_id).order_by(items.c.created_seq)))


async def test_a_chain_of_deliveries_that_wait_for_each_other_takes_as_many_statements_as_one(
    engine: Engine, database: Database
) -> None:
    many = [scheduled(engine.post("user 0"), NOON + number) for number in range(40)]
    chain = [
        scheduled(engine.post(f"user {number}", f"user {number + 1}"), NOON + 50 + number, service_id=2)
        for number in range(10)
    ]
    await engine.store(*many, *chain[:1])
    short = await database.read(statements_of_look, 30)
    await engine.store(*chain[1:])
    assert await database.read(statements_of_look, 30) == short
    assert not {post.content.id for post in chain} & set(await look(engine, 30))


def statements_of_look(connection: Connection, limit: int) -> int:
    """Return how many statements a look takes."""
    executed: list[str] = []
    event.listen(connection, "before_cursor_execute", lambda *given: executed.append(given[2]))
    find_due(connection, NOON + 1000, limit)
    return len(executed)
