"""The messages to a client and the close codes. Plain values in, messages out.

The contract of every message is in docs/protocol.md. A message is encoded once, for every socket and every
stream of its user.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from gateway.protocol.wire import Message
from gateway.settings.wording import in_words, nearest

SUBPROTOCOL = "notify.v1"
MAX_FRAME = 16 * 1024
"""The largest frame a client may send, in bytes; a larger one closes with 1009."""

REPLAY_LIMIT = 1000
"""How many changes back a client may resume; beyond it, the server says `reset`."""

NEWEST_UNREAD = 100
"""How many unread items a client that names no position is given."""

LONG_CHANGE = 16
"""A bulk read of more items than this is sent live as `read`, not as `changed`."""


class Close(IntEnum):
    """Why the gateway closed a socket."""

    NORMAL = 1000
    UNSUPPORTED_DATA = 1003
    INVALID_DATA = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    RESTART = 1012
    OVERLOADED = 1013
    UNAUTHORIZED = 4001
    FORBIDDEN = 4003
    TOO_SLOW = 4008
    TOO_MANY_SOCKETS = 4009
    TOO_MANY_COMMANDS = 4029


ADVICE = {
    Close.NORMAL: "stop",
    Close.UNSUPPORTED_DATA: "send text frames",
    Close.INVALID_DATA: "send UTF-8",
    Close.TOO_BIG: "send smaller frames",
    Close.INTERNAL_ERROR: "back off, resume",
    Close.RESTART: "reconnect after a random delay, resume",
    Close.OVERLOADED: "back off, resume",
    Close.UNAUTHORIZED: "get a new token once, then stop",
    Close.FORBIDDEN: "stop",
    Close.TOO_SLOW: "back off, resume",
    Close.TOO_MANY_SOCKETS: "stop until another closes",
    Close.TOO_MANY_COMMANDS: "back off, resume",
}
"""What the client should do after each close code."""


class CommandType(StrEnum):
    """What a client may say."""

    ACK = "ack"
    READ = "read"
    UNREAD = "unread"
    ARCHIVE = "archive"
    DELETE = "delete"
    SEEN = "seen"
    AUTH = "auth"
    PING = "ping"


class Counts(NamedTuple):
    """Where a user's log stands: its last number, and the two counts that are exact at it.

    `seen` is the user's seen mark, a `created_seq`. `trimmed` is the highest number of which something was
    removed, as far as the database was asked for it.
    """

    seq: int
    unread: int
    unseen: int
    seen: int
    trimmed: int = 0

    def order(self) -> tuple[int, int]:
        """Return what tells which of two counts are the later ones: neither number ever goes back."""
        return self.seq, self.seen


class Content(NamedTuple):
    """What was posted, shared by all its recipients. `data` is JSON text or None, `created_at` is in ms."""

    id: str
    title: str
    body: str | None
    category: str
    priority: str
    url: str | None
    data: str | None
    created_at: int


class Item(NamedTuple):
    """One notification in one inbox, in its latest state. Times are in milliseconds since 1970, or None."""

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
"""How a notification id is read: in any case (RFC 9562, section 4). It is stored and sent in lower case."""


def is_id(text: str) -> bool:
    """Whether `text` could be the id of a notification."""
    return len(text) == _ID_LENGTH and _IS_ID(text) is not None


_ID_LENGTH = 36
_IS_ID = re.compile(ID_PATTERN).match


def timestamp(milliseconds: int) -> str:
    """Return RFC 3339 in UTC with milliseconds, as every time of the API is written."""
    return f"{_to_seconds(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=1024)
def _to_seconds(seconds: int) -> str:
    """Return the part that everything written within one second shares."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def dumps(value: Any) -> str:
    """Return compact JSON in UTF-8. Raises ValueError for NaN and infinity, which JSON does not have."""
    return _ENCODER.encode(value)


def is_link(url: str) -> bool:
    """Whether a URL is safe to link to: an absolute http(s) URL, or a path that begins with one slash.

    Browsers drop tabs and line breaks from URLs and read a backslash as a slash, so that a slash, a tab and
    "/host" lead to another host. What turns or hides text makes a link look like another. Neither is safe.
    """
    plain = "\\" not in url and " " not in url and url.isprintable()
    local = url.startswith("/") and not url.startswith("//")
    return plain and (local or _is_web_address(url))


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # Asking for the port raises ValueError where it is no number that a port can be.
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return whole and parts.scheme in {"http", "https"} and url[len(parts.scheme) :].startswith("://")


