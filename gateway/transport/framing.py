"""Framing: where a request ends in the bytes of a connection (RFC 9112, section 6), and its maximum size.

httptools parses all the bytes that it is given, even if they contain several requests. A protocol that takes
one request at a time must therefore know how many bytes to pass. A head ends at its first empty line. A body
ends after its length, or with its last chunk (`chunked`). httptools accepts only CRLF as a line end, so it
never ends a head earlier.
"""

import re
from functools import lru_cache
from http import HTTPStatus

MAX_HEAD_BYTES = 64 * 1024
"""Maximum size of a head, and of the empty lines before it, in bytes. httptools itself has no limit."""

MAX_TARGET_BYTES = 10 * 1024
"""Maximum size of a request target, in bytes.

A target may hold a token. Decoding a target costs more than everything else in a head.
"""

MAX_PATH_BYTES = 4 * 1024
"""Maximum size of the target's path, in bytes.

It has room for a `sub` of 255 characters of four bytes each, all percent-encoded.
"""

MAX_PARAMETERS = 100
"""Maximum number of parameters in a query. Each is decoded separately, before the client is known."""

MAX_LIST_BYTES = {b"connection": 256, b"upgrade": 256, b"sec-websocket-protocol": 10 * 1024}
"""Maximum size of each list header of a WebSocket handshake, all its fields together, in bytes.

Each item of a list is parsed separately.
"""

MAX_LIST_ITEMS = 16
"""Maximum number of items in such a list."""

MAX_FIELDS = 100
"""Maximum number of header fields in a request."""

EMPTY_LINE = b"\r\n\r\n"

_LINE_ENDS = re.compile(rb"[\r\n]*")

_MIN_PIECE_BYTES = 4096
"""Minimum number of bytes to collect before the next piece of a partial head is parsed."""

_UNREPEATABLE = frozenset({b"host", b"authorization", b"content-type", b"idempotency-key"})
"""Fields that may occur only once.

Two programs in a chain, such as a proxy and the gateway, could each choose a different one.
"""

_MAX_HOST_BYTES = 300

_HOST = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*")

Header = tuple[bytes, bytes]


class Refused(Exception):
    """Raised to refuse a request before the application sees it. `detail` tells a person the reason."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def too_large(detail: str) -> Refused:
    """Return the refusal for a head, or for trailers, over a limit (RFC 6585, section 5)."""
    return Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)


def check_fields(version: str, headers: list[Header]) -> dict[bytes, bytes]:
    """Return the fields by name. Raises `Refused` if the request is ambiguous.

    The names in `headers` must be in lower case. An HTTP/1.1 request must have one `Host`; an HTTP/1.0
    request may omit it (RFC 9112, section 3.2).
    """
    fields = dict(headers)
    host = fields.get(b"host")
    if version != "1.1" and version != "1.0":  # noqa: PLR1714 - faster than `in`
        raise _bad("Only HTTP/1.1 and HTTP/1.0 are served.")
    if host is None:
        if version == "1.1":
            raise _bad("A request needs the header Host (RFC 9112, 3.2).")
    elif len(host) > _MAX_HOST_BYTES or not _is_host(host):
        raise _bad("The header Host must be a host and a port (RFC 9110, 7.2).")
    if len(fields) != len(headers):
        _refuse_repeated(headers)
    return fields


@lru_cache(maxsize=64)
def _is_host(host: bytes) -> bool:
    return _HOST.fullmatch(host) is not None


def _bad(detail: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, detail)


def _refuse_repeated(headers: list[Header]) -> None:
    names = [name for name, _ in headers]
    for name in _UNREPEATABLE:
        if names.count(name) > 1:
            raise _bad(f"Send the header {name.decode().title()} once.")


def check_target(target: bytes) -> None:
    """Raise `Refused` if the request target is too long (RFC 9110, section 15.5.15)."""
    if len(target) > MAX_TARGET_BYTES:
        raise Refused(
            HTTPStatus.REQUEST_URI_TOO_LONG, f"The request target is over {MAX_TARGET_BYTES // 1024} KiB."
        )
    if len(target.partition(b"?")[0]) > MAX_PATH_BYTES:
        raise Refused(HTTPStatus.REQUEST_URI_TOO_LONG, f"The path is over {MAX_PATH_BYTES // 1024} KiB.")
    if target.count(b"&") >= MAX_PARAMETERS:
        raise Refused(HTTPStatus.REQUEST_URI_TOO_LONG, f"The query has over {MAX_PARAMETERS} parameters.")


def check_lists(headers: list[Header]) -> None:
    """Raise `Refused` if a list header of a handshake is too long. Call it before the lists are parsed."""
    lists = dict.fromkeys(MAX_LIST_BYTES, b"")
    for name, value in headers:
        if name in MAX_LIST_BYTES:
            whole = lists[name] = b"%b,%b" % (lists[name], value)
            if len(whole) - 1 > MAX_LIST_BYTES[name] or whole.count(b",") > MAX_LIST_ITEMS:
                raise too_large(f"The header {name.decode().title()} has too many items, or is too long.")


def end_of_line_ends(data: bytes, at: int) -> int:
    """Return the index after any line ends, which may precede a request (RFC 9112, section 2.2)."""
    found = _LINE_ENDS.match(data, at)
    return found.end() if found else at


class PartialHead:
    """A head that arrives in pieces. Each byte is searched once.

    The first piece is parsed immediately, so that a client that doesn't speak HTTP is refused at once.
    Further bytes are collected into larger pieces, because httptools copies all it has of a field with each
    piece.
    """

    def __init__(self) -> None:
        self._head = bytearray()
        self._parsed = 0
        self.whole = False

    @property
    def size(self) -> int:
        """Number of bytes received so far."""
        return len(self._head)

    def add(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Add the part of the head in `data` from index `at` on.

        Return the bytes to parse now, and the index after the part that was added. Raises `Refused` if the
        head is too long.
        """
        head, known = self._head, len(self._head)
        head += data[at : at + MAX_HEAD_BYTES - known]
        found = head.find(EMPTY_LINE, max(known - 3, 0))
        self.whole = found >= 0
        if self.whole:
            del head[found + len(EMPTY_LINE) :]
        end = len(head)
        if end == MAX_HEAD_BYTES and not self.whole:
            raise too_large("The head is over 64 KiB.")
        if not self.whole and self._parsed > 0 and end - self._parsed < _MIN_PIECE_BYTES:
            return b"", at + end - known
        piece = bytes(head[self._parsed : end])
        self._parsed = end
        return piece, at + end - known
