"""An endpoint for one file of the package."""

from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

FOR_EVER = "public, max-age=31536000, immutable"
"""The `Cache-Control` of a file whose path names its version."""

SLICE_BYTES = 65_536
"""The bytes of a file that are handed to a connection at once: a client that reads nothing holds no more."""


class _Sliced(Response):
    """An answer whose body waits for the client slice by slice."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers},
        )
        for start in range(0, len(self.body), SLICE_BYTES):
            body = self.body[start : start + SLICE_BYTES]
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def serve(
    content: bytes, media_type: str, headers: Mapping[str, str]
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint for one file. It answers `If-None-Match` (RFC 9110, section 13.1.2)."""
    etag = f'"{sha256(content).hexdigest()[:32]}"'
    headers = {**headers, "Content-Type": f"{media_type}; charset=utf-8", "ETag": etag}
    kind = _Sliced if len(content) > SLICE_BYTES else Response

    async def endpoint(request: Request) -> Response:
        known = [
            tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")
        ]
        if etag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return kind(content, headers=headers)

    return endpoint
