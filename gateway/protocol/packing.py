"""MessagePack: the same messages and commands as JSON, with ids as 16 bytes and times as milliseconds.

The library is imported at its first use: most gateways have no client that chooses MessagePack.
"""

import json
import math
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any

from pydantic_core import from_json

from gateway.protocol.times import LATEST_MS, parse_time, timestamp

MAX_ARRAY = 420
"""Maximum elements of an array in a command: as many ids as fit in a text frame.

The library allocates an array before it reads the elements, so a short frame could ask for much memory.
"""

_STATES = ("read_at", "archived_at", "deleted_at", "snoozed_until", "answer", "deleted_reason")
_TIMES = (
    "created_at",
    "expires_at",
    "edited_at",
    "read_at",
    "archived_at",
    "deleted_at",
    "snoozed_until",
    "quiet_until",
)


_NOTIFICATION = b'{"type":"notification",'

# The members of a new item that all its recipients share begin and end here. No text stands before or after.
_CONTENT = b'"title":'
_AFTER_CONTENT = b',"read_at":'

_MAX_FIXMAP = 15


def pack_message(payload: bytes) -> bytes:
    """Return the MessagePack of a message, from its JSON: so each message is defined once."""
    if payload.startswith(_NOTIFICATION):
        return _pack_notification(payload)
    message = _parsed(payload)
    if (expires_at := message.get("expires_at")) is not None:
        message["expires_at"] = parse_time(expires_at)
    if (preferences := message.get("preferences")) is not None:
        _convert(preferences)
    if (item := message.get("notification")) is not None:
        _convert(item)
    for item in message.get("items", ()):
        _convert(item)
    return _packer()(message)


def _pack_notification(payload: bytes) -> bytes:
    """Pack a new item. Its content is packed once for all recipients: deep `data` takes long."""
    begin, end = payload.index(_CONTENT), payload.rindex(_AFTER_CONTENT)
    message = _parsed(payload[:begin] + payload[end + 1 :])
    counts = {name: message.pop(name) for name in ("unread", "unseen", "alert")}
    item = message.pop("notification")
    _convert(item)
    states = {name: item.pop(name) for name in _STATES}
    number, content = _pack_content(payload[begin:end])
    return b"".join(
        (
            _map_header(len(message) + 1 + len(counts)),
            _pack_members(message),
            _packer()("notification"),
            _map_header(len(item) + number + len(states)),
            _pack_members(item),
            content,
            _pack_members(states),
            _pack_members(counts),
        )
    )


@lru_cache(maxsize=32)
def _pack_content(members: bytes) -> tuple[int, bytes]:
    """Return the number of these members of an item, and their MessagePack."""
    content = _parsed(b"{%b}" % members)
    _convert(content)
    return len(content), _pack_members(content)


def _map_header(number: int) -> bytes:
    """Return the first bytes of a map with so many members."""
    return bytes((0x80 | number,)) if number <= _MAX_FIXMAP else b"\xde" + number.to_bytes(2, "big")


def _pack_members(members: dict[str, Any]) -> bytes:
    """Pack up to 15 members without the header of a map, which is then one byte."""
    return _packer()(members)[1:]


def _parsed(payload: bytes) -> dict[str, Any]:
    """Return the JSON of a message. The deepest `data` that a post may have is deeper in the message."""
    parsed: dict[str, Any]
    try:
        # It takes a third of the time of `json.loads`.
        parsed = from_json(payload, cache_strings="keys")
    except ValueError:
        parsed = json.loads(payload)
    return parsed


@cache
def _packer() -> Callable[[Any], bytes]:
    """Return the method that packs a value. One packer for all messages: each allocates a large buffer."""
    from msgpack import Packer

    pack: Callable[[Any], bytes] = Packer(default=_rounded).pack
    return pack


def _convert(item: dict[str, Any]) -> None:
    """Convert the id and the times of an item, of a part of it, or of preferences."""
    if (identifier := item.get("id")) is not None:
        item["id"] = bytes.fromhex(identifier.replace("-", ""))
    for name in _TIMES:
        if (time := item.get(name)) is not None:
            item[name] = parse_time(time)
    if (answer := item.get("answer")) is not None:
        answer["at"] = parse_time(answer["at"])


def _rounded(number: int) -> float:
    """Return an integer of more than 64 bits, which `data` may have, as JavaScript reads it from JSON."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


NO_TIME = object()
"""What stands in a command for a value that isn't a time in MessagePack: an integer in ms."""


def unpack_command(data: bytes) -> dict[str, Any] | None:
    """Return the fields of a command as its JSON has them, or None if `data` isn't a map with string keys.

    An id that isn't 16 bytes becomes None, or text that is no id, and a time that isn't an integer becomes
    `NO_TIME`. Raises UnicodeDecodeError for a string that isn't UTF-8.
    """
    try:
        fields = _unpacker()(data)
    except UnicodeDecodeError:
        raise
    except ValueError:
        return None
    # The library has refused keys that are neither strings nor bytes.
    if not isinstance(fields, dict) or any(isinstance(name, bytes) for name in fields):
        return None
    if isinstance(ids := fields.get("ids"), list):
        fields["ids"] = list(map(_id_of, ids))
    if "id" in fields:
        fields["id"] = _id_of(fields["id"])
    if (until := fields.get("until")) is not None:
        is_time = type(until) is int and 0 <= until <= LATEST_MS
        fields["until"] = timestamp(until) if is_time else NO_TIME
    return fields


@cache
def _unpacker() -> Callable[[bytes], Any]:
    """Return a function that unpacks the only value of some bytes, or raises ValueError."""
    from msgpack import unpackb

    return partial(unpackb, max_array_len=MAX_ARRAY)


def _id_of(value: Any) -> str | None:
    if not isinstance(value, bytes):
        return None
    digits = value.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
