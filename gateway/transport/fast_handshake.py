"""The fast path of a WebSocket handshake: it is answered on its connection, without the application.

`api/fast_socket.py` authorizes the client by the same rules as the route. A handshake that isn't ordinary,
or is refused, goes to the application through uvicorn's protocol (`websocket`), so there is one renderer of
refusals.
"""

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Awaitable
from contextlib import suppress
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Protocol, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.utils import get_client_addr
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.utils import accept_key

from gateway.errors import GatewayError
from gateway.observability.tracebacks import drop_tracebacks
from gateway.protocol.wire import PACKED_SUBPROTOCOL
from gateway.transport.inbound import MAX_UNCOUNTED_BYTES, Client
from gateway.transport.pipelining import PipeliningProtocol
from gateway.transport.socket import GatewaySocket
from gateway.transport.unsent import HIGH_WATER_BYTES
from gateway.transport.websocket import GatewayWebSocket

FAST_HANDSHAKE = "gateway.fast_handshake"
"""Key of the fast path of handshakes in the lifespan state."""

_ONCE = frozenset(
    {b"connection", b"upgrade", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol"}
)
"""The fields that say whether a handshake is ordinary. An ordinary handshake has each at most once."""

_SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nDate: %b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n%bX-Request-ID: %b\r\n%b\r\n"
)

