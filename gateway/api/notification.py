"""A notification as a service posts it: its fields with their rules, and its conversion for the store."""

import hashlib
import json
import re
import sys
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema
from pydantic_core import to_json

from gateway.api.json_route import Body
from gateway.api.parameters import Sub
from gateway.auth.names import check_sub
from gateway.auth.principals import Service
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Content
from gateway.protocol.links import is_link
from gateway.protocol.times import now_ms, read_deliver_at, read_moment
from gateway.settings.wording import in_words
from gateway.store.arrivals import Options, Post
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


def check_label(label: str) -> str:
    """Return the label of a button. Raises ValueError if nobody could see it."""
    if all(one.isspace() or not one.isprintable() for one in check_plain_text(label)):
        raise ValueError("it must have a visible character")
    return label


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
_TIME = WithJsonSchema({"type": "string", "format": "date-time"})
Moment = Annotated[int, BeforeValidator(read_moment), _TIME]
"""A time in a body: RFC 3339 with its zone, in ms once validated."""

MAX_TTL_SECONDS = 31_622_400
MAX_ACTIONS = 4
COLLAPSE_KEY = in_words("have only the letters a-z and A-Z, the digits 0-9, . _ : -", r"^[A-Za-z0-9._:-]+$")
ACTION_ID = in_words("have only small letters, digits, _ -", r"^[a-z0-9_-]+$")


def check_expires_at(moment: int | None, info: ValidationInfo) -> int | None:
    """Return the time. Raises ValueError if it contradicts another member."""
    if moment is not None and info.data.get("ttl") is not None:
        raise ValueError("it must be left out if there is a ttl")
    deliver_at = info.data.get("deliver_at")
    if moment is not None and deliver_at is not None and moment <= deliver_at:
        raise ValueError("it must be later than deliver_at")
    return moment


def check_actions(actions: list["Action"]) -> list["Action"]:
    """Return the actions. Raises ValueError if two have the same id."""
    if len({action.id for action in actions}) < len(actions):
        raise ValueError("each action must have an id of its own")
    return actions


class Action(Body):
    """A button of a notification. The user presses one of them, once."""

    id: Annotated[str, Field(min_length=1, max_length=32, pattern=ACTION_ID)]
    label: Annotated[str, Field(min_length=1, max_length=40), AfterValidator(check_label)]
    style: Annotated[
        Literal["primary", "default", "danger"], Field(description="How clients show the button.")
    ] = "default"
    url: Annotated[
        Annotated[str, Field(max_length=MAX_URL_CHARACTERS), AfterValidator(check_url)] | None,
        Field(description="What the button opens: clients show a link. As the `url` of the notification."),
    ] = None
    reply: Annotated[bool, Field(description="Whether the answer has a text.")] = False


_Url = Annotated[str, Field(max_length=MAX_URL_CHARACTERS), AfterValidator(check_url)]
Link = Annotated[
    _Url | None,
    Field(
        description="What a click opens: an absolute http or https URL, or a path that begins with one slash."
    ),
]
Title = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(check_plain_text)]
Text = Annotated[
    Annotated[str, Field(max_length=4000), AfterValidator(check_plain_text)] | None,
    Field(description="Plain text, below the title."),
]
Priority = Literal["low", "normal", "high", "urgent"]
Data = Annotated[
    Annotated[dict[str, Any], AfterValidator(check_data)] | None,
    Field(description="Any JSON object, for programs: up to 8 KiB, encoded."),
]
Icon = Annotated[
    _Url | None, Field(description="An image that clients may show beside the title: a URL as in `url`.")
]
Actions = Annotated[
    Annotated[list[Action], Field(min_length=1, max_length=MAX_ACTIONS), AfterValidator(check_actions)]
    | None,
    Field(description="Buttons, each with an id of its own."),
]
DeliverAt = Annotated[int, BeforeValidator(lambda text: read_deliver_at(text, now_ms())), _TIME]

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
                {"to": "ada", "title": "Your parcel is on its way", "category": "orders", "url": "/orders/7"},
                {
                    "to": ["ada", "bob"],
                    "title": "Deploy to production?",
                    "priority": "high",
                    "icon": "/icons/deploy.svg",
                    "actions": [
                        {"id": "yes", "label": "Deploy", "style": "primary"},
                        {"id": "no", "label": "Not now", "reply": True},
                    ],
                    "deliver_at": "2026-12-01T08:00:00+01:00",
                    "ttl": 86_400,
                    "collapse_key": "deploy",
                },
            ]
        }
    )

    to: Annotated[Recipients, Field(description="A user, or up to 1,000 of them.")]
    title: Title
    body: Text = None
    category: Annotated[
        str,
        Field(
            min_length=1, max_length=64, pattern=CATEGORY, description="Its kind, which the user can mute."
        ),
    ] = "default"
    priority: Priority = "normal"
    url: Link = None
    data: Data = None
    icon: Icon = None
    actions: Actions = None
    deliver_at: Annotated[
        DeliverAt | None,
        Field(
            description="When to deliver it: RFC 3339 with its zone, at most 366 days ahead. Without it, and"
            " in the past, it means now."
        ),
    ] = None
    ttl: Annotated[
        Annotated[int, Field(ge=1, le=MAX_TTL_SECONDS)] | None,
        Field(
            description="How long it is kept from its delivery, in seconds. Not together with `expires_at`."
        ),
    ] = None
    expires_at: Annotated[
        Moment | None,
        AfterValidator(check_expires_at),
        Field(
            description="When it is removed: RFC 3339 with its zone, later than now and than `deliver_at`."
            " Not together with `ttl`."
        ),
    ] = None
    collapse_key: Annotated[
        Annotated[str, Field(min_length=1, max_length=64, pattern=COLLAPSE_KEY)] | None,
        Field(
            description="It replaces your earlier notification of this key in each inbox it enters, unless"
            " that one is archived."
        ),
    ] = None


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
    recipients = tuple(dict.fromkeys(notification.to))
    if notification.model_fields_set.isdisjoint(OPTIONS):
        return Post(content, service.id, recipients)
    deliver_at = notification.deliver_at
    if deliver_at is not None and deliver_at <= now:
        deliver_at = None
    expires_at, ttl = notification.expires_at, notification.ttl
    if ttl is not None and deliver_at is None:
        expires_at = now + ttl * 1000
    content = content._replace(
        icon=notification.icon, actions=encode_actions(notification.actions), expires_at=expires_at
    )
    return Post(content, service.id, recipients, Options(deliver_at, ttl, notification.collapse_key))


OPTIONS = frozenset({"icon", "actions", "deliver_at", "ttl", "expires_at", "collapse_key"})
"""The members that most notifications don't have."""


def encode_actions(actions: list[Action] | None) -> str | None:
    """Return the actions as JSON text."""
    return None if actions is None else dumps([action.model_dump() for action in actions])


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
        # So that the hash is the same as that of a version without these members.
        asked = {name: value for name, value in asked.items() if value is not None or name not in OPTIONS}
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        if _MAYBE_WHOLE_FLOAT.search(text):
            plain = json.loads(text, parse_float=_number)
            text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        self._hash.update(b"," + text.encode())

    def value(self) -> bytes:
        """Finish the hash and return it. Call it once, after the last `add`."""
        self._hash.update(b"]")
        return self._hash.digest()
