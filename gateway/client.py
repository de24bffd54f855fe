"""The gateway seen from outside: what `gateway send` and `gateway tail` do over HTTP and WebSocket."""

import asyncio
import json
import random
import secrets
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode, urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from gateway.origins import is_loopback
from gateway.protocol import ADVICE, SUBPROTOCOL, Close
from gateway.reasons import environment_fault, reason

DEFAULT_URL = "http://127.0.0.1:8000"

LONGEST_PAUSE = 30.0
"""The longest pause between two attempts to connect, in seconds."""

_FINAL = {Close.NORMAL, Close.UNAUTHORIZED, Close.FORBIDDEN, Close.TOO_MANY_SOCKETS}


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
        raise ClientError(f"{server}: this is not a gateway") from None
    except Exception as error:  # noqa: BLE001 - its text may hold the key
        raise ClientError(f"{server}: {reason(error)}") from None
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
    if url.query or url.fragment or not url.netloc.isascii() or not server.strip().isprintable():
        raise ClientError(f"GATEWAY_URL or --server: {example}")
    return url.geturl().rstrip("/")


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
    server: str, token: str, show: Callable[[dict[str, Any]], None], note: Callable[[str], None]
) -> None:
    """Show every message of a user's socket, over every reconnect, until the gateway says stop.

    Each reconnect is noted. Messages and notes hold text of others: print them with `terminal`.
    Raises `ClientError` with the reason then.
    """
    position, failures = _Position(), 0
    server = _address(server)
    address = "ws" + server.removeprefix("http") + "/v1/ws"
    while True:
        try:
            async with connect(
                address + position.query(),
                additional_headers={"Authorization": f"Bearer {token}"} if token else None,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                max_size=None,
                proxy=True if _may_be_proxied(server) else None,
            ) as socket:
                async for text in socket:
                    failures = 0
                    message = _read(server, text)
                    show(message)
                    position.apply(message)
                why = _reason(socket.close_code, socket.close_reason)
        except ConnectionClosed as error:
            why = _reason(error.rcvd.code, error.rcvd.reason) if error.rcvd else "the connection broke"
        except InvalidStatus as error:
            status = error.response.status_code
            if status < HTTPStatus.INTERNAL_SERVER_ERROR:
                raise ClientError(f"{server}: refused with HTTP {status}") from None
            why = f"HTTP {status}"
        except (InvalidProxy, ImportError):
            raise ClientError(f"{server}: {environment_fault()}") from None
        except (InvalidURI, InvalidHandshake, ValueError) as error:
            raise ClientError(f"{server}: this is not a gateway ({reason(error)})") from None
        except (OSError, TimeoutError) as error:
            why = reason(error)
        failures += 1
        note(f"{why}; connecting again")
        await asyncio.sleep(random.uniform(0, min(LONGEST_PAUSE, 2.0**failures)))  # noqa: S311


def _read(server: str, text: str | bytes) -> dict[str, Any]:
    """Return a message. Raises `ClientError` for what a gateway does not send."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or "type" not in message:
        raise ClientError(f"{server}: this is not a gateway")
    return message


def _reason(code: int | None, reason: str | None) -> str:
    """Say why a socket was closed. Raises `ClientError` where the client is to stop."""
    if code in _FINAL:
        raise ClientError(f"closed with {code} {reason}: {ADVICE[Close(code)]}")
    return f"closed with {code} {reason}"
