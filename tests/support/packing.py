"""MessagePack as a client of `notify.v1.msgpack` would read and write it, by the library."""

from typing import Any
from uuid import UUID

import msgpack

from gateway.protocol.times import timestamp

TIMES = {
    "created_at",
    "expires_at",
    "edited_at",
    "read_at",
    "archived_at",
    "deleted_at",
    "snoozed_until",
}


def unpacked(frame: bytes) -> Any:
    """Return a message as its JSON has it. Its ids must be 16 bytes, and its times integers."""
    message = msgpack.unpackb(frame)
    for holder in (message, message.get("notification") or {}, *message.get("items", ())):
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
    """Return a command with its ids as 16 bytes. Elements of `ids` that are no ids stay as they are."""
    ids = command.get("ids")
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
