"""The preferences API: what a user has muted, and when the user wants quiet."""

import re
from functools import cache
from importlib import resources
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Header, Response
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from gateway.api.audit import Source
from gateway.api.callers import Admin, InboxUser
from gateway.api.json_route import Body, JsonRoute, ManagementRoute
from gateway.api.notification import CATEGORY
from gateway.api.parameters import SubPath, read_if_match
from gateway.api.problems import BODY, problems
from gateway.api.state import Gateway, State
from gateway.auth import users
from gateway.errors import MAX_FIELD, GatewayError, Invalid, NotFound, TokenRevoked
from gateway.observability import audit
from gateway.observability.audit import Event
from gateway.protocol.encoding import dumps
from gateway.protocol.terminal import cut
from gateway.protocol.times import read_moment, timestamp
from gateway.settings.wording import in_words, nearest
from gateway.store import preferences
from gateway.store.preferences import DAYS, SetPreferences, etag_of
from gateway.transport.conditional import not_modified

MAX_CATEGORIES = 100
MAX_WINDOWS = 20
MAX_CATEGORY_CHARACTERS = 64

_TIME = in_words("be a time from 00:00 to 23:59, such as 22:00", "^([01][0-9]|2[0-3]):[0-5][0-9]$")
_DAYS_RULE = "it must have 1 to 7 different days of mon, tue, wed, thu, fri, sat, sun"
_EQUAL = "from and until must differ: for a whole day, name two windows, 00:00 to 12:00 and 12:00 to 00:00"

_IS_CATEGORY = re.compile(CATEGORY).fullmatch


class InboxPreferencesRoute(JsonRoute):
    """A route with bodies as large as those of the inbox."""

    max_body: ClassVar[int] = 64 * 1024


inbox_router = APIRouter(prefix="/v1/inbox/preferences", route_class=InboxPreferencesRoute, tags=["inbox"])
users_router = APIRouter(prefix="/v1/users/{sub}/preferences", route_class=ManagementRoute, tags=["users"])


# --- the rules of the document ------------------------------------------------------------------------------


def _check_categories(value: Any) -> Any:
    """Check the names, so that an error names the category, and that they are not too many."""
    if isinstance(value, dict):
        if len(value) > MAX_CATEGORIES:
            raise ValueError(f"it must have at most {MAX_CATEGORIES} categories: leave out those not muted")
        for name in value:
            if len(name) > MAX_CATEGORY_CHARACTERS or _IS_CATEGORY(name) is None:
                raise ValueError(
                    f"'{cut(name, MAX_FIELD)}' is no category: it must have 1 to {MAX_CATEGORY_CHARACTERS}"
                    " small letters, digits, . _ -"
                )
    return value


def _check_number(value: Any) -> Any:
    if isinstance(value, list) and len(value) > MAX_WINDOWS:
        raise ValueError(f"it must have at most {MAX_WINDOWS} windows: one window may have several days")
    return value


def _check_days(value: Any) -> Any:
    if isinstance(value, list) and not (
        0 < len(value) <= len(DAYS)
        and all(isinstance(day, str) and day in DAYS for day in value)
        and len(set(value)) == len(value)
    ):
        raise ValueError(_DAYS_RULE)
    return value


@cache
def _zones() -> dict[str, str]:
    """Return the names of the IANA zones, by their names in lower case."""
    names = resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split()
    return {name.lower(): name for name in names}


def _check_zone(name: str) -> str:
    known = _zones()
    meant = known.get(name.lower())
    if meant == name:
        return name
    near = meant or nearest(name, known.values(), 0.8)
    hint = "" if near is None else f": did you mean {near}?"
    raise ValueError(f"it must be the name of an IANA time zone, such as Europe/Berlin, or null{hint}")


def _in_utc(text: str) -> str:
    return timestamp(read_moment(text))


Time = Annotated[str, Field(pattern=_TIME)]


class CategoryPreference(Body):
    """What the user wants of one category."""

    muted: bool = Field(
        description="If true, no notification of the category enters the inbox from now on, but for"
        " those with the priority `urgent`."
    )


class QuietWindow(Body):
    """A window of the week. With `from` after `until` it ends on the day after each of its days."""

    days: Annotated[
        list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]], BeforeValidator(_check_days)
    ] = Field(min_length=1, max_length=7, json_schema_extra={"uniqueItems": True})
    begin: Time = Field(alias="from")
    until: Time

    @model_validator(mode="after")
    def _not_equal(self) -> "QuietWindow":
        if self.begin == self.until:
            raise ValueError(_EQUAL)
        return self


