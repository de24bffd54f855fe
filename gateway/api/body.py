"""The body of a request: bounded, counted to its caller while it is unfinished, and strict JSON."""

import codecs
import json
from collections.abc import AsyncGenerator
from typing import Any, cast

from fastapi import Request
from pydantic_core import from_json

from gateway.errors import PayloadTooLarge, UnsupportedEncoding
from gateway.intake import SMALL_BODY
from gateway.throttle import Throttle

MAX_BODY = 256 * 1024
"""Most bytes of a body, but for a batch: its items have this bound, and its service has slots for it."""


class BoundedRequest(Request):
    """A request whose body is bounded and whose JSON is strict.

    A body over `SMALL_BODY` is counted to its `caller` (see `Intake`) from there on until `release`.
    """

    max_body: int
    caller = 0
    held = 0

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body. Raises `PayloadTooLarge` before more than the limit is held in memory.

        Raises `RateLimited` where the caller has too many unfinished bodies here.
        """
        if self.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise UnsupportedEncoding
        declared = self.headers.get("content-length", "")
        size = int(declared) if declared.isdecimal() else 0
        received = 0
        async for chunk in super().stream():
            received += len(chunk)
            if max(size, received) > self.max_body:
                raise PayloadTooLarge(f"The body is over {self.max_body // 1024} KiB.")
            if received > SMALL_BODY and not self.held:
                self._hold(min(size or self.max_body, MAX_BODY))
            yield chunk

    async def body(self) -> bytes:
        """Return the body, which takes its size alone, in however small pieces it comes."""
        if not hasattr(self, "_body"):
            body = bytearray()
            async for chunk in self.stream():
                body += chunk
            self._body = bytes(body)
        return self._body

    async def json(self) -> Any:
        """Read JSON as RFC 8259 has it: `json.loads` takes NaN and halves of surrogate pairs too."""
        if not hasattr(self, "_json"):
            body = await self.body()
            if len(body) > SMALL_BODY:
                self._throttle.charge_body(self.caller, len(body))
                await self._throttle.intake.turn(self.caller)
            self._json = read_json(body)
        return self._json

    def refund(self, recipients: int) -> None:
        """Let a post count as its recipients or as its body, whichever is more; the body was counted."""
        self._throttle.refund_body(self.caller, len(self._body), recipients)

    @property
    def _throttle(self) -> Throttle:
        return cast("Throttle", self.app.state.gateway.throttle)

    def _hold(self, size: int) -> None:
        self._throttle.intake.hold(self.caller, size)
        self.held = size

    def release(self) -> None:
        """Count the body no longer: it is read, or will not be."""
        if self.held:
            self._throttle.intake.release(self.caller, self.held)
            self.held = 0


def read_json(text: bytes | str) -> Any:
    """Read a JSON text strictly, but for a byte order mark (RFC 8259, 8.1). Raises `json.JSONDecodeError`."""
    if text[:3] == codecs.BOM_UTF8:
        text = text[3:]
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise json.JSONDecodeError(str(error), "", 0) from None
