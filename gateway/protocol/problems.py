"""Problem details (RFC 9457): their body, and the code of those that only repeat the HTTP status."""

from collections.abc import Mapping, Sequence
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


_STATUS_CODES: Mapping[int, str] = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "payload_too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    422: "validation_error",
    426: "upgrade_required",
    429: "too_many_requests",
    431: "request_header_fields_too_large",
    500: "internal_error",
    503: "service_unavailable",
}
"""The code of each status. They are not derived from Python's phrases, which differ between its versions."""


def problem_code(status: int) -> str:
    """Return the code of a problem that only repeats the HTTP status, 400 or higher.

    A status that has no code gets the code of its class (RFC 9110, section 15).
    """
    return _STATUS_CODES.get(status) or _STATUS_CODES[status // 100 * 100]
