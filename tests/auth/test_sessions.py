"""Sessions: refresh tokens that are good once, and every way in which a session ends, at once."""

import asyncio
import base64
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import asyncpg
import httpx
import jwt
import pytest
from sqlalchemy import Connection, func, select, text
from websockets.exceptions import ConnectionClosed

from gateway.auth import issuers, refresh_tokens, services, sessions, tickets, users
from gateway.auth.issuers import ForeignUser
from gateway.auth.principals import User as TokenUser
from gateway.auth.refresh_tokens import RETRY_WINDOW_MS, Refreshed
from gateway.auth.revocation import Revocation
from gateway.auth.sessions import new_session
from gateway.auth.tickets import NewTicket
from gateway.auth.tokens import Tokens, digest
from gateway.database import models
from gateway.database.database import Database, open_database
from gateway.database.models import metadata, used_refresh_tokens
from gateway.delivery import client_connection, resume_point
from gateway.errors import InvalidToken, NotFound, TokenRevoked
from gateway.observability.audit import Event
from tests.support.checker import Json
from tests.support.clients import Service, Socket, User, open_socket
from tests.support.databases import settings_for
from tests.support.engine import Gate
from tests.support.servers import LocalServer, Server, StartServer, look_for_nothing, process
from tests.support.trail import Trail
from tests.support.waiting import until

P = ParamSpec("P")
T = TypeVar("T")

NOW = 1_800_000_000_000
PASSWORD = "correct horse battery"
ENDED = (4001, "token_revoked")


@dataclass
class SignedIn:
    """Somebody who signed in with a password."""

    http: httpx.AsyncClient
    sub: str
    access: str
    refresh: str

    @property
    def user(self) -> User:
        return User(self.http, self.access, self.sub)


async def ask(http: httpx.AsyncClient, refresh: str) -> httpx.Response:
    form = {"grant_type": "refresh_token", "refresh_token": refresh}
    return await http.post("/v1/auth/token", data=form)


async def sign_in(server: Server, sub: str = "ada") -> SignedIn:
    await server.service.post("/v1/users", json={"sub": sub, "password": PASSWORD})
    form = {"grant_type": "password", "username": sub, "password": PASSWORD}
    answer = await server.http.post("/v1/auth/token", data=form)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return SignedIn(server.http, sub, body["access_token"], body["refresh_token"])


async def renew(one: SignedIn) -> SignedIn:
    answer = await ask(one.http, one.refresh)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return SignedIn(one.http, one.sub, body["access_token"], body["refresh_token"])


async def refused(user: User) -> bool:
    answer = await user.get("/v1/inbox")
    return (answer.status_code, answer.json().get("code")) == (401, "token_revoked")


async def is_over(one: SignedIn) -> bool:
    answer = await ask(one.http, one.refresh)
    return await refused(one.user) and answer.json().get("error") == "invalid_grant"


def spent(connection: Connection) -> int:
    return connection.scalar(select(func.count()).select_from(used_refresh_tokens)) or 0


# --- refresh tokens, as units of work -----------------------------------------------------------------------


async def session(database: Database, token: str, *, sub: str = "ada", lasts: int = 100_000_000) -> str:
    made = new_session(NOW + lasts, digest(token))
    await database.write(users.add_missing_users, [sub], NOW)
    assert await database.write(sessions.start_user_session, sub, made, NOW)
    return made.id


async def refresh(database: Database, token: str | None, after: int = 0) -> Refreshed:
    assert token is not None
    return await database.write(refresh_tokens.refresh, token, NOW + after)


async def test_each_refresh_gives_another_token_of_the_same_session(database: Database) -> None:
    mine = await session(database, "first")
    seen, token = {"first"}, "first"
    for number in range(5):
        done = await refresh(database, token, number)
        assert (done.session, done.sub, done.expires_at, done.ended) == (mine, "ada", NOW + 100_000_000, ())
        assert done.token is not None
        token = done.token
        assert len(base64.urlsafe_b64decode(token.rpartition(".")[2] + "=")) == 32
        seen.add(token)
    assert len(seen) == 6


async def test_a_repeated_refresh_within_10_seconds_returns_the_same_successor(database: Database) -> None:
    await session(database, "first")
    done = await refresh(database, "first")
    for after in (0, 5_000, RETRY_WINDOW_MS - 1):
        assert await refresh(database, "first", after) == done._replace(repeated=True)
    assert (await refresh(database, done.token, RETRY_WINDOW_MS)).token not in {None, done.token}


async def test_a_repeated_refresh_after_10_seconds_ends_the_session(database: Database) -> None:
    mine = await session(database, "first")
    done = await refresh(database, "first")
    late = await refresh(database, "first", RETRY_WINDOW_MS)
    assert (late.token, late.ended) == (None, (mine,))
    assert await refresh(database, done.token, RETRY_WINDOW_MS) == Refreshed()
    assert (await refresh(database, "first", RETRY_WINDOW_MS)).ended == ()


async def test_a_retry_does_not_extend_the_retry_window(database: Database) -> None:
    await session(database, "first")
    await refresh(database, "first")
    await refresh(database, "first", RETRY_WINDOW_MS - 1)
    assert (await refresh(database, "first", RETRY_WINDOW_MS + 1)).token is None


@pytest.mark.parametrize("age", [2, 3, 6])
async def test_reuse_of_an_older_refresh_token_always_ends_the_session(database: Database, age: int) -> None:
    mine = await session(database, "first")
    token: str | None = "first"
    for _ in range(age):
        token = (await refresh(database, token)).token
    assert (await refresh(database, "first")).ended == (mine,)
    assert await refresh(database, token) == Refreshed()


async def test_reuse_of_a_refresh_token_ends_only_its_own_session(database: Database) -> None:
    mine = await session(database, "mine")
    await session(database, "also mine")
    await session(database, "yours", sub="eve")
    await refresh(database, (await refresh(database, "mine")).token)
    assert (await refresh(database, "mine")).ended == (mine,)
    assert (await refresh(database, "also mine")).token is not None
    assert (await refresh(database, "yours")).token is not None


