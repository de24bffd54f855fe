"""The keys that sign access tokens: Ed25519 keys in the database, or one secret in the settings.

The gateway never uses both. So a token names the key that signed it, and the key determines the algorithm.

A new key is published some seconds before it signs. By then every process knows it, so no process gets a
token that it cannot verify yet.
"""

import base64
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from sqlalchemy import Connection, Row, delete, func, select, text, update

from gateway.database.database import Database
from gateway.database.models import signing_keys
from gateway.errors import InvalidToken
from gateway.settings import Settings, SettingsError

MAX_TTL = 86_400
"""Maximum lifetime of an access token, in seconds; a retired key verifies tokens for as long."""

SIGNING_DELAY_SECONDS = 10
"""How long a new key is published before it signs; processes load new keys more often than that."""

MIN_RELOAD_SECONDS = 3
"""Minimum time between two reloads for tokens with an unknown `kid`."""

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key and its only algorithm. For HS256, `private` and `public` are both the secret."""

    kid: str
    algorithm: Literal["EdDSA", "HS256"]
    private: Any
    public: Any


class Keyring:
    """The signing keys that this process knows. `clock` returns seconds since 1970."""

    def __init__(self, settings: Settings, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._secret = settings.jwt_secret
        self._passphrase = passphrase(settings)
        self._keys: dict[str, SigningKey] = {}
        # The keys in order of creation, each with the time from which it signs, in ms.
        self._signers: list[tuple[int, SigningKey]] = []
        self._unreadable: set[str] = set()
        self._loaded_at = 0.0

    async def start(self) -> None:
        """Load the keys, or create the first one. Encrypt stored keys if a passphrase is set.

        Raises `SettingsError` if the configured secret is a key of a key pair, or if the stored keys cannot
        be decrypted with the settings. Raises `Unavailable`.
        """
        if self._passphrase is not None:
            await self._database.write(encrypt_all, self._passphrase)
        if self._secret is not None:
            key = _secret_key(self._secret.get_secret_value())
            self._keys, self._signers = {key.kid: key}, [(0, key)]
            return
        await self._load(strict=True)
        if not self._signers:
            await self._database.write(make_first, self._now_ms(), self._passphrase)
            await self.load()

    async def load(self) -> None:
        """Load the keys again, because another process may have rotated them. Raises `Unavailable`.

        A key that this process cannot decrypt is skipped, so that a running process keeps working.
        """
        if self._secret is None:
            await self._load(strict=False)

    async def _load(self, *, strict: bool) -> None:
        # If the database fails, the next token with an unknown key tries again.
        self._loaded_at = 0.0
        rows = await self._database.read(list_keys, self._now_ms())
        self._loaded_at = self._clock()
        found = ((row.created_at, self._read(row, strict=strict)) for row in rows)
        keys = [(created_at, key) for created_at, key in found if key is not None]
        self._keys = {key.kid: key for _, key in keys}
        self._signers = [(created_at + SIGNING_DELAY_SECONDS * 1000, key) for created_at, key in keys]

    def _read(self, row: Row[*tuple[Any, ...]], *, strict: bool) -> SigningKey | None:
        if row.kid in self._keys or row.kid in self._unreadable:
            return self._keys.get(row.kid)
        try:
            return _ed25519_key(row, self._passphrase)
        except SettingsError as error:
            if strict:
                raise
            self._unreadable.add(row.kid)
            logger.error("a signing key cannot be read", reason=str(error))  # noqa: TRY400  (it is expected)
            return None

    @property
    def signs(self) -> bool:
        """Whether a key to sign with is loaded."""
        return bool(self._signers)

    @property
    def newest(self) -> SigningKey:
        """The key to sign with: the newest one past its signing delay, or else the oldest."""
        if not self._signers:
            raise RuntimeError("the keyring is not started")
        now_ms = self._now_ms()
        ready = [key for since, key in self._signers if since <= now_ms]
        return ready[-1] if ready else self._signers[0][1]

    async def find(self, kid: str) -> SigningKey:
        """Return the key with this `kid`, after a reload if it is unknown.

        Raises `InvalidToken` and `Unavailable`.
        """
        if kid not in self._keys and not 0 <= self._clock() - self._loaded_at < MIN_RELOAD_SECONDS:
            await self.load()
        if kid not in self._keys:
            raise InvalidToken(why="unknown_key")
        return self._keys[kid]

    def jwks(self) -> dict[str, Any]:
        """Return the public keys as a JWK set (RFC 7517), which never holds a secret."""
        return {"keys": [_jwk(key) for key in self._keys.values() if key.algorithm == "EdDSA"]}

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def list_keys(connection: Connection, now_ms: int) -> list[Row[*tuple[Any, ...]]]:
    """Return the keys that sign or still verify tokens, the newest last."""
    # A process that does not know of a rotation yet signs with the old key a moment longer.
    oldest = now_ms - (MAX_TTL + 60) * 1000
    statement = select(signing_keys).order_by(signing_keys.c.created_at, signing_keys.c.kid)
    return [row for row in connection.execute(statement) if (row.retired_at or now_ms) > oldest]


def rotate(connection: Connection, now_ms: int, key: bytes | None) -> str:
    """Create a key that signs after `SIGNING_DELAY_SECONDS`, and return its `kid`.

    `key` is `passphrase(settings)`, which encrypts it. The other keys sign until then, and verify tokens
    until the last one that they signed has expired. Keys past that are deleted.
    """
    kid = secrets.token_hex(8)
    # The newest key must have the latest time, even if the clock of another machine is ahead.
    now_ms = max(now_ms, (connection.scalar(select(func.max(signing_keys.c.created_at))) or 0) + 1)
    values = {"kid": kid, "private_pem": _pem(Ed25519PrivateKey.generate(), key), "created_at": now_ms}
    active = signing_keys.c.retired_at.is_(None)
    connection.execute(
        update(signing_keys).where(active).values(retired_at=now_ms + SIGNING_DELAY_SECONDS * 1000)
    )
    connection.execute(signing_keys.insert().values(values))
    connection.execute(delete(signing_keys).where(signing_keys.c.retired_at < now_ms - 2 * MAX_TTL * 1000))
    return kid


def make_first(connection: Connection, now_ms: int, key: bytes | None) -> None:
    """Create a key if no key signs. Processes that start at the same time wait for each other."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE"))
    if connection.scalar(select(signing_keys.c.kid).where(signing_keys.c.retired_at.is_(None))) is None:
        rotate(connection, now_ms, key)


