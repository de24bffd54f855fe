"""Two processes do what excludes the other: whichever is first, nobody is told one thing and has another.

Each pair is forced to meet in both orders: one transaction is held within, until the other waits for it.
"""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import Connection, select

from gateway.auth import users
from gateway.auth.erasure import erase_some
from gateway.database.database import Database, open_database
from gateway.database.models import DELIVER, DELIVERED, EXPIRE, UNSENT, due_work, items, notifications
from gateway.database.models import users as users_table
from gateway.errors import PreconditionFailed
from gateway.store.arrivals import Options, Post
from gateway.store.changes import Changed, ItemUpdate
from gateway.store.due_steps import Advance, Advanced
from gateway.store.due_work import SELECT, Due
from gateway.store.lifecycle import Begun, Edit, Withdrawal
from gateway.store.refusals import AlreadyDelivered, NotificationEnded
from gateway.store.transaction import Submission
from tests.support.databases import settings_for
from tests.support.engine import Engine
from tests.support.transactions import batch, meet

SOON, LATER = 1_000, 2_000
"""Times in ms: the clock of these tests stands before, at, or after them."""


@pytest.fixture
async def opened(postgres_url: str) -> AsyncIterator[Database]:
    async with open_database(settings_for(postgres_url)) as database:
        yield database


@pytest.fixture
async def engine(opened: Database, postgres_url: str) -> AsyncIterator[Engine]:
    engine = Engine(settings_for(postgres_url), opened)
    engine.writer.clock = lambda: 0
    async with engine.writer.running():
        yield engine


async def scheduled(engine: Engine, *to: str) -> Post:
    post = engine.post(*to)._replace(options=Options(deliver_at=SOON))
    await engine.store(post)
    return post


async def due(opened: Database, post: Post, kind: int) -> Advance:
    """Return the work of this kind as the schedule has found it."""

    def find(connection: Connection) -> Due:
        these = (notifications.c.uuid == post.content.id, due_work.c.kind == kind)
        row = connection.execute(SELECT.where(*these)).one()
        return Due(*row)

    return Advance((await opened.read(find),))


async def finish(engine: Engine, begun: object) -> None:
    assert isinstance(begun, Begun), begun
    rest = begun.due
    while rest:
        rest = (await engine.writer.advance(Advance(rest))).rest


async def heads(opened: Database) -> list[tuple[int, int, int]]:
    """Return the number, the unread and the unseen count of everybody."""
    columns = (users_table.c.last_seq, users_table.c.unread, users_table.c.unseen)

    def read(connection: Connection) -> list[tuple[int, int, int]]:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(users_table.c.id))]

    return await opened.read(read)


async def reasons(opened: Database) -> list[str | None]:
    """Return why each item was deleted, in the order of their arrival; None for one that is there."""
    there = select(items.c.deleted_reason).order_by(items.c.created_seq)
    return await opened.read(lambda connection: list(connection.scalars(there)))


async def owners(opened: Database) -> list[int]:
    """Return the ids of the users who have an item."""
    return await opened.read(lambda connection: list(connection.scalars(select(items.c.user_id))))


@pytest.mark.parametrize("only_scheduled", [False, True])
async def test_what_is_cancelled_before_its_delivery_reaches_nobody(
    engine: Engine, opened: Database, only_scheduled: bool
) -> None:
    post = await scheduled(engine, "ada")
    cancel = batch(Withdrawal(1, None, post.content.id, only_scheduled))
    deliver = batch(await due(opened, post, DELIVER), now=SOON)
    (cancelled,), (delivered,) = await meet(opened, cancel, "UPDATE notifications", deliver)
    assert (cancelled.due, delivered) == ((), Advanced(()))
    assert await reasons(opened) == []
    assert await heads(opened) == [(0, 0, 0)]


async def test_what_is_cancelled_during_its_delivery_is_taken_back(engine: Engine, opened: Database) -> None:
    post = await scheduled(engine, "ada")
    deliver = batch(await due(opened, post, DELIVER), now=SOON)
    cancel = batch(Withdrawal(1, None, post.content.id))
    _, (begun,) = await meet(opened, deliver, "INSERT INTO items", cancel)
    assert begun.state == UNSENT
    await finish(engine, begun)
    assert await reasons(opened) == ["unsent"]
    assert await heads(opened) == [(2, 0, 0)]


async def test_what_may_be_cancelled_only_while_scheduled_stays_once_it_is_delivered(
    engine: Engine, opened: Database
) -> None:
    post = await scheduled(engine, "ada")
    deliver = batch(await due(opened, post, DELIVER), now=SOON)
    cancel = batch(Withdrawal(1, None, post.content.id, scheduled=True))
    _, (refused,) = await meet(opened, deliver, "INSERT INTO items", cancel)
    assert isinstance(refused, PreconditionFailed)
    assert await heads(opened) == [(1, 1, 1)]


async def test_what_is_put_off_before_its_delivery_waits_for_the_new_time(
    engine: Engine, opened: Database
) -> None:
    post = await scheduled(engine, "ada")
    put_off = batch(Edit(1, None, post.content.id, {"deliver_at": LATER}))
    deliver = batch(await due(opened, post, DELIVER), now=SOON)
    await meet(opened, put_off, "UPDATE notifications", deliver)
    assert await heads(opened) == [(0, 0, 0)]
    await opened.write(batch(await due(opened, post, DELIVER), now=LATER))
    assert await heads(opened) == [(1, 1, 1)]


