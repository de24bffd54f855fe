"""The keys of a foreign issuer: fetched over HTTP, read strictly, kept fresh.

They are fetched in the background, at the start and every ten minutes. A token with a `kid` that is not known
asks for a fetch, and waits for it a few seconds; there is at most one a minute for each issuer, shared by all
who wait.
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

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key of a foreign issuer, and the algorithms it may be used with."""

    key: Any
    algorithms: tuple[str, ...]


class IssuerKeys:
    """The keys of one issuer. A kid names a key of this issuer only: others may use the same one."""

    def __init__(self, trusted: TrustedIssuer) -> None:
        self.trusted = trusted
        self.keys: dict[str, PublicKey] = {}
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
                self.keys = {}
            if good:
                await _wait(self._wanted, REFRESH - PAUSE)

    async def find(self, kid: str) -> PublicKey:
        """Return the key of this name, which may just have been published. Raises `InvalidToken`."""
        if kid not in self.keys and self._open:
            self._wanted.set()
            await _wait(self._done, FETCH_TIMEOUT)
        if kid not in self.keys:
            raise InvalidToken(why="unknown_key" if self.keys else "no_keys_of_the_issuer")
        return self.keys[kid]

    async def _fetch(self) -> bool:
        try:
            self.keys = await _fetch_keys(self.trusted)
        except FetchError as error:
            logger.warning("an issuer's keys cannot be had", issuer=self.trusted.issuer, reason=str(error))
            return False
        self._fetched_at = time.monotonic()
        if not self.keys:
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
