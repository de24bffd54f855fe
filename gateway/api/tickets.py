"""Tickets: single-use tokens for browsers, which cannot send a header when they open a socket."""

import secrets

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from gateway.api.audit import Source
from gateway.api.callers import InboxUser
from gateway.api.json_route import JsonRoute
from gateway.api.oauth import NO_STORE
from gateway.api.problems import problems
from gateway.api.state import State
from gateway.auth import tickets
from gateway.auth.tokens import digest
from gateway.observability import audit
from gateway.observability.audit import Event
from gateway.protocol.times import now_ms

TICKET_TTL_SECONDS = 30
"""How long a ticket stays valid, in seconds."""

router = APIRouter(route_class=JsonRoute, tags=["auth"])


class TicketAnswer(BaseModel):
    """A ticket, to be sent as `?ticket=` when a socket is opened."""

    ticket: str
    expires_in: int = Field(description="How long it waits to be used, in seconds.")


@router.post("/v1/auth/ticket", summary="Get a ticket for a socket", responses=problems(429))
async def ticket(state: State, user: InboxUser, source: Source, response: Response) -> TicketAnswer:
    """Give a ticket: opaque, for one socket, to be used within 30 seconds.

    It is for a browser, which cannot send a header with a WebSocket, and it may show up in a log. The
    socket expires with the token that was used to request the ticket, unless `auth` replaces that token.
    """
    response.headers.update(NO_STORE)
    state.rate_limits.tickets.take(user.id)
    text = secrets.token_urlsafe(24)
    now = now_ms()
    await state.database.write(
        tickets.add_ticket,
        tickets.NewTicket(
            hash=digest(text),
            session_id=user.session,
            scope=" ".join(sorted(user.scopes)),
            token_expires_at=user.expires_at * 1000,
            expires_at=now + TICKET_TTL_SECONDS * 1000,
        ),
    )
    audit.record(Event.TICKET_ISSUED, actor=user.actor, source=source, session=user.session)
    return TicketAnswer(ticket=text, expires_in=TICKET_TTL_SECONDS)