class Preferences(Body):
    """The preferences of a user. A member that is left out is empty."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "categories": {"promo": {"muted": True}},
                    "timezone": "Europe/Berlin",
                    "quiet_hours": [{"days": ["mon", "tue"], "from": "22:00", "until": "07:00"}],
                    "quiet_until": None,
                }
            ]
        }
    )

    categories: Annotated[
        dict[
            Annotated[str, Field(min_length=1, max_length=MAX_CATEGORY_CHARACTERS, pattern=CATEGORY)],
            CategoryPreference,
        ],
        BeforeValidator(_check_categories),
    ] = Field({}, max_length=MAX_CATEGORIES, description=f"Up to {MAX_CATEGORIES} categories.")
    timezone: Annotated[str, AfterValidator(_check_zone)] | None = Field(
        None, description="The IANA zone of the quiet hours, such as `Europe/Berlin`. Null is UTC."
    )
    quiet_hours: Annotated[
        list[QuietWindow],
        BeforeValidator(_check_number),
    ] = Field([], max_length=MAX_WINDOWS, description=f"Up to {MAX_WINDOWS} windows of the week.")
    quiet_until: Annotated[str, AfterValidator(_in_utc)] | None = Field(
        None,
        description="Quiet until this time, in addition to the quiet hours.",
        json_schema_extra={"format": "date-time"},
    )

    def document(self) -> str:
        """Return the canonical JSON: preferences that mean the same have the same text."""
        return dumps(
            {
                "categories": {name: {"muted": one.muted} for name, one in sorted(self.categories.items())},
                "timezone": self.timezone,
                "quiet_hours": [
                    {
                        "days": sorted(window.days, key=DAYS.index),
                        "from": window.begin,
                        "until": window.until,
                    }
                    for window in self.quiet_hours
                ],
                "quiet_until": self.quiet_until,
            }
        )


# --- the routes ---------------------------------------------------------------------------------------------

IfMatch = Annotated[
    str | None,
    Header(description="The `ETag` of the preferences to replace. If they have changed since, 412."),
]
IfNoneMatch = Annotated[str | None, Header()]

_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "Nothing has changed since the `ETag` that was sent."}
}


@inbox_router.get(
    "", response_model=Preferences, responses=problems() | _NOT_MODIFIED, summary="Read one's preferences"
)
async def get_own(state: State, user: InboxUser, if_none_match: IfNoneMatch = None) -> Response:
    """What is muted, and when it is to be quiet."""
    return await _get(state, user.id, if_none_match, TokenRevoked())


@inbox_router.put(
    "",
    response_model=Preferences,
    responses=problems(404, 412, *BODY),
    summary="Replace one's preferences",
)
async def put_own(state: State, user: InboxUser, asked: Preferences, if_match: IfMatch = None) -> Response:
    """The whole document is replaced. Open sockets of the user get a message with it."""
    return await _put(state, user.id, asked, if_match)


@users_router.get(
    "",
    response_model=Preferences,
    responses=problems(404) | _NOT_MODIFIED,
    summary="Read the preferences of a user",
)
async def get_of_user(state: State, _: Admin, sub: SubPath, if_none_match: IfNoneMatch = None) -> Response:
    """What the user has muted, and when it is to be quiet."""
    user = await state.database.read(users.get_user, sub)
    return await _get(state, user.id, if_none_match, NotFound("There is no such user."))


@users_router.put(
    "",
    response_model=Preferences,
    responses=problems(404, 412, *BODY),
    summary="Replace the preferences of a user",
)
async def put_of_user(
    state: State, admin: Admin, source: Source, sub: SubPath, asked: Preferences, if_match: IfMatch = None
) -> Response:
    """The whole document is replaced. Open sockets of the user get a message with it."""
    user = await state.database.read(users.get_user, sub)
    response = await _put(state, user.id, asked, if_match)
    audit.record(
        Event.USER_CHANGED,
        actor=admin.actor,
        subject=audit.user(sub),
        source=source,
        changed=["preferences"],
        disabled=bool(user.disabled),
    )
    return response


async def _get(state: Gateway, user_id: int, if_none_match: str | None, missing: GatewayError) -> Response:
    found = await state.database.lookup(preferences.find, user_id)
    if found is None:
        raise missing
    return not_modified(if_none_match, _headers_of(found.document)) or _response(found.document)


async def _put(state: Gateway, user_id: int, asked: Preferences, if_match: str | None) -> Response:
    await _check_required(state, user_id, asked)
    document = asked.document()
    await state.writer.change(SetPreferences(user_id, document, read_if_match(if_match)))
    return _response(document)


async def _check_required(state: Gateway, user_id: int, asked: Preferences) -> None:
    """Raise `Invalid` for newly muted categories that the operator requires: they would come all the same.

    What the user had muted before the operator required it may stay.
    """
    required = state.settings.required_categories
    muted = [name for name in required if name in asked.categories and asked.categories[name].muted]
    if not muted:
        return
    found = await state.database.lookup(preferences.find, user_id)
    stored = preferences.NONE if found is None else found.document
    rule = "the operator requires this category, so it must not be muted: leave it out"
    muted = [name for name in muted if not preferences.has_muted(stored, name)]
    errors = [{"field": f"categories.{name}.muted", "message": rule} for name in muted]
    if errors:
        raise Invalid("; ".join(f"{one['field']}: {rule}" for one in errors[:3]), errors=errors)


def _response(document: str) -> Response:
    return Response(document, 200, _headers_of(document), "application/json")


def _headers_of(document: str) -> dict[str, str]:
    return {"ETag": etag_of(document), "Cache-Control": "private, no-cache"}
