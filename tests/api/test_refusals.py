"""The budget of an address for tokens and keys that do not hold, and what a refusal costs who is known."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection
from websockets.exceptions import InvalidStatus

from gateway.auth import services
from gateway.auth.limits.rate_limits import KEY_LOOKUPS
from gateway.errors import InvalidToken
from tests.support.clients import Caller, Service, User, open_socket
from tests.support.issuer import Issuer, new_key
from tests.support.servers import LocalServer, StartServer

BURST = 3
SCARCE = {"refusals_per_second": BURST / 10}
"""So many refusals at once, and the next one after three seconds."""


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the API keys that were looked up in the database."""
    looked_up: list[str] = []
    find_key = services.find_key

    def find(connection: Connection, key_id: str) -> Any:
        looked_up.append(key_id)
        return find_key(connection, key_id)

    monkeypatch.setattr(services, "find_key", find)
    return looked_up


def unknown_key() -> str:
    """Return a well-formed API key that nobody was given."""
    return services.new_key()[2]


async def new_caller(server: LocalServer, *scopes: str) -> Service:
    """Return a service with a key that the gateway has not seen yet."""
    made = (await server.service.post("/v1/services", json={"name": "new", "scopes": scopes})).json()
    key = (await server.service.post(f"/v1/services/{made['client_id']}/keys")).json()["key"]
    return Service(server.http, key)


async def shown(server: LocalServer, token: str) -> httpx.Response:
    return await Caller(server.http, token).get("/v1/inbox")


