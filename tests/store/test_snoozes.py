"""Snoozed items in the database: what leaves, what comes back, and what wakes when."""

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from gateway.auth.limits.token_buckets import Buckets
from gateway.database.database import Database
from gateway.database.models import collapse_keys, due_work, items, notifications
from gateway.errors import RateLimited
from gateway.protocol.items import Item
from gateway.store.arrivals import Options
from gateway.store.changes import CHUNK, Changed, ItemUpdate, ReadUpTo, Seen
from gateway.store.collapse_keys import MAX_ITEMS
from gateway.store.due_steps import Advance
from gateway.store.entries import Entry
from gateway.store.inbox import FIRST, Listing, Query, find_item, list_items
from gateway.store.log import head, read_after
from gateway.store.snoozes import Snooze
from gateway.store.writer import Writer
from tests.support.actions import overdue, wakes
from tests.support.engine import Engine

NOON = 1_800_000_000_000


async def stored(engine: Engine, number: int, *to: str) -> list[str]:
    """Post so many notifications, and return their ids."""
    posts = [engine.post(*(to or ("ada",)), title=str(one)) for one in range(1, number + 1)]
    await engine.store(*posts)
    return [post.content.id for post in posts]


async def item_of(engine: Engine, user_id: int, uuid: str) -> Item:
    item = await engine.database.read(find_item, user_id, uuid)
    assert item is not None
    return item


async def counts_of(engine: Engine, user_id: int) -> tuple[int, int, int]:
    found = await engine.database.read(head, user_id)
    assert found is not None
    return found[1].seq, found[1].unread, found[1].unseen


async def page(engine: Engine, user_id: int, **query: Any) -> Listing:
    listing = await engine.database.read(list_items, user_id, Query(**query))
    assert listing is not None
    return listing


def titles(listing: Listing) -> list[str]:
    return [
        *(json.loads(text)["title"] for text in listing.encoded),
        *(item.content.title for item in listing.items),
    ]


async def wake_due(engine: Engine, now: int) -> list[Entry]:
    """Do what is due at a time, as the schedule does, and return its entries."""
    due = await engine.database.read(overdue, now)
    engine.writer.clock = lambda: now / 1000
    if due:
        await engine.writer.advance(Advance(tuple(due)))
        return engine.announced[-1].entries
    return []


async def test_a_snoozed_item_leaves_the_inbox_and_the_counts_and_is_due(engine: Engine) -> None:
    user = await engine.user()
    one, other = await stored(engine, 2)
    changed = await engine.writer.change(Snooze(user.id, (one,), NOON))
    assert (changed.items[0].snoozed_until, changed.items[0].seq) == (NOON, 3)
    assert await counts_of(engine, user.id) == (3, 1, 1)
    assert titles(await page(engine, user.id)) == ["2"]
    assert titles(await page(engine, user.id, snoozed=True)) == ["1"]
    assert await engine.database.read(wakes) == [(one, user.id, NOON)]
    assert (await item_of(engine, user.id, other)).snoozed_until is None


async def test_snoozing_again_changes_the_time_and_the_same_time_changes_nothing(engine: Engine) -> None:
    user = await engine.user()
    (one,) = await stored(engine, 1)
    for until in (NOON, NOON + 5, NOON + 5):
        await engine.writer.change(Snooze(user.id, (one,), until))
    assert await counts_of(engine, user.id) == (3, 0, 0)
    assert await engine.database.read(wakes) == [(one, user.id, NOON + 5)]


@pytest.mark.parametrize("state", [{}, {"read": True}, {"archived": True}, {"read": True, "archived": True}])
async def test_an_item_whose_snooze_is_ended_is_as_it_was(engine: Engine, state: dict[str, bool]) -> None:
    user = await engine.user()
    (one,) = await stored(engine, 1)
    if state:
        await engine.writer.change(ItemUpdate(user.id, (one,), **state))  # type: ignore[arg-type] # both are bool
    before, counts = await item_of(engine, user.id, one), await counts_of(engine, user.id)
    await engine.writer.change(Snooze(user.id, (one,), NOON))
    assert (await page(engine, user.id, archived=True)).items == []
    await engine.writer.change(Snooze(user.id, (one,), None))
    assert await item_of(engine, user.id, one) == before._replace(seq=before.seq + 2)
    assert await counts_of(engine, user.id) == (counts[0] + 2, *counts[1:])
    assert await engine.database.read(wakes) == []


@pytest.mark.parametrize(
    "change",
    [{"archived": True}, {"deleted": True}, {"deleted": True, "reason": "retention"}],
    ids=["archived", "deleted", "expired"],
)
async def test_an_archived_or_deleted_item_is_not_snoozed_and_does_not_wake(
    engine: Engine, change: dict[str, Any]
) -> None:
    user = await engine.user()
    one, other = await stored(engine, 2)
    await engine.writer.change(Snooze(user.id, (one, other), NOON))
    await engine.writer.change(ItemUpdate(user.id, (one,), **change))
    assert (await item_of(engine, user.id, one)).snoozed_until is None
    assert await engine.database.read(wakes) == [(other, user.id, NOON)]
    assert await counts_of(engine, user.id) == (4, 0, 0)


