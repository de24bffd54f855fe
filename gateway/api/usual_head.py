"""The head of an ordinary request: what the fast paths may answer without asking the application."""

from collections.abc import Collection, Mapping

from starlette.types import Scope

from gateway.api.state import Gateway
from gateway.auth.principals import Principal

_IGNORED = frozenset(
    {
        b"host",
        b"user-agent",
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"cache-control",
        b"connection",
        b"dnt",
        b"forwarded",
        b"pragma",
        b"priority",
        b"referer",
        b"sec-ch-ua",
        b"sec-ch-ua-mobile",
        b"sec-ch-ua-platform",
        b"sec-fetch-dest",
        b"sec-fetch-mode",
        b"sec-fetch-site",
        b"sec-gpc",
        b"traceparent",
        b"tracestate",
        b"via",
        # Resolved, or not to be trusted.
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-proto",
        b"x-real-ip",
    }
)
"""Headers that common clients and proxies send, and that the application ignores, too."""


def usual_fields(scope: Scope, read: Collection[bytes]) -> Mapping[bytes, bytes] | None:
    """Return the headers of a request, or None if one is unknown or repeated.

    `read` has the names of those that affect the response.
    """
    headers = scope["headers"]
    fields: dict[bytes, bytes] = dict(headers)
    if len(fields) != len(headers):
        return None
    if any(name not in _IGNORED and name not in read for name in fields):
        return None
    return fields


def known_caller(state: Gateway, fields: Mapping[bytes, bytes]) -> Principal | None:
    """Return the caller whose token or API key is cached, or None if it must be verified."""
    scheme, _, token = fields.get(b"authorization", b"").decode("latin-1").partition(" ")
    return state.tokens.recall(token.strip()) if scheme == "Bearer" else None
