"""Sliced responses: each slice waits until the client has taken the previous one."""

import asyncio
import sys

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

SLICE_BYTES = 65_536
"""Size of a slice in bytes. The connection buffers little more than one slice for a slow client."""

WHOLE_BYTES = 16_384
"""Maximum size of a body that is sent whole, in bytes. The connection buffers that much of any response."""


class SlicedResponse(Response):
    """A response whose body waits for the client, slice by slice.

    The call returns when the connection has the last slice.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. It ends early if the client disconnects or is cut off."""
        if len(self.body) <= WHOLE_BYTES:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # Views, not copies: the bytes of a copy that the kernel doesn't take would be held twice.
        body = memoryview(self.body)
        for start in range(0, len(body), SLICE_BYTES):
            part = body[start : start + SLICE_BYTES]
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class SharedResponse(SlicedResponse):
    """A response whose body stays in memory and is shared by all clients, such as a static file.

    The connection gets the whole body at once, which frees the memory of the request. A client that doesn't
    read then holds only a view of the body. If the connection would copy the body, it is sent in slices.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        if _keeps_views():
            await Response.__call__(self, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _keeps_views() -> bool:
    """Return whether this loop's transports keep unsent bytes without copying them."""
    return sys.version_info >= (3, 12) or not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)
