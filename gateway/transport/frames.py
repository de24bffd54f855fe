"""WebSocket frames (RFC 6455, section 5): the parser of clients' frames and the encoder of control frames."""

from enum import IntEnum
from typing import NamedTuple

from websockets.frames import EXTERNAL_CLOSE_CODES, CloseCode

from gateway.protocol.close_codes import Close

MAX_CONTROL_BYTES = 125
"""Maximum payload of a control frame, in bytes (RFC 6455, section 5.5)."""

_EXTENDED_BYTES = {126: 2, 127: 8}
"""The size of the extended length in bytes, by the length in the second byte."""

_MASK_BYTES = 4
_HEADER_BYTES = 2
_PRIVATE_CODES = range(3000, 5000)


class Opcode(IntEnum):
    """The opcode of a frame (RFC 6455, section 11.8)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


_OPCODES = {opcode.value: opcode for opcode in Opcode}


class BadFrame(Exception):
    """Raised for bytes that break the protocol. `code` and `reason` are those of the close frame."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Frame(NamedTuple):
    """A frame of a client, without its mask. `fin` says that it ends its message."""

    opcode: Opcode
    data: bytes
    fin: bool


def parse_frame(received: bytes | bytearray, at: int, room: int) -> tuple[Frame, int] | None:
    """Return the frame that begins at index `at`, and the index after it, or None if more bytes must come.

    `room` is how many bytes the payload of a data frame may have. Raises `BadFrame` as soon as the bytes
    break the protocol, before the rest of the frame has come.
    """
    size = len(received) - at
    if size < _HEADER_BYTES:
        return None
    first, second = received[at], received[at + 1]
    opcode = _opcode(first, second)
    length = second & 0x7F
    head = _HEADER_BYTES
    if (extended := _EXTENDED_BYTES.get(length)) is not None:
        head += extended
        if size < head:
            return None
        length = int.from_bytes(received[at + _HEADER_BYTES : at + head], "big")
    if length > room and opcode < Opcode.CLOSE:
        raise BadFrame(Close.TOO_BIG, "payload_too_large")
    end = at + head + _MASK_BYTES + length
    if len(received) < end:
        return None
    mask, data = received[at + head : at + head + _MASK_BYTES], received[at + head + _MASK_BYTES : end]
    return Frame(opcode, _unmasked(data, mask), bool(first & 0x80)), end


def _unmasked(data: bytes | bytearray, mask: bytes | bytearray) -> bytes:
    """Return the payload without its mask (RFC 6455, section 5.3). A number is quicker than a loop."""
    size = len(data)
    repeated = (mask * (size // _MASK_BYTES + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")


def _opcode(first: int, second: int) -> Opcode:
    """Return the opcode. Raises `BadFrame` if the two bytes that every frame begins with aren't allowed."""
    opcode = _OPCODES.get(first & 0x0F)
    if opcode is None or first & 0x70 or not second & 0x80:
        raise protocol_error()  # An unknown opcode, a reserved bit, or no mask (sections 5.1 and 5.2).
    if opcode >= Opcode.CLOSE and (not first & 0x80 or second & 0x7F > MAX_CONTROL_BYTES):
        raise protocol_error()
    return opcode


def protocol_error() -> BadFrame:
    """Return the error for a frame that RFC 6455 doesn't allow at this point, or never allows."""
    return BadFrame(Close.PROTOCOL_ERROR, "protocol_error")


def close_code(data: bytes) -> int:
    """Return the code of a close frame's payload, 1005 if it has none. Raises `BadFrame` for any other."""
    if not data:
        return CloseCode.NO_STATUS_RCVD
    code = int.from_bytes(data[:2], "big")
    if len(data) < 2 or (code not in EXTERNAL_CLOSE_CODES and code not in _PRIVATE_CODES):  # noqa: PLR2004
        raise protocol_error()
    decode_text(data[2:])
    return code


def decode_text(data: bytes | bytearray) -> str:
    """Return text. Raises `BadFrame` if it isn't UTF-8 (RFC 6455, section 8.1)."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        pass
    raise BadFrame(Close.INVALID_DATA, "invalid_utf8")


def control_frame(opcode: Opcode, data: bytes) -> bytes:
    """Return an unmasked control frame with at most `MAX_CONTROL_BYTES` of data."""
    return b"%c%c%b" % (0x80 | opcode, len(data), data)
