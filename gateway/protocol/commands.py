"""The commands of a client, decoded from text frames, or from MessagePack in binary frames."""

import json
from enum import StrEnum
from typing import Any, NamedTuple

from gateway.protocol.items import MAX_SEQ, is_id
from gateway.protocol.packing import MAX_ARRAY, NO_TIME, unpack_command
from gateway.protocol.times import now_ms, read_snooze
from gateway.settings.wording import nearest


class CommandType(StrEnum):
    """The types of commands."""

    ACK = "ack"
    READ = "read"
    UNREAD = "unread"
    ARCHIVE = "archive"
    DELETE = "delete"
    SNOOZE = "snooze"
    ACT = "act"
    SEEN = "seen"
    AUTH = "auth"
    PING = "ping"


class BadCommand(Exception):
    """A frame that isn't a valid command. `ref` is the frame's, if it has a valid one."""

    def __init__(self, code: str, detail: str, ref: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.ref = ref


class Command(NamedTuple):
    """A command of a client, with the fields that its type requires."""

    type: CommandType
    ref: str | None = None
    ids: tuple[str, ...] = ()
    seq: int | None = None
    token: str | None = None
    until: int | None = None
    action: str = ""
    text: str | None = None


MAX_REPLY = 1000
"""Maximum length of the text of an answer, in characters."""

_NOT_A_MAP = (
    f"A frame is one MessagePack map with strings as keys; an array has at most {MAX_ARRAY} elements."
)

_MAX_REF_LENGTH = 64
"""Maximum length of a `ref`, in characters."""


def decode_command(text: str) -> Command:
    """Decode a text frame.

    Raises `BadCommand` if it isn't JSON, an object or a known command, or if a field is missing or invalid.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise BadCommand("malformed", "A frame is one JSON object.") from None
    if not isinstance(message, dict):
        raise BadCommand("malformed", "A frame is one JSON object.")
    return _command(message)


def decode_packed_command(data: bytes) -> Command:
    """Decode a binary frame, whose ids are 16 bytes each.

    Raises what `decode_command` raises, and UnicodeDecodeError for a string that isn't UTF-8.
    """
    message = unpack_command(data)
    if message is None:
        raise BadCommand("malformed", _NOT_A_MAP)
    return _command(message)


def _command(message: dict[str, Any]) -> Command:
    """Return the command of a decoded frame."""
    ref = message.get("ref")
    if ref is not None and not (isinstance(ref, str) and len(ref) <= _MAX_REF_LENGTH and _encodable(ref)):
        raise BadCommand("invalid_field", f"ref: a string of at most {_MAX_REF_LENGTH} characters.")
    given = message.get("type")
    name = given if isinstance(given, str) else ""
    try:
        kind = CommandType(name)
    except ValueError:
        near = nearest(name, tuple(CommandType))
        hint = "" if near is None else f" Did you mean {near}?"
        raise BadCommand("unknown_command", f"type: one of {', '.join(CommandType)}.{hint}", ref) from None
    return _COMMANDS[kind](kind, message, ref)


def _encodable(text: str) -> bool:
    """Whether UTF-8 can encode `text`. JSON escapes can spell half of a surrogate pair, which it can't."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _bare(kind: CommandType, _message: dict[str, Any], ref: str | None) -> Command:
    return Command(kind, ref)


def _with_ids(kind: CommandType, message: dict[str, Any], ref: str | None) -> Command:
    ids = message.get("ids")
    if not isinstance(ids, list) or not ids or not all(isinstance(one, str) and is_id(one) for one in ids):
        raise BadCommand(
            "invalid_field", "ids: a list of one or more ids of notifications, and nothing else.", ref
        )
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


def _with_until(kind: CommandType, message: dict[str, Any], ref: str | None) -> Command:
    command = _with_ids(kind, message, ref)
    if "until" not in message:
        raise BadCommand("invalid_field", "until: it is required: a time, or null to end the snooze.", ref)
    if message["until"] is None:
        return command
    if message["until"] is NO_TIME:
        raise BadCommand("invalid_field", "until: it must be an integer in ms since 1970, or nil.", ref)
    try:
        return command._replace(until=read_snooze(message["until"], now_ms()))
    except ValueError as error:
        raise BadCommand("invalid_field", f"until: {error}.", ref) from None


def _with_action(kind: CommandType, message: dict[str, Any], ref: str | None) -> Command:
    identifier, action, text = message.get("id"), message.get("action"), message.get("text")
    if not isinstance(identifier, str) or not is_id(identifier):
        raise BadCommand("invalid_field", "id: the id of a notification.", ref)
    if not isinstance(action, str) or not action:
        raise BadCommand("invalid_field", "action: the id of one of its actions.", ref)
    if text is not None and not (
        isinstance(text, str) and 1 <= len(text) <= MAX_REPLY and "\x00" not in text and _encodable(text)
    ):
        detail = f"text: a string of 1 to {MAX_REPLY:,} characters, none of them NUL."
        raise BadCommand("invalid_field", detail, ref)
    return Command(kind, ref, ids=(identifier.lower(),), action=action, text=text)


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
    CommandType.SNOOZE: _with_until,
    CommandType.ACT: _with_action,
    CommandType.SEEN: _with_up_to,
    CommandType.AUTH: _with_token,
    CommandType.PING: _bare,
}
