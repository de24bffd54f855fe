"""The steps of due work: each is done once, and for exactly the users whose rows it has locked."""

import time

import pytest
from sqlalchemy import Connection, event, insert, select, update

from gateway.database.database import Database
from gateway.database.models import (
    DELIVER,
    EXPIRE,
    EXPIRED,
    UNSENT,
    WAKE,
    due_work,
    items,
    notifications,
    users,
)
from gateway.database.sqlite import driver_of
from gateway.store import due_steps
from gateway.store.arrivals import Options, Post
from gateway.store.due_steps import STEP, Advance
from gateway.store.due_work import Due
from gateway.store.lifecycle import Edit, Withdrawal
from gateway.store.positions import lock
from gateway.store.transaction import Submission, Work, commit
from tests.support.actions import overdue
from tests.support.engine import Engine

LATER = 1_900_000_000_000
"""A time that is ahead, in ms."""

MANY = [f"user {number:03}" for number in range(STEP + 50)]


def heads(connection: Connection) -> list[tuple[int, int, int]]:
    """Return the number, the unread and the unseen count of everybody."""
    columns = (users.c.last_seq, users.c.unread, users.c.unseen)
    return [tuple(row) for row in connection.execute(select(*columns).order_by(users.c.id))]


def left(connection: Connection) -> list[tuple[int, int]]:
    """Return the kinds and times of the due work."""
    columns = (due_work.c.kind, due_work.c.due_at)
    return [tuple(row) for row in connection.execute(select(*columns).order_by(due_work.c.id))]


async def finish(engine: Engine, due: tuple[Due, ...]) -> None:
    while due:
        due = (await engine.writer.advance(Advance(due))).rest


@pytest.mark.parametrize("renotify", [False, True])
async def test_a_step_that_another_process_has_done_is_not_done_again(
    engines: tuple[Engine, Engine], database: Database, renotify: bool
) -> None:
    here, there = engines
    post = here.post(*MANY)
    await here.store(post)
    begun = await here.writer.begin(Edit(1, None, post.content.id, {"title": "new"}, renotify))
    after_one_step = await here.writer.advance(Advance(begun.due))
    # It was so slow that the other one has found the work before.
    assert await there.writer.advance(Advance(begun.due)) == after_one_step
    await finish(there, after_one_step.rest)
    await finish(here, after_one_step.rest)
    assert await database.read(heads) == [(2, 1, 1)] * len(MANY)


async def test_a_step_whose_items_are_deleted_meanwhile_leaves_the_next_ones_to_the_next_step(
    engine: Engine, database: Database
) -> None:
    post = engine.post(*MANY)
    await engine.store(post)
    (due,) = (await engine.writer.begin(Withdrawal(1, None, post.content.id))).due

    def delete_between(connection: Connection) -> tuple[Due, ...]:
        advance = Advance((due,))
        named = due_steps.users_of(connection, advance)
        # Two of them delete it before the transaction has their locks.
        gone = sorted(named)[:2]
        connection.execute(update(items).where(items.c.user_id.in_(gone)).values(deleted_at=1, seq=2))
        positions = lock(connection, (), named, 1)
        for user_id in gone:
            position = positions.by_id[user_id]
            position.seq, position.unread, position.unseen = 2, 0, 0
        advanced, _ = due_steps.advance(connection, advance, positions, 1, ())
        positions.save()
        return advanced.rest

    rest = await database.write(delete_between)
    assert len(rest) == 1
    await finish(engine, rest)
    assert await database.read(heads) == [(2, 0, 0)] * len(MANY)
    assert await database.read(left) == []


