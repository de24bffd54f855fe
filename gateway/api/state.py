"""The state of the application: the parts of the gateway that routes and dependencies use."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from gateway.auth.limits.rate_limits import RateLimits
from gateway.auth.passwords import Passwords
from gateway.auth.revocation import Revocation
from gateway.auth.tokens import Tokens
from gateway.backplane import Backplane
from gateway.database.database import Database
from gateway.delivery.drain import Drain
from gateway.delivery.hub import Hub
from gateway.delivery.parts import Parts
from gateway.delivery.recent_entries import RecentEntries
from gateway.delivery.reconciler import Reconciler
from gateway.observability.metrics import Metrics
from gateway.observability.readiness import Readiness
from gateway.settings import Settings
from gateway.store.writer import Writer


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts that `create_app` creates, stored as `app.state.gateway`."""

    settings: Settings
    database: Database
    writer: Writer
    hub: Hub
    recent: RecentEntries
    backplane: Backplane
    reconciler: Reconciler
    tokens: Tokens
    revocation: Revocation
    passwords: Passwords
    rate_limits: RateLimits
    drain: Drain
    readiness: Readiness
    metrics: Metrics
    parts: Parts


def state_of(connection: HTTPConnection) -> Gateway:
    """Return the parts of the gateway that serves this connection."""
    gateway: Gateway = connection.scope["app"].state.gateway
    return gateway


async def _parts(connection: HTTPConnection) -> Gateway:
    return state_of(connection)


State = Annotated[Gateway, Depends(_parts)]
