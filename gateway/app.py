"""The composition root: the only module that creates the components and connects them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI

from gateway import __version__
from gateway.api.error_rendering import render_errors
from gateway.api.fast_paths import fast_paths
from gateway.api.fast_socket import FastSocket
from gateway.api.middleware import add_middleware
from gateway.api.routes import api_routes
from gateway.api.state import Gateway
from gateway.auth.limits.network_bytes import NetworkBytes
from gateway.auth.limits.rate_limits import RateLimits
from gateway.auth.passwords import Passwords
from gateway.auth.revocation import Revocation
from gateway.auth.tokens import Tokens
from gateway.backplane import Receiver, open_backplane
from gateway.database import schema
from gateway.database.database import open_database, takes_writes
from gateway.delivery.announcer import Announcer
from gateway.delivery.drain import Drain
from gateway.delivery.hub import Hub
from gateway.delivery.parts import Parts
from gateway.delivery.recent_entries import RecentEntries
from gateway.delivery.reconciler import Reconciler
from gateway.delivery.remote_commits import RemoteCommits
from gateway.jobs.background import ending_the_process, running
from gateway.jobs.timetable import timetable
from gateway.observability.metrics import Metrics, Now
from gateway.observability.readiness import Readiness
from gateway.observability.telemetry import traced, untraced
from gateway.protocol.problems import problem_code
from gateway.settings import Settings
from gateway.settings.choices import UnknownRecipients
from gateway.store.writer import Writer
from gateway.transport.connections import CONNECTIONS, Connections
from gateway.transport.fast_handshake import FAST_HANDSHAKE
from gateway.transport.fast_path import FAST_PATHS
from gateway.transport.open_files import connections_within, soft_limit
from gateway.transport.socket import CLOSED
from gateway.transport.turnstile import TURNSTILE, Turnstile
from gateway.transport.unsent import UNSENT
from gateway.web.routes import web_routes


def create_app(settings: Settings, *, demo_mode: bool = False) -> FastAPI:
    """Return the application. The database schema must be up to date, which `gateway serve` ensures.

    In `demo_mode` the demo page can also post. Use it only for a gateway on loopback.
    """
    metrics = Metrics(max_sockets=settings.max_sockets)
    app = (traced if settings.otel else untraced)(
        title="Notification Gateway",
        version=__version__,
        description="Durable notifications for the users of your backend, pushed when they are committed.",
        lifespan=lambda app: _lifespan(app, settings, metrics),
        redirect_slashes=False,
        openapi_url=None,  # web/document.py serves it
        docs_url=None,  # web/reference.py serves the page
        redoc_url=None,
    )
    app.router.routes.extend(api_routes(with_demo=demo_mode))
    app.router.routes.extend(web_routes(app, settings, with_demo=demo_mode))
    render_errors(app)
    add_middleware(app, settings, metrics)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings, metrics: Metrics) -> AsyncIterator[Mapping[str, Any]]:
    """Create the components, run the background tasks while the application runs, then flush the writer.

    The yielded mapping is the lifespan state, which uvicorn's protocols can access, too.
    """
    recent = RecentEntries(settings.tail_bytes)
    backplane = open_backplane(settings)
    turnstile = Turnstile()
    hub = Hub(
        (recent, backplane),
        max_sockets=settings.max_sockets,
        max_sockets_per_user=settings.max_sockets_per_user,
        on_turn=turnstile.leave_out,
    )
    connections = Connections(
        connections_within(soft_limit(), settings),
        settings.connections_per_address,
        settings.forwarded_allow_ips,
        on_refused=lambda status: metrics.refused(status, problem_code(status)),
    )
    async with ending_the_process(), open_database(settings) as database, RateLimits(settings) as rate_limits:
        writer = Writer(
            database,
            Announcer(recent, hub, backplane, metrics, rate_limits.changes).announce,
            followed=recent,
            changes=rate_limits.changes,
            create_users=settings.unknown_recipients == UnknownRecipients.CREATE,
            required_categories=frozenset(settings.required_categories),
        )
        revocation = Revocation(
            database,
            on_ended=hub.end_sessions,
            publish_ended=lambda ended: backplane.publish({}, ended),
        )
        tokens = Tokens(settings, database, revocation)
        await tokens.start()
        remote_commits = RemoteCommits(hub, recent, database)
        reconciler = Reconciler(hub, remote_commits, database, settings.reconcile_interval)
        receiver = Receiver(
            on_hint=remote_commits.hint, on_ended=revocation.drop, on_resumed=reconciler.request
        )
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
            app.state.gateway = state = Gateway(
                settings,
                database,
                writer,
                hub,
                recent,
                backplane,
                reconciler,
                tokens,
                revocation,
                passwords,
                rate_limits,
                Drain(hub, settings.grace_period),
                readiness,
                metrics,
                Parts(settings, database, recent, hub, writer, tokens, metrics, rate_limits.socket_commands),
            )
            background = running(
                ("hub", hub.run()),
                ("backplane", backplane.run(receiver)),
                ("remote commits", remote_commits.run()),
                ("reconciler", reconciler.run()),
                ("metrics", metrics.run(partial(_now, state))),
                *timetable(settings, database, writer, tokens, revocation),
            )
            async with background:
                async with writer.running():
                    yield {
                        CLOSED: metrics.closed,
                        CONNECTIONS: connections,
                        TURNSTILE: turnstile,
                        UNSENT: NetworkBytes(),
                        FAST_PATHS: {} if settings.otel else fast_paths(state),
                        FAST_HANDSHAKE: None if settings.otel else FastSocket(app),
                    }
                await backplane.drain()


def _now(state: Gateway) -> Now:
    backplane = state.backplane
    return Now(
        not state.drain.began,
        len(state.hub),
        backplane.sent,
        backplane.received,
        state.reconciler.reconciled,
    )
