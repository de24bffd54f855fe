"""`GET /metrics` for Prometheus: open to this machine, and to callers with `GATEWAY_METRICS_TOKEN`."""

import asyncio
import hmac
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response

from gateway.api.callers import bearer, missing
from gateway.api.state import State
from gateway.errors import InvalidToken, MissingToken, NotFound
from gateway.settings import Settings
from gateway.settings.origins import is_loopback

router = APIRouter()

_PROXY_HEADERS = frozenset({"forwarded", "via", "x-real-ip"})


@router.get("/metrics", include_in_schema=False)
async def metrics(state: State, request: Request) -> Response:
    """Return all metrics, in the format of Prometheus or of OpenMetrics, as `Accept` asks.

    Raises `InvalidToken` for a wrong token. For other machines without a token, raises `MissingToken` if
    `GATEWAY_METRICS_TOKEN` is set, and `NotFound` if not.
    """
    _check(request, state.settings)
    accept = request.headers.get("accept", "")
    text, content_type = await asyncio.to_thread(state.metrics.exposition, accept)
    return Response(text, media_type=content_type)


def _check(request: Request, settings: Settings) -> None:
    token = settings.metrics_token
    if token is not None and "authorization" in request.headers:
        if not (given := bearer(request)):
            raise missing(request)
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
    """Return whether the request is from this machine, and not from a proxy on behalf of another one.

    Behind a proxy on the same machine, every client looks local. So no proxy may be configured, and the
    request must have no proxy's header. It must also be for a loopback name: after DNS rebinding, a browser
    on this machine sends the requests of a foreign page here, but with that page's host name.
    """
    proxied = any(name in _PROXY_HEADERS or name.startswith("x-forwarded-") for name in request.headers)
    if settings.forwarded_allow_ips or proxied or request.client is None:
        return False
    return is_loopback(request.client.host) and is_loopback(_host(request.headers.get("host", "")))


def _host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
