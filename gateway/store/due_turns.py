"""The order of due work: its callers take turns, and each recipient gets deliveries in the order of time.

The caller of work is the service of the notification, or the user whose snoozed item wakes. Turns count
inboxes. So a service with thousands of notifications that expire at once delays the work of others little.

Functions take a connection and never commit.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    bindparam,
    case,
    exists,
    func,
    select,
    union_all,
)

from gateway.database.models import DELIVER, FORGET, WAKE, due_work, notifications, scheduled_recipients
from gateway.store.due_work import Due
from gateway.store.schedule import recipients_of

WINDOW = 20_000
"""Maximum number of deliveries, of wakes and of other work that take turns: the oldest. A look reads all."""


def find_due(connection: Connection, now: int, limit: int) -> list[Due]:
    """Return work that is due, for about `limit` inboxes: first deliveries, then expiries, then the rest.

    Work of one kind comes in the order in which it became due. `now` is in ms.
    """
    turns = connection.execute(_SELECT_TURNS, {"now": now, "limit": limit, "window": WINDOW}).all()
    found: list[tuple[int, Due]] = []
    room = limit
    for due_at, *columns in turns:
        one = Due(*columns)
        if found and room < one.inboxes:
            break
        room -= one.inboxes
        found.append((due_at, one))
    in_order = [one for _, one in sorted(found, key=lambda pair: (pair[1].kind, pair[0], pair[1].id))]
    found_all = len(found) == len(turns) < limit
    return in_order if found_all else _without_overtaking(connection, in_order)


def _select_turns() -> Select[Any]:
    """Return the query for due work in the order of turns: by how many inboxes its caller has before it."""
    kind = due_work.c.kind
    oldest = union_all(
        *(select(_oldest(these).subquery()) for these in (kind == DELIVER, kind == WAKE, kind.not_in(_APART)))
    ).subquery()
    order = (oldest.c.kind, oldest.c.due_at, oldest.c.id)
    before = func.sum(oldest.c.inboxes).over(partition_by=oldest.c.caller, order_by=order) - oldest.c.inboxes
    return (
        select(
            oldest.c.due_at,
            oldest.c.id,
            oldest.c.kind,
            oldest.c.notification_id,
            oldest.c.user_id,
            oldest.c.after,
            oldest.c.recipients,
        )
        .order_by(before, *order)
        .limit(bindparam("limit"))
    )


_APART = (DELIVER, WAKE)
"""The kinds that have a window of their own."""


def _oldest(these: ColumnElement[bool]) -> Select[Any]:
    alone = due_work.c.user_id.is_not(None)
    return (
        select(
            due_work,
            notifications.c.recipients,
            case((alone, -due_work.c.user_id), else_=notifications.c.service_id).label("caller"),
            case((alone | (due_work.c.kind == FORGET), 1), else_=notifications.c.recipients).label("inboxes"),
        )
        .join_from(due_work, notifications, due_work.c.notification_id == notifications.c.id)
        .where(due_work.c.due_at <= bindparam("now"), these)
        .order_by(due_work.c.due_at, due_work.c.id)
        .limit(bindparam("window"))
    )


_SELECT_TURNS = _select_turns()


def _without_overtaking(connection: Connection, found: Sequence[Due]) -> list[Due]:
    """Leave out deliveries that would overtake an earlier one of a recipient, not found or left out itself.

    Those of `found` are in the order in which they became due.
    """
    keys = [one.key for one in found if one.kind == DELIVER]
    overtaking = set(connection.scalars(_SELECT_OVERTAKING, {"keys": keys}))
    if not overtaking:
        return list(found)
    recipients = recipients_of(connection, keys)
    waiting: set[int] = set()
    left = []
    for one in found:
        if one.kind == DELIVER:
            its = recipients.get(one.key, ())
            if one.key in overtaking or not waiting.isdisjoint(its):
                waiting.update(its)
                continue
        left.append(one)
    return left


def _select_overtaking() -> Select[Any]:
    keys: BindParameter[Any] = bindparam("keys", expanding=True)
    late, waiting, earlier = (due_work.alias(name) for name in ("late", "waiting", "earlier"))
    mine, others = (scheduled_recipients.alias(name) for name in ("mine", "others"))
    first_waiting = (
        select(waiting.c.due_at)
        .where(waiting.c.kind == DELIVER, waiting.c.notification_id.not_in(keys))
        .order_by(waiting.c.due_at, waiting.c.id)
        .limit(1)
        .scalar_subquery()
    )
    shared = exists().where(
        mine.c.notification_id == late.c.notification_id,
        others.c.user_id == mine.c.user_id,
        others.c.notification_id.not_in(keys),
        earlier.c.notification_id == others.c.notification_id,
        earlier.c.kind == DELIVER,
        earlier.c.due_at < late.c.due_at,
    )
    return select(late.c.notification_id).where(
        late.c.kind == DELIVER, late.c.notification_id.in_(keys), late.c.due_at > first_waiting, shared
    )


_SELECT_OVERTAKING = _select_overtaking()
