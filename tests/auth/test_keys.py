"""The keys that sign: rotation that breaks no token, one algorithm for each, encrypted at rest, published."""

import asyncio
import base64
import hmac
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Connection, select

from gateway.auth import signing
from gateway.auth.signing import Keyring
from gateway.database.database import Database, open_database
from gateway.database.models import signing_keys
from gateway.errors import InvalidToken, Unavailable
from gateway.jobs.timetable import KEY_REFRESH_SECONDS
from gateway.settings import SettingsError, load_settings
from tests.support.clients import User
from tests.support.commands import RunCommand
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, StartServer

P = ParamSpec("P")
T = TypeVar("T")

NOW = 1_800_000_000.0
SECRET = "a secret of thirty-two bytes or more"
KEY = "the key that encrypts the other keys"
OTHER_KEY = "another key that encrypts other keys"
PASSWORD = "correct horse battery"


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Failing:
    """A real database that cannot be used while it is `down`."""

    database: Database
    down: bool = False

    async def lookup(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self.read(work, *args, **kwargs)

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self.down:
            raise Unavailable
        return await self.database.read(work, *args, **kwargs)

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self.down:
            raise Unavailable
        return await self.database.write(work, *args, **kwargs)


async def keyring(database: Database, clock: Clock, **settings: Any) -> Keyring:
    wake = Keyring(settings_for("sqlite:///unused.db", **settings), database, clock)
    await wake.start()
    return wake


def encoded_key(key: str | None) -> bytes | None:
    return None if key is None else key.encode()


async def rotate(database: Database, clock: Clock, key: str | None = None) -> str:
    return await database.write(signing.rotate, int(clock.now * 1000), encoded_key(key))


async def rotate_on(server: LocalServer, key: str | None = None) -> None:
    """Rotate, and let the gateway believe that what comes before the new key signs is over."""
    now_ms = int(time.time() * 1000)
    await server.state.database.write(signing.rotate, now_ms, encoded_key(key))
    await server.state.tokens.load_keys()
    server.state.tokens.keys._clock = lambda: time.time() + signing.SIGNING_DELAY_SECONDS


def published(wake: Keyring) -> set[str]:
    return {key["kid"] for key in wake.jwks()["keys"]}


def stored(connection: Connection) -> dict[str, str]:
    return {row.kid: row.private_pem for row in connection.execute(select(signing_keys))}


# --- rotation -----------------------------------------------------------------------------------------------


async def test_a_new_key_signs_only_after_the_signing_delay(database: Database) -> None:
    clock = Clock()
    wake = await keyring(database, clock)
    old = wake.newest.kid
    kid = await rotate(database, clock)
    await wake.load()
    assert (wake.newest.kid, published(wake)) == (old, {old, kid})
    clock.now += signing.SIGNING_DELAY_SECONDS - 0.01
    assert wake.newest.kid == old
    clock.now += 0.02
    assert wake.newest.kid == kid


@pytest.mark.parametrize("late", [0.0, 0.1, 2.5, 4.9])
async def test_no_process_signs_with_a_rotated_key_before_every_other_has_published_it(
    database: Database, late: float
) -> None:
    """Two processes look for new keys every `KEY_REFRESH_SECONDS`, one `late` seconds after the other."""
    here_clock, there_clock = Clock(), Clock()
    here, there = await keyring(database, here_clock), await keyring(database, there_clock)
    signed: set[str] = set()
    for tenth in range(300):
        for wake, clock, begin in ((here, here_clock, 0.0), (there, there_clock, late)):
            clock.now = NOW + tenth / 10
            if (tenth - round(begin * 10)) % (KEY_REFRESH_SECONDS * 10) == 0:
                await wake.load()
        if tenth in {51, 60}:
            await rotate(database, here_clock)
        for wake, other in ((here, there), (there, here)):
            kid = wake.newest.kid
            signed.add(kid)
            assert kid in published(other), f"after {tenth / 10} s"
            assert (await other.find(kid)).kid == kid
    assert len(signed) == 3
    assert here.newest.kid == there.newest.kid


async def test_processes_that_start_together_on_an_empty_database_create_one_key(database_url: str) -> None:
    async with (
        open_database(settings_for(database_url)) as one,
        open_database(settings_for(database_url)) as other,
    ):
        rings = await asyncio.gather(*(keyring(each, Clock()) for each in (one, other) * 4))
        assert len(await one.read(stored)) == 1
        assert len({wake.newest.kid for wake in rings}) == 1


async def test_an_unknown_kid_raises_unavailable_while_the_database_is_unavailable(
    database: Database,
) -> None:
    clock, failing = Clock(), Failing(database)
    wake = await keyring(failing, clock)
    kid = await rotate(database, clock)
    clock.now += signing.MIN_RELOAD_SECONDS
    failing.down = True
    for _ in range(3):
        with pytest.raises(Unavailable):
            await wake.find(kid)
    failing.down = False
    assert (await wake.find(kid)).kid == kid


async def test_tokens_from_before_a_rotation_stay_valid(server: LocalServer) -> None:
    ada = await server.user()
    await rotate_on(server)
    fresh = await server.user()
    assert fresh.token is not None
    assert ada.token is not None
    kids = [jwt.get_unverified_header(one)["kid"] for one in (ada.token, fresh.token)]
    assert kids[0] != kids[1]
    server.state.tokens.remembered.clear()
    for user in (ada, fresh):
        await user.inbox()


# --- one algorithm for one key ------------------------------------------------------------------------------


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


async def test_switching_the_secret_on_and_off_never_gives_one_kid_two_algorithms(
    database: Database,
) -> None:
    clock = Clock()
    pairs = await keyring(database, clock)
    secret = await keyring(database, clock, jwt_secret=SECRET)
    again = await keyring(database, clock)
    assert (pairs.newest.algorithm, secret.newest.algorithm) == ("EdDSA", "HS256")
    assert again.newest.kid == pairs.newest.kid
    assert published(secret) == set()
    for wake, kid in ((secret, pairs.newest.kid), (pairs, secret.newest.kid), (again, secret.newest.kid)):
        await wake.load()
        with pytest.raises(InvalidToken):
            await wake.find(kid)


async def test_switching_the_algorithm_invalidates_access_tokens_and_keeps_sign_ins(
    start_server: StartServer,
) -> None:
    with_pairs = await start_server()
    with_secret = await start_server(jwt_secret=SECRET)
    form = {"grant_type": "password", "username": "ada", "password": PASSWORD}
    await with_pairs.service.post("/v1/users", json={"sub": "ada", "password": PASSWORD})
    tokens = (await with_pairs.stranger.post("/v1/auth/token", data=form)).json()
    by_pair = tokens["access_token"]
    by_secret = (await with_secret.user()).token
    assert by_secret is not None
    key = with_pairs.state.tokens.keys.newest
    head = {"typ": "at+jwt", "alg": "HS256", "kid": key.kid}
    confused = f"{encoded(json.dumps(head).encode())}.{by_secret.split('.')[1]}"
    macs = [
        hmac.digest(secret, confused.encode(), "sha256")
        for secret in (
            SECRET.encode(),
            key.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            key.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            key.public.public_bytes_raw(),
        )
    ]
    forged = [f"{confused}.{encoded(mac)}" for mac in macs]
    for server, strange in ((with_secret, [by_pair, *forged]), (with_pairs, [by_secret, *forged])):
        for token in strange:
            answer = await User(server.http, token, "ada").get("/v1/inbox")
            assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
    refresh = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    renewed = (await with_secret.stranger.post("/v1/auth/token", data=refresh)).json()
    assert (await User(with_secret.http, renewed["access_token"], "ada").inbox())["seq"] == 0


# --- at rest ------------------------------------------------------------------------------------------------


async def test_plain_keys_are_encrypted_at_the_start_and_keep_signing(database: Database) -> None:
    clock = Clock()
    plain = await keyring(database, clock)
    [before] = (await database.read(stored)).values()
    assert before.startswith("-----BEGIN PRIVATE KEY-----")
    wake = await keyring(database, clock, key_encryption_key=KEY)
    [after] = (await database.read(stored)).values()
    assert after.startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert wake.newest.kid == plain.newest.kid
    assert wake.newest.private.private_bytes_raw() == plain.newest.private.private_bytes_raw()
    await keyring(database, clock, key_encryption_key=KEY)
    assert list((await database.read(stored)).values()) == [after]


async def test_the_first_key_and_a_rotated_one_are_encrypted(database: Database) -> None:
    clock = Clock()
    wake = await keyring(database, clock, key_encryption_key=KEY)
    kid = await rotate(database, clock, KEY)
    await wake.load()
    assert kid in published(wake)
    keys = await database.read(stored)
    assert len(keys) == 2
    assert all(pem.startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----") for pem in keys.values())


@pytest.mark.parametrize("given", [OTHER_KEY, None])
async def test_a_wrong_or_missing_encryption_key_stops_the_start(
    database: Database, given: str | None
) -> None:
    await keyring(database, Clock(), key_encryption_key=KEY)
    with pytest.raises(SettingsError, match=r"^GATEWAY_KEY_ENCRYPTION_KEY: "):
        await keyring(database, Clock(), key_encryption_key=given)


async def test_the_keys_are_encrypted_even_while_a_secret_signs(database: Database) -> None:
    await keyring(database, Clock())
    await keyring(database, Clock(), jwt_secret=SECRET, key_encryption_key=KEY)
    assert "ENCRYPTED" in next(iter((await database.read(stored)).values()))


async def test_a_key_that_cannot_be_decrypted_does_not_stop_a_running_process(
    start_server: StartServer,
) -> None:
    server = await start_server()
    server.expected.append("a signing key cannot be read")
    ada = await server.user()
    for _ in range(2):
        await rotate_on(server, KEY)
    server.state.tokens.remembered.clear()
    await ada.inbox()
    await (await server.user()).inbox()


@pytest.mark.parametrize(
    "arguments", [("serve", "--port", "0"), ("signing-key", "rotate"), ("token", "ada")], ids=" ".join
)
async def test_a_wrong_encryption_key_stops_a_command_with_one_line_that_names_the_setting(
    database_url: str, run_command: RunCommand, arguments: tuple[str, ...]
) -> None:
    async with open_database(settings_for(database_url)) as database:
        await keyring(database, Clock(), key_encryption_key=KEY)
        before = await database.read(stored)
        settings = {"database_url": database_url, "key_encryption_key": OTHER_KEY}
        done = await asyncio.to_thread(run_command, *arguments, **settings)
        assert (done.returncode, done.stdout) == (2, "")
        [line] = done.stderr.splitlines()
        assert line.startswith("gateway: GATEWAY_KEY_ENCRYPTION_KEY: ")
        assert OTHER_KEY not in line
        assert await database.read(stored) == before


@pytest.mark.parametrize("key", ["", "x" * 31, "x" * 1024])
def test_a_key_encryption_key_outside_the_length_limits_is_refused(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_KEY_ENCRYPTION_KEY", key)
    with pytest.raises(SettingsError, match=r"^GATEWAY_KEY_ENCRYPTION_KEY: it must have 32"):
        load_settings()
    monkeypatch.setenv("GATEWAY_KEY_ENCRYPTION_KEY", "x" * 32)
    assert "xxx" not in repr(load_settings())


@pytest.mark.parametrize("made_before", [True, False])
async def test_the_sqlite_files_are_readable_only_by_their_owner(tmp_path: Path, made_before: bool) -> None:
    files = [tmp_path / f"gateway.db{suffix}" for suffix in ("", "-wal", "-shm")]
    before = os.umask(0)
    try:
        if made_before:
            async with open_database(settings_for(f"sqlite:///{files[0]}")) as database:
                await database.write(lambda connection: connection.exec_driver_sql("CREATE TABLE t (a)"))
                for file in files:
                    file.chmod(0o644)
                async with open_database(settings_for(f"sqlite:///{files[0]}")) as other:
                    await other.read(lambda connection: connection.exec_driver_sql("SELECT a FROM t"))
                    assert [oct(file.stat().st_mode & 0o777) for file in files] == ["0o600"] * 3
        async with open_database(settings_for(f"sqlite:///{files[0]}")) as database:
            await database.write(lambda connection: connection.exec_driver_sql("CREATE TABLE u (a)"))
            assert [oct(file.stat().st_mode & 0o777) for file in files] == ["0o600"] * 3
    finally:
        os.umask(before)


# --- what is published --------------------------------------------------------------------------------------


async def test_the_public_keys_are_cacheable_and_revalidated_by_their_etag(server: LocalServer) -> None:
    path = "/.well-known/jwks.json"
    first = await server.stranger.get(path)
    assert first.headers["cache-control"] == "public, max-age=300"
    assert first.headers["content-type"] == "application/json"
    etag = first.headers["etag"]
    for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        answer = await server.stranger.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    await rotate_on(server)
    second = await server.stranger.get(path, headers={"If-None-Match": etag})
    assert second.status_code == 200
    assert second.headers["etag"] != etag
    assert len(second.json()["keys"]) == 2
    assert all("d" not in key for key in second.json()["keys"])


async def test_the_oauth_metadata_lists_every_endpoint(server: LocalServer) -> None:
    answer = await server.stranger.get("/.well-known/oauth-authorization-server")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    base = str(server.http.base_url).rstrip("/")
    assert found == {
        "issuer": server.state.settings.issuer,
        "token_endpoint": f"{base}/v1/auth/token",
        "revocation_endpoint": f"{base}/v1/auth/revoke",
        "jwks_uri": f"{base}/.well-known/jwks.json",
        "scopes_supported": ["inbox", "notify", "tokens:mint", "admin"],
        "response_types_supported": [],
        "grant_types_supported": ["password", "refresh_token", "client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
        "revocation_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
    }
    token = (await server.user()).token
    assert token is not None
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["iss"] == found["issuer"]
    assert (await server.http.get(found["jwks_uri"])).status_code == 200
    assert (await server.http.post(found["revocation_endpoint"], data={"token": "x"})).status_code == 200
    for grant in found["grant_types_supported"]:
        refused = await server.http.post(found["token_endpoint"], data={"grant_type": grant})
        assert refused.json()["error"] in {"invalid_request", "invalid_client"}


async def test_the_oauth_metadata_ignores_the_host_header_if_the_public_url_is_set(
    start_server: StartServer,
) -> None:
    server = await start_server(public_url="https://notify.example.com/gateway/")
    path = "/.well-known/oauth-authorization-server"
    first = await server.stranger.get(path)
    second = await server.stranger.get(path, headers={"Host": "evil.example"})
    assert first.json() == second.json()
    assert first.json()["token_endpoint"] == "https://notify.example.com/gateway/v1/auth/token"
    assert first.headers["cache-control"] == "public, max-age=300"
    again = await server.stranger.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize(
    "url", ["", "notify.example.com", "ftp://x", "https://", "https://u:p@x", "https://x?y", "https://x#y"]
)
def test_an_invalid_public_url_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PUBLIC_URL", url)
    with pytest.raises(SettingsError, match=r"^GATEWAY_PUBLIC_URL: "):
        load_settings()