def encrypt_all(connection: Connection, key: bytes) -> None:
    """Encrypt all stored keys that are not encrypted yet."""
    for row in connection.execute(select(signing_keys).order_by(signing_keys.c.kid).with_for_update()).all():
        if not _is_encrypted(row.private_pem):
            pem = _pem(_ed25519_key(row, None).private, key)
            mine = signing_keys.c.kid == row.kid
            connection.execute(update(signing_keys).where(mine).values(private_pem=pem))


def passphrase(settings: Settings) -> bytes | None:
    """Return the passphrase that encrypts the stored private keys, or None if it is not set."""
    key = settings.key_encryption_key
    return None if key is None else key.get_secret_value().encode()


def _pem(private: Ed25519PrivateKey, key: bytes | None) -> str:
    encryption: KeySerializationEncryption = NoEncryption() if key is None else BestAvailableEncryption(key)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()


def _is_encrypted(pem: str) -> bool:
    return pem.startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")


def _ed25519_key(row: Row[*tuple[Any, ...]], key: bytes | None) -> SigningKey:
    """Return a stored key. Raises `SettingsError` if it cannot be decrypted, or is not an Ed25519 key."""
    encrypted = _is_encrypted(row.private_pem)
    if encrypted and key is None:
        raise SettingsError("GATEWAY_KEY_ENCRYPTION_KEY: it is missing, and the signing keys are encrypted")
    try:
        private = load_pem_private_key(row.private_pem.encode(), key if encrypted else None)
    except ValueError:
        raise SettingsError(
            f"GATEWAY_KEY_ENCRYPTION_KEY: the signing key {row.kid} cannot be decrypted with it"
        ) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise SettingsError(f"the signing key {row.kid} in the database is not an Ed25519 key")
    return SigningKey(row.kid, "EdDSA", private, private.public_key())


def _secret_key(secret: str) -> SigningKey:
    try:
        jwt.PyJWS().get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:
        raise SettingsError("GATEWAY_JWT_SECRET: it must be a secret, not a key of a key pair") from None
    kid = "hs-" + hashlib.sha256(b"kid:" + secret.encode()).hexdigest()[:16]
    return SigningKey(kid, "HS256", secret, secret)


def _jwk(key: SigningKey) -> dict[str, str]:
    raw = key.public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": key.kid, "x": x}
