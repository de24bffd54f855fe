"""The SQL of sessions that end. Each function is a unit of work; none commits."""

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, select, true, tuple_, update

from gateway.database.models import sessions

FOREIGN = "x-"
"""What the names of the sessions of foreign issuers' tokens begin with; they are kept until they expire."""

MARK = FOREIGN + "m"
"""What the names of rows begin with that only keep when all sessions of a user have ended."""

TOO_MANY = "too_many_sessions"
"""Why a session has ended, as the audit log says it, for which another one of its owner was too much."""

PAGE = 1000
"""How many sessions one statement ends, or finds ended, at most."""


class Ending(NamedTuple):
    """A session that has ended. `ended_at` is in ms."""

    id: str
    ended_at: int


class Tally(NamedTuple):
    """How many sessions have ended within a second, and the sum of their moments."""

    number: int
    moments: int


def end_sessions(connection: Connection, which: Any, now_ms: int, limit: int | None = None) -> list[str]:
    """End the live sessions that meet a condition, or `limit` of them, and return them.

    They are locked in one order: a user may sign out while the service is deleted that had the tokens minted.
    """
    live = select(sessions.c.id).where(which, sessions.c.ended_at.is_(None)).order_by(sessions.c.id)
    locked = sessions.c.id.in_(live.limit(limit).with_for_update())
    return list(
        connection.scalars(update(sessions).where(locked).values(ended_at=now_ms).returning(sessions.c.id))
    )


def end_some_sessions(connection: Connection, now_ms: int) -> list[str]:
    """End a page of all live sessions, whosesoever they are, and return them."""
    return end_sessions(connection, true(), now_ms, PAGE)


def end_oldest(
    connection: Connection, mine: ColumnElement[bool], newest: str, limit: int, now_ms: int
) -> list[str]:
    """End the oldest live sessions of one owner beyond `limit`, and return them; a page of them at most.

    The caller has stored `newest`, which is kept, and alone holds a lock on the row of the owner. Expired
    sessions do not count. It reads a range of one index, as long as the limit.
    """
    live = sessions.c
    older = select(live.id).where(mine, live.ended_at.is_(None), live.expires_at > now_ms, live.id != newest)
    beyond = older.order_by(live.created_at.desc(), live.id.desc()).offset(limit - 1).limit(PAGE)
    old = list(connection.scalars(beyond))
    return end_sessions(connection, live.id.in_(old), now_ms) if old else []


def tally(connection: Connection, since: int) -> dict[int, Tally]:
    """Return how many sessions have ended in each second from a second on; those with none are left out."""
    second = (sessions.c.ended_at // 1000).label("second")
    counted = select(second, func.count(), func.sum(sessions.c.ended_at)).where(
        sessions.c.ended_at >= since * 1000
    )
    found = connection.execute(counted.group_by("second"))
    return {row[0]: Tally(row[1], int(row[2])) for row in found}


def page(connection: Connection, second: int, moment_ms: int, after: str) -> list[Ending]:
    """Return sessions that have ended within a second, beginning behind the one with this moment and id."""
    ended = sessions.c.ended_at
    found = (
        select(sessions.c.id, ended)
        .where(ended >= moment_ms, ended < (second + 1) * 1000)
        .where(tuple_(ended, sessions.c.id) > (moment_ms, after))
        .where(sessions.c.id.not_like(f"{MARK}%"))
        .order_by(ended, sessions.c.id)
        .limit(PAGE)
    )
    return [Ending(*row) for row in connection.execute(found)]
