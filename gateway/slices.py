"""A response in slices: its client takes one before the next is handed to the connection."""

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
        for start in range(0, len(self.body), SLICE_BYTES):
            body = self.body[start : start + SLICE_BYTES]
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
