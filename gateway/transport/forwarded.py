"""What proxies say of a client, as they write it, in the one way that uvicorn reads.

`X-Forwarded-Proto` is a list, where each adds its own, in any case. In `X-Forwarded-For` a proxy that listens
on `::` writes IPv4 addresses as ones of IPv6.
"""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

_NAME = b"x-forwarded-proto"
_PLAIN = frozenset({b"http", b"https"})

_FOR = b"x-forwarded-for"
_MAPPED = re.compile(rb"::ffff:(?=[0-9]{1,3}\.)", re.IGNORECASE)


class Forwarded:
    """Leaves one scheme and plain addresses to uvicorn's own middleware, which believes it of named proxies.

    The first one counts: it is of the proxy that the client has reached. A lie there changes which origin a
    page of the liar must have, and whether the liar is told to keep to https.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it."""
        if scope["type"] != "lifespan":
            _leave_one_scheme(scope)
            _leave_plain_addresses(scope)
        await self._app(scope, receive, send)


def _leave_one_scheme(scope: Scope) -> None:
    given = [value for name, value in scope["headers"] if name == _NAME]
    if given and (len(given) > 1 or given[0] not in _PLAIN):
        first = given[0].partition(b",")[0].strip().lower()
        others = [one for one in scope["headers"] if one[0] != _NAME]
        scope["headers"] = [*others, (_NAME, first)]


def _leave_plain_addresses(scope: Scope) -> None:
    if any(name == _FOR and _MAPPED.search(value) for name, value in scope["headers"]):
        scope["headers"] = [
            (name, _MAPPED.sub(b"", value) if name == _FOR else value) for name, value in scope["headers"]
        ]
