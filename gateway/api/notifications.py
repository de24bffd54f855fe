"""The notifications API: post one or a batch, and read the delivery status of a posted notification."""

import json
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from gateway.api.batch import MAX_POSTS, read_batch
from gateway.api.body import BoundedRequest
from gateway.api.callers import Poster, poster
from gateway.api.json_route import JsonRoute, check_json
from gateway.api.notification import Digest, Notification, to_post
from gateway.api.problems import BODY, problems
from gateway.api.query import check_names
from gateway.api.state import Gateway, State, state_of
from gateway.api.validation import as_invalid
from gateway.auth.principals import Service
from gateway.errors import Invalid
from gateway.protocol.encoding import dumps
from gateway.protocol.fields import first_field
from gateway.protocol.times import now_ms, timestamp
from gateway.store.idempotency import Reservation
from gateway.store.transaction import Accepted, Submission
from gateway.transport.fast_path import FAILURE

PATH = "/v1/notifications"
MAX_KEY_CHARACTERS = 255
_ARRAY = "it must be a JSON object: an array is sent to /v1/notifications/batch"


class Posted(BaseModel):
    """A notification that is committed."""

    id: str
    created_at: str
    recipients: int
    state: Literal["delivered", "scheduled"]


class BatchItem(BaseModel):
    """One of a batch."""

    id: str
    recipients: int


class BatchPosted(BaseModel):
    """A batch that is committed, in the order of its items."""

    items: list[BatchItem]


class BatchRoute(JsonRoute):
    """A route with bodies of up to 8 MiB."""

    max_body: ClassVar[int] = 8 * 1024 * 1024


class PostRoute(JsonRoute):
    """A route that passes `post_notification` its arguments by hand.

    FastAPI would solve the same dependencies from the signature, at twice the cost of the rest of a post
    (docs/decisions/0007-the-hot-routes-are-solved-by-hand.md). The OpenAPI is still made from the signature.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The middleware handles errors, and the route has no dependencies whose ends would be awaited.
        self.app = self._handle

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if FAILURE in scope:
            raise scope.pop(FAILURE)
        request = BoundedRequest(scope, receive)
        request.max_body = self.max_body
        response = await _post(request)
        await response(scope, receive, send)


async def _post(request: BoundedRequest) -> Response:
    service, state = await poster(request), state_of(request)
    state.rate_limits.begin_post(service.id)
    if request.scope["query_string"]:
        check_names(request, ())
    key = read_key(first_field(request.scope["headers"], b"idempotency-key"))
    request.caller = service.id
    return await post_notification(await _read_notification(request), state, service, key)


async def _read_notification(request: BoundedRequest) -> Notification:
    try:
        await check_json(request)
        notification = Notification.model_validate(await request.json())
    except ValidationError as error:
        if isinstance(await request.json(), list):
            raise Invalid.field("body", _ARRAY) from None
        raise as_invalid(error.errors(include_url=False), body=Notification) from None
    else:
        request.settle(notification.to)
        return notification
    finally:
        if request.held:
            request.release()


def read_key(key: bytes | None) -> str | None:
    """Return the idempotency key. Raises `Invalid` if it is empty or too long."""
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY_CHARACTERS:
        raise Invalid.field("Idempotency-Key", f"it must have 1 to {MAX_KEY_CHARACTERS} characters")
    return key.decode("latin-1")


post_router = APIRouter(route_class=PostRoute, tags=["notifications"])
batch_router = APIRouter(route_class=BatchRoute, tags=["notifications"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=MAX_KEY_CHARACTERS,
        description="The same key and body get the first answer again, for 24 h.",
    ),
]


@post_router.post(
    PATH,
    status_code=201,
    response_model=Posted,
    responses=problems(*BODY),
    summary="Post a notification to one user or many",
)
async def post_notification(
    notification: Notification, state: State, service: Poster, idempotency_key: IdempotencyKey = None
) -> Response:
    """Answer once it is committed; open sockets of the recipients have it a moment later."""
    posting = begin(notification, state, service, idempotency_key)
    accepted = await state.writer.post(posting.submission)
    return _created(accepted, {"Location": posting.location(accepted)})


class Posting(NamedTuple):
    """A post that is charged, and can be submitted to the writer."""

    submission: Submission
    mount: str

    def location(self, accepted: Accepted) -> str:
        """Return the path of the notification that was stored for it, now or by an earlier request."""
        if accepted.replayed:
            return f"{self.mount}{PATH}/{json.loads(accepted.response)['id']}"
        return f"{self.mount}{PATH}/{self.submission.posts[0].content.id}"


def begin(notification: Notification, state: Gateway, service: Service, key: str | None) -> Posting:
    """Charge a post for its recipients beyond the first, and return it. Raises `RateLimited`."""
    post = to_post(notification, service, now_ms())
    if len(post.recipients) > 1:
        state.rate_limits.charge_rest(service.id, 1, len(post.recipients))
    content = post.content
    created_at = timestamp(content.created_at)
    stage = "delivered" if post.options is None or post.options.deliver_at is None else "scheduled"
    response = (
        f'{{"id":"{content.id}","created_at":"{created_at}","recipients":{len(post.recipients)},'
        f'"state":"{stage}"}}'
    )
    reservation = _reservation(service, key, notification, response)
    return Posting(Submission((post,), response, reservation), state.settings.mount)


@batch_router.post(
    "/v1/notifications/batch",
    status_code=201,
    response_model=BatchPosted,
    responses=problems(*BODY),
    summary="Post up to 1,000 notifications, 1,000 recipients in all, in one transaction",
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
    request: Request, state: State, service: Poster, idempotency_key: IdempotencyKey = None
) -> Response:
    """Store all of them or none: one bad item refuses the whole batch and is named by its index, from 0.

    A batch stores at most 1,000 items: one for each recipient of each of its notifications.
    """
    state.rate_limits.begin_post(service.id)
    hashed = idempotency_key is not None
    posts, digest = await read_batch(
        cast("BoundedRequest", request), state.rate_limits, service, hashed=hashed
    )
    response = dumps(
        {"items": [{"id": post.content.id, "recipients": len(post.recipients)} for post in posts]}
    )
    reservation = (
        None if idempotency_key is None else Reservation(service.id, idempotency_key, digest, response)
    )
    return _created(await state.writer.post(Submission(posts, response, reservation)), {})


def _reservation(service: Service, key: str | None, asked: Notification, response: str) -> Reservation | None:
    if key is None:
        return None
    digest = Digest(b"[false")
    digest.add(asked)
    return Reservation(service.id, key, digest.value(), response)


def _created(accepted: Accepted, headers: dict[str, str]) -> Response:
    if accepted.replayed:
        headers["Idempotent-Replayed"] = "true"
    return Response(accepted.response, 201, headers, "application/json")
