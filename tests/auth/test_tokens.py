import asyncio
import base64
import hmac
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.auth import services, sessions, signing, tickets, users
from gateway.auth.jws import MAX_TOKEN
from gateway.auth.principals import Service, User, inbox_user
from gateway.auth.revocation import Revocation
from gateway.auth.sessions import new_session
from gateway.auth.tokens import Tokens, digest
from gateway.database.database import Database
from gateway.errors import InsufficientScope, InvalidToken, TokenExpired, TokenRevoked, Unauthorized
from gateway.settings import Settings, SettingsError
from tests.support.databases import API_KEY, KEY_ID, settings_for

NOW = 1_800_000_000
SECRET = "a secret of thirty-two bytes or more"


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Desk:
    """The parts of a test: tokens on a database, a clock to move, and what has been announced as ended."""

    tokens: Tokens
    revocation: Revocation
    database: Database
    settings: Settings
    clock: Clock
    ended: list[str] = field(default_factory=list)

    async def session(self, sub: str = "ada") -> str:
        session = new_session((NOW + 10**6) * 1000)
        await self.database.write(users.add_missing_users, [sub], NOW * 1000)
        assert await self.database.write(sessions.start_user_session, sub, session, NOW * 1000)
        return session.id

    async def token(self, sub: str = "ada", session: str = "", **changes: Any) -> str:
        given: dict[str, Any] = {"client_id": "c", "scopes": ["inbox"], "expires_at": NOW + 900} | changes
        return self.tokens.issue(sub=sub, session=session or await self.session(sub), **given)

    async def forged(self, *, headers: dict[str, Any] | None = None, **changes: Any) -> str:
        """A token that the gateway's own key signed, with claims and headers as it would not make them."""
        key = self.tokens.keys.newest
        claims = jwt.decode(await self.token(), options={"verify_signature": False}) | changes
        claims = {name: value for name, value in claims.items() if value is not ...}
        head = {"typ": "at+jwt", "kid": key.kid} | (headers or {})
        return jwt.PyJWS().encode(json.dumps(claims).encode(), key.private, key.algorithm, head)


async def open_desk(database: Database, **overrides: Any) -> Desk:
    settings, clock = settings_for("sqlite:///unused.db", **overrides), Clock()
    ended: list[str] = []

    def on_ended(sessions: Collection[str]) -> None:
        ended.extend(sessions)

    revocation = Revocation(database, on_ended=on_ended, clock=clock)
    tokens = Tokens(settings, database, revocation, clock)
    await tokens.start()
    return Desk(tokens, revocation, database, settings, clock, ended)


@pytest.fixture
async def desk(database: Database) -> Desk:
    return await open_desk(database)


async def test_an_access_token_follows_rfc_9068(desk: Desk) -> None:
    session = await desk.session()
    token = await desk.token(session=session)
    header = jwt.get_unverified_header(token)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (header["typ"], header["alg"]) == ("at+jwt", "EdDSA")
    assert claims["sid"] == session
    assert set(claims) == {"iss", "aud", "sub", "client_id", "scope", "iat", "exp", "jti", "sid"}


async def test_the_published_key_verifies_an_access_token(desk: Desk) -> None:
    token = await desk.token()
    [key] = desk.tokens.jwks()["keys"]
    assert key["kid"] == jwt.get_unverified_header(token)["kid"]
    assert "d" not in key
    assert jwt.PyJWS().decode(token, jwt.PyJWK(key))


async def test_a_token_identifies_its_user(desk: Desk) -> None:
    session = await desk.session("ada")
    user = await desk.tokens.verify(await desk.token(session=session))
    assert isinstance(user, User)
    assert (user.sub, user.session, user.expires_at) == ("ada", session, NOW + 900)
    assert inbox_user(user) is user


async def test_a_user_without_the_scope_may_not_read_an_inbox(desk: Desk) -> None:
    user = await desk.tokens.verify(await desk.token(scopes=[]))
    with pytest.raises(InsufficientScope):
        inbox_user(user)


async def test_a_service_may_not_read_an_inbox(desk: Desk) -> None:
    service = await desk.tokens.verify(API_KEY)
    assert isinstance(service, Service)
    with pytest.raises(InsufficientScope):
        inbox_user(service)


