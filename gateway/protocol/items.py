"""Items of an inbox, with their counts, ids and JSON, which is the same in every response and message."""

import re
from collections.abc import Container, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from gateway.protocol.encoding import encode_text, quoted
from gateway.protocol.links import safe_url
from gateway.protocol.times import encode_time, timestamp
from gateway.settings.wording import in_words

MAX_SEQ = 2**63 - 1
"""Maximum `seq` of a log."""


class Counts(NamedTuple):
    """The head of a user's log: its last `seq`, and the two counts that are exact there.

    `seen` is the user's seen mark, a `created_seq`. `trimmed` is the highest `seq` with a purged item. It is
    0 if the query didn't read it. `preferences` is the version of the user's preferences.
    """

    seq: int
    unread: int
    unseen: int
    seen: int
    trimmed: int = 0
    preferences: int = 0

    def order(self) -> tuple[int, int, int]:
        """Return the sort key that orders counts by time. None of the numbers ever decreases."""
        return self.seq, self.seen, self.preferences

    def is_ahead_of(self, seq: int, seen: int, preferences: int) -> bool:
        """Whether one of these numbers is higher here."""
        return self.seq > seq or self.seen > seen or self.preferences > preferences


class Content(NamedTuple):
    """The posted content, shared by all recipients. `data` and `actions` are JSON text; times are in ms."""

    id: str
    title: str
    body: str | None
    category: str
    priority: str
    url: str | None
    data: str | None
    created_at: int
    icon: str | None = None
    actions: str | None = None
    expires_at: int | None = None
    edited_at: int | None = None


CONTENT_FIELDS = len(Content._fields)


class Item(NamedTuple):
    """One notification in one inbox, in its latest state. Times are in ms since 1970, or None.

    `answer` is JSON text or None. `deleted_reason` is None if the user deleted the item.
    """

    content: Content
    created_seq: int
    seq: int
    read_at: int | None = None
    archived_at: int | None = None
    deleted_at: int | None = None
    snoozed_until: int | None = None
    answer: str | None = None
    deleted_reason: str | None = None

    @property
    def counts_as_unread(self) -> bool:
        """Whether the item is one of the unread ones in the inbox."""
        return (
            self.read_at is None
            and self.archived_at is None
            and self.deleted_at is None
            and self.snoozed_until is None
        )


ID_PATTERN = in_words(
    "be the id of a notification",
    "^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$",
)
"""The pattern of notification ids, in either case (RFC 9562, section 4).

Ids are stored and sent in lower case.
"""


def is_id(text: str) -> bool:
    """Whether `text` has the form of a notification id."""
    return len(text) == _ID_LENGTH and _IS_ID(text) is not None


_ID_LENGTH = 36
_IS_ID = re.compile(ID_PATTERN).match


_MEMBERS = {
    "id": '"%s"',
    "created_seq": "%s",
    "seq": "%s",
    "title": "%s",
    "body": "%s",
    "category": "%s",
    "priority": '"%s"',
    "url": "%s",
    "data": "%s",
    "created_at": '"%s"',
    "icon": "%s",
    "actions": "%s",
    "expires_at": "%s",
    "edited_at": "%s",
    "read_at": "%s",
    "archived_at": "%s",
    "deleted_at": "%s",
    "snoozed_until": "%s",
    "answer": "%s",
    "deleted_reason": '"%s"',
}
"""The members of an item in JSON, in their order, with the places of their values."""


def _template(present: Container[str]) -> str:
    """Return the JSON of an item with places for the values of these members. The others are null."""
    members = (f'"{name}":{place if name in present else "null"}' for name, place in _MEMBERS.items())
    return f"{{{','.join(members)}}}"


_ITEM = _template(_MEMBERS.keys() - {"deleted_at", "deleted_reason"})
_PLAIN_ITEM = _template(
    _MEMBERS.keys()
    - {"icon", "actions", "expires_at", "edited_at"}
    - {"deleted_at", "snoozed_until", "answer", "deleted_reason"}
)
_DELETED_ITEM = _template({"id", "created_seq", "seq", "deleted_at", "deleted_reason"})


def encode_row(row: Sequence[Any]) -> str:
    """Return the item in a row as JSON: a row has the fields of a content, then the others of an item.

    A deleted item has only its id, `created_seq`, `seq`, `deleted_at` and `deleted_reason`. Its other members
    are null.
    """
    (
        uuid,
        title,
        body,
        category,
        priority,
        url,
        data,
        created_at,
        icon,
        actions,
        expires_at,
        edited_at,
        created_seq,
        seq,
        read_at,
        archived_at,
        deleted_at,
        snoozed_until,
        answer,
        reason,
    ) = row
    if deleted_at is not None:
        return _DELETED_ITEM % (uuid, created_seq, seq, encode_time(deleted_at), reason or "user")
    # Many values are missing, and calling a function for them takes longer than these checks.
    first = (
        uuid,
        created_seq,
        seq,
        encode_text(title),
        "null" if body is None else encode_text(body),
        encode_text(category),
        priority,
        "null" if url is None else quoted(safe_url(url)),
        data or "null",
        timestamp(created_at),
    )
    states = (
        "null" if read_at is None else encode_time(read_at),
        "null" if archived_at is None else encode_time(archived_at),
    )
    if icon is actions is answer is None and expires_at is edited_at is snoozed_until is None:
        return _PLAIN_ITEM % (*first, *states)
    options = (quoted(safe_url(icon)), actions or "null", encode_time(expires_at), encode_time(edited_at))
    return _ITEM % (*first, *options, *states, encode_time(snoozed_until), answer or "null")


def encode_item(item: Item) -> str:
    """Return an item as JSON, the same in every response and message."""
    content, created_seq, seq, *states = item
    if states == _NEW:
        before, between, after = _encode_new(content)
        return f"{before}{created_seq}{between}{seq}{after}"
    return encode_row((*content, created_seq, seq, *states))


_NEW = [None] * len(Item._field_defaults)
"""The states of an item that has not changed since it was posted."""

_GAP = "\0"
"""Stands for a number. JSON contains no such character."""


@lru_cache(maxsize=256)
def _encode_new(content: Content) -> list[str]:
    """Return the JSON of a new item before, between and after its two numbers: once for all recipients."""
    return encode_row((*content, _GAP, _GAP, *_NEW)).split(_GAP, 2)


def free_contents() -> None:
    """Free the encoded contents: their recipients have them, or the next one encodes them again."""
    _encode_new.cache_clear()