async def test_work_waits_if_the_clock_is_set_back_after_it_was_found(
    engine: Engine, database: Database
) -> None:
    now = int(time.time() * 1000)
    later = now + 60_000
    user = await engine.user()

    def in_a_minute(options: Options, expires_at: int | None = None) -> Post:
        post = engine.post()
        return post._replace(content=post.content._replace(expires_at=expires_at), options=options)

    scheduled = in_a_minute(Options(deliver_at=later))
    offer = in_a_minute(Options(), later)
    snoozed = engine.post()
    await engine.store(scheduled, offer, snoozed)

    def snooze(connection: Connection) -> None:
        key = select(notifications.c.id).where(notifications.c.uuid == snoozed.content.id).scalar_subquery()
        connection.execute(update(items).where(items.c.notification_id == key).values(snoozed_until=later))
        connection.execute(update(users).values(unread=1, unseen=1))
        connection.execute(
            insert(due_work).values(due_at=later, kind=WAKE, notification_id=key, user_id=user.id)
        )

    await database.write(snooze)
    before = sorted(await database.read(left))
    found = await database.read(overdue, later, 10)
    assert len(found) == 3
    await finish(engine, tuple(found))
    assert sorted(await database.read(left)) == before
    assert await database.read(heads) == [(2, 1, 1)]
    engine.writer.clock = lambda: later / 1000
    await finish(engine, tuple(found))
    assert EXPIRE not in [kind for kind, _ in await database.read(left)]
    # Delivered, expired, and woken: one number each.
    assert await database.read(heads) == [(5, 2, 2)]
    assert await database.read(state_of, offer) == EXPIRED


def state_of(connection: Connection, post: Post) -> int | None:
    return connection.scalar(select(notifications.c.state).where(notifications.c.uuid == post.content.id))


async def test_an_edit_that_was_under_way_ends_with_the_notification(
    engine: Engine, database: Database
) -> None:
    post = engine.post(*MANY)
    await engine.store(post)
    edited = await engine.writer.begin(Edit(1, None, post.content.id, {"title": "new"}))
    rest = (await engine.writer.advance(Advance(edited.due))).rest
    withdrawn = await engine.writer.begin(Withdrawal(1, None, post.content.id))
    await finish(engine, withdrawn.due)
    before = await database.read(heads)
    await finish(engine, rest)
    assert await database.read(heads) == before == [(3, 0, 0)] * STEP + [(2, 0, 0)] * 50
    assert await database.read(state_of, post) == UNSENT


def snooze_all(connection: Connection) -> None:
    """Snooze all items that are not snoozed."""
    awake = items.c.snoozed_until.is_(None)
    for key, user_id in connection.execute(
        select(items.c.notification_id, items.c.user_id).where(awake).order_by(items.c.notification_id)
    ).all():
        wake = {"due_at": LATER, "kind": WAKE, "notification_id": key, "user_id": user_id}
        connection.execute(insert(due_work).values(wake))
    connection.execute(update(items).where(awake).values(snoozed_until=LATER))


def statements_of(connection: Connection, work: Work) -> list[str]:
    """Do the work in one transaction, and return the statements that it took."""
    executed: list[str] = []
    if connection.dialect.name == "sqlite":
        driver_of(connection).set_trace_callback(executed.append)
    else:
        event.listen(connection, "before_cursor_execute", lambda *given: executed.append(given[2]))
    commit(connection, [work], LATER, True, ())
    if connection.dialect.name == "sqlite":
        driver_of(connection).set_trace_callback(None)
    return executed


@pytest.mark.parametrize("kind", [DELIVER, EXPIRE, WAKE])
async def test_many_small_pieces_take_as_many_statements_as_few(
    engine: Engine, database: Database, kind: int
) -> None:
    # Powers of two: a prepared statement on SQLite takes no other number of rows.
    for number in (2, 16):
        posts = [engine.post(f"user {one}") for one in range(number)]
        if kind == EXPIRE:
            posts = [
                post._replace(content=post.content._replace(expires_at=LATER), options=Options())
                for post in posts
            ]
        elif kind == DELIVER:
            posts = [post._replace(options=Options(deliver_at=LATER, ttl=60)) for post in posts]
        await engine.store(*posts)
        if kind == WAKE:
            await database.write(snooze_all)
    found = await database.read(overdue, LATER)
    assert len(found) == 18
    few = await database.write(statements_of, Advance(tuple(found[:2])))
    many = await database.write(statements_of, Advance(tuple(found[2:])))
    assert len(many) == len(few)
    assert await database.read(overdue, LATER) == []


