"""What routing sees of a request: its path with an encoded slash, and HEAD as GET."""

import re
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.transport.headers import AS_GET

_ENCODED_SLASH = re.compile(rb"%2[fF]")


class Routing:
    """Shows routing a request as it has to see it.

    In the path an encoded slash is still encoded: a `sub` may hold a slash, uvicorn decodes the whole path,
    and routing could not tell that slash from one that parts two segments. (`parameters.SubPath` decodes
    the segment itself.) And HEAD is GET, whose body uvicorn leaves out (RFC 9110, section 9.3.2).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, with the path that routing is to see."""
        raw_path: bytes = scope.get("raw_path") or b""
        if b"%2" in raw_path and _ENCODED_SLASH.search(raw_path):
            scope["path"] = unquote(_ENCODED_SLASH.sub(b"%252F", raw_path).decode("latin-1"))
        if scope.get("method") == "HEAD":
            scope[AS_GET] = scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
