"""The fast path: a request that is answered on its connection, without a task and without the application.

A fast path, such as `api/fast_post.py`, decides from the head whether it may take a request, and then from
the body. Until it takes the request, nothing is consumed or charged, and the application can still serve
the request.
"""

import asyncio
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from typing import Any, Protocol, cast

from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

from gateway.errors import GatewayError
from gateway.observability.tracebacks import drop_tracebacks
from gateway.transport.forwarded import resolved
from gateway.transport.held_bytes import HoldingProtocol

FAST_PATHS = "gateway.fast_paths"
"""Key, in the lifespan state, of the fast paths by method and path.

The path is unescaped: an escaped slash is no separator (`api/routing.py`).
"""

FAILURE = "gateway.failure"
"""Key, in the scope of a request that the fast path has taken in vain, of the error that answers it.

The application must raise it instead of serving the request, which was charged and may have been tried.
"""

Head = Any
"""What a fast path has read from the head of a request."""


Whole = tuple[int, bytes, bytes]
"""A response: its status, its header lines and its body."""


class Taken(Protocol):
    """A request that the fast path has taken. `outcome` is done once it can be answered, or has failed."""

    outcome: asyncio.Future[Any]

    def answer(self) -> Whole | ASGIApp:
        """Return the response, or an application that sends a long one. Raises if the request failed."""
        ...


class FastPath(Protocol):
    """A way around the application for one kind of request."""

    def admit(self, scope: Scope) -> Head | None:
        """Return what the head asks for, or None if the application must serve the request."""
        ...

    def waiting(self, head: Head) -> AbstractContextManager[bool]:
        """Hold the request while its body arrives: whether it may wait here."""
        ...

    def take(self, head: Head, body: bytearray) -> Taken | None:
        """Take the request, or return None if the application must serve it. Raises once it is charged."""
        ...


class FastPathProtocol(HoldingProtocol):
    """uvicorn's HTTP protocol, with the fast paths that the lifespan state has under `FAST_PATHS`."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        """Serve a request: by the fast path if it takes it, or else by a task, as uvicorn does."""
        scope = cast("Scope", cycle.scope)
        fast: FastPath | None = self.app_state[FAST_PATHS].get((scope["method"], scope["raw_path"]))
        if fast is not None:
            # A body that came with the head is parsed by then.
            self.loop.call_soon(self._begin, fast, cycle, scope, app)
        else:
            super()._start_asgi_task(cycle, app)

    def _resolved(self, scope: Scope) -> Scope:
        """Return the scope as the application would see it behind the trusted proxies."""
        if not self.config.proxy_headers:
            return scope
        return resolved(scope, tuple(self.config.forwarded_allow_ips))

    def _begin(self, fast: FastPath, cycle: RequestResponseCycle, scope: Scope, app: ASGIApp) -> None:
        if cycle.disconnected:
            cycle.scope = cast("Any", scope)  # The end of the connection has dropped it.
            super()._start_asgi_task(cycle, app)
            return
        seen = self._resolved(scope)
        if (head := fast.admit(seen)) is None:
            super()._start_asgi_task(cycle, app)
            return
        # The access log has the client. If the application serves the request, it resolves this once more.
        cycle.scope = cast("Any", seen)
        if cycle.more_body:
            task = self._task = self.loop.create_task(self._wait_for_body(fast, head, cycle, app))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)
        else:
            self._take_fast(fast, head, cycle, app)

    async def _wait_for_body(
        self, fast: FastPath, head: Head, cycle: RequestResponseCycle, app: ASGIApp
    ) -> None:
        with fast.waiting(head) as may_wait:
            while may_wait and cycle.more_body and not cycle.disconnected:
                await cycle.message_event.wait()
                cycle.message_event.clear()
        cycle.message_event.set()
        if may_wait and not cycle.disconnected:
            self._take_fast(fast, head, cycle, app)
        else:
            await cycle.run_asgi(app)  # type: ignore[arg-type]

    def _take_fast(self, fast: FastPath, head: Head, cycle: RequestResponseCycle, app: ASGIApp) -> None:
        try:
            taken = fast.take(head, cycle.body)
        except Exception as error:  # noqa: BLE001 - the application renders it
            self._fail(error, cycle, app)
            return
        if taken is None:
            super()._start_asgi_task(cycle, app)
            return
        # It holds the request as a task would.
        self._task = taken.outcome
        taken.outcome.add_done_callback(partial(self._finish, taken, cycle, cast("Scope", cycle.scope), app))

    def _finish(
        self,
        taken: Taken,
        cycle: RequestResponseCycle,
        scope: Scope,
        app: ASGIApp,
        _outcome: asyncio.Future[Any],
    ) -> None:
        cycle.scope = cast("Any", scope)  # A connection that ends just before this has dropped it.
        try:
            answer = taken.answer()
        except Exception as error:  # noqa: BLE001 - the application renders it
            self._fail(error, cycle, app)
            return
        if not isinstance(answer, tuple):
            # Even if the client has gone: a long response releases what it holds.
            super()._start_asgi_task(cycle, answer)
        elif not cycle.disconnected:
            self._send_whole(cycle, *answer)

    def _fail(self, error: Exception, cycle: RequestResponseCycle, app: ASGIApp) -> None:
        if isinstance(error, GatewayError):
            # The frames hold the future of the error, and the request.
            drop_tracebacks(error)
        cast("Scope", cycle.scope)[FAILURE] = error
        super()._start_asgi_task(cycle, app)

    def _send_whole(self, cycle: RequestResponseCycle, status: int, lines: bytes, body: bytes) -> None:
        """Send a response as `cycle.send` does, in one write."""
        cycle.response_started = cycle.response_complete = True
        if cycle.access_log:
            _log_access(cycle, status)
        common, closes = _common_lines(tuple(cycle.default_headers))
        end = b"\r\n"
        if closes:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            end = b"connection: close\r\n\r\n"
        self.transport.write(b"".join((STATUS_LINE[status], common, lines, end, body)))
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        # Break the reference cycle with this protocol, as `run_asgi` does.
        cycle.on_response = _nothing


@lru_cache(maxsize=4)
def _common_lines(headers: tuple[tuple[bytes, bytes], ...]) -> tuple[bytes, bool]:
    """Return the lines of the headers that all responses of a second share, and whether they close."""
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    return lines, (b"connection", b"close") in headers


def _log_access(cycle: RequestResponseCycle, status: int) -> None:
    scope = cycle.scope
    cycle.access_logger.info(
        '%s - "%s %s HTTP/%s" %d',
        get_client_addr(scope),
        scope["method"],
        get_path_with_query_string(scope),
        scope["http_version"],
        status,
    )


def _nothing() -> None:
    """Do nothing: the response is complete."""
