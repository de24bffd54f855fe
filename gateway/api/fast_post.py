"""The fast path of `POST /v1/notifications`: an ordinary request of a known service, without the application.

Everything else falls through to the application before it is charged, so all refusals of a request are
rendered there. The rules of a notification, its charges and its response are those of `notifications`.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import NamedTuple, cast

from starlette.types import Scope

from gateway.api.body import read_json, settle_body
from gateway.api.json_route import check_members
from gateway.api.notification import Notification
from gateway.api.notifications import PATH, Posting, begin, read_key
from gateway.api.state import Gateway
from gateway.api.usual_head import known_caller, usual_fields
from gateway.auth.limits.body_queue import SMALL_BODY
from gateway.auth.principals import Service
from gateway.errors import GatewayError, Invalid
from gateway.observability.console_log import bind_request_id
from gateway.store.transaction import Accepted, Outcome
from gateway.transport.headers import BEGUN_AT, api_lines

_READ = frozenset({b"authorization", b"content-length", b"content-type", b"idempotency-key", b"x-request-id"})

_JSON = frozenset(
    {b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"}
    | {b"application/json; charset=UTF-8", b"application/json;charset=UTF-8"}
)

_CREATED = 201


class _Head(NamedTuple):
    service: Service
    key: str | None
    size: int
    scheme: str
    request_id: bytes
    begun_at: float


class FastPost:
    """The fast path of posts, for a gateway without spans: a span is made by the application."""

    def __init__(self, state: Gateway) -> None:
        self._state = state

    def admit(self, scope: Scope) -> _Head | None:
        """Return what an ordinary head says, or None for any other. Takes only a token that is cached."""
        fields = usual_fields(scope, _READ)
        if fields is None or fields.get(b"content-type") not in _JSON or scope["query_string"]:
            return None
        size, service = _size(fields), known_caller(self._state, fields)
        if size is None or not isinstance(service, Service) or "notify" not in service.scopes:
            return None
        try:
            key = read_key(fields.get(b"idempotency-key"))
        except Invalid:
            return None
        scope[BEGUN_AT] = begun_at = perf_counter()
        request_id = bind_request_id(scope["headers"])
        return _Head(service, key, size, scope["scheme"], request_id, begun_at)

    @contextmanager
    def waiting(self, head: _Head) -> Iterator[bool]:
        """Count the body against its caller while it arrives. False if the application has to refuse it."""
        service, rate_limits = head.service.id, self._state.rate_limits
        try:
            rate_limits.posts.check(service)
            rate_limits.items.check(service)
            rate_limits.body_queue.hold(service, head.size)
        except GatewayError:
            yield False
            return
        try:
            yield True
        finally:
            rate_limits.body_queue.release(service, head.size)

    def take(self, head: _Head, body: bytearray) -> "_Taken | None":
        """Charge a valid post and submit it to the writer, or return None.

        Raises `RateLimited`, and what `Writer.submit` raises.
        """
        try:
            value = read_json(bytes(body))
            check_members("body", value)
            notification = Notification.model_validate(value)
        except (ValueError, Invalid):
            return None
        state, service = self._state, head.service
        state.rate_limits.begin_post(service.id)
        settle_body(state.rate_limits, service.id, len(body), notification.to)
        posting = begin(notification, state, service, head.key)
        return _Taken(state, head, posting, state.writer.submit(posting.submission))


class _Taken:
    """A post that waits for its commit."""

    __slots__ = ("_head", "_posting", "_state", "outcome")

    def __init__(
        self, state: Gateway, head: _Head, posting: Posting, outcome: asyncio.Future[Outcome]
    ) -> None:
        self._state = state
        self._head = head
        self._posting = posting
        self.outcome = outcome

    def answer(self) -> tuple[int, bytes, bytes]:
        """Return the response, and count it. Raises the error of the writer."""
        accepted = cast("Accepted", self.outcome.result())
        body = accepted.response.encode()
        lines = b"location: %b\r\n%bcontent-length: %d\r\ncontent-type: application/json\r\n%b" % (
            self._posting.location(accepted).encode(),
            b"idempotent-replayed: true\r\n" if accepted.replayed else b"",
            len(body),
            api_lines(self._head.scheme, self._head.request_id),
        )
        self._state.metrics.answered(PATH, "POST", _CREATED, perf_counter() - self._head.begun_at)
        return _CREATED, lines, body


def _size(fields: Mapping[bytes, bytes]) -> int | None:
    """Return the size of a body that is small enough not to take a turn."""
    size = fields.get(b"content-length", b"")
    if not size.isdigit() or len(size) > len(str(SMALL_BODY)) or int(size) > SMALL_BODY:
        return None
    return int(size)
