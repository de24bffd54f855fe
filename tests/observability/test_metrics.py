"""What is counted, who may read it, and that the dashboard and the alerts ask for what there is."""

import asyncio
import json
import re
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from sqlalchemy import Connection, update
from websockets.exceptions import InvalidStatus

from gateway.auth import services
from gateway.database.models import due_work, items, notifications
from gateway.errors import InvalidToken, MissingToken, NotFound
from gateway.observability.metrics import SAMPLE_SECONDS, Metrics, Now, mark_dead
from gateway.protocol.times import MINUTE_MS, now_ms
from gateway.settings import SettingsError, load_settings
from tests.support.clients import User, open_socket, raw_socket
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, Server, StartServer, process, serving
from tests.support.waiting import until

TOKEN = "a-token-of-the-tests"
OPERATIONS = Path(__file__).parents[2] / "docs/operations"
ALERTS = (OPERATIONS / "alerts.yml").read_text()
DASHBOARD = json.loads((OPERATIONS / "grafana-dashboard.json").read_text())


async def scrape(server: Server, **headers: str) -> dict[str, float]:
    """Return the samples of a gateway by name and labels, as `name{a=b}`."""
    answer = await server.http.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    return samples(answer.text)


def samples(text: str) -> dict[str, float]:
    return {
        f"{one.name}{{{','.join(f'{k}={v}' for k, v in sorted(one.labels.items()))}}}".replace(
            "{}", ""
        ): one.value
        for family in parse(text)
        for one in family.samples
    }


async def counted(server: Server, name: str, value: float) -> None:
    """Wait until a sample has this value."""

    async def is_counted() -> bool:
        return (await scrape(server)).get(name) == value

    await until(is_counted, f"{name} is {value}")


# --- what is counted ----------------------------------------------------------------------------------------


async def test_a_post_is_counted_with_its_items_its_commit_and_its_delivery(server: LocalServer) -> None:
    ada = await server.user("ada")
    async with ada.socket() as socket:
        await socket.until("live")
        before = await scrape(server)
        await server.service.notify(["ada", "bob", "eve"])
        await socket.until("notification")
        await server.service.notify_many("ada", 4)
        for _ in range(4):
            await socket.until("notification")
        await counted(server, "gateway_sockets", 1)
    after = await scrape(server)
    moved = {name: value - before.get(name, 0) for name, value in after.items()}
    assert moved["gateway_posts_total"] == 5
    assert moved["gateway_items_total"] == 7
    assert moved["gateway_commit_batch_items_count"] == 2
    assert moved["gateway_commit_batch_items_sum"] == 7
    assert moved["gateway_commit_seconds_count"] >= 2
    assert 0 < moved["gateway_commit_seconds_sum"] < 10
    assert 2 <= moved["gateway_delivery_lag_seconds_count"] <= 5
    assert 0 < moved["gateway_delivery_lag_seconds_sum"] < 10
    assert after["gateway_sockets_max"] == 50_000
    assert after["gateway_ready"] == 1
    await counted(server, "gateway_sockets", 0)


async def test_a_post_repeated_with_its_idempotency_key_is_counted_once(server: LocalServer) -> None:
    for _ in range(3):
        headers = {"Idempotency-Key": "k"}
        await server.service.post("/v1/notifications", headers=headers, json={"to": "ada", "title": "t"})
    assert (await scrape(server))["gateway_posts_total"] == 1


async def test_replays_and_resets_are_counted(server: LocalServer) -> None:
    ada = await server.user("ada")
    await server.service.notify_many("ada", 3)
    for since in (0, 1, 3):
        async with ada.socket(since=since) as socket:
            await socket.until("live")
    async with ada.socket() as socket:
        await socket.until("live")
    assert (await scrape(server))["gateway_replays_total"] == 2
    async with ada.socket(since=9) as socket:
        await socket.until("reset")
    assert (await scrape(server))["gateway_resets_total"] == 1


async def test_the_delivery_lag_includes_messages_read_from_the_log(start_server: StartServer) -> None:
    server = await start_server(tail_bytes=0)
    ada = await server.user("ada")
    async with ada.socket() as socket:
        await socket.until("live")
        await server.service.notify("ada")
        await socket.until("notification")
        after = await scrape(server)
    assert after["gateway_delivery_lag_seconds_count"] == 1
    assert after["gateway_delivery_lag_seconds_sum"] < 10


