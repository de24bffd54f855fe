"""The sender's side of the notifications API: look at what was posted, edit it, and take it back."""

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from gateway.api.answers import counted_response
from gateway.api.callers import NotificationReader
from gateway.api.json_route import ChangeBody, JsonRoute
from gateway.api.notification import (
    CATEGORY,
    Actions,
    Data,
    DeliverAt,
    Icon,
    Link,
    Moment,
    Priority,
    Text,
    Title,
    encode_actions,
)
from gateway.api.parameters import NumberCursor, read_if_match
from gateway.api.problems import BODY, problems
from gateway.api.query import KnownQuery
from gateway.api.state import Gateway, State
from gateway.auth.principals import Service
from gateway.database.models import CANCELLED, DELIVERED, SCHEDULED
from gateway.errors import Invalid, NotFound, PreconditionFailed
from gateway.protocol.encoding import dumps
from gateway.protocol.items import ID_PATTERN, MAX_SEQ, is_id
from gateway.protocol.links import safe_url
from gateway.protocol.times import now_ms, timestamp
from gateway.store.due_steps import Advance
from gateway.store.lifecycle import STATES, Begun, Edit, Withdrawal
from gateway.store.notification_rows import ERASED
from gateway.store.sent import Filter, Reach, Sending, find_sent, list_sent

router = APIRouter(route_class=JsonRoute, tags=["notifications"])

PATH = "/v1/notifications"

MAX_PAGE = 100
"""Maximum notifications of a page: each may be as large as a post."""

SentState = Literal["scheduled", "delivered", "cancelled", "unsent", "expired"]


class Listed(BaseModel):
    """A notification as its sender sees it in a list. Its content is null once nobody has it any more."""

    id: str
    state: SentState
    title: str | None
    body: str | None
    category: str
    priority: str
    url: str | None
    data: dict[str, Any] | None
    icon: str | None
    actions: list[dict[str, Any]] | None
    created_at: str = Field(description="When it was delivered, or posted if it is not.")
    deliver_at: str | None
    expires_at: str | None
    edited_at: str | None
    collapse_key: str | None
    recipients: int = Field(description="How many users it was for.")
    muted: int = Field(description="How many of them have muted its category, and did not get it.")


class Sent(Listed):
    """A notification with its counts: the users it reached, and those who have seen and read it."""

    reached: int = Field(description="How many recipients have it in their inbox, or had it.")
    delivered: int = Field(description="How many of them have a client that has acknowledged it.")
    seen: int = Field(description="How many have a seen mark at or beyond it, or have read it.")
    read: int = Field(description="How many have read it.")


class SentList(BaseModel):
    """A page of notifications, newest first."""

    items: list[Listed]
    next: str | None = Field(description="The `cursor` of the next page, or null on the last one.")


_EDIT: JsonValue = {
    "title": "Your parcel is delayed",
    "body": "It arrives on Friday.",
    "url": None,
    "renotify": True,
}


