"""A signed token in its compact form (RFC 7515, section 7.1), read strictly and before it is believed.

What PyJWT lets pass stops here: padding, members given twice, NaN, text that is not UTF-8. Otherwise one
token would have many spellings, or say one thing to us and another to somebody else (docs/decisions/0016).
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
"""The longest token that is looked at, in characters."""

LEEWAY = 30
"""How far in the future `iat` and `nbf` may be, in seconds, for clocks that differ."""

_PARTS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_PYJWT = jwt.PyJWS()


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says; `verify` tells whether to believe it. `signed` is what its signature covers."""

    signed: str
    header: dict[str, Any]
    claims: dict[str, Any]
    signature: bytes

    @property
    def type(self) -> str:
        """The `typ` of the header in lower case, without `application/` (RFC 7515, 4.1.9), or empty."""
        return str(self.header.get("typ", "")).lower().removeprefix("application/")


def read(text: str) -> Token:
    """Take a token apart. Raises `InvalidToken` for what is none, or has no `alg` and `kid`.

    A `crit` names an extension that must be understood, and none is (RFC 7515, section 4.1.11).
    """
    if len(text) > MAX_TOKEN:
        raise InvalidToken(_TOO_LONG, why="too_long")
    match = _PARTS.fullmatch(text)
    if match is None:
        raise InvalidToken(_NONE, why="malformed")
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


_NONE = (
    "This is no access token (three parts, with dots between them) and no API key (ngk_…): send one of them."
)

_TOO_LONG = (
    f"The token is too long: it must have at most {MAX_TOKEN:,} characters. "
    "Have its issuer leave out what it need not say, such as groups."
)


_OF_OTHER_TOKENS = frozenset({"at_hash", "c_hash", "events", "nonce"})


def is_of_another_kind(token: Token) -> bool:
    """Whether it is an ID token or a logout token whose `typ` does not tell (RFC 8725, section 3.11)."""
    return token.type != "at+jwt" and not _OF_OTHER_TOKENS.isdisjoint(token.claims)


def verify(token: Token, key: Any, algorithms: Collection[str]) -> None:
    """Raise `InvalidToken` unless this key has signed the token by one of these algorithms.

    The algorithms are those that the key is for: what the header names must be among them, and decides
    nothing else (RFC 8725, section 3.1). PyJWT verifies; it would take the whole token apart once more first.
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
    """Whether the times are whole seconds that make sense together. True and 1.5 are no times.

    A token that has expired was timely once.
    """
    issued, expires, from_ = claims.get("iat"), claims.get("exp"), claims.get("nbf", 0)
    if not (type(issued) is int and type(expires) is int and type(from_) is int):
        return False
    return 0 <= issued < expires < 2**53 and max(issued, from_) <= now + LEEWAY


def is_meant_for(claims: dict[str, Any], audience: str) -> bool:
    """Whether the audience is among those the token names: one text, or a list of them."""
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
    """Return an object, in which no name may come twice (RFC 7519, section 4)."""
    pairs = list(members)
    value = dict(pairs)
    if len(value) != len(pairs):
        raise InvalidToken(why="malformed")
    return value


def _refuse(_constant: str) -> NoReturn:
    raise InvalidToken(why="malformed")


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
