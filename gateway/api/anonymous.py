"""What is asked without a credential: a budget by address, for each answer costs the process some time."""

from collections.abc import Awaitable

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.callers import client_address
from gateway.api.rendering import render_error
from gateway.api.state import state_of
from gateway.errors import RateLimited

PROBES = frozenset({"/healthz", "/readyz"})
"""What is never refused: it may be a balancer that asks, from the address of everybody."""

VERIFIED = "/v1/"
"""Where a credential is verified, whether it is good or not: that has a budget of its own."""


class Anonymous:
    """Refuses what an address asks for beyond its budget, where no credential is verified.

    A path of `/v1/` that is none is counted where it is answered (`rendering.render_http_error`).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve it. No coroutine of its own: each layer of them costs every request."""
        if scope["type"] != "http" or _is_verified(scope) or scope["path"] in PROBES:
            return self._app(scope, receive, send)
        return self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            state_of(request).throttle.anonymous.take(client_address(request))
        except RateLimited as error:
            if (refusal := await render_error(request, error)) is not None:
                await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_verified(scope: Scope) -> bool:
    return scope["path"].startswith(VERIFIED) and any(
        name == b"authorization" for name, _ in scope["headers"]
    )
