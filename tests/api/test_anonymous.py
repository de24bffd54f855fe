"""The budget of an address for what is asked without a credential, and the 429 that comes late."""

import asyncio
import weakref
from types import SimpleNamespace

import pytest
from fastapi import Request

from gateway.api import error_rendering
from gateway.api.anonymous import HEALTH_CHECK_PATHS
from gateway.errors import RateLimited
from tests.support.servers import StartServer
from tests.support.waiting import until

BURST = 3
SCARCE = {"anonymous_per_second": BURST / 10}
"""So many requests at once, and the next one after three seconds."""

ENOUGH = 50
"""More than a slow machine is given meanwhile."""

PUBLIC = [
    ("GET", "/", ""),
    ("GET", "/sdk/notifications.js", ""),
    ("GET", "/sdk/notifications.js", "Bearer of.no.use"),
    ("GET", "/docs", "Bearer of.no.use"),
    ("GET", "/openapi.json", ""),
    ("GET", "/no/such/path", ""),
    ("GET", "/v1/no/such/path", "Bearer of.no.use"),
    ("PUT", "/v1/inbox", "Bearer of.no.use"),
    ("GET", "/v1/inbox", ""),
    ("POST", "/v1/notifications", ""),
]


def held_up(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Return what ends the time for which a 429 is held up: no clock does."""
    over = asyncio.Event()

    async def sleep(seconds: float) -> None:
        assert seconds == error_rendering.REFUSAL_DELAY_SECONDS
        await over.wait()

    monkeypatch.setattr(error_rendering, "asyncio", SimpleNamespace(sleep=sleep))
    return over


@pytest.mark.parametrize(("method", "path", "credential"), PUBLIC)
async def test_an_address_over_its_anonymous_budget_gets_a_429_on_every_path(
    method: str, path: str, credential: str, start_server: StartServer
) -> None:
    server = await start_server(**SCARCE)
    user = await server.user()
    headers = {"Authorization": credential} if credential else {}
    answers = [await server.http.request(method, path, headers=headers) for _ in range(ENOUGH)]
    assert answers[0].status_code != 429
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["RateLimit-Policy"].startswith('"anonymous";')
    assert "content-security-policy" in refused.headers
    for probe in HEALTH_CHECK_PATHS:
        assert (await server.http.get(probe)).status_code == 200
    assert (await user.get("/v1/inbox")).status_code == 200
    await server.service.notify("ada")


async def test_requests_with_a_valid_credential_do_not_use_the_anonymous_budget(
    start_server: StartServer,
) -> None:
    server = await start_server(**SCARCE)
    user = await server.user()
    for _ in range(ENOUGH):
        assert (await user.get("/v1/inbox")).status_code == 200
    assert (await server.http.get("/")).status_code == 200


async def test_repeated_429s_are_delayed_without_delaying_other_callers(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(**SCARCE, refusals_per_second=BURST / 10)
    user = await server.user()
    over = held_up(monkeypatch)
    asked = [asyncio.create_task(server.http.get("/")) for _ in range(ENOUGH)]
    await until(lambda: sum(one.done() for one in asked) >= 2 * BURST, "the first are answered")
    assert {one.result().status_code for one in asked if one.done()} == {200, 429}
    for _ in range(ENOUGH):
        assert (await user.get("/v1/inbox")).status_code == 200
    assert not all(one.done() for one in asked)
    over.set()
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200, 429}


class Body:
    """What a request holds."""


def refuse(held: list[weakref.ref[Body]]) -> None:
    body = Body()
    held.append(weakref.ref(body))
    raise RateLimited("posts", quota=1, window=1, retry_after=1)


async def test_a_delayed_429_does_not_hold_the_request_body(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(refusals_per_second=1e-4)
    over = held_up(monkeypatch)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": ("192.0.2.1", 1)}
    request = Request(scope | {"query_string": b"", "app": server.uvicorn.config.app})
    held: list[weakref.ref[Body]] = []

    async def answer() -> None:
        try:
            refuse(held)
        except RateLimited as error:
            await error_rendering.render_error(request, error)

    await answer()
    waits = asyncio.create_task(answer())
    await until(lambda: len(held) == 2, "it is refused")
    assert not waits.done()
    assert held[1]() is None
    over.set()
    await waits