def safe_url(url: str | None) -> str | None:
    """Return a stored URL, or None for one that is not safe to link to, however it was stored."""
    return url if url is not None and is_link(url) else None


def _time(milliseconds: int | None) -> str:
    return "null" if milliseconds is None else f'"{timestamp(milliseconds)}"'


@lru_cache(maxsize=256)
def _encode_content(content: Content) -> str:
    """Return the members of an item that all its recipients share, encoded once for all of them."""
    url = dumps(safe_url(content.url))
    return (
        f'"title":{dumps(content.title)},"body":{dumps(content.body)},"category":{dumps(content.category)},'
        f'"priority":"{content.priority}","url":{url},"data":{content.data or "null"},'
        f'"created_at":{_time(content.created_at)}'
    )


_ERASED = '"title":null,"body":null,"category":null,"priority":null,"url":null,"data":null,"created_at":null'


def encode_item(item: Item) -> str:
    """Return an item as JSON, alike in every answer and message.

    A deleted item keeps only its id, its numbers and `deleted_at`.
    """
    deleted = item.deleted_at is not None
    shared = _ERASED if deleted else _encode_content(item.content)
    read_at = None if deleted else item.read_at
    archived_at = None if deleted else item.archived_at
    return (
        f'{{"id":"{item.content.id}","created_seq":{item.created_seq},"seq":{item.seq},{shared},'
        f'"read_at":{_time(read_at)},"archived_at":{_time(archived_at)},"deleted_at":{_time(item.deleted_at)}}}'
    )


def _counted(counts: Counts) -> str:
    return f'"unread":{counts.unread},"unseen":{counts.unseen}'


def hello(sub: str, epoch: str, counts: Counts, heartbeat: float, expires_at: int) -> Message:
    """Return the first message. `heartbeat` is in seconds, `expires_at` in seconds since 1970."""
    members = (
        f'"sub":{dumps(sub)},"epoch":{dumps(epoch)},"seq":{counts.seq},{_counted(counts)},'
        f'"heartbeat":{heartbeat:g},"expires_at":{_time(expires_at * 1000)}'
    )
    return Message("hello", members, epoch=epoch)


def notification(item: str, seq: int, counts: Counts) -> Message:
    """Return one item, encoded, that this client has not had yet."""
    return Message("notification", f'"seq":{seq},"notification":{item},{_counted(counts)}', seq)


def changed(items: Sequence[str], seq: int, counts: Counts) -> Message:
    """Return the items, encoded, that took `seq`, each in its latest state."""
    return Message("changed", f'"seq":{seq},"items":[{",".join(items)}],{_counted(counts)}', seq)


def read(up_to: int, seq: int, counts: Counts) -> Message:
    """Return that every item up to `up_to` was marked read."""
    return Message("read", f'"seq":{seq},"up_to":{up_to},{_counted(counts)}', seq)


def seen(counts: Counts) -> Message:
    """Return that the seen mark moved. It has no `seq`, for it changes no item."""
    return Message("seen", f'"up_to":{counts.seen},"unseen":{counts.unseen}')


def reset(epoch: str, counts: Counts) -> Message:
    """Return that the client must read the inbox afresh and go on from `seq`."""
    oldest = counts.trimmed + 1 if counts.seq else 0
    where = f'"epoch":{dumps(epoch)},"seq":{counts.seq},"oldest_seq":{oldest}'
    return Message("reset", f"{where},{_counted(counts)}", counts.seq, epoch)


def live(counts: Counts) -> Message:
    """Return that the replay is complete."""
    return Message("live", f'"seq":{counts.seq},{_counted(counts)}', counts.seq)


def heartbeat(counts: Counts) -> Message:
    """Return that the socket is well, and where the log stands."""
    return Message("heartbeat", f'"seq":{counts.seq},{_counted(counts)}')


def token_expiring(expires_at: int) -> Message:
    """Return that the token ends soon, at `expires_at` seconds since 1970."""
    return Message("token_expiring", f'"expires_at":{_time(expires_at * 1000)}')