async def test_refreshing_does_not_extend_a_session(database: Database) -> None:
    await session(database, "first", lasts=1_000)
    done = await refresh(database, "first", 999)
    assert (done.token is not None, done.expires_at) == (True, NOW + 1_000)
    assert await refresh(database, done.token, 1_000) == Refreshed()


async def test_an_invalid_refresh_token_is_refused_and_ends_no_session(database: Database) -> None:
    await session(database, "first")
    for token in ("", "firs", "First", "first ", "é", "x" * 100_000):
        assert await refresh(database, token) == Refreshed()
    assert (await refresh(database, "first")).token is not None


@pytest.mark.parametrize("how", ["disabled", "released"])
async def test_a_refresh_is_refused_for_a_disabled_or_released_user(database: Database, how: str) -> None:
    await session(database, "first")
    if how == "disabled":
        await database.write(users.update_user, "ada", {"disabled": True}, NOW)
    else:
        await database.write(users.release_user, "ada", NOW)
    assert await refresh(database, "first") == Refreshed()


async def test_the_database_contains_no_refresh_token(database: Database) -> None:
    def everything(connection: Connection) -> list[Any]:
        rows = [row for table in metadata.sorted_tables for row in connection.execute(select(table))]
        return [value for row in rows for value in row]

    tokens = [refresh_tokens.new_token()]
    await session(database, tokens[0])
    for _ in range(4):
        tokens.append((await refresh(database, tokens[-1])).token or "")
    values = await database.read(everything)
    assert digest(tokens[-1]) in values
    texts = {value if isinstance(value, bytes) else str(value).encode() for value in values}
    for part in {part for token in tokens for part in token.split(".")}:
        raw = base64.urlsafe_b64decode(part + "==")
        assert not any(part.encode() in text or raw in text for text in texts)


async def test_the_stored_seed_gives_no_successor_of_an_older_token(database: Database) -> None:
    """Somebody with a token of long ago, and a copy of the database, cannot work out the current one."""
    await session(database, "first")
    second = (await refresh(database, "first")).token
    third = (await refresh(database, second)).token
    seed = await database.read(lambda connection: connection.scalar(select(models.sessions.c.refresh_seed)))
    assert isinstance(seed, bytes)
    assert refresh_tokens.successor_of(seed, second or "") == third
    assert refresh_tokens.successor_of(seed, "first") != second


