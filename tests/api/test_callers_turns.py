"""Who counts as the caller of what a request has the database do."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection
from websockets.exceptions import ConnectionClosed

from gateway.auth import tickets
from gateway.auth.principals import Service
from gateway.auth.principals import User as Known
from gateway.database.turns import caller
from tests.support.clients import User
from tests.support.servers import LocalServer


@dataclass
class Callers:
    """A gateway, a user, and the id and the secret of a service."""

    server: LocalServer
    user: User
    client: dict[str, str]


Ask = Callable[[Callers], Coroutine[Any, Any, httpx.Response]]

STRANGERS: list[Ask] = [
    lambda callers: callers.server.stranger.post("/v1/auth/revoke", data={"token": callers.user.token}),
    lambda callers: callers.server.stranger.post("/v1/auth/revoke", data={"token": "made-up"}),
    lambda callers: callers.server.stranger.post(
        "/v1/auth/token", data={"grant_type": "refresh_token", "refresh_token": "made-up"}
    ),
    lambda callers: callers.server.stranger.get("/v1/stream?ticket=made-up"),
]

SERVICES: list[Ask] = [
    lambda callers: callers.server.service.post("/v1/users/ada/tokens"),
    lambda callers: callers.server.service.post("/v1/users", json={"sub": "new"}),
    lambda callers: callers.server.service.get("/v1/notifications/01890a5d-ac96-774b-bcce-b302099a8057"),
    lambda callers: callers.server.stranger.post(
        "/v1/auth/token", data={"grant_type": "client_credentials", **callers.client}
    ),
]

USERS: list[Ask] = [
    lambda callers: callers.user.post("/v1/auth/ticket"),
    lambda callers: callers.user.get("/v1/inbox"),
    lambda callers: callers.user.get("/v1/inbox/01890a5d-ac96-774b-bcce-b302099a8057"),
]


@pytest.mark.parametrize(
    ("kind", "ask"),
    [(kind, ask) for kind, asks in ((str, STRANGERS), (Service, SERVICES), (Known, USERS)) for ask in asks],
)
async def test_the_last_database_work_of_a_request_runs_under_its_caller(
    kind: type, ask: Ask, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await server.user("ada")
    made = (await server.service.post("/v1/services", json={"name": "s", "scopes": ["notify"]})).json()
    callers = Callers(server, user, {name: made[name] for name in ("client_id", "client_secret")})
    database, seen = server.state.database, list[Hashable]()
    for name in ("read", "lookup", "write"):
        method = getattr(database, name)

        async def noted(*args: Any, method: Any = method, **kwargs: Any) -> Any:
            if caller.get() is not None:
                seen.append(caller.get())
            return await method(*args, **kwargs)

        monkeypatch.setattr(database, name, noted)
    assert (await ask(callers)).status_code < 500
    assert seen, "it asked the database"
    last = seen[-1]
    assert (last == "127.0.0.1") if kind is str else (isinstance(last, tuple) and last[0] is kind)


async def test_an_unknown_ticket_starts_no_transaction(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    redeemed: list[bytes] = []
    redeem = tickets.redeem_ticket

    def counted(connection: Connection, ticket_hash: bytes, now_ms: int) -> tickets.Ticket | None:
        redeemed.append(ticket_hash)
        return redeem(connection, ticket_hash, now_ms)

    monkeypatch.setattr(tickets, "redeem_ticket", counted)
    stranger = User(server.http, None, "nobody")
    with suppress(ConnectionClosed):
        async with stranger.socket(ticket="made-up") as opened:
            await opened.until("live")
    assert redeemed == []
    user = await server.user()
    async with user.socket(carrier="ticket") as opened:
        await opened.until("live")
    assert len(redeemed) == 1


async def test_a_socket_reads_the_database_as_its_user(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await server.user("ada")
    await server.service.notify("ada")
    seen: set[Hashable] = set()
    read = server.state.database.read

    async def noted(*args: Any, **kwargs: Any) -> Any:
        seen.add(caller.get())
        return await read(*args, **kwargs)

    monkeypatch.setattr(server.state.database, "read", noted)
    async with user.socket() as opened:
        await opened.until("live")
    assert any(isinstance(one, tuple) and one[0] is Known for one in seen)
    await asyncio.sleep(0)