@pytest.mark.parametrize("again", ["edited", "woken"])
async def test_the_delivery_lag_leaves_out_items_that_have_entered_again(
    start_server: StartServer, again: str
) -> None:
    server = await start_server(tail_bytes=0)
    ada = await server.user("ada")
    posted = await server.service.notify("ada")
    path = f"/v1/notifications/{posted['id']}"
    database = server.state.database
    if again == "woken":
        # The shortest snooze takes a minute: it has, and is due.
        await ada.patch(f"/v1/inbox/{posted['id']}", json={"snoozed_until": in_an_hour()})

    def wait(connection: Connection) -> None:
        past = now_ms() - MINUTE_MS
        connection.execute(update(notifications).values(created_at=past))
        connection.execute(update(items).where(items.c.snoozed_until.is_not(None)).values(snoozed_until=past))
        connection.execute(update(due_work).values(due_at=past))

    async with ada.socket() as socket:
        await socket.until("live")
        if again == "woken":
            await database.write(wait)
        else:
            await server.service.patch(path, json={"title": "again", "renotify": True})
        await socket.until("notification")
        after = await scrape(server)
    assert after["gateway_delivery_lag_seconds_count"] == 0


def in_an_hour() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


async def test_a_closed_socket_is_counted_by_the_closing_side_and_the_code(gateway: LocalServer) -> None:
    ada = await gateway.user("ada")
    for code in (1000, 1001, 4001, 3999):
        async with ada.socket() as socket:
            await socket.until("live")
            await socket.connection.close(code)
    async with raw_socket(ada):
        await gateway.sockets(1)
    async with open_socket(gateway.base) as socket:
        assert await socket.closed() == (4001, "missing_token")
    # Who is refused before the upgrade has no socket that could end.
    with pytest.raises(InvalidStatus):
        async with open_socket(gateway.base, origin="https://evil.example", token=ada.token):
            pass
    async with ada.socket() as socket:
        await socket.connection.send(b"binary")
        assert (await socket.closed())[0] == 1003
    async with ada.socket() as socket:
        await socket.connection.send("x" * 20_000)
        assert (await socket.closed())[0] == 1009
    async with ada.socket() as socket:
        await gateway.service.delete("/v1/users/ada/sessions")
        assert await socket.closed() == (4001, "token_revoked")
    expected = {
        "gateway_closes_total{by=client,code=1000}": 1,
        "gateway_closes_total{by=client,code=1001}": 1,
        "gateway_closes_total{by=client,code=1006}": 1,
        "gateway_closes_total{by=client,code=other}": 2,
        "gateway_closes_total{by=gateway,code=1003}": 1,
        "gateway_closes_total{by=gateway,code=1009}": 1,
        "gateway_closes_total{by=gateway,code=4001}": 2,
    }

    async def found() -> bool:
        said = await scrape(gateway)
        return {k: v for k, v in said.items() if k.startswith("gateway_closes_total") and v} == expected

    await until(found, "every end is counted")


async def test_logins_are_counted_by_outcome(sqlite_url: str) -> None:
    async with serving(settings_for(sqlite_url, login_limit="2/minute")) as server:
        await server.service.post("/v1/users", json={"sub": "ada", "password": "correct horse battery"})

        async def form(**fields: str) -> dict[str, Any]:
            answer = await server.http.post("/v1/auth/token", data=fields)
            return answer.json()  # type: ignore[no-any-return]

        signed_in = await form(grant_type="password", username="ada", password="correct horse battery")
        token = signed_in["refresh_token"]
        await form(grant_type="refresh_token", refresh_token=token)
        await form(grant_type="refresh_token", refresh_token="never given")
        await form(grant_type="password", username="a-secret-name", password="x")
        await server.service.post("/v1/users", json={"sub": "eve", "password": "correct horse battery"})
        for _ in range(3):
            await form(grant_type="password", username="eve", password="wrong")
        await form(grant_type="client_credentials", client_id="nobody", client_secret="x")
        answer = await server.http.get("/metrics")
    found = {k: v for k, v in samples(answer.text).items() if k.startswith("gateway_logins_total")}
    assert found == {
        "gateway_logins_total{grant=password,outcome=success}": 1,
        "gateway_logins_total{grant=password,outcome=unknown_user}": 1,
        "gateway_logins_total{grant=password,outcome=wrong_password}": 2,
        "gateway_logins_total{grant=password,outcome=rate_limited}": 1,
        "gateway_logins_total{grant=refresh_token,outcome=success}": 1,
        "gateway_logins_total{grant=refresh_token,outcome=failed}": 1,
        "gateway_logins_total{grant=client_credentials,outcome=unknown_client}": 1,
    }
    assert "a-secret-name" not in answer.text
    assert "nobody" not in answer.text


