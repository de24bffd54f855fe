"""Access tokens, tickets and API keys: issuing, verification and the cache of verified ones.

A token is verified against its signing key and, the first time it is seen, against its session in the
database. It is then cached until it expires or its session ends. The rules for access tokens are those of
RFC 9068. The algorithm is always that of the gateway's own key, never the one that a header names.
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
from gateway.auth.revocation import Revocation
from gateway.auth.sessions import TOO_MANY
from gateway.auth.signing import Keyring
from gateway.auth.token_cache import CachedToken, TokenCache
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
from gateway.settings import Settings
from gateway.settings.choices import UnknownRecipients

RECHECK_SECONDS = 0.5
"""How long a service's token or an API key is trusted before the database is asked again."""

OWN_CLIENT = "gateway"
"""The `client_id` of tokens that users get by signing in to this gateway."""

_HEADER = {"alg", "typ", "kid"}
"""The members that the header of the gateway's own tokens has."""

logger = structlog.get_logger(__name__)


class Tokens:
    """The issuer and verifier of tokens. Call `start` first, and `load_keys` regularly.

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
        self.remembered = TokenCache()
        # A revoked handle is evicted from the cache, and a lookup checks revocation first. So a verification
        # that was reading the database meanwhile cannot bring a session back.
        self._revocation = revocation
        revocation.precede(self._evict)

    async def start(self) -> None:
        """Load the signing keys, or create the first one.

        Raises `SettingsError` and `Unavailable` as `Keyring.start` does.
        """
        await self.keys.start()

    def recall(self, token: str) -> Principal | None:
        """Return the principal of a token or API key from the cache, or None if it must be verified."""
        known = self.remembered.get(token)
        if known is None or known.handle in self._revocation or self._clock() >= known.until:
            return None
        self.remembered.move_to_end(token)
        return known.principal

    def was_valid(self, token: str) -> bool:
        """Return whether a cached token or key has neither expired nor been revoked in this process.

        Unlike `recall` it ignores how long ago the database was asked.
        """
        known = self.remembered.get(token)
        if known is None or known.handle in self._revocation:
            return False
        expires_at = known.principal.expires_at
        return expires_at is None or self._clock() < expires_at

    async def verify(self, token: str) -> Principal:
        """Verify an access token or API key, and return its principal.

        Raises `InvalidToken`, `TokenExpired` or `TokenRevoked`, and `Unavailable` if the database is needed
        and fails.
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
        """Return whether this process knows that a session has ended.

        Check it before you register a principal that you have held across an `await`: a revocation in the
        meantime did not find it registered.
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
        """Return a signed access token. Times are in seconds since 1970; `issued_at` is now by default."""
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
        """Use up a ticket, and return the user it was issued to.

        Raises `InvalidToken` or `TokenRevoked`, and `Unavailable`.
        """
        if not ticket.isascii() or len(ticket) > MAX_TOKEN:
            raise InvalidToken(why="ticket")
        # Look the ticket up first, so that made-up tickets cost no transaction.
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
        """Return the session of an access token, or None for anything else.

        The gateway's own token may have expired. A foreign issuer's token must be valid, because verifying
        it stores its session, which can then be ended.
        """
        try:
            read = jws.read(token)
            if self.issuers.recognizes(read):
                return (await self.verify(token)).session
            return str((await self._verify_own(read))["sid"])
        except Unauthorized:
            return None

    async def load_keys(self) -> None:
        """Load new signing keys. If the database is unavailable, do nothing: the next call tries again."""
        with suppress(Unavailable):
            await self.keys.load()

    def can_sign(self) -> bool:
        """Return whether there is a key to sign with."""
        return self.keys.signs

    def jwks(self) -> dict[str, Any]:
        """Return the public keys as a JWK set (RFC 7517), which never holds a secret."""
        return self.keys.jwks()

    def _evict(self, handles: Collection[str]) -> None:
        """Evict the tokens of these sessions from the cache."""
        for handle in handles:
            # A deleted API key stays cached: that tells it from a key that never existed. It is looked up
            # again anyway.
            if not services.is_key_id(handle):
                self.remembered.evict_all_of(handle)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _extend(self, token: str, known: CachedToken, now: float) -> None:
        """Trust a cached token or key a moment longer, so that only one caller asks the database about it."""
        expires_at = known.principal.expires_at
        until = now + RECHECK_SECONDS if expires_at is None else min(now + RECHECK_SECONDS, expires_at)
        self.remembered[token] = CachedToken(known.principal, known.handle, until)

    async def _look_up_key(self, token: str) -> CachedToken:
        key_id, secret = services.parse_key(token)
        row = await self._database.lookup(services.find_key, key_id)
        if row is None or not hmac.compare_digest(row.secret_hash, digest(secret)):
            # The database can't tell a deleted key from one that never existed. A cached key was deleted.
            raise KeyRevoked if token in self.remembered else InvalidKey(why="unknown_api_key")
        service = Service(row.service_id, row.client_id, frozenset(row.scopes.split()), None, None)
        return CachedToken(service, key_id, self._clock() + RECHECK_SECONDS)

    async def _look_up_jwt(self, token: str) -> CachedToken:
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
            return CachedToken(
                User(owner.user_id, owner.name, sid, scopes, expires_at, client_id), sid, expires_at
            )
        service = Service(owner.service_id, owner.name, scopes, sid, expires_at)
        return CachedToken(service, sid, min(now + RECHECK_SECONDS, expires_at))

    async def _look_up_foreign(self, token: jws.Token) -> CachedToken:
        foreign = await self.issuers.verify(token)
        if foreign.session in self._revocation:
            raise TokenRevoked
        creates = self._settings.unknown_recipients == UnknownRecipients.CREATE
        user_id, ended = await self._database.write(
            issuers.admit, foreign, self._now_ms(), creates=creates, limit=self._settings.session_limit
        )
        self._revocation.end(ended)
        whose = audit.user(foreign.sub)
        audit.record_ended(ended, TOO_MANY, actor=whose, subject=whose)
        scopes = frozenset({INBOX} if foreign.reads_inbox else ())
        user = User(user_id, foreign.sub, foreign.session, scopes, foreign.expires_at, foreign.issuer)
        return CachedToken(user, foreign.session, foreign.expires_at)

    async def _verify_own(self, token: jws.Token) -> dict[str, Any]:
        """Return the claims of a well-formed token that this gateway has signed. It may have expired."""
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
        """Return the fault in the claims of a token that this gateway has signed, or None."""
        if not jws.is_meant_for(claims, self._settings.audience):
            return "audience"
        if not jws.are_timely(claims, self._clock()):
            return "times"
        texts = all(_is_text(claims.get(name)) for name in ("sub", "client_id", "jti", "sid"))
        return None if texts and isinstance(claims.get("scope"), str) else "claims"


def digest(secret: str) -> bytes:
    """Return the hash to store of a secret of 128 bits or more. For passwords use `passwords`."""
    return hashlib.sha256(secret.encode()).digest()


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(names.check_identifier(value, names.MAX_SUB))
    except ValueError:
        return False
