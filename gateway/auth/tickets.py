"""The SQL of tickets, each good for one socket. Each function is a unit of work; none commits."""

from typing import NamedTuple

from sqlalchemy import Connection, delete, select

from gateway.auth.sessions import find_session_owner
from gateway.database.models import tickets
from gateway.database.units import background

_SWEEP_LIMIT = 1000
"""Maximum number of tickets that one sweep deletes."""


class NewTicket(NamedTuple):
    """A ticket to store. Times are in ms."""

    hash: bytes
    session_id: str
    scope: str
    token_expires_at: int
    expires_at: int


class Ticket(NamedTuple):
    """A redeemed ticket, with its user and the state of its session. `token_expires_at` is in ms."""

    session: str
    user_id: int
    sub: str
    scope: str
    token_expires_at: int
    ended: bool


def add_ticket(connection: Connection, ticket: NewTicket) -> None:
    """Store a ticket."""
    connection.execute(tickets.insert().values(ticket._asdict()))


def withdraw_tickets(connection: Connection, scope: str) -> None:
    """Delete the tickets of exactly this scope."""
    connection.execute(delete(tickets).where(tickets.c.scope == scope))


def is_known(connection: Connection, ticket_hash: bytes) -> bool:
    """Return whether this ticket is stored, expired or not."""
    return connection.execute(select(tickets.c.hash).where(tickets.c.hash == ticket_hash)).first() is not None


def redeem_ticket(connection: Connection, ticket_hash: bytes, now_ms: int) -> Ticket | None:
    """Delete a ticket and return it, or None if it is unknown or expired. Only one of two callers gets it."""
    taken = delete(tickets).where(tickets.c.hash == ticket_hash).returning(tickets)
    row = connection.execute(taken).one_or_none()
    if row is None or min(row.expires_at, row.token_expires_at) <= now_ms:
        return None
    owner = find_session_owner(connection, row.session_id)
    if owner is None or owner.user_id is None:
        return None
    return Ticket(row.session_id, owner.user_id, owner.name, row.scope, row.token_expires_at, owner.ended)


@background
def sweep(connection: Connection, now_ms: int) -> bool:
    """Delete some expired tickets, and return whether there may be more."""
    # Leave locked rows to the next sweep, because waiting for them could deadlock.
    unused = select(tickets.c.hash).where(tickets.c.expires_at <= now_ms).limit(_SWEEP_LIMIT)
    unused = unused.with_for_update(skip_locked=True)
    swept = connection.execute(delete(tickets).where(tickets.c.hash.in_(unused.scalar_subquery())))
    return swept.rowcount == _SWEEP_LIMIT
