"""The inbox API: the user's items, the changes to them, and the routes that mark and delete them."""

import base64
import binascii
from collections.abc import Callable, Collection
from typing import Annotated, Any, ClassVar
from urllib.parse import urlencode

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, JsonValue, model_validator

from gateway.api.answers import Answer, LongAnswer, item_response
from gateway.api.callers import InboxUser
from gateway.api.json_route import Body, JsonRoute
from gateway.api.notification import CATEGORY
from gateway.api.problems import BODY, problems
from gateway.api.query import KnownQuery
from gateway.api.state import Gateway, State
from gateway.auth.principals import User
from gateway.errors import Invalid, NotFound, ResetRequired, TokenRevoked
from gateway.protocol.encoding import dumps, quoted
from gateway.protocol.items import ID_PATTERN, MAX_SEQ, Counts, Item, is_id
from gateway.store import inbox, log
from gateway.store.changes import ItemUpdate, ReadUpTo, Seen
from gateway.transport.conditional import not_modified

MAX_IDS = 1000


class InboxRoute(JsonRoute):
    """A route with bodies large enough for `MAX_IDS` ids."""

    max_body: ClassVar[int] = 64 * 1024


PATH = "/v1/inbox"

router = APIRouter(prefix=PATH, route_class=InboxRoute, tags=["inbox"])

MAX_PAGE = 200
"""Maximum items of a page of the inbox. A longer page of changes counts as several requests."""


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


class Patch(Body):
    """The states to set; one that is left out stays as it is."""

    read: bool | None = None
    archived: bool | None = None

    @model_validator(mode="after")
    def _something(self) -> "Patch":
        if self.read is None and self.archived is None:
            raise ValueError("it must have read or archived, or both")
        return self


def _check_number(ids: Any) -> Any:
    """Return the ids. Raises ValueError for too many, before each of them can become an error of its own."""
    if isinstance(ids, list) and len(ids) > MAX_IDS:
        raise ValueError(f"it must have at most {MAX_IDS:,} ids")
    return ids


class ReadRequest(Body):
    """Which items were read: these, or all that had entered up to a number."""

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


Id = Annotated[str, Path(json_schema_extra={"pattern": ID_PATTERN}), AfterValidator(str.lower)]


