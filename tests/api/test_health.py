"""What probes are told: that the process lives, and whether it can do its work."""

import asyncio

import pytest
import structlog
from sqlalchemy import Connection, text
from websockets.exceptions import InvalidStatus

from gateway import __version__
from gateway.errors import Unavailable
from gateway.observability import readiness
from gateway.observability.readiness import MAX_AGE_SECONDS, Check, Readiness
from tests.support.postgres import free_port
from tests.support.servers import LocalServer, StartServer
from tests.support.waiting import until

READY = {"database": "ok", "migrations": "ok", "signing_key": "ok", "backplane": "ok", "draining": "no"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_checks_need_no_token_and_are_not_cached(server: LocalServer, path: str) -> None:
    for method in ("GET", "HEAD"):
        answer = await server.http.request(method, path)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert (await server.http.post(path)).status_code == 405


async def test_health_check_bodies_have_only_the_documented_members(server: LocalServer) -> None:
    assert (await server.http.get("/healthz")).json() == {"status": "ok", "version": __version__}
    assert (await server.http.get("/readyz")).json() == {"status": "ready", "checks": READY}


def set_revision(connection: Connection, revision: str) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


@pytest.mark.parametrize(("revision", "outcome"), [("0001", "failed"), ("from_the_future", "ok")])
async def test_an_outdated_schema_is_not_ready_and_a_newer_schema_is_ready(
    server: LocalServer, revision: str, outcome: str
) -> None:
    await server.state.database.write(set_revision, revision)
    answer = await server.http.get("/readyz")
    assert answer.json()["checks"] == READY | {"migrations": outcome}
    assert answer.status_code == (200 if outcome == "ok" else 503)
    assert answer.json()["status"] == ("ready" if outcome == "ok" else "unavailable")


async def test_a_process_without_a_signing_key_is_not_ready(server: LocalServer) -> None:
    server.state.tokens.keys._signers.clear()
    answer = await server.http.get("/readyz")
    assert (answer.status_code, answer.json()["checks"]) == (503, READY | {"signing_key": "failed"})


@pytest.mark.parametrize("draining", [False, True])
async def test_a_process_that_is_not_ready_sends_retry_after(server: LocalServer, draining: bool) -> None:
    assert "retry-after" not in (await server.http.get("/readyz")).headers
    if draining:
        server.state.drain.begin()
    else:
        server.state.readiness._checks = {"database": lambda: False}
        server.state.readiness._stale_at = 0
    for method in ("GET", "HEAD"):
        answer = await server.http.request(method, "/readyz")
        # As every other request is told while the database is unavailable.
        said = Unavailable().headers["Retry-After"]
        assert (answer.status_code, answer.headers["retry-after"]) == (503, said)


async def test_a_process_without_its_backplane_is_degraded_and_stays_ready(start_server: StartServer) -> None:
    server = await start_server(backplane_url=f"redis://127.0.0.1:{free_port()}")
    answer = await server.http.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "degraded", "checks": READY | {"backplane": "failed"}}


async def test_a_backplane_failure_is_logged_only_after_the_backplane_has_listened_once() -> None:
    listening, well = False, True
    checks: dict[str, Check] = {"database": lambda: well, "backplane": lambda: listening}
    now = 0.0
    asking = Readiness(checks, awaited={"backplane"}, clock=lambda: now)

    async def logged() -> list[tuple[str, object]]:
        nonlocal now
        now += MAX_AGE_SECONDS
        with structlog.testing.capture_logs() as events:
            assert await asking.report() == {"database": well, "backplane": listening}
        return [(event["log_level"], event.get("failed")) for event in events]

    assert await logged() == []
    listening = True
    assert await logged() == []
    listening = False
    assert await logged() == [("warning", ["backplane"])]
    well = False
    assert await logged() == [("warning", ["database", "backplane"])]
    well = listening = True
    assert await logged() == [("info", None)]
    assert await logged() == []


async def test_concurrent_readiness_requests_share_one_check_per_second() -> None:
    asked, answer, now = 0, asyncio.Event(), 0.0

    async def check() -> bool:
        nonlocal asked
        asked += 1
        return await answer.wait()

    asking = Readiness({"database": check}, clock=lambda: now)
    many = [asyncio.create_task(asking.report()) for _ in range(50)]
    await until(lambda: asked == 1, "one asks")
    # The first one goes: another asks for all of them.
    many[0].cancel()
    answer.set()
    reports = await asyncio.gather(*many, return_exceptions=True)
    assert isinstance(reports[0], asyncio.CancelledError)
    assert reports[1:] == [{"database": True}] * 49
    assert asked == 2
    now = MAX_AGE_SECONDS / 2
    await asking.report()
    assert asked == 2
    now = MAX_AGE_SECONDS
    await asking.report()
    assert asked == 3


async def test_a_check_that_hangs_or_raises_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "TIMEOUT_SECONDS", 0.01)

    def broken() -> bool:
        raise OSError

    checks: dict[str, Check] = {"hangs": asyncio.Event().wait, "raises": broken, "well": lambda: True}
    assert await Readiness(checks).report() == {"hangs": False, "raises": False, "well": True}


async def test_a_draining_process_accepts_posts_refuses_sockets_and_is_not_ready(
    server: LocalServer,
) -> None:
    ada = await server.user()
    async with ada.socket(since="latest") as socket:
        await socket.next("live")
        server.state.drain.begin()
        server.state.readiness._checks = {"database": asyncio.Event().wait}
        answer = await server.http.get("/readyz")
        assert answer.status_code == 503
        assert answer.json() == {"status": "unavailable", "checks": {"draining": "yes"}}
        assert (await server.http.get("/healthz")).status_code == 200
        with pytest.raises(InvalidStatus) as refused:
            async with ada.socket():
                pass
        response = refused.value.response
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert response.headers["content-type"] == "application/problem+json"
        assert b'"code":"draining"' in (response.body or b"")
        await server.service.notify("ada")
        assert (await socket.next("notification"))["seq"] == 1
