"""Who calls, by section 2 of the contract: the token endpoint, users, services, keys, sessions."""

import base64
import json
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import jwt
import pytest

from gateway.api.oauth import MAX_FIELDS
from gateway.errors import Overloaded, RateLimited, Unavailable
from tests.support.checker import Json
from tests.support.clients import Service, User
from tests.support.servers import LocalServer, StartServer
from tests.support.waiting import until

PASSWORD = "correct horse battery"


async def token(server: LocalServer, **form: str) -> httpx.Response:
    return await server.stranger.post("/v1/auth/token", data=form)


async def sign_in(server: LocalServer, sub: str = "ada", password: str = PASSWORD) -> httpx.Response:
    return await token(server, grant_type="password", username=sub, password=password)


async def create_user(server: LocalServer, sub: str = "ada", **fields: Any) -> httpx.Response:
    return await server.service.post("/v1/users", json={"sub": sub, "password": PASSWORD} | fields)


async def create_service(server: LocalServer, *scopes: str) -> Json:
    answer = await server.service.post("/v1/services", json={"name": "backend", "scopes": list(scopes)})
    assert answer.status_code == 201, answer.text
    body: Json = answer.json()
    return body


def basic(client_id: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()}


# --- signing in ---------------------------------------------------------------------------------------------


async def test_signing_in_with_a_password_returns_a_token_for_the_inbox(server: LocalServer) -> None:
    assert (await create_user(server)).status_code == 201
    answer = await sign_in(server)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert set(body) == {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
    assert (body["token_type"], body["expires_in"], body["scope"]) == ("Bearer", 900, "inbox")
    ada = User(server.http, body["access_token"], "ada")
    assert (await ada.inbox())["seq"] == 0


async def test_a_token_has_the_documented_claims_and_verifies_with_a_published_key(
    server: LocalServer,
) -> None:
    ada = await server.user("ada", ttl=60)
    assert ada.token is not None
    keys = jwt.PyJWKSet.from_dict((await server.stranger.get("/.well-known/jwks.json")).json())
    header = jwt.get_unverified_header(ada.token)
    assert (header["typ"], header["alg"]) == ("at+jwt", "EdDSA")
    claims = jwt.decode(
        ada.token, keys[header["kid"]], algorithms=["EdDSA"], audience=server.state.settings.audience
    )
    assert set(claims) == {"iss", "aud", "sub", "client_id", "scope", "iat", "exp", "jti", "sid"}
    assert (claims["iss"], claims["sub"], claims["scope"]) == (server.state.settings.issuer, "ada", "inbox")
    assert claims["exp"] - claims["iat"] == 60


async def test_only_public_keys_are_published(server: LocalServer) -> None:
    (key,) = (await server.stranger.get("/.well-known/jwks.json")).json()["keys"]
    assert set(key) == {"kty", "crv", "alg", "use", "kid", "x"}


async def test_a_configured_secret_signs_tokens_and_is_not_published(start_server: StartServer) -> None:
    server = await start_server(jwt_secret="0123456789abcdef0123456789abcdef")
    ada = await server.user()
    assert ada.token is not None
    assert jwt.get_unverified_header(ada.token)["alg"] == "HS256"
    assert (await ada.inbox())["seq"] == 0
    assert (await server.stranger.get("/.well-known/jwks.json")).json() == {"keys": []}


async def test_every_sign_in_failure_returns_the_same_error(server: LocalServer) -> None:
    await create_user(server)
    await create_user(server, "disabled")
    await server.service.patch("/v1/users/disabled", json={"disabled": True})
    await server.service.post("/v1/users", json={"sub": "passwordless"})
    attempts = {
        "a wrong password": ("ada", "wrong"),
        "an unknown user": ("nobody", PASSWORD),
        "a disabled user": ("disabled", PASSWORD),
        "a user without a password": ("passwordless", PASSWORD),
        "a name that is none": ("x" * 300, PASSWORD),
        "a name with a NUL": ("\x00", PASSWORD),
        "a password with a NUL": ("ada", PASSWORD + "\x00"),
        "a very long password": ("ada", "x" * 10_000),
    }
    answers = {name: await sign_in(server, *attempt) for name, attempt in attempts.items()}
    assert {answer.status_code for answer in answers.values()} == {400}
    assert {answer.text for answer in answers.values()} == {answers["a wrong password"].text}
    assert answers["a wrong password"].json()["error"] == "invalid_grant"


async def test_an_invalid_token_request_gets_the_rfc_6749_error(
    server: LocalServer, subtests: pytest.Subtests
) -> None:
    await create_user(server)
    known = {"username": "ada", "password": PASSWORD}
    cases: list[tuple[dict[str, str], str]] = [
        ({}, "invalid_request"),
        ({"grant_type": ""}, "invalid_request"),
        ({"grant_type": "implicit"}, "unsupported_grant_type"),
        ({"grant_type": "password"}, "invalid_request"),
        ({"grant_type": "password", "username": "ada"}, "invalid_request"),
        ({"grant_type": "password", **known, "scope": "admin"}, "invalid_scope"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "garbage"}, "invalid_grant"),
    ]
    for form, error in cases:
        with subtests.test(str(form)):
            answer = await token(server, **form)
            assert answer.status_code == 400
            assert set(answer.json()) == {"error", "error_description"}
            assert answer.json()["error"] == error
            assert answer.headers["cache-control"] == "no-store"


