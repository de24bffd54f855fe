"""A response in slices: its client takes one before the next is handed to the connection."""

import asyncio
import sys

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

SLICE_BYTES = 65_536
"""The bytes of an answer that a connection is given at once: it buffers little more for a slow client."""


class SlicedResponse(Response):
    """A response whose body waits for the client slice by slice. It has returned when all is handed over."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. A client that goes away, or is cut off, ends it."""
        if len(self.body) <= SLICE_BYTES:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # Views: what the kernel does not take of a copy would be held a second time.
        body = memoryview(self.body)
        for start in range(0, len(body), SLICE_BYTES):
            part = body[start : start + SLICE_BYTES]
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class SharedResponse(SlicedResponse):
    """A response whose body is in memory anyway, the same for everybody.

    The connection gets all of it at once, and what the request took is free again: a client that reads
    nothing holds a view of the body. Where the connection would copy it, it goes out in slices.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if _keeps_views():
            await Response.__call__(self, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _keeps_views() -> bool:
    """Return whether a transport of this loop keeps what it cannot send yet without a copy."""
    return sys.version_info >= (3, 12) or not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)
