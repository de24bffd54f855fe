"""The middleware that every request passes before its route."""

from fastapi import FastAPI

from gateway.api.anonymous import Anonymous
from gateway.api.routing import Routing
from gateway.observability.metrics import Metrics
from gateway.observability.telemetry import restore_query
from gateway.settings import Settings
from gateway.transport.headers import BrowserHeaders, Cors


def add_middleware(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Add the middleware to the application, innermost first."""
    app.add_middleware(Routing)
    app.add_middleware(Anonymous)
    if settings.allowed_origins:
        app.add_middleware(Cors, allow_origins=settings.allowed_origins)
    app.add_middleware(BrowserHeaders, count=metrics.answered)
    if settings.otel:
        restore_query(app)