def ok(ref: str) -> Message:
    """Return that the command with this `ref` was carried out, durably."""
    return Message("ok", f'"ref":{dumps(ref)}')


def error(code: str, detail: str, ref: str | None = None) -> Message:
    """Return that a command was refused; the socket stays."""
    return Message("error", f'"ref":{dumps(ref)},"code":"{code}","detail":{dumps(detail)}')


def close(code: int, reason: str) -> Message:
    """Return why a stream ends: what a socket says with its close frame."""
    return Message("close", f'"code":{code},"reason":{dumps(reason)}')


class BadCommand(Exception):
    """A text frame that is none of the commands. `ref` is the one it carried, where it carried one."""

    def __init__(self, code: str, detail: str, ref: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.ref = ref


class Command(NamedTuple):
    """A command of a client, with the fields its type asks for."""

    type: CommandType
    ref: str | None = None
    ids: tuple[str, ...] = ()
    seq: int | None = None
    token: str | None = None


MAX_SEQ = 2**63 - 1
_MAX_REF = 64


def decode_command(text: str) -> Command:
    """Read a text frame.

    Raises `BadCommand` when it is not JSON, not an object, not a command, or lacks a field of one.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise BadCommand("malformed", "A frame is one JSON object.") from None
    if not isinstance(message, dict):
        raise BadCommand("malformed", "A frame is one JSON object.")
    ref = message.get("ref")
    if ref is not None and not (isinstance(ref, str) and len(ref) <= _MAX_REF and _encodable(ref)):
        raise BadCommand("invalid_field", f"ref: a string of at most {_MAX_REF} characters.")
    try:
        kind = CommandType(str(message.get("type")))
    except ValueError:
        near = nearest(str(message.get("type")), tuple(CommandType))
        hint = "" if near is None else f" Did you mean {near}?"
        raise BadCommand("unknown_command", f"type: one of {', '.join(CommandType)}.{hint}", ref) from None
    return _COMMANDS[kind](kind, message, ref)


def _encodable(text: str) -> bool:
    """Whether `text` can be sent: JSON escapes can spell half of a surrogate pair, which UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _bare(kind: CommandType, _message: dict[str, Any], ref: str | None) -> Command:
    return Command(kind, ref)


def _with_ids(kind: CommandType, message: dict[str, Any], ref: str | None) -> Command:
    ids = message.get("ids")
    if not isinstance(ids, list) or not ids or not all(isinstance(one, str) and is_id(one) for one in ids):
        raise BadCommand("invalid_field", "ids: a list of at least one notification id.", ref)
    return Command(kind, ref, ids=tuple(map(str.lower, ids)))


def _position(message: dict[str, Any], field: str, ref: str | None) -> int:
    value = message.get(field)
    if type(value) is not int or not 0 <= value <= MAX_SEQ:
        raise BadCommand("invalid_field", f"{field}: a number, 0 or more.", ref)
    return value


def _with_ids_or_up_to(kind: CommandType, message: dict[str, Any], ref: str | None) -> Command:
    if ("ids" in message) == ("up_to" in message):
        raise BadCommand("invalid_field", "ids or up_to: exactly one of them.", ref)
    if "ids" in message:
        return _with_ids(kind, message, ref)
    return _with_up_to(kind, message, ref)


def _with_up_to(kind: CommandType, message: dict[str, Any], ref: str | None) -> Command:
    return Command(kind, ref, seq=_position(message, "up_to", ref))


def _with_seq(kind: CommandType, message: dict[str, Any], ref: str | None) -> Command:
    return Command(kind, ref, seq=_position(message, "seq", ref))


def _with_token(kind: CommandType, message: dict[str, Any], ref: str | None) -> Command:
    token = message.get("token")
    if not isinstance(token, str) or not token:
        raise BadCommand("invalid_field", "token: an access token.", ref)
    return Command(kind, ref, token=token)


_COMMANDS = {
    CommandType.ACK: _with_seq,
    CommandType.READ: _with_ids_or_up_to,
    CommandType.UNREAD: _with_ids,
    CommandType.ARCHIVE: _with_ids,
    CommandType.DELETE: _with_ids,
    CommandType.SEEN: _with_up_to,
    CommandType.AUTH: _with_token,
    CommandType.PING: _bare,
}