async def test_verifying_a_cached_token_needs_no_database(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await desk.token()
    first = await desk.tokens.verify(token)
    monkeypatch.setattr(desk.tokens, "_database", None)
    assert await desk.tokens.verify(token) is first


@pytest.mark.parametrize("seen", [True, False])
async def test_a_token_expires_exactly_at_its_exp(desk: Desk, seen: bool) -> None:
    token = await desk.token()
    if seen:
        await desk.tokens.verify(token)
    desk.clock.now = NOW + 899.9
    await desk.tokens.verify(token)
    desk.clock.now = NOW + 900
    with pytest.raises(TokenExpired):
        await desk.tokens.verify(token)


BAD_TIMES: list[Any] = [True, 1.5, "1800000900", None, -1, [], 10**20]
BAD_TEXTS: list[Any] = ["", 1, None, ["ada"], {}]
BAD_CLAIMS: list[dict[str, Any]] = [
    *({name: ...} for name in ("iss", "aud", "sub", "client_id", "scope", "iat", "exp", "jti", "sid")),
    *({name: value} for name in ("iat", "exp") for value in BAD_TIMES),
    *({name: value} for name in ("sub", "client_id", "jti", "sid") for value in BAD_TEXTS),
    {"scope": ["inbox"]},
    {"scope": None},
    {"iss": "somebody-else"},
    {"aud": "somebody-else"},
    {"aud": []},
    {"iat": NOW + 60, "exp": NOW + 120},
    {"nbf": NOW + 60},
    {"nbf": "soon"},
    {"iat": NOW, "exp": NOW},
]


@pytest.mark.parametrize("claims", BAD_CLAIMS, ids=repr)
async def test_a_signed_token_with_bad_claims_is_not_valid(desk: Desk, claims: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        await desk.tokens.verify(await desk.forged(**claims))


@pytest.mark.parametrize(
    "claims", [{}, {"aud": ["x", "notification-gateway"]}, {"iat": NOW + 20}, {"extra": 1}], ids=repr
)
async def test_a_signed_token_with_good_claims_is_valid(desk: Desk, claims: dict[str, Any]) -> None:
    assert isinstance(await desk.tokens.verify(await desk.forged(**claims)), User)


BAD_HEADERS: list[dict[str, Any]] = [
    {"typ": "JWT"},
    {"typ": "id+jwt"},
    {"typ": 1},
    {"kid": "../../dev/null"},
    {"kid": "' OR 1=1 --"},
    {"crit": ["b64"]},
    {"crit": ["exp"]},
]


@pytest.mark.parametrize("headers", BAD_HEADERS, ids=repr)
async def test_a_signed_token_with_a_bad_header_is_not_valid(desk: Desk, headers: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        await desk.tokens.verify(await desk.forged(headers=headers))


def encoded(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


async def forgeries(desk: Desk) -> dict[str, str]:
    good = await desk.token()
    header, claims, signature = good.split(".")
    kid = jwt.get_unverified_header(good)["kid"]
    other = Ed25519PrivateKey.generate()
    public = desk.tokens.keys.newest.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    payload = base64.urlsafe_b64decode(claims + "==")

    def signed(**head: Any) -> str:
        return jwt.PyJWS().encode(payload, other, "EdDSA", {"typ": "at+jwt", "kid": kid} | head)

    confused = f"{encoded({'typ': 'at+jwt', 'alg': 'HS256', 'kid': kid})}.{claims}"
    mac = hmac.digest(public, confused.encode(), "sha256")
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": encoded(other.public_key().public_bytes_raw())}
    none = encoded({"typ": "at+jwt", "alg": "none", "kid": kid})
    return {
        "nothing": "",
        "dots": "..",
        "words": "not a token",
        "two parts": f"{header}.{claims}",
        "four parts": good + ".x",
        "no signature": f"{header}.{claims}.",
        "signature of another": signed(),
        "jwk in the header": signed(jwk=jwk),
        "jku in the header": signed(jku="http://127.0.0.1:1/jwks.json"),
        "x5u in the header": signed(x5u="http://127.0.0.1:1/cert.pem"),
        "alg none": f"{none}.{claims}.",
        "alg none, signed": f"{none}.{claims}.{signature}",
        "alg confusion": f"{confused}.{encoded(mac)}",
        "claims changed": f"{header}.{encoded(json.loads(payload) | {'sub': 'eve'})}.{signature}",
        "claims no object": f"{header}.{encoded([1])}.{signature}",
        "header no object": f"{encoded([1])}.{claims}.{signature}",
        "header no json": f"{encoded(b'{{')}.{claims}.{signature}",
        "header deep": f"{encoded(b'[' * 3000)}.{claims}.{signature}",
        "header not utf-8": f"{encoded(bytes([255, 254]))}.{claims}.{signature}",
        "kid a list": f"{encoded({'typ': 'at+jwt', 'alg': 'EdDSA', 'kid': [kid]})}.{claims}.{signature}",
        "not base64": f"{header}.!!!!.{signature}",
        "not ascii": good + "é",
        "half a pair": good + "\ud800",
        "a space": " " + good,
        "nested": encoded(good.encode()) + "." + claims + "." + signature,
        "too long": good + "A" * MAX_TOKEN,
        "megabytes": "A" * 2**21,
        "a key without the rest": "ngk_",
        "a key with a wrong checksum": API_KEY[:-1] + ("0" if API_KEY[-1] != "0" else "1"),
        "a key of nobody": services.new_key()[2],
    }


async def test_every_forgery_raises_invalid_token(desk: Desk) -> None:
    outcomes = {}
    for name, forgery in (await forgeries(desk)).items():
        with pytest.raises(Unauthorized) as raised:
            await desk.tokens.verify(forgery)
        outcomes[name] = raised.type
    assert all(issubclass(one, InvalidToken) for one in outcomes.values()), outcomes


async def test_a_secret_in_the_settings_is_the_only_key(database: Database) -> None:
    eddsa = await open_desk(database)
    hs256 = await open_desk(database, jwt_secret=SECRET)
    token = await hs256.token()
    assert jwt.get_unverified_header(token)["alg"] == "HS256"
    assert isinstance(await hs256.tokens.verify(token), User)
    assert hs256.tokens.jwks() == {"keys": []}
    for verifier, foreign in ((hs256, await eddsa.token()), (eddsa, token)):
        with pytest.raises(InvalidToken):
            await verifier.tokens.verify(foreign)


async def test_a_public_key_as_the_secret_stops_the_start(database: Database) -> None:
    public = Ed25519PrivateKey.generate().public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    with pytest.raises(SettingsError, match="GATEWAY_JWT_SECRET"):
        await open_desk(database, jwt_secret=pem)


async def test_an_ended_session_revokes_its_tokens_and_is_announced_once(desk: Desk) -> None:
    session = await desk.session()
    seen, unseen = await desk.token(session=session), await desk.token(session=session)
    await desk.tokens.verify(seen)
    desk.revocation.end([session])
    desk.revocation.end([session])
    for token in (seen, unseen):
        with pytest.raises(TokenRevoked):
            await desk.tokens.verify(token)
    assert desk.ended == [session]
    assert desk.tokens.is_ended(session)


async def test_a_verification_concurrent_with_the_end_of_its_session_is_refused_and_not_cached(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await desk.session()
    token = await desk.token(session=session)
    has_read, go_on = asyncio.Event(), asyncio.Event()

    class Held:
        async def lookup(self, *args: Any) -> Any:
            answer = await desk.database.lookup(*args)
            has_read.set()
            await go_on.wait()
            return answer

    monkeypatch.setattr(desk.tokens, "_database", Held())
    verification = asyncio.create_task(desk.tokens.verify(token))
    await has_read.wait()
    desk.revocation.end([session])
    go_on.set()
    with pytest.raises(TokenRevoked):
        await verification
    with pytest.raises(TokenRevoked):
        await desk.tokens.verify(token)


async def test_sessions_ended_by_another_process_are_found_by_the_next_poll(desk: Desk) -> None:
    session = await desk.session("ada")
    token = await desk.token(session=session)
    await desk.tokens.verify(token)
    assert await desk.database.write(users.log_out, "ada", NOW * 1000) == [session]
    await desk.revocation.find()
    assert desk.ended == [session]
    with pytest.raises(TokenRevoked):
        await desk.tokens.verify(token)


async def test_an_uncached_token_of_a_disabled_user_is_refused(desk: Desk) -> None:
    token = await desk.token("ada")
    await desk.database.write(users.update_user, "ada", {"disabled": True}, NOW * 1000)
    with pytest.raises(TokenRevoked):
        await desk.tokens.verify(token)


async def test_a_token_of_a_deleted_session_is_refused(desk: Desk) -> None:
    with pytest.raises(TokenRevoked):
        await desk.tokens.verify(await desk.token(session="0" * 32))


async def test_a_token_of_another_user_s_session_is_refused(desk: Desk) -> None:
    session = await desk.session("ada")
    await desk.session("eve")
    with pytest.raises(TokenRevoked):
        await desk.tokens.verify(await desk.token("eve", session=session))


async def test_an_api_key_identifies_its_service_and_is_cached_for_half_a_second(desk: Desk) -> None:
    service = await desk.tokens.verify(API_KEY)
    assert isinstance(service, Service)
    assert service.scopes == {"notify", "tokens:mint", "admin"}
    assert (service.session, service.expires_at) == (None, None)
    await desk.database.write(services.delete_key, service.client_id, KEY_ID)
    desk.clock.now += 0.4
    assert await desk.tokens.verify(API_KEY) == service
    desk.clock.now += 0.1
    for _ in range(3):
        with pytest.raises(TokenRevoked):
            await desk.tokens.verify(API_KEY)


async def test_an_api_key_deleted_in_this_process_is_revoked_at_once(desk: Desk) -> None:
    await desk.tokens.verify(API_KEY)
    desk.revocation.end([KEY_ID])
    with pytest.raises(TokenRevoked):
        await desk.tokens.verify(API_KEY)


async def test_after_a_rotation_the_new_key_signs_and_the_old_key_verifies_until_expiry(
    desk: Desk,
) -> None:
    session = await desk.session()
    last: dict[str, Any] = {"session": session, "expires_at": NOW + signing.MAX_TTL}
    old, seen = await desk.token(**last), await desk.token(**last)
    await desk.tokens.verify(seen)
    kid = await desk.database.write(signing.rotate, NOW * 1000, None)
    desk.clock.now += signing.SIGNING_DELAY_SECONDS + 1
    await desk.tokens.load_keys()
    new = await desk.token(session=session, expires_at=NOW + 10**6)
    assert jwt.get_unverified_header(new)["kid"] == kid != jwt.get_unverified_header(old)["kid"]
    assert len(desk.tokens.jwks()["keys"]) == 2
    assert isinstance(await desk.tokens.verify(old), User)
    desk.clock.now = NOW + signing.SIGNING_DELAY_SECONDS + signing.MAX_TTL + 61
    await desk.tokens.load_keys()
    assert [key["kid"] for key in desk.tokens.jwks()["keys"]] == [kid]
    assert isinstance(await desk.tokens.verify(new), User)


async def test_many_tokens_with_unknown_kids_reload_the_keys_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.clock.now += signing.MIN_RELOAD_SECONDS
    loads = 0
    load = desk.tokens.keys.load

    async def count() -> None:
        nonlocal loads
        loads += 1
        await load()

    monkeypatch.setattr(desk.tokens.keys, "load", count)
    for number in range(20):
        with pytest.raises(InvalidToken):
            await desk.tokens.verify(await desk.forged(headers={"kid": str(number)}))
    assert loads == 1


async def test_a_ticket_is_redeemed_once_by_concurrent_requests(desk: Desk) -> None:
    session = await desk.session("ada")
    await add_ticket(desk, "the ticket", session)
    outcomes = await asyncio.gather(
        *(desk.tokens.redeem("the ticket") for _ in range(5)), return_exceptions=True
    )
    users = [outcome for outcome in outcomes if isinstance(outcome, User)]
    assert [(user.sub, user.session, user.expires_at) for user in users] == [("ada", session, NOW + 900)]
    assert sum(isinstance(outcome, InvalidToken) for outcome in outcomes) == 4


async def test_a_ticket_expires_after_30_seconds(desk: Desk) -> None:
    await add_ticket(desk, "the ticket", await desk.session())
    desk.clock.now += 30
    with pytest.raises(InvalidToken):
        await desk.tokens.redeem("the ticket")


async def test_a_ticket_of_an_ended_session_is_revoked(desk: Desk) -> None:
    await add_ticket(desk, "the ticket", await desk.session("ada"))
    await desk.database.write(users.log_out, "ada", NOW * 1000)
    with pytest.raises(TokenRevoked):
        await desk.tokens.redeem("the ticket")


@pytest.mark.parametrize("ticket", ["", "é", "\ud800", "x" * 10**5])
async def test_a_malformed_ticket_is_invalid(desk: Desk, ticket: str) -> None:
    with pytest.raises(InvalidToken):
        await desk.tokens.redeem(ticket)


async def add_ticket(desk: Desk, text: str, session: str) -> None:
    times = {"token_expires_at": (NOW + 900) * 1000, "expires_at": (NOW + 30) * 1000}
    ticket = tickets.NewTicket(hash=digest(text), session_id=session, scope="inbox", **times)
    await desk.database.write(tickets.add_ticket, ticket)


async def test_the_session_of_an_expired_token_can_still_be_named(desk: Desk) -> None:
    session = await desk.session()
    token = await desk.token(session=session)
    desk.clock.now += 10**4
    assert await desk.tokens.session_of(token) == session
    assert await desk.tokens.session_of("garbage") is None


async def test_the_cache_of_verified_tokens_is_limited_in_entries(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.auth.token_cache.MAX_TOKENS", 3)
    session = await desk.session()
    for _ in range(5):
        await desk.tokens.verify(await desk.token(session=session))
    assert len(desk.tokens.remembered) == 3


async def test_an_ended_session_is_forgotten_after_its_tokens_expire(desk: Desk) -> None:
    desk.revocation.end([await desk.session()])
    desk.clock.now += 86_400 + 31
    await desk.revocation.find()
    assert not desk.revocation
