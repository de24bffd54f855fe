"""The fast path of `GET /v1/inbox`: a page for a known user, or a 304, without the application.

The page, its charges and its headers are those of `inbox`. Refusals are rendered by the application.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from types import SimpleNamespace
from typing import NamedTuple

from starlette.responses import Response
from starlette.types import ASGIApp, Scope

from gateway.api import inbox
from gateway.api.answers import LongAnswer
from gateway.api.callers import MAX_ADDRESS_CHARACTERS
from gateway.api.state import Gateway
from gateway.api.usual_head import known_caller, usual_fields
from gateway.auth.principals import INBOX, User
from gateway.database import turns
from gateway.observability.console_log import bind_request_id
from gateway.store.inbox import Query
from gateway.transport.fast_path import Whole
from gateway.transport.headers import BEGUN_AT, BrowserHeaders, header_lines

_READ = frozenset({b"authorization", b"if-none-match", b"x-request-id"})

_QUERY = re.compile(rb"(?:limit=(?P<limit>[1-9][0-9]{0,2}))?(?:(?:^|&)unread=(?P<unread>true|false))?")
"""The queries of the fast path: none, or the parameters of a list of all or of unread items."""


class _Head(NamedTuple):
    user: User
    query: Query
    given: tuple[str, ...]
    if_none_match: str | None
    address: str
    request_id: bytes
    scope: Scope


class FastInbox:
    """The fast path of pages."""

    def __init__(self, state: Gateway) -> None:
        self._state = state

    def admit(self, scope: Scope) -> _Head | None:
        """Return what an ordinary head asks for, or None for any other. Takes only a token that is cached."""
        fields = usual_fields(scope, _READ)
        asked = _QUERY.fullmatch(scope["query_string"])
        if fields is None or asked is None:
            return None
        user = known_caller(self._state, fields)
        given = {name: value for name, value in asked.groupdict().items() if value is not None}
        query = _query(given)
        if not isinstance(user, User) or INBOX not in user.scopes or query is None:
            return None
        scope[BEGUN_AT] = perf_counter()
        known = fields.get(b"if-none-match")
        client = scope["client"]
        return _Head(
            user,
            query,
            tuple(given),
            None if known is None else known.decode("latin-1"),
            client[0][:MAX_ADDRESS_CHARACTERS] if client else "",
            bind_request_id(scope["headers"]),
            scope,
        )

    @contextmanager
    def waiting(self, head: _Head) -> Iterator[bool]:  # noqa: ARG002 - the interface of a fast path
        """Let the application wait for a body: an ordinary request has none."""
        yield False

    def take(self, head: _Head, body: bytearray) -> "_Taken":  # noqa: ARG002
        """Charge the request, and begin to read the page. Raises `RateLimited`."""
        self._state.rate_limits.commands.take(head.user.id)
        return _Taken(self._state, head)


class _Taken:
    """A page that is being read."""

    __slots__ = ("_head", "_state", "outcome")

    def __init__(self, state: Gateway, head: _Head) -> None:
        self._state = state
        self._head = head
        self.outcome: asyncio.Future[Response] = asyncio.ensure_future(self._respond())

    async def _respond(self) -> Response:
        head, state = self._head, self._state
        turns.caller.set((User, head.user.id))
        answer = LongAnswer(state, head.user.id, head.address)
        return await inbox.page_response(state, head.user, answer, head.query, head.given, head.if_none_match)

    def answer(self) -> Whole | ASGIApp:
        """Return the response, and count it. Raises the error of the read."""
        response, head, count = self.outcome.result(), self._head, self._state.metrics.answered
        if type(response) is not Response:
            # The middleware completes the headers of a long response, and counts it.
            head.scope["route"] = SimpleNamespace(path=inbox.PATH)
            return BrowserHeaders(response, count)
        count(inbox.PATH, "GET", response.status_code, perf_counter() - head.scope[BEGUN_AT])
        lines = header_lines(head.scope, response.raw_headers, head.request_id)
        return response.status_code, lines, bytes(response.body)


def _query(given: Mapping[str, bytes]) -> Query | None:
    """Return the query with these parameters, or None if one of them is out of range."""
    limit = int(given.get("limit", b"50"))
    unread = given.get("unread")
    if limit > inbox.MAX_PAGE:
        return None
    return Query(limit, unread=None if unread is None else unread == b"true")
