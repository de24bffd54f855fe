"""The client of `gateway send` and `gateway tail`, over HTTP and WebSocket."""

import asyncio
import json
import random
import secrets
import ssl
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus, InvalidURI
from websockets.http11 import Response
from websockets.typing import Subprotocol

from gateway.cli.scheme import wrong_scheme
from gateway.observability.reasons import environment_fault, is_host, reason, wrong_variable
from gateway.protocol.close_codes import Close
from gateway.protocol.wire import SUBPROTOCOL
from gateway.settings.origins import is_loopback

MAX_PAUSE_SECONDS = 30.0
"""Maximum pause between two attempts to connect, in seconds."""


class ClientError(Exception):
    """The gateway refused a request, or could not be reached. The text is one sentence."""


class WrongUrlError(ClientError):
    """GATEWAY_URL or --server can't be the URL of a gateway: a wrong setting, not a failed request."""


def send(server: str, key: str, notification: dict[str, Any]) -> dict[str, Any]:
    """Post one notification, and return the response. Raises `ClientError`."""
    headers = {"Idempotency-Key": secrets.token_hex(16)}
    return ask(server, key, "POST", "/v1/notifications", notification, headers)


def ask(
    server: str,
    key: str,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Send a request of a service, and return the response, a notification or its state.

    Raises `ClientError`.
    """
    # Importing it takes longer than most commands run.
    import httpx

    headers = {"Authorization": f"Bearer {key}", **(headers or {})}
    server = _address(server)
    try:
        http = httpx.Client(trust_env=_may_be_proxied(server))
    except Exception:  # noqa: BLE001 - whatever a library makes of the environment
        raise ClientError(f"{server}: {environment_fault()}") from None
    try:
        with http:
            response = http.request(method, f"{server}{path}", json=body, headers=headers)
    except ValueError:
        raise _no_gateway(server) from None
    except Exception as error:  # noqa: BLE001 - its text may hold the key
        what = _wrong_scheme(server) or f"{reason(error)}. GATEWAY_URL or --server says where the gateway is"
        raise ClientError(f"{server}: {_or_environment(server, what)}") from None
    answer = _object(response.content)
    if response.is_success and answer.keys() & {"id", "state"}:
        return answer
    if (beyond := _beyond(server, response.status_code)) is not None:
        raise WrongUrlError(beyond)
    if response.is_success or not _is_problem(answer):
        raise _no_gateway(server, response.status_code)
    raise ClientError(f"{answer['code']}: {answer['detail']}")


def _object(body: bytes | bytearray | None) -> dict[str, Any]:
    """Parse the JSON object in a body. Return an empty one if there is none."""
    try:
        value = json.loads(body or b"")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_problem(answer: dict[str, Any]) -> bool:
    """Return whether a gateway may have refused a request with this answer. Other servers use JSON, too."""
    return all(isinstance(answer.get(name), str) for name in ("code", "detail"))


def _no_gateway(server: str, status: int = 0) -> ClientError:
    """Return the error for an answer that is not a gateway's: perhaps one of a proxy before it."""
    failed = f"HTTP {status}" if _may_be_down(status) else None
    what = failed or _wrong_scheme(server) or "this is not a gateway"
    return ClientError(f"{server}: {_or_environment(server, what)}")


def _may_be_down(status: int) -> bool:
    """Return whether a gateway, or a proxy before it, may answer with this status, and later with another.

    Neither answers with 501: this is a server that knows no such method.
    """
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED


def _beyond(server: str, status: int) -> str | None:
    """Return advice if the URL of the gateway goes on with the paths of the API, so that none is found."""
    url = urlsplit(server)
    base, version, rest = url.path.partition("/v1")
    if status != HTTPStatus.NOT_FOUND or not version or rest[:1] not in {"", "/"}:
        return None
    return f"GATEWAY_URL or --server: it must end before /v1: {url._replace(path=base).geturl()}"


def _address(server: str) -> str:
    """Return the URL of a gateway without its final slash. Raises `WrongUrlError`."""
    example = "it must be a URL such as http://127.0.0.1:8000, or http://[::1]:8000"
    try:
        url = urlsplit(server.strip())
        _ = url.port
    except ValueError:
        raise WrongUrlError(f"GATEWAY_URL or --server: {example}") from None
    if url.scheme not in {"http", "https"} or not url.hostname or "@" in url.netloc:
        raise WrongUrlError(f"GATEWAY_URL or --server: {example}")
    if url.netloc.isascii() and not is_host(url.hostname):
        raise WrongUrlError("GATEWAY_URL or --server: its host is not a valid host name")
    if url.query or url.fragment or not url.netloc.isascii() or not server.strip().isprintable():
        raise WrongUrlError(f"GATEWAY_URL or --server: {example}")
    return url.geturl().rstrip("/")


def _or_environment(server: str, what: str) -> str:
    """Return `what` went wrong, or which environment variable is wrong if that may be the cause."""
    return environment_fault() if _may_be_proxied(server) and wrong_variable() else what


def _wrong_scheme(server: str) -> str | None:
    """Return advice if the server speaks the other scheme, else None. Never probes through a proxy."""
    return None if _may_be_proxied(server) and getproxies() else wrong_scheme(server)


def _check_tls(server: str) -> None:
    """Raise `ClientError` if the environment breaks TLS: connecting again would not help."""
    try:
        if server.startswith("https:"):
            ssl.create_default_context()
    except OSError:
        raise ClientError(f"{server}: {environment_fault()}") from None


def _may_be_proxied(server: str) -> bool:
    """Return whether to use a proxy from the environment: not for a server on this machine."""
    return not is_loopback(urlsplit(server).hostname or "")


class _Position:
    """A client's position in a log, from which it resumes when it reconnects."""

    def __init__(self) -> None:
        self._epoch: str | None = None
        self._seq: int | None = None

    def query(self) -> str:
        """Return the query of the next connection."""
        if self._seq is None or self._epoch is None:
            return ""
        return "?" + urlencode({"since": self._seq, "epoch": self._epoch})

    def apply(self, message: dict[str, Any]) -> None:
        """Move to the `seq` of a message, but not to that of `hello`, which is the head of the log."""
        self._epoch = message.get("epoch", self._epoch)
        if message["type"] in {"notification", "changed", "read", "reset", "live"}:
            self._seq = message.get("seq", self._seq)


async def tail(
    server: str,
    token: str,
    show: Callable[[dict[str, Any]], None],
    note: Callable[[str], None],
    renew: Callable[[], Awaitable[str]] | None = None,
) -> None:
    """Pass every message of a user's socket to `show`, and reconnect until the gateway ends it for good.

    Passes each reconnect to `note`. Messages and notes contain text from others: print them with
    `protocol.terminal`. `renew` returns a new token after the old one has expired. Raises `ClientError` with
    the reason if a retry can't help.
    """
    server = _address(server)
    _check_tls(server)
    follower, failures = _Follower(server, show), 0
    while True:
        shown, why = follower.shown, await follower.follow(token)
        if why == _EXPIRED and renew is not None:
            token = await renew()
        elif why.startswith(_FINAL):
            raise ClientError(_FINAL_REASONS.get(why, why))
        failures = 1 if follower.shown > shown else failures + 1
        note(f"{why}; connecting again")
        await asyncio.sleep(random.uniform(0, min(MAX_PAUSE_SECONDS, 2.0**failures)))  # noqa: S311


class _Follower:
    """The socket of one user, and its position in the log."""

    def __init__(self, server: str, show: Callable[[dict[str, Any]], None]) -> None:
        self.shown = 0
        self._server = server
        self._address = "ws" + server.removeprefix("http") + "/v1/ws"
        self._show = show
        self._position = _Position()

    async def follow(self, token: str) -> str:
        """Show each message until the socket closes, and return why.

        Raises `ClientError` if a retry can't help.
        """
        try:
            async with self._connect(token) as socket:
                async for text in socket:
                    self._take(_read(self._server, text))
                return _closed(socket.close_code, socket.close_reason)
        except ConnectionClosed as error:
            return _closed(error.rcvd.code, error.rcvd.reason) if error.rcvd else "the connection broke"
        except InvalidStatus as error:
            if error.response.status_code == HTTPStatus.BAD_REQUEST:
                await self._check_scheme()
            return _refused(self._server, error.response)
        except (InvalidProxy, ImportError):
            raise ClientError(f"{self._server}: {environment_fault()}") from None
        except (InvalidURI, InvalidHandshake, ValueError) as error:
            await self._check_scheme()
            what = _or_environment(self._server, f"this is not a gateway ({reason(error)})")
            raise ClientError(f"{self._server}: {what}") from None
        except (OSError, TimeoutError) as error:
            await self._check_scheme()
            return f"{self._server}: {reason(error)}. GATEWAY_URL or --server says where the gateway is"

    async def _check_scheme(self) -> None:
        """Raise `ClientError` if the server speaks the other scheme: connecting again would not help."""
        if (what := await asyncio.to_thread(_wrong_scheme, self._server)) is not None:
            raise ClientError(f"{self._server}: {what}")

    def _connect(self, token: str) -> connect:
        return connect(
            self._address + self._position.query(),
            additional_headers={"Authorization": f"Bearer {token}"} if token else None,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            max_size=None,
            proxy=True if _may_be_proxied(self._server) else None,
        )

    def _take(self, message: dict[str, Any]) -> None:
        self.shown += 1
        self._show(message)
        self._position.apply(message)


def _refused(server: str, response: Response) -> str:
    """Return why the server refused the handshake. Raises `ClientError` if a retry can't help."""
    status = response.status_code
    if _may_be_down(status):
        return f"HTTP {status}"
    if (beyond := _beyond(server, status)) is not None:
        raise WrongUrlError(beyond)
    answer = _object(response.body)
    detail = answer["detail"] if _is_problem(answer) else "this is not a gateway"
    raise ClientError(f"{server}: refused with HTTP {status}: {detail}")


def _read(server: str, text: str | bytes) -> dict[str, Any]:
    """Parse a message. Raises `ClientError` for a text that no gateway sends."""
    message = _object(text if isinstance(text, bytes) else text.encode(errors="replace"))
    if "type" not in message:
        raise ClientError(f"{server}: this is not a gateway")
    return message


def _closed(code: int | None, word: str | None) -> str:
    """Describe how a socket was closed: the code and the reason."""
    return f"closed with {code} {word}".rstrip()


_RENEW = "get a new one, for example with `gateway token SUB` on the gateway's machine"
_FINAL = tuple(
    _closed(code, "") for code in (Close.NORMAL, Close.UNAUTHORIZED, Close.FORBIDDEN, Close.TOO_MANY_SOCKETS)
)
_EXPIRED = _closed(Close.UNAUTHORIZED, "token_expired")

_FINAL_REASONS = {
    _closed(code, word): f"{advice} ({_closed(code, word)})"
    for code, word, advice in (
        (Close.NORMAL, "", "the gateway has closed the socket"),
        (Close.UNAUTHORIZED, "missing_token", "a user's token is needed: gateway tail SUB, or GATEWAY_TOKEN"),
        (Close.UNAUTHORIZED, "invalid_token", f"the token is not valid at this gateway: {_RENEW}"),
        (Close.UNAUTHORIZED, "token_expired", f"the token has expired: {_RENEW}"),
        (
            Close.UNAUTHORIZED,
            "token_revoked",
            f"the token has been revoked, for example by signing out: {_RENEW}",
        ),
        (Close.FORBIDDEN, "insufficient_scope", f"a user's token is needed, not a service's: {_RENEW}"),
        (
            Close.TOO_MANY_SOCKETS,
            "too_many_sockets",
            "this user has as many sockets open as one user may: close another one, and try again",
        ),
    )
}
"""Advice for each close after which a retry can't help."""