async def test_refusals_are_counted_by_code_and_not_by_request_content(gateway: LocalServer) -> None:
    await gateway.http.get("/v1/inbox")
    await gateway.http.get("/nowhere/marked-by-a-client")
    await gateway.http.put("/v1/inbox")
    await gateway.service.post("/v1/notifications", json={"to": "ada", "marked-by-a-client": 1})
    await gateway.http.post("/v1/auth/token", data={"grant_type": "marked-by-a-client"})
    async with open_socket(gateway.base, token="marked-by-a-client") as socket:
        await socket.closed()
    answer = await gateway.http.get("/metrics")
    found = {k: v for k, v in samples(answer.text).items() if k.startswith("gateway_refusals_total")}
    assert found == {
        "gateway_refusals_total{code=missing_token,status=401}": 1,
        "gateway_refusals_total{code=not_found,status=404}": 1,
        "gateway_refusals_total{code=method_not_allowed,status=405}": 1,
        "gateway_refusals_total{code=validation_error,status=422}": 1,
        "gateway_refusals_total{code=unsupported_grant_type,status=400}": 1,
        "gateway_refusals_total{code=invalid_token,status=401}": 1,
    }
    assert "marked-by-a-client" not in answer.text


async def test_requests_are_counted_by_route_method_and_status_and_not_by_content(
    gateway: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.expected += ["a request failed", "Exception in ASGI application"]
    ada = await gateway.user("marked-by-a-client")
    for path in ("/v1/users/marked-by-a-client", "/v1/users/marked%2Fby-a-client"):
        await gateway.service.get(path)
    await gateway.http.head("/healthz")
    await gateway.http.get("/marked-by-a-client")
    await gateway.http.request("PROPFIND", "/v1/inbox")
    async with ada.socket() as socket:
        await socket.until("live")
    async with open_socket(gateway.base) as socket:
        await socket.closed()

    def fail(*_: object) -> None:
        raise RuntimeError("of the test")

    # Only this request may fail: a background task that did would end the process.
    monkeypatch.setattr(services, "list_services", fail)
    assert (await gateway.service.get("/v1/services")).status_code == 500
    monkeypatch.undo()
    answer = await gateway.http.get("/metrics")
    found = {k: v for k, v in samples(answer.text).items() if k.startswith("gateway_request_seconds_count")}
    assert found == {
        "gateway_request_seconds_count{method=POST,route=/v1/users/{sub}/tokens,status=201}": 1,
        "gateway_request_seconds_count{method=GET,route=/v1/users/{sub},status=200}": 1,
        "gateway_request_seconds_count{method=GET,route=/v1/users/{sub},status=404}": 1,
        "gateway_request_seconds_count{method=HEAD,route=/healthz,status=200}": 1,
        "gateway_request_seconds_count{method=GET,route=none,status=404}": 1,
        "gateway_request_seconds_count{method=other,route=/v1/inbox,status=405}": 1,
        "gateway_request_seconds_count{method=GET,route=/v1/ws,status=101}": 2,
        "gateway_request_seconds_count{method=GET,route=/v1/services,status=500}": 1,
    }
    assert "marked-by-a-client" not in answer.text
    seconds = samples(answer.text)
    assert seconds["gateway_request_seconds_sum{method=GET,route=/v1/users/{sub},status=200}"] > 0


async def test_the_lag_of_a_blocked_event_loop_is_measured(gateway: LocalServer) -> None:
    async def looked() -> bool:
        return (await scrape(gateway)).get("gateway_event_loop_lag_seconds_count", 0) >= 1

    await until(looked, "the loop is looked at")
    held = asyncio.get_running_loop().time() + SAMPLE_SECONDS + 1
    while asyncio.get_running_loop().time() < held:
        pass

    async def noticed() -> bool:
        said = await scrape(gateway)
        count = said["gateway_event_loop_lag_seconds_count"]
        return said["gateway_event_loop_lag_seconds_bucket{le=0.5}"] < count

    await until(noticed, "the lag is measured")


def test_hint_metrics_follow_the_counters_of_the_backplane_and_the_hub() -> None:
    metrics = Metrics(max_sockets=1)
    metrics.look(Now(ready=True, sockets=0, hints_sent=2, hints_received=2, hints_missed=0))
    metrics.look(Now(ready=True, sockets=0, hints_sent=3, hints_received=2, hints_missed=1))
    said = samples(metrics.exposition("")[0].decode())
    names = ("sent", "received", "missed")
    assert [said[f"gateway_hints_{name}_total"] for name in names] == [3, 2, 1]


# --- who may read it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.5"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-Proto": "https"},
        {"X-Real-IP": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"Host": "notify.example.com"},
        {"Host": "[:::"},
        {"Authorization": f"Bearer {TOKEN}", "Via": "1.1 proxy"},
    ],
    ids=str,
)
async def test_without_a_configured_token_a_proxied_request_gets_a_404(
    gateway: LocalServer, headers: dict[str, str]
) -> None:
    answer = await gateway.http.get("/metrics", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (404, NotFound.code)


async def test_with_a_configured_proxy_every_request_needs_the_token(sqlite_url: str) -> None:
    settings = settings_for(sqlite_url, forwarded_allow_ips="127.0.0.1", metrics_token=TOKEN)
    async with serving(settings) as server:
        for headers in ({}, {"X-Forwarded-For": "127.0.0.1"}):
            answer = await server.http.get("/metrics", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, MissingToken.code)
            assert answer.headers["www-authenticate"] == "Bearer"
        await scrape(server, Authorization=f"Bearer {TOKEN}")


async def test_a_remote_peer_needs_the_token(sqlite_url: str) -> None:
    for token, code in ((None, 404), (TOKEN, 401)):
        async with serving(settings_for(sqlite_url, metrics_token=token)) as server:
            # The application as the server has it, asked by a peer whom no test can really have.
            app: Any = server.uvicorn.config.app
            for peer, status in (("203.0.113.5", code), ("::1", 200), ("not an address", code)):
                transport = httpx.ASGITransport(app, client=(peer, 1))
                async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                    assert (await http.get("/metrics")).status_code == status


async def test_a_wrong_token_is_refused_even_on_this_machine(sqlite_url: str) -> None:
    async with serving(settings_for(sqlite_url, metrics_token=TOKEN)) as server:
        for wrong in (TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "-", "\xe9" * 20):
            bearer = (b"Authorization", f"Bearer {wrong}".encode("latin-1"))
            answer = await server.http.get("/metrics", headers=[bearer])
            assert (answer.status_code, answer.json()["code"]) == (401, InvalidToken.code)
        for header in (f"Basic {TOKEN}", "Bearer"):
            answer = await server.http.get("/metrics", headers={"Authorization": header})
            assert (answer.status_code, answer.json()["code"]) == (401, MissingToken.code)
        assert (await server.http.get("/metrics")).status_code == 200
        headers = {"Authorization": f"Bearer {TOKEN}", "Via": "1.1 proxy"}
        assert (await server.http.get("/metrics", headers=headers)).status_code == 200
        # It opens nothing else.
        assert (await server.http.get("/v1/users", headers=headers)).status_code == 401


@pytest.mark.parametrize("token", ["x" * 15, "x" * 15 + " ", "x" * 15 + "\xe9", ""])
def test_a_short_or_invalid_token_stops_the_start(token: str) -> None:
    with pytest.raises(SettingsError, match="GATEWAY_METRICS_TOKEN: it must have 16"):
        load_settings(metrics_token=token)


async def test_the_format_is_negotiated(gateway: LocalServer) -> None:
    plain = await gateway.http.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert plain.headers["cache-control"] == "no-store"
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    openmetrics = await gateway.http.get("/metrics", headers=accept)
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in parse_openmetrics(openmetrics.text)}  # type: ignore[no-untyped-call]
    assert {"gateway_posts", "gateway_sockets", "gateway_commit_seconds"} <= names
    for odd in ("application/openmetrics-text; version=odd", "text/plain; version=;", ",;,=", "\xff"):
        answer = await gateway.http.get("/metrics", headers=[(b"Accept", odd.encode("latin-1"))])
        assert answer.status_code == 200
        assert list(parse(answer.text))