async def test_the_token_endpoint_refuses_json(server: LocalServer) -> None:
    answer = await server.stranger.post("/v1/auth/token", json={"grant_type": "password"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("path", ["/v1/auth/token", "/v1/auth/revoke"])
async def test_a_multipart_form_is_refused(server: LocalServer, path: str) -> None:
    await create_user(server)
    form = {"grant_type": "password", "username": "ada", "password": PASSWORD, "token": "x"}
    answer = await server.stranger.post(path, files={name: (None, value) for name, value in form.items()})
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "invalid_request",
        "error_description": "The body must come with Content-Type: application/x-www-form-urlencoded.",
    }


async def test_a_repeated_field_is_refused(server: LocalServer) -> None:
    form = b"grant_type=password&grant_type=password&username=ada&password=x"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await server.stranger.post("/v1/auth/token", content=form, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("path", ["/v1/auth/token", "/v1/auth/revoke"])
async def test_a_form_over_the_field_limit_is_refused(server: LocalServer, path: str) -> None:
    await create_user(server)
    form = urlencode({"grant_type": "password", "username": "ada", "password": PASSWORD, "token": "x"})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    others = "".join(f"&field{number}=" for number in range(MAX_FIELDS - 4))
    answer = await server.stranger.post(path, content=form + others, headers=headers)
    assert answer.status_code == 200, answer.text
    for more in ("&one=more", "&" * 12_000):
        answer = await server.stranger.post(path, content=form + others + more, headers=headers)
        assert answer.status_code == 400
        assert answer.json() == {
            "error": "invalid_request",
            "error_description": f"A form has at most {MAX_FIELDS} fields.",
        }


async def test_a_form_is_read_as_utf_8_with_or_without_percent_encoding(server: LocalServer) -> None:
    password = "ein Käuzchen im Gemäuer"
    assert (await create_user(server, password=password)).status_code == 201
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}
    form = f"grant_type=password&username=ada&password={password}".encode()
    for escaped in (form, urlencode({"grant_type": "password", "username": "ada", "password": password})):
        answer = await server.stranger.post("/v1/auth/token", content=escaped, headers=headers)
        assert answer.status_code == 200, answer.text
    answer = await server.stranger.post("/v1/auth/token", content=b"grant_type=\xff", headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_a_refresh_token_gives_another_access_token_and_refresh_token(server: LocalServer) -> None:
    await create_user(server)
    first = (await sign_in(server)).json()
    answer = await token(server, grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert answer.status_code == 200, answer.text
    fresh = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert set(fresh) == set(first)
    assert fresh["access_token"] != first["access_token"]
    assert fresh["refresh_token"] != first["refresh_token"]
    assert (await User(server.http, fresh["access_token"], "ada").inbox())["seq"] == 0


async def test_a_service_gets_a_token_with_basic_or_form_credentials(server: LocalServer) -> None:
    made = await create_service(server, "notify", "tokens:mint")
    client_id, secret = made["client_id"], made["client_secret"]
    grant = {"grant_type": "client_credentials"}
    by_basic = await server.stranger.post("/v1/auth/token", data=grant, headers=basic(client_id, secret))
    by_form = await token(server, **grant, client_id=client_id, client_secret=secret)
    for answer in (by_basic, by_form):
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert set(body) == {"access_token", "token_type", "expires_in", "scope"}
        assert body["scope"].split() == ["notify", "tokens:mint"]
        service = Service(server.http, body["access_token"])
        await service.notify("ada")
        assert (await service.get("/v1/users")).status_code == 403
    narrowed = (
        await token(server, **grant, client_id=client_id, client_secret=secret, scope="notify")
    ).json()
    assert narrowed["scope"] == "notify"
    answer = await Service(server.http, narrowed["access_token"]).post("/v1/users/ada/tokens")
    assert answer.json()["code"] == "insufficient_scope"


async def test_failed_client_authentication_gets_a_401_invalid_client(server: LocalServer) -> None:
    made = await create_service(server, "notify")
    grant = {"grant_type": "client_credentials"}
    wrong: list[dict[str, Any]] = [
        {"data": grant},
        {"data": {**grant, "client_id": made["client_id"], "client_secret": "wrong"}},
        {"data": {**grant, "client_id": "nobody", "client_secret": made["client_secret"]}},
        {"data": {**grant, "client_id": "\x00", "client_secret": "\x00"}},
        {"data": grant, "headers": basic(made["client_id"], "wrong")},
        {"data": grant, "headers": {"Authorization": "Basic !!!"}},
    ]
    for options in wrong:
        answer = await server.stranger.post("/v1/auth/token", **options)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), options
        assert answer.headers["www-authenticate"].startswith("Basic")


@pytest.mark.parametrize("path", ["/v1/auth/token", "/v1/auth/revoke"])
@pytest.mark.parametrize("grant", ["password", "refresh_token", "client_credentials", "no_such_grant"])
async def test_wrong_client_credentials_get_a_401_for_every_grant(
    server: LocalServer, grant: str, path: str
) -> None:
    await create_user(server)
    made = await create_service(server, "notify")
    refresh_token = (await sign_in(server)).json()["refresh_token"]
    form = {"grant_type": grant, "username": "ada", "password": PASSWORD}
    form |= {"refresh_token": refresh_token, "token": refresh_token}
    client_id = {"client_id": made["client_id"]}
    wrong: list[dict[str, Any]] = [
        {"data": {**form, **client_id, "client_secret": "wrong"}},
        {"data": {**form, "client_id": "nobody", "client_secret": made["client_secret"]}},
        {"data": {**form, "client_secret": made["client_secret"]}},
        {"data": form, "headers": basic(made["client_id"], "wrong")},
        {"data": form, "headers": {"Authorization": "basic !!!"}},
        {
            "data": {**form, "client_id": "another"},
            "headers": basic(made["client_id"], made["client_secret"]),
        },
    ]
    for options in wrong:
        answer = await server.stranger.post(path, **options)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), options
        assert answer.headers["www-authenticate"].startswith("Basic")
        assert answer.headers["cache-control"] == "no-store"
    both = {**form, **client_id, "client_secret": made["client_secret"]}
    headers = basic(made["client_id"], made["client_secret"])
    answer = await server.stranger.post(path, data=both, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert (await token(server, grant_type="refresh_token", refresh_token=refresh_token)).status_code == 200


async def test_a_client_may_authenticate_or_send_only_its_id_with_user_grants(
    server: LocalServer,
) -> None:
    await create_user(server)
    made = await create_service(server, "notify")
    headers = basic(made["client_id"], made["client_secret"])
    form = {"grant_type": "password", "username": "ada", "password": PASSWORD}
    for options in ({"headers": headers}, {}):
        data = {**form, "client_id": made["client_id"]}
        signed_in = await server.stranger.post("/v1/auth/token", data=data, **options)
        assert signed_in.status_code == 200, signed_in.text
        refresh = {"grant_type": "refresh_token", "refresh_token": signed_in.json()["refresh_token"]}
        assert (await server.stranger.post("/v1/auth/token", data=refresh, **options)).status_code == 200
        revoked = {"token": signed_in.json()["access_token"], "client_id": made["client_id"]}
        assert (await server.stranger.post("/v1/auth/revoke", data=revoked, **options)).status_code == 200
    unknown = await server.stranger.post("/v1/auth/token", data={"grant_type": "x"}, headers=headers)
    assert unknown.json()["error"] == "unsupported_grant_type"
    # What is empty is omitted: Swagger UI sends it.
    nobody = basic("", "")
    assert (await server.stranger.post("/v1/auth/token", data=form, headers=nobody)).status_code == 200
    refused = await server.stranger.post(
        "/v1/auth/token", data={"grant_type": "client_credentials"}, headers=nobody
    )
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize("path", ["/v1/auth/token", "/v1/auth/revoke"])
async def test_every_oauth_error_has_an_rfc_6749_body(
    server: LocalServer, path: str, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    form = {"grant_type": "refresh_token", "refresh_token": "x", "token": "x"}

    async def fail(error: Exception) -> httpx.Response:
        def raises(*_: object) -> None:
            raise error

        with monkeypatch.context() as broken:
            broken.setattr(server.state.database, "lookup", raises)
            return await server.stranger.post(path, data=form)

    server.expected += ["a request failed", "Exception in ASGI application"]
    cases: list[tuple[httpx.Response, int, str]] = [
        (await server.stranger.post(path, data={"token": "x" * 300_000}), 413, "invalid_request"),
        (await server.stranger.get(path), 405, "invalid_request"),
        (await fail(RateLimited("auth", quota=1, window=1, retry_after=7)), 429, "rate_limited"),
        (await fail(Unavailable(retry_after=7)), 503, "temporarily_unavailable"),
        (await fail(Overloaded(retry_after=7)), 503, "temporarily_unavailable"),
        (await fail(RuntimeError("a secret")), 500, "server_error"),
    ]
    for answer, status, error in cases:
        with subtests.test(str(status)):
            assert (answer.status_code, answer.json().get("error")) == (status, error)
            assert set(answer.json()) == {"error", "error_description"}
            assert answer.json()["error_description"]
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-request-id"]
            assert answer.headers.get("retry-after") == ("7" if status in {429, 503} else None)
            assert answer.headers.get("allow") == ("POST" if status == 405 else None)
            assert "secret" not in answer.text


# --- signing out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
async def test_revoking_a_token_ends_its_session_and_no_other(server: LocalServer, which: str) -> None:
    await create_user(server)
    one, two = (await sign_in(server)).json(), (await sign_in(server)).json()
    ada, also_ada = (User(server.http, each["access_token"], "ada") for each in (one, two))
    await ada.inbox()
    answer = await server.stranger.post("/v1/auth/revoke", data={"token": one[which]})
    assert answer.status_code == 200
    refused = await ada.get("/v1/inbox")
    assert (refused.status_code, refused.json()["code"]) == (401, "token_revoked")
    refresh = await token(server, grant_type="refresh_token", refresh_token=one["refresh_token"])
    assert refresh.json()["error"] == "invalid_grant"
    await also_ada.inbox()


async def test_revoking_an_invalid_token_returns_200(server: LocalServer) -> None:
    for garbage in ("garbage", "a.b.c", "\x00", "x" * 10_000):
        answer = await server.stranger.post("/v1/auth/revoke", data={"token": garbage})
        assert answer.status_code == 200, answer.text


async def test_only_users_get_tickets_and_a_ticket_is_not_an_access_token(server: LocalServer) -> None:
    ada = await server.user()
    answer = await ada.post("/v1/auth/ticket")
    assert set(answer.json()) == {"ticket", "expires_in"}
    assert answer.headers["cache-control"] == "no-store"
    as_token = await User(server.http, answer.json()["ticket"], "ada").get("/v1/inbox")
    assert as_token.status_code == 401
    assert (await server.service.post("/v1/auth/ticket")).status_code == 403
    assert (await server.stranger.post("/v1/auth/ticket")).status_code == 401


# --- tokens at every entrance -------------------------------------------------------------------------------


async def test_a_token_expires(server: LocalServer) -> None:
    ada = await server.user("ada", ttl=1)

    async def code() -> bool:
        answer = await ada.get("/v1/inbox")
        return answer.status_code == 401 and bool(answer.json()["code"] == "token_expired")

    await until(code, "the token of one second has expired")


async def test_a_401_carries_a_challenge(server: LocalServer) -> None:
    bare = await server.stranger.get("/v1/inbox")
    assert bare.headers["www-authenticate"] == "Bearer"
    wrong = await Service(server.http, "garbage").get("/v1/inbox")
    assert 'error="invalid_token"' in wrong.headers["www-authenticate"]
    assert wrong.headers["content-type"] == "application/problem+json"


async def test_the_bearer_scheme_is_case_insensitive_and_other_schemes_get_a_401(server: LocalServer) -> None:
    ada = await server.user()
    for scheme, status in (("bearer", 200), ("BEARER", 200), ("Basic", 401), ("Token", 401)):
        headers = {"Authorization": f"{scheme} {ada.token}"}
        assert (await server.stranger.get("/v1/inbox", headers=headers)).status_code == status


async def test_a_token_with_a_forged_header_is_refused(server: LocalServer) -> None:
    ada = await server.user()
    assert ada.token is not None
    _, body, signature = ada.token.split(".")

    def forge(**header: Any) -> str:
        text = json.dumps({"typ": "at+jwt", "alg": "EdDSA", **header}).encode()
        return f"{base64.urlsafe_b64encode(text).rstrip(b'=').decode()}.{body}.{signature}"

    kid = jwt.get_unverified_header(ada.token)["kid"]
    for forged in (
        forge(kid=kid, jku="https://evil.example/jwks.json"),
        forge(kid="../../etc/passwd"),
        forge(kid="' OR 1=1 --"),
        forge(kid=["x"]),
        forge(kid=None),
        forge(kid=kid, alg="none"),
        forge(kid=kid, alg="HS256"),
        forge(kid=kid, typ="JWT"),
        forge(kid=kid, crit=["x"]),
    ):
        answer = await User(server.http, forged, "ada").get("/v1/inbox")
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")


# --- users --------------------------------------------------------------------------------------------------


async def test_a_user_is_created_read_listed_changed_and_erased(server: LocalServer) -> None:
    made = await create_user(server)
    assert made.status_code == 201
    assert made.headers["location"] == "/v1/users/ada"
    assert made.json()["sub"] == "ada"
    assert "password" not in made.text.replace("has_password", "")
    assert (await create_user(server)).status_code == 409
    assert (await server.service.get("/v1/users/ada")).json() == made.json()
    await server.service.notify("ada")
    changed = await server.service.patch("/v1/users/ada", json={"disabled": True})
    assert changed.json()["disabled"] is True
    erased = await server.service.delete("/v1/users/ada")
    assert erased.status_code == 204
    assert (await server.service.get("/v1/users/ada")).status_code == 404
    assert (await (await server.user("ada")).inbox())["seq"] == 0


async def test_users_are_listed_page_by_page(server: LocalServer) -> None:
    subs = [f"user {index}" for index in range(7)]
    await server.service.notify(subs)
    seen: list[str] = []
    params: Json = {"limit": 3}
    while True:
        page = (await server.service.get("/v1/users", params=params)).json()
        seen += [user["sub"] for user in page["items"]]
        if page["next"] is None:
            break
        params["cursor"] = page["next"]
    assert sorted(seen) == subs


async def test_a_new_password_replaces_the_old_one_and_ends_the_sessions(server: LocalServer) -> None:
    await create_user(server)
    ada = User(server.http, (await sign_in(server)).json()["access_token"], "ada")
    answer = await server.service.patch("/v1/users/ada", json={"password": "another good password"})
    assert answer.status_code == 200
    assert (await ada.get("/v1/inbox")).status_code == 401
    assert (await sign_in(server)).status_code == 400
    assert (await sign_in(server, password="another good password")).status_code == 200


async def test_a_disabled_user_has_no_access_until_enabled(server: LocalServer) -> None:
    await create_user(server)
    ada = await server.user()
    await ada.inbox()
    await server.service.patch("/v1/users/ada", json={"disabled": True})
    assert (await ada.get("/v1/inbox")).json()["code"] == "token_revoked"
    assert (await server.service.post("/v1/users/ada/tokens")).status_code == 409
    await server.service.notify("ada", "waits")
    await server.service.patch("/v1/users/ada", json={"disabled": False})
    again = User(server.http, (await sign_in(server)).json()["access_token"], "ada")
    assert (await again.inbox())["seq"] == 1


async def test_any_sub_can_be_managed_by_its_path(server: LocalServer, subtests: pytest.Subtests) -> None:
    for sub in ("a/b", "a b", "ü", "🎉", "a%2Fb", "a?b#c", "a+b", "a..", "a//b", "a\\b", "'", "x" * 255):
        with subtests.test(sub):
            assert (await create_user(server, sub)).status_code == 201
            path = "/v1/users/" + quote(sub, safe="").replace(".", "%2E")
            answer = await server.service.get(path)
            assert (answer.status_code, answer.json().get("sub")) == (200, sub)
            minted = await server.service.post(path + "/tokens")
            user = User(server.http, minted.json()["access_token"], sub)
            async with user.socket() as socket:
                assert (await socket.receive())["sub"] == sub
            assert (await server.service.delete(path + "/sessions")).status_code == 204
            assert (await server.service.delete(path)).status_code == 204


async def test_an_invalid_user_body_or_sub_is_refused(server: LocalServer, subtests: pytest.Subtests) -> None:
    bodies: list[Any] = [
        {},
        {"sub": ""},
        {"sub": ".."},
        {"sub": "x" * 256},
        {"sub": "a\nb"},
        {"sub": "a\x00b"},
        {"sub": 5},
        {"sub": "ada", "password": "short"},
        {"sub": "ada", "password": "x" * 300},
        {"sub": "ada", "password": 5},
        {"sub": "ada", "admin": True},
        [],
    ]
    for body in bodies:
        with subtests.test(str(body)[:60]):
            answer = await server.service.post("/v1/users", json=body)
            assert answer.status_code == 422, answer.text
    for path in ("/v1/users/%00", "/v1/users/%0A", "/v1/users/%FF", "/v1/users/" + "x" * 256):
        with subtests.test(path[:40]):
            answer = await server.service.get(path)
            assert answer.status_code in {404, 422}, answer.text


async def test_minting_creates_a_missing_user_and_limits_the_ttl(server: LocalServer) -> None:
    answer = await server.service.post("/v1/users/new/tokens", json={"ttl": 120})
    assert answer.status_code in {200, 201}
    body = answer.json()
    assert {"access_token", "token_type", "expires_in"} <= set(body)
    assert body["expires_in"] == 120
    assert answer.headers["cache-control"] == "no-store"
    assert (await server.service.get("/v1/users/new")).status_code == 200
    for ttl in (0, -1, 86_401, "x", 1.5):
        refused = await server.service.post("/v1/users/new/tokens", json={"ttl": ttl})
        assert refused.status_code == 422, (ttl, refused.text)


async def test_minting_again_does_not_end_the_first_token(server: LocalServer) -> None:
    one, two = await server.user(), await server.user()
    await one.inbox()
    await two.inbox()


async def test_ending_a_users_sessions_revokes_every_token(server: LocalServer) -> None:
    await create_user(server)
    signed_in = (await sign_in(server)).json()
    minted = await server.user()
    await minted.inbox()
    assert (await server.service.delete("/v1/users/ada/sessions")).status_code == 204
    for each in (minted, User(server.http, signed_in["access_token"], "ada")):
        assert (await each.get("/v1/inbox")).json()["code"] == "token_revoked"
    refresh = await token(server, grant_type="refresh_token", refresh_token=signed_in["refresh_token"])
    assert refresh.json()["error"] == "invalid_grant"
    assert (await sign_in(server)).status_code == 200


# --- services and keys --------------------------------------------------------------------------------------


async def test_a_service_and_its_keys_are_made_listed_and_deleted(server: LocalServer) -> None:
    made = await create_service(server, "notify")
    path = f"/v1/services/{made['client_id']}"
    listed = (await server.service.get("/v1/services", params={"limit": 200})).json()["items"]
    assert made["client_id"] in {one["client_id"] for one in listed}
    assert made["client_secret"] not in json.dumps(listed)
    answer = await server.service.post(path + "/keys")
    assert answer.status_code == 201
    key = answer.json()["key"]
    assert key.startswith(f"ngk_{answer.json()['id']}_")
    keys = (await server.service.get(path + "/keys")).json()
    assert [one["id"] for one in keys["items"]] == [answer.json()["id"]]
    assert key not in json.dumps(keys)
    backend = Service(server.http, key)
    await backend.notify("ada")
    assert (await server.service.delete(f"{path}/keys/{answer.json()['id']}")).status_code == 204
    refused = await backend.post("/v1/notifications", json={"to": "ada", "title": "x"})
    assert (refused.status_code, refused.json()["code"]) == (401, "token_revoked")
    assert (await server.service.delete(path)).status_code == 204
    assert (await server.service.delete(path)).status_code == 404


async def test_deleting_a_service_revokes_its_keys_and_tokens(server: LocalServer) -> None:
    made = await create_service(server, "notify")
    path = f"/v1/services/{made['client_id']}"
    key = (await server.service.post(path + "/keys")).json()["key"]
    grant = {"grant_type": "client_credentials"}
    credentials = basic(made["client_id"], made["client_secret"])
    answer = await server.stranger.post("/v1/auth/token", data=grant, headers=credentials)
    callers = [Service(server.http, key), Service(server.http, answer.json()["access_token"])]
    for caller in callers:
        await caller.notify("ada")
    await server.service.delete(path)
    for caller in callers:
        assert (await caller.post("/v1/notifications", json={"to": "a", "title": "x"})).status_code == 401
    again = await server.stranger.post("/v1/auth/token", data=grant, headers=credentials)
    assert again.json()["error"] == "invalid_client"


async def test_deleting_a_key_of_another_service_gets_a_404(server: LocalServer) -> None:
    one, two = await create_service(server, "notify"), await create_service(server, "notify")
    key = (await server.service.post(f"/v1/services/{one['client_id']}/keys")).json()
    foreign = await server.service.delete(f"/v1/services/{two['client_id']}/keys/{key['id']}")
    assert foreign.status_code == 404
    await Service(server.http, key["key"]).notify("ada")


async def test_an_invalid_service_gets_a_422(server: LocalServer) -> None:
    bodies: list[Any] = [
        {},
        {"name": "x"},
        {"name": "", "scopes": ["notify"]},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["inbox"]},
        {"name": "x", "scopes": ["everything"]},
        {"name": "x", "scopes": "notify"},
        {"name": "\x00", "scopes": ["notify"]},
    ]
    for body in bodies:
        answer = await server.service.post("/v1/services", json=body)
        assert answer.status_code == 422, (body, answer.text)


MANAGEMENT = [
    ("POST", "/v1/users"),
    ("GET", "/v1/users"),
    ("GET", "/v1/users/ada"),
    ("PATCH", "/v1/users/ada"),
    ("DELETE", "/v1/users/ada"),
    ("DELETE", "/v1/users/ada/sessions"),
    ("POST", "/v1/services"),
    ("GET", "/v1/services"),
    ("DELETE", "/v1/services/svc_x"),
    ("POST", "/v1/services/svc_x/keys"),
    ("GET", "/v1/services/svc_x/keys"),
    ("DELETE", "/v1/services/svc_x/keys/x"),
]


async def test_management_requires_the_admin_scope(server: LocalServer) -> None:
    made = await create_service(server, "notify", "tokens:mint")
    path = f"/v1/services/{made['client_id']}/keys"
    poster = Service(server.http, (await server.service.post(path)).json()["key"])
    ada = await server.user()
    for method, path in MANAGEMENT:
        assert (await server.stranger.request(method, path)).json()["code"] == "missing_token"
        for caller in (poster, Service(server.http, ada.token)):
            answer = await caller.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope"), (method, path)
    assert (await poster.post("/v1/users/new/tokens")).status_code in {200, 201}