async def test_other_changes_of_a_snoozed_item_leave_it_snoozed(engine: Engine) -> None:
    user = await engine.user()
    (one,) = await stored(engine, 1)
    await engine.writer.change(Snooze(user.id, (one,), NOON))
    await engine.writer.change(ItemUpdate(user.id, (one,), read=True))
    await engine.writer.change(ItemUpdate(user.id, (one,), read=False, archived=False))
    await engine.writer.change(Seen(user.id, 1))
    # Reading all concerns what the user can see.
    assert (await engine.writer.change(ReadUpTo(user.id, 10))).items == []
    item = await item_of(engine, user.id, one)
    assert (item.snoozed_until, item.read_at) == (NOON, None)
    assert await engine.database.read(wakes) == [(one, user.id, NOON)]
    await engine.writer.change(Snooze(user.id, (one,), None))
    assert await counts_of(engine, user.id) == (5, 1, 0)


async def test_snoozing_can_set_read_in_the_same_step(engine: Engine) -> None:
    user = await engine.user()
    (one,) = await stored(engine, 1)
    changed = await engine.writer.change(Snooze(user.id, (one,), NOON, read=True))
    assert changed.items[0].read_at is not None
    assert changed.counts.seq == 2


async def test_deleted_and_unknown_items_are_not_snoozed(engine: Engine) -> None:
    user, bob = await engine.user(), await engine.user("bob")
    one, other = await stored(engine, 2)
    (his,) = await stored(engine, 1, "bob")
    await engine.writer.change(ItemUpdate(user.id, (one,), deleted=True))
    changed = await engine.writer.change(Snooze(user.id, (one, other, his), NOON))
    assert [item.content.id for item in changed.items] == [other]
    assert await engine.database.read(wakes) == [(other, user.id, NOON)]
    assert (await item_of(engine, bob.id, his)).snoozed_until is None


async def test_many_items_are_snoozed_in_steps(engine: Engine) -> None:
    user = await engine.user()
    ids = await stored(engine, CHUNK + 3)
    await engine.writer.change(Snooze(user.id, (*ids, *ids), NOON))
    assert await counts_of(engine, user.id) == (CHUNK + 5, 0, 0)
    assert len(await engine.database.read(wakes)) == CHUNK + 3


async def test_snoozing_counts_towards_the_budget_of_changes(engine: Engine) -> None:
    user = await engine.user()
    (one,) = await stored(engine, 1)
    spent = Buckets("tests", 1, 1)
    spent.charge(user.id, 100)
    writer = Writer(engine.writer._database, engine.announce, changes=spent)
    async with writer.running():
        with pytest.raises(RateLimited):
            await writer.change(Snooze(user.id, (one,), NOON))


async def test_items_wake_at_their_time_each_with_a_number_of_its_own(engine: Engine) -> None:
    user = await engine.user()
    engine.recent.follow(user.id)
    ids = await stored(engine, 4)
    await engine.writer.change(ItemUpdate(user.id, (ids[0],), read=True, archived=True))
    await engine.writer.change(Snooze(user.id, (ids[0],), NOON + 1))
    await engine.writer.change(Snooze(user.id, (ids[1],), NOON))
    await engine.writer.change(Snooze(user.id, (ids[2],), NOON + 2))
    await engine.writer.change(Seen(user.id, 8))
    assert await counts_of(engine, user.id) == (8, 1, 0)
    entries = await wake_due(engine, NOON + 1)
    # The one whose time came first is first; the third is not due, and the fourth was not snoozed.
    assert [(entry.items[0].content.id, entry.fresh) for entry in entries] == [
        (ids[1], True),
        (ids[0], True),
    ]
    assert [(entry.counts.seq, entry.counts.unread, entry.counts.unseen) for entry in entries] == [
        (9, 2, 1),
        (10, 3, 2),
    ]
    assert await counts_of(engine, user.id) == (10, 3, 2)
    for number, uuid in ((9, ids[1]), (10, ids[0])):
        item = await item_of(engine, user.id, uuid)
        assert item[1:7] == (number, number, None, None, None, None)
    assert titles(await page(engine, user.id)) == ["1", "2", "4"]
    assert await engine.database.read(wakes) == [(ids[2], user.id, NOON + 2)]
    replay = await engine.database.read(read_after, user.id, 8)
    assert replay is not None
    assert [(entry.counts.seq, entry.fresh) for entry in replay.entries] == [(9, True), (10, True)]
    # Nothing is left to wake until the next one is due.
    assert await wake_due(engine, NOON + 1) == []


async def test_what_was_snoozed_anew_unsnoozed_or_deleted_meanwhile_does_not_wake(engine: Engine) -> None:
    user = await engine.user()
    later, ended, gone = await stored(engine, 3)
    await engine.writer.change(Snooze(user.id, (later, ended, gone), NOON))
    await engine.writer.change(Snooze(user.id, (later,), NOON + 60_000))
    await engine.writer.change(Snooze(user.id, (ended,), None))
    await engine.writer.change(ItemUpdate(user.id, (gone,), deleted=True))
    assert await wake_due(engine, NOON) == []
    assert await counts_of(engine, user.id) == (7, 1, 1)


