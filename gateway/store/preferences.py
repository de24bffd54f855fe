"""Preferences: what a user has muted, and when the user wants quiet.

Users keep them as a JSON document, and nearly all users have none. Functions take a connection and never
commit.
"""

import json
from collections.abc import Collection, Container, Iterable
from datetime import UTC, datetime, tzinfo
from functools import cache, lru_cache
from hashlib import sha256
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import BigInteger, Connection, Select, bindparam, select, update

from gateway.database.models import users
from gateway.database.prepared import Prepared
from gateway.database.rows import one_column
from gateway.errors import GatewayError, PreconditionFailed
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Content
from gateway.protocol.times import now_ms, parse_time
from gateway.store.entries import Entry
from gateway.store.positions import Position

NONE = '{"categories":{},"timezone":null,"quiet_hours":[],"quiet_until":null}'
"""The document of a user without preferences. It is stored as NULL."""

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""The days of the week, in the order of `datetime.weekday`."""

URGENT = "urgent"
"""The priority that is neither muted nor quiet."""

MAX_CACHED = 2048
"""Maximum number of parsed times of quiet in memory. One user's take up to some 8 KiB."""


class QuietHours(NamedTuple):
    """A window of a week. Days are numbers from 0 (Monday); `begin` and `end` are minutes of a day.

    If `begin` is after `end`, the window ends on the day after each of its days.
    """

    days: frozenset[int]
    begin: int
    end: int

    def has(self, day: int, minute: int) -> bool:
        """Whether the window is open at this minute of this day."""
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        # The window of the day before may still be open.
        return (day in self.days and minute >= self.begin) or (
            (day - 1) % 7 in self.days and minute < self.end
        )


class Quiet(NamedTuple):
    """When a user wants quiet. `quiet_until` is in ms, or None."""

    zone: tzinfo = UTC
    quiet_hours: tuple[QuietHours, ...] = ()
    quiet_until: int | None = None

    def is_quiet(self, now: int, priority: str) -> bool:
        """Whether a notification makes no noise at `now`, in ms.

        The clock on the wall of the user's zone decides: an hour that comes twice is quiet twice.
        """
        if priority == URGENT:
            return False
        if self.quiet_until is not None and now < self.quiet_until:
            return True
        if not self.quiet_hours:
            return False
        local = datetime.fromtimestamp(now // 1000, self.zone)
        day, minute = local.weekday(), local.hour * 60 + local.minute
        return any(window.has(day, minute) for window in self.quiet_hours)


def parse(document: str) -> Quiet:
    """Return when the user with these stored preferences wants quiet."""
    # The muted categories come first, and are not needed here. No category has a quotation mark.
    return NEVER if document.endswith(_NEVER) else _parse("{" + document[document.rindex('"timezone":') :])


NEVER = Quiet()
_NEVER = '"quiet_hours":[],"quiet_until":null}'


@lru_cache(maxsize=MAX_CACHED)
def _parse(stored: str) -> Quiet:
    parsed = json.loads(stored)
    until = parsed["quiet_until"]
    return Quiet(
        _zone(parsed["timezone"]),
        tuple(_window(one) for one in parsed["quiet_hours"]),
        None if until is None else parse_time(until),
    )


def _window(stored: dict[str, Any]) -> QuietHours:
    days = frozenset(map(DAYS.index, stored["days"]))
    return QuietHours(days, minute_of(stored["from"]), minute_of(stored["until"]))


def minute_of(time: str) -> int:
    """Return the minute of the day of a time such as 22:00."""
    hours, minutes = time.split(":")
    return int(hours) * 60 + int(minutes)


def _zone(name: str | None) -> tzinfo:
    """Return a zone. One that this machine no longer knows is UTC: a post must not fail because of it."""
    try:
        return UTC if name is None else ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return UTC


def has_muted(document: str, category: str) -> bool:
    """Whether preferences mute a category.

    A post may have 1,000 recipients, and a search takes a hundredth of the time of parsing.
    """
    return f'"{category}":{{"muted":true}}' in document


def mutes(position: Position, content: Content, required: Container[str]) -> bool:
    """Whether a user has muted a notification, which then never enters the log.

    Neither urgent ones nor the `required` categories can be muted.
    """
    return (
        position.preferences is not None
        and content.priority != URGENT
        and content.category not in required
        and has_muted(position.preferences, content.category)
    )


def is_quiet(position: Position, content: Content, now: int) -> bool:
    """Whether a user wants quiet at `now`, in ms, for a notification that enters the log."""
    return position.preferences is not None and parse(position.preferences).is_quiet(now, content.priority)


# --- entries that are read from the log ---------------------------------------------------------------------


def mark_quiet(connection: Connection, entries: Iterable[Entry], user_ids: Collection[int]) -> None:
    """Set `quiet` in entries that were read from the log, as their users want it now.

    `user_ids` are those of the users who may have preferences. The others have none.
    """
    if not user_ids:
        return
    wanted = {"ids": dumps(list(user_ids))}
    found = connection.execute(_select_of_users(connection.dialect.name), wanted).all()
    parsed = {user_id: parse(document) for user_id, document in found}
    now = now_ms()
    for entry in entries:
        if entry.fresh and entry.user_id in parsed:
            entry.quiet = parsed[entry.user_id].is_quiet(now, entry.items[0].content.priority)


@cache
def _select_of_users(dialect: str) -> Select[Any]:
    return select(users.c.id, users.c.preferences).where(
        users.c.id.in_(one_column(dialect, "ids", BigInteger())), users.c.preferences.is_not(None)
    )


# --- the document -------------------------------------------------------------------------------------------


class Stored(NamedTuple):
    """The document of a user, and its version: how often it has changed."""

    document: str
    version: int


def find(connection: Connection, user_id: int) -> Stored | None:
    """Return the document of a user, or None if the user no longer exists."""
    found = _SELECT_DOCUMENT.run(connection, {"user_id": user_id})
    return Stored(found[0][0] or NONE, found[0][1]) if found else None


_SELECT_DOCUMENT = Prepared(
    lambda _: select(users.c.preferences, users.c.preferences_version).where(
        users.c.id == bindparam("user_id"), users.c.sub.is_not(None)
    )
)


def etag_of(document: str) -> str:
    """Return the strong `ETag` of a document."""
    return f'"{sha256(document.encode()).hexdigest()[:32]}"'


class SetPreferences(NamedTuple):
    """Replaces the preferences of a user, if the stored ones are among `if_match`, the tags of a client.

    With None, and with the tag `*`, they are replaced in any case.
    """

    user_id: int
    document: str
    if_match: Collection[str] | None = None


def replace(connection: Connection, position: Position, change: SetPreferences) -> GatewayError | None:
    """Store the preferences, and return None, or the error if a client has not seen the stored ones.

    A repeated change is no error, whatever its tags (RFC 9110, section 13.1.1).
    """
    stored = position.preferences or NONE
    if change.document == stored:
        return None
    if change.if_match is not None and not {"*", etag_of(stored)} & set(change.if_match):
        return PreconditionFailed()
    position.preferences = None if change.document == NONE else change.document
    position.preferences_version += 1
    new = {"preferences": position.preferences, "preferences_version": position.preferences_version}
    connection.execute(update(users).where(users.c.id == change.user_id).values(new))
    return None