async def test_what_is_put_off_during_its_delivery_is_refused(engine: Engine, opened: Database) -> None:
    post = await scheduled(engine, "ada")
    deliver = batch(await due(opened, post, DELIVER), now=SOON)
    put_off = batch(Edit(1, None, post.content.id, {"deliver_at": LATER}))
    _, (refused,) = await meet(opened, deliver, "INSERT INTO items", put_off)
    assert isinstance(refused, AlreadyDelivered)
    assert await heads(opened) == [(1, 1, 1)]


async def test_two_processes_that_find_the_same_work_deliver_it_once(
    engine: Engine, opened: Database
) -> None:
    post = await scheduled(engine, "ada", "bob")
    deliver = batch(await due(opened, post, DELIVER), now=SOON)
    await meet(opened, deliver, "INSERT INTO items", deliver)
    assert await heads(opened) == [(1, 1, 1)] * 2


@pytest.mark.parametrize("renotify", [False, True])
async def test_an_edit_before_unsending_ends_as_unsent(
    engine: Engine, opened: Database, renotify: bool
) -> None:
    post = engine.post("ada", "bob")
    await engine.store(post)
    change = batch(Edit(1, None, post.content.id, {"title": "new"}, renotify))
    unsend = batch(Withdrawal(1, None, post.content.id))
    (edited,), (begun,) = await meet(opened, change, "UPDATE notifications", unsend)
    for one in (begun, edited):
        await finish(engine, one)
    assert await reasons(opened) == ["unsent"] * 2
    assert await heads(opened) == [(2, 0, 0)] * 2


async def test_an_edit_after_unsending_is_refused(engine: Engine, opened: Database) -> None:
    post = engine.post("ada")
    await engine.store(post)
    unsend = batch(Withdrawal(1, None, post.content.id))
    change = batch(Edit(1, None, post.content.id, {"title": "new"}))
    (begun,), (refused,) = await meet(opened, unsend, "UPDATE notifications", change)
    assert isinstance(refused, NotificationEnded)
    await finish(engine, begun)
    assert await heads(opened) == [(2, 0, 0)]


async def offer(engine: Engine) -> Post:
    """Store a post that expires soon."""
    post = engine.post("ada")
    post = post._replace(content=post.content._replace(expires_at=SOON), options=Options())
    await engine.store(post)
    return post


async def test_an_item_that_expires_while_it_is_read_leaves_the_counts_once(
    engine: Engine, opened: Database
) -> None:
    ada = await engine.user()
    post = await offer(engine)
    read = batch(ItemUpdate(ada.id, (post.content.id,), read=True), now=SOON)
    expire = batch(await due(opened, post, EXPIRE), now=SOON)
    await meet(opened, read, "UPDATE items", expire)
    assert await reasons(opened) == ["expired"]
    assert await heads(opened) == [(3, 0, 0)]


async def test_an_item_that_is_read_while_it_expires_leaves_the_counts_once(
    engine: Engine, opened: Database
) -> None:
    ada = await engine.user()
    post = await offer(engine)
    expire = batch(await due(opened, post, EXPIRE), now=SOON)
    read = batch(ItemUpdate(ada.id, (post.content.id,), read=True), now=SOON)
    _, (changed,) = await meet(opened, expire, "UPDATE items", read)
    assert isinstance(changed, Changed)
    assert changed.items == []
    assert await reasons(opened) == ["expired"]
    assert await heads(opened) == [(2, 0, 0)]


async def test_a_longer_life_that_comes_before_the_end_is_kept(engine: Engine, opened: Database) -> None:
    await engine.user()
    post = await offer(engine)
    expire = batch(await due(opened, post, EXPIRE), now=SOON)
    longer = batch(Edit(1, None, post.content.id, {"expires_at": LATER}))
    (begun,), _ = await meet(opened, longer, "UPDATE notifications", expire)
    await finish(engine, begun)
    assert await reasons(opened) == [None]
    await opened.write(batch(await due(opened, post, EXPIRE), now=LATER))
    assert await reasons(opened) == ["expired"]
    assert await heads(opened) == [(3, 0, 0)]


async def test_of_two_posts_of_one_key_at_once_the_second_replaces_the_first(
    engine: Engine, opened: Database
) -> None:
    await engine.user()
    one, other = (engine.post()._replace(options=Options(collapse_key="k")) for _ in range(2))
    posts = [batch(Submission((post,), "{}")) for post in (one, other)]
    await meet(opened, posts[0], "INSERT INTO items", posts[1])
    assert await reasons(opened) == ["replaced", None]
    assert await heads(opened) == [(3, 1, 1)]


async def test_a_user_who_is_erased_before_a_delivery_gets_nothing_of_it(
    engine: Engine, opened: Database
) -> None:
    ada = await engine.user()
    post = await scheduled(engine, "ada", "bob")
    await opened.write(users.release_user, "ada", 0)
    deliver = batch(await due(opened, post, DELIVER), now=SOON)
    await meet(opened, lambda to: erase_some(to, ada.id), "DELETE FROM scheduled_recipients", deliver)
    assert await owners(opened) == [(await engine.user("bob")).id]


async def test_a_user_who_is_erased_during_a_delivery_loses_it_again(
    engine: Engine, opened: Database
) -> None:
    ada = await engine.user()
    post = await scheduled(engine, "ada", "bob")
    await opened.write(users.release_user, "ada", 0)
    deliver = batch(await due(opened, post, DELIVER), now=SOON)
    await meet(opened, deliver, "INSERT INTO items", lambda to: erase_some(to, ada.id))
    assert await owners(opened) == [(await engine.user("bob")).id]
    states = select(notifications.c.state)
    assert await opened.read(lambda to: list(to.scalars(states))) == [DELIVERED]
