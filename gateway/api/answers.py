"""Long answers to a user: a limited number is in memory at once, each until its client has read it.

If a client does not read, its answer stays in memory until the gateway disconnects it. So a user has at most
two long answers in memory; the next one waits before its items are read. A short answer never waits.
"""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Annotated, Protocol, Self, TypeVar

from fastapi import Depends, Response
from sqlalchemy import Connection
from starlette.types import Receive, Scope, Send

from gateway.api.callers import InboxUser
from gateway.api.state import Gateway, State
from gateway.store.inbox import PAGE_BYTES
from gateway.transport.slices import SLICE_BYTES, SlicedResponse


class _Page(Protocol):
    @property
    def cut(self) -> bool:
        """Whether the limit on bytes cut the page short."""
        ...


P = TypeVar("P", bound=_Page)


class _Answer:
    """The answer to one request of a user: an async context manager. Make the response inside it."""

    def __init__(self, state: Gateway, user_id: int) -> None:
        self._database = state.database
        self._slots = state.throttle.long_answers
        self._reads = state.throttle.page_reads.of(user_id)
        self._user_id = user_id
        self._slot = AsyncExitStack()

    async def read(self, work: Callable[[Connection, int], P | None]) -> P | None:
        """Wait for one of the user's slots, then return the page that `work` reads, or None if it has none.

        `work` gets a connection and the maximum bytes of the page. If no slot is free, read a short page
        first: if all items fit into `SLICE_BYTES`, the answer needs no slot.
        """
        slots = self._slots.of(self._user_id)
        if slots.locked():
            page = await self._read(work, SLICE_BYTES)
            if page is None or not page.cut:
                return page
            del page
        await self._slot.enter_async_context(slots)
        return await self._read(work, PAGE_BYTES)

    async def _read(self, work: Callable[[Connection, int], P | None], size: int) -> P | None:
        """Read a page. Limit the concurrent reads of a user: all users share a few reader threads."""
        async with self._reads:
            return await self._database.read(work, size)

    def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        """Return the response. A long one keeps the slot until it is sent or its client disconnects."""
        if len(body) <= SLICE_BYTES:
            return Response(body, headers=headers, media_type="application/json")
        return _LongResponse(body, headers, self._slot.pop_all())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._slot.aclose()


class _LongResponse(SlicedResponse):
    """A response that holds a slot until it is sent."""

    def __init__(self, body: bytes, headers: Mapping[str, str], slot: AsyncExitStack) -> None:
        super().__init__(body, headers=headers, media_type="application/json")
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, then release the slot."""
        async with self._slot:
            await super().__call__(scope, receive, send)


# Not a dependency with `yield`: the first use of one loads anyio, which blocks all other requests.
async def _answer(state: State, user: InboxUser) -> _Answer:
    return _Answer(state, user.id)


Answer = Annotated[_Answer, Depends(_answer)]
