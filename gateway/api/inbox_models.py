"""The models of the inbox API: its answers, its bodies and its cursors."""

import base64
import binascii
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    WithJsonSchema,
    model_validator,
)

from gateway.api.json_route import Body, ChangeBody
from gateway.api.notification import check_plain_text
from gateway.errors import Invalid
from gateway.protocol.commands import MAX_REPLY
from gateway.protocol.items import ID_PATTERN, MAX_SEQ
from gateway.protocol.times import now_ms, read_snooze
from gateway.store.inbox import FIRST, Place

MAX_IDS = 1000


class ItemModel(BaseModel):
    """One notification in one inbox.

    A deleted item keeps only `id`, the two numbers, `deleted_at` and `deleted_reason`.
    """

    id: str
    created_seq: int = Field(description="Where it entered the log: its order in the inbox.")
    seq: int = Field(description="Its last change.")
    title: str | None
    body: str | None
    category: str | None
    priority: str | None
    url: str | None
    data: dict[str, JsonValue] | None
    created_at: str | None
    icon: str | None
    actions: list[dict[str, JsonValue]] | None
    expires_at: str | None = Field(description="When it is removed.")
    edited_at: str | None = Field(description="When its sender last changed it.")
    read_at: str | None
    archived_at: str | None
    deleted_at: str | None
    snoozed_until: str | None = Field(description="Until then it is not in the inbox.")
    answer: dict[str, JsonValue] | None = Field(description="`action`, `text` and `at`.")
    deleted_reason: str | None = Field(description="`user`, `unsent`, `expired`, `replaced` or `retention`.")


class InboxPage(BaseModel):
    """A page, newest first. `unread` and `unseen` are exact at `seq`."""

    items: list[ItemModel]
    next: str | None = Field(description="The cursor of the next page.")
    seq: int
    epoch: str
    unread: int
    unseen: int


class ChangesPage(BaseModel):
    """What changed after a position, oldest change first."""

    items: list[ItemModel]
    seq: int = Field(description="Where the log stands; with `more`, go on from the last item's `seq`.")
    epoch: str
    more: bool


class Standing(BaseModel):
    """Where the inbox stands after a change."""

    seq: int
    unread: int
    unseen: int


def _until(value: Any) -> int | None:
    return None if value is None else read_snooze(value, now_ms())


class Patch(ChangeBody):
    """The states to set; one that is left out stays as it is. Not both of `archived` and `snoozed_until`."""

    # Without a snooze: a time in an example would soon be in the past.
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"read": True}, {"read": True, "archived": True}]}
    )

    read: bool | None = None
    archived: bool | None = None
    snoozed_until: Annotated[
        int | None,
        BeforeValidator(_until),
        WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}),
    ] = Field(None, description="1 minute to 366 days ahead, or null to end the snooze.")

    @property
    def snoozes(self) -> bool:
        """Whether it begins or ends a snooze."""
        return "snoozed_until" in self.model_fields_set

    @model_validator(mode="after")
    def _something(self) -> "Patch":
        if self.read is None and self.archived is None and not self.snoozes:
            raise ValueError("it must have read, archived or snoozed_until")
        if self.archived is not None and self.snoozes:
            raise ValueError("it must not have archived and snoozed_until: send them one after the other")
        return self


def _check_number(ids: Any) -> Any:
    """Return the ids. Raises ValueError for too many, before each of them can become an error of its own."""
    if isinstance(ids, list) and len(ids) > MAX_IDS:
        raise ValueError(f"it must have at most {MAX_IDS:,} ids")
    return ids


class ReadRequest(Body):
    """Which items were read: these, or all that had entered up to a number."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"ids": ["01a1fbec-66d3-7f3c-b907-ac5c85c58cb1"]}, {"up_to": 7}],
        }
    )

    ids: Annotated[
        list[Annotated[str, Field(pattern=ID_PATTERN), AfterValidator(str.lower)]] | None,
        BeforeValidator(_check_number),
    ] = Field(None, min_length=1, max_length=MAX_IDS)
    up_to: int | None = Field(None, ge=0, le=MAX_SEQ)

    @model_validator(mode="after")
    def _one(self) -> "ReadRequest":
        if (self.ids is None) == (self.up_to is None):
            raise ValueError("it must have ids or up_to, and not both")
        return self


class SeenRequest(Body):
    """How far to move the seen mark."""

    up_to: int = Field(ge=0, le=MAX_SEQ)


class Reply(Body):
    """What the user replies, to an action that has `reply`."""

    text: (
        Annotated[str, Field(min_length=1, max_length=MAX_REPLY), AfterValidator(check_plain_text)] | None
    ) = None


def encode_cursor(place: int | Place) -> str:
    """Return the cursor of a page that begins below a `seq`, or beyond a place among snoozed items."""
    numbers = place if isinstance(place, Place) else (place,)
    text = ":".join(map(str, ("v1", *numbers)))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def before_cursor(cursor: str | None) -> int:
    """Return the `seq` below which a page begins, `MAX_SEQ` without a cursor. Raises `Invalid`."""
    return MAX_SEQ if cursor is None else _numbers(cursor, 1)[0]


def after_cursor(cursor: str | None) -> Place:
    """Return the place beyond which a page of snoozed items begins. Raises `Invalid`."""
    return FIRST if cursor is None else Place(*_numbers(cursor, 2))


def _numbers(cursor: str, number: int) -> list[int]:
    try:
        version, *parts = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(":")
        numbers = list(map(int, parts))
    except (ValueError, binascii.Error):
        version, numbers = "", []
    if version != "v1" or len(numbers) != number or not all(0 < one <= MAX_SEQ for one in numbers):
        raise Invalid.field("cursor", "it must be the `next` of a page")
    return numbers
