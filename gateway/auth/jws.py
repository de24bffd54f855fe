"""Signed tokens in compact form (RFC 7515, section 7.1): strict parsing, then verification of the signature.

This parser refuses what PyJWT accepts: padding, duplicate members, NaN, text that is not UTF-8. Otherwise one
token would have many spellings, or mean one thing here and another elsewhere (docs/decisions/0016).
"""

import base64
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import jwt

from gateway.errors import InvalidToken

MAX_TOKEN = 8 * 1024
"""Maximum length of a token, in characters."""

LEEWAY_SECONDS = 30
"""Maximum time in seconds that `iat` and `nbf` may be in the future, to allow for clock skew."""

_PARTS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_PYJWT = jwt.PyJWS()


@dataclass(frozen=True, slots=True)
class Token:
    """A parsed token, to trust only after `verify`. `signed` is the text that the signature covers."""

    signed: str
    header: dict[str, Any]
    claims: dict[str, Any]
    signature: bytes

    @property
    def type(self) -> str:
        """The header's `typ` in lower case, without `application/` (RFC 7515, section 4.1.9), or empty."""
        return str(self.header.get("typ", "")).lower().removeprefix("application/")


def read(text: str) -> Token:
    """Parse a token. Raises `InvalidToken` if it is malformed, or has no `alg` or no `kid`.

    A `crit` header names extensions that the recipient must understand (RFC 7515, section 4.1.11). The
    gateway understands none, so it refuses the token.
    """
    if len(text) > MAX_TOKEN:
        raise InvalidToken(_TOO_LONG, why="too_long")
    match = _PARTS.fullmatch(text)
    if match is None:
        raise InvalidToken(_malformed(text), why="malformed")
    header, claims = _object(match[1]), _object(match[2])
    for name, value in (
        ("typ", header.get("typ", "")),
        ("alg", header.get("alg")),
        ("kid", header.get("kid")),
    ):
        if not isinstance(value, str):
            raise InvalidToken(why=name)
    if "crit" in header or "b64" in header:
        raise InvalidToken(why="critical_extension")
    return Token(text[: match.end(2)], header, claims, _bytes(match[3]))


def _malformed(text: str) -> str:
    """Return what to send instead of a text that is no token. Never repeats the text."""
    start = text[:1]
    if text[:7].lower() == "bearer ":
        return "The word Bearer comes twice: send 'Authorization: Bearer …' with the token or API key alone."
    if start in _QUOTES:
        return "The token or API key is in quotes or brackets: send it without them."
    if start in _PLACEHOLDERS:
        return (
            "This is the name of a variable, not its value: a shell replaces it within double quotes, "
            "and not within single ones."
        )
    if text.lower() in _UNSET:
        return "This is what an unset variable turns into: is the one for the token or API key set?"
    return "Send an access token (three parts, separated by dots) or an API key (ngk_…): this is neither."


_QUOTES = frozenset("\"'`<")
_PLACEHOLDERS = frozenset("${%")
_UNSET = frozenset({"undefined", "null", "none", "nil", "[object object]"})
"""The texts of missing values in JavaScript, JSON, Python and Ruby, in lower case."""

_TOO_LONG = (
    f"The token is too long: it must have at most {MAX_TOKEN:,} characters. "
    "Have its issuer leave out what it need not say, such as groups."
)


_CLAIMS_OF_OTHER_KINDS = frozenset({"at_hash", "c_hash", "events", "nonce"})


def is_of_another_kind(token: Token) -> bool:
    """Return whether this is an ID token or logout token, told by its claims (RFC 8725, section 3.11).

    A `typ` of `at+jwt` rules that out.
    """
    return token.type != "at+jwt" and not _CLAIMS_OF_OTHER_KINDS.isdisjoint(token.claims)


def verify(token: Token, key: Any, algorithms: Collection[str]) -> None:
    """Raise `InvalidToken` unless this key has signed the token with one of these algorithms.

    `algorithms` are those that the key is for. The header's `alg` must be among them, and selects nothing
    else (RFC 8725, section 3.1). The code uses PyJWT's algorithms directly, because its `decode` would parse
    the whole token again.
    """
    if token.header["alg"] not in algorithms:
        raise InvalidToken(why="algorithm")
    algorithm = _PYJWT.get_algorithm_by_name(token.header["alg"])
    try:
        signed = algorithm.verify(token.signed.encode(), algorithm.prepare_key(key), token.signature)
    except (jwt.PyJWTError, ValueError):
        raise InvalidToken(why="signature") from None
    if not signed:
        raise InvalidToken(why="signature")


def are_timely(claims: dict[str, Any], now: float) -> bool:
    """Return whether the times are integers, in order, and not too far in the future.

    Booleans and fractions are not accepted. Expiry is not checked.
    """
    issued, expires, from_ = claims.get("iat"), claims.get("exp"), claims.get("nbf", 0)
    if not (type(issued) is int and type(expires) is int and type(from_) is int):
        return False
    return 0 <= issued < expires < 2**53 and max(issued, from_) <= now + LEEWAY_SECONDS


def is_meant_for(claims: dict[str, Any], audience: str) -> bool:
    """Return whether the token names this audience in `aud`: one string, or a list of strings."""
    given = claims.get("aud")
    if isinstance(given, list):
        return audience in given and all(isinstance(one, str) for one in given)
    return bool(given == audience)


def _bytes(segment: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        raise InvalidToken(why="malformed") from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != segment.encode():
        raise InvalidToken(why="malformed")
    return raw


def _object(segment: str) -> dict[str, Any]:
    try:
        value = _JSON.decode(_bytes(segment).decode())
    except (ValueError, RecursionError):
        raise InvalidToken(why="malformed") from None
    if not isinstance(value, dict):
        raise InvalidToken(why="malformed")
    return value


def _unique(members: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Raises `InvalidToken` for a duplicate name (RFC 7519, section 4)."""
    pairs = list(members)
    value = dict(pairs)
    if len(value) != len(pairs):
        raise InvalidToken(why="malformed")
    return value


def _refuse(_constant: str) -> NoReturn:
    raise InvalidToken(why="malformed")


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
