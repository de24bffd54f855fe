"""Request bodies: bounded in size, charged to the caller while they are incomplete, and strict JSON."""

import codecs
import re
from collections.abc import AsyncGenerator, Iterable
from typing import Any, cast

from fastapi import Request
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from gateway.auth.limits.body_queue import SMALL_BODY
from gateway.auth.limits.rate_limits import RateLimits
from gateway.errors import PayloadTooLarge, UnsupportedEncoding
from gateway.protocol.fields import first_field

FREE_BODY_BYTES = 1024
"""Maximum bytes of a post that counts as its recipients alone."""

MAX_BODY_BYTES = 256 * 1024
"""Maximum bytes of a body, except for batches.

Each item of a batch has this limit. A larger batch takes a slot of its service (`batch.LARGE_BODY_BYTES`).
"""


class BoundedRequest(Request):
    """A request whose body is bounded and whose JSON is strict.

    A body over `SMALL_BODY`, or a body of known length that arrives in pieces, counts against its `caller`
    (see `BodyQueue`) until `release`.
    """

    max_body: int
    caller = 0
    held = 0

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body. Raises `PayloadTooLarge` before more than the limit is held in memory.

        Raises `UnsupportedEncoding` for a compressed body, `RateLimited` if the caller has too many
        incomplete bodies in this process, and `Overloaded` if all callers together have too many.
        """
        size, received, more = self._declared_size(), 0, True
        while more:
            chunk, more = await self._next_chunk(received, size)
            received += len(chunk)
            yield chunk

    async def body(self) -> bytes:
        """Return the body. Raises what `stream` raises.

        It takes no more memory than its size, however small the pieces it arrives in.
        """
        if not hasattr(self, "_body"):
            size = self._declared_size()
            first, more = await self._next_chunk(0, size)
            self._body = await self._joined(first, size) if more else first
        return self._body

    async def _joined(self, first: bytes, size: int) -> bytes:
        """Return the body that begins with the chunk `first`."""
        body, more = bytearray(first), True
        while more:
            chunk, more = await self._next_chunk(len(body), size)
            body += chunk
        return bytes(body)

    def _declared_size(self) -> int:
        """Return the `Content-Length`, or 0 if it is unknown. Raises `UnsupportedEncoding`."""
        headers = self.scope["headers"]
        encoding = first_field(headers, b"content-encoding")
        if encoding is not None and encoding.decode("latin-1").strip().lower() != "identity":
            raise UnsupportedEncoding
        declared = first_field(headers, b"content-length")
        return int(declared) if declared is not None and declared.isdigit() else 0

    async def _next_chunk(self, received: int, size: int) -> tuple[bytes, bool]:
        """Return the chunk after the first `received` bytes, and whether more follow.

        Starlette's generator takes twice the time.
        """
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._is_disconnected = True
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        if chunk:
            self._check_size(received + len(chunk), size)
        return chunk, message.get("more_body", False)

    def _check_size(self, received: int, size: int) -> None:
        if max(size, received) > self.max_body:
            raise PayloadTooLarge(f"The body is over {_size(self.max_body)}: send less at once.")
        # Without a known caller, the bodies are limited by address (`transport.held_bytes`).
        if not self.held and (received > SMALL_BODY or (self.caller and received < size)):
            self._hold(min(size or self.max_body, MAX_BODY_BYTES))

    async def json(self) -> Any:
        """Return the value of the body, which must be strict JSON (RFC 8259). Raises `NotJson`.

        NaN and lone surrogates, which `json.loads` accepts, are errors here. Raises what `stream` raises.
        """
        if not hasattr(self, "_json"):
            body = await self.body()
            if len(body) > SMALL_BODY:
                self._rate_limits.charge_body(self.caller, len(body))
                await self._rate_limits.body_queue.turn(self.caller)
            self._json = read_json(body)
        return self._json

    def settle(self, to: Iterable[str]) -> None:
        """Count a post as its recipients or as its body, whichever is more."""
        settle_body(self._rate_limits, self.caller, len(self._body), to)

    @property
    def _rate_limits(self) -> RateLimits:
        return cast("RateLimits", self.app.state.gateway.rate_limits)

    def _hold(self, size: int) -> None:
        self._rate_limits.body_queue.hold(self.caller, size)
        self.held = size

    def release(self) -> None:
        """Stop counting the body against its caller. Call it once the body is read, or will not be read."""
        if self.held:
            self._rate_limits.body_queue.release(self.caller, self.held)
            self.held = 0


def settle_body(rate_limits: RateLimits, service: int, size: int, to: Iterable[str]) -> None:
    """Count a post as its recipients or as its body, whichever is more; the first KiB is free."""
    if size > FREE_BODY_BYTES:
        rate_limits.settle_body(service, size, len(set(to)))


def _size(number: int) -> str:
    """Return a number of bytes as the docs write it."""
    return f"{number // 2**20} MiB" if number % 2**20 == 0 else f"{number // 1024} KiB"


def read_json(text: bytes | str) -> Any:
    """Return the value of a strict JSON text. Ignores a byte order mark (RFC 8259, 8.1). Raises `NotJson`."""
    if text[:3] == codecs.BOM_UTF8:
        text = text[3:]
    try:
        # The parser never frees the strings that it caches, and values hardly ever repeat.
        return from_json(text, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise _not_json(text, str(error)) from None


class NotJson(ValueError):
    """The text is not JSON from this line and column on, both counted from 1. `why` may be empty."""

    def __init__(self, why: str, line: int, column: int) -> None:
        super().__init__(why)
        self.why = why
        self.line = line
        self.column = column

    def message_at(self, place: str) -> str:
        """Return the rule with the place in the whole body, if this text is a part of it."""
        if self.why == _EMPTY:
            return _EMPTY
        return f"it is not JSON at {place}{self.why and ': '}{self.why}"

    def __str__(self) -> str:
        """Return the rule with the line and column in the text."""
        return self.message_at(f"line {self.line}, column {self.column}")


_EMPTY = "it is empty"
_FOUND = re.compile(r"(.*) at line (\d+) column (\d+)", re.DOTALL)

_WHY = {
    "expected value": "a value belongs here",
    "trailing comma": "nothing follows the comma: take it out",
    "trailing characters": "something follows the end",
    "key must be a string": "a name in double quotes belongs here",
    "expected `:`": "a colon belongs here",
    "expected `,` or `]`": "a comma or ] belongs here",
    "expected `,` or `}`": "a comma or } belongs here",
    "expected ident": "only true, false and null are words",
    "EOF while parsing a list": "it ends within a list",
    "EOF while parsing an object": "it ends within an object",
    "EOF while parsing a string": "it ends within a string",
    "EOF while parsing a value": "it ends where a value belongs",
    "invalid escape": "only the escapes of JSON may follow a backslash",
    "invalid number": "it is not a number",
    "invalid unicode code point": "it is not UTF-8",
    "lone leading surrogate in hex escape": "half of a surrogate pair",
    "recursion limit exceeded": "it is nested too deeply",
}
"""The gateway's wording for each error of jiter, which parses JSON for pydantic."""


def _not_json(text: bytes | str, found: str) -> NotJson:
    match = _FOUND.fullmatch(found)
    if match is None:
        return NotJson("", 1, 1)
    why = "escape control characters" if match[1].startswith("control char") else _WHY.get(match[1], "")
    data = text.encode(errors="replace") if isinstance(text, str) else text
    if not data.strip():
        return NotJson(_EMPTY, 1, 1)
    line, column = int(match[2]), int(match[3])
    begin = 0
    for _ in range(line - 1):
        begin = data.find(b"\n", begin) + 1
    # jiter counts bytes, but an editor counts characters.
    return NotJson(why, line, max(len(data[begin : begin + column].decode(errors="replace")), 1))