@router.get(
    "",
    response_model=InboxPage,
    responses=problems() | {304: {"description": "Nothing has changed since the `ETag` that was sent."}},
    summary="A page of the inbox, newest first",
)
async def list_inbox(
    request: Request,
    state: State,
    user: InboxUser,
    _known: KnownQuery,
    answer: Answer,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    cursor: Annotated[str | None, Query(description="`next` of the page before.")] = None,
    unread: Annotated[
        bool | None, Query(description="Only unread (true) or only read (false) items.")
    ] = None,
    archived: Annotated[bool, Query(description="Archived items instead of those in the inbox.")] = False,
    category: Annotated[str | None, Query(min_length=1, max_length=64, pattern=CATEGORY)] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A page may be shorter than `limit` and still have a `next`: one of long items, or with a `category`."""
    query = inbox.Query(limit, before_cursor(cursor), unread, archived, category)
    return await page_response(state, user, answer, query, request.query_params.keys(), if_none_match)


async def page_response(
    state: Gateway,
    user: User,
    answer: LongAnswer,
    query: inbox.Query,
    given: Collection[str],
    if_none_match: str | None,
) -> Response:
    """Return the response with a page, or a 304. `given` are the names of the parameters of the request.

    Raises `TokenRevoked`, and what `answer` raises.
    """
    if if_none_match is not None:
        found = await state.database.lookup(log.head, user.id)
        known = None if found is None else not_modified(if_none_match, _headers_of(*found))
        if known is not None:
            return known
    async with answer:
        page = await answer.read(lambda connection, size: inbox.list_items(connection, user.id, query, size))
        if page is None:
            raise TokenRevoked
        following = None if page.next is None else _cursor(page.next)
        headers = _headers_of(page.epoch, page.counts)
        if following is not None:
            path = f"{state.settings.mount}{PATH}"
            headers["Link"] = f'<{path}?{_following(given, query, following)}>; rel="next"'
        rest = (
            f'"next":{quoted(following)},"seq":{page.counts.seq},"epoch":{quoted(page.epoch)},'
            f'"unread":{page.counts.unread},"unseen":{page.counts.unseen}'
        )
        return answer.send(await answer.encode(page.items, rest, page.encoded), headers)


@router.get(
    "/changes",
    response_model=ChangesPage,
    responses=problems(410),
    summary="What changed after a position: what a socket would replay",
)
async def list_changes(
    state: State,
    user: InboxUser,
    _known: KnownQuery,
    answer: Answer,
    since: Annotated[int, Query(ge=0, le=MAX_SEQ, description="The last `seq` that was applied.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    epoch: Annotated[str | None, Query(description="The epoch that `since` is of.")] = None,
) -> Response:
    """A page of long items ends before `limit`; none ends inside one bulk change: it may hold a few more."""
    async with answer:
        asked = limit // MAX_PAGE
        state.rate_limits.commands.charge(user.id, asked)
        used = 0
        try:
            page = await answer.read(
                lambda connection, size: log.read_after(connection, user.id, since, limit, size)
            )
            items = [] if page is None else [item for entry in page.entries for item in entry.items]
            used = len(items) // MAX_PAGE
        finally:
            state.rate_limits.commands.charge(user.id, used - asked)
        if page is None:
            raise TokenRevoked
        if not log.is_kept(page.counts, since) or epoch not in {None, page.epoch}:
            raise ResetRequired("This is not a position of the log: read GET /v1/inbox again.")
        rest = f'"seq":{page.counts.seq},"epoch":{quoted(page.epoch)},"more":{dumps(page.more)}'
        return answer.send(await answer.encode(items, rest), {"Cache-Control": _CACHE_CONTROL})


@router.post("/read", responses=problems(*BODY), summary="Mark items read")
async def mark_read(request: Request, state: State, user: InboxUser, asked: ReadRequest) -> Standing:
    """Items that are not there, or are read already, are passed over.

    Many items are marked in steps. A client that hangs up meanwhile has the rest left as it is.
    """
    change: ItemUpdate | ReadUpTo = ReadUpTo(user.id, asked.up_to or 0)
    if asked.ids is not None:
        change = ItemUpdate(user.id, tuple(asked.ids), read=True)
    return _standing((await state.writer.change(change, request.is_disconnected)).counts)


@router.post("/seen", responses=problems(*BODY), summary="Move the seen mark")
async def mark_seen(state: State, user: InboxUser, asked: SeenRequest) -> Standing:
    """The mark never moves back, and never beyond the log."""
    return _standing((await state.writer.change(Seen(user.id, asked.up_to))).counts)


@router.get("/{id}", response_model=ItemModel, responses=problems(404), summary="One item")
async def get_item(request: Request, state: State, user: InboxUser, id: Id) -> Response:  # noqa: A002 - the contract's name
    """A deleted item is not found."""
    item = await state.database.read(inbox.find_item, user.id, id) if is_id(id) else None
    if item is None or item.deleted_at is not None:
        raise NotFound(_NO_ITEM)
    return item_response(request, state, item)


@router.patch("/{id}", response_model=ItemModel, responses=problems(404, *BODY), summary="Mark one item")
async def patch_item(request: Request, state: State, user: InboxUser, id: Id, asked: Patch) -> Response:  # noqa: A002
    """Both states change in one step, under one `seq`."""
    item = await _mark(state, ItemUpdate(user.id, (id,), read=asked.read, archived=asked.archived))
    return item_response(request, state, item)


@router.delete(
    "/{id}", status_code=204, response_class=Response, responses=problems(404), summary="Delete one item"
)
async def delete_item(state: State, user: InboxUser, id: Id) -> None:  # noqa: A002
    """Deleting it again changes nothing, so a request whose answer was lost can be sent again."""
    await _mark(state, ItemUpdate(user.id, (id,), deleted=True))


_NO_ITEM = "There is no such item in this inbox."
_CACHE_CONTROL = "private, no-cache"


async def _mark(state: State, mark: ItemUpdate) -> Item:
    if not is_id(mark.ids[0]):
        raise NotFound(_NO_ITEM)
    changed = await state.writer.change(mark)
    if not changed.items:
        raise NotFound(_NO_ITEM)
    return changed.items[0]


def _standing(counts: Counts) -> Standing:
    return Standing(seq=counts.seq, unread=counts.unread, unseen=counts.unseen)


def _headers_of(epoch: str, counts: Counts) -> dict[str, str]:
    """Return the caching headers. While the `ETag`, the state of the inbox, is the same, so is every page."""
    return {"ETag": f'W/"{epoch}-{counts.seq}-{counts.seen}"', "Cache-Control": _CACHE_CONTROL}


def _following(names: Collection[str], query: inbox.Query, cursor: str) -> str:
    """Return the query of the next page: the parameters of this request with their parsed values."""
    given = [(name, write(query)) for name, write in _PARAMETERS.items() if name in names]
    return urlencode([*given, ("cursor", cursor)])


_PARAMETERS: dict[str, Callable[[inbox.Query], object]] = {
    "limit": lambda query: query.limit,
    "unread": lambda query: dumps(query.unread),
    "archived": lambda query: dumps(query.archived),
    "category": lambda query: query.category,
}


def _cursor(before: int) -> str:
    return base64.urlsafe_b64encode(f"v1:{before}".encode()).decode().rstrip("=")


def before_cursor(cursor: str | None) -> int:
    """Return the `seq` below which a page begins, `MAX_SEQ` without a cursor. Raises `Invalid`."""
    if cursor is None:
        return MAX_SEQ
    try:
        version, _, number = (
            base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(":")
        )
        before = int(number)
    except (ValueError, binascii.Error):
        version, before = "", -1
    if version != "v1" or not 0 < before <= MAX_SEQ:
        raise Invalid.field("cursor", "it must be the `next` of a page")
    return before
