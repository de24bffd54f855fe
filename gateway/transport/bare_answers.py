"""Bare answers: what a connection is told that the application never hears of."""

from http import HTTPStatus

from gateway.transport.connections import Full
from gateway.transport.headers import bare_problem

RETRY_AFTER = 5
"""After how many seconds a client may try again whose connection was refused."""


def answer_of(status: HTTPStatus, detail: str, *, retry_after: int | None = None) -> bytes:
    """Return a whole answer that is a problem (RFC 9457), and the last one of its connection."""
    headers, body = bare_problem(status, detail, retry_after=retry_after)
    line = b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode())
    return line + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n" + body


def refusal_of(full: Full) -> bytes:
    """Return the answer to a client whose connection is refused."""
    return answer_of(full.status, full.detail, retry_after=RETRY_AFTER)
