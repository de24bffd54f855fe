"""uvicorn's HTTP protocol with bounds on what a client sends (`framing`, `pipelining`), and with deadlines.

- From the connection, or the first byte of a further request, to the end of the head: `head_timeout`. Then
  the connection is closed without a word. A WebSocket handshake is a head.
- From there to the end of the body: `body_timeout`. Then 408 where nothing was answered yet, and the close.
- An answer of which no slice (`slices`) is read in `body_timeout` is cut off.
- What breaks a bound, or HTTP, is answered with a problem and the close.
- A connection for which there is no room (`connections`) is answered with 429 or 503, and closed at once.
- A stream of events has no deadline: it is handed over (`stream.py`).

A request that arrives whole, as nearly all do, costs no timer. One that would like to upgrade to something
else than a WebSocket is served as it is (RFC 9110, section 7.8). httptools stops parsing behind its head, and
uvicorn would take its body for a further request.
"""

import asyncio
from enum import Enum
from http import HTTPStatus
from typing import Any, cast

import httptools
from starlette.types import Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from websockets.datastructures import Headers
from websockets.http11 import Request

from gateway.settings.networks import unmapped
from gateway.transport.bare_answers import answer_of, refusal_of
from gateway.transport.connections import CONNECTIONS, Full, Place
from gateway.transport.framing import MAX_FIELDS, Refused, check_fields, check_lists, check_target, too_large
from gateway.transport.mount import unmounted
from gateway.transport.pipelining import PipeliningProtocol
from gateway.transport.slices import SLICE_BYTES
from gateway.transport.stream import GatewayStream
from gateway.transport.turnstile import TURNSTILE
from gateway.transport.websocket import GatewayWebSocket

STREAM_PATH = "/v1/stream"
"""The path whose answer has no end."""

FIRST_REQUEST = 1.0
"""How long a process that ends waits for a request on a connection that was just made, in seconds."""

HIGH_WATER_BYTES = 16_384
"""How much of small answers may wait for a client that does not read before its next request waits, too."""

_EXTENSION = "gateway.stream"


class _Awaits(Enum):
    """What the client has yet to send."""

    HEAD = "head"
    BODY = "body"
    NOTHING = "nothing"


