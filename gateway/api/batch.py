"""The reader of a batch: it bounds the body and reads the items one by one, with turns for other callers."""

import asyncio
import codecs
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any

from pydantic import ValidationError

from gateway.api.batch_body import Position, split_array, split_lines
from gateway.api.body import MAX_BODY_BYTES, BoundedRequest, NotJson, read_json
from gateway.api.json_route import check_members
from gateway.api.notification import Digest, Notification, to_post
from gateway.api.validation import as_invalid
from gateway.auth.limits.body_queue import SMALL_BODY, BodyQueue
from gateway.auth.limits.rate_limits import RateLimits, items_of
from gateway.auth.principals import Service
from gateway.errors import Invalid, PayloadTooLarge, RateLimited
from gateway.protocol.times import now_ms
from gateway.store.arrivals import Post
from gateway.store.writer import MAX_ITEMS

MAX_POSTS = 1000
_LENGTH_RULE = f"it must be a list of 1 to {MAX_POSTS:,} notifications"

_BROKEN_LINES = ("it ends within", "something follows the end")
_ONE_LINE = "each notification takes one whole line (curl: --data-binary keeps line breaks, -d does not)"
_ARRAY_IN_LINES = "it must be a JSON object: an array is sent as application/json"

TURN_COST = 32 * 1024
"""Maximum cost of reading before other callers get a turn: a character costs 1, a recipient 16."""

LARGE_BODY_BYTES = MAX_BODY_BYTES
"""A body over this size takes one of the service's slots, which limit how many are in memory at once."""


async def read_batch(
    request: BoundedRequest, rate_limits: RateLimits, service: Service, *, hashed: bool
) -> tuple[tuple[Post, ...], bytes]:
    """Return the posts of a batch and the hash of the request. Charge them to the service's rate limit.

    Raises `Invalid`, `PayloadTooLarge`, `RateLimited`, and what `BoundedRequest.stream` raises.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in {"application/json", "application/x-ndjson"}:
        raise Invalid.field("content-type", "it must be application/json or application/x-ndjson")
    request.caller = service.id
    is_lines = kind == "application/x-ndjson"
    batch = _Batch(service, rate_limits.body_queue, hashed=hashed, is_lines=is_lines)
    async with AsyncExitStack() as slot:
        slot.callback(request.release)
        body = await _read_body(request, rate_limits.large_bodies.of(service.id), slot)
        # Reading a body costs its size, even if it is invalid; storing it costs its recipients.
        size = len(body) // 1024
        if len(body) > SMALL_BODY:
            await rate_limits.body_queue.turn(service.id)
        try:
            await batch.read((split_lines if is_lines else split_array)(body, batch.place))
        except BaseException:
            with suppress(RateLimited):
                rate_limits.charge_rest(service.id, len(batch.posts), max(size, batch.large_items))
            raise
    rate_limits.charge_rest(service.id, len(batch.posts), max(batch.recipients, size, batch.large_items))
    return tuple(batch.posts), batch.digest.value()


async def _read_body(request: BoundedRequest, large: asyncio.Semaphore, slot: AsyncExitStack) -> bytes:
    """Return the body. A large one takes one of the service's slots, which bounds the memory of bodies."""
    body = bytearray()
    small = True
    async for chunk in request.stream():
        body += chunk
        if small and len(body) > LARGE_BODY_BYTES:
            small = False
            await slot.enter_async_context(large)
    return bytes(body).removeprefix(codecs.BOM_UTF8)


class _Batch:
    """The posts of a batch, read one by one from the texts of its items.

    `large_items` is the cost of the items over `SMALL_BODY`; it applies if it exceeds their recipients.
    """

    def __init__(
        self, service: Service, body_queue: BodyQueue, *, hashed: bool, is_lines: bool = False
    ) -> None:
        self.place = Position()
        self._is_lines = is_lines
        self.posts: list[Post] = []
        self.recipients = 0
        self.large_items = 0
        self._body_queue = body_queue
        self.digest = Digest(b"[true")
        self._service = service
        self._hashed = hashed
        self._now = now_ms()
        self._done = 0

    async def read(self, texts: Iterator[str | bytes]) -> None:
        """Read all items. Raises `PayloadTooLarge` for more than one transaction stores, and `Invalid`."""
        number = 0
        for text in texts:
            if number == MAX_POSTS:
                raise Invalid.field("body", _LENGTH_RULE)
            await self._yield_turn(len(text))
            self.large_items += items_of(len(text))
            value = self._read_item(number, text)
            if self.recipients > MAX_ITEMS:
                self.recipients += _count(value)
            else:
                self._add(number, value)
                await self._yield_turn(16 * len(self.posts[-1].recipients))
            number += 1
        if number == 0:
            raise Invalid.field("body", _LENGTH_RULE)
        if self.recipients > MAX_ITEMS:
            raise PayloadTooLarge(
                f"The batch would store {self.recipients:,} items, one for each recipient of each "
                f"notification; one batch stores at most {MAX_ITEMS:,}. Send it as several."
            )

    def _add(self, index: int, value: Any) -> None:
        notification = self._validate(index, value)
        post = to_post(notification, self._service, self._now)
        self.posts.append(post)
        self.recipients += len(post.recipients)
        if self._hashed:
            self.digest.add(notification)

    def _read_item(self, index: int, text: str | bytes) -> Any:
        try:
            return read_json(text)
        except NotJson as error:
            line, column = self.place.of(error.line, error.column)
            if not self._is_lines:
                message = error.message_at(f"line {line}, column {column}")
                raise Invalid.field(str(index), message) from None
            hint = f": {_ONE_LINE}" if error.why.startswith(_BROKEN_LINES) else ""
            raise self._invalid(index, error.message_at(f"column {column}") + hint) from None

    def _validate(self, index: int, value: Any) -> Notification:
        """Return one item. Raises `Invalid`, with its index and line: one invalid item refuses the batch."""
        if self._is_lines and isinstance(value, list):
            raise self._invalid(index, _ARRAY_IN_LINES)
        try:
            check_members(str(index), value)
            return Notification.model_validate(value)
        except Invalid as error:
            raise self._invalid(index, error.errors[0]["message"]) from None
        except ValidationError as error:
            found = [{**one, "loc": (index, *one["loc"])} for one in error.errors(include_url=False)]
            line = self.place.line() if self._is_lines else None
            raise as_invalid(found, body=Notification, line=line) from None

    def _invalid(self, index: int, message: str) -> Invalid:
        """Return the error of an item: named by its line in NDJSON, else by its index."""
        if not self._is_lines:
            return Invalid.field(str(index), message)
        message = f"line {self.place.line()}: {message}"
        return Invalid(message, errors=[{"field": str(index), "message": message}])

    async def _yield_turn(self, done: int) -> None:
        """Add the cost of what was done, and give other callers a turn after each `TURN_COST` of it."""
        self._done += done
        if self._done >= TURN_COST:
            self._done = 0
            await self._body_queue.turn(self._service.id)


def _count(value: Any) -> int:
    """Count the recipients that an item names, without validation: this item will not be stored."""
    to = value.get("to") if isinstance(value, dict) else None
    return len(to) if isinstance(to, list) else 1
