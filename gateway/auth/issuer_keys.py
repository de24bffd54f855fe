"""The public keys of a foreign issuer: fetched over HTTP, parsed strictly and kept fresh.

A background task fetches them at the start and every ten minutes. A token with an unknown `kid` requests a
fetch, and waits a few seconds for it. There is at most one fetch per minute and issuer, which all waiting
tokens share.
"""

import asyncio
import json
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from gateway.errors import InvalidToken
from gateway.observability.reasons import environment_fault, reason
from gateway.settings.trusted_issuer import TrustedIssuer

FETCH_TIMEOUT_SECONDS = 5.0
"""Maximum time that a whole fetch takes, and that a token waits for one."""

MAX_JWKS_BYTES = 256 * 1024
"""Maximum size of a JWK set."""

MIN_FETCH_INTERVAL_SECONDS = 60.0
"""Minimum time between two fetches from one issuer."""

FETCH_INTERVAL_SECONDS = 600.0
"""Time between two fetches if no token requests one."""

KEYS_TTL_SECONDS = 86_400.0
"""How long the keys are trusted after the last successful fetch."""

_RSA_BITS = range(2048, 8193)
_ALGORITHMS = {
    ("RSA", None): {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
    ("EC", "P-256"): {"ES256"},
    ("EC", "P-384"): {"ES384"},
    ("EC", "P-521"): {"ES512"},
    ("OKP", "Ed25519"): {"EdDSA"},
}

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key of a foreign issuer, and the algorithms that it may be used with."""

    key: Any
    algorithms: tuple[str, ...]


class IssuerKeys:
    """The keys of one issuer, by `kid`. Each issuer has its own, because two may use the same `kid`."""

    def __init__(self, trusted: TrustedIssuer) -> None:
        self.trusted = trusted
        self.keys: dict[str, PublicKey] = {}
        self._fetched_at = float("-inf")
        self._open = True
        self._wanted = asyncio.Event()
        self._done = asyncio.Event()

    async def run(self) -> None:
        """Fetch the keys now, then regularly and on request, until cancelled."""
        while True:
            good = await self._fetch()
            self._open = False
            self._wanted.clear()
            done, self._done = self._done, asyncio.Event()
            done.set()
            await asyncio.sleep(MIN_FETCH_INTERVAL_SECONDS)
            self._open = True
            if time.monotonic() - self._fetched_at >= KEYS_TTL_SECONDS:
                self.keys = {}
            if good:
                await _wait(self._wanted, FETCH_INTERVAL_SECONDS - MIN_FETCH_INTERVAL_SECONDS)

    async def find(self, kid: str) -> PublicKey:
        """Return the key with this `kid`, after a fetch if it is unknown. Raises `InvalidToken`."""
        if kid not in self.keys and self._open:
            self._wanted.set()
            await _wait(self._done, FETCH_TIMEOUT_SECONDS)
        if kid not in self.keys:
            raise InvalidToken(why="unknown_key" if self.keys else "no_keys_of_the_issuer")
        return self.keys[kid]

    async def _fetch(self) -> bool:
        try:
            self.keys = await _fetch_keys(self.trusted)
        except FetchError as error:
            logger.warning(
                "an issuer's keys cannot be fetched", issuer=self.trusted.issuer, reason=str(error)
            )
            return False
        self._fetched_at = time.monotonic()
        if not self.keys:
            logger.warning("an issuer has no usable key", issuer=self.trusted.issuer)
        return True


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but at most this many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class FetchError(Exception):
    """The keys of an issuer cannot be fetched. Its text is one line that says why."""


def _http(trusted: TrustedIssuer) -> httpx.AsyncClient:
    """Return an HTTP client that keeps no connections, follows no redirects, and uses no proxy for loopback.

    Raises `FetchError` if the environment names a proxy or certificates that cannot be used.
    """
    try:
        return httpx.AsyncClient(
            follow_redirects=False,
            timeout=FETCH_TIMEOUT_SECONDS,
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=trusted.jwks_url.startswith("https:"),
            headers={"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"},
        )
    except Exception:  # noqa: BLE001 - the library may raise anything for a wrong environment
        raise FetchError(environment_fault()) from None


async def reach(trusted: TrustedIssuer) -> int:
    """Fetch the keys of an issuer, and return how many are usable. Raises `FetchError`."""
    return len(await _fetch_keys(trusted))


async def _fetch_keys(trusted: TrustedIssuer) -> dict[str, PublicKey]:
    try:
        async with _http(trusted) as http, asyncio.timeout(FETCH_TIMEOUT_SECONDS):
            text = await _download(trusted.jwks_url, http)
    except FetchError:
        raise
    except TimeoutError:
        raise FetchError(f"there was no whole answer within {FETCH_TIMEOUT_SECONDS:g} s") from None
    except Exception as error:  # noqa: BLE001 - a failing issuer must affect its own tokens only
        raise FetchError(f"{type(error).__name__}: {reason(error)}") from None
    return read_jwks(text, trusted.algorithms)


async def _download(url: str, http: httpx.AsyncClient) -> bytes:
    """Return the body of an uncompressed 200 response. Raises `FetchError` otherwise.

    A compressed body is refused because it could expand without limit.
    """
    body = bytearray()
    async with http.stream("GET", url) as answer:
        if answer.status_code != httpx.codes.OK:
            raise FetchError(f"the answer is {answer.status_code}")
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise FetchError("the answer is compressed")
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) > MAX_JWKS_BYTES:
                raise FetchError(f"the answer is over {MAX_JWKS_BYTES // 1024} KiB")
    return bytes(body)


def read_jwks(text: bytes, allowed: Collection[str]) -> dict[str, PublicKey]:
    """Return the keys of a JWK set (RFC 7517) that may verify tokens, by `kid`. Raises `FetchError`.

    Other keys are ignored, as the RFC says: shared secrets, private keys, encryption keys, and keys that are
    too short or have no `kid`. If two keys have the same `kid`, the first one counts.
    """
    try:
        given = json.loads(text)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        given = None
    if not isinstance(given, list):
        raise FetchError("the response is not a JWK set")
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
    """Return the algorithms for a key of this type, reduced to its `alg` if it has one."""
    kind = (str(jwk.get("kty")), str(jwk["crv"]) if "crv" in jwk else None)
    able = _ALGORITHMS.get(kind, set())
    return able & {str(jwk["alg"])} if "alg" in jwk else able


def _operations(jwk: dict[str, Any]) -> Collection[str]:
    given = jwk.get("key_ops", ["verify"])
    return given if isinstance(given, list) else []
