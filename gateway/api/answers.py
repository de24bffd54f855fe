"""Long answers to a user: a limited number is in memory at once, each until its client has read it.

If a client does not read, its answer stays in memory until the gateway disconnects it. So a user has at most
two long answers in memory; the next one waits before its items are read. A short answer never waits for one.
The answers of all users together are limited as well (`held_answers`): over that limit pages are short, and
without room for a short page the answer is 503.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Protocol, Self, TypeVar

from fastapi import Depends, Response
from sqlalchemy import Connection
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from gateway.api.callers import InboxUser, client_address
from gateway.api.state import Gateway, State
from gateway.auth.limits.held_answers import MAX_ANSWER_BYTES, MAX_LONG_BYTES, UNCOUNTED_BYTES, AnswerBytes
from gateway.errors import Overloaded
from gateway.protocol.items import Item, encode_item
from gateway.store.inbox import PAGE_BYTES, TURN_BYTES
from gateway.transport.slices import SLICE_BYTES, SlicedResponse

_MEDIA_TYPE = "application/json"
_NO_ROOM = "Too many answers wait for their clients to read them."


class _Page(Protocol):
    @property
    def cut(self) -> bool:
        """Whether the limit on bytes cut the page short."""
        ...


P = TypeVar("P", bound=_Page)


class LongAnswer:
    """The answer to one request of a user: an async context manager. Make the response inside it."""

    def __init__(self, state: Gateway, user_id: int, address: str) -> None:
        self._database = state.database
        self._slots = state.rate_limits.long_answers
        self._reads = state.rate_limits.page_reads.of(user_id)
        self._held = state.rate_limits.held_answers
        self._bytes = AnswerBytes(self._held, address)
        self._making = False
        self._user_id = user_id
        self._slot = AsyncExitStack()

    async def read(self, work: Callable[[Connection, int], P | None]) -> P | None:
        """Wait for one of the user's slots, then return the page that `work` reads, or None if it has none.

        `work` gets a connection and the maximum bytes of the page. If no slot is free, read a short page
        first: if all items fit into `SLICE_BYTES`, the answer needs no slot.
        """
        slots = self._slots.of(self._user_id)
        if slots.locked():
            async with self._reads:
                page = await self._database.read(work, SLICE_BYTES)
            if page is None or not page.cut:
                return page
            del page
        await self._slot.enter_async_context(slots)
        # Limit the concurrent reads of a user: all users share a few reader threads.
        async with self._reads:
            size = PAGE_BYTES if await self._may_be_long() else SLICE_BYTES
            return await self._database.read(work, size)

    async def _may_be_long(self) -> bool:
        """Wait until a long page may be read, and count its bytes. Return False if it has no room."""
        self._making = await self._held.begin()
        return self._making and self._bytes.fits(PAGE_BYTES, MAX_LONG_BYTES)

    async def encode(self, items: Iterable[Item], rest: str, encoded: Sequence[bytes] = ()) -> bytes:
        """Encode a JSON object with these items, and with `rest`, its other members as JSON text.

        `encoded` are the items before them, which took the first turn. Waits for another turn after each
        `TURN_BYTES`. Raises `Overloaded` if the answer has no room.
        """
        parts = list(encoded)
        texts: list[str] = []
        size = TURN_BYTES if encoded else 0
        for item in items:
            if size >= TURN_BYTES:
                parts += [",".join(texts).encode()] if texts else ()
                texts.clear()
                size = 0
                await self._next_turn()
            texts.append(text := encode_item(item))
            size += len(text)
        parts += [",".join(texts).encode()] if texts else ()
        return b'{"items":[%b],%b}' % (b",".join(parts), rest.encode())

    async def _next_turn(self) -> None:
        """Wait for the next turn. Count the answer first, because it is in memory while it waits."""
        if not self._bytes.size and not self._bytes.fits(2 * SLICE_BYTES, MAX_ANSWER_BYTES):
            raise Overloaded(_NO_ROOM)
        await self._held.turn(self._user_id)

    def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        """Return the response. A long one keeps the slot until it is sent or its client disconnects.

        Raises `Overloaded` if too many answers wait for their clients to read them.
        """
        if not _count(self._bytes, len(body)):
            return Response(body, headers=headers, media_type=_MEDIA_TYPE)
        held = self._slot.pop_all() if len(body) > SLICE_BYTES else AsyncExitStack()
        # The response now releases the bytes: `__aexit__` must not.
        counted, self._bytes = self._bytes, AnswerBytes(self._held, "")
        held.enter_context(counted)
        return _HeldResponse(body, headers, held)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with self._bytes:
            if self._making:
                self._held.making.release()
            await self._slot.aclose()


def item_response(connection: HTTPConnection, state: Gateway, item: Item) -> Response:
    """Return the response with one item. Raises `Overloaded` as `send` does."""
    return counted_response(connection, state, encode_item(item).encode())


def counted_response(connection: HTTPConnection, state: Gateway, body: bytes) -> Response:
    """Return a JSON response that is counted, if it is large, until it is sent. Raises `Overloaded`."""
    if len(body) <= UNCOUNTED_BYTES:
        return Response(body, media_type=_MEDIA_TYPE)
    counted = AnswerBytes(state.rate_limits.held_answers, client_address(connection))
    _count(counted, len(body))
    held = AsyncExitStack()
    held.enter_context(counted)
    return _HeldResponse(body, {}, held)


def _count(counted: AnswerBytes, size: int) -> bool:
    """Count an answer of `size` bytes. Return False if it is too small to count.

    Raises `Overloaded` if it has no room. A page that was counted before it was read always has room, even if
    its encoding is longer.
    """
    if size <= UNCOUNTED_BYTES:
        counted.resize(0)
        return False
    if counted.size:
        counted.resize(size)
    elif not counted.fits(size, MAX_ANSWER_BYTES):
        raise Overloaded(_NO_ROOM)
    return True


class _HeldResponse(SlicedResponse):
    """A response that holds counted bytes, and a slot if it is long, until it is sent."""

    def __init__(self, body: bytes, headers: Mapping[str, str], held: AsyncExitStack) -> None:
        super().__init__(body, headers=headers, media_type=_MEDIA_TYPE)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, then release its bytes and its slot."""
        async with self._held:
            await super().__call__(scope, receive, send)


# Not a dependency with `yield`: the first use of one loads anyio, which blocks all other requests.
async def _answer(connection: HTTPConnection, state: State, user: InboxUser) -> LongAnswer:
    return LongAnswer(state, user.id, client_address(connection))


Answer = Annotated[LongAnswer, Depends(_answer)]
