"""Spans for OpenTelemetry, made by FastAPI's integration, without the queries of requests.

`GATEWAY_OTEL` turns them on. The standard variables, such as `OTEL_EXPORTER_OTLP_ENDPOINT`, say where they
go. FastAPI's telemetry puts the query of a request into its span, and the text of an exception into its log.
A query may contain a ticket or a token, so it is hidden from FastAPI's telemetry, whose log stays off.
"""

from importlib.util import find_spec
from typing import Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.settings import SettingsError

_QUERY = "gateway.query"
_UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})

_OFF = TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)
_ON = TelemetryConfig(
    tracing=True,
    metrics=False,
    logs=False,
    auto_configure=True,
    exclude=lambda scope: scope["path"] in _UNTRACED,
)


def untraced(**options: Any) -> FastAPI:
    """Return an application without telemetry, even if the environment asks for it."""
    return FastAPI(telemetry=_OFF, **options)


def traced(**options: Any) -> FastAPI:
    """Return an application that makes a span for each request and each handshake.

    Raises `SettingsError` if the extra `otel` is not installed. Call `restore_query` after all other
    middleware is added.
    """
    if find_spec("opentelemetry.sdk") is None or find_spec("opentelemetry.exporter") is None:
        raise SettingsError("GATEWAY_OTEL: it needs the extra otel (install notification-gateway[otel])")
    return _Traced(telemetry=_ON, **options)


def restore_query(app: FastAPI) -> None:
    """Restore the query of each request for everything but the telemetry."""
    app.add_middleware(_WithQuery)


class _Traced(FastAPI):
    """Hides the query of a request from the telemetry, which wraps all middleware."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("query_string"):
            scope[_QUERY] = scope["query_string"]
            scope["query_string"] = b""
        await super().__call__(scope, receive, send)


class _WithQuery:
    """Restores the query that `_Traced` has hidden."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _QUERY in scope:
            scope["query_string"] = scope.pop(_QUERY)
        await self._app(scope, receive, send)
