"""Problem details (RFC 9457): their body, and the code of those that only repeat the HTTP status."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

MEDIA_TYPE = "application/problem+json"

NO_TYPE = "about:blank"
"""The type of a problem that only repeats the HTTP status (RFC 9457, section 4.2.1)."""


def problem(
    kind: str,
    status: int,
    code: str,
    title: str,
    detail: str,
    errors: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """Return the body of a problem. `kind` is its `type`, a URL. `errors` has a field and a message each."""
    body: dict[str, Any] = {
        "type": kind,
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
    }
    if errors:
        body["errors"] = list(errors)
    return body


def problem_code(status: HTTPStatus) -> str:
    """Return the code of a problem that only repeats the HTTP status."""
    return status.phrase.lower().replace(" ", "_")
