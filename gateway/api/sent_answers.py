"""The sender's list of answers to a notification: the actions that its recipients have chosen."""

import json
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from gateway.api.answers import counted_response
from gateway.api.callers import NotificationReader
from gateway.api.json_route import JsonRoute
from gateway.api.parameters import Limit, NumberCursor
from gateway.api.problems import problems
from gateway.api.query import KnownQuery
from gateway.api.state import State
from gateway.errors import NotFound
from gateway.protocol.items import ID_PATTERN, is_id
from gateway.store.answers import find_answers, find_sender

router = APIRouter(route_class=JsonRoute, tags=["notifications"])


class AnswerModel(BaseModel):
    """A recipient's answer."""

    sub: str
    action: str
    text: str | None
    at: str


class AnswerPage(BaseModel):
    """Answers, in the order of the recipients."""

    items: list[AnswerModel]
    next: str | None = Field(description="The `cursor` of the next page, or null on the last one.")


@router.get(
    "/v1/notifications/{id}/answers",
    response_model=AnswerPage,
    responses=problems(404),
    summary="The answers of its recipients",
)
async def list_answers(
    request: Request,
    state: State,
    service: NotificationReader,
    _known: KnownQuery,
    id: Annotated[str, Path(json_schema_extra={"pattern": ID_PATTERN})],  # noqa: A002 - the contract's name
    cursor: NumberCursor = 0,
    limit: Limit = 50,
) -> Response:
    """Answer to the service that posted it, and to any with the scope `admin`.

    Answers of items that were deleted since are among them, until the items are purged.
    """
    sender = await state.database.read(find_sender, id.lower()) if is_id(id) else None
    if sender is None or not (sender.service_id == service.id or "admin" in service.scopes):
        raise NotFound("There is no such notification.")
    found = await state.database.read(find_answers, sender.key, cursor, limit + 1)
    further = str(found[limit - 1].user_id) if len(found) > limit else None
    items = [AnswerModel(sub=one.sub, **json.loads(one.answer)) for one in found[:limit]]
    page = AnswerPage(items=items, next=further)
    return counted_response(request, state, page.model_dump_json().encode())
