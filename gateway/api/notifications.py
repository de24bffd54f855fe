"""Posting: `POST /v1/notifications`, one or many, and the sender's view of what became of it."""

import asyncio
import hashlib
import io
import json
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    WithJsonSchema,
)

from gateway.accounts import check_sub
from gateway.api.dependencies import (
    Body,
    JsonRoute,
    NotificationReader,
    Parts,
    Poster,
    Sub,
    check_json,
    parts_of,
    poster,
    problems,
    read_json,
)
from gateway.errors import Invalid, NotFound
from gateway.idempotency import Claim
from gateway.log import Post
from gateway.protocol import ID_PATTERN, Content, dumps, is_id, is_link, safe_url, timestamp
from gateway.sent import find_sent
from gateway.tokens import Service
from gateway.writer import Accepted, Submission

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid6 import uuid7

MAX_DATA = 8 * 1024
MAX_RECIPIENTS = 1000
MAX_POSTS = 1000
MAX_URL = 2048
MAX_KEY = 255
MAX_MEMBERS = 20
"""More members than this no notification has; what has more is not looked at."""

TURN = 20
"""How many items of a batch are read before others get their turn."""


def check_url(url: str) -> str:
    """Return a URL that is safe to link to. Raises ValueError for any other."""
    if not is_link(url):
        raise ValueError("an absolute http or https URL, or a path beginning with one slash")
    return url


def check_text(text: str) -> str:
    """Return text that every database can hold. Raises ValueError for text with a NUL."""
    if "\x00" in text:
        raise ValueError("no NUL character")
    return text


def check_data(data: dict[str, Any]) -> dict[str, Any]:
    """Return the object. Raises ValueError where it is too long, or holds a number that JSON cannot."""
    try:
        text = dumps(data)
    except ValueError:
        raise ValueError("only numbers that JSON can hold") from None
    if len(text.encode()) > MAX_DATA:
        raise ValueError(f"at most {MAX_DATA} bytes when encoded")
    return data


def _as_list(value: Any) -> Any:
    if isinstance(value, str):
        return [check_sub(value)]  # Here the field is still `to`, and not `to.0`.
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_RECIPIENTS:
        raise ValueError(f"it must be the id of a user, or a list of 1 to {MAX_RECIPIENTS:,} of them")
    return value


_ONE_SUB = {"type": "string", "minLength": 1, "maxLength": 255}
Recipients = Annotated[
    list[Sub],
    BeforeValidator(_as_list),
    WithJsonSchema(
        {"anyOf": [_ONE_SUB, {"type": "array", "items": _ONE_SUB, "minItems": 1, "maxItems": MAX_RECIPIENTS}]}
    ),
]


class Notification(Body):
    """What a backend service says to its users."""

    to: Annotated[Recipients, Field(description="A user, or up to 1,000 of them.")]
    title: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(check_text)]
    body: (
        Annotated[str, Field(max_length=4000, description="Plain text."), AfterValidator(check_text)] | None
    ) = None
    category: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9._-]+$")] = "default"
    priority: Literal["low", "normal", "high", "urgent"] = "normal"
    url: Annotated[str, Field(max_length=MAX_URL), AfterValidator(check_url)] | None = None
    data: (
        Annotated[dict[str, Any], Field(description="Up to 8 KiB, encoded."), AfterValidator(check_data)]
        | None
    ) = None


class Posted(BaseModel):
    """A notification that is committed."""

    id: str
    created_at: str
    recipients: int


class BatchItem(BaseModel):
    """One of a batch."""

    id: str
    recipients: int


class BatchPosted(BaseModel):
    """A batch that is committed, in the order of its items."""

    items: list[BatchItem]


class Sent(BaseModel):
    """A notification as its sender sees it."""

    id: str
    title: str
    body: str | None
    category: str
    priority: str
    url: str | None
    data: dict[str, Any] | None
    created_at: str
    recipients: int = Field(description="How many users it was for.")
    delivered: int = Field(description="How many of them have a client that has acknowledged it.")
    seen: int = Field(description="How many have seen it in their badge, or read it.")
    read: int = Field(description="How many have read it.")


class BatchRoute(JsonRoute):
    """A route that takes larger bodies."""

    max_body: ClassVar[int] = 8 * 1024 * 1024


class PostRoute(JsonRoute):
    """Gives `post_notification` its arguments by hand.

    FastAPI would solve the same from the signature, which the OpenAPI is made of; but that costs twice what
    all the rest of a post does (docs/decisions/0007-the-hot-routes-are-solved-by-hand.md).
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler."""

        async def handle(request: Request) -> Response:
            service, parts = await poster(request), parts_of(request)
            parts.throttle.posts.take(service.id)
            key = _read_key(request.headers.get("idempotency-key"))
            notification = await _read_notification(self.bounded(request))
            return await post_notification(notification, parts, service, key)

        return handle


async def _read_notification(request: Request) -> Notification:
    await check_json(request)
    try:
        return Notification.model_validate(await request.json())
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None


def _read_key(key: str | None) -> str | None:
    if key is not None and not 1 <= len(key) <= MAX_KEY:
        raise Invalid.field("Idempotency-Key", f"it must have 1 to {MAX_KEY} characters")
    return key


router = APIRouter(route_class=JsonRoute, tags=["notifications"])
post_router = APIRouter(route_class=PostRoute, tags=["notifications"])
batch_router = APIRouter(route_class=BatchRoute, tags=["notifications"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=MAX_KEY,
        description="The same key and body get the first answer again, for 24 h.",
    ),
]


