"""The id of a request: taken over or made, answered, and in whatever the request makes the gateway log."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from gateway.database.database import open_database
from tests.support.clients import User, open_socket
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, process
from tests.support.waiting import until

ID = "X-Request-ID"


@pytest.mark.parametrize("given", ["a", "A.b_c-9", "0" * 128])
async def test_a_request_id_from_the_client_is_returned(gateway: LocalServer, given: str) -> None:
    for method, path in (("GET", "/v1/inbox"), ("GET", "/nowhere"), ("HEAD", "/"), ("PUT", "/v1/users")):
        answer = await gateway.http.request(method, path, headers={ID: given})
        assert answer.headers.get_list(ID) == [given]


@pytest.mark.parametrize(
    "given",
    [
        "",
        "x" * 129,
        "a b",
        'a"b',
        "a{b}",
        "a/b",
        "a%0d%0ab",
        "a\tb",
        "\xe9",
        "a,b",
        "a;b=c",
        "a\\b",
        "<b>",
        "a:b",
    ],
    ids=ascii,
)
async def test_an_unsafe_request_id_is_replaced(gateway: LocalServer, given: str) -> None:
    answer = await gateway.http.get("/v1/inbox", headers=[(ID.encode(), given.encode("latin-1"))])
    (made,) = answer.headers.get_list(ID)
    assert made != given
    assert len(made) == 32
    assert made.isalnum()


async def test_the_first_of_several_request_ids_is_used(gateway: LocalServer) -> None:
    for pair, expected in ((["one", "two"], "one"), (["a b", "two"], None)):
        answer = await gateway.http.get("/", headers=[(ID, one) for one in pair])
        (found,) = answer.headers.get_list(ID)
        assert found == expected if expected else found not in pair


async def test_each_request_has_an_id_of_its_own(gateway: LocalServer) -> None:
    answers = [await gateway.http.get("/v1/inbox") for _ in range(5)]
    posted = await gateway.service.post("/v1/notifications", json={"to": "ada", "title": "t"})
    assert len({answer.headers[ID] for answer in (*answers, posted)}) == 6


async def test_an_accepted_or_refused_socket_has_a_request_id(gateway: LocalServer) -> None:
    ada: User = await gateway.user("ada")
    bearer = {"Authorization": f"Bearer {ada.token}"}
    for headers in (bearer, {}):
        async with open_socket(gateway.base, headers={ID: "the-socket", **headers}) as socket:
            response = socket.connection.response
            assert response is not None
            assert response.headers.get_all(ID) == ["the-socket"]
    handshake = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    handshake |= {"Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==", "Origin": "https://evil.example"}
    answer = await gateway.http.get("/v1/ws", headers={ID: "refused", **handshake})
    assert (answer.status_code, answer.headers.get_list(ID)) == (403, ["refused"])


def break_users(connection: Connection) -> None:
    """Give the users a value that nobody has foreseen."""
    connection.execute(text("UPDATE users SET created_at = 'never'"))


async def test_console_log_and_audit_log_lines_are_json_with_the_request_id(
    sqlite_url: str, tmp_path: Path
) -> None:
    settings = {"log_format": "json", "log_level": "DEBUG", "access_log": True}
    async with process(sqlite_url, tmp_path, **settings) as (gateway, server):
        ada = await server.user("ada")
        await server.http.get("/v1/inbox", headers={ID: "the-refused"})
        async with open_socket(
            server.base, headers={ID: "the-socket", "Authorization": f"Bearer {ada.token}"}
        ):
            pass
        async with open_database(settings_for(sqlite_url)) as database:
            await database.write(break_users)
        failed = await server.service.get("/v1/users", headers={ID: "the-failed"})
        assert (failed.status_code, failed.headers.get_list(ID)) == (500, ["the-failed"])
        await until(lambda: '"the-failed"' in gateway.log.read_text(), "the failure is logged")
        gateway.end()
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
    assert all(isinstance(line, dict) for line in lines)
    ours = [line for line in lines if "time" not in line]
    assert all({"timestamp", "level", "logger", "event"} <= line.keys() for line in ours)
    assert {"uvicorn.error", "uvicorn.access"} <= {line["logger"] for line in ours}

    def of(request_id: str) -> list[str]:
        return [line["event"] for line in lines if line.get("request_id") == request_id]

    assert "refused" in of("the-refused"), "the audit log bears it"
    assert any("GET /v1/inbox" in event for event in of("the-refused")), "the access log bears it"
    assert any("WebSocket /v1/ws" in event for event in of("the-socket"))
    assert "a request failed" in of("the-failed")
    tracebacks = [line["exception"] for line in ours if "exception" in line]
    assert tracebacks
    assert all(one.startswith("Traceback") for one in tracebacks)
    assert all("request_id" not in line for line in ours if line["event"] == "serving")
