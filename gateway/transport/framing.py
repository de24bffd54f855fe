"""Framing: where a request ends in what a connection sends (RFC 9112, section 6), and how large it may be.

httptools parses all that it is given, however many requests that is. So a protocol that takes one request at
a time has to know how much to give. A head ends at its first empty line, and a body after its length, or
where its chunks end (`chunked`). httptools accepts no other line end than CRLF: it never ends a head earlier.
"""

import re
from functools import lru_cache
from http import HTTPStatus

MAX_HEAD = 64 * 1024
"""Most bytes of a head, and of the empty lines before it; httptools itself has no limit."""

MAX_TARGET = 10 * 1024
"""Most bytes of a request target, which may hold a token: decoding one costs more than all else of a head."""

MAX_PATH = 4 * 1024
"""Most bytes of its path, which has room for a `sub` of 255 characters, each of four bytes, all encoded."""

MAX_PARAMETERS = 100
"""Most parameters of a query: each is decoded by itself, for whoever sends it."""

MAX_LISTS = {b"connection": 256, b"upgrade": 256, b"sec-websocket-protocol": 10 * 1024}
"""Most bytes of a list of a WebSocket handshake, all its fields together: each item is read by itself."""

MAX_LIST_ITEMS = 16
"""Most items of such a list."""

MAX_FIELDS = 100
"""Most header fields of a request."""

EMPTY_LINE = b"\r\n\r\n"

_LINE_ENDS = re.compile(rb"[\r\n]*")

_GATHERED = 4096
"""How many bytes of a head in pieces are gathered before they are parsed."""

_SINGLE = frozenset({b"host", b"authorization", b"content-type", b"idempotency-key"})
"""The fields of which two would be read differently by two programs in a row."""

_MAX_HOST = 300

_HOST = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*")

Header = tuple[bytes, bytes]


class Refused(Exception):
    """A request that is refused before the application sees it, with a status and a reason for a person."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def too_large(detail: str) -> Refused:
    """Return the refusal of a head, or of trailers, over a limit (RFC 6585, section 5)."""
    return Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)


def check_fields(version: str, headers: list[Header]) -> dict[bytes, bytes]:
    """Return the fields by their names in lower case. Raises `Refused` where the request is ambiguous.

    A request of HTTP/1.1 has one `Host`; one of HTTP/1.0 may have none (RFC 9112, section 3.2).
    """
    fields = dict(headers)
    host = fields.get(b"host")
    if version != "1.1" and version != "1.0":  # noqa: PLR1714 - it is the quicker one
        raise _bad("Only HTTP/1.1 and HTTP/1.0 are served.")
    if host is None:
        if version == "1.1":
            raise _bad("A request needs the header Host (RFC 9112, 3.2).")
    elif len(host) > _MAX_HOST or not _is_host(host):
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
    for name in _SINGLE:
        if names.count(name) > 1:
            raise _bad(f"Send the header {name.decode().title()} once.")


def check_target(target: bytes) -> None:
    """Raise `Refused` (RFC 9110, section 15.5.15) for a request target that is too long."""
    if len(target) > MAX_TARGET:
        raise Refused(
            HTTPStatus.REQUEST_URI_TOO_LONG, f"The request target is over {MAX_TARGET // 1024} KiB."
        )
    if len(target.partition(b"?")[0]) > MAX_PATH:
        raise Refused(HTTPStatus.REQUEST_URI_TOO_LONG, f"The path is over {MAX_PATH // 1024} KiB.")
    if target.count(b"&") >= MAX_PARAMETERS:
        raise Refused(HTTPStatus.REQUEST_URI_TOO_LONG, f"The query has over {MAX_PARAMETERS} parameters.")


def check_lists(headers: list[Header]) -> None:
    """Raise `Refused` for a handshake with a list that is too long, before it is taken apart."""
    lists = dict.fromkeys(MAX_LISTS, b"")
    for name, value in headers:
        if name in MAX_LISTS:
            whole = lists[name] = b"%b,%b" % (lists[name], value)
            if len(whole) - 1 > MAX_LISTS[name] or whole.count(b",") > MAX_LIST_ITEMS:
                raise too_large(f"The header {name.decode().title()} has too many items, or is too long.")


def end_of_line_ends(data: bytes, at: int) -> int:
    """Return where the line ends end that a client may send before a request (RFC 9112, section 2.2)."""
    found = _LINE_ENDS.match(data, at)
    return found.end() if found else at


class PartialHead:
    """A head that comes in pieces, each of which is looked at once.

    The first piece is parsed as it is, so that what is no HTTP is refused at once. What follows is gathered:
    httptools copies all that it has of a field with each further piece.
    """

    def __init__(self) -> None:
        self._head = bytearray()
        self._parsed = 0
        self.whole = False

    @property
    def size(self) -> int:
        """Bytes of it that have come."""
        return len(self._head)

    def add(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Take what `data` has of the head from `at` on; return what to parse now, and where the rest begins.

        Raises `Refused` where the head is too long.
        """
        head, known = self._head, len(self._head)
        head += data[at : at + MAX_HEAD - known]
        found = head.find(EMPTY_LINE, max(known - 3, 0))
        self.whole = found >= 0
        if self.whole:
            del head[found + len(EMPTY_LINE) :]
        end = len(head)
        if end == MAX_HEAD and not self.whole:
            raise too_large("The head is over 64 KiB.")
        if not self.whole and self._parsed > 0 and end - self._parsed < _GATHERED:
            return b"", at + end - known
        piece = bytes(head[self._parsed : end])
        self._parsed = end
        return piece, at + end - known
