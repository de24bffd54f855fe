"""A notification as a service posts it: its fields with their rules, and its conversion for the store."""

import hashlib
import json
import re
import sys
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import to_json

from gateway.api.json_route import Body
from gateway.api.parameters import Sub
from gateway.auth.names import check_sub
from gateway.auth.principals import Service
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Content
from gateway.protocol.links import is_link
from gateway.settings.wording import in_words
from gateway.store.log import Post
from gateway.store.recipients import check_recipient

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid6 import uuid7

MAX_DATA_BYTES = 8 * 1024
MAX_RECIPIENTS = 1000
MAX_URL_CHARACTERS = 2048
CATEGORY = in_words("have only small letters, digits, . _ -", r"^[a-z0-9._-]+$")


def check_url(url: str) -> str:
    """Return the URL if it is safe to link to. Raises ValueError if not."""
    if not is_link(url):
        raise ValueError("it must be an absolute http or https URL, or a path that begins with one slash")
    return url


def check_plain_text(text: str) -> str:
    """Return the text. Raises ValueError if it has a NUL character, which Postgres cannot store."""
    if "\x00" in text:
        raise ValueError("it must not have a NUL character")
    return text


def check_data(data: dict[str, Any]) -> dict[str, Any]:
    """Return the object. Raises ValueError if it is over `MAX_DATA_BYTES` or has a number that JSON lacks."""
    # Refuse a far too long object first: this takes a tenth of the time that `dumps` takes.
    if len(to_json(data)) > 4 * MAX_DATA_BYTES:
        raise ValueError(_TOO_LONG)
    try:
        text = dumps(data)
    except ValueError:
        raise ValueError("it must have only numbers that JSON can hold") from None
    if len(text.encode()) > MAX_DATA_BYTES:
        raise ValueError(_TOO_LONG)
    return data


_TOO_LONG = f"it must have at most {MAX_DATA_BYTES:,} bytes when encoded"


def _as_list(value: Any) -> Any:
    if isinstance(value, str):
        return [check_recipient(check_sub(value))]  # An error here names the field `to`, not `to.0`.
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_RECIPIENTS:
        raise ValueError(f"it must be the id of a user, or a list of 1 to {MAX_RECIPIENTS:,} of them")
    return value


_ONE_SUB = {"type": "string", "minLength": 1, "maxLength": 255}
Recipients = Annotated[
    list[Annotated[Sub, AfterValidator(check_recipient)]],
    BeforeValidator(_as_list),
    WithJsonSchema(
        {"anyOf": [_ONE_SUB, {"type": "array", "items": _ONE_SUB, "minItems": 1, "maxItems": MAX_RECIPIENTS}]}
    ),
]


class Notification(Body):
    """What a backend service says to its users."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"to": "ada", "title": "Your parcel is on its way", "category": "orders", "url": "/orders/7"}
            ]
        }
    )

    to: Annotated[Recipients, Field(description="A user, or up to 1,000 of them.")]
    title: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(check_plain_text)]
    body: (
        Annotated[str, Field(max_length=4000, description="Plain text."), AfterValidator(check_plain_text)]
        | None
    ) = None
    category: Annotated[str, Field(min_length=1, max_length=64, pattern=CATEGORY)] = "default"
    priority: Literal["low", "normal", "high", "urgent"] = "normal"
    url: Annotated[str, Field(max_length=MAX_URL_CHARACTERS), AfterValidator(check_url)] | None = None
    data: (
        Annotated[dict[str, Any], Field(description="Up to 8 KiB, encoded."), AfterValidator(check_data)]
        | None
    ) = None


def to_post(notification: Notification, service: Service, now: int) -> Post:
    """Convert a notification for the store, with a new id. `now` is in ms."""
    content = Content(
        id=str(uuid7()),
        title=notification.title,
        body=notification.body,
        category=notification.category,
        priority=notification.priority,
        url=notification.url,
        data=None if notification.data is None else dumps(notification.data),
        created_at=now,
    )
    return Post(content, service.id, tuple(dict.fromkeys(notification.to)))


_MAYBE_WHOLE_FLOAT = re.compile(r"[0-9](\.0[,}\]]|e[+-]?[0-9])")
"""Matches any whole number written as a float, such as 1.0 or 1e+22, and little else."""


def _number(text: str) -> int | float:
    """Parse a number. Return a whole one as an integer, because 1.0 and 1 are the same in JSON."""
    value = float(text)
    return int(value) if value.is_integer() else value


class Digest:
    """The SHA-256 of a request, for its idempotency key.

    It hashes a JSON array: whether the request is a batch, followed by the notifications. Requests with the
    same meaning have the same hash: neither the order of members or recipients matters, nor 1.0 for 1.
    """

    def __init__(self, begin: bytes) -> None:
        self._hash = hashlib.sha256(begin)

    def add(self, notification: Notification) -> None:
        """Add a notification to the hash."""
        asked = notification.model_dump() | {"to": sorted(set(notification.to))}
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        if _MAYBE_WHOLE_FLOAT.search(text):
            plain = json.loads(text, parse_float=_number)
            text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        self._hash.update(b"," + text.encode())

    def value(self) -> bytes:
        """Finish the hash and return it. Call it once, after the last `add`."""
        self._hash.update(b"]")
        return self._hash.digest()