class GatewayHttp(PipeliningProtocol):
    """What `uvicorn.Config(http=…)` is given, by `http_protocol`."""

    place: Place | None = None
    """Where the connection is counted; None where it was refused, or another protocol has it."""

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
        """Wait for the first request, where there is room for the connection."""
        super().connection_made(transport)  # type: ignore[arg-type]
        if self.client is not None:
            self.client = (unmapped(self.client[0]), self.client[1])
        self.transport.set_write_buffer_limits(HIGH_WATER_BYTES)
        try:
            if self.place is None:
                self.place = self.app_state[CONNECTIONS].enter(self.client[0] if self.client else "")
        except Full as full:
            # It may not hold a file for a moment longer, so nobody waits until the client has read this.
            self.transport.write(refusal_of(full))
            self._close()
        else:
            self._set_timer(_Awaits.HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """End it, and make room for another."""
        if (place := self._take_place()) is not None:
            self.app_state[CONNECTIONS].leave(place)
        super().connection_lost(exc)

    def _take_place(self) -> Place | None:
        """Return the place of the connection, for the protocol that counts its end."""
        place, self.place = self.place, None
        return place

    def shutdown(self) -> None:
        """End it: behind the answer to what was asked, which may be on its way, or wait for its turn."""
        if self.cycle is None or self.unparsed:
            self.loop.call_later(FIRST_REQUEST, self._end_unasked)
        else:
            super().shutdown()

    def _end_unasked(self) -> None:
        """End it, unless it is asked something now: then it ends behind the answer."""
        if not self.unparsed:
            super().shutdown()

    def pause_writing(self) -> None:
        """Wait for the client to read, but not for ever: it holds the answer, and what it has asked since."""
        super().pause_writing()
        self._expect_reading()

    def _expect_reading(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(self.body_timeout, self._look_whether_it_reads, unread)

    def _look_whether_it_reads(self, before: int) -> None:
        """Cut off a client that has not taken a slice, or all that was left, since it was looked before."""
        if self.transport.get_write_buffer_size() > before - SLICE_BYTES:
            self.transport.abort()
        else:
            self._expect_reading()

    def resume_writing(self) -> None:
        """Go on: it has read."""
        self._stop_waiting()
        super().resume_writing()

    def _parse(self, piece: bytes) -> bool:
        """Parse what belongs to one request, and return whether it is a WebSocket handshake."""
        while piece:
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade:
                if self._should_upgrade():
                    return True
                if (head := self._head_again()) is None:
                    self._refuse(HTTPStatus.BAD_REQUEST, "This is no proxy (RFC 9110, 9.3.6).")
                    return False
                piece = head
            except httptools.HttpParserError as error:
                self._refuse_for(error.__context__)
                return False
            else:
                return False
        return False

    def _refuse_for(self, reason: BaseException | None) -> None:
        """Refuse what the parser has stopped at. What parses keeps no `reason`: its frame is held by that."""
        if isinstance(reason, Refused):
            self._refuse(reason.status, reason.detail)
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "This is not HTTP/1.1 (RFC 9112).")

    def _head_again(self) -> bytes | None:
        """Begin with a new parser, and return the head for it, without what made the last one stop.

        None for the method CONNECT, which is all of the reason.
        """
        headers = [header for header in self.headers if header[0] != b"upgrade"]
        if len(headers) == len(self.headers):
            return None
        line = b"%b %b HTTP/%b\r\n" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        self.parser = httptools.HttpRequestParser(self)
        return line + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n"

    def _await(self) -> None:
        """Set the deadline for what the client has yet to send."""
        if self._body_left:
            awaits = _Awaits.BODY
        elif self.unparsed or ((cycle := self.cycle) is not None and not cycle.response_complete):
            awaits = _Awaits.NOTHING
        else:
            awaits = _Awaits.HEAD
        if awaits is not self._timed:
            self._set_timer(awaits)

    def _hand_over(self, rest: bytes) -> None:
        """Hand the connection and the request over: the handshake is whole, and `rest` came behind it.

        uvicorn would write the request out again, for its WebSocket protocol to parse it a second time: that
        was a fifth of what a handshake costs.
        """
        headers = Headers()
        for name, value in self.headers:
            headers.set_insecure(name.decode("ascii"), value.decode("latin-1"))
        if not self.url.isascii():
            self._refuse(HTTPStatus.BAD_REQUEST, "The request target must be ASCII (RFC 3986).")
        elif "Transfer-Encoding" in headers or not {"0"}.issuperset(headers.get_all("Content-Length")):
            self._refuse(HTTPStatus.BAD_REQUEST, "A WebSocket handshake has no body (RFC 6455, 4.1).")
        else:
            protocol = f"HTTP/{self.scope['http_version']}"
            request = Request(self._target(), headers, self.scope["method"], protocol)
            websocket = GatewayWebSocket(self.config, self.server_state, self.app_state)
            websocket.place, websocket.head_bytes = self._take_place(), self._take_held()
            self._stop_taking()
            self.connections.discard(self)
            self.transport.set_write_buffer_limits()
            websocket.connection_made(self.transport)
            websocket.client = self.client
            self.transport.set_protocol(websocket)
            self.flow.resume_reading()
            # It holds this object, and this object it: finding such circles costs the collector dear.
            self.parser = cast("Any", None)
            websocket.handle_connect(request)
            if rest:
                websocket.data_received(rest)

    def _target(self) -> str:
        """Return path and query of the target, which may also be a whole URL (RFC 9112, section 3.2.2)."""
        if self.url.startswith(b"/"):
            return self.url.decode("ascii")
        parsed = httptools.parse_url(self.url)
        return b"?".join(filter(None, (parsed.path or b"/", parsed.query))).decode("ascii")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field. Cookies are dropped: the gateway has none, and reading them takes quadratic time."""
        if len(self.headers) == MAX_FIELDS:
            raise too_large("The head, or the trailer, has over 100 fields.")
        name = name.lower()
        if name != b"cookie":
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Begin a request, unless it is ambiguous, or begins when `_parse` feeds it again.

        The application has this object where it may want to hand over.
        """
        check_target(self.url)
        fields = check_fields(self.parser.get_http_version(), self.headers)
        upgrades = self.parser.should_upgrade()
        if upgrades:
            check_lists(self.headers)
        if upgrades and not self._should_upgrade():
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
        """Hand the connection over behind the head of this answer; what else was asked on it has none."""
        cycle.response_complete = True
        dropped = self._stop_taking()
        self.connections.discard(self)
        stream = GatewayStream(self.transport, self.server_state, self.app_state, self._take_place())
        self.transport.set_write_buffer_limits()
        self.transport.set_protocol(stream)
        if self.flow.write_paused:
            stream.pause_writing()
        self.flow.resume_reading()
        self.parser = cast("Any", None)
        if dropped:
            # It is counted, once the stream has begun.
            self.loop.call_soon(stream.data_received, dropped)
        return stream

    def _stop_taking(self) -> bytes:
        """Parse nothing more, and wait for nothing; return what was not parsed."""
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
            self._timer = self.loop.call_later(seconds, self._too_late)

    def _stop_timer(self) -> None:
        self._timed = _Awaits.NOTHING
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        if self.flow.read_paused and (self._timed is not _Awaits.BODY or self._is_answering()):
            # It is we who do not read: the application has not taken what came, or still answers the
            # request before. A body that came after its answer has no such excuse.
            self._set_timer(self._timed)
        elif self._timed is _Awaits.BODY and not self.cycle.response_started:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The body did not arrive in time.")
        else:
            self._close()

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer with a problem (RFC 9457), and close; the application learns that its client has gone."""
        if self._gives_up_answer():
            self.transport.write(answer_of(status, detail))
            self._hang_up()
        else:
            self._close()

    def _gives_up_answer(self) -> bool:
        """Give up the request under way, unless its answer has begun; return whether there is none."""
        if not self._is_answering():
            # What is wrong with a body that nobody waits for needs no second answer.
            return not self._body_left
        if self.cycle.response_started:
            return False
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        return True


async def begin_stream(scope: Scope, send: Send, headers: list[tuple[bytes, bytes]]) -> GatewayStream | None:
    """Send the head of an answer, and return the stream that the connection is from there on.

    None where there is nobody to have one: the client wants the head only (RFC 9110, section 9.3.2), or has
    gone. Raises KeyError under another server.
    """
    http, cycle = cast("tuple[GatewayHttp, RequestResponseCycle]", scope["extensions"].pop(_EXTENSION))
    # The body ends with the connection (RFC 9112, section 6.3): so it does in HTTP/1.0, too.
    cycle.keep_alive = cycle.chunked_encoding = False
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if cycle.scope["method"] == "HEAD" or cycle.disconnected or http.transport.is_closing():
        await send({"type": "http.response.body"})
        return None
    return http.become_stream(cycle)


def http_protocol(*, head_timeout: float, body_timeout: float, mount: str = "") -> type[GatewayHttp]:
    """Return the protocol with these deadlines, in seconds, and the mount point (`mount`)."""
    options = {"head_timeout": head_timeout, "body_timeout": body_timeout, "mount": mount.encode()}
    return type("GatewayHttp", (GatewayHttp,), options)
