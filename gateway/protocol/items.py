"""Items of an inbox, with their counts, ids and JSON, which is the same in every response and message."""

import re
from functools import lru_cache
from typing import NamedTuple

from gateway.protocol.encoding import quoted
from gateway.protocol.links import safe_url
from gateway.protocol.times import encode_time
from gateway.settings.wording import in_words

MAX_SEQ = 2**63 - 1
"""Maximum `seq` of a log."""


class Counts(NamedTuple):
    """The head of a user's log: its last `seq`, and the two counts that are exact there.

    `seen` is the user's seen mark, a `created_seq`. `trimmed` is the highest `seq` with a purged item. It is
    0 if the query didn't read it.
    """

    seq: int
    unread: int
    unseen: int
    seen: int
    trimmed: int = 0

    def order(self) -> tuple[int, int]:
        """Return the sort key that orders counts by time. Neither number ever decreases."""
        return self.seq, self.seen


class Content(NamedTuple):
    """The posted content, shared by all recipients. `data` is JSON text or None; `created_at` is in ms."""

    id: str
    title: str
    body: str | None
    category: str
    priority: str
    url: str | None
    data: str | None
    created_at: int


class Item(NamedTuple):
    """One notification in one inbox, in its latest state. Times are in ms since 1970, or None."""

    content: Content
    created_seq: int
    seq: int
    read_at: int | None = None
    archived_at: int | None = None
    deleted_at: int | None = None


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


@lru_cache(maxsize=256)
def _encode_content(content: Content) -> str:
    """Return the JSON members of an item that all recipients share, encoded once for all of them."""
    _, title, body, category, priority, url, data, created_at = content
    return (
        f'"title":{quoted(title)},"body":{quoted(body)},"category":{quoted(category)},'
        f'"priority":"{priority}","url":{quoted(safe_url(url))},"data":{data or "null"},'
        f'"created_at":{encode_time(created_at)}'
    )


def free_contents() -> None:
    """Free the encoded contents: their recipients have them, or the next one encodes them again."""
    _encode_content.cache_clear()


_DELETED_MEMBERS = (
    '"title":null,"body":null,"category":null,"priority":null,"url":null,"data":null,"created_at":null'
)


def encode_item(item: Item) -> str:
    """Return an item as JSON, the same in every response and message.

    A deleted item has only its id, `created_seq`, `seq` and `deleted_at`. Its other members are null.
    """
    content, created_seq, seq, read_at, archived_at, deleted_at = item
    if deleted_at is None:
        shared = _encode_content(content)
    else:
        shared, read_at, archived_at = _DELETED_MEMBERS, None, None
    return (
        f'{{"id":"{content.id}","created_seq":{created_seq},"seq":{seq},{shared},'
        f'"read_at":{encode_time(read_at)},"archived_at":{encode_time(archived_at)},'
        f'"deleted_at":{encode_time(deleted_at)}}}'
    )
