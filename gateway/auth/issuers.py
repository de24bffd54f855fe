"""Tokens of foreign issuers: who they name, and the session that each of them has here.

An issuer that is down costs its own tokens only, and those not before its keys are too old (`issuer_keys`).
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, select, update

from gateway.auth import cutoffs
from gateway.auth.issuer_keys import IssuerKeys
from gateway.auth.jws import LEEWAY, Token, are_timely, is_meant_for, is_of_another_kind, verify
from gateway.auth.names import check_sub
from gateway.auth.sessions import FOREIGN, SESSIONS_PER_USER, Session, add_session, end_oldest
from gateway.auth.signing import MAX_TTL
from gateway.auth.users import add_missing_users, find_user
from gateway.database.models import sessions, users
from gateway.errors import ForeignSubject, InvalidToken, TokenExpired, TokenRevoked
from gateway.settings.trusted_issuer import TrustedIssuer

_TYPES = {"jwt", "at+jwt"}


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who a foreign token names, and whether it may read the inbox. Times are in seconds since 1970."""

    sub: str
    session: str
    issued_at: int
    expires_at: int
    reads_inbox: bool
    issuer: str


class Admitted(NamedTuple):
    """What came of a foreign token: the key of its user, and the user's oldest sessions, ended for it."""

    user_id: int
    ended: list[str]


