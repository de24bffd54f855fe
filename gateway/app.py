"""The composition root: the only place that makes the parts and wires them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI

from gateway import __version__
from gateway.api.middleware import add_middleware
from gateway.api.rendering import render_errors
from gateway.api.routes import api_routes
from gateway.api.state import Gateway
from gateway.auth.limits.throttle import Throttle
from gateway.auth.passwords import Passwords
from gateway.auth.revocation import Revocation
from gateway.auth.tokens import Tokens
from gateway.backplane import Receiver, open_backplane
from gateway.database import schema
from gateway.database.database import open_database, takes_writes
from gateway.delivery.announcer import Announcer
from gateway.delivery.drain import Drain
from gateway.delivery.hub import Hub
from gateway.delivery.reconciler import Reconciler
from gateway.delivery.relay import Relay
from gateway.delivery.tail import Tail
from gateway.jobs.background import ending_the_process, running
from gateway.jobs.timetable import timetable
from gateway.observability.metrics import Metrics, Now
from gateway.observability.readiness import Readiness
from gateway.observability.telemetry import traced, untraced
from gateway.protocol.problems import problem_code
from gateway.settings import Settings, UnknownRecipients
from gateway.store.writer import Writer
from gateway.transport.connections import CONNECTIONS, Connections
from gateway.transport.open_files import connections_within, soft_limit
from gateway.transport.turnstile import TURNSTILE, Turnstile
from gateway.transport.websocket import CLOSED
from gateway.web.routes import web_routes


def create_app(settings: Settings, *, demo_mode: bool = False) -> FastAPI:
    """Return the application. The schema is up to date before it starts: `gateway serve` sees to that.

    In `demo_mode` the page can post, too: only for a gateway on loopback.
    """
    metrics = Metrics(max_sockets=settings.max_sockets)
    app = (traced if settings.otel else untraced)(
        title="Notification Gateway",
        version=__version__,
        description="Durable notifications for the users of your backend, pushed when they are committed.",
        lifespan=lambda app: _lifespan(app, settings, metrics),
        redirect_slashes=False,
        openapi_url=None,  # web/document.py has it
        docs_url=None,  # web/reference.py has the page
        redoc_url=None,
    )
    app.router.routes.extend(api_routes(with_demo=demo_mode))
    app.router.routes.extend(web_routes(app, settings, with_demo=demo_mode))
    render_errors(app)
    add_middleware(app, settings, metrics)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings, metrics: Metrics) -> AsyncIterator[Mapping[str, Any]]:
    """Make the parts, run what runs in the background, and flush the writer at the end.

    What is yielded, uvicorn's protocols have too.
    """
    tail = Tail(settings.tail_bytes)
    backplane = open_backplane(settings)
    hub = Hub(
        (tail, backplane),
        max_sockets=settings.max_sockets,
        max_sockets_per_user=settings.max_sockets_per_user,
    )
    connections = Connections(
        connections_within(soft_limit(), settings),
        settings.connections_per_address,
        settings.forwarded_allow_ips,
        on_refused=lambda status: metrics.refused(status, problem_code(status)),
    )
    async with ending_the_process(), open_database(settings) as database, Throttle(settings) as throttle:
        writer = Writer(
            database,
            Announcer(tail, hub, backplane, metrics).announce,
            followed=tail,
            create_users=settings.unknown_recipients == UnknownRecipients.CREATE,
        )
        revocation = Revocation(
            database,
            on_ended=hub.end_sessions,
            publish_ended=lambda ended: backplane.publish({}, ended),
        )
        tokens = Tokens(settings, database, revocation)
        await tokens.start()
        relay = Relay(hub, tail, database)
        reconciler = Reconciler(hub, relay, database, settings.reconcile_interval)
        receiver = Receiver(on_hint=relay.hint, on_ended=revocation.drop, on_resumed=reconciler.request)
        readiness = Readiness(
            {
                "database": partial(database.write, takes_writes),
                "migrations": partial(database.read, schema.serves, schema.earlier()),
                "signing_key": tokens.can_sign,
                "backplane": lambda: backplane.listening,
            },
            awaited={"backplane"},
        )
        with Passwords() as passwords:
            app.state.gateway = parts = Gateway(
                settings,
                database,
                writer,
                hub,
                tail,
                backplane,
                reconciler,
                tokens,
                revocation,
                passwords,
                throttle,
                Drain(hub, settings.grace_period),
                readiness,
                metrics,
            )
            background = running(
                ("hub", hub.run()),
                ("backplane", backplane.run(receiver)),
                ("relay", relay.run()),
                ("reconciler", reconciler.run()),
                ("metrics", metrics.run(partial(_now, parts))),
                *timetable(settings, database, writer, tokens, revocation),
            )
            async with background:
                async with writer.running():
                    yield {CLOSED: metrics.closed, CONNECTIONS: connections, TURNSTILE: Turnstile()}
                await backplane.drain()


def _now(parts: Gateway) -> Now:
    backplane = parts.backplane
    return Now(
        not parts.drain.began,
        len(parts.hub),
        backplane.sent,
        backplane.received,
        parts.reconciler.reconciled,
    )
