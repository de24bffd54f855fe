"""`GET /metrics`: what Prometheus reads, for this machine and for who has the token."""

import asyncio
import hmac
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response

from gateway.api.callers import bearer
from gateway.api.state import State
from gateway.errors import InvalidToken, MissingToken, NotFound
from gateway.settings import Settings
from gateway.settings.origins import is_loopback

router = APIRouter()

_OF_A_PROXY = frozenset({"forwarded", "via", "x-real-ip"})


@router.get("/metrics", include_in_schema=False)
async def metrics(state: State, request: Request) -> Response:
    """Return all metrics, in the format of Prometheus or of OpenMetrics.

    Raises `InvalidToken` and `MissingToken` where there is a token, and `NotFound` where there is none.
    """
    _check(request, state.settings)
    accept = request.headers.get("accept", "")
    text, content_type = await asyncio.to_thread(state.metrics.exposition, accept)
    return Response(text, media_type=content_type)


def _check(request: Request, settings: Settings) -> None:
    token = settings.metrics_token
    if token is not None and "authorization" in request.headers:
        given = bearer(request) or ""
        if not hmac.compare_digest(given.encode(), token.get_secret_value().encode()):
            raise InvalidToken(
                "It is not the token of GATEWAY_METRICS_TOKEN: send 'Authorization: Bearer …'."
            )
    elif not _is_local(request, settings):
        raise (
            NotFound
            if token is None
            else MissingToken("Send GATEWAY_METRICS_TOKEN as 'Authorization: Bearer …'.")
        )


def _is_local(request: Request, settings: Settings) -> bool:
    """Whether the request was made on this machine, and not by a proxy for somebody else.

    To a gateway behind a proxy of the same machine everybody is local. So no proxy may be configured, none
    may have left a trace, and the request must be for a loopback name: that of a page which a browser was
    made to take for this machine (DNS rebinding) is for another.
    """
    proxied = any(name in _OF_A_PROXY or name.startswith("x-forwarded-") for name in request.headers)
    if settings.forwarded_allow_ips or proxied or request.client is None:
        return False
    return is_loopback(request.client.host) and is_loopback(_host(request.headers.get("host", "")))


def _host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
