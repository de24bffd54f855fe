"""What PyJWT takes and is refused here (docs/decisions/0016): where it becomes as strict, a row can go."""

import base64
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.auth import jws
from gateway.errors import InvalidToken

KEY = Ed25519PrivateKey.generate()
NOW = int(time.time())
LATER = NOW + 86_400
"""The other tests of the run may take longer than a token lives."""
HEADER = '{"alg":"EdDSA","kid":"a","typ":"at+jwt"}'
CLAIMS = f'{{"aud":"g","sub":"ada","iat":{NOW},"exp":{LATER}}}'


def encoded(text: str | bytes) -> str:
    return base64.urlsafe_b64encode(text.encode() if isinstance(text, str) else text).decode()


def token(header: str = HEADER, claims: str | bytes = CLAIMS, *, padded: bool = False) -> str:
    state = [encoded(part) if padded else encoded(part).rstrip("=") for part in (header, claims)]
    signed = ".".join(state)
    return f"{signed}.{encoded(KEY.sign(signed.encode())).rstrip('=')}"


TAKEN_BY_PYJWT = {
    "padding": token(HEADER + " ", padded=True),
    "a claim twice": token(claims=CLAIMS.replace("{", '{"sub":"eve",')),
    "an algorithm twice": token(HEADER.replace("{", '{"alg":"none",')),
    "NaN": token(claims=CLAIMS.replace("{", '{"n":NaN,')),
    "claims in UTF-16": token(claims=CLAIMS.encode("utf-16-le")),
    "exp as text": token(claims=CLAIMS.replace(str(LATER), f'"{LATER}"')),
    "exp with a fraction": token(claims=CLAIMS.replace(str(LATER), f"{LATER}.5")),
    "iat as a truth": token(claims=CLAIMS.replace(f'"iat":{NOW}', '"iat":true')),
    "no iat": token(claims=CLAIMS.replace(f'"iat":{NOW},', "")),
    "no exp": token(claims=CLAIMS.replace(f',"exp":{LATER}', "")),
    "no kid": token('{"alg":"EdDSA"}'),
    "typ as a number": token(HEADER.replace('"at+jwt"', "1")),
    "crit": token(HEADER.replace("}", ',"crit":["b64"],"b64":true}')),
}


def is_good(text: str) -> bool:
    try:
        read = jws.read(text)
        jws.verify(read, KEY.public_key(), ("EdDSA",))
    except InvalidToken:
        return False
    return jws.are_timely(read.claims, NOW) and jws.is_meant_for(read.claims, "g")


def test_a_well_formed_token_is_valid_for_the_gateway_and_for_pyjwt() -> None:
    assert is_good(token())
    assert jwt.decode(token(), KEY.public_key(), ["EdDSA"], audience="g") == json.loads(CLAIMS)


@pytest.mark.parametrize("text", TAKEN_BY_PYJWT.values(), ids=TAKEN_BY_PYJWT)
def test_malformed_tokens_that_pyjwt_accepts_are_refused(text: str) -> None:
    assert jwt.decode(text, KEY.public_key(), ["EdDSA"], audience="g")["aud"] == "g"
    assert not is_good(text)
