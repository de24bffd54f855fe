"""How much one caller may do, and that what strangers do locks nobody out."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from limits.aio.storage import Storage
from redis.asyncio import ConnectionPool
from redis.exceptions import TimeoutError as RedisTimeoutError
from websockets.exceptions import InvalidStatus

from gateway.auth import refresh_tokens, sessions
from gateway.auth.limits import counters
from gateway.auth.limits.counters import RETRY_REDIS_SECONDS, Memory, Shared
from gateway.auth.limits.logins import _KNOWN, FREE_FAILURES, MAX_DELAY_SECONDS, Logins, delay_after
from gateway.auth.limits.rate_limits import USER_REFRESHES_FACTOR
from gateway.auth.limits.token_buckets import EVICTION_PROBES, MAX_KEYS, Buckets, NetworkBuckets
from gateway.auth.passwords import MIN_LENGTH
from gateway.auth.sessions import new_session
from gateway.auth.tokens import digest
from gateway.errors import RateLimited
from gateway.protocol.times import now_ms
from gateway.settings import Settings, SettingsError, load_settings
from gateway.settings.networks import network_of, networks_of
from tests.support.clients import open_socket
from tests.support.databases import settings_for
from tests.support.postgres import free_port
from tests.support.redis_server import Redis, running_redis
from tests.support.servers import LocalServer, StartServer

PASSWORD = "an owl in the old barn"
WRONG = "x" * MIN_LENGTH
ONE_REQUEST = 0.001
"""A rate by which one request is let through, and no other for a quarter of an hour."""
HOME, AWAY = "192.0.2.1", "198.51.100.7"


@pytest.fixture(params=["memory", "redis"])
async def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Storage]:
    """The counters, once of each kind. Redis has long to answer: after its time-out they count in memory."""
    monkeypatch.setattr(counters, "REDIS_TIMEOUT_SECONDS", 30)
    if request.param == "memory":
        yield Memory()
        return
    server: Redis = request.getfixturevalue("redis")
    server.flush()
    shared = Shared(server.url)
    yield shared
    await shared.close()


def logins_of(storage: Storage, **settings: Any) -> Logins:
    return Logins(settings_for("sqlite:///unused.db", **settings), storage)


async def fail(logins: Logins, sub: str, address: str, times: int = 1) -> None:
    for _ in range(times):
        await logins.begin(sub, address)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long sign-ins would have waited."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("gateway.auth.limits.logins.asyncio.sleep", sleep)
    return waited


# --- sign-ins: the counters ---------------------------------------------------------------------------------


async def test_the_sixth_failure_of_an_account_from_one_address_is_refused(storage: Storage) -> None:
    logins = logins_of(storage)
    await fail(logins, "ada", HOME, 5)
    with pytest.raises(RateLimited) as refused:
        await logins.begin("ada", HOME)
    headers = refused.value.headers
    wait = int(headers["Retry-After"])
    assert 1 <= wait <= 60
    assert headers["RateLimit"] == f'"login";r=0;t={wait}'
    assert headers["RateLimit-Policy"] == '"login";q=5;w=60'


async def test_failures_from_other_addresses_do_not_lock_out_the_owner_of_an_account(
    storage: Storage, waits: list[float]
) -> None:
    logins = logins_of(storage)
    for stranger in range(50):
        await fail(logins, "ada", f"198.51.100.{stranger}", 5)
    attempt = await logins.begin("ada", HOME)
    await attempt.succeeded()
    assert max(waits) == MAX_DELAY_SECONDS, "who comes from a new address waits so long at most"
    waits.clear()
    await fail(logins, "ada", HOME)
    assert waits == [], "an address that has signed in before does not even wait"


async def test_the_sign_in_delay_doubles_with_each_failure_up_to_a_limit() -> None:
    delays = [delay_after(FREE_FAILURES + number) for number in range(1, 9)]
    assert delays == [0.125, 0.25, 0.5, 1, 2, 4, 4, 4]


async def test_a_successful_sign_in_clears_earlier_failures(storage: Storage) -> None:
    logins = logins_of(storage)
    for _ in range(4):
        await fail(logins, "ada", HOME, 4)
        await (await logins.begin("ada", HOME)).succeeded()


async def test_successful_sign_ins_from_one_address_do_not_count_as_failures(storage: Storage) -> None:
    logins = logins_of(storage, login_limit_per_address="3/minute")
    for number in range(10):
        await (await logins.begin(f"user-{number}", HOME)).succeeded()


async def test_an_address_that_guesses_many_accounts_is_refused_except_for_its_known_users(
    storage: Storage,
) -> None:
    logins = logins_of(storage, login_limit_per_address="10/minute")
    await (await logins.begin("ada", HOME)).succeeded()
    for number in range(10):
        await fail(logins, f"guess-{number}", HOME)
    with pytest.raises(RateLimited) as refused:
        await logins.begin("another", HOME)
    assert refused.value.headers["RateLimit-Policy"] == '"login-address";q=10;w=60'
    await (await logins.begin("ada", HOME)).succeeded()


async def test_concurrent_sign_ins_get_no_more_attempts_than_sequential_ones(storage: Storage) -> None:
    logins = logins_of(storage)
    tries = await asyncio.gather(*(logins.begin("ada", HOME) for _ in range(100)), return_exceptions=True)
    assert sum(not isinstance(one, Exception) for one in tries) == 5


async def test_an_attempt_refused_by_the_minute_limit_does_not_count_for_the_hour(storage: Storage) -> None:
    logins = logins_of(storage, login_limit="30/hour; 1/minute")
    await fail(logins, "ada", HOME)
    for _ in range(40):
        with pytest.raises(RateLimited) as refused:
            await logins.begin("ada", HOME)
    assert refused.value.headers["RateLimit-Policy"] == '"login";q=1;w=60'


async def test_an_empty_login_limit_means_no_limit(storage: Storage, waits: list[float]) -> None:
    await fail(logins_of(storage, login_limit="", login_limit_per_address=""), "ada", HOME, 200)


async def test_failures_in_an_ipv6_56_or_48_have_larger_limits(storage: Storage, waits: list[float]) -> None:
    logins = logins_of(storage, login_limit="2/minute", login_limit_per_address="3/minute")

    async def tries(sub: str, addresses: list[str]) -> tuple[int, str]:
        for number, address in enumerate(addresses):
            try:
                await logins.begin(sub.format(number), address)
            except RateLimited as refused:
                return number, refused.headers["RateLimit-Policy"]
        return len(addresses), ""

    within_56 = [f"2001:db8:0:{number:x}::1" for number in range(60)]
    within_48 = [f"2001:db8:1:{number:x}00::1" for number in range(60)]
    assert await tries("ada", within_56) == (8, '"login";q=8;w=60')
    assert await tries("ada", within_48) == (32, '"login";q=32;w=60')
    assert await tries("user {}", [f"2001:db8:2:{number:x}::1" for number in range(60)]) == (
        12,
        '"login-address";q=12;w=60',
    )
    assert await tries("user {}", [f"2001:db8:3:{number:x}00::1" for number in range(60)]) == (
        48,
        '"login-address";q=48;w=60',
    )


async def test_a_success_clears_only_one_failure_of_a_wide_network(
    storage: Storage, waits: list[float]
) -> None:
    logins = logins_of(storage, login_limit="2/minute")
    for number in range(8):
        attempt = await logins.begin("ada", f"2001:db8:0:{number:x}::1")
    await attempt.succeeded()
    await logins.begin("ada", "2001:db8:0:20::1")
    with pytest.raises(RateLimited):
        await logins.begin("ada", "2001:db8:0:21::1")


@pytest.mark.parametrize("known", [False, True])
async def test_a_withdrawn_attempt_does_not_count(storage: Storage, waits: list[float], known: bool) -> None:
    logins = logins_of(storage, login_limit="2/minute", login_limit_per_address="2/minute")
    if known:
        await (await logins.begin("ada", HOME)).succeeded()
    await fail(logins, "ada", HOME)
    for _ in range(50):
        attempt = await logins.begin("ada", HOME)
        assert attempt.turn.known == known
        await attempt.withdraw()
    assert waits == []
    await fail(logins, "ada", HOME, 19 if known else 1)
    with pytest.raises(RateLimited):
        await logins.begin("ada", HOME)


async def test_an_address_is_known_for_30_days_after_the_last_sign_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, day = time.time(), 86_400
    monkeypatch.setattr("gateway.auth.limits.counters.time.time", lambda: now)
    logins = logins_of(Memory())
    for _ in range(3):
        await (await logins.begin("ada", HOME)).succeeded()
        now += 29 * day
        assert (await logins.begin("ada", HOME)).turn.known
    now += 2 * day
    assert not (await logins.begin("ada", HOME)).turn.known


async def test_the_sign_in_counters_in_redis_contain_no_account_name(redis: Redis) -> None:
    redis.flush()
    shared = Shared(redis.url)
    await fail(logins_of(shared), "ada-the-secret-name", HOME)
    await shared.close()
    keys = redis.keys()
    assert keys
    assert not any("ada" in key for key in keys)


async def test_two_processes_share_sign_in_counters_in_redis(redis: Redis) -> None:
    redis.flush()
    one, other = Shared(redis.url), Shared(redis.url)
    await fail(logins_of(one), "ada", HOME, 3)
    await fail(logins_of(other), "ada", HOME, 2)
    with pytest.raises(RateLimited):
        await logins_of(one).begin("ada", HOME)
    await one.close()
    await other.close()


async def test_sign_in_counters_fall_back_to_memory_with_one_warning_if_redis_is_down() -> None:
    port, now = free_port(), 0.0
    shared = Shared(f"redis://127.0.0.1:{port}", clock=lambda: now)
    logins = logins_of(shared)
    with structlog.testing.capture_logs() as events:
        await fail(logins, "ada", HOME, 5)
        with pytest.raises(RateLimited):
            await logins.begin("ada", HOME)
    assert [event["log_level"] for event in events] == ["warning"], "one, not one for each sign-in"
    assert not await shared.check()
    with running_redis(port):
        now = RETRY_REDIS_SECONDS
        await fail(logins, "ada", HOME, 5)
        with pytest.raises(RateLimited):
            await logins.begin("ada", HOME)
        assert await shared.check(), "it is used again once it is back"
        await shared.close()


async def test_a_redis_connection_that_does_not_close_in_time_raises_no_error(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_pool: ConnectionPool) -> None:
        raise RedisTimeoutError

    shared = Shared(redis.url)
    assert await shared.check()
    with monkeypatch.context() as patched:
        patched.setattr(ConnectionPool, "disconnect", hang)
        await shared.close()
    await shared.close()


async def test_the_number_of_counters_in_memory_is_limited() -> None:
    memory = Memory()
    for number in range(MAX_KEYS + 10):
        await memory.incr(str(number), 60)
    assert await memory.reset() == MAX_KEYS
    buckets = Buckets("tests", 1, 1)
    for number in range(MAX_KEYS + 10):
        buckets.take(number)
    assert len(buckets._levels) == MAX_KEYS


async def test_many_new_callers_do_not_evict_the_debt_of_an_old_caller() -> None:
    memory = Memory()
    await memory.incr("short", -1)
    await memory.incr("held against", 60, 5)
    for number in range(MAX_KEYS):
        await memory.incr(str(number), -1)
    assert await memory.get("held against") == 5
    now = 0.0
    buckets = Buckets("tests", 1, 1, clock=lambda: now)
    buckets.charge("held against", 10 * MAX_KEYS)
    for number in range(MAX_KEYS + EVICTION_PROBES):
        buckets.take(number)
        now += 1  # so that each is full again when the next one comes
    with pytest.raises(RateLimited):
        buckets.take("held against")


async def test_many_ipv6_64s_do_not_evict_the_counter_of_their_48(waits: list[float]) -> None:
    logins = logins_of(Memory())
    attacker = [f"2001:db8:0:{number:x}::1" for number in range(2000)]
    refused = 0
    for number, address in enumerate(attacker):
        try:
            await logins.begin(f"made up {number}", address)
        except RateLimited:
            refused += 1
    assert refused == 2000 - 16 * 100
    stores = (logins._network_limiter.storage, logins._limiter.storage, logins._known, logins._accounts)
    assert len({id(one) for one in stores}) == len(stores), "each kind is kept apart"


# --- buckets and addresses ----------------------------------------------------------------------------------


def test_a_bucket_lets_a_burst_through_and_then_its_rate() -> None:
    now = 0.0
    buckets = Buckets("posts", 10, 40, clock=lambda: now)
    for _ in range(40):
        buckets.take("a")
    with pytest.raises(RateLimited) as refused:
        buckets.take("a")
    assert refused.value.headers == {
        "Retry-After": "1",
        "RateLimit": '"posts";r=0;t=1',
        "RateLimit-Policy": '"posts";q=40;w=4',
    }
    buckets.take("b")
    now = 0.5
    for _ in range(5):
        buckets.take("a")
    with pytest.raises(RateLimited):
        buckets.take("a")


def test_a_charge_over_the_bucket_size_passes_and_leaves_a_debt() -> None:
    now = 0.0
    buckets = Buckets("posts", 10, 40, clock=lambda: now)
    buckets.take("a", 1000)
    with pytest.raises(RateLimited) as refused:
        buckets.take("a")
    assert refused.value.headers["Retry-After"] == "97"
    now = 97
    buckets.take("a")


def test_a_slow_bucket_is_full_again_after_its_window() -> None:
    now = 0.0
    buckets = Buckets("posts", 0.1, 0.4, clock=lambda: now)
    buckets.take("a")
    now = 9.9
    with pytest.raises(RateLimited):
        buckets.take("a")
    now = 10.1
    buckets.take("a")


def test_an_ipv6_56_has_4_times_and_a_48_has_16_times_the_limit_of_a_64() -> None:
    buckets = NetworkBuckets("tests", 0.001, 5, clock=lambda: 0.0)

    def taken(hosts: list[str]) -> int:
        number = 0
        with suppress(RateLimited):
            for host in hosts:
                buckets.take(host)
                number += 1
        return number

    assert taken(["2001:db8::1"] * 100) == 5
    assert taken([f"2001:db8:0:{number:x}::1" for number in range(1, 256)]) == 4 * 5 - 5
    assert taken([f"2001:db8:0:{number:x}00::1" for number in range(1, 256)]) == 16 * 5 - 4 * 5
    assert taken(["2001:db8:1::1"] * 100) == 5
    assert taken(["192.0.2.1"] * 100) == 5
    assert taken(["192.0.2.2"] * 100) == 5


def test_a_request_refused_by_a_wide_network_does_not_count_in_a_narrow_one() -> None:
    now = 0.0
    buckets = NetworkBuckets("tests", 1, 1, clock=lambda: now)
    for number in range(4):
        buckets.take(f"2001:db8:0:{number}::1")
    for _ in range(50):
        with pytest.raises(RateLimited):
            buckets.take("2001:db8:0:9::1")
    now = 0.3
    buckets.take("2001:db8:0:9::1")


def test_a_bucket_can_be_checked_before_and_charged_after_the_work() -> None:
    now = 0.0
    for buckets in (
        Buckets("tests", 1, 2, clock=lambda: now),
        NetworkBuckets("tests", 1, 2, clock=lambda: now),
    ):
        for _ in range(10):
            buckets.check("192.0.2.1")
        for _ in range(4):
            buckets.charge("192.0.2.1")
        with pytest.raises(RateLimited) as refused:
            buckets.check("192.0.2.1")
        assert refused.value.headers["Retry-After"] == "3", "the debt is waited for"
        buckets.check("192.0.2.2")


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("not an address", "not an address"),
        ("x" * 1000, "x" * 64),
    ],
)
def test_an_address_maps_to_the_network_of_its_owner(host: str, network: str) -> None:
    assert network_of(host) == network


def test_an_ipv6_address_maps_to_three_networks() -> None:
    assert networks_of("2001:db8:1:2345::6") == (
        "2001:db8:1:2345::/64",
        "2001:db8:1:2300::/56",
        "2001:db8:1::/48",
    )
    assert networks_of("192.0.2.1") == ("192.0.2.1",)


# --- the routes ---------------------------------------------------------------------------------------------


async def sign_in(server: LocalServer, password: str, sub: str = "ada", *, by: str = "") -> httpx.Response:
    form = {"grant_type": "password", "username": sub, "password": password}
    headers = {"X-Forwarded-For": by} if by else {}
    return await server.http.post("/v1/auth/token", data=form, headers=headers)


async def add_ada(server: LocalServer) -> None:
    answer = await server.service.post("/v1/users", json={"sub": "ada", "password": PASSWORD})
    assert answer.status_code == 201


def check_refusal(answer: httpx.Response, policy: str) -> None:
    """Check a 429 by the contract and the draft of the RateLimit fields."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "rate_limited"
    assert answer.json()["status"] == 429
    check_limit(answer, policy)


