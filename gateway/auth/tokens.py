"""Access tokens and API keys: who they name, and whether they still hold.

A token is verified against its signing key and, the first time it is seen, against its session in the
database; from then on it is remembered until it expires or its session ends. The rules for access tokens
are those of RFC 9068; the algorithm is always that of the gateway's own key, never what a header says.
"""

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import jwt
import structlog

from gateway.auth import issuers, jws, names, services, sessions, tickets
from gateway.auth.issuers import Issuers
from gateway.auth.jws import MAX_TOKEN
from gateway.auth.principals import INBOX, Principal, Service, User
from gateway.auth.remembered import Known, Remembered
from gateway.auth.revocation import Revocation
from gateway.auth.sessions import TOO_MANY
from gateway.auth.signing import Keyring
from gateway.database.database import Database
from gateway.errors import (
    InvalidKey,
    InvalidToken,
    KeyRevoked,
    TokenExpired,
    TokenRevoked,
    Unauthorized,
    Unavailable,
)
from gateway.observability import audit
from gateway.settings import Settings, UnknownRecipients

RECHECK = 0.5
"""How long a service or an API key is believed without asking the database, in seconds."""

OWN_CLIENT = "gateway"
"""The `client_id` of tokens that a user got by signing in here."""

_HEADER = {"alg", "typ", "kid"}

logger = structlog.get_logger(__name__)


