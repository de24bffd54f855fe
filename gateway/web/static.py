"""Endpoints that each serve one file of the package."""

from collections.abc import Awaitable, Callable, Mapping

from fastapi import Request, Response

from gateway.transport.conditional import etag_of, not_modified
from gateway.transport.slices import SharedResponse

IMMUTABLE = "public, max-age=31536000, immutable"
"""The `Cache-Control` of a file whose path names its version."""


def mounted(page: bytes, mount: str) -> bytes:
    """Make the links of a page absolute below the mount point, because its URL may lack the final slash."""
    for attribute in (b'href="', b'src="') if mount else ():
        page = page.replace(attribute + b"./", attribute + f"{mount}/".encode())
    return page


def serve(
    content: bytes, media_type: str, headers: Mapping[str, str]
) -> Callable[[Request], Awaitable[Response]]:
    """Create an endpoint that serves `content`. It handles `If-None-Match` (RFC 9110, section 13.1.2)."""
    headers = {**headers, "Content-Type": f"{media_type}; charset=utf-8", "ETag": etag_of(content)}

    async def endpoint(request: Request) -> Response:
        known = not_modified(request.headers.get("if-none-match"), headers)
        return known or SharedResponse(content, headers=headers)

    return endpoint
