"""The size of messages: however long the items of a change are, no message of it exceeds 1 MiB."""

import json
from typing import Any

import pytest
from sqlalchemy import Connection, update

from gateway.api.notification import Notification, to_post
from gateway.auth.principals import Service
from gateway.database.models import notifications
from gateway.protocol.items import MAX_SEQ, Counts, Item
from gateway.protocol.times import LATEST_MS, encode_time
from gateway.protocol.wire import Message
from gateway.store.arrivals import Post
from gateway.store.changes import CHUNK, ItemUpdate, ReadUpTo
from gateway.store.entries import MAX_LISTED_BYTES, Entry, max_sent_bytes
from gateway.store.log import read_after
from gateway.store.snoozes import Snooze
from gateway.store.transaction import Change
from tests.support.engine import Engine
from tests.support.largest import ANSWER, FRACTIONS, WHOLE, largest

LIMIT = 2**20

SENDER = Service(1, "sender", frozenset({"notify"}), None, None)


def post_of(data: dict[str, Any], changes: dict[str, Any] | None = None) -> Post:
    return to_post(Notification.model_validate({"to": "ada", **largest(data)} | (changes or {})), SENDER, 0)


def item_of(data: dict[str, Any]) -> Item:
    """Return the largest item with this `data`, with every time that it may have."""
    content = post_of(data).content._replace(edited_at=LATEST_MS)
    action = {"action": "0" * 32, "text": ANSWER, "at": json.loads(encode_time(LATEST_MS))}
    answer = json.dumps(action, ensure_ascii=False, separators=(",", ":"))
    return Item(content, MAX_SEQ, MAX_SEQ, LATEST_MS, LATEST_MS, None, LATEST_MS, answer)


def sizes(message: Message) -> tuple[int, int]:
    """Return the bytes of a message as JSON, and as MessagePack without the header of its frame."""
    return len(message.payload), len(message.packed_frame) - 10


@pytest.mark.parametrize("data", [WHOLE, FRACTIONS], ids=["JSON", "MessagePack"])
def test_the_size_of_the_largest_item_is_bounded_closely(data: dict[str, Any]) -> None:
    item = item_of(data)
    one = max(sizes(Entry(1, Counts(MAX_SEQ, 0, 0, 0), [item] * 2).message))
    two = max(sizes(Entry(1, Counts(MAX_SEQ, 0, 0, 0), [item] * 3).message))
    assert 70_000 < two - one <= max_sent_bytes(item) < 105_000


@pytest.mark.parametrize("data", [WHOLE, FRACTIONS], ids=["JSON", "MessagePack"])
def test_a_message_of_the_largest_items_is_within_the_limit(data: dict[str, Any]) -> None:
    item = item_of(data)
    number = MAX_LISTED_BYTES // max_sent_bytes(item)
    counts = Counts(MAX_SEQ, MAX_SEQ, MAX_SEQ, 0)
    message = Entry(1, counts, [item] * number).message
    assert len(json.loads(message.payload)["items"]) == number
    assert max(sizes(message)) <= LIMIT
    assert max(sizes(Entry(1, counts, [item], fresh=True).message)) <= LIMIT


def test_a_tombstone_is_as_small_as_its_bound() -> None:
    item = item_of(WHOLE)._replace(deleted_at=LATEST_MS, deleted_reason="retention")
    one = len(Entry(1, Counts(1, 0, 0, 0), [item] * 2).message.payload)
    assert len(Entry(1, Counts(1, 0, 0, 0), [item] * 3).message.payload) - one <= max_sent_bytes(item)


async def fill(engine: Engine, number: int, **changes: Any) -> list[str]:
    posts = [post_of(WHOLE, changes) for _ in range(number)]
    await engine.store(*posts)
    engine.announced.clear()
    return [post.content.id for post in posts]


def listed(message: Message) -> list[str]:
    return [item["id"] for item in json.loads(message.payload)["items"]]


@pytest.mark.parametrize("kind", ["read", "archive", "snooze", "read up to"])
async def test_a_change_of_the_largest_items_takes_several_messages(engine: Engine, kind: str) -> None:
    user = await engine.user()
    engine.recent.follow(user.id)
    ids = await fill(engine, CHUNK)
    changes: dict[str, Change] = {
        "read": ItemUpdate(user.id, tuple(ids), read=True),
        "archive": ItemUpdate(user.id, tuple(ids), archived=True),
        "snooze": Snooze(user.id, tuple(ids), LATEST_MS),
        "read up to": ReadUpTo(user.id, MAX_SEQ),
    }
    changed = await engine.writer.change(changes[kind])
    (live,) = [committed.entries for committed in engine.announced if committed.entries]
    page = await engine.database.read(read_after, user.id, CHUNK, 1000, MAX_SEQ)
    assert page is not None
    for entries in [page.entries] if kind == "read up to" else [live, page.entries]:
        assert [entry.counts.seq for entry in entries] == list(range(CHUNK + 1, changed.counts.seq + 1))
        assert [one for entry in entries for one in listed(entry.message)] == ids
        assert max(max(sizes(entry.message)) for entry in entries) <= LIMIT
    assert (len(live), changed.counts.unread) == (3, 0)
    if kind == "read up to":
        # Live, each says how far it goes.
        ends = [entry.items[-1].created_seq for entry in page.entries]
        assert [json.loads(entry.message.payload)["up_to"] for entry in live] == ends
    else:
        seqs = {item.content.id: item.seq for entry in live for item in entry.items}
        assert [(item.content.id, item.seq) for item in changed.items] == list(seqs.items())


async def test_items_that_were_edited_after_a_change_are_left_to_their_own_message(engine: Engine) -> None:
    """Their content is new at once, and their numbers follow: a client may replay in between."""
    user = await engine.user()
    plain = {"body": None, "icon": None, "actions": None, "url": None, "data": None}
    ids = await fill(engine, CHUNK, **plain)
    await engine.writer.change(ItemUpdate(user.id, tuple(ids), read=True))
    edited = ids[3:20]

    def edit(connection: Connection) -> None:
        content = post_of(WHOLE).content
        values = {
            name: getattr(content, name) for name in ("title", "body", "url", "data", "icon", "actions")
        }
        rows = notifications.c.uuid.in_(edited)
        connection.execute(update(notifications).where(rows).values(edited_at=1, **values))

    await engine.database.write(edit)
    page = await engine.database.read(read_after, user.id, CHUNK, 1000, MAX_SEQ)
    assert page is not None
    (entry,) = page.entries
    assert max(sizes(entry.message)) <= LIMIT
    sent = listed(entry.message)
    assert [one for one in sent if one not in edited] == [one for one in ids if one not in edited]
    assert 8 < len(set(sent) & set(edited)) < len(edited)