async def test_every_name_has_the_prefix_and_every_counter_ends_in_total(gateway: LocalServer) -> None:
    families = list(parse((await gateway.http.get("/metrics")).text))
    assert [one.name for one in families if not one.name.startswith("gateway_")] == []
    assert [one.name for one in families if not one.documentation.endswith(".")] == []


# --- several processes --------------------------------------------------------------------------------------


async def test_processes_with_a_shared_folder_are_counted_together(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in ("metrics", "one", "two")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folders[0]))
    async with AsyncExitStack() as stack:
        started = await asyncio.gather(
            *(stack.enter_async_context(process(sqlite_url, folder)) for folder in folders[1:])
        )
        (_, one), (second, two) = started
        for server, number in ((one, 2), (two, 3)):
            await server.service.notify_many("ada", number)
            ada: User = await server.user("ada")
            await (await stack.enter_async_context(ada.socket())).until("live")
        for server in (one, two):
            await counted(server, "gateway_sockets", 2)
            said = await scrape(server)
            assert said["gateway_posts_total"] == 5
            assert said["gateway_sockets_max"] == 100_000
            assert said["gateway_ready"] == 1
            assert said["gateway_commit_batch_items_count"] == 2
        pid = second.pid
        second.kill()
        await counted(one, "gateway_sockets", 2)
        mark_dead(pid, str(folders[0]))
        said = await scrape(one)
        assert (said["gateway_sockets"], said["gateway_sockets_max"]) == (1, 50_000)
        assert said["gateway_posts_total"] == 5


