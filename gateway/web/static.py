"""An endpoint for one file of the package."""

from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256

from fastapi import Request, Response

from gateway.transport.headers import is_known
from gateway.transport.slices import SharedResponse

FOR_EVER = "public, max-age=31536000, immutable"
"""The `Cache-Control` of a file whose path names its version."""


def mounted(page: bytes, mount: str) -> bytes:
    """Return a page whose links begin at the mount point: its own address may lack the slash at the end."""
    for attribute in (b'href="', b'src="') if mount else ():
        page = page.replace(attribute + b"./", attribute + f"{mount}/".encode())
    return page


def serve(
    content: bytes, media_type: str, headers: Mapping[str, str]
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint for one file. It answers `If-None-Match` (RFC 9110, section 13.1.2)."""
    etag = f'"{sha256(content).hexdigest()[:32]}"'
    headers = {**headers, "Content-Type": f"{media_type}; charset=utf-8", "ETag": etag}

    async def endpoint(request: Request) -> Response:
        if is_known(request.headers.get("if-none-match", ""), etag):
            return Response(status_code=304, headers=headers)
        return SharedResponse(content, headers=headers)

    return endpoint
