"""Normalization of forwarded headers, from the forms that proxies write to the one that uvicorn reads.

`X-Forwarded-Proto` may be a list, to which each proxy adds its scheme, in upper or lower case. In
`X-Forwarded-For`, a proxy that listens on `::` writes IPv4 addresses as IPv4-mapped IPv6 addresses.
"""

import re
from contextlib import suppress
from functools import lru_cache
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

_NAME = b"x-forwarded-proto"
_SCHEMES = frozenset({b"http", b"https"})

_FOR = b"x-forwarded-for"
_MAPPED = re.compile(rb"::ffff:(?=[0-9]{1,3}\.)", re.IGNORECASE)


class Forwarded:
    """Middleware that reduces the headers to one scheme and to plain addresses.

    uvicorn's own middleware reads them next, and trusts them only from the configured proxies. The first
    scheme counts, because the proxy that the client reached wrote it. A client that forges it changes only
    the origin that its own pages must have, and whether it is told to keep to https.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Normalize the headers of a request or handshake, and pass it on."""
        if scope["type"] != "lifespan":
            _keep_first_scheme(scope)
            _unmap_addresses(scope)
        await self._app(scope, receive, send)


def _keep_first_scheme(scope: Scope) -> None:
    given = [value for name, value in scope["headers"] if name == _NAME]
    if given and (len(given) > 1 or given[0] not in _SCHEMES):
        first = given[0].partition(b",")[0].strip().lower()
        others = [one for one in scope["headers"] if one[0] != _NAME]
        scope["headers"] = [*others, (_NAME, first)]


def _unmap_addresses(scope: Scope) -> None:
    if any(name == _FOR and _MAPPED.search(value) for name, value in scope["headers"]):
        scope["headers"] = [
            (name, _MAPPED.sub(b"", value) if name == _FOR else value) for name, value in scope["headers"]
        ]


def resolved(scope: Scope, trusted: tuple[str, ...]) -> Scope:
    """Return a scope with the client and the scheme that the headers of these trusted proxies name.

    It is what the application gets, for a fast path that bypasses the application.
    """
    seen = {**scope}
    # Neither middleware ever waits.
    steps: Any = _resolver(trusted)(seen, cast("Any", None), cast("Any", None))
    with suppress(StopIteration):
        steps.send(None)
    return seen


@lru_cache(maxsize=4)
def _resolver(trusted: tuple[str, ...]) -> Forwarded:
    return Forwarded(cast("ASGIApp", ProxyHeadersMiddleware(cast("Any", _nothing), list(trusted))))


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Do nothing: the scope is resolved."""
