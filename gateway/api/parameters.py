"""Shared parameters: the id of a user in a path or a body, and the cursor and limit of a list."""

import re
from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import Depends, Path, Query
from pydantic import AfterValidator, Field
from starlette.requests import HTTPConnection

from gateway.auth.names import MAX_SUB, check_sub
from gateway.errors import Invalid, PreconditionFailed
from gateway.settings.wording import in_words

Sub = Annotated[
    str,
    Field(min_length=1, max_length=MAX_SUB, description="The id of a user, of your own choosing."),
    AfterValidator(check_sub),
]
"""A user's id in a body. The gateway never interprets it."""


async def _sub_path(
    connection: HTTPConnection,
    sub: Annotated[
        str,
        Path(
            description="The id of a user; percent-encode what a path cannot hold, `/` as `%2F`.",
            json_schema_extra={"minLength": 1, "maxLength": MAX_SUB},
        ),
    ],
) -> str:
    """Return the `sub` in the path `/v1/users/{sub}…`, decoded from the raw path. Raises `Invalid`.

    The path that routing uses is already decoded, and no longer shows which `/` was part of the `sub`.
    """
    raw: bytes | None = connection.scope.get("raw_path")
    try:
        if raw is not None:
            before = str(connection.scope.get("root_path", "")).rstrip("/").count("/")
            sub = unquote_to_bytes(raw.split(b"/")[before + 3]).decode()
        return check_sub(sub)
    except ValueError as error:
        raise Invalid.field(
            "sub", "it must be UTF-8" if isinstance(error, UnicodeError) else str(error)
        ) from None


SubPath = Annotated[str, Depends(_sub_path)]


_KEY_CURSOR = in_words("be the `next` of a page", "^[0-9a-f]{0,32}$")
NumberCursor = Annotated[
    int, Query(ge=0, le=2**62, description="Where to go on: the `next` of the page before.")
]
KeyCursor = Annotated[
    str, Query(pattern=_KEY_CURSOR, description="Where to go on: the `next` of the page before.")
]
Limit = Annotated[int, Query(ge=1, le=200, description="How many to return at most.")]


def read_if_match(value: str | None) -> list[str] | None:
    """Return the tags of an `If-Match` (RFC 9110, section 13.1.1), or None if anything matches.

    Raises `PreconditionFailed` for a tag without quotes, which a client would take for one that is outdated.
    """
    if value is None or value.strip() == "*":
        return None
    tags = _TAG.findall(value)
    if not tags or _TAG.sub("", value).strip(", \t"):
        raise PreconditionFailed(
            'If-Match: it must be in double quotes, such as "x", or a list of such tags.'
        )
    return tags


_TAG = re.compile('(?:W/)?"[^"]*"')
