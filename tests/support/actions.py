"""Items with actions, and what is due, as the tests put and find them in the database."""

from sqlalchemy import Connection, select, update

from gateway.database.models import WAKE, due_work, notifications
from gateway.protocol.encoding import dumps
from gateway.store.due_turns import Turns, find_due
from gateway.store.due_work import Due

YES = {"id": "yes", "label": "Yes", "style": "primary"}
SAY = {"id": "say", "label": "Say something", "reply": True}


def set_actions(connection: Connection, uuid: str) -> None:
    """Give a notification the actions `yes`, which takes no text, and `say`, which needs one."""
    actions = dumps([YES, SAY])
    connection.execute(update(notifications).where(notifications.c.uuid == uuid).values(actions=actions))


def wakes(connection: Connection) -> list[tuple[str, int | None, int]]:
    """Return what wakes: the id of each notification, its user and its time in ms, in that order."""
    found = connection.execute(
        select(notifications.c.uuid, due_work.c.user_id, due_work.c.due_at)
        .join_from(due_work, notifications, due_work.c.notification_id == notifications.c.id)
        .where(due_work.c.kind == WAKE)
        .order_by(due_work.c.due_at, notifications.c.uuid)
    )
    return [(uuid, user_id, due_at) for uuid, user_id, due_at in found]


def overdue(connection: Connection, now: int, limit: int = 100) -> list[Due]:
    """Return what a process finds that begins at a time, in ms."""
    return Turns().take(find_due(connection, now, now, limit), limit)
