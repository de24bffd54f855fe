"""Answers in the database: one for each item, whoever is first."""

import asyncio
import json

import pytest
from sqlalchemy import Connection, update

from gateway.database.models import notifications
from gateway.errors import GatewayError, Invalid, NotFound
from gateway.protocol.times import timestamp
from gateway.store.answers import Act, find_answers, find_sender
from gateway.store.changes import Changed, ItemUpdate
from gateway.store.inbox import find_item
from gateway.store.log import head
from gateway.store.refusals import AlreadyAnswered, UnknownAction
from gateway.store.snoozes import Snooze
from tests.support.actions import set_actions
from tests.support.engine import Engine

NOON = 1_800_000_000_000


async def posted(engine: Engine, *to: str) -> str:
    """Post a notification with the actions of `set_actions`, and return its id."""
    post = engine.post(*to)
    await engine.store(post)
    await engine.database.write(set_actions, post.content.id)
    return post.content.id


async def test_an_answer_is_stored_with_the_next_number_and_the_item_is_read(engine: Engine) -> None:
    user = await engine.user()
    one = await posted(engine)
    engine.writer.clock = lambda: NOON / 1000
    changed = await engine.writer.change(Act(user.id, one, "say", "So be it"))
    (item,) = changed.items
    assert (item.seq, item.read_at, changed.counts[:3]) == (2, NOON, (2, 0, 0))
    assert json.loads(item.answer or "") == {"action": "say", "text": "So be it", "at": timestamp(NOON)}
    assert await engine.database.read(find_item, user.id, one) == item


async def test_a_read_item_keeps_its_time_and_an_answered_one_can_be_unread_and_deleted(
    engine: Engine,
) -> None:
    user = await engine.user()
    one = await posted(engine)
    before = (await engine.writer.change(ItemUpdate(user.id, (one,), read=True))).items[0]
    engine.writer.clock = lambda: NOON / 1000
    answered = (await engine.writer.change(Act(user.id, one, "yes"))).items[0]
    assert answered.read_at == before.read_at
    for change in (ItemUpdate(user.id, (one,), read=False), ItemUpdate(user.id, (one,), deleted=True)):
        assert (await engine.writer.change(change)).items[0].answer == answered.answer


@pytest.mark.parametrize(
    ("action", "text", "refusal", "detail"),
    [
        ("no", None, UnknownAction, "The item has the actions yes, say: send one of them."),
        ("", None, UnknownAction, "The item has the actions yes, say: send one of them."),
        ("say", None, Invalid, "text: it is required: the action has a reply"),
        ("yes", "But", Invalid, "text: the action has no reply: leave it out"),
    ],
)
async def test_an_answer_that_the_item_does_not_offer_is_refused(
    engine: Engine, action: str, text: str | None, refusal: type[GatewayError], detail: str
) -> None:
    user = await engine.user()
    one = await posted(engine)
    with pytest.raises(refusal) as refused:
        await engine.writer.change(Act(user.id, one, action, text))
    assert refused.value.detail == detail
    found = await engine.database.read(head, user.id)
    assert found is not None
    assert found[1][:3] == (1, 1, 1)


async def test_an_item_without_actions_has_none(engine: Engine) -> None:
    user = await engine.user()
    post = engine.post()
    await engine.store(post)
    with pytest.raises(UnknownAction, match="The item has no actions"):
        await engine.writer.change(Act(user.id, post.content.id, "yes"))


async def test_a_second_answer_is_refused_even_if_it_is_the_same(engine: Engine) -> None:
    user = await engine.user()
    one = await posted(engine)
    await engine.writer.change(Act(user.id, one, "yes"))
    for action in ("yes", "say", "no"):
        with pytest.raises(AlreadyAnswered):
            await engine.writer.change(Act(user.id, one, action))
    found = await engine.database.read(head, user.id)
    assert found is not None
    assert found[1].seq == 2


async def test_missing_deleted_and_expired_items_cannot_be_answered(engine: Engine) -> None:
    user, bob = await engine.user(), await engine.user("bob")
    one, his, late = await posted(engine), await posted(engine, "bob"), await posted(engine)

    def expire(connection: Connection) -> None:
        connection.execute(update(notifications).where(notifications.c.uuid == late).values(expires_at=NOON))

    await engine.database.write(expire)
    await engine.writer.change(ItemUpdate(user.id, (one,), deleted=True))
    engine.writer.clock = lambda: NOON / 1000
    for uuid in (one, his, late, "00000000-0000-7000-8000-00000000ffff"):
        with pytest.raises(NotFound) as refused:
            await engine.writer.change(Act(user.id, uuid, "yes"))
        assert refused.value.code == "not_found"
    engine.writer.clock = lambda: (NOON - 1) / 1000
    assert (await engine.writer.change(Act(user.id, late, "yes"))).items
    assert (await engine.writer.change(Act(bob.id, his, "yes"))).items


async def test_a_snoozed_item_can_be_answered_and_stays_snoozed(engine: Engine) -> None:
    user = await engine.user()
    one = await posted(engine)
    await engine.writer.change(Snooze(user.id, (one,), NOON))
    (item,) = (await engine.writer.change(Act(user.id, one, "yes"))).items
    assert (item.snoozed_until, item.read_at is None) == (NOON, False)


async def test_of_two_answers_at_once_in_two_processes_exactly_one_wins(
    engines: tuple[Engine, Engine],
) -> None:
    user = await engines[0].user()
    for _ in range(10):
        one = await posted(engines[0])
        outcomes = await asyncio.gather(
            *(engine.writer.change(Act(user.id, one, "say", name)) for engine in engines for name in "ab"),
            return_exceptions=True,
        )
        (won,) = [outcome for outcome in outcomes if isinstance(outcome, Changed)]
        assert sum(isinstance(outcome, AlreadyAnswered) for outcome in outcomes) == 3
        item = await engines[0].database.read(find_item, user.id, one)
        assert item is not None
        assert item.answer == won.items[0].answer


async def test_the_answers_of_a_notification_are_listed_by_recipient_deleted_items_included(
    engine: Engine,
) -> None:
    users = [await engine.user(sub) for sub in ("ada", "bob", "cy", "dan")]
    one = await posted(engine, "ada", "bob", "cy", "dan")
    other = await posted(engine, "ada")
    for user in (users[3], users[0], users[1]):
        await engine.writer.change(Act(user.id, one, "say", user.sub))
    await engine.writer.change(Act(users[0].id, other, "yes"))
    await engine.writer.change(ItemUpdate(users[1].id, (one,), deleted=True))
    sender = await engine.database.read(find_sender, one)
    assert sender is not None
    assert sender.service_id == 1
    found = await engine.database.read(find_answers, sender.key, 0, 10)
    assert [(answer.sub, json.loads(answer.answer)["text"]) for answer in found] == [
        ("ada", "ada"),
        ("bob", "bob"),
        ("dan", "dan"),
    ]
    assert await engine.database.read(find_answers, sender.key, 0, 1) == found[:1]
    assert await engine.database.read(find_answers, sender.key, found[0].user_id, 10) == found[1:]
    assert await engine.database.read(find_sender, "00000000-0000-7000-8000-00000000ffff") is None