_KEY_BYTES = 16
_TOKENS = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:, ?[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")


class Authorized(Protocol):
    """A client that may open a socket."""

    subprotocol: str | None
    request_id: bytes
    address: str

    def connect(self, socket: GatewaySocket) -> Client:
        """Return the connection that serves the client, and count the response."""
        ...


class FastHandshake(Protocol):
    """The rules of the route."""

    path: bytes

    async def authorize(self, scope: Scope) -> Authorized:
        """Authorize a client by the request. Raises `GatewayError`, which the application then renders."""
        ...


class UpgradingProtocol(PipeliningProtocol):
    """uvicorn's HTTP protocol, which becomes a WebSocket. A subclass defines `_refuse` and `_take_place`."""

    _upgrading = False
    """Whether a handshake is being answered, or was."""

    _handshake_bytes = 0
    """The counted size of the handshake that is being answered (`held_bytes`)."""

    _ending = False
    """Whether to close the socket with 1012 once it is open."""

    def _take_place(self) -> Any:
        raise NotImplementedError

    def _hand_over(self, rest: bytes) -> None:
        """Answer the parsed handshake. `rest` holds the bytes after it."""
        fields = dict(self.headers)
        if not self.url.isascii():
            self._refuse(HTTPStatus.BAD_REQUEST, "The request target must be ASCII (RFC 3986).")
        elif b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0":
            self._refuse(HTTPStatus.BAD_REQUEST, "A WebSocket handshake has no body (RFC 6455, 4.1).")
        elif (fast := self._fast_path(rest)) is None:
            self._hand_over_to_application(rest)
        else:
            self._upgrading = True
            self._handshake_bytes = self._take_held()
            self._stop_taking()
            self.flow.pause_reading()
            task = self.loop.create_task(self._shake_hands(*fast, rest))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def _fast_path(self, rest: bytes) -> tuple[FastHandshake, str] | None:
        """Return the fast path and the key of an ordinary handshake, or None for any other."""
        fast: FastHandshake | None = self.app_state.get(FAST_HANDSHAKE)
        if fast is None or len(rest) > MAX_UNCOUNTED_BYTES:
            return None
        path, _, query = self.url.partition(b"?")
        scope = cast("Scope", self.scope)
        key = _usual_key(scope) if path == fast.path else None
        if key is None:
            return None
        # uvicorn leaves these out of the scope of a handshake.
        scope["path"], scope["query_string"] = self.root_path + path.decode(), query
        return fast, key

    async def _shake_hands(self, fast: FastHandshake, key: str, rest: bytes) -> None:
        scope = self._resolved(cast("Scope", self.scope))
        authorized, failure = await _outcome(fast.authorize(scope))
        if self.transport.is_closing():
            self._release_handshake()
        elif authorized is None:
            self._hand_over_to_application(rest, failure)
        else:
            self._release_handshake()
            self._open(authorized, key, rest, scope)
        scope.clear()

    def _release_handshake(self) -> None:
        if self._handshake_bytes:
            self.turnstile.hold(self._address(), -self._handshake_bytes)
            self._handshake_bytes = 0

    def _open(self, authorized: Authorized, key: str, rest: bytes, scope: Scope) -> None:
        """Accept the client, as uvicorn does for the application, and hand the connection over."""
        if self.config.access_log:
            client = get_client_addr(cast("Any", scope))
            self.logger.info('%s - "WebSocket %s" [accepted]', client, scope["path"])
        date, common = _common_lines(tuple(self.server_state.default_headers))
        chosen = authorized.subprotocol
        self.transport.write(
            _SWITCHING
            % (
                date,
                accept_key(key).encode(),
                common,
                authorized.request_id,
                b"" if chosen is None else b"Sec-WebSocket-Protocol: %b\r\n" % chosen.encode(),
            )
        )
        socket = self._become_socket()
        if chosen == PACKED_SUBPROTOCOL:
            socket.packed = True
        socket.hand_over(authorized.connect(socket), authorized.address, rest)
        if self._ending:
            socket.shutdown()

    def _become_socket(self) -> GatewaySocket:
        pings = self.config.ws_ping_interval or 0.0, self.config.ws_ping_timeout or 0.0
        self._let_go()
        socket = GatewaySocket(
            self.transport,
            self.server_state,
            self.app_state,
            self._take_place(),
            client=self.client,
            pings=pings,
        )
        self.flow.resume_reading()
        return socket

    def _let_go(self) -> None:
        self.connections.discard(self)
        self.transport.set_write_buffer_limits(HIGH_WATER_BYTES)
        # Break the reference cycle with the parser, which is expensive to collect.
        self.parser = cast("Any", None)

    def _hand_over_to_application(self, rest: bytes, failure: Exception | None = None) -> None:
        """Hand the connection over to uvicorn's WebSocket protocol, with the parsed handshake.

        uvicorn would serialize it and parse it again: a fifth of a handshake.
        """
        headers = Headers()
        for name, value in self.headers:
            headers.set_insecure(name.decode("ascii"), value.decode("latin-1"))
        protocol = f"HTTP/{self.scope['http_version']}"
        request = Request(self._target(), headers, self.scope["method"], protocol)
        websocket = GatewayWebSocket(self.config, self.server_state, self.app_state)
        websocket.place = self._take_place()
        websocket.head_bytes = self._handshake_bytes or self._take_held()
        self._stop_taking()
        self._let_go()
        websocket.connection_made(self.transport)
        websocket.client = self.client
        self.transport.set_protocol(websocket)
        self.flow.resume_reading()
        websocket.begin(request, failure)
        if rest:
            websocket.data_received(rest)

    def _target(self) -> str:
        """Return path and query of the target, which may be an absolute URL (RFC 9112, section 3.2.2)."""
        if self.url.startswith(b"/"):
            return self.url.decode("ascii")
        parsed = httptools.parse_url(self.url)
        return b"?".join(filter(None, (parsed.path or b"/", parsed.query))).decode("ascii")


async def _outcome(steps: Awaitable[Authorized]) -> tuple[Authorized | None, Exception | None]:
    """Return what the steps return, or the error that they raise."""
    try:
        return await steps, None
    except Exception as error:  # noqa: BLE001 - the application renders it
        if isinstance(error, GatewayError):
            # The frames hold the task of the error, and the request.
            drop_tracebacks(error)
        return None, error


@lru_cache(maxsize=4)
def _common_lines(headers: tuple[tuple[bytes, bytes], ...]) -> tuple[bytes, bytes]:
    """Return the date, and the lines of the other headers that all responses of a second share."""
    lines = b"".join(b"%b: %b\r\n" % header for header in headers if header[0] != b"date")
    return dict(headers)[b"date"], lines


def _usual_key(scope: Scope) -> str | None:
    """Return the key of a handshake that RFC 6455 (section 4.2.1) allows, or None for any other."""
    if scope["method"] != "GET" or scope["http_version"] != "1.1":
        return None
    fields: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _ONCE:
            if name in fields:
                return None
            fields[name] = value
    key, offered = fields.get(b"sec-websocket-key", b""), fields.get(b"sec-websocket-protocol")
    usual = (
        fields.get(b"upgrade", b"").lower() == b"websocket"
        and fields.get(b"connection", b"").lower() in {b"upgrade", b"keep-alive, upgrade"}
        and fields.get(b"sec-websocket-version") == b"13"
        and (offered is None or _TOKENS.fullmatch(offered) is not None)
    )
    if usual:
        with suppress(Error, ValueError):
            if len(b64decode(key, validate=True)) == _KEY_BYTES:
                return key.decode("ascii")
    return None
