"""A decoder for bodies in chunks (RFC 9112, section 7.1), which works in bounded steps.

The HTTP parser doesn't stop at the end of a body. Its input would have to be cut at every empty line that
might be the end. This decoder never searches the data of a chunk for a line end, so each byte of data costs
the same, whatever its value.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from gateway.transport.framing import MAX_FIELDS, Refused, too_large

STEP_BYTES = 16 * 1024
"""Maximum number of bytes of a body in chunks that are decoded in one step."""

MAX_STEP_CHUNKS = 256
"""Maximum number of chunks in a step."""

MAX_TRAILER_BYTES = 16 * 1024
"""Maximum size of chunk extensions and trailers, in bytes: all of a body in chunks except its data."""

_FRAME_PER_BYTE = 8
"""Bytes of framing allowed for each byte of data. A chunk of one byte needs five."""

_TEXT = rb"[^\x00-\x08\x0a-\x1f\x7f]*+"

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"

_QUOTED = rb'"(?:[^\x00-\x08\x0a-\x1f\x7f"\\]|\\[^\x00-\x08\x0a-\x1f\x7f])*+"'

_SIZE = rb"([0-9A-Fa-f]{1,16}+)"

_EXTENSIONS = rb"(?:;" + _TOKEN + rb"++(?:=(?:" + _QUOTED + rb"|" + _TOKEN + rb"*+))?)*+"


_WHOLE, _BEGUN = _SIZE + _EXTENSIONS + rb"\r\n", _SIZE + rb"(?:;" + _TEXT + rb")?\r?"

_first = re.compile(_WHOLE).match

_first_begun = re.compile(_BEGUN).fullmatch

_further = re.compile(rb"\r\n" + _WHOLE).match

_further_begun = re.compile(rb"\r(?:\n(?:" + _BEGUN + rb")?)?").fullmatch

_trailer = re.compile(rb"(?:" + _TOKEN + rb"++:" + _TEXT + rb")?\r\n").match

_trailer_begun = re.compile(rb"(?:" + _TOKEN + rb"++(?::" + _TEXT + rb")?)?\r?").fullmatch

_Match = Callable[..., re.Match[bytes] | None]


@dataclass(frozen=True, slots=True)
class _Line:
    """A kind of line: a pattern for it, a pattern for its beginning, and the index of its text."""

    whole: _Match
    begun: _Match
    text_at: int = 0


_FIRST = _Line(_first, _first_begun)

# It begins with the line end after the data of the previous chunk, so that one match covers both.
_FURTHER = _Line(_further, _further_begun, len(b"\r\n"))

_TRAILER = _Line(_trailer, _trailer_begun)


class ChunkedBody:
    """A body in chunks. It is `whole` when its trailers, which are dropped, have ended.

    `lines` is the number of framing lines so far: one for each chunk and each trailer.
    """

    def __init__(self) -> None:
        self.whole = False
        self.lines = 0
        self._line = _FIRST
        self._left = 0
        self._partial = bytearray()
        self._spare = MAX_TRAILER_BYTES
        self._fields = 0

    def take(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Decode one step of `data`, from index `at` on.

        Return the bytes of the body, and the index after the step. Raises `Refused` if the framing is broken,
        or too large for the size of the body.
        """
        began, end, lines_end = at, min(at + STEP_BYTES, len(data)), self.lines + MAX_STEP_CHUNKS
        parts = []
        while at < end and self.lines < lines_end and not self.whole:
            if left := self._left:
                part = data[at : min(at + left, end)]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
            elif not self._partial and (found := self._line.whole(data, at, end)):
                at = found.end()
                self._read(found)
            else:
                at = self._take_partial(data, at, end)
        body = b"".join(parts)
        self._count(len(body), at - began - len(body))
        return body, at

    def _take_partial(self, data: bytes, at: int, end: int) -> int:
        """Take a line that arrives in pieces. Return the index after it, or `end` if it is incomplete."""
        line, partial, known = self._line, self._partial, len(self._partial)
        partial += data[at:end]
        found = partial.find(b"\r\n", max(known - 1, line.text_at))
        if found < 0:
            if not known and not line.begun(partial):
                raise _broken()
            return end
        text = bytes(partial[: found + 2])
        partial.clear()
        whole = line.whole(text)
        if whole is None:
            raise _broken()
        self._read(whole)
        return at + len(text) - known

    def _read(self, line: re.Match[bytes]) -> None:
        self.lines += 1
        if self._line is _TRAILER:
            self.whole = line.end() - line.start() == len(b"\r\n")
            self._fields += 1
            if self._fields > MAX_FIELDS and not self.whole:
                raise too_large("The head, or the trailer, has over 100 fields.")
        else:
            self._left = int(line[1], 16)
            self._line = _FURTHER if self._left else _TRAILER

    def _count(self, data_bytes: int, frame_bytes: int) -> None:
        self._spare = min(self._spare + data_bytes * _FRAME_PER_BYTE - frame_bytes, MAX_TRAILER_BYTES)
        if self._spare < 0:
            raise too_large("The chunk extensions and trailers are over 16 KiB.")


def _broken() -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, "This is not HTTP/1.1 (RFC 9112).")