class Issuers:
    """The issuers that are trusted besides the gateway itself. `clock` returns seconds since 1970."""

    def __init__(self, trusted: Sequence[TrustedIssuer], clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.sources = {one.issuer: IssuerKeys(one) for one in trusted}
        self._prefixes = frozenset(one.subject_prefix for one in trusted) - {""}

    async def run(self) -> None:
        """Keep the keys fresh, until cancelled. Returns at once where nobody is trusted."""
        async with asyncio.TaskGroup() as tasks:
            for keys in self.sources.values():
                tasks.create_task(keys.run(), name=f"keys of {keys.trusted.issuer}")

    def recognizes(self, token: Token) -> bool:
        """Whether the token says that it is of one of these issuers. That is not yet verified."""
        issuer = token.claims.get("iss")
        return isinstance(issuer, str) and issuer in self.sources

    def owns(self, sub: str) -> bool:
        """Whether a `sub` begins with the prefix of one of these issuers: such users sign in there."""
        return _longest(self._prefixes, sub) != ""

    async def verify(self, token: Token) -> Visitor:
        """Return who a token that is claimed names.

        Raises `InvalidToken` and `TokenExpired`, and `ForeignSubject` for a user of another issuer.
        """
        keys = self.sources[token.claims["iss"]]
        trusted, claims = keys.trusted, token.claims
        if token.type not in _TYPES and not (trusted.without_typ and "typ" not in token.header):
            raise InvalidToken(why="typ")
        if is_of_another_kind(token):
            raise InvalidToken(why="no_access_token")
        key = await keys.find(token.header["kid"])
        verify(token, key.key, key.algorithms)
        now = self._clock()
        if not is_meant_for(claims, trusted.audience):
            raise InvalidToken(why="audience")
        if not are_timely(claims, now):
            raise InvalidToken(why="times")
        if claims["exp"] - claims["iat"] > MAX_TTL:
            raise InvalidToken("A token of another issuer may live for a day at most.", why="lifetime")
        if claims["exp"] <= now:
            raise TokenExpired
        visitor = _visitor(trusted, token)
        if self._prefixes and _longest(self._prefixes, visitor.sub) != trusted.subject_prefix:
            raise ForeignSubject
        return visitor


def overlaps(trusted: Sequence[TrustedIssuer]) -> list[str]:
    """Return a line for each two issuers of which one's tokens may name what is the other's by its prefix."""
    lines = []
    for one in trusted:
        for other in trusted:
            wide, narrow = one.subject_prefix, other.subject_prefix
            if wide != narrow and narrow.startswith(wide):
                lines.append(
                    f"issuer: {one.issuer}: its tokens are refused where their sub begins with {narrow!r}:"
                    f" that is the prefix of {other.issuer}"
                )
            elif one is not other and wide == narrow and trusted.index(one) < trusted.index(other):
                lines.append(
                    f"issuer: {one.issuer}: it shares the prefix {wide!r} with {other.issuer}:"
                    " one sub is one user of both"
                )
    return lines


def _longest(prefixes: Collection[str], sub: str) -> str:
    """Return the longest prefix that a `sub` begins with: of two that overlap, one decides."""
    return max((one for one in prefixes if sub.startswith(one)), key=len, default="")


def _visitor(trusted: TrustedIssuer, token: Token) -> Visitor:
    claims = token.claims
    subject = claims.get(trusted.subject_claim)
    if not isinstance(subject, str) or not subject:
        raise InvalidToken(why="subject")
    try:
        sub = check_sub(trusted.subject_prefix + subject)
    except ValueError:
        raise InvalidToken(why="subject") from None
    session = _session_of(trusted.issuer, sub, token)
    allowed = trusted.required_scope is None or trusted.required_scope in _scopes(claims)
    return Visitor(sub, session, claims["iat"], claims["exp"], allowed, trusted.issuer)


def _scopes(claims: Mapping[str, Any]) -> list[Any]:
    """Return the scopes of a token: a text as RFC 9068 has it, or a list, and `scp` with some issuers."""
    given = claims.get("scope", claims.get("scp"))
    return given.split() if isinstance(given, str) else given if isinstance(given, list) else []


def _session_of(issuer: str, sub: str, token: Token) -> str:
    """Return the name of the session of a token.

    That is what its issuer calls the session, or else what it calls the token, or else what it has signed.
    The signature does not count, for one text can have several that are good.
    """
    for name in ("sid", "jti"):
        value = token.claims.get(name)
        if isinstance(value, str) and value:
            break
    else:
        name, value = "", token.signed
    said = json.dumps([issuer, sub, name, value]).encode()
    return FOREIGN + hashlib.sha256(said).hexdigest()[:30]


def admit(
    connection: Connection,
    visitor: Visitor,
    now_ms: int,
    *,
    creates: bool,
    limit: int = SESSIONS_PER_USER,
) -> Admitted:
    """Note the session of a foreign token that is seen for the first time, and return the key of its user.

    From then on it ends like any other, and counts among the `limit` sessions of its user; the caller
    announces those that ended for it. Raises `TokenRevoked` where it has ended, or the user is disabled, or
    everything issued up to some later moment is void; `InvalidToken` for a user who is unknown and not to be
    created. The lock on the user's row makes whoever ends the sessions meanwhile see this one.
    """
    if creates and find_user(connection, visitor.sub) is None:
        add_missing_users(connection, [visitor.sub], now_ms)
    wanted = select(users).where(users.c.sub == visitor.sub).with_for_update(key_share=True)
    user = connection.execute(wanted).one_or_none()
    if user is None:
        raise InvalidToken("The user is not known here.", why="unknown_user")
    # Asked of every token: a session may live at its issuer on, and have tokens from before and after.
    if user.disabled or _is_void(connection, visitor):
        raise TokenRevoked
    expires_at = visitor.expires_at * 1000
    mine = sessions.c.id == visitor.session
    session = connection.execute(select(sessions).where(mine)).one_or_none()
    if session is None:
        add_session(connection, Session(visitor.session, expires_at), now_ms, user_id=user.id)
        of_user = sessions.c.user_id == user.id
        ended = end_oldest(connection, of_user, visitor.session, limit, now_ms)
        return Admitted(user.id, ended)
    if session.ended_at is not None or session.user_id != user.id:
        raise TokenRevoked
    if session.expires_at < expires_at:
        connection.execute(update(sessions).where(mine).values(expires_at=expires_at))
    return Admitted(user.id, [])


def _is_void(connection: Connection, visitor: Visitor) -> bool:
    """Whether a token may have been issued before all sessions of its user ended.

    Its issuer's clock may be ahead as far as a token may come from the future. So nobody can tell it from one
    that was issued shortly after, and that one is void, too: the next that the issuer gives is good.
    """
    return (visitor.issued_at - LEEWAY) * 1000 <= cutoffs.ended_at(connection, visitor.sub)