class Edited(ChangeBody):
    """The members to change. One that is left out stays as it is, and null removes an optional one."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EDIT]})

    title: Title = ""
    body: Text = None
    url: Link = None
    data: Data = None
    priority: Priority = "normal"
    icon: Icon = None
    actions: Actions = None
    expires_at: Annotated[
        Moment | None,
        Field(
            description="When it is removed: RFC 3339 with its zone, in the future. It replaces the `ttl`."
            " With null it no longer expires."
        ),
    ] = None
    deliver_at: Annotated[
        DeliverAt,
        Field(description="A new time for one that is still scheduled: RFC 3339, at most 366 days ahead."),
    ] = 0
    renotify: bool = Field(default=False, description="Let it come again, at the top and unread.")

    @model_validator(mode="after")
    def _something(self) -> "Edited":
        if not self.model_fields_set:
            raise ValueError("the request must have a member to change, such as title")
        return self


class Withdrawn(BaseModel):
    """The counts of a notification that was taken back."""

    state: Literal["cancelled", "unsent"] = Field(
        description="Whether it was taken back, or has expired, before its delivery or after."
    )
    recipients: int
    seen: int = Field(description="How many had seen it.")
    read: int = Field(description="How many had read it.")


Id = Annotated[str, Path(json_schema_extra={"pattern": ID_PATTERN})]


@router.get(
    PATH,
    response_model=SentList,
    responses=problems(),
    summary="The notifications of a service, newest first",
)
async def list_notifications(
    request: Request,
    state: State,
    service: NotificationReader,
    _known: KnownQuery,
    category: Annotated[str | None, Query(min_length=1, max_length=64, pattern=CATEGORY)] = None,
    wanted: Annotated[SentState | None, Query(alias="state")] = None,
    cursor: NumberCursor = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many to return at most.")] = 50,
) -> Response:
    """A page may be shorter than `limit` and still have a `next`, with a `category` or long contents.

    A service gets its own; one with the scope `admin` gets those of all.
    """
    own = None if "admin" in service.scopes else service.id
    number = None if wanted is None else STATES.index(wanted)
    page = await state.database.read(list_sent, Filter(own, limit, cursor or MAX_SEQ, category, number))
    following = None if page.next is None else str(page.next)
    found = SentList(items=[Listed(**_members(sent)) for sent in page.sent], next=following)
    return counted_response(request, state, found.model_dump_json().encode())


@router.get(
    f"{PATH}/{{id}}", responses=problems(404), summary="A notification, and how many have seen and read it"
)
async def get_notification(state: State, service: NotificationReader, id: Id) -> Sent:  # noqa: A002 - the contract's name
    """Answer to the service that posted it, and to any with the scope `admin`."""
    return _sent(*await _find(state, service, id))


@router.patch(
    f"{PATH}/{{id}}", responses=problems(404, 409, *BODY), summary="Edit a notification in every inbox"
)
async def edit_notification(state: State, service: NotificationReader, id: Id, asked: Edited) -> Sent:  # noqa: A002
    """Change it for all its recipients, quietly, or with `renotify` so that it comes again.

    The answer comes once every inbox has the change. A scheduled one changes in place.
    """
    sent, _ = await _find(state, service, id)
    await _charge(state, service, sent)
    values = _values(asked)
    expires_at = values.get("expires_at")
    if expires_at is not None and expires_at <= now_ms():
        raise Invalid.field("expires_at", "it must be in the future")
    change = Edit(service.id, _owner(service), sent.content.id, values, asked.renotify)
    await _finish(state, service, await state.writer.begin(change))
    return _sent(*await _find(state, service, id))


@router.delete(f"{PATH}/{{id}}", responses=problems(404, 412), summary="Take a notification back")
async def delete_notification(
    state: State,
    service: NotificationReader,
    id: Id,  # noqa: A002
    if_match: Annotated[
        str | None, Header(description='`"scheduled"`: only if it is not delivered yet, otherwise 412.')
    ] = None,
) -> Withdrawn:
    """Cancel it before its delivery, or remove it from every inbox, before this is answered.

    Its content is erased. Repeating the request gets the same answer. One that has expired stays expired, and
    is answered as if it had been taken back then.
    """
    sent, _ = await _find(state, service, id)
    await _charge(state, service, sent)
    withdrawal = Withdrawal(service.id, _owner(service), sent.content.id, _scheduled_only(if_match))
    begun = await state.writer.begin(withdrawal)
    await _finish(state, service, begun)
    sent, reach = await _find(state, service, id)
    return Withdrawn(
        state="cancelled" if begun.state == CANCELLED else "unsent",
        recipients=sent.recipients,
        seen=reach.seen,
        read=reach.read,
    )


def _scheduled_only(if_match: str | None) -> bool:
    """Whether a notification may be taken back only before its delivery (RFC 9110, section 13.1.1)."""
    tags = read_if_match(if_match)
    if tags is None:
        return False
    if '"scheduled"' not in tags:
        raise PreconditionFailed('If-Match: the only condition is "scheduled".')
    return True


async def _find(state: Gateway, service: Service, uuid: str) -> tuple[Sending, Reach]:
    """Return a notification that the service may see. Raises `NotFound`."""
    found = await state.database.read(find_sent, uuid.lower()) if is_id(uuid) else None
    if found is None or _owner(service) not in {None, found[0].service_id}:
        raise NotFound("There is no such notification.")
    return found


def _owner(service: Service) -> int | None:
    """Return whose notifications the service may see and change: None for those of all."""
    return None if "admin" in service.scopes else service.id


async def _charge(state: Gateway, service: Service, sent: Sending) -> None:
    """Count a change as a post to all its recipients. Raises `RateLimited`."""
    state.rate_limits.begin_post(service.id)
    state.rate_limits.charge_rest(service.id, 1, sent.recipients)


async def _finish(state: Gateway, service: Service, begun: Begun) -> None:
    """Do the steps of a change. If the client goes, the schedule does the rest."""
    rest = begun.due
    while rest:
        rest = (await state.writer.advance(Advance(rest, service.id))).rest


def _values(asked: Edited) -> dict[str, Any]:
    """Return the columns to change."""
    values = {name: getattr(asked, name) for name in asked.model_fields_set - {"renotify"}}
    if "data" in values:
        values["data"] = None if asked.data is None else dumps(asked.data)
    if "actions" in values:
        values["actions"] = encode_actions(asked.actions)
    return values


def _sent(sent: Sending, reach: Reach) -> Sent:
    return Sent(**_members(sent), **reach._asdict())


def _members(sent: Sending) -> dict[str, Any]:
    content = sent.content
    if sent.state not in {SCHEDULED, DELIVERED}:
        # It is erased with the last item (`due_steps`), while the state changes at once.
        content = content._replace(**ERASED)
    return {
        "id": content.id,
        "state": STATES[sent.state],
        # An erased title is empty: a posted one never is.
        "title": content.title or None,
        "body": content.body,
        "category": content.category,
        "priority": content.priority,
        "url": safe_url(content.url),
        "data": None if content.data is None else json.loads(content.data),
        "icon": safe_url(content.icon),
        "actions": None if content.actions is None else json.loads(content.actions),
        "created_at": timestamp(content.created_at),
        "deliver_at": _moment(sent.deliver_at),
        "expires_at": _moment(content.expires_at),
        "edited_at": _moment(content.edited_at),
        "collapse_key": sent.collapse_key,
        "recipients": sent.recipients,
        "muted": sent.muted,
    }


def _moment(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else timestamp(milliseconds)
