"""Rate limit by address for requests without a credential: each answer costs the process some time."""

from collections.abc import Awaitable

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.callers import client_address
from gateway.api.error_rendering import render_error
from gateway.api.state import state_of
from gateway.errors import RateLimited
from gateway.protocol.fields import first_field

HEALTH_CHECK_PATHS = frozenset({"/healthz", "/readyz"})
"""Paths without a limit: a load balancer may request them from the address that all clients share."""

API_PREFIX = "/v1/"
"""Prefix of the paths that verify a credential. Failed verifications have a rate limit of their own."""


class Anonymous:
    """Middleware that refuses requests over the limit of their address, unless they verify a credential.

    The handler of unknown paths counts requests for those below `/v1/` (`rendering.render_http_error`).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve a request. A plain function: each extra coroutine costs every request some time."""
        if scope["type"] != "http" or _is_verified(scope) or scope["path"] in HEALTH_CHECK_PATHS:
            return self._app(scope, receive, send)
        return self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            state_of(request).rate_limits.anonymous.take(client_address(request))
        except RateLimited as error:
            if (refusal := await render_error(request, error)) is not None:
                await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_verified(scope: Scope) -> bool:
    return (
        scope["path"].startswith(API_PREFIX) and first_field(scope["headers"], b"authorization") is not None
    )
