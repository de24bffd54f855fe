"""The memory that a connection holds for a request, from its first byte until it is answered.

The count includes the head, the received body, and the unparsed bytes after it. The `turnstile` limits the
count per network and for all connections together; the `body_queue` limits the bodies of one caller. A small
request (`MAX_UNCOUNTED_BYTES`) isn't counted, because counting would cost more than its memory.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.auth.limits.body_queue import SMALL_BODY
from gateway.transport.framing import PartialHead
from gateway.transport.lingering import LingeringProtocol
from gateway.transport.turnstile import Turnstile

MAX_UNCOUNTED_BYTES = 4096
"""Maximum size of a request that isn't counted, in bytes, including `FIELD_BYTES` for each field."""

FIELD_BYTES = 128
"""Memory of a header field in addition to its text: the objects of two strings and a pair."""

_ANSWERED: Any = {"headers": []}
"""Replaces the scope of an answered request, so that its head can be freed."""


class HoldingProtocol(LingeringProtocol):
    """uvicorn's HTTP protocol, which counts the bytes that it holds. A subclass defines `_refuse`."""

    # Defaults on the class, so that a connection uses memory only for the attributes that it sets.
    _head: PartialHead | None = None
    _head_bytes = 0
    _body_bytes = 0
    unparsed = b""
    _held_bytes = 0
    turnstile: Turnstile
    _task: asyncio.Future[Any] | None = None

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Respond with a problem, and end the connection."""
        raise NotImplementedError

    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        """Start the task as uvicorn does, and keep it: it may hold the request after the connection ends."""
        task = self._task = self.loop.create_task(cycle.run_asgi(app))  # type: ignore[arg-type]
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _is_worth_counting(self) -> bool:
        size = self._head_bytes + self._body_bytes + len(self.headers or ()) * FIELD_BYTES
        return size > MAX_UNCOUNTED_BYTES

    def _count_held(self) -> None:
        """Update the count. Refuse the request if its network, or all networks together, hold too much."""
        held = len(self.unparsed) + self._head_bytes + len(self.headers or ()) * FIELD_BYTES
        if self._head is not None:
            held += self._head.size
        if self._body_bytes:
            # The queue of bodies counts the part of a larger body that the application has taken.
            held += max(len(self.cycle.body), min(self._body_bytes, SMALL_BODY))
        more, self._held_bytes = held - self._held_bytes, held
        if more and not self.turnstile.hold(self._address(), more):
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Unfinished requests hold too much memory.")

    def _take_held(self) -> int:
        """Reset the count and return it. The caller must release it."""
        held, self._held_bytes = self._held_bytes, 0
        return held

    def on_response_complete(self) -> None:
        """Free the request, because the connection may wait a long time for its next request."""
        super().on_response_complete()
        self._task = None
        self._forget_request()
        if self._held_bytes:
            self._count_held()

    def _forget_request(self) -> None:
        if self.cycle is not None:
            if self.cycle.body:
                self.cycle.body.clear()
            self.cycle.scope = _ANSWERED
        self.headers, self.url, self.scope = [], b"", _ANSWERED
        self._head_bytes = self._body_bytes = 0

    def _release_held(self) -> None:
        """Release the count as soon as the application has finished: until then it holds the request."""
        if self._task is None or self._task.done():
            self._forget_request()
            self.turnstile.hold(self._address(), -self._take_held())
        else:
            self._task.add_done_callback(lambda _: self._release_held())
