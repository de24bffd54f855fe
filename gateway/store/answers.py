"""Answers: the action that a user has chosen on an item. Functions take a connection and never commit."""

import json
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select

from gateway.database.models import items, notifications, users
from gateway.errors import GatewayError, Invalid, NotFound
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Item
from gateway.protocol.times import timestamp
from gateway.store.changes import Changed, touch
from gateway.store.entries import Entry
from gateway.store.inbox import find_item
from gateway.store.positions import Position
from gateway.store.refusals import AlreadyAnswered, UnknownAction


class Act(NamedTuple):
    """Answers an item of one user with one of its actions. `text` is the reply, if the action has one."""

    user_id: int
    id: str
    action: str
    text: str | None = None


def act(
    connection: Connection, position: Position, change: Act, now: int
) -> tuple[Changed | GatewayError, list[Entry]]:
    """Store the answer of an item, which is then read, or return why it can't be. `now` is in ms.

    A snoozed item can be answered, and stays snoozed.
    """
    item = find_item(connection, change.user_id, change.id)
    if item is None or item.deleted_at is not None or _has_expired(item, now):
        return NotFound("There is no such item in this inbox."), []
    if error := _refusal(item, change):
        return error, []
    answer = dumps({"action": change.action, "text": change.text, "at": timestamp(now)})
    answered = item._replace(answer=answer, read_at=item.read_at or now)
    return touch(connection, position, [item], [answered])


def _has_expired(item: Item, now: int) -> bool:
    """Whether an item is past its time, and is about to be removed."""
    return item.content.expires_at is not None and item.content.expires_at <= now


def _refusal(item: Item, change: Act) -> GatewayError | None:
    if item.answer is not None:
        return AlreadyAnswered()
    actions: list[dict[str, Any]] = json.loads(item.content.actions or "[]")
    known = {action["id"]: action for action in actions}
    if change.action not in known:
        names = ", ".join(known)
        return UnknownAction(
            f"The item has the actions {names}: send one of them." if names else "The item has no actions."
        )
    wants_text = bool(known[change.action].get("reply"))
    if wants_text and change.text is None:
        return Invalid.field("text", "it is required: the action has a reply")
    if change.text is not None and not wants_text:
        return Invalid.field("text", "the action has no reply: leave it out")
    return None


class Answer(NamedTuple):
    """A recipient's answer to a notification. `answer` is JSON text: `action`, `text` and `at`."""

    user_id: int
    sub: str
    answer: str


def find_answers(connection: Connection, key: int, cursor: int, limit: int) -> list[Answer]:
    """Return the answers to a notification of the users whose ids are beyond `cursor`, in that order.

    Answers of items that were deleted since are among them, until the items are purged.
    """
    found = connection.execute(_SELECT_ANSWERS, {"key": key, "cursor": cursor, "limit": limit})
    return [Answer(*row) for row in found]


_SELECT_ANSWERS = (
    select(items.c.user_id, users.c.sub, items.c.answer)
    .join_from(items, users, items.c.user_id == users.c.id)
    .where(
        items.c.notification_id == bindparam("key"),
        items.c.user_id > bindparam("cursor"),
        items.c.answer.is_not(None),
        users.c.sub.is_not(None),
    )
    .order_by(items.c.user_id)
    .limit(bindparam("limit"))
)


class Sender(NamedTuple):
    """The key of a notification, and the id of the service that posted it."""

    key: int
    service_id: int


def find_sender(connection: Connection, uuid: str) -> Sender | None:
    """Return who posted a notification, or None."""
    row = connection.execute(_SELECT_SENDER, {"uuid": uuid}).one_or_none()
    return None if row is None else Sender(*row)


_SELECT_SENDER = select(notifications.c.id, notifications.c.service_id).where(
    notifications.c.uuid == bindparam("uuid")
)