# --- the dashboard, the alerts and the page -----------------------------------------------------------------


def exposed() -> set[str]:
    """Return the names of all samples that a gateway may expose."""
    metrics = Metrics(max_sockets=1)
    metrics.login("password", "success")
    metrics.refused(401, "invalid_token")
    return {one.name for family in metrics.registry.collect() for one in family.samples}


def asked(text: str) -> set[str]:
    return set(re.findall(r"\bgateway_[a-z_]+", text))


def expressions() -> list[str]:
    """Return what the panels of the dashboard ask."""
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def test_the_dashboard_and_the_alerts_query_only_existing_metrics() -> None:
    assert len(expressions()) > 10
    rules = set(re.findall(r"expr: (?:[|>]-?\n)?((?:.|\n        )+)", ALERTS))
    assert len(rules) >= 8
    for text in (*expressions(), *rules):
        assert asked(text) <= exposed(), text
    assert len(asked(ALERTS)) >= 8


async def test_a_running_gateway_exposes_every_queried_metric(gateway: LocalServer) -> None:
    await gateway.http.get("/v1/inbox")
    await gateway.http.post(
        "/v1/auth/token", data={"grant_type": "password", "username": "a", "password": "b"}
    )
    text = (await gateway.http.get("/metrics")).text
    running = {one.name for family in parse(text) for one in family.samples}
    assert asked(" ".join(expressions()) + ALERTS) <= running


def test_the_dashboard_can_be_imported_and_leaves_the_datasource_open() -> None:
    variables = {one["name"]: one["type"] for one in DASHBOARD["templating"]["list"]}
    assert variables["datasource"] == "datasource"
    assert DASHBOARD["id"] is None
    uids = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if panel["type"] != "row"}
    assert uids == {"${datasource}"}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_page_lists_every_metric_with_its_type_labels_and_text() -> None:
    metrics = Metrics(max_sockets=1)
    metrics.login("password", "success")
    metrics.refused(401, "invalid_token")
    metrics.answered("/v1/inbox", "GET", 200, 0.001)
    rows = set()
    for family in metrics.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = sorted({label for one in family.samples for label in one.labels} - {"le"})
        named = ", ".join(f"`{label}`" for label in labels)
        rows.add(f"| `{name}` | {family.type} | {named} | {family.documentation} |")
    page = (OPERATIONS / "monitoring.md").read_text()
    assert set(re.findall(r"^\| `gateway_.*\|$", page, re.MULTILINE)) == rows
