"""The order of due work: lanes take turns, and the work of each lane is done in the order of its time.

A service has a lane for each kind of its work, and all users share some for the items that wake (`due_work`).
Those together get the turns of one lane. So whoever has much due work delays nobody else's. What became due
during a downtime is one lane: all of it is done in the order of its time.

Functions take a connection and never commit.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from heapq import heapify, heappop, heapreplace
from operator import attrgetter
from typing import Any

from sqlalchemy import BigInteger, Connection, Select, bindparam, func, select, tuple_

from gateway.database.models import due_work
from gateway.database.rows import rows
from gateway.protocol.encoding import dumps
from gateway.store.due_work import SELECT, Due

OVERDUE = 0
"""The lane of what became due during a downtime, and of what needs no turn."""


def find_due(connection: Connection, now: int, since: int, limit: int) -> dict[int, list[Due]]:
    """Return what may be done next, by lane: the first pieces of each, about `limit` in all.

    If no more than that is due, all of it is in one lane. What was due by `since`, the end of the last
    downtime, is overdue. Both times are in ms.
    """
    oldest = [Due(*row) for row in connection.execute(_SELECT_OLDEST, {"now": now, "limit": limit + 1})]
    if len(oldest) <= limit and sum(one.inboxes for one in oldest) <= limit:
        return {OVERDUE: oldest} if oldest else {}
    waiting = {OVERDUE: [one for one in oldest if one.due_at <= since]}
    lanes = connection.scalars(_SELECT_LANES, {"now": now, "since": since}).all()
    wakes = [lane for lane in lanes if lane < 0]
    others = [lane for lane in lanes if lane >= 0]
    share = max(limit // (len(others) + bool(wakes)), 1) if lanes else 0
    for these, each in ((others, share), (wakes, max(share // max(len(wakes), 1), 1))):
        if these:
            wanted = {"now": now, "since": since, "rows": dumps([[lane] for lane in these]), "share": each}
            for lane, *columns in connection.execute(_select_heads(connection.dialect.name), wanted):
                waiting.setdefault(lane, []).append(Due(*columns))
    return {lane: found for lane, found in waiting.items() if found}


_SELECT_OLDEST = (
    SELECT.where(due_work.c.due_at <= bindparam("now"))
    .order_by(due_work.c.due_at, due_work.c.id)
    .limit(bindparam("limit"))
)


def _select_lanes() -> Select[Any]:
    """Return the query for the lanes with due work. One that has overdue work, too, must wait for that.

    It takes a step for each lane, not for each row.
    """
    first = select(func.min(due_work.c.lane).label("lane")).cte("lanes", recursive=True)
    following = select(func.min(due_work.c.lane)).where(due_work.c.lane > first.c.lane).scalar_subquery()
    lanes = first.union_all(select(following).where(first.c.lane.is_not(None)))
    first_due_at = (
        select(func.min(due_work.c.due_at)).where(due_work.c.lane == lanes.c.lane).scalar_subquery()
    )
    return select(lanes.c.lane).where(first_due_at > bindparam("since"), first_due_at <= bindparam("now"))


_SELECT_LANES = _select_lanes()


@cache
def _select_heads(dialect: str) -> Select[Any]:
    """Return the query for the first `share` pieces of due work in each of these lanes."""
    wanted = rows(dialect, lane=BigInteger())
    other = due_work.alias("other")
    in_lane = (
        other.c.lane == wanted.c.lane,
        other.c.due_at > bindparam("since"),
        other.c.due_at <= bindparam("now"),
    )
    last = [
        select(column)
        .where(*in_lane)
        # With the lane, so that Postgres takes the index of lanes.
        .order_by(other.c.lane, other.c.due_at, other.c.id)
        .limit(1)
        .offset(bindparam("share"))
        .scalar_subquery()
        for column in (other.c.due_at, other.c.id)
    ]
    ends = (
        select(
            wanted.c.lane,
            func.coalesce(last[0], bindparam("now", type_=BigInteger()) + 1).label("due_at"),
            func.coalesce(last[1], 0).label("id"),
        )
        .cte("ends")
        # Otherwise SQLite looks for the end once for each row.
        .prefix_with("MATERIALIZED")
    )
    return (
        SELECT.with_only_columns(due_work.c.lane, *SELECT.selected_columns)
        .join(ends, due_work.c.lane == ends.c.lane)
        .where(
            due_work.c.due_at > bindparam("since"),
            tuple_(due_work.c.due_at, due_work.c.id) < tuple_(ends.c.due_at, ends.c.id),
        )
        .order_by(due_work.c.lane, due_work.c.due_at, due_work.c.id)
    )


class Turns:
    """How many inboxes the work of each lane has changed while work waits. Create one, and keep it."""

    def __init__(self) -> None:
        self._served: dict[int, int] = {}

    def take(self, waiting: Mapping[int, Sequence[Due]], limit: int) -> list[Due]:
        """Return the next work, for about `limit` inboxes: first deliveries, then expiries, then the rest.

        Each piece is from the lane that has had least. A lane in which no work waited begins like the one
        that has had least: it gets nothing for the turns that it didn't need.
        """
        least = min((self._served[lane] for lane in waiting if lane in self._served), default=0)
        self._served = {lane: self._served.get(lane, least) for lane in waiting}
        wakes = sum(lane < 0 for lane in waiting)
        # The number of the next piece of each lane. Lanes that have had the same are in the order of time.
        heads = [(served, waiting[lane][0].due_at, lane, 0) for lane, served in self._served.items()]
        heapify(heads)
        taken: list[Due] = []
        while heads and limit > 0:
            served, _, lane, index = heads[0]
            one = waiting[lane][index]
            taken.append(one)
            limit -= one.inboxes
            self._served[lane] = served + one.inboxes * (wakes if lane < 0 else 1)
            if index + 1 < len(waiting[lane]):
                heapreplace(heads, (self._served[lane], waiting[lane][index + 1].due_at, lane, index + 1))
            else:
                heappop(heads)
        return sorted(taken, key=attrgetter("kind", "due_at", "id"))
