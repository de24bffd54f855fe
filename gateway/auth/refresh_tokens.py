"""Refresh tokens: each is good once, and its successor is what the next refresh is made with.

A token that comes a second time was stolen, or the thief was here before its owner: nobody can tell which,
so the whole session ends (RFC 9700, section 4.14.2). One thing looks like it and is not: the answer was lost
on its way, and the client asks again. So for a few seconds the token before the current one gives the
current one once more. That one is derived from the two things which only meet in such a request, the token
and a seed in the database, so nothing that could be used is stored.

A token is `family.secret`. All tokens of a session share the family, whose hash is stored when the first of
them is used; so any older one is recognised by it, and a session keeps one row however often it is refreshed.
Tokens of the version before have no family. Each of those keeps a row of its own, and its successor begins
a family.

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

RETRY = 10_000
"""How long the token before the current one gives the current one again, in ms."""


_FAMILY = 22
"""How many characters a family has: 128 bits and more."""


class Refreshed(NamedTuple):
    """What a refresh has come to.

    Without a `token` it is refused. `ended` is the session that has ended because the token was used before;
    `repeated` says that the token was given once more, to who asked again. `expires_at` is in ms.
    """

    session: str = ""
    sub: str = ""
    expires_at: int = 0
    token: str | None = None
    ended: tuple[str, ...] = ()
    repeated: bool = False


class Found(NamedTuple):
    """The session to which a refresh token belongs, or once belonged, and its user."""

    session: str
    user_id: int


def new_token() -> str:
    """Return the first refresh token of a session."""
    return f"{secrets.token_urlsafe(16)}.{secrets.token_urlsafe(32)}"


def find_session(connection: Connection, token: str) -> Found | None:
    """Return the session of a refresh token, current or spent. What is none need not wait for a lock."""
    named = select(sessions.c.id, sessions.c.user_id).where(sessions.c.id == _session_of(token))
    row = connection.execute(named).one_or_none()
    return None if row is None else Found(row.id, row.user_id)


def refresh(connection: Connection, token: str, now_ms: int) -> Refreshed:
    """Take a refresh token and give its successor, or end the session of one that was used before.

    Refreshes of one session wait for each other at the lock on its row; what the token is, is decided behind
    it. So of many that come at once the first rotates, and the others are given the same successor.
    """
    shown = digest(token)
    row = _lock(connection, connection.scalar(select(_session_of(token))), now_ms)
    if row is None:
        return Refreshed()
    good = Refreshed(row.id, row.sub, row.expires_at)
    if row.refresh_hash == shown:
        return good._replace(token=_rotate(connection, row, token, now_ms))
    if row.previous_hash == shown and now_ms - row.rotated_at < RETRY:
        return good._replace(token=successor_of(row.refresh_seed, token), repeated=True)
    return good._replace(ended=tuple(end_sessions(connection, sessions.c.id == row.id, now_ms)))


def revoke(connection: Connection, session: str | None, token: str, now_ms: int) -> list[str]:
    """End the session with this id, or of this refresh token, current or spent, and return it in a list."""
    named = or_(sessions.c.id == session, sessions.c.id == _session_of(token))
    return end_sessions(connection, named, now_ms)


def _session_of(token: str) -> ScalarSelect[str]:
    """Return the query for the session to which a refresh token belongs, or once belonged."""
    shown, family, spent = digest(token), _family_of(token), used_refresh_tokens.c
    known_by = [shown] if family is None else [shown, digest(family)]
    found = union_all(
        select(sessions.c.id).where(sessions.c.refresh_hash == shown),
        select(sessions.c.id).where(sessions.c.previous_hash == shown),
        select(spent.session_id).where(spent.hash.in_(known_by)),
    ).subquery()
    return select(found.c.id).limit(1).scalar_subquery()


def _lock(connection: Connection, session: str | None, now_ms: int) -> Record | None:
    """Return a session that lives, with the `sub` of its user, and keep others from changing it."""
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
    # A new seed each time: what the database holds gives nothing for a token older than the previous one.
    seed = secrets.token_bytes(32)
    successor = successor_of(seed, token)
    _keep(connection, row, token)
    changes = {
        "refresh_hash": digest(successor),
        "previous_hash": row.refresh_hash,
        "rotated_at": now_ms,
        "refresh_seed": seed,
    }
    connection.execute(update(sessions).where(sessions.c.id == row.id).values(changes))
    return successor


def _keep(connection: Connection, row: Record, token: str) -> None:
    """Store by what the token before this one, which is current, and this one are recognised from now on.

    Once the hash of its family is stored, that is enough for both. The first of a family stores it; the token
    before that one, if there is one, may have been of no family.
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
    """Return the family of a refresh token; those of the version before have none."""
    family, dot, _ = token.partition(".")
    return family if dot else None


def successor_of(seed: bytes, token: str) -> str:
    """Return the token that follows: of the same family, or of a new one where the token has none."""
    family = _family_of(token) or _derive(seed, f"family of {token}")[:_FAMILY]
    return f"{family}.{_derive(seed, token)}"


def _derive(seed: bytes, token: str) -> str:
    return base64.urlsafe_b64encode(hmac.digest(seed, token.encode(), "sha256")).rstrip(b"=").decode()
