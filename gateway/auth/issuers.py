"""Tokens of foreign issuers: verification, and the session that each of them gets in this gateway.

An issuer that is down affects only its own tokens, and only once its keys are too old (`issuer_keys`).
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
from gateway.auth.jws import LEEWAY_SECONDS, Token, are_timely, is_meant_for, is_of_another_kind, verify
from gateway.auth.names import check_sub
from gateway.auth.sessions import FOREIGN, SESSIONS_PER_USER, Session, add_session, end_oldest
from gateway.auth.signing import MAX_TTL
from gateway.auth.users import add_missing_users, find_user
from gateway.database.models import sessions, users
from gateway.errors import ForeignSubject, InvalidToken, TokenExpired, TokenRevoked
from gateway.settings.trusted_issuer import TrustedIssuer

_TYPES = {"jwt", "at+jwt"}


@dataclass(frozen=True, slots=True)
class ForeignUser:
    """The user that a foreign token names, and whether it may read the inbox.

    Times are in seconds since 1970.
    """

    sub: str
    session: str
    issued_at: int
    expires_at: int
    reads_inbox: bool
    issuer: str


class Admitted(NamedTuple):
    """The result of admitting a foreign token: its user's id, and the sessions ended to make room."""

    user_id: int
    ended: list[str]


class Issuers:
    """The trusted foreign issuers. `clock` returns seconds since 1970."""

    def __init__(self, trusted: Sequence[TrustedIssuer], clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.sources = {one.issuer: IssuerKeys(one) for one in trusted}
        self._prefixes = frozenset(one.subject_prefix for one in trusted) - {""}

    async def run(self) -> None:
        """Keep the keys of all issuers fresh until cancelled. Return at once if there is no issuer."""
        async with asyncio.TaskGroup() as tasks:
            for keys in self.sources.values():
                tasks.create_task(keys.run(), name=f"keys of {keys.trusted.issuer}")

    def recognizes(self, token: Token) -> bool:
        """Return whether the token claims to be of one of these issuers. The claim is not yet verified."""
        issuer = token.claims.get("iss")
        return isinstance(issuer, str) and issuer in self.sources

    def owns(self, sub: str) -> bool:
        """Return whether a `sub` begins with the prefix of one of these issuers. Its user signs in there."""
        return _longest(self._prefixes, sub) != ""

    async def verify(self, token: Token) -> ForeignUser:
        """Verify a token that `recognizes` has accepted, and return the user it names.

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
        foreign = _foreign_user(trusted, token)
        if self._prefixes and _longest(self._prefixes, foreign.sub) != trusted.subject_prefix:
            raise ForeignSubject
        return foreign


def overlaps(trusted: Sequence[TrustedIssuer]) -> list[str]:
    """Return a line for each pair of issuers whose prefixes overlap or are equal.

    The line says which tokens are refused, or that both issuers share their users.
    """
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
    """Return the longest prefix that a `sub` begins with, or "". It decides if prefixes overlap."""
    return max((one for one in prefixes if sub.startswith(one)), key=len, default="")


def _foreign_user(trusted: TrustedIssuer, token: Token) -> ForeignUser:
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
    return ForeignUser(sub, session, claims["iat"], claims["exp"], allowed, trusted.issuer)


def _scopes(claims: Mapping[str, Any]) -> list[Any]:
    """Return the scopes of a token: `scope` is a string in RFC 9068; some issuers use a list, or `scp`."""
    given = claims.get("scope", claims.get("scp"))
    return given.split() if isinstance(given, str) else given if isinstance(given, list) else []


def _session_of(issuer: str, sub: str, token: Token) -> str:
    """Return the id of the session of a token.

    It is a hash of the token's `sid`, or else of its `jti`, or else of the signed text, each with the issuer
    and the `sub`. The signature is left out because one text can have several valid signatures.
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
    foreign: ForeignUser,
    now_ms: int,
    *,
    creates: bool,
    limit: int = SESSIONS_PER_USER,
) -> Admitted:
    """Store the session of a foreign token when the token is first used, and return the id of its user.

    The session can then be ended like any other, and counts towards the `limit` of its user. The caller
    announces the sessions that were ended to make room.

    Raises `TokenRevoked` if the session has ended, the user is disabled, or a cutoff voids the token. Raises
    `InvalidToken` if the user is unknown and `creates` is false. The lock on the user's row ensures that a
    transaction that ends the user's sessions in the meantime sees this one.
    """
    if creates and find_user(connection, foreign.sub) is None:
        add_missing_users(connection, [foreign.sub], now_ms)
    wanted = select(users).where(users.c.sub == foreign.sub).with_for_update(key_share=True)
    user = connection.execute(wanted).one_or_none()
    if user is None:
        raise InvalidToken("The user is not known here.", why="unknown_user")
    # Checked for every token: a session may continue at its issuer, with tokens before and after the cutoff.
    if user.disabled or _is_void(connection, foreign):
        raise TokenRevoked
    expires_at = foreign.expires_at * 1000
    mine = sessions.c.id == foreign.session
    session = connection.execute(select(sessions).where(mine)).one_or_none()
    if session is None:
        add_session(connection, Session(foreign.session, expires_at), now_ms, user_id=user.id)
        of_user = sessions.c.user_id == user.id
        ended = end_oldest(connection, of_user, foreign.session, limit, now_ms)
        return Admitted(user.id, ended)
    if session.ended_at is not None or session.user_id != user.id:
        raise TokenRevoked
    if session.expires_at < expires_at:
        connection.execute(update(sessions).where(mine).values(expires_at=expires_at))
    return Admitted(user.id, [])


def _is_void(connection: Connection, foreign: ForeignUser) -> bool:
    """Return whether a token may have been issued before all sessions of its user ended.

    The issuer's clock may be ahead by up to `LEEWAY_SECONDS`. A token issued up to that long after the end
    cannot be told from one issued before it, so it is void, too. Later tokens of the issuer are valid.
    """
    return (foreign.issued_at - LEEWAY_SECONDS) * 1000 <= cutoffs.ended_at(connection, foreign.sub)
