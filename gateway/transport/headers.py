"""Response headers: the browser's policy for a response, the pages that may read it, and the request id.

uvicorn adds the headers that every response shares (`COMMON_HEADERS`). `BrowserHeaders` adds the rest.
"""

import json
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from http import HTTPStatus
from time import perf_counter

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.database.turns import caller
from gateway.observability.console_log import REQUEST_ID, bind_request_id, new_request_id
from gateway.protocol.problems import MEDIA_TYPE, NO_TYPE, problem, problem_code
from gateway.settings.origins import log_refused, own_origin, read_origin

COMMON_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
]

Header = tuple[bytes, bytes]

AS_GET = "gateway.as_get"
"""Key of the GET's scope in the scope of a HEAD that it serves."""

BEGUN_AT = "gateway.begun_at"
"""Key, in the scope of a handshake or of a request that the fast path has failed to serve, of its start time.

An accepted socket doesn't pass through this middleware again.
"""

Count = Callable[[str, str, int, float], None]
"""Called for each response with the path's template, the method, the status, and the time in seconds."""

API_POLICY = {"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"}
"""The policy for API responses: if a browser shows one as a page, it can't run or load anything."""

_POLICY: Header = next((name.lower().encode(), value.encode()) for name, value in API_POLICY.items())
_NO_STORE: Header = (b"cache-control", b"no-store")
_REVALIDATE: Header = (b"cache-control", b"private, no-cache")
_HTTPS_ONLY: Header = (b"strict-transport-security", b"max-age=31536000")


def bare_problem(
    status: HTTPStatus, detail: str, *, retry_after: int | None = None
) -> tuple[list[Header], bytes]:
    """Return the headers and body of a problem (RFC 9457), for requests that never reach the application."""
    body = json.dumps(problem(NO_TYPE, int(status), problem_code(status), status.phrase, detail)).encode()
    head = [
        *((name.lower().encode(), value.encode()) for name, value in COMMON_HEADERS),
        _POLICY,
        (REQUEST_ID, new_request_id()),
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    if retry_after is not None:
        head.append((b"retry-after", b"%d" % retry_after))
    return head, body


class BrowserHeaders:
    """Middleware that adds a policy to each response without one, and keeps private responses out of caches.

    It also adds the request id, which the console log has too, to each response and to the answer to a
    handshake. Only https responses get `Strict-Transport-Security`, which browsers ignore over http
    (RFC 6797, 7.2).
    """

    def __init__(self, app: ASGIApp, count: Count) -> None:
        self._app = app
        self._count = count

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve a request. This isn't a coroutine, because each layer of coroutines costs every request."""
        begun_at = scope.get(BEGUN_AT) or perf_counter()
        if scope["type"] == "lifespan":
            return self._app(scope, receive, send)
        request_id = (REQUEST_ID, bind_request_id(scope["headers"]))
        if (client := scope.get("client")) is not None:
            caller.set(client[0])
        if scope["type"] == "websocket":
            scope[BEGUN_AT] = begun_at
            return self._app(scope, receive, partial(self._answer_handshake, scope, send, request_id))
        return self._serve(scope, receive, send, request_id, begun_at)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, request_id: Header, begun_at: float
    ) -> None:
        unanswered = True

        async def answer(message: Message) -> None:
            nonlocal unanswered
            if message["type"] == "http.response.start":
                unanswered = False
                seconds = perf_counter() - begun_at
                self._count(_route(scope), scope["method"], message["status"], seconds)
                message["headers"] = _completed(scope, message["headers"], request_id)
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception:
            # The error handler outside of this middleware sends the response.
            if unanswered:
                seconds = perf_counter() - begun_at
                self._count(_route(scope), scope["method"], HTTPStatus.INTERNAL_SERVER_ERROR, seconds)
            raise

    async def _answer_handshake(self, scope: Scope, send: Send, request_id: Header, message: Message) -> None:
        if message["type"] in {"websocket.accept", "websocket.http.response.start"}:
            status = message.get("status", HTTPStatus.SWITCHING_PROTOCOLS)
            self._count(_route(scope), "GET", status, perf_counter() - scope[BEGUN_AT])
            message["headers"] = [*message.get("headers", ()), request_id]
        await send(message)


def api_lines(scheme: str, request_id: bytes) -> bytes:
    """Return the header lines that the middleware adds to the response to an API's POST."""
    lines = _API_LINES % request_id
    return lines + _HTTPS_LINE if scheme == "https" else lines


_API_LINES = b"%b: %%b\r\n%b: %b\r\n" % (REQUEST_ID, *_POLICY)
_HTTPS_LINE = b"%b: %b\r\n" % _HTTPS_ONLY


def header_lines(scope: Scope, headers: Iterable[Header], request_id: bytes) -> bytes:
    """Return the lines of the headers of a response, with those that the middleware would add."""
    return b"".join(b"%b: %b\r\n" % one for one in _completed(scope, headers, (REQUEST_ID, request_id)))


def _completed(scope: Scope, given: Iterable[Header], request_id: Header) -> list[Header]:
    """Return the headers of a response, with the missing ones added."""
    headers: list[Header] = [*given, request_id]
    names = {name for name, _ in headers}
    method = scope["method"]
    if method == "OPTIONS" and b"access-control-allow-origin" not in names:
        _log_preflight(scope)
    if b"content-security-policy" not in names:
        headers.append(_POLICY)
    if method in {"GET", "HEAD"} and b"cache-control" not in names:
        headers.append(_REVALIDATE if b"etag" in names else _NO_STORE)
    if scope["scheme"] == "https":
        headers.append(_HTTPS_ONLY)
    return headers


def _route(scope: Scope) -> str:
    """Return the template of the path, which contains no bytes of the client. Empty if no route matched."""
    route = scope.get(AS_GET, scope).get("route")
    return "" if route is None else str(route.path)


def _log_preflight(scope: Scope) -> None:
    """Log a refused preflight request: a page asked for permission to call the API."""
    asked = dict(scope["headers"])
    if b"origin" in asked and b"access-control-request-method" in asked:
        host = asked.get(b"host", b"").decode("latin-1")
        origin, own = read_origin(asked[b"origin"].decode("latin-1")), own_origin(scope["scheme"], host)
        # The gateway's own pages need no permission.
        if origin is None or origin != own:
            log_refused(origin, own)


class Cors(CORSMiddleware):
    """Middleware that lets the pages of some origins call the API (Fetch Standard, section 3.3).

    A request without an `Origin` doesn't come from a page, and is passed on directly. Credentials aren't
    allowed, because the API uses none that a browser would add by itself.
    """

    def __init__(self, app: ASGIApp, allow_origins: tuple[str, ...]) -> None:
        super().__init__(
            app,
            allow_origins=allow_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=[
                "ETag",
                "Link",
                "Location",
                "Retry-After",
                "RateLimit",
                "RateLimit-Policy",
                "X-Request-ID",
            ],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, with CORS if it has an `Origin`."""
        if scope["type"] == "http" and any(name == b"origin" for name, _ in scope["headers"]):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)