async def test_a_wake_that_another_process_found_before_a_change_leaves_the_item_as_it_is(
    engine: Engine,
) -> None:
    user = await engine.user()
    later, ended, gone = await stored(engine, 3)
    await engine.writer.change(Snooze(user.id, (later, ended, gone), NOON))
    due = tuple(await engine.database.read(overdue, NOON))
    assert len(due) == 3
    await engine.writer.change(Snooze(user.id, (later,), NOON + 60_000))
    await engine.writer.change(Snooze(user.id, (ended,), None))
    await engine.writer.change(ItemUpdate(user.id, (gone,), deleted=True))
    engine.writer.clock = lambda: NOON / 1000
    await engine.writer.advance(Advance(due))
    assert await counts_of(engine, user.id) == (7, 1, 1)
    assert await engine.database.read(wakes) == [(later, user.id, NOON + 60_000)]


async def test_snoozing_and_deleting_at_once_in_two_processes_leaves_a_deleted_item(
    engines: tuple[Engine, Engine],
) -> None:
    here, there = engines
    user = await here.user()
    for one in await stored(here, 10):
        await asyncio.gather(
            here.writer.change(Snooze(user.id, (one,), NOON)),
            there.writer.change(ItemUpdate(user.id, (one,), deleted=True)),
        )
        item = await item_of(here, user.id, one)
        assert (item.snoozed_until, item.deleted_at is None) == (None, False)
    assert await here.database.read(wakes) == []
    assert (await counts_of(here, user.id))[1:] == (0, 0)


# --- pages --------------------------------------------------------------------------------------------------


async def walk(engine: Engine, user_id: int, **query: Any) -> list[list[str]]:
    """Return the titles of each page of what is snoozed."""
    pages, after = [], FIRST
    while True:
        listing = await page(engine, user_id, snoozed=True, after=after, **query)
        pages.append(titles(listing))
        if listing.next is None:
            return pages
        assert not isinstance(listing.next, int)
        after = listing.next


async def test_snoozed_items_are_listed_soonest_first_in_pages(engine: Engine) -> None:
    user = await engine.user()
    ids = await stored(engine, 7)
    # The fourth to the sixth wake at once: then the order of the inbox's log decides.
    for number, until in enumerate((30, 20, 10, 15, 15, 15)):
        await engine.writer.change(Snooze(user.id, (ids[number],), NOON + until))
    order = ["3", "4", "5", "6", "2", "1"]
    assert await walk(engine, user.id) == [order]
    assert await walk(engine, user.id, limit=6) == [order]
    for limit in (1, 2, 4):
        assert await walk(engine, user.id, limit=limit) == [
            order[at : at + limit] for at in range(0, 6, limit)
        ]


async def test_a_page_of_a_category_searches_a_bounded_number_of_snoozed_items(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.inbox.MAX_SCANNED_SEQS", 4)
    user = await engine.user()
    ids = await stored(engine, 10)
    for number, one in enumerate(ids):
        await engine.writer.change(Snooze(user.id, (one,), NOON + number))

    def classify(connection: Connection) -> None:
        some = notifications.c.uuid.in_([ids[1], ids[2], ids[9]])
        connection.execute(notifications.update().where(some).values(category="orders"))

    await engine.database.write(classify)
    assert await walk(engine, user.id, category="orders") == [["2", "3"], [], ["10"]]
    assert await walk(engine, user.id, category="orders", limit=1) == [["2"], ["3"], ["10"], []]
    assert await walk(engine, user.id, category="none") == [[], [], []]


async def test_erasing_a_notification_takes_what_wakes_along(engine: Engine) -> None:
    user = await engine.user()
    (one,) = await stored(engine, 1)
    changed: Changed = await engine.writer.change(Snooze(user.id, (one,), NOON))
    assert changed.items

    def erase(connection: Connection) -> int:
        connection.execute(items.delete())
        connection.execute(notifications.delete())
        return len(connection.execute(select(due_work)).all())

    assert await engine.database.write(erase) == 0


async def test_of_many_items_of_a_key_that_wake_at_once_few_are_replaced_by_the_next(
    engine: Engine, database: Database
) -> None:
    user = await engine.user()
    posts = [engine.post()._replace(options=Options(collapse_key="k")) for _ in range(MAX_ITEMS + 3)]
    for post in posts:
        await engine.store(post)
        await engine.writer.change(ItemUpdate(user.id, (post.content.id,), archived=True))
    uuids = tuple(post.content.id for post in posts)
    await engine.writer.change(Snooze(user.id, uuids, NOON))
    await wake_due(engine, NOON)
    assert (await counts_of(engine, user.id))[1] == len(posts)

    def kept(connection: Connection) -> int:
        return connection.scalar(select(func.count()).select_from(collapse_keys)) or 0

    assert 1 < await database.read(kept) <= MAX_ITEMS
    await engine.store(engine.post()._replace(options=Options(collapse_key="k")))
    assert await database.read(kept) == 1
    assert (await counts_of(engine, user.id))[1] >= len(posts) - MAX_ITEMS + 1
