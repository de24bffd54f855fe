"""`X-Forwarded-Proto` as proxies send it: a list, where each adds its own, and in any case."""

from starlette.types import ASGIApp, Receive, Scope, Send

_NAME = b"x-forwarded-proto"
_PLAIN = frozenset({b"http", b"https"})


class ForwardedProto:
    """Leaves one scheme, in lower case, to uvicorn's own middleware, which believes it of named proxies.

    The first one counts: it is of the proxy that the client has reached. A lie there changes which origin a
    page of the liar must have, and whether the liar is told to keep to https.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it."""
        if scope["type"] != "lifespan":
            given = [value for name, value in scope["headers"] if name == _NAME]
            if given and (len(given) > 1 or given[0] not in _PLAIN):
                first = given[0].partition(b",")[0].strip().lower()
                others = [one for one in scope["headers"] if one[0] != _NAME]
                scope["headers"] = [*others, (_NAME, first)]
        await self._app(scope, receive, send)
