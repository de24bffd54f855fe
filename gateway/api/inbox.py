"""The inbox API: the user's items, the changes to them, and the routes that mark and delete them."""

import re
from collections.abc import Callable, Collection
from typing import Annotated, Any, ClassVar
from urllib.parse import urlencode

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import AfterValidator

from gateway.api.answers import Answer, LongAnswer, item_response
from gateway.api.callers import InboxUser
from gateway.api.inbox_models import (
    ChangesPage,
    InboxPage,
    ItemModel,
    Patch,
    ReadRequest,
    Reply,
    SeenRequest,
    Standing,
    after_cursor,
    before_cursor,
    encode_cursor,
)
from gateway.api.json_route import JsonRoute
from gateway.api.notification import CATEGORY
from gateway.api.problems import BODY, problems
from gateway.api.query import KnownQuery
from gateway.api.state import Gateway, State
from gateway.auth.principals import User
from gateway.errors import Invalid, NotFound, ResetRequired, TokenRevoked
from gateway.protocol.encoding import dumps, quoted
from gateway.protocol.items import ID_PATTERN, MAX_SEQ, Counts, Item, is_id
from gateway.store import inbox, log
from gateway.store.answers import Act
from gateway.store.changes import ItemUpdate, ReadUpTo, Seen
from gateway.store.snoozes import Snooze
from gateway.transport.conditional import not_modified

PATH = "/v1/inbox"


class InboxRoute(JsonRoute):
    """A route with bodies large enough for `MAX_IDS` ids.

    That of an item leaves out the names of the other routes: a wrong method of theirs is a 405, not an item
    that is missing.
    """

    max_body: ClassVar[int] = 64 * 1024

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.path == f"{PATH}/{{id}}":
            self.path_regex = _ITEM


_ITEM = re.compile("^/v1/inbox/(?P<id>(?!(?:preferences|changes|read|seen)$)[^/]+)$")

router = APIRouter(prefix=PATH, route_class=InboxRoute, tags=["inbox"])

MAX_PAGE = 200
"""Maximum items of a page of the inbox. A longer page of changes counts as several requests."""


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
    snoozed: Annotated[bool, Query(description="Snoozed items instead, soonest first.")] = False,
    category: Annotated[str | None, Query(min_length=1, max_length=64, pattern=CATEGORY)] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A page may be shorter than `limit` and still have a `next`: one of long items, or with a `category`."""
    if snoozed:
        if archived or unread is not None:
            raise Invalid.field("snoozed", "it can't stand with unread or archived: leave them out")
        query = inbox.Query(limit, category=category, snoozed=True, after=after_cursor(cursor))
    else:
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
        following = None if page.next is None else encode_cursor(page.next)
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
    """The states change in one step, under one `seq`.

    A snoozed item leaves the inbox and the counts until its time, and then comes again as a new one.
    """
    change: ItemUpdate | Snooze = ItemUpdate(user.id, (id,), read=asked.read, archived=asked.archived)
    if asked.snoozes:
        change = Snooze(user.id, (id,), asked.snoozed_until, asked.read)
    return item_response(request, state, await _mark(state, id, change))


@router.post(
    "/{id}/actions/{action}",
    response_model=ItemModel,
    responses=problems(404, 409, *BODY),
    summary="Answer one item with one of its actions",
)
async def act(
    request: Request,
    state: State,
    user: InboxUser,
    id: Id,  # noqa: A002
    action: Annotated[str, Path(description="The id of an action of the item.")],
    asked: Reply | None = None,
) -> Response:
    """An item is answered once, by one of the user's clients. It is then read, and has `answer`.

    An action with `reply` needs a `text`. Others need no body.
    """
    change = Act(user.id, id, action, asked.text if asked else None)
    return item_response(request, state, await _mark(state, id, change))


@router.delete(
    "/{id}", status_code=204, response_class=Response, responses=problems(404), summary="Delete one item"
)
async def delete_item(state: State, user: InboxUser, id: Id) -> None:  # noqa: A002
    """Deleting it again changes nothing, so a request whose answer was lost can be sent again."""
    await _mark(state, id, ItemUpdate(user.id, (id,), deleted=True))


_NO_ITEM = "There is no such item in this inbox."
_CACHE_CONTROL = "private, no-cache"


async def _mark(state: State, identifier: str, change: ItemUpdate | Snooze | Act) -> Item:
    if not is_id(identifier):
        raise NotFound(_NO_ITEM)
    changed = await state.writer.change(change)
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
    "snoozed": lambda query: dumps(query.snoozed),
    "category": lambda query: query.category,
}
