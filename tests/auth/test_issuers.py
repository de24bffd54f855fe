"""Tokens of foreign issuers, whose keys a real server on a loopback port publishes."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway import cli
from gateway.auth import cutoffs, issuer_keys, issuers, jws, services, sessions, users
from gateway.auth.issuer_keys import FetchError, read_jwks
from gateway.auth.signing import MAX_TTL
from gateway.errors import InvalidToken
from gateway.observability.audit import Event
from gateway.settings import SettingsError, load_settings
from gateway.settings.trusted_issuer import TrustedIssuer
from tests.support.clients import Caller, User, open_socket
from tests.support.issuer import Issuer, Key, Reply, answer, new_key
from tests.support.servers import LocalServer, StartServer, look_for_nothing
from tests.support.trail import Trail
from tests.support.waiting import until

ALL = ("RS256", "ES256", "EdDSA")


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer([new_key(one) for one in ALL]).serving() as serving:
        yield serving


def settings_of(*several: Issuer, **changes: Any) -> dict[str, Any]:
    return {"trusted_issuers": json.dumps([one.trusted(**changes) for one in several])}


@pytest.fixture
async def server(start_server: StartServer, issuer: Issuer) -> LocalServer:
    """A gateway that trusts the issuer, and has its keys."""
    return await started(start_server, issuer)


async def started(start_server: StartServer, *several: Issuer, **changes: Any) -> LocalServer:
    before = [one.requests for one in several]
    server = await start_server(**settings_of(*several), **changes)
    await until(lambda: all(one.requests > n for one, n in zip(several, before, strict=True)), "a fetch")
    await until(lambda: not any(s._open for s in sources(server)), "the fetches are over")
    return server


def sources(server: LocalServer) -> list[Any]:
    return list(server.state.tokens.issuers.sources.values())


async def outcome(server: LocalServer, token: str, path: str = "/v1/inbox") -> str:
    """Return what comes of a token: 200, or the status and the code of the refusal."""
    reply = await Caller(server.http, token).get(path)
    return "200" if reply.status_code == 200 else f"{reply.status_code} {reply.json()['code']}"


# --- who is let in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALL)
async def test_a_token_of_a_trusted_issuer_opens_the_inbox_and_a_socket_of_its_subject(
    server: LocalServer, issuer: Issuer, algorithm: str
) -> None:
    [key] = [one for one in issuer.keys if one.algorithm == algorithm]
    user = User(server.http, issuer.token("ada", key=key), "ada")
    assert (await user.inbox())["items"] == []
    for carrier in ("header", "ticket", "subprotocol", "query"):
        async with user.socket(carrier=carrier) as socket:
            assert (await socket.next("hello"))["sub"] == "ada"


async def test_a_foreign_subject_maps_to_the_existing_user_with_that_sub(
    server: LocalServer, issuer: Issuer
) -> None:
    await server.service.notify("ada", "Before")
    user = User(server.http, issuer.token("ada"), "ada")
    assert [item["title"] for item in (await user.inbox())["items"]] == ["Before"]


GOOD: list[dict[str, Any]] = [
    {"aud": ["other", "notifications"]},
    {"head": {"typ": "at+jwt"}},
    {"head": {"typ": "application/AT+JWT"}},
    {"head": {"jku": "http://127.0.0.1:1/"}},
    {"jti": ...},
    {"sid": "s", "jti": ...},
]


async def test_the_claim_variants_of_common_issuers_are_accepted(server: LocalServer, issuer: Issuer) -> None:
    ahead = {"iat": int(time.time()) + 20, "exp": int(time.time()) + 600}
    for changes in (*GOOD, ahead):
        assert await outcome(server, issuer.token(**changes)) == "200", changes


def bad(now: int) -> list[dict[str, Any]]:
    return [
        {"aud": "other"},
        {"aud": ...},
        {"aud": ["notifications", 1]},
        {"aud": []},
        {"iss": "https://login.example.com"},
        {"iss": "notification-gateway"},
        {"iss": ["https://login.example.com/"]},
        {"sub": ...},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a\x00da"},
        {"sub": "\ud800"},
        {"sub": "x" * 256},
        {"iat": ...},
        {"exp": ...},
        {"exp": now + 86_401 + 60, "iat": now},
        {"exp": float(now + 600)},
        {"exp": str(now + 600)},
        {"nbf": now + 120},
        {"iat": now + 120, "exp": now + 600},
        {"head": {"typ": ...}},
        {"head": {"typ": "secevent+jwt"}},
        {"head": {"crit": ["exp"], "exp": 1}},
        {"head": {"kid": "nobody's"}},
    ]


async def test_a_signed_token_with_bad_claims_is_refused(server: LocalServer, issuer: Issuer) -> None:
    for changes in bad(int(time.time())):
        assert await outcome(server, issuer.token(**changes)) == "401 invalid_token", changes
    now = int(time.time())
    assert await outcome(server, issuer.token(iat=now - 600, exp=now - 1)) == "401 token_expired"


@pytest.mark.parametrize("extension", [{"crit": ["b64"], "b64": True}, {"crit": []}, {"b64": False}])
def test_a_token_with_a_crit_or_b64_header_is_refused(extension: dict[str, Any]) -> None:
    header = {"typ": "JWT", "alg": "ES256", "kid": "1", **extension}
    with pytest.raises(InvalidToken):
        jws.read(f"{encoded(json.dumps(header).encode())}.{encoded(b'{}')}.AAAA")


async def test_a_foreign_user_is_never_a_service(server: LocalServer, issuer: Issuer) -> None:
    token = issuer.token(scope="admin notify tokens:mint inbox", client_id="tests")
    assert await outcome(server, token, "/v1/users") == "403 insufficient_scope"
    posted = await Caller(server.http, token).post("/v1/notifications", json={"to": "a", "title": "t"})
    assert posted.status_code == 403


async def test_the_operator_sets_the_subject_claim_the_prefix_and_the_scope(
    start_server: StartServer, issuer: Issuer
) -> None:
    rules = {"subject_claim": "user", "subject_prefix": "acme:", "required_scope": "notifications"}
    server = await start_server(**settings_of(issuer, **rules))
    allowed: list[dict[str, Any]] = [{"scope": "openid notifications"}, {"scp": ["notifications"]}]
    not_allowed: list[dict[str, Any]] = [{"scope": "openid"}, {}, {"scope": 7}]
    for scopes in allowed:
        user = User(server.http, issuer.token("1", user="ada", **scopes), "acme:ada")
        async with user.socket() as socket:
            assert (await socket.next("hello"))["sub"] == "acme:ada"
    for scopes in not_allowed:
        refused = issuer.token("1", user="ada", **scopes)
        assert await outcome(server, refused) == "403 insufficient_scope"
        async with User(server.http, refused, "").socket() as socket:
            assert await socket.closed() == (4003, "insufficient_scope")
    assert await outcome(server, issuer.token("ada", scope="notifications")) == "401 invalid_token"


async def test_an_unknown_foreign_user_is_refused_if_unknown_recipients_are_refused(
    start_server: StartServer, issuer: Issuer
) -> None:
    server = await started(start_server, issuer, unknown_recipients="reject")
    assert await outcome(server, issuer.token("eve")) == "401 invalid_token"
    assert (await server.service.get("/v1/users/eve")).status_code == 404
    assert (await server.service.post("/v1/users", json={"sub": "eve"})).status_code == 201
    assert await outcome(server, issuer.token("eve")) == "200"


async def test_concurrent_first_uses_of_one_foreign_token_all_succeed(
    server: LocalServer, issuer: Issuer
) -> None:
    token = issuer.token("ada", sid="s")
    assert set(await asyncio.gather(*(outcome(server, token) for _ in range(30)))) == {"200"}


# --- whose key it is ----------------------------------------------------------------------------------------


async def test_a_key_verifies_only_tokens_of_its_own_issuer(start_server: StartServer) -> None:
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(Issuer([new_key(kid="1")], name).serving())
            for name in ("https://one.example", "https://two.example")
        ]
        server = await started(start_server, one, two)
        own = server.state.tokens.keys.newest
        assert await outcome(server, one.token("ada")) == await outcome(server, two.token("eve")) == "200"
        mixed = {
            "one's key, two's name": one.token(iss=two.name),
            "two's key, one's name": two.token(iss=one.name),
            "a foreign key, our name": one.token(iss="notification-gateway", aud="notification-gateway"),
            "our key, a foreign name": one.token(key=Key(own.kid, "EdDSA", own.private)),
            "our kid, a foreign key": one.token(head={"kid": own.kid}),
            "a key of nobody": one.token(key=new_key(kid="1")),
        }
        for name, token in mixed.items():
            assert await outcome(server, token) == "401 invalid_token", name


async def test_an_unlisted_algorithm_is_refused(start_server: StartServer, issuer: Issuer) -> None:
    server = await start_server(**settings_of(issuer, algorithms=["ES256"]))
    rsa_key, ec_key, ed_key = issuer.keys
    assert await outcome(server, issuer.token(key=ec_key)) == "200"
    for key in (rsa_key, ed_key):
        assert await outcome(server, issuer.token(key=key)) == "401 invalid_token"


async def test_a_token_signed_with_the_public_key_as_an_hmac_secret_is_refused(
    server: LocalServer, issuer: Issuer
) -> None:
    key = issuer.keys[0]
    public = key.private.public_key()
    secrets = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(key.jwk()).encode(),
        issuer.jwks(),
    ]
    _, claims, _ = issuer.token(key=key).split(".")
    for algorithm, digest in (("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")):
        header = encoded(json.dumps({"alg": algorithm, "typ": "JWT", "kid": key.kid}).encode())
        for secret in secrets:
            mac = hmac.digest(secret, f"{header}.{claims}".encode(), digest)
            assert await outcome(server, f"{header}.{claims}.{encoded(mac)}") == "401 invalid_token"


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_only_usable_verification_keys_are_read_from_a_key_set() -> None:
    good, second = new_key("RS256", "good"), new_key("ES256", "good")
    short = Key("short", "RS256", rsa.generate_private_key(65537, 1024))
    ed = new_key("EdDSA", "ed")
    refused: list[Any] = [
        {"kty": "oct", "k": encoded(b"s" * 32), "kid": "oct", "alg": "HS256"},
        {"kty": "oct", "k": encoded(b"s" * 32), "kid": "oct2", "alg": "RS256"},
        {"kty": "EC", "crv": "P-256", "kid": "nothing"},
        {"kty": "EC", "crv": "P-256", "x": 1, "y": [], "kid": "wrong types"},
        {"kty": "EC", "crv": ["P-256"], "kid": "a list"},
        {"kty": {}, "kid": "no kind"},
        short.jwk(),
        new_key("RS256", "other alg").jwk(alg="RS1"),
        new_key("RS256", "alg of another kind").jwk(alg="ES256"),
        new_key("RS256", "for encryption").jwk(use="enc"),
        new_key("RS256", "to sign").jwk(key_ops=["sign"]),
        new_key("RS256", "bad ops").jwk(key_ops=7),
        ed.jwk(d=encoded(ed.private.private_bytes_raw()), kid="private"),
        ed.jwk(crv="X25519", kid="agreement"),
        ed.jwk(x="AAAA", kid="short x"),
        new_key("ES256").jwk(kid=None),
        new_key("ES256").jwk(kid=7),
        None,
        [],
        "key",
    ]
    given = [*refused, good.jwk(alg=None, use=None), second.jwk(), ed.jwk(key_ops=["verify"])]
    keys = read_jwks(json.dumps({"keys": given}).encode(), ["RS256", "PS256", "ES256", "EdDSA", "HS256"])
    assert {kid: key.algorithms for kid, key in keys.items()} == {
        "good": ("PS256", "RS256"),
        "ed": ("EdDSA",),
    }


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"keys": {}}', b"null", b"\xff", b"[" * 100_000])
def test_a_malformed_key_set_is_a_fetch_error(text: bytes) -> None:
    with pytest.raises(FetchError):
        read_jwks(text, ALL)


# --- rotation, and how often is asked -----------------------------------------------------------------------


async def test_an_unknown_kid_fetches_the_keys_at_most_once_per_interval(
    start_server: StartServer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_keys, "MIN_FETCH_INTERVAL_SECONDS", 3)
    server = await start_server(**settings_of(issuer))
    assert await outcome(server, issuer.token()) == "200"
    [source] = sources(server)
    assert issuer.requests == 1
    issuer.keys.append(new_key("ES256"))
    rotated = issuer.token(key=issuer.keys[-1])
    # Within the pause nobody asks, and nobody waits.
    began = time.monotonic()
    assert await outcome(server, rotated) == "401 invalid_token"
    assert time.monotonic() - began < 3
    assert issuer.requests == 1
    await until(lambda: source._open, "the pause is over")
    # Then many ask at once: one fetch, and all have the answer of it.
    nobody = [issuer.token(head={"kid": str(number)}) for number in range(20)]
    found = await asyncio.gather(*(outcome(server, token) for token in [rotated, *nobody]))
    assert found == ["200"] + ["401 invalid_token"] * 20
    assert issuer.requests == 2


async def test_the_fetch_limits_for_issuer_keys_have_their_documented_values() -> None:
    assert (
        issuer_keys.MIN_FETCH_INTERVAL_SECONDS,
        issuer_keys.FETCH_TIMEOUT_SECONDS,
        issuer_keys.MAX_JWKS_BYTES,
    ) == (60, 5, 262_144)
    assert cutoffs.CUTOFF_TTL_MS >= MAX_TTL * 1000


async def test_a_key_withdrawn_by_its_issuer_verifies_no_new_tokens(
    start_server: StartServer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_keys, "MIN_FETCH_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(issuer_keys, "FETCH_INTERVAL_SECONDS", 0.1)
    server = await started(start_server, issuer)
    gone = issuer.keys.pop(1)
    [source] = sources(server)
    await until(lambda: gone.kid not in source.keys, "the next refresh")
    assert await outcome(server, issuer.token(key=gone)) == "401 invalid_token"


# --- an issuer that is down, slow or hostile ----------------------------------------------------------------


async def test_the_gateway_starts_and_serves_its_own_users_while_an_issuer_is_down(
    start_server: StartServer,
) -> None:
    down = Issuer([new_key()])
    server = await start_server(**settings_of(down))
    ada = await server.user("ada")
    assert (await ada.inbox())["items"] == []
    assert await outcome(server, down.token()) == "401 invalid_token"
    assert (await ada.inbox())["items"] == []


async def test_the_keys_of_an_issuer_that_starts_later_are_fetched(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_keys, "MIN_FETCH_INTERVAL_SECONDS", 0.05)
    late = Issuer([new_key()])
    server = await start_server(**settings_of(late))
    assert await outcome(server, late.token()) == "401 invalid_token"
    async with late.serving():

        async def let_in() -> bool:
            return await outcome(server, late.token()) == "200"

        await until(let_in, "the issuer's tokens are good")


async def test_the_keys_of_an_unreachable_issuer_stay_valid_until_they_expire(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_keys, "MIN_FETCH_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(issuer_keys, "FETCH_INTERVAL_SECONDS", 0.1)
    issuer = Issuer([new_key()])
    async with issuer.serving():
        server = await started(start_server, issuer)
    [source] = sources(server)
    for _ in range(3):
        await asyncio.wait_for(source._done.wait(), 10)
    assert await outcome(server, issuer.token()) == "200"
    monkeypatch.setattr(issuer_keys, "KEYS_TTL_SECONDS", 0)
    await until(lambda: not source.keys, "the keys are too old")
    assert await outcome(server, issuer.token()) == "401 invalid_token"


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def _drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a byte now and then: no single read ever times out."""
    await _write(writer, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        await _write(writer, b" ")
        await asyncio.sleep(0.05)


async def _hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


BADLY: dict[str, Reply] = {
    "404": lambda _, w: _write(w, answer(b"{}", "404 Not Found")),
    "no json": lambda _, w: _write(w, answer(b"<html>")),
    "no http": lambda _, w: _write(w, b"SSH-2.0-OpenSSH_9\r\n\r\n"),
    "nothing": lambda _, w: _write(w, b""),
    "cut off": lambda _, w: _write(w, answer(b"{}" * 10)[:-5]),
}


@pytest.mark.parametrize("how", BADLY)
async def test_an_invalid_key_set_response_is_ignored(
    start_server: StartServer, issuer: Issuer, how: str
) -> None:
    issuer.reply = BADLY[how]
    server = await started(start_server, issuer)
    assert await outcome(server, issuer.token()) == "401 invalid_token"
    assert (await (await server.user("ada")).inbox())["items"] == []


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("size", [issuer_keys.MAX_JWKS_BYTES, issuer_keys.MAX_JWKS_BYTES + 1])
async def test_a_key_set_is_read_only_up_to_the_size_limit(
    start_server: StartServer, issuer: Issuer, size: int, declared: bool
) -> None:
    body = issuer.jwks().ljust(size)
    whole = answer(body) if declared else b"HTTP/1.1 200 OK\r\n\r\n" + body
    issuer.reply = lambda _, w: _write(w, whole)
    server = await started(start_server, issuer)
    good = size <= issuer_keys.MAX_JWKS_BYTES
    assert await outcome(server, issuer.token()) == ("200" if good else "401 invalid_token")


async def test_a_compressed_key_set_is_refused(start_server: StartServer, issuer: Issuer) -> None:
    issuer.reply = lambda _, w: _write(w, answer(issuer.jwks(), "200 OK", "Content-Encoding: gzip"))
    server = await started(start_server, issuer)
    assert await outcome(server, issuer.token()) == "401 invalid_token"


async def test_a_redirect_is_not_followed(start_server: StartServer, issuer: Issuer) -> None:
    async with Issuer(issuer.keys).serving() as elsewhere:
        issuer.reply = lambda _, w: _write(w, answer(b"", "302 Found", f"Location: {elsewhere.url}"))
        server = await started(start_server, issuer)
        assert await outcome(server, issuer.token()) == "401 invalid_token"
        assert elsewhere.requests == 0


def timeouts_of(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[asyncio.Timeout]:
    """Return the timeouts of this many seconds that begin from now on, in a list that grows."""
    begun: list[asyncio.Timeout] = []
    timeout = asyncio.timeout

    def begin(delay: float | None) -> asyncio.Timeout:
        one = timeout(delay)
        if delay == seconds:
            begun.append(one)
        return one

    monkeypatch.setattr(asyncio, "timeout", begin)
    return begun


@pytest.mark.parametrize("reply", [_hang, _drip], ids=["hangs", "drips"])
async def test_a_hanging_issuer_delays_only_its_own_tokens(
    start_server: StartServer,
    issuer: Issuer,
    monkeypatch: pytest.MonkeyPatch,
    reply: Reply,
) -> None:
    # The time runs out when the test says so, however slow the machine is.
    monkeypatch.setattr(issuer_keys, "FETCH_TIMEOUT_SECONDS", 3600)
    timeouts = timeouts_of(monkeypatch, 3600)
    issuer.reply = reply
    server = await start_server(**settings_of(issuer))
    ada = await server.user("ada")
    held = asyncio.gather(*(outcome(server, issuer.token()) for _ in range(20)))
    await until(lambda: len(timeouts) == 1 + 20, "the fetch, and all that wait for it")
    await ada.inbox()
    assert not held.done()
    timeouts[0].reschedule(asyncio.get_running_loop().time())
    assert set(await held) == {"401 invalid_token"}
    assert issuer.requests == 1


# --- how it ends --------------------------------------------------------------------------------------------


async def _log_out(server: LocalServer, token: str) -> httpx.Response:
    return await server.service.delete("/v1/users/ada/sessions")


async def _disable(server: LocalServer, token: str) -> httpx.Response:
    return await server.service.patch("/v1/users/ada", json={"disabled": True})


async def _erase(server: LocalServer, token: str) -> httpx.Response:
    return await server.service.delete("/v1/users/ada")


async def _change_password(server: LocalServer, token: str) -> httpx.Response:
    return await server.service.patch("/v1/users/ada", json={"password": "zanzibar-quokka-19"})


async def _revoke(server: LocalServer, token: str) -> httpx.Response:
    return await server.http.post("/v1/auth/revoke", data={"token": token})


ENDS = {one.__name__: one for one in (_log_out, _disable, _erase, _change_password, _revoke)}


@pytest.mark.parametrize("how", ENDS)
async def test_ending_sessions_revokes_foreign_tokens_and_closes_their_sockets(
    server: LocalServer, issuer: Issuer, how: str
) -> None:
    past = int(time.time()) - 60
    by_jti = User(server.http, issuer.token(iat=past), "ada")
    unseen = issuer.token(iat=past)
    async with by_jti.socket() as socket:
        await socket.next("live")
        ticket = (await by_jti.post("/v1/auth/ticket")).json()["ticket"]
        assert (await ENDS[how](server, str(by_jti.token))).status_code < 300
        assert await socket.closed(within=1) == (4001, "token_revoked")
    assert await outcome(server, str(by_jti.token)) == "401 token_revoked"
    async with open_socket(server.base, ticket=ticket) as socket:
        assert (await socket.closed())[0] == 4001
    # What was issued before and never shown here is void as well; a revocation is of one session only.
    assert await outcome(server, unseen) == ("200" if how == "_revoke" else "401 token_revoked")
    forget(server)
    assert await outcome(server, str(by_jti.token)) == "401 token_revoked"


def forget(server: LocalServer) -> None:
    """Make the gateway know only what is in its database, as after a restart."""
    server.state.tokens.remembered.clear()
    server.state.revocation._ended.clear()


async def test_a_foreign_token_first_used_during_a_sign_out_is_revoked(
    server: LocalServer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, database = server.state.tokens, server.state.database
    noted, go_on = asyncio.Event(), asyncio.Event()

    class Held:
        read, lookup = database.read, database.lookup

        async def write(self, *args: Any, **kwargs: Any) -> Any:
            answer = await database.write(*args, **kwargs)
            if args[0] is issuers.admit:
                noted.set()
                await go_on.wait()
            return answer

    monkeypatch.setattr(tokens, "_database", Held())
    token = issuer.token("ada")
    first = asyncio.create_task(outcome(server, token))
    await asyncio.wait_for(noted.wait(), 10)
    assert (await _log_out(server, "")).status_code == 204
    go_on.set()
    assert await first == "401 token_revoked"
    assert await outcome(server, token) == "401 token_revoked"


async def test_a_token_issued_after_a_sign_out_is_valid_unless_its_session_has_ended(
    server: LocalServer, issuer: Issuer
) -> None:
    past, later = int(time.time()) - 60, int(time.time()) + 2
    assert await outcome(server, issuer.token(sid="s", iat=past)) == "200"
    await log_out_before(server, jws.LEEWAY_SECONDS)
    assert await outcome(server, issuer.token(sid="s", iat=later)) == "401 token_revoked"
    assert await outcome(server, issuer.token(sid="another", iat=later)) == "200"
    assert await outcome(server, issuer.token(iat=later)) == "200"


async def sweep(server: LocalServer, now_ms: int) -> None:
    for kind in (sessions, cutoffs):
        await server.state.database.write(kind.sweep, now_ms)


async def log_out_before(server: LocalServer, seconds: int) -> None:
    """Sign ada out, as if that had been so long ago."""
    moment = int((time.time() - seconds) * 1000)
    await server.state.database.write(users.log_out, "ada", moment)


@pytest.mark.parametrize("ahead", [0, jws.LEEWAY_SECONDS - 2])
async def test_a_token_from_before_a_sign_out_is_revoked_even_if_the_issuers_clock_is_ahead(
    server: LocalServer, issuer: Issuer, ahead: int
) -> None:
    unseen = issuer.token(iat=int(time.time()) + ahead)
    await server.service.post("/v1/users", json={"sub": "ada"})
    await _log_out(server, "")
    assert await outcome(server, unseen) == "401 token_revoked"
    forget(server)
    assert await outcome(server, unseen) == "401 token_revoked"


async def test_a_cutoff_is_kept_until_the_last_earlier_token_has_expired(
    server: LocalServer, issuer: Issuer
) -> None:
    await server.service.post("/v1/users", json={"sub": "ada"})
    await _log_out(server, "")
    now_ms = int(time.time() * 1000)
    last = (MAX_TTL + jws.LEEWAY_SECONDS) * 1000
    await sweep(server, now_ms + last - 10_000)
    assert await server.state.database.read(cutoffs.ended_at, "ada") > 0
    await sweep(server, now_ms + last)
    assert await server.state.database.read(cutoffs.ended_at, "ada") == 0


async def test_an_ended_session_is_kept_until_its_token_expires(server: LocalServer, issuer: Issuer) -> None:
    token = issuer.token(exp=int(time.time()) + 3600)
    assert await outcome(server, token) == "200"
    assert (await _revoke(server, token)).status_code == 200
    now_ms = int(time.time() * 1000)
    await server.state.database.write(sessions.sweep, now_ms + sessions.ENDED_SESSION_TTL_MS)
    forget(server)
    assert await outcome(server, token) == "401 token_revoked"


async def test_a_session_lives_as_long_as_its_last_token(server: LocalServer, issuer: Issuer) -> None:
    now = int(time.time())
    first, second = issuer.token(sid="s", exp=now + 60), issuer.token(sid="s", exp=now + 3600)
    assert await outcome(server, first) == await outcome(server, second) == "200"
    await server.state.database.write(sessions.sweep, (now + 120) * 1000)
    await _log_out(server, "")
    assert await outcome(server, second) == "401 token_revoked"


async def test_a_revoked_token_stays_revoked_with_its_twin_ecdsa_signature(
    server: LocalServer, issuer: Issuer
) -> None:
    """An ECDSA signature (r, s) has a twin (r, n - s) that verifies as well."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    token = issuer.token(key=issuer.keys[1], jti=...)
    signed, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    twin = raw[:32] + (order - int.from_bytes(raw[32:])).to_bytes(32)
    assert await outcome(server, token) == "200"
    assert (await _revoke(server, token)).status_code == 200
    assert await outcome(server, f"{signed}.{encoded(twin)}") == "401 token_revoked"


async def test_a_foreign_token_of_a_disabled_user_is_refused_until_the_user_is_enabled(
    server: LocalServer, issuer: Issuer
) -> None:
    await server.service.post("/v1/users", json={"sub": "ada"})
    long_ago = int((time.time() - jws.LEEWAY_SECONDS) * 1000)
    await server.state.database.write(users.update_user, "ada", {"disabled": True}, long_ago)
    token = issuer.token(iat=int(time.time()) + 2)
    assert await outcome(server, token) == "401 token_revoked"
    await server.service.patch("/v1/users/ada", json={"disabled": False})
    assert await outcome(server, token) == "200"


# --- what the operator sees ---------------------------------------------------------------------------------

WRONG: dict[str, Any] = {
    "http outside loopback": {"jwks_url": "http://login.example.com/jwks.json"},
    "another scheme": {"jwks_url": "file:///etc/passwd"},
    "a password in the URL": {"jwks_url": "https://a:b@login.example.com/jwks.json"},
    "a shared secret": {"algorithms": ["HS256"]},
    "none": {"algorithms": ["none"]},
    "no algorithm": {"algorithms": []},
    "our own name": {"issuer": "notification-gateway"},
    "no audience": {"audience": ""},
    "an unknown member": {"secret": "x"},
}


@pytest.mark.parametrize("why", WRONG)
def test_an_invalid_issuer_stops_the_start_with_a_one_line_error(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Issuer([]).trusted() | WRONG[why]
    monkeypatch.setenv("GATEWAY_TRUSTED_ISSUERS", json.dumps([one]))
    with pytest.raises(SettingsError, match=r"^GATEWAY_TRUSTED_ISSUERS: [^\n]+$"):
        load_settings()


@pytest.mark.parametrize("text", ["no json", "{}", "[1]", "7"])
def test_a_setting_that_is_not_a_list_of_issuers_stops_the_start(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_TRUSTED_ISSUERS", text)
    with pytest.raises(SettingsError, match=r"^GATEWAY_TRUSTED_ISSUERS: [^\n]+$"):
        load_settings()


async def test_gateway_check_reports_whether_each_issuer_is_reachable(
    issuer: Issuer,
    sqlite_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    down = Issuer([new_key()], "https://down.example")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATEWAY_DATABASE_URL", sqlite_url)
    for several, code in ((settings_of(issuer), 0), (settings_of(issuer, down), 1)):
        monkeypatch.setenv("GATEWAY_TRUSTED_ISSUERS", several["trusted_issuers"])
        assert await asyncio.to_thread(cli.run, ["check"]) == code
    lines = capsys.readouterr().out.splitlines()
    good = f"issuer: {issuer.name}: usable keys at {issuer.url}: 3"
    assert lines.count(good) == 2
    assert lines[-1].startswith(
        f"issuer: https://down.example: cannot fetch the keys at {down.url}: ConnectError"
    )


# --- whose a sub is -----------------------------------------------------------------------------------------


@pytest.fixture
async def acme() -> AsyncIterator[Issuer]:
    async with Issuer([new_key()], "https://acme.example").serving() as serving:
        yield serving


def trusted(**prefixes: Issuer) -> dict[str, Any]:
    """Return the setting that trusts each of these, with its prefix: `_` stands for a colon."""
    several = [one.trusted(subject_prefix=name.replace("_", ":")) for name, one in prefixes.items()]
    return {"trusted_issuers": json.dumps(several)}


async def with_keys(start_server: StartServer, settings: dict[str, Any], *several: Issuer) -> LocalServer:
    server = await start_server(**settings)
    await until(lambda: all(one.requests for one in several), "a fetch")
    await until(lambda: not any(s._open for s in sources(server)), "the fetches are over")
    return server


async def test_a_sub_with_another_issuer_s_prefix_is_refused_and_the_audit_log_says_why(
    start_server: StartServer, issuer: Issuer, acme: Issuer, trail: Trail
) -> None:
    several = [acme.trusted(subject_prefix="acme:"), issuer.trusted()]
    server = await with_keys(start_server, {"trusted_issuers": json.dumps(several)}, issuer, acme)
    assert await outcome(server, acme.token("ada")) == "200"
    assert await outcome(server, issuer.token("ada")) == "200"
    for sub in ("acme:ada", "acme:", "acme:acme:ada"):
        assert await outcome(server, issuer.token(sub)) == "401 invalid_token", sub
        assert trail.last(Event.REFUSED)["why"] == "subject_of_another_issuer"
    async with open_socket(server.base, token=issuer.token("acme:ada")) as socket:
        assert await socket.closed() == (4001, "invalid_token")
    assert trail.last(Event.REFUSED)["why"] == "subject_of_another_issuer"
    # What the issuer says of its own subjects is its affair.
    assert await outcome(server, acme.token("acme:ada")) == "200"
    assert await outcome(server, issuer.token("acm")) == "200"


async def test_a_token_without_typ_is_accepted_only_if_its_issuer_is_configured_so(
    start_server: StartServer, issuer: Issuer, acme: Issuer
) -> None:
    several = [issuer.trusted(without_typ=True), acme.trusted()]
    server = await with_keys(start_server, {"trusted_issuers": json.dumps(several)}, issuer, acme)
    assert await outcome(server, issuer.token(head={"typ": ...})) == "200"
    assert await outcome(server, issuer.token()) == "200"
    for typ in ("id+jwt", "secevent+jwt"):
        assert await outcome(server, issuer.token(head={"typ": typ})) == "401 invalid_token"
    assert await outcome(server, acme.token(head={"typ": ...})) == "401 invalid_token"


@pytest.mark.parametrize("claim", ["nonce", "at_hash", "c_hash", "events"])
async def test_an_id_token_or_a_logout_token_is_refused_as_an_access_token(
    start_server: StartServer, issuer: Issuer, trail: Trail, claim: str
) -> None:
    """They may have the same audience, and `typ` tells them apart only where access tokens have one."""
    settings = {"trusted_issuers": json.dumps([issuer.trusted(without_typ=True)])}
    server = await with_keys(start_server, settings, issuer)
    claims: dict[str, Any] = {claim: "x"}
    for head in ({"typ": ...}, {"typ": "JWT"}):
        assert await outcome(server, issuer.token(head=head, **claims)) == "401 invalid_token"
        assert trail.last(Event.REFUSED)["why"] == "no_access_token"
    assert await outcome(server, issuer.token(head={"typ": "at+jwt"}, **claims)) == "200"


async def test_the_audit_log_and_not_the_response_says_why_a_token_is_refused(
    start_server: StartServer, issuer: Issuer, trail: Trail
) -> None:
    settings = {"trusted_issuers": json.dumps([issuer.trusted()]), "unknown_recipients": "reject"}
    server = await with_keys(start_server, settings, issuer)
    await server.service.post("/v1/users", json={"sub": "ada"})
    good = issuer.token()
    now = int(time.time())
    wrong = {
        "malformed": "not.a.jwt",
        "too_long": "a" * 9000,
        "typ": issuer.token(head={"typ": ...}),
        "critical_extension": issuer.token(head={"crit": ["x"], "x": 1}),
        "issuer": issuer.token(iss=issuer.name.rstrip("/")),
        "audience": issuer.token(aud="another"),
        "unknown_key": issuer.token(key=new_key()),
        "algorithm": issuer.token(key=new_key("ES256", issuer.keys[0].kid)),
        "signature": issuer.token(key=new_key(issuer.keys[0].algorithm, issuer.keys[0].kid)),
        "times": issuer.token(iat=now + 0.5),
        "lifetime": issuer.token(exp=now + 90_000),
        "subject": issuer.token(sub="x" * 300),
        "unknown_user": issuer.token(sub="eve"),
        "malformed_api_key": "ngk_x",
        "unknown_api_key": services.new_key()[2],
    }
    assert await outcome(server, good) == "200"
    for why, token in wrong.items():
        answer = await server.http.get("/v1/inbox", headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token"), why
        assert trail.last(Event.REFUSED)["why"] == why
        assert answer.json().keys() == {"type", "title", "status", "detail", "code"}
        assert ("at most 8,192 characters" in answer.json()["detail"]) is (why == "too_long")


async def test_the_longer_of_two_overlapping_prefixes_owns_a_sub(
    start_server: StartServer, issuer: Issuer, acme: Issuer
) -> None:
    server = await with_keys(start_server, trusted(acme_=acme, acme_eu_=issuer), issuer, acme)
    assert await outcome(server, acme.token("ada")) == "200"
    assert await outcome(server, issuer.token("ada")) == "200"
    assert await outcome(server, acme.token("eu:ada")) == "401 invalid_token"
    assert await outcome(server, acme.token("eu")) == "200"


async def test_two_issuers_may_share_a_prefix_and_so_their_users(
    start_server: StartServer, issuer: Issuer, acme: Issuer
) -> None:
    several = [one.trusted(subject_prefix="both:") for one in (issuer, acme)]
    server = await with_keys(start_server, {"trusted_issuers": json.dumps(several)}, issuer, acme)
    assert await outcome(server, acme.token("ada")) == await outcome(server, issuer.token("ada")) == "200"


async def test_a_foreign_user_gets_posts_but_no_password_and_no_token_from_a_minting_service(
    start_server: StartServer, acme: Issuer
) -> None:
    server = await with_keys(start_server, trusted(acme_=acme), acme)
    await server.service.notify("acme:ada", "Hello")
    user = User(server.http, acme.token("ada"), "acme:ada")
    assert [item["title"] for item in (await user.inbox())["items"]] == ["Hello"]
    password = {"password": "zanzibar-quokka-19"}
    for reply in (
        await server.service.post("/v1/users", json={"sub": "acme:bob", **password}),
        await server.service.patch("/v1/users/acme:ada", json=password),
    ):
        assert (reply.status_code, reply.json()["errors"][0]["field"]) == (422, "password")
    assert (await server.service.post("/v1/users", json={"sub": "acme:bob"})).status_code == 201
    assert (await server.service.patch("/v1/users/acme:ada", json={"password": None})).status_code == 200
    made = (await server.service.post("/v1/services", json={"name": "x", "scopes": ["tokens:mint"]})).json()
    key = (await server.service.post(f"/v1/services/{made['client_id']}/keys")).json()["key"]
    minter = Caller(server.http, key)
    assert (await minter.post("/v1/users/ada/tokens")).status_code == 201
    refused = await minter.post("/v1/users/acme:eve/tokens")
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    assert (await server.service.get("/v1/users/acme:eve")).status_code == 404
    # An administrator may do anything, and answers for it.
    assert (await (await server.user("acme:ada")).inbox())["items"] != []


@pytest.mark.parametrize("limit", [1, 2])
async def test_sessions_of_foreign_tokens_count_against_the_limit_and_the_oldest_ends(
    start_server: StartServer,
    issuer: Issuer,
    limit: int,
    trail: Trail,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = await started(start_server, issuer, max_sessions_per_user=limit)
    monkeypatch.setattr(server.state.revocation.finder, "look", look_for_nothing)
    ada = User(server.http, issuer.token(), "ada")
    async with ada.socket() as socket:
        await socket.next("live")
        for _ in range(limit):
            assert await outcome(server, issuer.token()) == "200"
        assert await socket.closed(within=1) == (4001, "token_revoked")
    assert await outcome(server, str(ada.token)) == "401 token_revoked"
    forget(server)
    assert await outcome(server, str(ada.token)) == "401 token_revoked"
    said = trail.last(Event.SESSIONS_ENDED)
    assert (said["why"], said["subject"]) == ("too_many_sessions", "user:ada")
    assert said["sessions"][0].startswith("x-")


def test_each_prefix_overlap_is_reported_in_one_line() -> None:
    def one(name: str, prefix: str) -> TrustedIssuer:
        return TrustedIssuer(issuer=name, audience="a", jwks_url="https://x.example", subject_prefix=prefix)

    assert issuers.overlaps([one("a", "a:"), one("b", "b:")]) == []
    said = issuers.overlaps([one("a", "acme:"), one("b", ""), one("c", "acme:eu:"), one("d", "")])
    assert said == [
        "issuer: a: its tokens are refused where their sub begins with 'acme:eu:': that is the prefix of c",
        "issuer: b: its tokens are refused where their sub begins with 'acme:': that is the prefix of a",
        "issuer: b: its tokens are refused where their sub begins with 'acme:eu:': that is the prefix of c",
        "issuer: b: it shares the prefix '' with d: one sub is one user of both",
        "issuer: d: its tokens are refused where their sub begins with 'acme:': that is the prefix of a",
        "issuer: d: its tokens are refused where their sub begins with 'acme:eu:': that is the prefix of c",
    ]


async def test_gateway_check_reports_overlapping_prefixes(
    issuer: Issuer,
    acme: Issuer,
    sqlite_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    several = [issuer.trusted(), acme.trusted(subject_prefix="acme:")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATEWAY_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("GATEWAY_TRUSTED_ISSUERS", json.dumps(several))
    assert await asyncio.to_thread(cli.run, ["check"]) == 0
    [line] = [one for one in capsys.readouterr().out.splitlines() if "prefix" in one]
    assert line == (
        f"issuer: {issuer.name}: its tokens are refused where their sub begins with 'acme:':"
        f" that is the prefix of {acme.name}"
    )