def check_oauth_refusal(answer: httpx.Response, policy: str) -> None:
    """Check a 429 of the OAuth endpoints, which has the body of RFC 6749."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert set(answer.json()) == {"error", "error_description"}
    assert answer.json()["error"] == "rate_limited"
    check_limit(answer, policy)


def check_limit(answer: httpx.Response, policy: str) -> None:
    """Check the status of a 429, and the headers that name its limit."""
    assert answer.status_code == 429
    wait = int(answer.headers["retry-after"])
    assert wait >= 1
    assert answer.headers["ratelimit"] == f'"{policy}";r=0;t={wait}'
    assert answer.headers["ratelimit-policy"].startswith(f'"{policy}";q=')


async def test_guesses_are_limited_equally_for_existing_and_unknown_accounts(
    server: LocalServer,
) -> None:
    await add_ada(server)
    answers: dict[str, list[httpx.Response]] = {}
    for sub in ("ada", "nobody"):
        answers[sub] = [await sign_in(server, WRONG, sub) for _ in range(7)]
    for mine, other in zip(answers["ada"], answers["nobody"], strict=True):
        assert mine.status_code == other.status_code
        assert mine.json() | {"error_description": ""} == other.json() | {"error_description": ""}
    assert [one.status_code for one in answers["ada"]] == [400] * 5 + [429] * 2
    check_oauth_refusal(answers["ada"][-1], "login")
    # A password that is right would tell that it is.
    assert (await sign_in(server, PASSWORD)).status_code == 429


async def test_the_owner_can_sign_in_while_another_address_is_refused(start_server: StartServer) -> None:
    server = await start_server(forwarded_allow_ips="127.0.0.1")
    await add_ada(server)
    for _ in range(7):
        refused = await sign_in(server, WRONG, by=AWAY)
    assert refused.status_code == 429
    assert (await sign_in(server, PASSWORD, by=HOME)).status_code == 200


async def test_an_x_forwarded_for_from_an_untrusted_client_is_ignored(server: LocalServer) -> None:
    answers = [await sign_in(server, WRONG, by=f"192.0.2.{number}") for number in range(6)]
    assert [one.status_code for one in answers] == [400] * 5 + [429]


async def test_a_client_cannot_spoof_the_address_that_the_proxy_forwards(start_server: StartServer) -> None:
    server = await start_server(forwarded_allow_ips="127.0.0.0/8")
    answers = [await sign_in(server, WRONG, by=f"192.0.2.{number}, {AWAY}") for number in range(6)]
    assert [one.status_code for one in answers] == [400] * 5 + [429]


async def test_all_ipv6_addresses_of_a_64_share_one_failure_limit(start_server: StartServer) -> None:
    server = await start_server(forwarded_allow_ips="127.0.0.1")
    answers = [await sign_in(server, WRONG, by=f"2001:db8:0:1::{number}") for number in range(6)]
    assert [one.status_code for one in answers] == [400] * 5 + [429]
    assert (await sign_in(server, WRONG, by="2001:db8:0:2::1")).status_code == 400


async def test_a_service_over_its_post_limit_gets_a_429_with_retry_after(start_server: StartServer) -> None:
    server = await start_server(posts_per_second=0.5)
    post = {"to": "ada", "title": "Hello"}
    one = await server.service.post("/v1/notifications/batch", json=[post] * 3)
    assert one.status_code == 201
    check_refusal(await server.service.post("/v1/notifications", json=post), "posts")
    check_refusal(await server.service.post("/v1/notifications/batch", json=[post]), "posts")
    user = await server.user()
    assert len((await user.inbox())["items"]) == 3


async def test_all_requests_of_a_user_have_one_budget(start_server: StartServer) -> None:
    server = await start_server(commands_per_second=ONE_REQUEST)
    (id_,) = await server.service.notify_many("ada", 1)
    ada, bob = await server.user(), await server.user("bob")
    again = await server.user()  # another token of the same user
    assert (await ada.post("/v1/inbox/seen", json={"up_to": 0})).status_code == 200
    refused = [
        await ada.get("/v1/inbox"),
        await again.get("/v1/inbox"),
        await again.get("/v1/inbox/changes"),
        await ada.get(f"/v1/inbox/{id_}"),
        await ada.patch(f"/v1/inbox/{id_}", json={"read": True}),
        await ada.delete(f"/v1/inbox/{id_}"),
        await ada.post("/v1/inbox/read", json={"up_to": 1}),
        await ada.post("/v1/inbox/seen", json={"up_to": 1}),
        await ada.post("/v1/auth/ticket"),
    ]
    for answer in refused:
        check_refusal(answer, "commands")
    page = await bob.inbox()
    assert page["items"] == [], "another user has a budget of one's own"
    async with ada.socket(since="latest") as socket:
        live = await socket.next("live")
    assert (live["seq"], live["unread"], live["unseen"]) == (1, 1, 1), "nothing was done of what was refused"


async def test_a_user_over_the_budget_gets_a_429_before_the_body_is_read(start_server: StartServer) -> None:
    server = await start_server(commands_per_second=ONE_REQUEST)
    ada = await server.user()
    assert (await ada.post("/v1/inbox/seen", content=b"{")).status_code == 422, (
        "what is not valid counts, too"
    )
    for content in (b"{", b"x" * 300_000):
        check_refusal(await ada.post("/v1/inbox/seen", content=content), "commands")


async def test_a_long_response_counts_as_several_requests(start_server: StartServer) -> None:
    server = await start_server(commands_per_second=ONE_REQUEST)
    await server.service.notify_many("ada", 450)
    ada = await server.user()
    answer = await ada.get("/v1/inbox/changes", params={"limit": 450})
    assert len(answer.json()["items"]) == 450
    refused = await ada.get("/v1/inbox")
    check_refusal(refused, "commands")
    assert int(refused.headers["Retry-After"]) > 2 / ONE_REQUEST


async def test_the_default_limit_allows_200_concurrent_requests_of_a_user(start_server: StartServer) -> None:
    rate = Settings.model_fields["commands_per_second"].default
    server = await start_server(commands_per_second=rate)
    ada = await server.user()
    answers = await asyncio.gather(*(ada.get("/v1/inbox") for _ in range(200)))
    assert {answer.status_code for answer in answers} == {200}


async def test_requests_of_a_service_other_than_posts_have_their_own_budget(
    start_server: StartServer,
) -> None:
    server = await start_server(service_calls_per_second=ONE_REQUEST)
    posted = (await server.service.notify("ada"))["id"]
    assert (await server.service.get(f"/v1/notifications/{posted}")).status_code == 200
    refused = [
        await server.service.get(f"/v1/notifications/{posted}"),
        await server.service.get("/v1/users"),
        await server.service.post("/v1/users", json={"sub": "bob"}),
        await server.service.delete("/v1/users/ada"),
        await server.service.get("/v1/services"),
    ]
    for answer in refused:
        check_refusal(answer, "service-calls")
    await server.service.notify("ada")
    assert (await (await server.user()).inbox())["unread"] == 2


async def test_a_flood_of_handshakes_is_refused_before_the_upgrade(start_server: StartServer) -> None:
    server = await start_server(handshakes_per_second=0.3)
    user = await server.user()
    for _ in range(3):
        async with user.socket() as socket:
            await socket.until("live")
    with pytest.raises(InvalidStatus) as refused:
        async with user.socket():
            pass
    response = refused.value.response
    assert response.status_code == 429
    assert response.headers["RateLimit-Policy"] == '"handshakes";q=3;w=10'
    assert int(response.headers["Retry-After"]) >= 1
    assert b"rate_limited" in (response.body or b"")


async def test_each_handshake_counts_as_a_command_of_its_user(start_server: StartServer) -> None:
    server = await start_server(commands_per_second=0.02)
    ada, bob = await server.user(), await server.user("bob")
    async with ada.socket() as socket:
        await socket.until("live")
    with pytest.raises(InvalidStatus) as refused:
        async with ada.socket():
            pass
    assert refused.value.response.status_code == 429
    assert refused.value.response.headers["RateLimit-Policy"] == '"socket-commands";q=1;w=13'
    check_refusal(await ada.get("/v1/stream"), "socket-commands")
    async with bob.socket() as socket:
        await socket.until("live")


async def test_handshakes_are_limited_by_the_forwarded_client_address(start_server: StartServer) -> None:
    server = await start_server(handshakes_per_second=0.1, forwarded_allow_ips="127.0.0.1")
    user = await server.user()
    for number in range(3):
        headers = {"Authorization": f"Bearer {user.token}", "X-Forwarded-For": f"192.0.2.{number}"}
        async with open_socket(server.base, headers=headers) as socket:
            await socket.until("live")


async def test_the_gateway_keeps_sign_in_counters_in_redis_if_configured(
    start_server: StartServer, redis: Redis
) -> None:
    redis.flush()
    server = await start_server(rate_limit_url=redis.url)
    assert [(await sign_in(server, WRONG)).status_code for _ in range(6)] == [400] * 5 + [429]
    assert redis.keys()


async def test_a_user_can_sign_in_while_redis_is_down(start_server: StartServer) -> None:
    server = await start_server(rate_limit_url=f"redis://127.0.0.1:{free_port()}")
    await add_ada(server)
    assert (await sign_in(server, PASSWORD)).status_code == 200


# --- budgets for what succeeds ------------------------------------------------------------------------------


async def ask(server: LocalServer, path: str = "token", *, by: str = "", **form: str) -> httpx.Response:
    headers = {"X-Forwarded-For": by} if by else {}
    return await server.http.post(f"/v1/auth/{path}", data=form, headers=headers)


async def test_an_account_over_its_sign_in_limit_is_refused_before_the_password_check(
    start_server: StartServer,
) -> None:
    server = await start_server(tokens_per_minute=3)
    await add_ada(server)
    assert [(await sign_in(server, PASSWORD)).status_code for _ in range(3)] == [200] * 3
    for password in (PASSWORD, WRONG):
        check_oauth_refusal(await sign_in(server, password), "sign-ins")
    answer = await server.service.post("/v1/users", json={"sub": "bob", "password": PASSWORD})
    assert answer.status_code == 201
    assert (await sign_in(server, PASSWORD, "bob")).status_code == 200


async def test_failed_attempts_do_not_count_against_the_sign_in_limit(start_server: StartServer) -> None:
    server = await start_server(tokens_per_minute=1, login_limit="")
    await add_ada(server)
    for _ in range(3):
        assert (await sign_in(server, WRONG)).status_code == 400
    assert (await sign_in(server, PASSWORD)).status_code == 200


async def test_a_refresh_over_the_session_limit_is_refused_and_its_token_stays_valid(
    start_server: StartServer,
) -> None:
    server = await start_server(tokens_per_minute=2)
    await add_ada(server)
    one, other = [(await sign_in(server, PASSWORD)).json()["refresh_token"] for _ in range(2)]
    for _ in range(2):
        answer = await ask(server, grant_type="refresh_token", refresh_token=one)
        one = answer.json()["refresh_token"]
    check_oauth_refusal(await ask(server, grant_type="refresh_token", refresh_token=one), "refreshes")
    assert (await ask(server, grant_type="refresh_token", refresh_token=other)).status_code == 200
    session = next(iter(server.state.rate_limits.refreshes._levels))
    server.state.rate_limits.refreshes.charge(session, -1)
    assert (await ask(server, grant_type="refresh_token", refresh_token=one)).status_code == 200


async def test_a_refresh_over_the_user_limit_is_refused_and_its_token_stays_valid(
    start_server: StartServer,
) -> None:
    server = await start_server(tokens_per_minute=1, max_sessions_per_user=20)
    await add_ada(server)
    await server.service.post("/v1/users", json={"sub": "bob", "password": PASSWORD})
    signed_in = []
    for number in range(USER_REFRESHES_FACTOR + 1):
        for account in list(server.state.rate_limits.sign_ins._levels):
            server.state.rate_limits.sign_ins.charge(account, -1)
        sub = "ada" if number < USER_REFRESHES_FACTOR else "bob"
        signed_in.append((await sign_in(server, PASSWORD, sub)).json()["refresh_token"])
    session = new_session(now_ms() + 60_000, digest(last := refresh_tokens.new_token()))
    await server.state.database.write(sessions.start_user_session, "ada", session, now_ms())
    answers = [await ask(server, grant_type="refresh_token", refresh_token=one) for one in signed_in]
    assert [answer.status_code for answer in answers] == [200] * (USER_REFRESHES_FACTOR + 1)
    check_oauth_refusal(await ask(server, grant_type="refresh_token", refresh_token=last), "user-refreshes")
    assert session.id not in server.state.rate_limits.refreshes._levels, "nothing is counted"
    user = next(iter(server.state.rate_limits.user_refreshes._levels))
    server.state.rate_limits.user_refreshes.charge(user, -1)
    assert (await ask(server, grant_type="refresh_token", refresh_token=last)).status_code == 200


async def test_minted_tokens_are_limited_per_service_and_per_user(start_server: StartServer) -> None:
    server = await start_server(tokens_per_second=1.5, tokens_per_minute=2)
    for _ in range(2):
        assert (await server.service.post("/v1/users/ada/tokens")).status_code == 201
    check_refusal(await server.service.post("/v1/users/ada/tokens"), "minted")
    answers = [await server.service.post(f"/v1/users/user-{number}/tokens") for number in range(30)]
    assert {201, 429} == {answer.status_code for answer in answers}
    check_refusal(next(answer for answer in answers if answer.status_code == 429), "tokens")


async def test_each_service_has_its_own_limit_of_minted_tokens_for_a_user(
    start_server: StartServer,
) -> None:
    server = await start_server(tokens_per_minute=1)
    made = (await server.service.post("/v1/services", json={"name": "x", "scopes": ["tokens:mint"]})).json()
    key = (await server.service.post(f"/v1/services/{made['client_id']}/keys")).json()["key"]
    assert (await server.service.post("/v1/users/ada/tokens")).status_code == 201
    headers = {"Authorization": f"Bearer {key}"}
    assert (await server.http.post("/v1/users/ada/tokens", headers=headers)).status_code == 201


async def test_client_credentials_tokens_are_limited_per_service(start_server: StartServer) -> None:
    server = await start_server(tokens_per_second=0.5)
    made = (await server.service.post("/v1/services", json={"name": "x", "scopes": ["notify"]})).json()
    form = {"grant_type": "client_credentials"}
    secret = {name: made[name] for name in ("client_id", "client_secret")}
    assert [(await ask(server, **form, **secret)).status_code for _ in range(2)] == [200] * 2
    check_oauth_refusal(await ask(server, **form, **secret), "tokens")


async def test_tickets_are_limited_per_user(start_server: StartServer) -> None:
    server = await start_server(tokens_per_minute=2)
    ada, bob = await server.user("ada"), await server.user("bob")
    assert [(await ada.post("/v1/auth/ticket")).status_code for _ in range(2)] == [200] * 2
    check_refusal(await ada.post("/v1/auth/ticket"), "tickets")
    assert (await bob.post("/v1/auth/ticket")).status_code == 200


@pytest.mark.parametrize("path", ["token", "revoke"])
async def test_requests_to_the_oauth_endpoints_are_limited_per_address(
    start_server: StartServer, path: str
) -> None:
    server = await start_server(auth_per_second=0.3, forwarded_allow_ips="127.0.0.1")
    for _ in range(3):
        assert (await ask(server, path, token="x", by=HOME)).status_code in {200, 400}
    refused = await ask(server, path, token="x", by=HOME)
    check_oauth_refusal(refused, "auth")
    assert (await ask(server, path, token="x", by=AWAY)).status_code in {200, 400}


async def test_wrong_client_secrets_block_their_address_and_not_the_service_elsewhere(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.auth.limits.rate_limits.CLIENT_FAILURES", 3)
    server = await start_server(forwarded_allow_ips="127.0.0.1")
    made = (await server.service.post("/v1/services", json={"name": "x", "scopes": ["notify"]})).json()
    form = {"grant_type": "client_credentials", "client_id": made["client_id"]}
    right = {"client_secret": made["client_secret"]}
    for _ in range(10):
        assert (await ask(server, by=HOME, **form, **right)).status_code == 200
    for _ in range(3):
        assert (await ask(server, by=HOME, **form, client_secret="x")).status_code == 401
    check_oauth_refusal(await ask(server, by=HOME, **form, client_secret="x"), "clients")
    check_oauth_refusal(await ask(server, "revoke", by=HOME, token="x", **form, **right), "clients")
    assert (await ask(server, by=AWAY, **form, **right)).status_code == 200


async def test_an_attempt_that_the_hasher_refuses_is_not_counted_as_a_failure(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(login_limit="2/minute")
    await add_ada(server)
    with monkeypatch.context() as full:
        full.setattr("gateway.auth.hasher_queue.MAX_WAITING_PER_NETWORK", 0)
        for _ in range(5):
            check_oauth_refusal(await sign_in(server, PASSWORD), "hashes")
    assert (await sign_in(server, PASSWORD)).status_code == 200


# --- the settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("login_limit", "often"),
        ("login_limit_per_address", "5 per fortnight"),
        ("rate_limit_url", "http://127.0.0.1"),
        ("forwarded_allow_ips", "*"),
        ("forwarded_allow_ips", "10.0.0.1/8"),
        ("forwarded_allow_ips", "127.0.0.1,proxy.internal"),
        ("posts_per_second", "0"),
        ("tokens_per_second", "0"),
        ("tokens_per_minute", "-1"),
        ("auth_per_second", "many"),
    ],
)
def test_an_invalid_limit_setting_stops_the_start(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"GATEWAY_{name.upper()}", value)
    with pytest.raises(SettingsError, match=f"^GATEWAY_{name.upper()}: "):
        load_settings()


def test_a_bucket_costs_a_few_microseconds() -> None:
    buckets, rounds = Buckets("posts", 1e9, 1e9), 20_000
    began = time.process_time()
    for _ in range(rounds):
        buckets.take(7)
    assert (time.process_time() - began) / rounds < 20e-6


async def test_failures_at_a_known_address_do_not_lock_out_its_owner(
    storage: Storage, waits: list[float]
) -> None:
    logins = logins_of(storage)
    await (await logins.begin("ada", HOME)).succeeded()
    await fail(logins, "ada", HOME, 7)
    await (await logins.begin("ada", HOME)).succeeded()
    with pytest.raises(RateLimited):
        await fail(logins, "ada", HOME, 100)
    assert waits == []


async def test_guesses_of_made_up_names_neither_fill_the_memory_nor_evict_known_addresses(
    waits: list[float],
) -> None:
    storage = Memory()
    logins = logins_of(storage)
    await (await logins.begin("ada", HOME)).succeeded()
    for number in range(1000):
        with suppress(RateLimited):
            await logins.begin(f"made up {number}", AWAY)
    assert len(storage._counters) < 1000
    assert await logins._known.get(_KNOWN.key_for(*_names("ada", HOME))) == 1
    assert len(waits) == 0


def _names(sub: str, address: str) -> tuple[str, str]:
    return sha256(sub.encode()).hexdigest()[:32], network_of(address)
