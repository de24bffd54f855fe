"""Conditional GET: 304 to a client that has the answer already (RFC 9110, section 13.1.2)."""

from collections.abc import Mapping
from hashlib import sha256

from starlette.responses import Response

MAX_VALIDATORS, MAX_VALIDATORS_LENGTH = 16, 1024
"""How many validators an `If-None-Match` may have, and how many characters, to be looked at."""


def etag_of(content: bytes) -> str:
    """Return the `ETag` of an answer with this content."""
    return f'"{sha256(content).hexdigest()[:32]}"'


def not_modified(if_none_match: str | None, headers: Mapping[str, str]) -> Response | None:
    """Return a 304 with these headers for a client that has what their `ETag` names, else None."""
    if is_known(if_none_match or "", headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return None


def is_known(if_none_match: str, etag: str) -> bool:
    """Whether the client has what this tag names: weakly compared, as the RFC has it.

    A list that no cache makes is not looked at. The answer is then whole, which is never wrong.
    """
    if len(if_none_match) > MAX_VALIDATORS_LENGTH or if_none_match.count(",") >= MAX_VALIDATORS:
        return False
    opaque = etag.removeprefix("W/")
    return any(tag.strip().removeprefix("W/") in {opaque, "*"} for tag in if_none_match.split(","))
