"""A foreign issuer: it signs tokens, and publishes its keys on a loopback port, well or badly."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.postgres import free_port

Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What is done with one request for the keys."""

_MAKERS: dict[str, Callable[[], Any]] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": Ed25519PrivateKey.generate,
}


@dataclass
class Key:
    """A key pair and the algorithm it is for."""

    kid: str
    algorithm: str
    private: Any

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """Return the public half as RFC 7517 has it; a change to None takes a member away."""
        algorithm = jwt.PyJWS().get_algorithm_by_name(self.algorithm)
        public = algorithm.to_jwk(self.private.public_key(), as_dict=True)
        public.pop("key_ops", None)
        whole = {**public, "kid": self.kid, "alg": self.algorithm, "use": "sig", **changes}
        return {name: value for name, value in whole.items() if value is not None}


def new_key(algorithm: str = "ES256", kid: str | None = None) -> Key:
    """Return a new key pair."""
    return Key(kid or uuid.uuid4().hex, algorithm, _MAKERS[algorithm]())


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """Return an HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Issuer:
    """An issuer. What it answers to a request for its keys, `reply` says; by default it is its keys."""

    keys: list[Key]
    name: str = "https://login.example.com/"
    port: int = field(default_factory=free_port)
    requests: int = 0
    reply: Reply | None = None

    @property
    def url(self) -> str:
        """Where the keys are."""
        return f"http://127.0.0.1:{self.port}/jwks.json"

    def trusted(self, **changes: Any) -> dict[str, Any]:
        """Return what GATEWAY_TRUSTED_ISSUERS says of it."""
        return {"issuer": self.name, "audience": "notifications", "jwks_url": self.url, **changes}

    def jwks(self) -> bytes:
        """Return the keys as they are published."""
        return json.dumps({"keys": [key.jwk() for key in self.keys]}).encode()

    def token(
        self, sub: str = "ada", *, key: Key | None = None, head: dict[str, Any] | None = None, **changes: Any
    ) -> str:
        """Return a token; a claim, or the `typ`, that is given as `...` is left out."""
        key = key or self.keys[0]
        now = int(time.time())
        claims = {
            "iss": self.name,
            "aud": "notifications",
            "sub": sub,
            "iat": now,
            "exp": now + 600,
            "jti": uuid.uuid4().hex,
            **changes,
        }
        claims = {name: value for name, value in claims.items() if value is not ...}
        header = {"typ": "JWT", "kid": key.kid, **(head or {})}
        header = {name: "" if value is ... else value for name, value in header.items()}
        return jwt.PyJWS().encode(json.dumps(claims).encode(), key.private, key.algorithm, header)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Issuer"]:
        """Publish the keys while the block runs."""
        server = await asyncio.start_server(self._handle, "127.0.0.1", self.port)
        try:
            yield self
        finally:
            server.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            if self.reply is None:
                writer.write(answer(self.jwks()))
            else:
                await self.reply(reader, writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
