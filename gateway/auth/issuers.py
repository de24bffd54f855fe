"""Tokens of foreign issuers: their keys, and who their tokens name.

The keys are fetched in the background, at the start and every ten minutes. A token with a `kid` that is not
known asks for a fetch, and waits for it a few seconds; there is at most one a minute for each issuer, shared
by all who wait. An issuer that is down costs its own tokens only, and those not before its keys are too old.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from sqlalchemy import Connection, select, update

from gateway.auth import cutoffs
from gateway.auth.jws import LEEWAY, Token, are_timely, is_meant_for, is_of_another_kind, verify
from gateway.auth.names import check_sub
from gateway.auth.sessions import FOREIGN, SESSIONS_PER_USER, Session, add_session, end_oldest
from gateway.auth.signing import MAX_TTL
from gateway.auth.users import add_missing_users, find_user
from gateway.database.models import sessions, users
from gateway.errors import ForeignSubject, InvalidToken, TokenExpired, TokenRevoked
from gateway.observability.reasons import environment_fault, reason
from gateway.settings.trusted_issuer import TrustedIssuer

FETCH_TIMEOUT = 5.0
"""How long a whole fetch may take, and so how long a token may wait for one, in seconds."""

MAX_JWKS = 256 * 1024
"""The largest answer that is read, in bytes."""

PAUSE = 60.0
"""The least time between two fetches from one issuer, in seconds."""

REFRESH = 600.0
"""The time between two fetches that nobody asks for, in seconds."""

STALE = 86_400.0
"""How long keys are believed that their issuer has not confirmed, in seconds."""

_RSA_BITS = range(2048, 8193)
_ALGORITHMS = {
    ("RSA", None): {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
    ("EC", "P-256"): {"ES256"},
    ("EC", "P-384"): {"ES384"},
    ("EC", "P-521"): {"ES512"},
    ("OKP", "Ed25519"): {"EdDSA"},
}
_TYPES = {"jwt", "at+jwt"}

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key of a foreign issuer, and the algorithms it may be used with."""

    key: Any
    algorithms: tuple[str, ...]


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
        self._sources = {one.issuer: _Source(one) for one in trusted}
        self._prefixes = frozenset(one.subject_prefix for one in trusted) - {""}

    async def run(self) -> None:
        """Keep the keys fresh, until cancelled. Returns at once where nobody is trusted."""
        async with asyncio.TaskGroup() as tasks:
            for source in self._sources.values():
                tasks.create_task(source.run(), name=f"keys of {source.trusted.issuer}")

    def claim(self, token: Token) -> bool:
        """Whether the token says that it is of one of these issuers. That is not yet verified."""
        issuer = token.claims.get("iss")
        return isinstance(issuer, str) and issuer in self._sources

    def owns(self, sub: str) -> bool:
        """Whether a `sub` begins with the prefix of one of these issuers: such users sign in there."""
        return _longest(self._prefixes, sub) != ""

    async def verify(self, token: Token) -> Visitor:
        """Return who a token that is claimed names.

        Raises `InvalidToken` and `TokenExpired`, and `ForeignSubject` for a user of another issuer.
        """
        source = self._sources[token.claims["iss"]]
        trusted, claims = source.trusted, token.claims
        if token.type not in _TYPES and not (trusted.without_typ and "typ" not in token.header):
            raise InvalidToken(why="typ")
        if is_of_another_kind(token):
            raise InvalidToken(why="no_access_token")
        key = await source.find(token.header["kid"])
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


class _Source:
    """The keys of one issuer. A kid names a key of this issuer only: others may use the same one."""

    def __init__(self, trusted: TrustedIssuer) -> None:
        self.trusted = trusted
        self._keys: dict[str, PublicKey] = {}
        self._fetched_at = float("-inf")
        self._open = True
        self._wanted = asyncio.Event()
        self._done = asyncio.Event()

    async def run(self) -> None:
        """Fetch the keys now, after a while, and when they are asked for, until cancelled."""
        while True:
            good = await self._fetch()
            self._open = False
            self._wanted.clear()
            done, self._done = self._done, asyncio.Event()
            done.set()
            await asyncio.sleep(PAUSE)
            self._open = True
            if time.monotonic() - self._fetched_at >= STALE:
                self._keys = {}
            if good:
                await _wait(self._wanted, REFRESH - PAUSE)

    async def find(self, kid: str) -> PublicKey:
        """Return the key of this name, which may just have been published. Raises `InvalidToken`."""
        if kid not in self._keys and self._open:
            self._wanted.set()
            await _wait(self._done, FETCH_TIMEOUT)
        if kid not in self._keys:
            raise InvalidToken(why="unknown_key" if self._keys else "no_keys_of_the_issuer")
        return self._keys[kid]

    async def _fetch(self) -> bool:
        try:
            self._keys = await _fetch_keys(self.trusted)
        except FetchError as error:
            logger.warning("an issuer's keys cannot be had", issuer=self.trusted.issuer, reason=str(error))
            return False
        self._fetched_at = time.monotonic()
        if not self._keys:
            logger.warning("an issuer has no key that can be used", issuer=self.trusted.issuer)
        return True


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but no longer than this."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class FetchError(Exception):
    """The keys of an issuer cannot be had. Its text is one line that says why."""


