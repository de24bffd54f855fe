"""Bare answers: responses to connections and requests that never reach the application."""

from http import HTTPStatus

from gateway.transport.connections import Full
from gateway.transport.headers import bare_problem

RETRY_AFTER_SECONDS = 5
"""How long a client that was refused with 429 or 503 should wait before it retries, in seconds."""

_RETRYABLE = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


def answer_of(status: HTTPStatus, detail: str) -> bytes:
    """Return a complete response with a problem (RFC 9457) that also closes its connection."""
    headers, body = bare_problem(
        status, detail, retry_after=RETRY_AFTER_SECONDS if status in _RETRYABLE else None
    )
    line = b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode())
    return line + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n" + body


def refusal_of(full: Full) -> bytes:
    """Return the response to a client whose connection is refused."""
    return answer_of(full.status, full.detail)
