"""Refresh tokens: each is good for one refresh, which returns its successor.

Reuse of a refresh token is treated as theft: the session is revoked, because the gateway cannot tell the
thief from the owner (RFC 9700, section 4.14.2). There is one exception. If a response is lost, the client
retries, so for a few seconds the previous token returns the current one again. The current token is derived
from the previous token and a seed in the database. The two only meet in such a request, so the database
holds nothing that could be used as a token.

A token is `family.secret`. All tokens of a session share the family, whose hash is stored when the first of
them is used. Any older token is recognized by its family, so a session keeps one row of used tokens however
often it is refreshed. Tokens of the previous development version have no family: each keeps a row of its
own, and its successor starts a family.

Each function is a unit of work; none commits.
"""

import base64
import hmac
import secrets
from typing import NamedTuple

from sqlalchemy import Connection, ScalarSelect, or_, select, union_all, update

from gateway.auth.records import Record
from gateway.auth.sessions import end_sessions
from gateway.auth.tokens import digest
from gateway.database.models import sessions, used_refresh_tokens, users

RETRY_WINDOW_MS = 10_000
"""How long the previous token returns the current one again, in ms."""


_FAMILY_LENGTH = 22
"""Length of a family, in characters: 128 bits and more."""


class Refreshed(NamedTuple):
    """The result of a refresh.

    It is refused if `token` is None. `ended` holds the session that was ended because the refresh token was
    reused. `repeated` is true if this was a retry, and `token` was returned before. `expires_at` is in ms.
    """

    session: str = ""
    sub: str = ""
    expires_at: int = 0
    token: str | None = None
    ended: tuple[str, ...] = ()
    repeated: bool = False


class Found(NamedTuple):
    """The session of a current or used refresh token, and its user."""

    session: str
    user_id: int


def new_token() -> str:
    """Return the first refresh token of a session."""
    return f"{secrets.token_urlsafe(16)}.{secrets.token_urlsafe(32)}"


def find_session(connection: Connection, token: str) -> Found | None:
    """Return the session of a refresh token, current or used, or None. It waits for no lock."""
    named = select(sessions.c.id, sessions.c.user_id).where(sessions.c.id == _session_of(token))
    row = connection.execute(named).one_or_none()
    return None if row is None else Found(row.id, row.user_id)


def refresh(connection: Connection, token: str, now_ms: int) -> Refreshed:
    """Use a refresh token and return its successor, or end its session if the token was used before.

    Refreshes of one session wait for each other at the lock on its row, and check the token once they hold
    it. So of many concurrent refreshes the first rotates the token, and the others get the same successor.
    """
    shown = digest(token)
    row = _lock(connection, connection.scalar(select(_session_of(token))), now_ms)
    if row is None:
        return Refreshed()
    good = Refreshed(row.id, row.sub, row.expires_at)
    if row.refresh_hash == shown:
        return good._replace(token=_rotate(connection, row, token, now_ms))
    if row.previous_hash == shown and now_ms - row.rotated_at < RETRY_WINDOW_MS:
        return good._replace(token=successor_of(row.refresh_seed, token), repeated=True)
    return good._replace(ended=tuple(end_sessions(connection, sessions.c.id == row.id, now_ms)))


def revoke(connection: Connection, session: str | None, token: str, now_ms: int) -> list[str]:
    """End the session with this id, or of this refresh token, current or used, and return it in a list."""
    named = or_(sessions.c.id == session, sessions.c.id == _session_of(token))
    return end_sessions(connection, named, now_ms)


def _session_of(token: str) -> ScalarSelect[str]:
    """Return the query for the session of a refresh token, current or used."""
    shown, family, spent = digest(token), _family_of(token), used_refresh_tokens.c
    known_by = [shown] if family is None else [shown, digest(family)]
    found = union_all(
        select(sessions.c.id).where(sessions.c.refresh_hash == shown),
        select(sessions.c.id).where(sessions.c.previous_hash == shown),
        select(spent.session_id).where(spent.hash.in_(known_by)),
    ).subquery()
    return select(found.c.id).limit(1).scalar_subquery()


def _lock(connection: Connection, session: str | None, now_ms: int) -> Record | None:
    """Lock a live session, and return it with the `sub` of its user. None if it has ended or expired."""
    statement = (
        select(
            sessions.c.id,
            sessions.c.expires_at,
            sessions.c.refresh_hash,
            sessions.c.previous_hash,
            sessions.c.rotated_at,
            sessions.c.refresh_seed,
            users.c.sub,
        )
        .join_from(sessions, users)
        .where(sessions.c.id == session, sessions.c.ended_at.is_(None), sessions.c.expires_at > now_ms)
        .where(users.c.disabled.is_(False), users.c.sub.is_not(None))
    )
    return connection.execute(statement.with_for_update(of=sessions)).one_or_none()


def _rotate(connection: Connection, row: Record, token: str, now_ms: int) -> str:
    # A new seed each time, so that nothing in the database helps with a token older than the previous one.
    seed = secrets.token_bytes(32)
    successor = successor_of(seed, token)
    _store_used(connection, row, token)
    changes = {
        "refresh_hash": digest(successor),
        "previous_hash": row.refresh_hash,
        "rotated_at": now_ms,
        "refresh_seed": seed,
    }
    connection.execute(update(sessions).where(sessions.c.id == row.id).values(changes))
    return successor


def _store_used(connection: Connection, row: Record, token: str) -> None:
    """Store the hashes by which the current token and the one before it are recognized once both are used.

    The hash of the family is enough for both. The first token of a family stores it, together with the hash
    of the token before, which may have had no family.
    """
    family, spent = _family_of(token), used_refresh_tokens.c
    kept = {row.previous_hash}
    if family is not None:
        if connection.scalar(select(spent.hash).where(spent.hash == digest(family))) is not None:
            return
        kept.add(digest(family))
    rows = [{"hash": one, "session_id": row.id} for one in kept if one is not None]
    if rows:
        connection.execute(used_refresh_tokens.insert(), rows)


def _family_of(token: str) -> str | None:
    """Return the family of a refresh token, or None for a token of the previous development version."""
    family, dot, _ = token.partition(".")
    return family if dot else None


def successor_of(seed: bytes, token: str) -> str:
    """Return the successor of a token: in the same family, or in a new one if the token has none."""
    family = _family_of(token) or _derive(seed, f"family of {token}")[:_FAMILY_LENGTH]
    return f"{family}.{_derive(seed, token)}"


def _derive(seed: bytes, token: str) -> str:
    return base64.urlsafe_b64encode(hmac.digest(seed, token.encode(), "sha256")).rstrip(b"=").decode()