def _http(trusted: TrustedIssuer) -> httpx.AsyncClient:
    """Return a client that keeps no connection and follows nobody; loopback is not asked for by a proxy.

    Raises `FetchError` where the environment names a proxy or certificates that cannot be used.
    """
    try:
        return httpx.AsyncClient(
            follow_redirects=False,
            timeout=FETCH_TIMEOUT,
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=trusted.jwks_url.startswith("https:"),
            headers={"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"},
        )
    except Exception:  # noqa: BLE001 - whatever a library makes of the environment, it is no fault of ours
        raise FetchError(environment_fault()) from None


async def reach(trusted: TrustedIssuer) -> int:
    """Return how many usable keys an issuer has now. Raises `FetchError`."""
    return len(await _fetch_keys(trusted))


async def _fetch_keys(trusted: TrustedIssuer) -> dict[str, PublicKey]:
    try:
        async with _http(trusted) as http, asyncio.timeout(FETCH_TIMEOUT):
            text = await _download(trusted.jwks_url, http)
    except FetchError:
        raise
    except TimeoutError:
        raise FetchError(f"there was no whole answer within {FETCH_TIMEOUT:g} s") from None
    except Exception as error:  # noqa: BLE001 - an issuer that cannot be asked costs its own tokens only
        raise FetchError(f"{type(error).__name__}: {reason(error)}") from None
    return read_jwks(text, trusted.algorithms)


async def _download(url: str, http: httpx.AsyncClient) -> bytes:
    """Return the body of a plain 200. What is compressed is refused: it could grow without bounds."""
    body = bytearray()
    async with http.stream("GET", url) as answer:
        if answer.status_code != httpx.codes.OK:
            raise FetchError(f"the answer is {answer.status_code}")
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise FetchError("the answer is compressed")
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) > MAX_JWKS:
                raise FetchError(f"the answer is over {MAX_JWKS // 1024} KiB")
    return bytes(body)


def read_jwks(text: bytes, allowed: Collection[str]) -> dict[str, PublicKey]:
    """Return the keys of a JWK set that may verify tokens, by `kid` (RFC 7517). Raises `FetchError`.

    Others are left out, as the RFC says: shared secrets, private keys, keys for encryption, keys too short or
    without a name. Of two with one name the first counts.
    """
    try:
        given = json.loads(text)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        given = None
    if not isinstance(given, list):
        raise FetchError("the answer is no JWK set")
    keys: dict[str, PublicKey] = {}
    for jwk in given:
        kid = jwk.get("kid") if isinstance(jwk, dict) else None
        if not isinstance(kid, str) or kid in keys:
            continue
        key = _read_key(jwk, allowed)
        if key is not None:
            keys[kid] = key
    return keys


def _read_key(jwk: dict[str, Any], allowed: Collection[str]) -> PublicKey | None:
    algorithms = _algorithms_of(jwk) & set(allowed)
    if not algorithms or "d" in jwk or jwk.get("use", "sig") != "sig" or "verify" not in _operations(jwk):
        return None
    try:
        key = jwt.PyJWK(jwk, min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size not in _RSA_BITS:
        return None
    return PublicKey(key, tuple(sorted(algorithms)))


def _algorithms_of(jwk: dict[str, Any]) -> set[str]:
    """Return what a key of this kind can be used with, or only what it says it is for."""
    kind = (str(jwk.get("kty")), str(jwk["crv"]) if "crv" in jwk else None)
    able = _ALGORITHMS.get(kind, set())
    return able & {str(jwk["alg"])} if "alg" in jwk else able


def _operations(jwk: dict[str, Any]) -> Collection[str]:
    given = jwk.get("key_ops", ["verify"])
    return given if isinstance(given, list) else []