class Tokens:
    """Issues and verifies. Call `start` before anything else, and `load_keys` now and then.

    `clock` returns seconds since 1970.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        revocation: Revocation,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._database = database
        self._clock = clock
        self._jws = jwt.PyJWS()
        self.keys = Keyring(settings, database, clock)
        self.issuers = Issuers(settings.trusted_issuers, clock)
        self.remembered = Remembered()
        # What has ended is remembered no longer, and outranks what would be: a verification that was reading
        # the database meanwhile cannot bring a session back.
        self._revocation = revocation
        revocation.precede(self._forget)

    async def start(self) -> None:
        """Load the signing keys, or make the first one.

        Raises `SettingsError` for a secret that is no secret, and `Unavailable`.
        """
        await self.keys.start()

    def recall(self, token: str) -> Principal | None:
        """Return who shows this access token or API key, where that is known without asking the database."""
        known = self.remembered.get(token)
        if known is None or known.handle in self._revocation or self._clock() >= known.until:
            return None
        self.remembered.move_to_end(token)
        return known.principal

    def has_held(self, token: str) -> bool:
        """Whether this was good when it was verified last, and has neither expired nor ended here since."""
        known = self.remembered.get(token)
        if known is None or known.handle in self._revocation:
            return False
        expires_at = known.principal.expires_at
        return expires_at is None or self._clock() < expires_at

    async def verify(self, token: str) -> Principal:
        """Return who shows this access token or API key.

        Raises `InvalidToken`, `TokenExpired` or `TokenRevoked`, and `Unavailable` where the database is
        needed and cannot be used.
        """
        if (principal := self.recall(token)) is not None:
            return principal
        known = self.remembered.get(token)
        if known is not None and known.handle not in self._revocation:
            self._extend(token, known, self._clock())
        is_key = token.startswith(services.KEY_PREFIX)
        try:
            found = await (self._look_up_key(token) if is_key else self._look_up_jwt(token))
        except TokenRevoked:
            if known is not None:
                self._revocation.drop([known.handle])
            raise
        if found.handle in self._revocation:
            raise KeyRevoked if is_key else TokenRevoked
        self.remembered.remember(token, found)
        return found.principal

    def is_ended(self, session: str) -> bool:
        """Whether this session has ended.

        Ask it before you register a principal, kept over an `await`, where a revocation would look for it.
        """
        return session in self._revocation

    def issue(
        self,
        *,
        sub: str,
        client_id: str,
        scopes: Collection[str],
        session: str,
        expires_at: int,
        issued_at: int | None = None,
    ) -> str:
        """Return a signed access token; times are in seconds since 1970, `issued_at` is now by default."""
        key = self.keys.newest
        claims = {
            "iss": self._settings.issuer,
            "aud": self._settings.audience,
            "sub": sub,
            "client_id": client_id,
            "scope": " ".join(sorted(scopes)),
            "iat": int(self._clock()) if issued_at is None else issued_at,
            "exp": expires_at,
            "jti": secrets.token_hex(16),
            "sid": session,
        }
        payload = json.dumps(claims, separators=(",", ":")).encode()
        headers = {"typ": "at+jwt", "kid": key.kid}
        return self._jws.encode(payload, key.private, algorithm=key.algorithm, headers=headers)

    async def redeem(self, ticket: str) -> User:
        """Return the user to whom this ticket was given; it is good for nothing afterwards.

        Raises `InvalidToken` or `TokenRevoked`, and `Unavailable`.
        """
        if not ticket.isascii() or len(ticket) > MAX_TOKEN:
            raise InvalidToken(why="ticket")
        # Anybody may make one up: that costs no transaction.
        known = await self._database.lookup(tickets.is_known, digest(ticket))
        row = None
        if known:
            row = await self._database.write(tickets.redeem_ticket, digest(ticket), self._now_ms())
        if row is None:
            raise InvalidToken("The ticket is unknown, used or too old.", why="ticket")
        if row.ended or row.session in self._revocation:
            raise TokenRevoked
        scopes = frozenset(row.scope.split())
        return User(row.user_id, row.sub, row.session, scopes, row.token_expires_at // 1000, OWN_CLIENT)

    async def session_of(self, token: str) -> str | None:
        """Return the session of an access token; None for anything else.

        One of ours may have expired. One of a foreign issuer must hold: its session begins here, to be ended.
        """
        try:
            read = jws.read(token)
            if self.issuers.recognizes(read):
                return (await self.verify(token)).session
            return str((await self._verify_own(read))["sid"])
        except Unauthorized:
            return None

    async def load_keys(self) -> None:
        """Find new signing keys. A database that cannot be used now is no error: the next call asks again."""
        with suppress(Unavailable):
            await self.keys.load()

    def can_sign(self) -> bool:
        """Return whether there is a key to sign with."""
        return self.keys.signs

    def jwks(self) -> dict[str, Any]:
        """Return the public keys as RFC 7517 has them. A secret is never among them."""
        return self.keys.jwks()

    def _forget(self, handles: Collection[str]) -> None:
        """Remember the tokens of these sessions no longer."""
        for handle in handles:
            # What is known of a deleted key tells it from one that never was; it is asked for again anyhow.
            if not services.is_key_id(handle):
                self.remembered.forget_all_of(handle)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _extend(self, token: str, known: Known, now: float) -> None:
        """Let one caller ask the database about a service while the others go on for a moment."""
        expires_at = known.principal.expires_at
        until = now + RECHECK if expires_at is None else min(now + RECHECK, expires_at)
        self.remembered[token] = Known(known.principal, known.handle, until)

    async def _look_up_key(self, token: str) -> Known:
        key_id, secret = services.parse_key(token)
        row = await self._database.lookup(services.find_key, key_id)
        if row is None or not hmac.compare_digest(row.secret_hash, digest(secret)):
            # A key that was deleted cannot be told from one that never was; what was known was revoked.
            raise KeyRevoked if token in self.remembered else InvalidKey(why="unknown_api_key")
        service = Service(row.service_id, row.client_id, frozenset(row.scopes.split()), None, None)
        return Known(service, key_id, self._clock() + RECHECK)

    async def _look_up_jwt(self, token: str) -> Known:
        read = jws.read(token)
        if self.issuers.recognizes(read):
            return await self._look_up_foreign(read)
        claims = await self._verify_own(read)
        now = self._clock()
        if claims["exp"] <= now:
            raise TokenExpired
        if claims["sid"] in self._revocation:
            raise TokenRevoked
        owner = await self._database.lookup(sessions.find_session_owner, claims["sid"])
        if owner is None or owner.ended or owner.name != claims["sub"]:
            raise TokenRevoked
        scopes = frozenset(claims["scope"].split())
        sid, expires_at, client_id = claims["sid"], claims["exp"], claims["client_id"]
        if owner.user_id is not None:
            return Known(User(owner.user_id, owner.name, sid, scopes, expires_at, client_id), sid, expires_at)
        service = Service(owner.service_id, owner.name, scopes, sid, expires_at)
        return Known(service, sid, min(now + RECHECK, expires_at))

    async def _look_up_foreign(self, token: jws.Token) -> Known:
        visitor = await self.issuers.verify(token)
        if visitor.session in self._revocation:
            raise TokenRevoked
        creates = self._settings.unknown_recipients == UnknownRecipients.CREATE
        user_id, ended = await self._database.write(
            issuers.admit, visitor, self._now_ms(), creates=creates, limit=self._settings.session_limit
        )
        self._revocation.end(ended)
        whose = audit.user(visitor.sub)
        audit.record_ended(ended, TOO_MANY, actor=whose, subject=whose)
        scopes = frozenset({INBOX} if visitor.reads_inbox else ())
        user = User(user_id, visitor.sub, visitor.session, scopes, visitor.expires_at, visitor.issuer)
        return Known(user, visitor.session, visitor.expires_at)

    async def _verify_own(self, token: jws.Token) -> dict[str, Any]:
        """Return the claims of a token that is signed by us and well formed; it may have expired."""
        if token.claims.get("iss") != self._settings.issuer:
            raise InvalidToken(why="issuer")
        if token.type != "at+jwt" or token.header.keys() != _HEADER:
            raise InvalidToken(why="header")
        key = await self.keys.find(token.header["kid"])
        jws.verify(token, key.public, (key.algorithm,))
        if (fault := self._fault(token.claims)) is not None:
            raise InvalidToken(why=fault)
        return token.claims

    def _fault(self, claims: dict[str, Any]) -> str | None:
        """Return what is wrong with the claims of a token that we have signed; None where nothing is."""
        if not jws.is_meant_for(claims, self._settings.audience):
            return "audience"
        if not jws.are_timely(claims, self._clock()):
            return "times"
        texts = all(_is_text(claims.get(name)) for name in ("sub", "client_id", "jti", "sid"))
        return None if texts and isinstance(claims.get("scope"), str) else "claims"


def digest(secret: str) -> bytes:
    """Return what is stored of a secret of 128 bits or more; a password needs `passwords`."""
    return hashlib.sha256(secret.encode()).digest()


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(names.check_identifier(value, names.MAX_SUB))
    except ValueError:
        return False
