"""uvicorn's HTTP protocol, with limits on what a client sends (`framing`, `pipelining`), and with deadlines.

- The head must be complete `head_timeout` after the connection, or after the first byte of a further request.
  Otherwise the connection is closed without a response. A WebSocket handshake is a head.
- The body must be complete `body_timeout` after the head. Otherwise the connection is closed, after a 408 if
  no response has begun.
- A client must read a slice (`slices`) of a response within `body_timeout`. Otherwise it is cut off.
- A request that exceeds a limit, or breaks HTTP, gets a problem, and the connection is closed.
- A connection for which there is no room (`connections`) gets a 429 or 503, and is closed at once.
- A stream of events has no deadline, because the connection is handed over (`stream.py`).

A request that arrives as a whole, as nearly all do, costs no timer. A request to upgrade to anything except a
WebSocket is served without the upgrade (RFC 9110, section 7.8). httptools stops parsing after its head, and
uvicorn would take its body for another request.
"""

import asyncio
from enum import Enum
from http import HTTPStatus
from typing import Any, cast

import httptools
from starlette.types import Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.settings.networks import unmapped
from gateway.transport.bare_answers import answer_of, refusal_of
from gateway.transport.connections import CONNECTIONS, Full, Place
from gateway.transport.fast_handshake import UpgradingProtocol
from gateway.transport.framing import MAX_FIELDS, Refused, check_fields, check_lists, check_target, too_large
from gateway.transport.mount import unmounted
from gateway.transport.slices import SLICE_BYTES
from gateway.transport.socket_buffers import cut_off
from gateway.transport.stream import GatewayStream
from gateway.transport.turnstile import TURNSTILE
from gateway.transport.unsent import HIGH_WATER_BYTES

STREAM_PATH = "/v1/stream"
"""The path whose response never ends."""

FIRST_REQUEST_SECONDS = 1.0
"""How long a stopping process waits for the first request on a new connection, in seconds."""

_EXTENSION = "gateway.stream"


class _Awaits(Enum):
    """The part of a request that the client must send next."""

    HEAD = "head"
    BODY = "body"
    NOTHING = "nothing"