@post_router.post(
    "/v1/notifications",
    status_code=201,
    response_model=Posted,
    responses=problems(413, 429),
    summary="Post a notification to one user or many",
)
async def post_notification(
    notification: Notification, parts: Parts, service: Poster, idempotency_key: IdempotencyKey = None
) -> Response:
    """Answer once it is committed; open sockets of the recipients have it a moment later."""
    post = _post(notification, service, int(time.time() * 1000))
    content = post.content
    created_at = timestamp(content.created_at)
    response = f'{{"id":"{content.id}","created_at":"{created_at}","recipients":{len(post.recipients)}}}'
    claim = _claim(service, idempotency_key, notification, response)
    accepted = await parts.writer.post(Submission((post,), response, claim))
    first = json.loads(accepted.response)["id"] if accepted.replayed else content.id
    return _created(accepted, {"Location": f"/v1/notifications/{first}"})


@batch_router.post(
    "/v1/notifications/batch",
    status_code=201,
    response_model=BatchPosted,
    responses=problems(413, 429),
    summary="Post up to 1,000 notifications in one transaction",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "array",
                        "items": {"$ref": "#/components/schemas/Notification"},
                        "minItems": 1,
                        "maxItems": MAX_POSTS,
                    }
                },
                "application/x-ndjson": {
                    "schema": {"type": "string", "description": "One notification a line."}
                },
            },
        }
    },
)
async def post_batch(
    request: Request, parts: Parts, service: Poster, idempotency_key: IdempotencyKey = None
) -> Response:
    """Store all of them or none: one bad item refuses the whole batch and is named by its index, from 0."""
    notifications = await _read_batch(request)
    parts.throttle.posts.take(service.id, len(notifications))
    now = int(time.time() * 1000)
    posts = tuple(_post(notification, service, now) for notification in notifications)
    response = dumps(
        {"items": [{"id": post.content.id, "recipients": len(post.recipients)} for post in posts]}
    )
    claim = _claim(service, idempotency_key, notifications, response)
    return _created(await parts.writer.post(Submission(posts, response, claim)), {})


@router.get(
    "/v1/notifications/{id}",
    responses=problems(404),
    summary="What became of a notification",
)
async def get_notification(
    parts: Parts,
    service: NotificationReader,
    id: Annotated[str, Path(json_schema_extra={"pattern": ID_PATTERN})],  # noqa: A002 - the contract's name
) -> Sent:
    """Answer to the service that posted it, and to any with the scope `admin`."""
    sent = await parts.database.read(find_sent, id) if is_id(id) else None
    if sent is None or not (sent.service_id == service.id or "admin" in service.scopes):
        raise NotFound("There is no such notification.")
    content = sent.content
    return Sent(
        **content._asdict()
        | {
            "url": safe_url(content.url),
            "data": None if content.data is None else json.loads(content.data),
            "created_at": timestamp(content.created_at),
        },
        recipients=sent.recipients,
        delivered=sent.delivered,
        seen=sent.seen,
        read=sent.read,
    )


def _post(notification: Notification, service: Service, now: int) -> Post:
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


def _claim(
    service: Service, key: str | None, asked: Notification | Sequence[Notification], response: str
) -> Claim | None:
    if key is None:
        return None
    many = asked if isinstance(asked, Sequence) else [asked]
    said = dumps([isinstance(asked, Sequence), *(notification.model_dump() for notification in many)])
    return Claim(service.id, key, hashlib.sha256(said.encode()).digest(), response)


def _created(accepted: Accepted, headers: dict[str, str]) -> Response:
    if accepted.replayed:
        headers["Idempotent-Replayed"] = "true"
    return Response(accepted.response, 201, headers, "application/json")


async def _read_batch(request: Request) -> list[Notification]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in {"application/json", "application/x-ndjson"}:
        raise Invalid.field("content-type", "application/json or application/x-ndjson")
    body = await request.body()
    try:
        values = _read_lines(body) if kind == "application/x-ndjson" else read_json(body)
    except json.JSONDecodeError as error:
        raise Invalid.field("body", f"it is not JSON: {error.msg}") from None
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_POSTS:
        raise Invalid.field("body", f"a list of 1 to {MAX_POSTS} notifications")
    notifications = []
    for index, value in enumerate(values):
        notifications.append(_validate(index, value))
        if index % TURN == 0:
            # A large batch takes its time; others get theirs in between.
            await asyncio.sleep(0)
    return notifications


def _validate(index: int, value: Any) -> Notification:
    """Return one item of a batch. The first bad one refuses the whole, and is named by its index."""
    if isinstance(value, dict) and len(value) > MAX_MEMBERS:
        raise Invalid.field(str(index), "it has members that a notification does not have")
    try:
        return Notification.model_validate(value)
    except ValidationError as error:
        errors = [{**one, "loc": (index, *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(errors) from None


def _read_lines(body: bytes) -> list[Any]:
    values: list[Any] = []
    for line in io.BytesIO(body):
        if line.strip():
            if len(values) == MAX_POSTS:
                raise Invalid.field("body", f"a list of 1 to {MAX_POSTS} notifications")
            try:
                values.append(read_json(line))
            except json.JSONDecodeError as error:
                raise Invalid.field(str(len(values)), f"it is not JSON: {error.msg}") from None
    return values
