"""Forged and malformed tokens, each with a name: what attackers send, and what broken clients do.

Most are signed by the gateway's own key over something it would never say, so that nothing but the rule in
question refuses them; the others are what somebody without that key can make.
"""

import base64
import functools
import hmac
import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.auth import services
from gateway.auth.jws import MAX_TOKEN
from gateway.auth.signing import SigningKey
from tests.support.databases import API_KEY

ORDER = 2**252 + 27742317777372353535851937790883648493
"""The order of the group of Ed25519 (RFC 8032, section 5.1)."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Forgery:
    """A token that must be refused with this code, wherever it is shown."""

    name: str
    token: bytes
    code: str = "invalid_token"

    @property
    def plain(self) -> bool:
        """Whether a line of 8 KiB can carry it as it is, with a name before it."""
        return len(self.token) <= MAX_TOKEN - 200 and all(0x21 <= byte < 0x7F for byte in self.token)

    @property
    def impossible_in_a_header(self) -> bool:
        """Whether it would end the header, or lose there what makes it a forgery: space around it."""
        return any(byte in self.token for byte in b"\r\n\x00") or self.token != self.token.strip(b" \t")


def encoded(value: Any) -> str:
    """Return base64url without padding, of bytes or of what is written as JSON."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@functools.cache
def strangers_keys() -> dict[str, Any]:
    """Return key pairs of somebody else."""
    return {
        "EdDSA": Ed25519PrivateKey.from_private_bytes(b"\x07" * 32),
        "RS256": rsa.generate_private_key(65537, 2048),
        "ES256": ec.derive_private_key(7, ec.SECP256R1()),
    }