@pytest.mark.parametrize("deliver_at", [None, 2 * LATER], ids=["at once", "scheduled"])
@pytest.mark.parametrize("same", [True, False], ids=["one key", "a key each"])
async def test_a_batch_with_collapse_keys_takes_as_many_statements_for_many_as_for_few(
    engine: Engine, database: Database, deliver_at: int | None, same: bool
) -> None:
    def batch(number: int) -> Work:
        posts = [
            engine.post("ada")._replace(
                options=Options(deliver_at=deliver_at, collapse_key="k" if same else f"k{one}")
            )
            for one in range(number)
        ]
        return Submission(tuple(posts), "")

    await engine.user()
    taken = []
    # Twice each: the second batch replaces the first one. SQLite inserts rows by powers of two.
    for number in (5, 65):
        await database.write(statements_of, batch(number))
        taken.append(len(await database.write(statements_of, batch(number))))
    assert taken[0] == taken[1]


async def test_posts_that_expire_share_the_statements_of_their_transaction(
    engine: Engine, database: Database
) -> None:
    posts = [engine.post(f"user {one}") for one in range(18)]
    await engine.store(*posts)
    offers = [
        post._replace(
            content=post.content._replace(id=f"offer {number}", expires_at=LATER + 1), options=Options()
        )
        for number, post in enumerate(posts)
    ]
    few = await database.write(statements_of, Submission(tuple(offers[:2]), "{}"))
    many = await database.write(statements_of, Submission(tuple(offers[2:]), "{}"))
    assert len(many) == len(few)
    assert await database.read(left) == [(EXPIRE, LATER + 1)] * 18


async def test_pieces_that_are_too_many_for_a_step_go_on_where_it_ended(
    engine: Engine, database: Database
) -> None:
    crowd = MANY[: STEP - 100]
    posts = [engine.post(*crowd) for _ in range(3)]
    await engine.store(*posts)
    due = [
        (await engine.writer.begin(Edit(1, None, post.content.id, {"title": "new"}))).due[0] for post in posts
    ]
    rest = (await engine.writer.advance(Advance(tuple(due)))).rest
    last = (await database.read(heads))[99:101]
    assert last == [(5, 3, 3), (4, 3, 3)]
    assert {one.key: one.after > 0 for one in rest} == {due[1].key: True, due[2].key: False}
    await finish(engine, rest)
    assert await database.read(heads) == [(6, 3, 3)] * len(crowd)
    assert await database.read(left) == []


@pytest.mark.parametrize("renotify", [False, True])
async def test_two_edits_of_a_notification_take_two_numbers_though_they_share_a_transaction(
    engine: Engine, database: Database, renotify: bool
) -> None:
    post = engine.post("ada", "bob")
    await engine.store(post)
    edit = Edit(1, None, post.content.id, {"title": "new"}, renotify)
    due = [(await engine.writer.begin(edit)).due[0] for _ in range(2)]
    await finish(engine, tuple(due))
    assert await database.read(heads) == [(3, 1, 1)] * 2
    assert await database.read(left) == []


async def test_the_items_of_a_user_expire_in_the_order_of_their_times(
    engine: Engine, database: Database
) -> None:
    posts = [
        post._replace(content=post.content._replace(expires_at=LATER - number), options=Options())
        for number, post in enumerate([engine.post("ada") for _ in range(3)])
    ]
    await engine.store(*posts)
    found = await database.read(overdue, LATER)
    await database.write(
        lambda connection: commit(connection, [Advance(tuple(found))], LATER, True, ()) and None
    )

    def order(connection: Connection) -> list[int]:
        return list(connection.scalars(select(items.c.created_seq).order_by(items.c.seq)))

    assert await database.read(order) == [3, 2, 1]
