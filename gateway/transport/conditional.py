"""Conditional GET: 304 for a client whose cached response is current (RFC 9110, section 13.1.2)."""

from collections.abc import Mapping
from hashlib import sha256

from starlette.responses import Response

MAX_VALIDATORS, MAX_VALIDATORS_LENGTH = 16, 1024
"""Maximum number of validators, and of characters, in an `If-None-Match`. A longer one is ignored."""


def etag_of(content: bytes) -> str:
    """Return the `ETag` for a response with this content."""
    return f'"{sha256(content).hexdigest()[:32]}"'


def not_modified(if_none_match: str | None, headers: Mapping[str, str]) -> Response | None:
    """Return a 304 with these headers if the client has the content that their `ETag` names, else None."""
    if is_known(if_none_match or "", headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return None


def is_known(if_none_match: str, etag: str) -> bool:
    """Return whether the client has the content that this tag names, by the weak comparison of the RFC.

    A list too long to come from a cache is ignored. The client then gets the full response, which is always
    correct.
    """
    if len(if_none_match) > MAX_VALIDATORS_LENGTH or if_none_match.count(",") >= MAX_VALIDATORS:
        return False
    opaque = etag.removeprefix("W/")
    return any(tag.strip().removeprefix("W/") in {opaque, "*"} for tag in if_none_match.split(","))
