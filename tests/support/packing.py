"""MessagePack as a client of `notify.v1.msgpack` would read and write it, by the library."""

import re
from typing import Any
from uuid import UUID

import msgpack

from gateway.protocol.times import parse_time, timestamp

TIMES = {
    "created_at",
    "expires_at",
    "edited_at",
    "read_at",
    "archived_at",
    "deleted_at",
    "snoozed_until",
    "quiet_until",
}

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def unpacked(frame: bytes) -> Any:
    """Return a message as its JSON has it. Its ids must be 16 bytes, and its times integers."""
    message = msgpack.unpackb(frame)
    parts = (message.get("notification") or {}, message.get("preferences") or {})
    for holder in (message, *parts, *message.get("items", ())):
        if "id" in holder:
            assert len(holder["id"]) == 16
            holder["id"] = str(UUID(bytes=holder["id"]))
        for name in TIMES & set(holder):
            if holder[name] is not None:
                assert type(holder[name]) is int
                holder[name] = timestamp(holder[name])
        if (answer := holder.get("answer")) is not None:
            answer["at"] = timestamp(answer["at"])
    return message


def packed(command: dict[str, Any]) -> bytes:
    """Return a command with its ids as 16 bytes and its times as integers. What is neither stays as it is."""
    ids, until = command.get("ids"), command.get("until")
    if is_uuid(command.get("id")):
        command = {**command, "id": UUID(command["id"]).bytes}
    if isinstance(until, str) and _TIME.fullmatch(until):
        command = {**command, "until": parse_time(until)}
    if isinstance(ids, list):
        command = {**command, "ids": [UUID(one).bytes if is_uuid(one) else one for one in ids]}
    data: bytes = msgpack.packb(command)
    return data


def is_uuid(value: Any) -> bool:
    """Return whether a value is an id as JSON has it."""
    try:
        return isinstance(value, str) and str(UUID(value)) == value.lower()
    except ValueError:
        return False
