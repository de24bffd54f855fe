"""Middleware that prepares requests for routing: encoded slashes stay encoded, and HEAD becomes GET."""

import re
from collections.abc import Awaitable
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.transport.headers import AS_GET

_ENCODED_SLASH = re.compile(rb"%2[fF]")


class Routing:
    """Middleware that changes the path and the method that routing uses.

    An encoded slash in the path stays encoded: a `sub` may hold a slash, uvicorn decodes the whole path, and
    routing could not tell that slash from a separator of segments. (`parameters.SubPath` decodes the segment
    itself.) HEAD becomes GET; uvicorn leaves out the body (RFC 9110, section 9.3.2).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass the request on, with the path and method for routing. A plain function: see `Anonymous`."""
        raw_path: bytes = scope.get("raw_path") or b""
        if b"%2" in raw_path and _ENCODED_SLASH.search(raw_path):
            scope["path"] = unquote(_ENCODED_SLASH.sub(b"%252F", raw_path).decode("latin-1"))
        if scope.get("method") == "HEAD":
            scope[AS_GET] = scope = {**scope, "method": "GET"}
        return self._app(scope, receive, send)
