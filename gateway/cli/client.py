"""The gateway seen from outside: what `gateway send` and `gateway tail` do over HTTP and WebSocket."""

import asyncio
import json
import random
import secrets
import ssl
from collections.abc import Awaitable, Callable
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

LONGEST_PAUSE = 30.0
"""The longest pause between two attempts to connect, in seconds."""


class ClientError(Exception):
    """The gateway refused, or could not be reached. Its text is one sentence."""


def send(server: str, key: str, notification: dict[str, Any]) -> dict[str, Any]:
    """Post one notification, and return the answer. Raises `ClientError`."""
    # It takes longer to load than most commands take to run.
    import httpx

    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": secrets.token_hex(16)}
    server = _address(server)
    try:
        http = httpx.Client(trust_env=_may_be_proxied(server))
    except Exception:  # noqa: BLE001 - whatever a library makes of the environment
        raise ClientError(f"{server}: {environment_fault()}") from None
    try:
        with http:
            response = http.post(f"{server}/v1/notifications", json=notification, headers=headers)
        answer = response.json()
    except ValueError:
        what = _wrong_scheme(server) or "this is not a gateway"
        raise ClientError(f"{server}: {_or_environment(server, what)}") from None
    except Exception as error:  # noqa: BLE001 - its text may hold the key
        what = _wrong_scheme(server) or f"{reason(error)}. GATEWAY_URL or --server says where the gateway is"
        raise ClientError(f"{server}: {_or_environment(server, what)}") from None
    if not isinstance(answer, dict):
        raise ClientError(f"{server}: this is not a gateway")
    if not response.is_success:
        raise ClientError(f"{answer.get('code')}: {answer.get('detail')}")
    return answer


def _address(server: str) -> str:
    """Return the URL of a gateway without a slash at its end. Raises `ClientError` for what is none."""
    example = "it must be a URL such as http://127.0.0.1:8000, or http://[::1]:8000"
    try:
        url = urlsplit(server.strip())
        _ = url.port
    except ValueError:
        raise ClientError(f"GATEWAY_URL or --server: {example}") from None
    if url.scheme not in {"http", "https"} or not url.hostname or "@" in url.netloc:
        raise ClientError(f"GATEWAY_URL or --server: {example}")
    if url.netloc.isascii() and not is_host(url.hostname):
        raise ClientError("GATEWAY_URL or --server: its host is no valid host name")
    if url.query or url.fragment or not url.netloc.isascii() or not server.strip().isprintable():
        raise ClientError(f"GATEWAY_URL or --server: {example}")
    return url.geturl().rstrip("/")


def _or_environment(server: str, what: str) -> str:
    """Return what went wrong, or which variable of the environment is wrong where one may be at fault."""
    return environment_fault() if _may_be_proxied(server) and wrong_variable() else what


def _wrong_scheme(server: str) -> str | None:
    """Return what to say where the server speaks the other scheme. A server behind a proxy is not asked."""
    return None if _may_be_proxied(server) and getproxies() else wrong_scheme(server)


def _check_tls(server: str) -> None:
    """Raise `ClientError` where the environment lets no TLS begin: connecting again would not help."""
    try:
        if server.startswith("https:"):
            ssl.create_default_context()
    except OSError:
        raise ClientError(f"{server}: {environment_fault()}") from None


def _may_be_proxied(server: str) -> bool:
    """Whether a proxy of the environment may be asked: none leads back to this machine."""
    return not is_loopback(urlsplit(server).hostname or "")


class _Position:
    """Where a client is in a log: what it asks for when it connects again."""

    def __init__(self) -> None:
        self._epoch: str | None = None
        self._seq: int | None = None

    def query(self) -> str:
        """Return the query of the next connection."""
        if self._seq is None or self._epoch is None:
            return ""
        return "?" + urlencode({"since": self._seq, "epoch": self._epoch})

    def apply(self, message: dict[str, Any]) -> None:
        """Move on. The number in `hello` is where the log stands, not where this client does."""
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
    """Show every message of a user's socket, over every reconnect, until the gateway says stop.

    Each reconnect is noted. Messages and notes hold text of others: print them with `terminal`. `renew`
    returns a new token where one has expired. Raises `ClientError` with the reason then.
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
        await asyncio.sleep(random.uniform(0, min(LONGEST_PAUSE, 2.0**failures)))  # noqa: S311


class _Follower:
    """One user's socket, and where its client is in the log."""

    def __init__(self, server: str, show: Callable[[dict[str, Any]], None]) -> None:
        self.shown = 0
        self._server = server
        self._address = "ws" + server.removeprefix("http") + "/v1/ws"
        self._show = show
        self._position = _Position()

    async def follow(self, token: str) -> str:
        """Show each message until the socket ends, and return why. Raises `ClientError` for what stays so."""
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
        """Raise `ClientError` where the server speaks the other scheme: connecting again would not help."""
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
    """Return why a handshake was refused, for now. Raises `ClientError` where trying again is of no use."""
    status = response.status_code
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"HTTP {status}"
    try:
        detail = json.loads(response.body or b"")["detail"]
    except (ValueError, RecursionError, KeyError, TypeError):
        detail = "is there a gateway, and does GATEWAY_URL end before /v1?"
    raise ClientError(f"{server}: refused with HTTP {status}: {detail}")


def _read(server: str, text: str | bytes) -> dict[str, Any]:
    """Return a message. Raises `ClientError` for what a gateway does not send."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or "type" not in message:
        raise ClientError(f"{server}: this is not a gateway")
    return message


def _closed(code: int | None, word: str | None) -> str:
    """Say that a socket was closed, and why."""
    return f"closed with {code} {word}".rstrip()


_ANEW = "get a new one, such as by `gateway token SUB` on the machine of the gateway"
_FINAL = tuple(
    _closed(code, "") for code in (Close.NORMAL, Close.UNAUTHORIZED, Close.FORBIDDEN, Close.TOO_MANY_SOCKETS)
)
_EXPIRED = _closed(Close.UNAUTHORIZED, "token_expired")

_FINAL_REASONS = {
    _closed(code, word): f"{advice} ({_closed(code, word)})"
    for code, word, advice in (
        (Close.NORMAL, "", "the gateway has closed the socket"),
        (Close.UNAUTHORIZED, "missing_token", "a user's token is needed: gateway tail SUB, or GATEWAY_TOKEN"),
        (Close.UNAUTHORIZED, "invalid_token", f"the token is not valid at this gateway: {_ANEW}"),
        (Close.UNAUTHORIZED, "token_expired", f"the token has expired: {_ANEW}"),
        (Close.UNAUTHORIZED, "token_revoked", f"the token has been revoked, as by signing out: {_ANEW}"),
        (Close.FORBIDDEN, "insufficient_scope", f"a user's token is needed, not a service's: {_ANEW}"),
        (
            Close.TOO_MANY_SOCKETS,
            "too_many_sockets",
            "this user has as many sockets open as one user may: close another one, and try again",
        ),
    )
}
"""What a person is told where connecting again is of no use."""
