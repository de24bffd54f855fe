"""Spans: sent where OpenTelemetry is told to, and no query, token or header in any of them."""

import asyncio
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.app import create_app
from gateway.observability import telemetry
from gateway.settings import SettingsError
from tests.support.clients import open_socket
from tests.support.databases import API_KEY, settings_for
from tests.support.servers import process


class Collector(ThreadingHTTPServer):
    """What an exporter sends its spans to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.received: list[tuple[str, bytes]] = []

    @property
    def base(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self) -> list[Any]:
        """Return all spans, as OTLP has them."""
        found = []
        for _, body in self.received:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                found += [span for scope in resource.scope_spans for span in scope.spans]
        return found


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.received.append((self.path, body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that takes spans by OTLP over HTTP."""
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def environment(patch: pytest.MonkeyPatch, collector: Collector) -> None:
    """Say where the spans go, as an operator would."""
    patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.base)
    patch.setenv("OTEL_SERVICE_NAME", "gateway-of-the-tests")
    patch.setenv("NO_PROXY", "*")


async def test_spans_are_exported_without_queries_tokens_or_headers(
    sqlite_url: str, tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(monkeypatch, collector)
    secrets = {API_KEY, "canary-in-a-query", "canary-in-a-header", "canary-in-a-body", "canary-token"}
    async with process(sqlite_url, tmp_path, otel=True) as (gateway, server):
        ada = await server.user("ada")
        headers = {"Cookie": "canary-in-a-header", "X-Other": "canary-in-a-header"}
        for query, status in (("?key=canary-in-a-query", 422), ("", 201)):
            posted = await server.service.post(
                f"/v1/notifications{query}",
                headers=headers,
                json={"to": "ada", "title": "canary-in-a-body"},
            )
            assert posted.status_code == status
        for _ in range(3):
            await server.service.notify("ada")
        page = await ada.get("/v1/inbox", params={"limit": 1, "cursor": "canary-in-a-query"})
        assert page.status_code == 422, "the query is hidden from the telemetry alone"
        assert len((await ada.inbox(limit=1))["items"]) == 1
        await server.http.get("/nowhere?token=canary-token")
        await server.http.post(
            "/v1/auth/token", data={"grant_type": "password", "password": "canary-in-a-body"}
        )
        for carrier in ("query", "ticket", "header", "subprotocol"):
            async with ada.socket(carrier=carrier) as socket:
                await socket.until("live")
        ticket = (await ada.post("/v1/auth/ticket")).json()["ticket"]
        async with open_socket(server.base, ticket=ticket, since="0") as socket:
            await socket.until("live")
        for carrier in ("token", "ticket"):
            shown: dict[str, Any] = {carrier: "canary-in-a-query"}
            async with open_socket(server.base, **shown) as socket:
                assert (await socket.closed())[0] == 4001
        await server.http.get("/metrics?canary-in-a-query")
        secrets |= {str(ada.token), ticket}
        # The spans that wait are sent when it ends.
        await asyncio.to_thread(gateway.end)
    assert {path for path, _ in collector.received} == {"/v1/traces"}
    names = [span.name for span in collector.spans()]
    assert names.count("POST /v1/notifications") == 5, "the usual posts have spans, too"
    assert {"POST /v1/notifications", "GET /v1/inbox", "WS /v1/ws", "POST /v1/auth/token"} <= set(names)
    assert not [name for name in names if "metrics" in name]
    attributes = {one.key: one.value for span in collector.spans() for one in span.attributes}
    assert "url.query" not in attributes
    assert [value for value in attributes.values() if "?" in value.string_value] == []
    assert not [key for key in attributes if "header" in key]
    everything = b"".join(body for _, body in collector.received)
    assert b"gateway-of-the-tests" in everything
    assert [secret for secret in secrets if secret.encode() in everything] == []


def test_without_the_setting_the_environment_enables_no_telemetry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    app = create_app(settings_for("sqlite:///unused.db"))
    kinds = ("tracing", "metrics", "logs", "auto_configure")
    assert [app._telemetry[kind] for kind in kinds] == [False] * 4  # type: ignore[literal-required]


def test_without_the_extra_the_start_stops_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        telemetry, "find_spec", lambda name: None if "opentelemetry" in name else util.find_spec(name)
    )
    with pytest.raises(SettingsError, match=r"^GATEWAY_OTEL: .*notification-gateway\[otel\]\)$"):
        create_app(settings_for("sqlite:///unused.db", otel=True))
    create_app(settings_for("sqlite:///unused.db"))
