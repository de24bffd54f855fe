"""The composition root: the only place that makes the parts and wires them."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
from fastapi import FastAPI

from gateway import __version__, web
from gateway.api import (
    auth,
    demo,
    health,
    inbox,
    monitoring,
    notifications,
    services,
    socket,
    stream,
    users,
    well_known,
)
from gateway.api.anonymous import Anonymous
from gateway.api.dependencies import Gateway
from gateway.api.rendering import RENDERERS, not_found
from gateway.api.routing import Routing
from gateway.api.trail import tell_rest
from gateway.auth import accounts
from gateway.auth.limits.throttle import Throttle
from gateway.auth.passwords import Passwords
from gateway.auth.tokens import Tokens
from gateway.backplane import Receiver, open_backplane
from gateway.database import schema
from gateway.database.database import Database, open_database, takes_writes
from gateway.delivery.drain import Drain
from gateway.delivery.hub import Hub
from gateway.delivery.reconciler import Reconciler
from gateway.delivery.relay import Relay
from gateway.delivery.tail import Tail
from gateway.errors import (
    Unavailable,
)
from gateway.jobs.memory import Memory
from gateway.jobs.retention import Retention
from gateway.observability.metrics import Metrics, Now
from gateway.observability.readiness import Readiness
from gateway.observability.reasons import reason
from gateway.observability.sampling import WINDOW
from gateway.observability.telemetry import restore_query, traced, untraced
from gateway.settings import Settings, UnknownRecipients
from gateway.store.writer import Committed, Writer
from gateway.transport.connections import CONNECTIONS, Connections
from gateway.transport.headers import BrowserHeaders, Cors, problem_code
from gateway.transport.open_files import connections_within, soft_limit
from gateway.transport.turnstile import TURNSTILE, Turnstile
from gateway.transport.websocket import CLOSED
from gateway.web import document, errors, reference

logger = structlog.get_logger()

LOOK, REFRESH = 0.5, 5
"""How often the sessions that others have ended, and their new signing keys, are looked for, in seconds."""


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
    for kind, render in RENDERERS.items():
        app.add_exception_handler(kind, render)
    # Routes are tried in order: those of the hot paths come first. They are put among the application's own,
    # for what is included as a router is looked for twice with every request.
    for routes in (
        notifications.post_router.routes,
        socket.router.routes,
        notifications.batch_router.routes,
        notifications.router.routes,
        inbox.router.routes,
        stream.router.routes,
        auth.router.routes,
        well_known.router.routes,
        health.router.routes,
        users.router.routes,
        services.router.routes,
        demo.router.routes if demo_mode else (),
        web.page_routes(settings.mount, demo=demo_mode) if demo_mode or settings.mount else (),
        web.router.routes,
        errors.router.routes,
        reference.router.routes if settings.api_docs else (),
        monitoring.router.routes,
    ):
        app.router.routes.extend(routes)
    if settings.api_docs:
        app.add_route(document.PATH, document.Document(app, settings.mount).serve, include_in_schema=False)
    app.router.default = not_found
    app.add_middleware(Routing)
    app.add_middleware(Anonymous)
    if settings.allowed_origins:
        app.add_middleware(Cors, allow_origins=settings.allowed_origins)
    app.add_middleware(BrowserHeaders, count=metrics.answered)
    if settings.otel:
        restore_query(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings, metrics: Metrics) -> AsyncIterator[Mapping[str, Any]]:
    """Make the parts, run what runs in the background, and flush the writer at the end.

    A background task that dies takes the process with it: a gateway that half works is worse than none.
    What is yielded, uvicorn's protocols have too.
    """
    tail = Tail(settings.tail_bytes)
    backplane = open_backplane(settings)
    hub = Hub(
        (tail, backplane),
        max_sockets=settings.max_sockets,
        max_sockets_per_user=settings.max_sockets_per_user,
    )

    drain = Drain(hub, settings.grace_period)
    connections = Connections(
        connections_within(soft_limit(), settings),
        settings.connections_per_address,
        settings.forwarded_allow_ips,
        on_refused=lambda status: metrics.refused(status, problem_code(status)),
    )

    def announce(committed: Committed) -> None:
        committed_at = time.time()
        for entry in committed.entries:
            entry.committed_at = committed_at
        metrics.committed(committed.posts, committed.items, committed.seconds)
        seqs = {user_id: counts.seq for user_id, counts in committed.counts.items()}
        tail.record(committed.entries, committed.counts)
        hub.ring(seqs)
        backplane.publish(seqs)

    def now() -> Now:
        return Now(not drain.began, len(hub), backplane.sent, backplane.received, reconciler.reconciled)

    async with (
        _loud(),
        open_database(settings) as database,
        Throttle(settings) as throttle,
        asyncio.TaskGroup() as tasks,
    ):
        writer = Writer(
            database,
            announce,
            followed=tail,
            create_users=settings.unknown_recipients == UnknownRecipients.CREATE,
        )
        retention = Retention(database, writer, keep=settings.retention_seconds)
        tokens = Tokens(
            settings,
            database,
            on_ended=hub.end_sessions,
            publish_ended=lambda ended: backplane.publish({}, ended),
        )
        await tokens.start()
        relay = Relay(hub, tail, database)
        reconciler = Reconciler(hub, relay, database, settings.reconcile_interval)
        receiver = Receiver(on_hint=relay.hint, on_ended=tokens.drop, on_resumed=reconciler.request)
        with Passwords() as passwords:
            app.state.gateway = Gateway(
                settings,
                database,
                writer,
                hub,
                tail,
                backplane,
                reconciler,
                tokens,
                passwords,
                throttle,
                drain,
                Readiness(
                    {
                        "database": partial(database.write, takes_writes),
                        "migrations": partial(database.read, schema.serves, schema.earlier()),
                        "signing_key": tokens.can_sign,
                        "backplane": lambda: backplane.listening,
                    },
                    awaited={"backplane"},
                ),
                metrics,
            )
            background = [
                tasks.create_task(hub.run(), name="hub"),
                tasks.create_task(backplane.run(receiver), name="backplane"),
                tasks.create_task(relay.run(), name="relay"),
                tasks.create_task(reconciler.run(), name="reconciler"),
                tasks.create_task(metrics.run(now), name="metrics"),
                tasks.create_task(_every(LOOK, tokens.find_ended), name="ended sessions"),
                tasks.create_task(_every(REFRESH, tokens.load_keys), name="signing keys"),
                tasks.create_task(tokens.issuers.run(), name="issuers"),
                tasks.create_task(_finish_erasures(database), name="erasures"),
                tasks.create_task(retention.run(), name="retention"),
                tasks.create_task(_every(WINDOW, tell_rest), name="refusals"),
                tasks.create_task(Memory().run(), name="memory"),
            ]
            async with writer.running():
                yield {CLOSED: metrics.closed, CONNECTIONS: connections, TURNSTILE: Turnstile()}
            await backplane.drain()
            for task in background:
                task.cancel()


@asynccontextmanager
async def _loud() -> AsyncIterator[None]:
    """End the process when what runs inside fails: uvicorn would go on serving without it."""
    try:
        yield
    except Exception:
        logger.critical("a background task has died, and the gateway with it", exc_info=True)
        signal.raise_signal(signal.SIGTERM)
        raise


async def _every(seconds: float, look: Callable[[], Awaitable[None]]) -> None:
    """Look again and again. A database that is away is no fault of the program: it is said once."""
    failing = False
    while True:
        await asyncio.sleep(seconds)
        try:
            await look()
            failing = False
        except (Unavailable, OSError) as error:
            if not failing:
                logger.warning("a background task failed; it goes on", reason=reason(error))
            failing = True


async def _finish_erasures(database: Database) -> None:
    """Go on with the erasures that a stop has cut short; the next start does where the database cannot."""
    try:
        for user_id in await database.read(accounts.released_users):
            while await database.write(accounts.erase_some, user_id):
                pass
    except Unavailable:
        logger.warning("erased users could not be removed")