async def test_used_refresh_tokens_are_deleted_with_their_session_in_short_steps(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_SWEEP_LIMIT", 3)
    await session(database, "short", lasts=1_000)
    await session(database, "long")
    for first in ("short", "long"):
        token = first
        for _ in range(8):
            token = await database.write(refresh_as_the_version_before, token)
    assert await database.read(spent) == 14
    steps = 1
    while await database.write(sessions.sweep, NOW + 1_000):
        steps += 1
    assert steps == 3
    assert await database.read(spent) == 7
    assert await database.read(lambda c: c.scalar(select(func.count()).select_from(models.sessions))) == 1


async def test_a_session_keeps_one_row_of_used_tokens_after_many_refreshes(database: Database) -> None:
    first = refresh_tokens.new_token()
    mine = await session(database, first)
    token: str | None = first
    passed = []
    for _ in range(30):
        passed.append(token)
        token = (await refresh(database, token)).token
    assert await database.read(spent) == 1
    for old in (passed[0], passed[1], passed[15], passed[-2]):
        found = await database.read(refresh_tokens.find_session, old or "")
        assert found is not None
        assert found.session == mine
    assert (await refresh(database, passed[15])).ended == (mine,)
    assert await refresh(database, token) == Refreshed()


async def test_a_session_without_a_refresh_keeps_no_row_of_used_tokens(database: Database) -> None:
    await session(database, refresh_tokens.new_token())
    assert await database.read(spent) == 0


async def test_a_forged_token_of_an_unused_family_ends_no_session(database: Database) -> None:
    first = refresh_tokens.new_token()
    await session(database, first)
    family, _, secret = first.partition(".")
    for token in (f"{family}.", f"{family}.{secret[:-1]}", f".{secret}", secret, family, "."):
        assert await refresh(database, token) == Refreshed()
    assert (await refresh(database, first)).token is not None


async def test_a_forged_token_of_a_used_family_ends_its_session(database: Database) -> None:
    """Only a token of the session tells its family, so this is reuse, or theft of one."""
    first = refresh_tokens.new_token()
    mine = await session(database, first)
    await refresh(database, first)
    assert (await refresh(database, f"{first.partition('.')[0]}.made up")).ended == (mine,)


def refresh_as_the_version_before(connection: Connection, token: str) -> str:
    """Run the statements of the version before: a row for each token, and a successor without a family."""
    shown = digest(token)
    find = text("SELECT id, previous_hash FROM sessions WHERE refresh_hash = :shown AND ended_at IS NULL")
    row = connection.execute(find, {"shown": shown}).one()
    seed = secrets.token_bytes(32)
    successor = hmac.digest(seed, token.encode(), "sha256")
    encoded = base64.urlsafe_b64encode(successor).rstrip(b"=").decode()
    connection.execute(
        text(
            "UPDATE sessions SET refresh_hash = :next, previous_hash = :shown, rotated_at = :now,"
            " refresh_seed = :seed WHERE id = :id"
        ),
        {"next": digest(encoded), "shown": shown, "now": NOW, "seed": seed, "id": row.id},
    )
    if row.previous_hash is not None:
        kept = text("INSERT INTO spent_refresh_tokens (hash, session_id) VALUES (:hash, :id)")
        connection.execute(kept, {"hash": row.previous_hash, "id": row.id})
    return encoded


@pytest.mark.parametrize("turns", ["oon", "onnn", "noonn", "nonon", "nnoon", "onoono"])
async def test_reuse_is_detected_while_the_previous_version_also_refreshes_the_session(
    database: Database, turns: str
) -> None:
    """Processes of this version (n) and of the one before (o) refresh one session in turns."""
    for sub, first in (("old", "as before"), ("new", refresh_tokens.new_token())):
        mine = await session(database, first, sub=sub)
        token, passed = first, []
        for turn in turns + "nnn":
            passed.append(token)
            if turn == "o":
                token = await database.write(refresh_as_the_version_before, token)
            else:
                done = await refresh(database, token)
                assert await refresh(database, token) == done._replace(repeated=True)
                token = done.token or ""
        assert {await database.read(refresh_tokens.find_session, one) for one in passed} == {
            await database.read(refresh_tokens.find_session, token)
        }
        kept = await database.read(spent)
        for _ in range(5):
            token = (await refresh(database, token)).token or ""
        assert await database.read(spent) == kept, "the next ones need no row"
        assert (await refresh(database, passed[0])).ended == (mine,)


ABROAD, PAST, OVER, LIVE = sessions.FOREIGN, "expired-", "ended-", "live-"


def add_sessions(connection: Connection, number: int) -> None:
    """Store so many sessions each of the kinds that a sweep finds, passes over and does not look at."""
    users.add_missing_users(connection, ["ada"], NOW)
    ada = users.get_user(connection, "ada").id
    long_ago, later = NOW - sessions.ENDED_SESSION_TTL_MS, NOW + 1_000
    times = {
        ABROAD: (later, long_ago),
        PAST: (NOW, None),
        OVER: (later, long_ago),
        LIVE: (later, None),
    }
    rows = [
        {"id": f"{kind}{one}", "user_id": ada, "created_at": 0, "expires_at": until, "ended_at": ended}
        for kind, (until, ended) in times.items()
        for one in range(number)
    ]
    connection.execute(models.sessions.insert(), rows)
    spent_ones = [
        {"hash": f"{kind}{one}".encode(), "session_id": f"{kind}{one}"}
        for kind in times
        for one in range(number)
    ]
    connection.execute(used_refresh_tokens.insert(), spent_ones)


async def steps_of_sweep(database: Database, number: int) -> int:
    """Return the steps of SQLite's machine in which all is swept where there are so many of each kind."""
    await database.write(add_sessions, number)
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    def sweep(connection: Connection, after: sessions.Ended) -> sessions.Ended | None:
        driver: Any = connection.connection.dbapi_connection
        driver.set_progress_handler(step, 1)
        try:
            return sessions.sweep(connection, NOW, after)
        finally:
            driver.set_progress_handler(None, 1)

    after: sessions.Ended | None = sessions.OLDEST
    while after is not None:
        after = await database.write(sweep, after)
    return count


async def test_the_cost_of_a_sweep_is_linear_in_the_number_of_expired_sessions(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_SWEEP_LIMIT", 20)
    steps = []
    for number in (100, 1_600):
        async with open_database(settings_for(sqlite_url)) as database:
            steps.append(await steps_of_sweep(database, number))
            kept = await database.read(lambda c: c.scalars(select(models.sessions.c.id)).all())
            await database.write(lambda c: c.execute(models.sessions.delete()))
        assert sorted(kept) == sorted(f"{kind}{one}" for kind in (ABROAD, LIVE) for one in range(number))
    assert steps[1] <= 20 * steps[0]


async def test_one_of_many_concurrent_refreshes_rotates_and_all_get_its_successor(database_url: str) -> None:
    """Two processes on one database."""
    settings = settings_for(database_url)
    async with open_database(settings) as one, open_database(settings) as other:
        token = refresh_tokens.new_token()
        await session(one, token)
        for _ in range(4):
            done = await asyncio.gather(*(refresh(each, token) for each in (one, other) * 20))
            assert len({one._replace(repeated=False) for one in done}) == 1
            assert sum(not one.repeated for one in done) == 1, "one of them rotated"
            assert done[0].token is not None
            token = done[0].token
        assert await one.read(spent) == 1


# --- refresh tokens over HTTP -------------------------------------------------------------------------------


async def test_fifty_concurrent_refreshes_leave_one_usable_session(server: LocalServer) -> None:
    ada = await sign_in(server)
    answers = await asyncio.gather(*(ask(server.http, ada.refresh) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    bodies = [answer.json() for answer in answers]
    assert len({body["refresh_token"] for body in bodies}) == 1
    assert bodies[0]["refresh_token"] != ada.refresh
    for body in bodies:
        await User(server.http, body["access_token"], "ada").inbox()
    fresh = await renew(SignedIn(server.http, "ada", bodies[0]["access_token"], bodies[0]["refresh_token"]))
    await fresh.user.inbox()
    async with fresh.user.socket() as socket:
        await socket.until("live")


async def test_fifty_concurrent_refreshes_at_two_processes_leave_one_session(
    server: LocalServer, database_url: str, tmp_path: Path
) -> None:
    async with process(database_url, tmp_path) as (_, other):
        ada = await sign_in(server)
        answers = await asyncio.gather(*(ask(each.http, ada.refresh) for each in (server, other) * 25))
        assert {answer.status_code for answer in answers} == {200}
        [token] = {answer.json()["refresh_token"] for answer in answers}
        assert (await ask(other.http, token)).status_code == 200


async def cut(server: Server, refresh_token: str, *, at: int | None) -> None:
    """Send a request to refresh, `at` bytes of it or all, and cut the connection without reading."""
    body = f"grant_type=refresh_token&refresh_token={refresh_token}"
    head = (
        "POST /v1/auth/token HTTP/1.1\r\nHost: gateway\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    url = server.http.base_url
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write((head + body).encode()[:at])
    await writer.drain()
    writer.transport.abort()


async def test_a_refresh_can_be_retried_after_its_response_is_lost(server: LocalServer) -> None:
    ada = await sign_in(server)
    await cut(server, ada.refresh, at=None)

    def rotated(connection: Connection) -> int | None:
        return connection.scalar(select(models.sessions.c.rotated_at))

    await until(lambda: server.state.database.read(rotated), "the gateway has rotated the token")
    fresh = await renew(await renew(ada))
    await fresh.user.inbox()


async def test_a_refresh_can_be_retried_after_its_connection_is_cut(server: LocalServer) -> None:
    ada = await sign_in(server)
    for at in (10, 150, -1):
        await cut(server, ada.refresh, at=at)
    await (await renew(ada)).user.inbox()


async def test_reuse_of_a_refresh_token_closes_the_sockets_of_its_session_at_once(
    server: LocalServer,
) -> None:
    stolen = await sign_in(server)
    other = await sign_in(server)
    fresh = await renew(await renew(stolen))
    async with fresh.user.socket() as socket, other.user.socket() as unconcerned:
        await socket.until("live")
        answer = await ask(server.http, stolen.refresh)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
        assert await socket.closed(within=1) == ENDED
        assert await refused(fresh.user)
        assert await is_over(fresh)
        assert (await unconcerned.ask(type="ping"))["type"] == "ok"
    await (await renew(other)).user.inbox()


async def test_a_refresh_keeps_sockets_open_and_access_tokens_valid(server: LocalServer) -> None:
    ada = await sign_in(server)
    async with ada.user.socket() as socket:
        await socket.until("live")
        fresh = ada
        for _ in range(3):
            fresh = await renew(fresh)
        assert (await socket.ask(type="ping"))["type"] == "ok"
        assert (await socket.ask(type="auth", token=fresh.access))["type"] == "ok"
        await ada.user.inbox()


async def test_an_access_token_never_outlives_its_session(start_server: StartServer) -> None:
    server = await start_server(refresh_token_ttl=60)
    ada = await sign_in(server)
    body = (await ask(server.http, ada.refresh)).json()
    assert 58 <= body["expires_in"] <= 60


# --- how a session ends -------------------------------------------------------------------------------------


async def by_revoking_the_access_token(server: Server, ada: SignedIn) -> None:
    await server.http.post("/v1/auth/revoke", data={"token": ada.access})


async def by_revoking_the_refresh_token(server: Server, ada: SignedIn) -> None:
    await server.http.post("/v1/auth/revoke", data={"token": ada.refresh, "token_type_hint": "access_token"})


async def by_revoking_the_refresh_token_before(server: Server, ada: SignedIn) -> None:
    await renew(ada)
    await by_revoking_the_refresh_token(server, ada)


async def by_revoking_a_spent_refresh_token(server: Server, ada: SignedIn) -> None:
    await renew(await renew(ada))
    await by_revoking_the_refresh_token(server, ada)


async def by_signing_out_everywhere(server: Server, ada: SignedIn) -> None:
    await server.service.delete(f"/v1/users/{ada.sub}/sessions")


async def by_another_password(server: Server, ada: SignedIn) -> None:
    await server.service.patch(f"/v1/users/{ada.sub}", json={"password": "another good password"})


async def by_no_password(server: Server, ada: SignedIn) -> None:
    await server.service.patch(f"/v1/users/{ada.sub}", json={"password": None})


async def by_disabling(server: Server, ada: SignedIn) -> None:
    await server.service.patch(f"/v1/users/{ada.sub}", json={"disabled": True})


async def by_erasing(server: Server, ada: SignedIn) -> None:
    await server.service.delete(f"/v1/users/{ada.sub}")


End = Callable[[Server, SignedIn], Awaitable[None]]
ONE_SESSION: list[End] = [
    by_revoking_the_access_token,
    by_revoking_the_refresh_token,
    by_revoking_the_refresh_token_before,
    by_revoking_a_spent_refresh_token,
]
EVERY_SESSION: list[End] = [
    by_signing_out_everywhere,
    by_another_password,
    by_no_password,
    by_disabling,
    by_erasing,
]


@pytest.mark.parametrize("end", [*ONE_SESSION, *EVERY_SESSION], ids=lambda end: end.__name__)
async def test_ending_a_session_revokes_its_tokens_and_closes_its_sockets_at_once(
    server: LocalServer, end: End
) -> None:
    ada, twin, eve = await sign_in(server), await sign_in(server), await sign_in(server, "eve")
    async with (
        ada.user.socket() as one,
        ada.user.socket(carrier="ticket") as two,
        twin.user.socket() as of_twin,
        eve.user.socket() as of_eve,
    ):
        for socket in (one, two, of_twin, of_eve):
            await socket.until("live")
        await end(server, ada)
        assert await one.closed(within=1) == ENDED
        assert await two.closed(within=1) == ENDED
        assert await is_over(ada)
        assert (await of_eve.ask(type="ping"))["type"] == "ok"
        await eve.user.inbox()
        if end in ONE_SESSION:
            assert (await of_twin.ask(type="ping"))["type"] == "ok"
            await (await renew(twin)).user.inbox()
        else:
            assert await of_twin.closed(within=1) == ENDED
            assert await is_over(twin)


async def test_a_session_ended_by_another_process_ends_here_at_the_next_poll(
    server: LocalServer, database_url: str, tmp_path: Path
) -> None:
    async with process(database_url, tmp_path) as (_, elsewhere):
        ada = await sign_in(server)
        async with ada.user.socket() as socket:
            await socket.until("live")
            await by_signing_out_everywhere(elsewhere, ada)
            await server.state.revocation.find()
            assert await socket.closed(within=1) == ENDED
            assert await is_over(ada)


async def test_sessions_ended_by_the_command_line_end_without_a_backplane(server: LocalServer) -> None:
    # The commands work on the database alone. Within a second is what is promised; a busy machine gets more.
    ada, database = await sign_in(server), server.state.database
    now_ms = int(time.time() * 1000)
    service, by_key, by_token = await new_service(server)
    async with ada.user.socket() as socket:
        await socket.until("live")
        await database.write(users.log_out, "ada", now_ms)
        assert await socket.closed(within=3) == ENDED
    assert (await posts(by_key), await posts(by_token)) == ((201, ""), (201, ""))
    await database.write(services.delete_key, service["client_id"], service["key_id"])
    await until(lambda: is_refused(by_key), "the key is refused", within=3)
    assert await posts(by_token) == (201, "")
    await database.write(services.delete_service, service["client_id"], now_ms)
    await until(lambda: is_refused(by_token), "the token is refused", within=3)


async def is_refused(service: Service) -> bool:
    return (await posts(service))[0] == 401


async def new_service(server: Server) -> tuple[Json, Service, Service]:
    """Return a service, and how it calls: with a key, and with an access token."""
    body = {"name": "backend", "scopes": ["notify", "tokens:mint"]}
    made = (await server.service.post("/v1/services", json=body)).json()
    key = (await server.service.post(f"/v1/services/{made['client_id']}/keys")).json()
    form = {"grant_type": "client_credentials", "client_id": made["client_id"]}
    form["client_secret"] = made["client_secret"]
    token = (await server.http.post("/v1/auth/token", data=form)).json()["access_token"]
    return made | {"key_id": key["id"]}, Service(server.http, key["key"]), Service(server.http, token)


async def posts(service: Service) -> tuple[int, str]:
    answer = await service.post("/v1/notifications", json={"to": "ada", "title": "x"})
    return answer.status_code, answer.json().get("code", "")


async def test_deleting_a_service_revokes_its_keys_its_tokens_and_all_minted_tokens(
    server: LocalServer,
) -> None:
    made, by_key, by_token = await new_service(server)
    own = [await caller.user("ada") for caller in (by_key, by_token)]
    foreign = await server.user("ada")
    async with own[0].socket() as one, own[1].socket() as two, foreign.socket() as three:
        for socket in (one, two, three):
            await socket.until("live")
        assert await posts(by_key) == await posts(by_token) == (201, "")
        assert (await server.service.delete(f"/v1/services/{made['client_id']}")).status_code == 204
        assert await one.closed(within=1) == ENDED
        assert await two.closed(within=1) == ENDED
        for caller in (by_key, by_token):
            assert await posts(caller) == (401, "token_revoked")
        for user in own:
            assert await refused(user)
        assert (await three.ask(type="ping"))["type"] == "ok"


async def test_deleting_a_key_revokes_it_at_once_and_ends_no_session(server: LocalServer) -> None:
    made, by_key, by_token = await new_service(server)
    ada = await by_key.user("ada")
    async with ada.socket() as socket:
        await socket.until("live")
        path = f"/v1/services/{made['client_id']}/keys/{made['key_id']}"
        assert (await server.service.delete(path)).status_code == 204
        assert await posts(by_key) == (401, "token_revoked")
        assert await posts(by_token) == (201, "")
        assert (await socket.ask(type="ping"))["type"] == "ok"


@pytest.mark.parametrize("token", ["garbage", "é", "a.b.c", "ngk_0000000000000000_x"])
async def test_revoking_an_unknown_token_ends_no_session(server: LocalServer, token: str) -> None:
    ada = await sign_in(server)
    assert (await server.http.post("/v1/auth/revoke", data={"token": token})).status_code == 200
    await ada.user.inbox()
    await renew(ada)


async def test_revoking_an_api_key_or_a_password_has_no_effect(server: LocalServer) -> None:
    ada = await sign_in(server)
    _, by_key, _ = await new_service(server)
    for token in (by_key.token, PASSWORD, "ada"):
        assert (await server.http.post("/v1/auth/revoke", data={"token": token})).status_code == 200
    assert await posts(by_key) == (201, "")
    await ada.user.inbox()


# --- a socket that opens while its session ends -------------------------------------------------------------


class Held:
    """A real database that holds whoever has just run a certain unit of work, with its result in hand."""

    def __init__(self, server: LocalServer, work: Callable[..., Any]) -> None:
        self.gate = Gate()
        self._server = server
        self._parts = server.state
        self._database = server.state.database
        self._work = work
        self._put(self)

    def _put(self, database: Any) -> None:
        app: Any = self._server.uvicorn.config.app
        self._parts.tokens._database = database
        parts = replace(self._parts.parts, database=database)
        app.state.gateway = replace(self._parts, database=database, parts=parts)

    async def _then_hold(self, work: Callable[..., Any]) -> None:
        if work == self._work:
            self._put(self._database)
            await self.gate.hold()

    async def lookup(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self.read(work, *args, **kwargs)

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        result = await self._database.read(work, *args, **kwargs)
        await self._then_hold(work)
        return result

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        result = await self._database.write(work, *args, **kwargs)
        await self._then_hold(work)
        return result


def hold_after(server: LocalServer, work: Callable[..., Any]) -> Gate:
    """Hold the next one who runs this unit of work, after its transaction."""
    return Held(server, work).gate


def hold_before_attaching(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Hold the next socket when it is accepted, and nobody knows of it yet."""
    gate, begin = Gate(), client_connection.ClientConnection.begin

    async def held(self: client_connection.ClientConnection) -> None:
        await gate.hold()
        begin(self)

    def begin_later(self: client_connection.ClientConnection) -> None:
        self.outgoing.socket.spawn(held(self))

    monkeypatch.setattr(client_connection.ClientConnection, "begin", begin_later)
    return gate


Hold = Callable[[LocalServer, pytest.MonkeyPatch], Gate]
POINTS: dict[str, tuple[str, Hold]] = {
    "the session was read": ("header", lambda s, _: hold_after(s, sessions.find_session_owner)),
    "the session was read, by subprotocol": (
        "subprotocol",
        lambda s, _: hold_after(s, sessions.find_session_owner),
    ),
    "the ticket was redeemed": ("ticket", lambda s, _: hold_after(s, tickets.redeem_ticket)),
    "accepted": ("header", lambda _, patch: hold_before_attaching(patch)),
    "accepted, by ticket": ("ticket", lambda _, patch: hold_before_attaching(patch)),
    "the beginning was read": ("header", lambda s, _: hold_after(s, resume_point.resume)),
}


@pytest.mark.parametrize(
    "end", [by_revoking_the_refresh_token, by_disabling, by_erasing], ids=lambda one: one.__name__
)
@pytest.mark.parametrize("point", POINTS)
async def test_a_socket_that_opens_while_its_session_ends_is_closed(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, point: str, end: End
) -> None:
    carrier, hold = POINTS[point]
    ada = await sign_in(server)
    query = {}
    if carrier == "ticket":
        query["ticket"] = (await ada.user.post("/v1/auth/ticket")).json()["ticket"]
    carriers: dict[str, dict[str, Any]] = {
        "ticket": {},
        "header": {"headers": {"Authorization": f"Bearer {ada.access}"}},
        "subprotocol": {"subprotocols": ["notify.v1", f"bearer.{ada.access}"]},
    }
    server.state.tokens.remembered.clear()
    gate = hold(server, monkeypatch)

    async def open_one() -> tuple[tuple[int, str], list[Json]]:
        async with open_socket(server.base, **carriers[carrier], **query) as socket:
            return await read_to_the_end(socket)

    handshake = asyncio.create_task(open_one())
    await gate.reached()
    await end(server, ada)
    gate.let_go()
    code, said = await asyncio.wait_for(handshake, 1)
    assert code == ENDED
    assert said == []
    await server.sockets(0)


async def read_to_the_end(socket: Socket, *, leave: bool = False) -> tuple[tuple[int, str], list[Json]]:
    """Return how the socket was closed, and what the gateway had said; `leave` after its first words."""
    said: list[Json] = []
    try:
        while not (said and leave):
            said.append(await socket.receive())
    except ConnectionClosed:
        return await socket.closed(), said
    return (1000, ""), said


async def test_a_socket_is_closed_if_the_session_of_its_new_token_ends_during_auth(
    server: LocalServer,
) -> None:
    first, second = await sign_in(server), await sign_in(server)
    async with first.user.socket() as socket:
        await socket.until("live")
        gate = hold_after(server, sessions.find_session_owner)
        server.state.tokens.remembered.pop(second.access, None)
        await socket.send(type="auth", token=second.access)
        await gate.reached()
        await by_revoking_the_refresh_token(server, second)
        gate.let_go()
        assert await socket.closed(within=1) == ENDED


async def test_a_socket_is_closed_if_its_own_session_ends_during_auth_with_a_new_token(
    server: LocalServer,
) -> None:
    first, second = await sign_in(server), await sign_in(server)
    async with first.user.socket() as socket:
        await socket.until("live")
        gate = hold_after(server, sessions.find_session_owner)
        server.state.tokens.remembered.pop(second.access, None)
        await socket.send(type="auth", token=second.access)
        await gate.reached()
        await by_revoking_the_refresh_token(server, first)
        assert await socket.closed(within=1) == ENDED
        gate.let_go()
    await server.sockets(0)


async def test_a_socket_with_a_new_token_ends_with_the_new_session_and_not_with_the_first(
    server: LocalServer,
) -> None:
    first, second = await sign_in(server), await sign_in(server)
    async with first.user.socket() as socket:
        await socket.until("live")
        assert (await socket.ask(type="auth", token=second.access))["type"] == "ok"
        await by_revoking_the_refresh_token(server, first)
        assert (await socket.ask(type="ping"))["type"] == "ok"
        await by_revoking_the_refresh_token(server, second)
        assert await socket.closed(within=1) == ENDED


async def test_a_request_that_is_verified_while_its_session_ends_is_refused(server: LocalServer) -> None:
    ada = await sign_in(server)
    server.state.tokens.remembered.clear()
    gate = hold_after(server, sessions.find_session_owner)
    asking = asyncio.create_task(ada.user.get("/v1/inbox"))
    await gate.reached()
    await by_signing_out_everywhere(server, ada)
    gate.let_go()
    assert (await asking).json()["code"] == "token_revoked"
    assert await refused(ada.user)


async def test_a_ticket_redeemed_while_its_session_ends_is_revoked(server: LocalServer) -> None:
    ada = await sign_in(server)
    ticket = (await ada.user.post("/v1/auth/ticket")).json()["ticket"]
    gate = hold_after(server, tickets.redeem_ticket)
    redeeming = asyncio.create_task(server.state.tokens.redeem(ticket))
    await gate.reached()
    await by_signing_out_everywhere(server, ada)
    gate.let_go()
    with pytest.raises(TokenRevoked):
        await redeeming


async def test_a_service_deleted_while_it_mints_gets_a_401_and_creates_no_user(server: LocalServer) -> None:
    made, by_key, _ = await new_service(server)
    gate = hold_after(server, services.find_key)
    server.state.tokens.remembered.clear()
    minting = asyncio.create_task(by_key.post("/v1/users/ada/tokens"))
    await gate.reached()
    await server.service.delete(f"/v1/services/{made['client_id']}")
    gate.let_go()
    assert (await minting).status_code == 401
    assert (await server.service.get("/v1/users/ada")).status_code == 404


Work = Callable[[Connection], Any]


async def in_turn(url: str, first: Work, second: Work) -> list[Any]:
    """Run the second unit of work while the first has not committed; return what both return or raise.

    Only Postgres has two writers: there the second waits for a lock, which is waited for here.
    """
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with open_database(settings_for(url)) as database:
        holder = await asyncpg.connect(url)
        try:
            await holder.execute("SELECT pg_advisory_lock(1)")

            def held(connection: Connection) -> Any:
                result = first(connection)
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(1)")
                return result

            running = [asyncio.create_task(database.write(held))]
            await until(lambda: holder.fetchval(waiting), "the first has done its work")
            running.append(asyncio.create_task(database.write(second)))

            async def both_wait() -> bool:
                return bool(await holder.fetchval(waiting) == 2)

            await until(both_wait, "the second waits for the first")
            await holder.execute("SELECT pg_advisory_unlock(1)")
            return await asyncio.gather(*running, return_exceptions=True)
        finally:
            await holder.close()


async def test_deleting_a_service_ends_a_session_that_starts_concurrently(
    postgres_url: str,
) -> None:
    made = new_session(NOW)
    async with open_database(settings_for(postgres_url)) as database:
        client = (await database.write(services.add_service, "shop", ["notify"], b"", NOW)).client_id
    done = await in_turn(
        postgres_url,
        lambda c: services.start_service_session(c, client, made, NOW),
        lambda c: services.delete_service(c, client, NOW),
    )
    assert done == [sessions.Started([]), [made.id]]


async def test_no_session_starts_for_a_service_whose_deletion_is_under_way(postgres_url: str) -> None:
    async with open_database(settings_for(postgres_url)) as database:
        client = (await database.write(services.add_service, "shop", ["notify"], b"", NOW)).client_id
    _, refusal = await in_turn(
        postgres_url,
        lambda c: services.delete_service(c, client, NOW),
        lambda c: services.start_service_session(c, client, new_session(NOW), NOW),
    )
    assert isinstance(refusal, NotFound)


# --- tickets ------------------------------------------------------------------------------------------------


async def test_a_ticket_has_at_least_128_bits_and_is_unique(server: LocalServer) -> None:
    ada = await server.user()
    tickets = [(await ada.post("/v1/auth/ticket")).json()["ticket"] for _ in range(20)]
    assert len(set(tickets)) == 20
    assert all(len(base64.urlsafe_b64decode(ticket)) * 8 >= 128 for ticket in tickets)


async def test_a_ticket_is_redeemed_once_even_if_two_processes_race(database_url: str) -> None:
    settings = settings_for(database_url)
    async with open_database(settings) as one, open_database(settings) as other:
        desks = [Tokens(settings, each, Revocation(each, on_ended=lambda _: None)) for each in (one, other)]
        now_ms = int(time.time() * 1000)
        made = new_session(now_ms + 60_000)
        await one.write(users.add_missing_users, ["ada"], now_ms)
        await one.write(sessions.start_user_session, "ada", made, now_ms)
        for number in range(20):
            ticket = NewTicket(digest(str(number)), made.id, "inbox", now_ms + 60_000, now_ms + 30_000)
            await one.write(tickets.add_ticket, ticket)
            done = await asyncio.gather(
                *(each.redeem(str(number)) for each in desks * 3), return_exceptions=True
            )
            assert sum(isinstance(each, TokenUser) for each in done) == 1
            assert sum(isinstance(each, InvalidToken) for each in done) == 5


async def test_one_of_two_sockets_with_the_same_ticket_at_two_processes_opens(
    server: LocalServer, database_url: str, tmp_path: Path
) -> None:
    async def first_words(base: str, ticket: str) -> str:
        async with open_socket(base, ticket=ticket) as socket:
            (code, reason), said = await read_to_the_end(socket, leave=True)
            return said[0]["type"] if said else f"{code} {reason}"

    async with process(database_url, tmp_path) as (_, other):
        ada = await server.user()
        for _ in range(3):
            ticket = (await ada.post("/v1/auth/ticket")).json()["ticket"]
            words = await asyncio.gather(*(first_words(each.base, ticket) for each in (server, other)))
            assert sorted(words) == ["4001 invalid_token", "hello"]


# --- the end of a token, by a real clock --------------------------------------------------------------------


async def test_a_socket_closes_within_a_second_after_its_token_expires(server: LocalServer) -> None:
    user = await server.user("ada", ttl=2)
    async with user.socket() as socket:
        said = await socket.until("token_expiring")
        ends = (await server.state.tokens.verify(user.token or "")).expires_at
        assert ends is not None
        assert "hello" in {one["type"] for one in said}
        assert await socket.closed(within=4) == (4001, "token_expired")
        assert 0 <= time.time() - ends <= 1


async def test_a_client_gets_token_expiring_60_seconds_before_its_token_expires(server: LocalServer) -> None:
    user = await server.user("ada", ttl=62)
    async with user.socket() as socket:
        assert [one["type"] for one in await socket.until("live")] == ["hello", "live"]
        ends = (await server.state.tokens.verify(user.token or "")).expires_at
        assert ends is not None
        told = await socket.next("token_expiring", within=4)
        assert 0 <= time.time() - (ends - 60) <= 1
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(ends))
        assert told["expires_at"] == stamp


async def test_a_socket_with_a_new_token_outlives_the_old_token(server: LocalServer) -> None:
    short, long = await server.user("ada", ttl=2), await server.user("ada", ttl=900)
    async with short.socket() as socket:
        await socket.until("live")
        assert (await socket.ask(type="auth", token=long.token))["type"] == "ok"
        ends = (await server.state.tokens.verify(short.token or "")).expires_at
        assert ends is not None
        await until(lambda: time.time() > ends + 1, "the first token has expired")
        assert (await socket.ask(type="ping"))["type"] == "ok"


async def test_a_token_of_another_user_closes_the_socket(server: LocalServer) -> None:
    ada, eve = await server.user("ada"), await server.user("eve")
    async with ada.socket() as socket:
        await socket.until("live")
        await socket.send(type="auth", token=eve.token)
        assert await socket.closed(within=1) == (4001, "invalid_token")


# --- how many there are -------------------------------------------------------------------------------------


async def by_password(server: LocalServer) -> User:
    return (await sign_in(server)).user


async def by_minting(server: LocalServer) -> User:
    return await server.user("ada")


@pytest.mark.parametrize("enter", [by_password, by_minting], ids=lambda enter: enter.__name__)
async def test_a_session_over_the_user_limit_ends_the_oldest_session_and_its_sockets(
    start_server: StartServer,
    enter: Callable[[LocalServer], Awaitable[User]],
    trail: Trail,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = await start_server(max_sessions_per_user=2)
    monkeypatch.setattr(server.state.revocation.finder, "look", look_for_nothing)
    eve = await server.user("eve")
    oldest, older = await enter(server), await enter(server)
    async with oldest.socket() as one, older.socket() as two:
        for socket in (one, two):
            await socket.until("live")
        newest = await enter(server)
        assert await one.closed(within=1) == ENDED
        assert (await two.ask(type="ping"))["type"] == "ok"
    assert await refused(oldest)
    for user in (older, newest, eve):
        await user.inbox()
    said = trail.last(Event.SESSIONS_ENDED)
    assert (said["why"], said["number"], said["subject"]) == ("too_many_sessions", 1, "user:ada")
    sid = jwt.decode(oldest.token or "", options={"verify_signature": False})["sid"]
    assert said["sessions"] == [sid]
    assert said["source"] == "127.0.0.1"


async def test_a_token_over_the_service_limit_revokes_the_oldest_token(
    start_server: StartServer, trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(max_sessions_per_service=2)
    monkeypatch.setattr(server.state.revocation.finder, "look", look_for_nothing)
    made, by_key, first = await new_service(server)
    form = {"grant_type": "client_credentials", "client_id": made["client_id"]}
    form["client_secret"] = made["client_secret"]

    async def another() -> Service:
        answer = await server.http.post("/v1/auth/token", data=form)
        return Service(server.http, answer.json()["access_token"])

    second = await another()
    assert await posts(first) == (201, "")
    third = await another()
    assert await posts(first) == (401, "token_revoked")
    assert await posts(second) == await posts(third) == await posts(by_key) == (201, "")
    said = trail.last(Event.SESSIONS_ENDED)
    assert (said["why"], said["actor"]) == ("too_many_sessions", f"service:{made['client_id']}")


async def test_a_session_ended_by_the_limit_also_ends_in_other_processes(
    start_server: StartServer, database_url: str, tmp_path: Path
) -> None:
    server = await start_server(max_sessions_per_user=1)
    async with process(database_url, tmp_path, max_sessions_per_user=1) as (_, elsewhere):
        ada = await server.user("ada")
        async with ada.socket() as socket:
            await socket.until("live")
            await elsewhere.user("ada")
            assert await socket.closed(within=3) == ENDED


def test_the_session_limit_follows_the_socket_limit_unless_configured() -> None:
    url = "sqlite:///x.db"
    assert settings_for(url).session_limit == 100
    assert settings_for(url, max_sockets_per_user=500).session_limit == 500
    assert settings_for(url, max_sockets_per_user=500, max_sessions_per_user=7).session_limit == 7


async def test_concurrent_sign_ins_count_each_other_against_the_session_limit(postgres_url: str) -> None:
    old = new_session(NOW + 10**6)
    async with open_database(settings_for(postgres_url)) as database:
        await database.write(users.add_missing_users, ["ada"], NOW)
        await database.write(sessions.start_user_session, "ada", old, NOW)
    first, second = new_session(NOW + 10**6), new_session(NOW + 10**6)
    done = await in_turn(
        postgres_url,
        lambda c: sessions.start_user_session(c, "ada", first, NOW + 1, limit=1),
        lambda c: sessions.start_user_session(c, "ada", second, NOW + 2, limit=1),
    )
    assert done == [([old.id],), ([first.id],)]


async def test_concurrent_foreign_tokens_count_each_other_against_the_session_limit(
    postgres_url: str,
) -> None:
    async with open_database(settings_for(postgres_url)) as database:
        await database.write(users.add_missing_users, ["ada"], NOW)
    one, two = (
        ForeignUser("ada", f"x-{name}", NOW // 1000, NOW // 1000 + 900, reads_inbox=True, issuer="i")
        for name in "ab"
    )
    done = await in_turn(
        postgres_url,
        lambda c: issuers.admit(c, one, NOW, creates=True, limit=1),
        lambda c: issuers.admit(c, two, NOW + 1, creates=True, limit=1),
    )
    assert [admitted.ended for admitted in done] == [[], ["x-a"]]


async def test_concurrent_service_tokens_count_each_other_against_the_session_limit(
    postgres_url: str,
) -> None:
    async with open_database(settings_for(postgres_url)) as database:
        client = (await database.write(services.add_service, "shop", ["notify"], b"", NOW)).client_id
    first, second = new_session(NOW + 10**6), new_session(NOW + 10**6)
    done = await in_turn(
        postgres_url,
        lambda c: services.start_service_session(c, client, first, NOW, limit=1),
        lambda c: services.start_service_session(c, client, second, NOW + 1, limit=1),
    )
    assert done == [([],), ([first.id],)]


async def test_a_sign_in_concurrent_with_disabling_the_user_starts_no_session(postgres_url: str) -> None:
    async with open_database(settings_for(postgres_url)) as database:
        await database.write(users.add_missing_users, ["ada"], NOW)
    _, started = await in_turn(
        postgres_url,
        lambda c: users.update_user(c, "ada", {"disabled": True}, NOW),
        lambda c: sessions.start_user_session(c, "ada", new_session(NOW + 10**6), NOW),
    )
    assert started is None


async def test_many_concurrent_sign_ins_stay_within_the_session_limit(start_server: StartServer) -> None:
    server = await start_server(max_sessions_per_user=3)
    users = await asyncio.gather(*(server.user("ada") for _ in range(12)))
    answers = await asyncio.gather(*(user.get("/v1/inbox") for user in users))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [401] * 9


async def test_a_socket_with_a_new_minted_token_ends_with_the_session_of_that_token(
    server: LocalServer,
) -> None:
    first, second = await server.user("ada"), await server.user("ada")
    async with first.socket() as socket:
        await socket.until("live")
        assert (await socket.ask(type="auth", token=second.token))["type"] == "ok"
        await server.http.post("/v1/auth/revoke", data={"token": first.token})
        assert (await socket.ask(type="ping"))["type"] == "ok"
        await server.http.post("/v1/auth/revoke", data={"token": second.token})
        assert await socket.closed(within=1) == ENDED