@dataclass
class Forger:
    """Makes the corpus.

    `good` is a token that holds, of a session that must live on; `spare` one of a session that may end.
    `bait` is an address that must never be asked for anything.
    """

    own: SigningKey
    good: str
    spare: str
    bait: str
    known: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        header, claims, signature = self.good.split(".")
        self.state = (header, claims, signature)
        self.header: Json = json.loads(base64.urlsafe_b64decode(header + "=="))
        self.claims: Json = json.loads(base64.urlsafe_b64decode(claims + "=="))
        self.signature = base64.urlsafe_b64decode(signature + "==")

    def forgeries(self) -> list[Forgery]:
        """Return all of them."""
        made = [*self.refused(), *self.not_any_more()]
        names = [one.name for one in made]
        assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
        return made

    def refused(self) -> Iterator[Forgery]:
        """Yield what is no token of ours."""
        groups: list[Callable[[], dict[str, str | bytes]]] = [
            self.no_algorithm,
            self.other_algorithms,
            self.injected_key_ids,
            self.keys_in_the_header,
            self.extensions,
            self.types,
            self.claims_of_other_types,
            self.claims_of_others,
            self.times,
            self.json,
            self.structure,
            self.base64,
            self.characters,
            self.sizes,
            self.signatures,
            self.api_keys,
        ]
        for group in groups:
            for name, token in group().items():
                raw = token if isinstance(token, bytes) else token.encode("utf-8", "surrogatepass")
                yield Forgery(f"{group.__name__}: {name}", raw)

    # --- making one -----------------------------------------------------------------------------------------

    def signed(self, header: Any = None, claims: Any = None) -> str:
        """Return a token with the gateway's own signature over whatever is given."""
        text = f"{encoded(self.header if header is None else header)}.{encoded(claims or self.claims)}"
        algorithm = jwt.PyJWS().get_algorithm_by_name(self.own.algorithm)
        return f"{text}.{encoded(algorithm.sign(text.encode(), algorithm.prepare_key(self.own.private)))}"

    def headed(self, **changes: Any) -> str:
        """Return a token of the gateway's own with another header; `...` leaves a member out."""
        header = {name: value for name, value in {**self.header, **changes}.items() if value is not ...}
        return self.signed(header)

    def claiming(self, **changes: Any) -> str:
        """Return a token of the gateway's own with other claims; `...` leaves one out."""
        claims = {name: value for name, value in {**self.claims, **changes}.items() if value is not ...}
        return self.signed(claims=claims)

    def stranger(self, algorithm: str = "EdDSA", **header: Any) -> str:
        """Return a token that somebody else has signed with a key of their own."""
        head = {**self.header, "alg": algorithm, **header}
        text = f"{encoded(head)}.{self.state[1]}"
        signer = jwt.PyJWS().get_algorithm_by_name(algorithm)
        return f"{text}.{encoded(signer.sign(text.encode(), strangers_keys()[algorithm]))}"

    def mac(self, secret: bytes, algorithm: str = "HS256", **header: Any) -> str:
        """Return a token with a MAC."""
        text = f"{encoded({**self.header, 'alg': algorithm, **header})}.{self.state[1]}"
        return f"{text}.{encoded(hmac.digest(secret, text.encode(), algorithm.replace('HS', 'sha')))}"

    def public_key(self) -> dict[str, bytes]:
        """Return everything that an attacker might take for the secret of a MAC."""
        if self.own.algorithm != "EdDSA":
            return {"nothing": b"", "a guess": b"secret", "the key's name": self.own.kid.encode()}
        raw = self.own.public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        pem = self.own.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        jwk = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.own.kid}
        jwk["x"] = encoded(raw)
        return {
            "PEM": pem,
            "PEM without its last newline": pem.rstrip(),
            "DER": self.own.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            "OpenSSH": self.own.public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
            "JWK": json.dumps(jwk).encode(),
            "compact JWK": json.dumps(jwk, separators=(",", ":")).encode(),
            "JWK set": json.dumps({"keys": [jwk]}).encode(),
            "raw bytes": raw,
            "x of the JWK": encoded(raw).encode(),
            "nothing": b"",
        }

    # --- the groups -----------------------------------------------------------------------------------------

    def no_algorithm(self) -> dict[str, str | bytes]:
        spellings: list[Any] = ["none", "None", "NONE", "nOnE", "none ", "none\x00", "", "null", None, 0, []]
        made: dict[str, str | bytes] = {}
        for alg in spellings:
            text = f"{encoded({**self.header, 'alg': alg})}.{self.state[1]}"
            made |= {f"{alg!r} and no signature": f"{text}.", f"{alg!r} signed": f"{text}.{self.state[2]}"}
        made["left out"] = bare = self.headed(alg=...)
        made["left out and no signature"] = bare.rpartition(".")[0] + "."
        return made

    def other_algorithms(self) -> dict[str, str | bytes]:
        made: dict[str, str | bytes] = {
            f"HS256 with the public key as {name}": self.mac(secret)
            for name, secret in self.public_key().items()
        }
        for algorithm in ("HS384", "HS512"):
            for name, secret in list(self.public_key().items())[:3]:
                made[f"{algorithm} with the public key as {name}"] = self.mac(secret, algorithm)
        for algorithm in ("EdDSA", "RS256", "ES256"):
            made[f"{algorithm} of a stranger with our kid"] = self.stranger(algorithm)
        names: list[Any] = ["RS256", "ES256", "Ed25519", "eddsa", "EDDSA", "HS257", ["EdDSA"], {"a": 1}]
        made |= {f"our signature called {alg!r}": self.headed(alg=alg) for alg in names}
        return made

    def injected_key_ids(self) -> dict[str, str | bytes]:
        kids: list[Any] = [
            "../../../../../../dev/null",
            "/dev/null",
            "/proc/sys/kernel/randomize_va_space",
            "' OR '1'='1",
            "x' UNION SELECT 'c2VjcmV0' --",
            "\x00",
            f"{self.own.kid}\x00",
            f"{self.own.kid} ",
            f"{self.own.kid}".upper() + "X",
            f"{self.bait}/key",
            "file:///etc/passwd",
            "| curl 127.0.0.1",
            "$(id)",
            "__proto__",
            "",
            "x" * 3000,
            "\ud800",
            "%s%n",
            7,
            None,
            True,
            [],
            {},
        ]
        made: dict[str, str | bytes] = {}
        for kid in kids:
            short = repr(kid)[:40].replace(self.own.kid, "ours")
            made[f"{short} signed by us"] = self.headed(kid=kid)
            made[f"{short} with an empty secret"] = self.mac(b"", kid=kid)
        made["a list with ours"] = self.headed(kid=[self.own.kid])
        made["left out"] = self.headed(kid=...)
        return made

    def keys_in_the_header(self) -> dict[str, str | bytes]:
        raw = strangers_keys()["EdDSA"].public_key().public_bytes_raw()
        jwk = {"kty": "OKP", "crv": "Ed25519", "kid": "evil", "alg": "EdDSA", "x": encoded(raw)}
        secret = {"kty": "oct", "k": encoded(b"secret"), "kid": "evil", "alg": "HS256"}
        given: dict[str, Json] = {
            "jku": {"jku": f"{self.bait}/jwks.json"},
            "jku and its kid": {"jku": f"{self.bait}/jwks.json", "kid": "evil"},
            "x5u": {"x5u": f"{self.bait}/cert.pem"},
            "jwk": {"jwk": jwk},
            "jwk and its kid": {"jwk": jwk, "kid": "evil"},
            "x5c": {"x5c": [base64.b64encode(raw).decode()]},
            "x5t": {"x5t": "AAAA", "x5t#S256": "AAAA"},
            "all of them": {"jku": f"{self.bait}/a", "x5u": f"{self.bait}/b", "jwk": jwk, "x5c": []},
        }
        made: dict[str, str | bytes] = {}
        for name, header in given.items():
            made[f"{name} of a stranger"] = self.stranger(**header)
            made[f"{name} signed by us"] = self.headed(**header)
        made["a secret as jwk"] = self.mac(b"secret", jwk=secret, kid="evil")
        made["jku with iss"] = self.stranger(jku=f"{self.bait}/j", iss=self.bait)
        return made

    def extensions(self) -> dict[str, str | bytes]:
        crits: list[Any] = [["exp"], ["b64"], ["unknown"], [], "exp", [7], None, {}]
        made: dict[str, str | bytes] = {f"crit {crit!r}": self.headed(crit=crit) for crit in crits}
        made["crit b64 true"] = self.headed(crit=["b64"], b64=True)
        made["b64 false"] = self.headed(b64=False)
        made["b64 false, encoded payload"] = self.headed(b64=False, crit=["b64"])
        made["b64 false, detached"] = jwt.PyJWS().encode(
            json.dumps(self.claims).encode(),
            self.own.private,
            self.own.algorithm,
            {**self.header, "b64": False, "crit": ["b64"]},
        )
        made["zip"] = self.headed(zip="DEF")
        made["enc"] = self.headed(enc="A256GCM")
        made["cty JWT"] = self.headed(cty="JWT")
        return made

    def types(self) -> dict[str, str | bytes]:
        types: list[Any] = ["JWT", "secevent+jwt", "id+jwt", "logout+jwt", "dpop+jwt", "jwt+at", "at+jwt "]
        types += ["at+jwt;v=1", "text/at+jwt", "application/application/at+jwt", "", None, 7, ["at+jwt"], ...]
        return {f"typ {'left out' if one is ... else repr(one)}": self.headed(typ=one) for one in types}

    def claims_of_other_types(self) -> dict[str, str | bytes]:
        values: list[Any] = [..., None, 7, 1.5, True, [], ["x"], {}, {"x": 1}]
        made: dict[str, str | bytes] = {}
        for name in ("iss", "aud", "sub", "scope", "sid", "jti", "client_id"):
            for value in values:
                made[f"{name} {'left out' if value is ... else repr(value)}"] = self.claiming(**{name: value})
            if name != "scope":
                made[f"{name} empty"] = self.claiming(**{name: ""})
        for name in ("sub", "sid", "jti", "client_id"):
            for what in ("\x00", "a\x00b", "a\nb", "\ud800", "x" * 300):
                made[f"{name} {what[:8]!r}"] = self.claiming(**{name: what})
            made[f"{name} a list with the right one"] = self.claiming(**{name: [self.claims[name]]})
        return made

    def claims_of_others(self) -> dict[str, str | bytes]:
        ours, audience = self.claims["iss"], self.claims["aud"]
        id_token = {name: self.claims[name] for name in ("iss", "sub", "iat", "exp")}
        id_token |= {"aud": "a-client", "nonce": "n", "at_hash": "AAAA", "auth_time": self.claims["iat"]}
        return {
            "iss of somebody else": self.claiming(iss="https://accounts.google.com"),
            "iss with a slash": self.claiming(iss=f"{ours}/"),
            "iss in capitals": self.claiming(iss=ours.upper()),
            "iss with a space": self.claiming(iss=f" {ours}"),
            "iss a list with ours": self.claiming(iss=[ours]),
            "aud of somebody else": self.claiming(aud="another-service"),
            "aud that begins with ours": self.claiming(aud=f"{audience}-2"),
            "aud a list without ours": self.claiming(aud=["a", "b"]),
            "aud a list with a list of ours": self.claiming(aud=[[audience]]),
            "aud a list with ours and a number": self.claiming(aud=[audience, 7]),
            "aud an object with ours": self.claiming(aud={audience: 1}),
            "an ID token": self.signed({**self.header, "typ": "JWT"}, id_token),
            "an ID token that says it is an access token": self.signed(claims=id_token),
        }

    def times(self) -> dict[str, str | bytes]:
        now = int(time.time())
        odd: list[Any] = [..., True, None, float(now + 600), str(now + 600), 10**20, -1, [now], {}]
        made: dict[str, str | bytes] = {}
        for value in odd:
            shown = "left out" if value is ... else repr(value).replace(str(now + 600), "then")
            made[f"exp {shown}".replace(str(now), "now")] = self.claiming(exp=value)
            made[f"iat {shown}".replace(str(now), "now")] = self.claiming(iat=value)
        for value in odd[1:]:
            if value != -1:
                shown = repr(value).replace(str(now + 600), "then").replace(str(now), "now")
                made[f"nbf {shown}"] = self.claiming(nbf=value)
        made |= {
            "exp 0": self.claiming(exp=0, iat=0),
            "exp before iat": self.claiming(exp=now + 10, iat=now + 20),
            "exp at iat": self.claiming(exp=now, iat=now),
            "iat in an hour": self.claiming(iat=now + 3600, exp=now + 7200),
            "nbf in an hour": self.claiming(nbf=now + 3600),
        }
        plain = json.dumps(self.claims)
        for word in ("NaN", "Infinity", "-Infinity", "1e400", "1e10", "9" * 5000, "0x7fffffff", "01"):
            raw = plain.replace(f'"exp": {self.claims["exp"]}', f'"exp": {word}')
            made[f"exp {word[:12]} in raw JSON"] = self.signed(claims=raw.encode())
        return made

    def json(self) -> dict[str, str | bytes]:
        head, body = json.dumps(self.header).encode(), json.dumps(self.claims).encode()
        first, last = b'{"sub": "eve", ', body[:-1] + b', "sub": "eve"}'
        bodies = {
            "sub twice": first + body[1:],
            "sub twice, the other way": last,
            "exp twice": body[:-1] + b', "exp": 9007199254740990}',
            "sid twice, escaped": body[:-1] + b', "\\u0073id": "x"}',
            "duplicates inside": body[:-1] + b', "act": {"a": 1, "a": 2}}',
            "NaN elsewhere": body[:-1] + b', "x": NaN}',
            "a comma too many": body[:-1] + b",}",
            "single quotes": body.replace(b'"', b"'"),
            "a comment": body[:-1] + b" /* */}",
            "a second object": body + b"{}",
            "cut off": body[:-1],
            "a byte order mark": b"\xef\xbb\xbf" + body,
            "UTF-16": body.decode().encode("utf-16"),
            "UTF-16 without a mark": body.decode().encode("utf-16-le"),
            "UTF-32": body.decode().encode("utf-32"),
            "no UTF-8": body[:-1] + b', "x": "\xff\xfe"}',
            "overlong UTF-8": body[:-1] + b', "x": "\xc0\x80"}',
            "an encoded surrogate": body[:-1] + b', "x": "\xed\xa0\x80"}',
            "an array": b"[" + body + b"]",
            "a text": json.dumps(body.decode()).encode(),
            "a number": b"7",
            "null": b"null",
            "an empty object": b"{}",
            "deep arrays": b'{"x": ' + b"[" * 2500 + b"]" * 2500 + b"}",
            "deep objects": b'{"a":' * 1000 + b"1" + b"}" * 1000,
            "nothing but depth": b"[" * 5000,
        }
        heads = {
            "alg twice": head[:-1] + b', "alg": "none"}',
            "alg twice, the other way": b'{"alg": "none", ' + head[1:],
            "kid twice": b'{"kid": "evil", ' + head[1:],
            "typ twice": b'{"typ": "JWT", ' + head[1:],
            "a comma too many": head[:-1] + b",}",
            "UTF-16": head.decode().encode("utf-16"),
            "a byte order mark": b"\xef\xbb\xbf" + head,
            "no UTF-8": head[:-1] + b', "x": "\xff"}',
            "an array": b"[]",
            "a text": b'"x"',
            "a number": b"7",
            "null": b"null",
            "an empty object": b"{}",
            "deep": b"[" * 5000,
            "deep inside": head[:-1] + b', "x": ' + b"[" * 2500 + b"]" * 2500 + b"}",
        }
        made: dict[str, str | bytes] = {f"claims, {k}": self.signed(claims=v) for k, v in bodies.items()}
        return made | {f"header, {name}": self.signed(raw) for name, raw in heads.items()}

    def structure(self) -> dict[str, str | bytes]:
        header, claims, signature = self.state
        flat = {"protected": header, "payload": claims, "signature": signature}
        jwe = [encoded({"alg": "dir", "enc": "A256GCM", "typ": "at+jwt"}), "", *[encoded(b"x" * 16)] * 3]
        return {
            "nothing": "",
            "a dot": ".",
            "two dots": "..",
            "three dots": "...",
            "words": "not-a-token",
            "only the header": header,
            "no signature": f"{header}.{claims}",
            "an empty signature": f"{header}.{claims}.",
            "empty claims": f"{header}..{signature}",
            "an empty header": f".{claims}.{signature}",
            "a fourth part": f"{self.good}.x",
            "an empty fourth part": f"{self.good}.",
            "a part before": f"x.{self.good}",
            "a dot before": f".{self.good}",
            "swapped": f"{claims}.{header}.{signature}",
            "twice": self.good + self.good,
            "a nested token": self.signed(claims=self.good.encode()),
            "a nested token with cty": self.signed({**self.header, "cty": "JWT"}, self.good.encode()),
            "JWE": ".".join(jwe),
            "the flattened JSON form": json.dumps(flat, separators=(",", ":")),
            "the general JSON form": json.dumps({"payload": claims, "signatures": [flat]}),
            "a JSON text": json.dumps(self.good),
            "Bearer twice": f"Bearer {self.good}",
            "a list": f"{self.good},{self.good}",
            "percent-encoded dots": self.good.replace(".", "%2E"),
            "null": "null",
            "undefined": "undefined",
            "a UUID": str(uuid.UUID(int=7)),
        }

    def base64(self) -> dict[str, str | bytes]:
        header, claims, signature = self.state
        other = self.signed(claims={**self.claims, "x": "???>>>~~~"}).split(".")
        last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        bits = last[(last.index(signature[-1]) & 0b111100) | 1]
        padded = [part + "=" * (-len(part) % 4 or 4) for part in self.state]
        standard = [part.replace("-", "+").replace("_", "/") for part in other]
        assert standard != other
        return {
            "padding behind the header": f"{padded[0]}.{claims}.{signature}",
            "padding behind the claims": f"{header}.{padded[1]}.{signature}",
            "padding behind the signature": f"{header}.{claims}.{padded[2]}",
            "padding everywhere": ".".join(padded),
            "one sign of padding": f"{self.good}=",
            "the standard alphabet": ".".join(standard),
            "other trailing bits": f"{header}.{claims}.{signature[:-1]}{bits}",
            "a newline inside": f"{header}.{claims[:20]}\n{claims[20:]}.{signature}",
            "a space inside": f"{header}.{claims[:20]} {claims[20:]}.{signature}",
            "a tab inside": f"{header}.{claims}.{signature[:9]}\t{signature[9:]}",
            "a newline behind": f"{self.good}\n",
            "a carriage return behind": f"{self.good}\r",
            "a space before": f" {self.good}",
            "a space behind": f"{self.good} ",
            "NUL behind": f"{self.good}\x00",
            "not base64": f"{header}.!!!!.{signature}",
            "a length that cannot be": f"{header}.{claims}.{signature}AA" + "A" * (2 - len(signature) % 4),
            "hexadecimal": f"{header}.{claims}.{self.signature.hex()}",
        }

    def characters(self) -> dict[str, str | bytes]:
        header, claims, signature = self.state
        return {
            "an accent": self.good + "\xe9",
            "a full-width dot": f"{header}\uff0e{claims}\uff0e{signature}",
            "a Cyrillic letter": "\u0435" + self.good[1:],
            "a space of no width": f"{header}.\u200b{claims}.{signature}",
            "an emoji": self.good + "\U0001f511",
            "digits of another script": self.good[:-1] + "\u0667",
            "no UTF-8": self.good.encode() + b"\xff\xfe",
            "half a pair": self.good + "\ud800",
            "a control character": self.good + "\x07",
            "Latin-1 throughout": bytes(range(0xA0, 0x100)),
        }

    def sizes(self) -> dict[str, str | bytes]:
        room = MAX_TOKEN + 1 - len(self.good)
        padded = {**self.claims, "x": ""}
        while len(self.signed(claims=padded)) <= MAX_TOKEN:
            padded["x"] += "x" * max((MAX_TOKEN - len(self.signed(claims=padded))) * 3 // 4, 1)
        return {
            "8 KiB and one": self.good + "A" * room,
            "8 KiB and more, signed": self.signed(claims=padded),
            "1 MiB": "A" * 2**20,
            "1 MiB of dots": "." * 2**20,
            "1 MiB behind a header": f"{self.state[0]}.{'A' * 2**20}.{self.state[2]}",
            "one character": "e",
        }

    def signatures(self) -> dict[str, str | bytes]:
        header, claims, signature = self.state
        raw, text = self.signature, f"{header}.{claims}"
        others = self.spare.split(".")[2]
        changed = encoded({**self.claims, "sub": "eve"})
        made = {
            "of another token": f"{text}.{others}",
            "claims changed": f"{header}.{changed}.{signature}",
            "header changed": f"{encoded({**self.header, 'x': 1})}.{claims}.{signature}",
            "cut off": f"{text}.{encoded(raw[:-1])}",
            "half": f"{text}.{encoded(raw[: len(raw) // 2])}",
            "one byte more": f"{text}.{encoded(raw + bytes(1))}",
            "one bit changed": f"{text}.{encoded(bytes([raw[0] ^ 1]) + raw[1:])}",
            "the last bit changed": f"{text}.{encoded(raw[:-1] + bytes([raw[-1] ^ 128]))}",
            "turned round": f"{text}.{encoded(raw[::-1])}",
            "of zeros": f"{text}.{encoded(bytes(len(raw)))}",
            "of ones": f"{text}.{encoded(bytes([255]) * len(raw))}",
            "the neutral point": f"{text}.{encoded(bytes([1]) + bytes(63))}",
            "of the same claims by a stranger, our kid": self.stranger(),
            "over the claims only": f"{text}.{self.signed(claims).split('.')[2]}",
        }
        if self.own.algorithm == "EdDSA":
            s = int.from_bytes(raw[32:], "little")
            made["S and the order of the group"] = (
                f"{text}.{encoded(raw[:32] + (s + ORDER).to_bytes(32, 'little'))}"
            )
            made["the order less S"] = f"{text}.{encoded(raw[:32] + (ORDER - s).to_bytes(32, 'little'))}"
        return dict(made)

    def api_keys(self) -> dict[str, str | bytes]:
        wrong = "0" if API_KEY[-1] != "0" else "1"
        nobody, (key_id, secret) = services.new_key()[2], services.parse_key(API_KEY)
        crossed = services.parse_key(nobody)[1]
        return {
            "only the prefix": "ngk_",
            "a wrong checksum": API_KEY[:-1] + wrong,
            "no checksum": API_KEY[:-8],
            "of nobody": nobody,
            "the secret of another key": f"ngk_{key_id}_{crossed}{services._checksum(key_id, crossed)}",
            "in capitals": API_KEY.upper(),
            "one character more": f"{API_KEY}0",
            "a newline behind": f"{API_KEY}\n",
            "a space inside": API_KEY.replace("_", " "),
            "digits of another script": API_KEY[:-1] + "\u0667",
            "SQL": "ngk_' OR 1=1 --",
            "1 MiB": "ngk_" + "0" * 2**20,
            "only the secret": secret,
            "the hash of nothing": "ngk_" + "0" * 16 + "_" + "0" * 64 + "0" * 8,
        }

    def not_any_more(self) -> Iterator[Forgery]:
        """Yield what was good once, or would be if its session were."""
        now = int(time.time())
        spare: Json = json.loads(base64.urlsafe_b64decode(self.spare.split(".")[1] + "=="))
        old = {"iat": now - 600, "exp": now - 1}
        yield Forgery("expired", self.signed(claims={**spare, **old}).encode(), "token_expired")
        yield Forgery(
            "expired long ago", self.signed(claims={**spare, "iat": 1, "exp": 2}).encode(), "token_expired"
        )
        for name, claims in {
            "a session that never was": {**spare, "sid": "0" * 32},
            "a session of SQL": {**spare, "sid": "' OR 1=1 --"},
            "a session in capitals": {**spare, "sid": spare["sid"].upper() + "X"},
            "a session of another user": {**spare, "sub": "eve"},
            "the sub in capitals": {**spare, "sub": spare["sub"].upper()},
        }.items():
            yield Forgery(name, self.signed(claims=claims).encode(), "token_revoked")
        for name, token in self.known.items():
            yield Forgery(name, token.encode(), "token_revoked")