def check_refusal(answer: httpx.Response, policy: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert answer.headers["RateLimit-Policy"].startswith(f'"{policy}";')
    assert int(answer.headers["Retry-After"]) >= 1


async def use_up(server: LocalServer) -> None:
    """Use up what the address may show of what does not hold."""
    for _ in range(BURST):
        assert (await shown(server, unknown_key())).status_code == 401


async def test_unknown_keys_over_the_budget_get_a_429_without_a_lookup_and_known_callers_do_not(
    start_server: StartServer, lookups: list[str]
) -> None:
    server = await start_server(**SCARCE)
    newcomer = await new_caller(server, "notify")
    user = await server.user()
    assert (await user.inbox())["unread"] == 0
    await use_up(server)
    before = len(lookups)
    for key in (unknown_key(), unknown_key(), newcomer.token):
        check_refusal(await shown(server, str(key)), "refusals")
    assert len(lookups) == before
    await server.service.notify("ada")
    assert (await user.inbox())["unread"] == 1


async def test_a_known_key_is_looked_up_again_even_if_its_address_is_over_the_budget(
    start_server: StartServer, lookups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(**SCARCE)
    service = await new_caller(server, "notify")
    await service.notify("ada")
    await use_up(server)
    lookups.clear()
    monkeypatch.setattr(server.state.tokens, "_clock", lambda: time.time() + 10)
    await service.notify("ada")
    assert len(lookups) == 1


async def test_a_known_key_counts_against_the_budget_after_its_deletion(start_server: StartServer) -> None:
    server = await start_server(**SCARCE)
    service = await new_caller(server, "notify")
    await service.notify("ada")
    ids = (await server.service.get("/v1/services")).json()["items"]
    (client_id,) = (one["client_id"] for one in ids if one["name"] == "new")
    assert (await server.service.delete(f"/v1/services/{client_id}")).status_code == 204
    for _ in range(BURST):
        assert (await shown(server, str(service.token))).status_code == 401
    check_refusal(await shown(server, str(service.token)), "refusals")


async def revoked(server: LocalServer) -> str:
    user = await server.user("revoked")
    await user.inbox()
    await server.service.delete("/v1/users/revoked/sessions")
    return str(user.token)


async def expired(server: LocalServer) -> str:
    now = int(time.time())
    return server.state.tokens.issue(
        sub="ada", client_id="gateway", scopes=["inbox"], session="0" * 32, expires_at=now - 60
    )


async def forged(server: LocalServer) -> str:
    head, _, signature = (await server.user("forged")).token.rpartition(".")  # type: ignore[union-attr]
    return f"{head}.{signature[::-1]}"


async def unreadable(_: LocalServer) -> str:
    return "none"


@pytest.mark.parametrize("made", [revoked, expired, forged, unreadable])
async def test_every_kind_of_invalid_token_counts_against_the_budget(
    start_server: StartServer, made: Callable[[LocalServer], Any]
) -> None:
    server = await start_server(**SCARCE)
    fresh = await server.user("fresh")
    token = await made(server)
    for _ in range(BURST):
        assert (await shown(server, token)).status_code == 401
    check_refusal(await shown(server, token), "refusals")
    check_refusal(await fresh.get("/v1/inbox"), "refusals")


async def test_a_known_token_counts_against_the_budget_after_it_expires(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(**SCARCE)
    user = await server.user()
    await user.inbox()
    monkeypatch.setattr(server.state.tokens, "_clock", lambda: time.time() + 2 * 86_400)
    for _ in range(BURST):
        assert (await user.get("/v1/inbox")).json()["code"] == "token_expired"
    check_refusal(await user.get("/v1/inbox"), "refusals")


async def test_forged_tokens_of_another_issuer_are_not_verified_beyond_the_budget(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer, verified = Issuer([new_key(kid="k")]), list[object]()

    def refuse(token: object, *_: object) -> None:
        verified.append(token)
        raise InvalidToken

    async with issuer.serving():
        server = await start_server(trusted_issuers=[issuer.trusted()], **SCARCE)
        monkeypatch.setattr("gateway.auth.issuers.verify", refuse)
        answers = [await shown(server, issuer.token(sub="ada")) for _ in range(BURST + 2)]
    assert [answer.status_code for answer in answers] == [401] * BURST + [429] * 2
    assert len(verified) == BURST


async def test_a_request_without_a_token_does_not_count_against_the_refusal_budget(
    start_server: StartServer,
) -> None:
    server = await start_server(**SCARCE)
    for _ in range(3 * BURST):
        assert (await server.stranger.get("/v1/inbox")).status_code == 401
    assert (await (await new_caller(server, "notify")).post("/v1/users", json={})).status_code == 403


async def test_concurrent_lookups_of_unknown_keys_are_limited_and_stop_at_the_budget(
    start_server: StartServer, lookups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(**SCARCE)
    await server.service.notify("ada")
    database, most, now = server.state.database, 0, 0
    lookup = database.lookup

    async def counted(*work: Any, **options: Any) -> Any:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        try:
            return await lookup(*work, **options)
        finally:
            now -= 1

    monkeypatch.setattr(database, "lookup", counted)
    lookups.clear()
    answers = await asyncio.gather(*(shown(server, unknown_key()) for _ in range(30)))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(429) == 30 - len(lookups)
    assert BURST <= len(lookups) < BURST + KEY_LOOKUPS
    assert most <= KEY_LOOKUPS


async def test_each_address_has_its_own_refusal_budget(start_server: StartServer) -> None:
    server = await start_server(forwarded_allow_ips="127.0.0.1", **SCARCE)
    await use_up(server)
    headers = {"Authorization": f"Bearer {unknown_key()}", "X-Forwarded-For": "192.0.2.1"}
    assert (await server.http.get("/v1/inbox", headers=headers)).status_code == 401


async def test_a_handshake_with_an_unknown_key_counts_and_one_with_an_invalid_token_does_not(
    start_server: StartServer, lookups: list[str]
) -> None:
    server = await start_server(**SCARCE)
    for token, times in (("none", 2 * BURST), (unknown_key(), BURST)):
        for _ in range(times):
            async with open_socket(server.base, headers={"Authorization": f"Bearer {token}"}) as socket:
                assert (await socket.closed())[0] == 4001
    assert len(lookups) == BURST
    with pytest.raises(InvalidStatus) as refused:
        async with open_socket(server.base, headers={"Authorization": f"Bearer {unknown_key()}"}):
            pass
    assert refused.value.response.status_code == 429
    assert len(lookups) == BURST


# --- what a known caller may not do -------------------------------------------------------------------------


async def test_a_services_forbidden_requests_count_against_its_call_limit(start_server: StartServer) -> None:
    server = await start_server(service_calls_per_second=0.5)
    service = await new_caller(server, "notify")
    assert [(await service.get("/v1/users")).status_code for _ in range(2)] == [403] * 2
    check_refusal(await service.get("/v1/users"), "service-calls")
    check_refusal(await service.get("/v1/inbox"), "service-calls")
    check_refusal(await service.post("/v1/inbox/read", json={"up_to": 1}), "service-calls")
    await service.notify("ada")


async def test_a_services_forbidden_posts_count_against_its_call_limit(start_server: StartServer) -> None:
    server = await start_server(service_calls_per_second=0.5)
    service = await new_caller(server, "tokens:mint")
    post = {"to": "ada", "title": "Hello"}
    answers = [await service.post("/v1/notifications", json=post) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [403] * 2
    check_refusal(await service.post("/v1/notifications", json=post), "service-calls")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_users_forbidden_request_counts_once_against_the_request_limit(
    start_server: StartServer, method: str
) -> None:
    server = await start_server(commands_per_second=1)
    user: User = await server.user()
    # Nothing comes back, however long the requests take.
    server.state.rate_limits.commands.clock = lambda: 0.0
    body = {"json": {"sub": "bob"}} if method == "POST" else {}
    answers = [await user.request(method, "/v1/users", **body) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [403] * 4
    check_refusal(await user.request(method, "/v1/users", **body), "commands")
