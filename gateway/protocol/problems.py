"""The body of a problem (RFC 9457), and the code of one that its status says all of."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

MEDIA_TYPE = "application/problem+json"

NO_TYPE = "about:blank"
"""The type of a problem that the status says all of (RFC 9457, section 4.2.1)."""


def problem(
    kind: str,
    status: int,
    code: str,
    title: str,
    detail: str,
    errors: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """Return the body. `kind` is its `type`, a URL; `errors` are what is wrong with which field."""
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
    """Return the code of a problem that the status says all of."""
    return status.phrase.lower().replace(" ", "_")