class GatewayHttp(UpgradingProtocol):
    """The HTTP protocol of the gateway. Pass the class from `http_protocol` to `uvicorn.Config(http=…)`."""

    place: Place | None = None
    """The place of the connection, or None if it was refused or handed over to another protocol."""

    head_timeout = 10.0
    body_timeout = 30.0
    mount = b""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.turnstile = self.app_state[TURNSTILE]
        self._timed = _Awaits.NOTHING
        self._timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request, or refuse the connection if there is no room for it."""
        super().connection_made(transport)  # type: ignore[arg-type]
        if self.client is not None:
            self.client = (unmapped(self.client[0]), self.client[1])
        self.transport.set_write_buffer_limits(HIGH_WATER_BYTES)
        try:
            if self.place is None:
                self.place = self.app_state[CONNECTIONS].enter(self.client[0] if self.client else "")
        except Full as full:
            # Close without waiting for the client to read this, to free the file at once.
            self.transport.write(refusal_of(full))
            self._close()
        else:
            self._set_timer(_Awaits.HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection, and release its place."""
        if (place := self._take_place()) is not None:
            self.app_state[CONNECTIONS].leave(place)
        super().connection_lost(exc)

    def _take_place(self) -> Place | None:
        """Reset the place and return it. The caller must release it when the connection ends."""
        place, self.place = self.place, None
        return place

    def shutdown(self) -> None:
        """End the connection after the response to any request, including one in transit or waiting.

        A handshake is answered, and its socket is then closed with 1012.
        """
        if self._upgrading:
            self._ending = True
        elif self.cycle is None or self.unparsed:
            self.loop.call_later(FIRST_REQUEST_SECONDS, self._end_if_idle)
        else:
            super().shutdown()

    def _end_if_idle(self) -> None:
        """End the connection now, or after the response if a request is waiting."""
        if not (self.unparsed or self._upgrading):
            super().shutdown()

    def pause_writing(self) -> None:
        """Wait for the client to read, with a deadline: its response and its further requests take memory."""
        super().pause_writing()
        self._expect_reading()

    def _expect_reading(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(self.body_timeout, self._check_reading, unread)

    def _check_reading(self, before: int) -> None:
        """Abort if the client has read neither a slice nor all the rest since the last check."""
        if self.transport.get_write_buffer_size() > before - SLICE_BYTES:
            cut_off(self.transport)
        else:
            self._expect_reading()

    def resume_writing(self) -> None:
        """Continue writing: the client has read."""
        self._stop_waiting()
        super().resume_writing()

    def _parse(self, piece: bytes) -> bool:
        """Parse bytes of one request, and return whether they end the head of a WebSocket handshake."""
        while piece:
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade:
                if self._should_upgrade():
                    return True
                if (head := self._head_again()) is None:
                    self._refuse(HTTPStatus.BAD_REQUEST, "This is not a proxy (RFC 9110, 9.3.6).")
                    return False
                piece = head
            except httptools.HttpParserError as error:
                self._refuse_for(error.__context__)
                return False
            else:
                return False
        return False

    def _refuse_for(self, reason: BaseException | None) -> None:
        """Refuse the request that stopped the parser.

        `_parse` must not keep `reason` in a variable, because it refers to the frame of `_parse`.
        """
        if isinstance(reason, Refused):
            self._refuse(reason.status, reason.detail)
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "This is not HTTP/1.1 (RFC 9112).")

    def _head_again(self) -> bytes | None:
        """Start a new parser, and return the head for it, without the fields that stopped the last one.

        Return None for the method CONNECT, which itself stops the parser.
        """
        headers = [header for header in self.headers if header[0] != b"upgrade"]
        if len(headers) == len(self.headers):
            return None
        version = self.parser.get_http_version().encode()
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
        self.parser = httptools.HttpRequestParser(self)
        return line + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n"

    def _await(self) -> None:
        """Set the deadline for the next head, or for the rest of the body."""
        if self._body_left:
            awaits = _Awaits.BODY
        elif self.unparsed or ((cycle := self.cycle) is not None and not cycle.response_complete):
            awaits = _Awaits.NOTHING
        else:
            awaits = _Awaits.HEAD
        if awaits is not self._timed:
            self._set_timer(awaits)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field. Drop cookies: the gateway uses none, and parsing them takes quadratic time."""
        if len(self.headers) == MAX_FIELDS:
            raise too_large("The head, or the trailer, has over 100 fields.")
        name = name.lower()
        if name != b"cookie":
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Begin a request. Raises `Refused` if it is ambiguous.

        A request to upgrade to anything except a WebSocket begins later, when `_parse` feeds its head again.
        For `STREAM_PATH`, this object is added to the scope, so that the application can hand it over.
        """
        check_target(self.url)
        fields = check_fields(self.parser.get_http_version(), self.headers)
        upgrades = self.parser.should_upgrade()
        if upgrades:
            check_lists(self.headers)
            if not self._find_upgrade():
                return
        if self.mount:
            self.url = unmounted(self.url, self.mount)
        if b"expect" in fields:
            self.expect_100_continue = fields[b"expect"].lower() == b"100-continue"
        super().on_headers_complete()
        if upgrades:
            return
        if b"content-length" in fields:
            self._body_left = int(fields[b"content-length"])
        elif b"transfer-encoding" in fields:
            self._expect_chunks()
        if self.scope["path"] == STREAM_PATH:
            cast("dict[str, Any]", self.scope)["extensions"] = {_EXTENSION: (self, self.cycle)}

    def become_stream(self, cycle: RequestResponseCycle) -> GatewayStream:
        """Hand the connection over after the head of this response. Drop any further requests on it."""
        cycle.response_complete = True
        dropped = self._stop_taking()
        self.connections.discard(self)
        stream = GatewayStream(self.transport, self.server_state, self.app_state, self._take_place())
        self.transport.set_write_buffer_limits(HIGH_WATER_BYTES)
        self.transport.set_protocol(stream)
        if self.flow.write_paused:
            stream.pause_writing()
        self.flow.resume_reading()
        self.parser = cast("Any", None)
        if dropped:
            self.loop.call_soon(stream.data_received, dropped)  # counted once the stream has begun
        return stream

    def _stop_taking(self) -> bytes:
        """Stop parsing and cancel the timers. Return the unparsed bytes."""
        self._stop_timer()
        self._stop_waiting()
        return super()._stop_taking()

    def _stop_waiting(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _set_timer(self, awaits: _Awaits) -> None:
        self._stop_timer()
        self._timed = awaits
        if awaits is not _Awaits.NOTHING:
            seconds = self.head_timeout if awaits is _Awaits.HEAD else self.body_timeout
            self._timer = self.loop.call_later(seconds, self._on_timeout)

    def _stop_timer(self) -> None:
        self._timed = _Awaits.NOTHING
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        if self.flow.read_paused and (self._timed is not _Awaits.BODY or self._is_answering()):
            # The gateway paused reading: the application hasn't taken the received bytes, or is still
            # responding to the previous request. For a body after its response, the client is late.
            self._set_timer(self._timed)
        elif self._timed is _Awaits.BODY and not self.cycle.response_started:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The body did not arrive in time.")
        else:
            self._close()

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Respond with a problem (RFC 9457), and close. Tell the application that its client has gone."""
        if self._gives_up_answer():
            self.transport.write(answer_of(status, detail))
            self._hang_up()
        else:
            self._close()

    def _gives_up_answer(self) -> bool:
        """Cancel the current request, unless its response has begun. Return whether one may still be sent."""
        if not self._is_answering():
            # A faulty body after its response needs no second response.
            return not self._body_left
        if self.cycle.response_started:
            return False
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        return True


async def begin_stream(scope: Scope, send: Send, headers: list[tuple[bytes, bytes]]) -> GatewayStream | None:
    """Send the head of the response, and return the stream that the connection becomes.

    Return None if the client wants only the head (RFC 9110, section 9.3.2), or has gone. Raises KeyError if
    another server runs the application.
    """
    http, cycle = cast("tuple[GatewayHttp, RequestResponseCycle]", scope["extensions"].pop(_EXTENSION))
    # The body ends with the connection (RFC 9112, section 6.3), in HTTP/1.0 too.
    cycle.keep_alive = cycle.chunked_encoding = False
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if cycle.scope["method"] == "HEAD" or cycle.disconnected or http.transport.is_closing():
        await send({"type": "http.response.body"})
        return None
    return http.become_stream(cycle)


def http_protocol(*, head_timeout: float, body_timeout: float, mount: str = "") -> type[GatewayHttp]:
    """Return the protocol class with these deadlines, in seconds, and this mount point (`mount`)."""
    options = {"head_timeout": head_timeout, "body_timeout": body_timeout, "mount": mount.encode()}
    return type("GatewayHttp", (GatewayHttp,), options)
