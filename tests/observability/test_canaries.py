"""No secret and no content is written anywhere: not by us, by uvicorn, by a library, at any level.

A real `gateway serve` at log level debug, with its access log on, is sent secrets in every carrier and in
every kind of request, good and bad; then its database is broken, and they are sent again. Neither the log,
nor the audit log, nor a refusal, nor the metrics may hold any of them. The log on SQLite is JSON.
"""

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
from sqlalchemy import Connection, text
from websockets.exceptions import WebSocketException

from gateway.database.database import open_database
from tests.support.checker import Json
from tests.support.clients import Service, open_socket
from tests.support.databases import API_KEY, settings_for
from tests.support.servers import Process, Server, process
from tests.support.waiting import until

KINDS = (
    "token",
    "jwt",
    "ticket",
    "password",
    "client_secret",
    "refresh_token",
    "api_key",
    "title",
    "body",
    "data",
    "url",
    "idempotency_key",
    "cookie",
    "basic",
    "form",
    "frame",
)


def plant() -> dict[str, str]:
    """Return a canary of each kind, which a filter cannot know by its looks unless it is a JWT or a key."""
    made = {kind: f"canary{number}x{secrets.token_hex(12)}" for number, kind in enumerate(KINDS)}
    claims = base64.urlsafe_b64encode(json.dumps({"sub": made["jwt"]}).encode()).decode().rstrip("=")
    made["jwt"] = f"eyJhbGciOiJFZERTQSIsInR5cCI6ImF0K2p3dCJ9.{claims}.{secrets.token_urlsafe(64)}"
    made["api_key"] = f"ngk_{secrets.token_hex(8)}_{secrets.token_hex(32)}{secrets.token_hex(4)}"
    return made


class Barrage:
    """Sends the canaries, and keeps what the gateway said to that."""

    def __init__(self, server: Server, canaries: dict[str, str]) -> None:
        self.server = server
        self.canaries = canaries
        self.issued: set[str] = set()
        self.refusals: list[str] = []
        self.statuses: set[int] = set()

    async def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request with the cookie, and keep the answer if it is a refusal."""
        headers = {"Cookie": f"session={self.canaries['cookie']}", **options.pop("headers", {})}
        try:
            answer = await self.server.http.request(method, path, headers=headers, **options)
        except (httpx.ReadError, httpx.RemoteProtocolError):
            # uvicorn hangs up behind an answer of 500, perhaps just as the next request is sent.
            answer = await self.server.http.request(method, path, headers=headers, **options)
        self.statuses.add(answer.status_code)
        if answer.status_code >= 400:
            self.refusals.append(f"{method} {path.split('?', maxsplit=1)[0]} {answer.headers} {answer.text}")
        return answer

    async def form(self, path: str = "/v1/auth/token", **fields: str) -> Json:
        """Send a form."""
        answer = await self.send("POST", path, data=fields)
        issued: Json = answer.json() if answer.text.startswith("{") else {}
        self.keep(issued)
        return issued

    def keep(self, answer: Json) -> None:
        """Take note of the secrets of an answer."""
        for name in ("access_token", "refresh_token", "ticket", "client_secret", "key"):
            if name in answer:
                self.issued.add(answer[name])

    # --- carriers -------------------------------------------------------------------------------------------

    async def carriers(self) -> None:
        """Send each canary as a token, in every carrier, to routes of every kind."""
        for kind in ("token", "jwt", "api_key", "ticket", "refresh_token", "password"):
            secret = self.canaries[kind]
            for scheme in ("Bearer", "bearer", "Basic", "Token", ""):
                headers = {"Authorization": f"{scheme} {secret}".strip()}
                await self.send("GET", "/v1/inbox", headers=headers)
                await self.send("POST", "/v1/notifications", headers=headers, json={"to": "a", "title": "b"})
                await self.send("GET", "/v1/users", headers=headers)
                await self.send("POST", "/v1/auth/token", headers=headers, data={"grant_type": "password"})
            for name in ("token", "ticket", "access_token", "cursor", "since", "epoch", "limit"):
                query = urlencode({name: secret})
                await self.send("GET", f"/v1/inbox?{query}")
                await self.send("GET", f"/v1/ws?{query}")
                await self.send("GET", f"/v1/stream?{query}", headers={"Last-Event-ID": secret})
                await self.send("GET", f"/nowhere?{query}")
                await self.send("POST", f"/v1/auth/token?{query}")
                await self.socket(**{name: secret})
            await self.socket(subprotocols=["notify.v1", f"bearer.{secret}"])
            await self.socket(subprotocols=[f"bearer.{secret}"])
            await self.socket(headers={"Authorization": f"Bearer {secret}"})
            await self.socket(origin="https://evil.example", token=secret)

    async def socket(self, *frames: str | bytes, **options: Any) -> None:
        """Open a socket, say something, and keep what was said about it."""
        headers = {"Cookie": f"session={self.canaries['cookie']}", **options.pop("headers", {})}
        try:
            async with open_socket(self.server.base, headers=headers, **options) as socket:
                for frame in frames:
                    await socket.connection.send(frame)
                async with asyncio.timeout(0.3 if frames else 5):
                    async for said in socket.connection:
                        if '"error"' in str(said):
                            self.refusals.append(str(said))
                close = socket.connection.protocol.close_rcvd
                self.refusals.append(f"{close}")
        except (WebSocketException, TimeoutError, OSError) as error:
            self.refusals.append(str(error))

    # --- signing in -----------------------------------------------------------------------------------------

    async def sign_ins(self) -> None:
        """Send good and bad forms."""
        password, wrong = self.canaries["password"], self.canaries["form"]
        for sub in ("ada", "nobody"):
            await self.form(grant_type="password", username=sub, password=wrong)
        await self.form(grant_type="password", username=wrong, password=password)
        await self.form(grant_type=wrong)
        await self.form(grant_type="password", username="ada", password=password, scope=wrong)
        await self.form(grant_type="refresh_token", refresh_token=self.canaries["refresh_token"])
        secret = self.canaries["client_secret"]
        await self.form(grant_type="client_credentials", client_id="svc_0", client_secret=secret)
        for credentials in (f"svc_0:{secret}", self.canaries["basic"], f"{self.canaries['basic']}:x"):
            encoded = base64.b64encode(credentials.encode()).decode()
            self.issued.add(encoded)
            headers = {"Authorization": f"Basic {encoded}"}
            form = {"grant_type": "client_credentials"}
            await self.send("POST", "/v1/auth/token", headers=headers, data=form)
        for path in ("/v1/auth/token", "/v1/auth/revoke"):
            await self.send("POST", path, json={"password": password, "token": secret})
            await self.send("POST", path, content=f"password={password}&password={password}".encode())
            multipart = {"Content-Type": "multipart/form-data; boundary=x"}
            broken = f'--x\r\nContent-Disposition: form-data; name="password"\r\n\r\n{password}\r\n--'
            await self.send("POST", path, content=broken.encode(), headers=multipart)
            await self.send("POST", path, files={"token": ("a", secret)}, data={"password": password})
            await self.send("POST", path, data={"token": self.canaries["token"]})

    async def good_sign_in(self) -> None:
        """Sign in, refresh, take tickets, and use all of them."""
        first = await self.form(grant_type="password", username="ada", password=self.canaries["password"])
        if "refresh_token" not in first:
            return
        second = await self.form(grant_type="refresh_token", refresh_token=first["refresh_token"])
        headers = {"Authorization": f"Bearer {second['access_token']}"}
        await self.send("GET", "/v1/inbox", headers=headers)
        for _ in range(2):
            ticket = (await self.send("POST", "/v1/auth/ticket", headers=headers)).json()
            self.keep(ticket)
            await self.socket("{}", ticket=ticket["ticket"])
            await self.socket(ticket=ticket["ticket"])
        await self.socket(*self.frames(second["access_token"]), headers=headers)
        await self.socket(self.frames(self.canaries["token"])[0], token=second["access_token"])
        pair = ["notify.v1", f"bearer.{second['access_token']}"]
        await self.socket(b"\xff" + self.canaries["frame"].encode(), subprotocols=pair)
        third = await self.form(grant_type="refresh_token", refresh_token=second["refresh_token"])
        await self.form(grant_type="refresh_token", refresh_token=first["refresh_token"])
        await self.form("/v1/auth/revoke", token=third["refresh_token"])
        await self.send("GET", "/v1/inbox", headers=headers)

    def frames(self, token: str) -> list[str]:
        """Return good commands and bad ones."""
        canary = self.canaries["frame"]
        return [
            json.dumps({"type": "auth", "token": token, "ref": "r"}),
            json.dumps({"type": "read", "ids": [canary], "ref": "r"}),
            json.dumps({"type": canary}),
            json.dumps({"type": "ack", "seq": canary}),
            json.dumps({"type": "seen", "up_to": {canary: canary}}),
            f'{{"type": "{canary}"',
            canary,
            json.dumps({"type": "auth", "token": self.canaries["jwt"]}),
        ]

    # --- the rest -------------------------------------------------------------------------------------------

    async def posts(self) -> None:
        """Post good and bad notifications."""
        made = self.canaries
        headers = {"Authorization": f"Bearer {API_KEY}", "Idempotency-Key": made["idempotency_key"]}
        bearer = {"Authorization": f"Bearer {API_KEY}"}
        content: Json = {"to": "ada", "title": made["title"], "body": made["body"]}
        content |= {"data": {"d": made["data"]}, "url": f"/{made['url']}"}
        for _ in range(2):
            await self.send("POST", "/v1/notifications", headers=headers, json=content)
            await self.send("POST", "/v1/notifications", headers=bearer, json=content)
        bad: list[Any] = [
            content | {"priority": made["body"]},
            content | {"title": made["title"] * 10},
            content | {"title": {"x": made["title"]}},
            content | {"to": [f"{made['title']}\n"]},
            content | {"body": made["body"] * 200},
            content | {"data": made["data"]},
            content | {"data": {"d": made["data"] * 500}},
            content | {"url": f"javascript:{made['url']}"},
            content | {"category": made["body"].upper()},
            [content],
            made["body"],
        ]
        for one in bad:
            await self.send("POST", "/v1/notifications", headers=bearer, json=one)
            await self.send("POST", "/v1/notifications/batch", headers=bearer, json=[content, one])
        await self.send("POST", "/v1/notifications", headers=headers, json=content | {"body": "other"})
        kind = {"Content-Type": "application/json"}
        for broken in (
            f'{{"title": "{made["title"]}',
            made["body"],
            f'{{"a": {made["body"]}}}',
            '{"a": "\xff',
        ):
            raw = broken.encode("latin-1")
            await self.send("POST", "/v1/notifications", headers=bearer | kind, content=raw)
            lines = {"Content-Type": "application/x-ndjson"}
            await self.send("POST", "/v1/notifications/batch", headers=bearer | lines, content=raw)
            await self.send("POST", "/v1/users", headers=bearer | kind, content=raw)
        await self.send("POST", "/v1/notifications", headers=bearer, json=content | {"to": "x" * 300_000})

    async def management(self) -> None:
        """Make, use and remove users, services and keys, well and badly."""
        bearer = {"Authorization": f"Bearer {API_KEY}"}
        password = self.canaries["password"]
        for fields in (
            {"sub": "ada", "password": password},
            {"sub": "x", "password": password[:11]},
            {"sub": "x", "password": password * 10},
            {"sub": "x", "password": [password]},
            {"sub": password, "password": password},
            {"password": password},
        ):
            await self.send("POST", "/v1/users", headers=bearer, json=fields)
        for change in ({"password": password}, {"password": {"p": password}}, {"disabled": password}):
            await self.send("PATCH", "/v1/users/bob", headers=bearer, json=change)
        made = await self.send(
            "POST", "/v1/services", headers=bearer, json={"name": "s", "scopes": ["notify"]}
        )
        service = (
            made.json() if made.status_code == 201 else {"client_id": "svc_none", "client_secret": "-" * 20}
        )
        self.keep(service)
        name, secret = service["client_id"], service["client_secret"]
        await self.form(grant_type="client_credentials", client_id=name, client_secret=secret)
        key = await self.send("POST", f"/v1/services/{name}/keys", headers=bearer)
        self.keep(key.json() if key.status_code == 201 else {})
        for issued in list(self.issued):
            with suppress(httpx.LocalProtocolError):
                await self.send("GET", "/v1/services", headers={"Authorization": f"Bearer {issued}"})
        await self.send("DELETE", f"/v1/services/{name}", headers=bearer)
        minted = await self.send("POST", "/v1/users/bob/tokens", headers=bearer, json={"ttl": 5})
        self.keep(minted.json() if minted.status_code == 201 else {})
        await self.send("POST", "/v1/users/bob/tokens", headers=bearer, json={"ttl": password})

    async def nonsense(self) -> None:
        """Send what is no HTTP, and handshakes that are none, with canaries all over."""
        made = self.canaries
        query = f"/v1/ws?token={made['token']}&ticket={made['ticket']}"
        head = f"Host: x\r\nAuthorization: Bearer {made['jwt']}\r\nCookie: a={made['cookie']}\r\n"
        upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        key = f"Sec-WebSocket-Key: {base64.b64encode(b'0123456789abcdef').decode()}\r\n"
        offer = f"Sec-WebSocket-Protocol: notify.v1, bearer.{made['jwt']}\r\n"
        start = f"GET {query} HTTP/1.1\r\n{head}"
        requests = [
            f"GET {query} HTTP/1.1\r\n{head}Bad header {made['token']}\r\n\r\n",
            f"{made['token']} {made['jwt']}\r\n\r\n",
            f"GET {query} HTTP/9.9\r\n{head}\r\n",
            f"GET {query} HTTP/1.1\r\n{head}{upgrade}{offer}\r\n",
            f"GET {query} HTTP/1.1\r\n{head}{upgrade}{key.replace('=', '')}{offer}\r\n",
            f"GET {query} HTTP/1.1\r\n{head}{upgrade.replace('13', '12')}{key}{offer}\r\n",
            f"{start}{upgrade}{key}Sec-WebSocket-Protocol: {made['token']} x\r\n\r\n",
            f"{start}{upgrade}{key}Sec-WebSocket-Extensions: {made['token']} x\r\n\r\n",
            f"POST {query} HTTP/1.1\r\n{head}{upgrade}{key}{offer}\r\n",
            f"GET /v1/inbox?token={made['token']} HTTP/1.1\r\n{head}Content-Length: {made['token']}\r\n\r\n",
            f"POST /v1/auth/token HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\nz{made['form']}\r\n",
            f"POST /v1/auth/token HTTP/1.1\r\n{head}Content-Length: 500\r\n\r\npassword={made['password']}",
            f"GET /{'x' * 70_000}?token={made['token']} HTTP/1.1\r\n{head}\r\n",
            f"GET {query} HTTP/1.1\r\n{head}{upgrade}{key}{offer}\r\n\x81\x85{made['frame']}",
        ]
        for request in requests:
            self.refusals.append(await self.raw(request.encode("latin-1")))

    async def raw(self, request: bytes) -> str:
        """Send bytes and return what comes back."""
        url = self.server.http.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        try:
            writer.write(request)
            await writer.drain()
            writer.write_eof()
            async with asyncio.timeout(2):
                return (await reader.read()).decode("latin-1")
        except (OSError, TimeoutError):
            return ""
        finally:
            writer.close()

    async def all(self) -> None:
        """Send everything."""
        await self.posts()
        await self.management()
        await self.sign_ins()
        await self.good_sign_in()
        await self.carriers()
        await self.nonsense()


def break_the_log(connection: Connection) -> None:
    """Let nothing more be posted; Postgres then says the whole row."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("ALTER TABLE notifications ADD CONSTRAINT no CHECK (id < 0) NOT VALID"))
    else:
        no = "CREATE TRIGGER no BEFORE INSERT ON notifications BEGIN SELECT RAISE(ABORT, 'no'); END"
        connection.execute(text(no))


def break_the_rest(connection: Connection) -> None:
    """Take away what signing in needs. What the gateway itself looks at stays: without it, it would end."""
    for table in ("tickets", "api_keys", "users"):
        connection.execute(text(f"ALTER TABLE {table} RENAME TO not_{table}"))


def secrets_at_rest(connection: Connection) -> set[str]:
    """Return what the database holds and nobody may see: private keys, and the hashes of passwords."""
    keys = connection.scalars(text("SELECT private_pem FROM signing_keys")).all()
    lines = {line for key in keys for line in key.splitlines() if "-----" not in line}
    hashes = connection.scalars(text("SELECT password_hash FROM users WHERE password_hash IS NOT NULL")).all()
    return lines | set(hashes)


def spellings(secret: str) -> set[str]:
    """Return the forms in which a secret would give itself away."""
    plain = {secret, quote(secret), base64.b64encode(secret.encode()).decode().rstrip("=")}
    # Of a key the secret part; the other tokens may have an underscore anywhere.
    key = secret.split("_", 2)[-1] if secret.startswith("ngk_") else secret
    return plain | {secret.rsplit(".", maxsplit=1)[-1], key}


async def with_database(url: str, work: Callable[[Connection], Any]) -> Any:
    """Run a unit of work beside the gateway."""
    async with open_database(settings_for(url)) as database:
        return await database.write(work)


@pytest.fixture
async def running(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[Process, Server]]:
    """A gateway in a process of its own that says all it can."""
    settings = {
        "log_level": "debug",
        "access_log": True,
        "log_format": "json" if database_url.startswith("sqlite") else "console",
        "audit_log": tmp_path / "audit.log",
        "login_limit": "",
        "login_limit_per_address": "",
        "handshakes_per_second": 10_000,
    }
    async with process(database_url, tmp_path, **settings) as started:
        yield started


async def test_no_secret_and_no_content_is_written_anywhere(
    running: tuple[Process, Server], database_url: str, tmp_path: Path
) -> None:
    gateway, server = running
    admin = server.service
    barrage = Barrage(server, plant())
    await admin.post("/v1/users", json={"sub": "ada", "password": barrage.canaries["password"]})
    await admin.post("/v1/users", json={"sub": "bob"})
    await barrage.all()
    at_rest = await with_database(database_url, secrets_at_rest)
    await with_database(database_url, break_the_log)
    await barrage.posts()
    await with_database(database_url, break_the_rest)
    await barrage.all()
    # The last line that is looked for shows that those before it are written.
    await Service(server.http, "x").get("/v1/inbox/the-end-of-it")
    await until(lambda: "the-end-of-it" in gateway.log.read_text(), "the log is written")
    metrics = (await server.http.get("/metrics")).text
    gateway.end()

    log, audit = gateway.log.read_text(), (tmp_path / "audit.log").read_text()
    assert "WebSocket /v1/ws" in log, "the access log is on"
    if database_url.startswith("sqlite"):
        assert all(isinstance(json.loads(line), dict) for line in log.splitlines()), "the log is JSON"
    assert "[debug" in log or '"level": "debug"' in log, "the level is debug"
    assert "Traceback" in log, "failures are logged"
    assert "gateway_refusals_total{" in metrics
    assert {200, 201, 204, 400, 401, 404, 413, 422, 426} <= barrage.statuses
    assert barrage.statuses & {500, 503}, "failures are answered"
    assert {"login", "login_failed", "refused", "refresh_reused"} <= {
        json.loads(line)["event"] for line in audit.splitlines()
    }
    planted = {form for secret in barrage.canaries.values() for form in spellings(secret)}
    issued = {form for secret in barrage.issued for form in spellings(secret)}
    assert len(issued) > 20
    key = spellings(API_KEY)
    refusals = "\n".join(barrage.refusals)
    written = {"the log": log, "the audit log": audit, "the refusals": refusals, "the metrics": metrics}
    found = [
        f"{where}: {kind}: {around(said, secret)}"
        for where, said in written.items()
        for kind, kept in (("planted", planted), ("issued", issued), ("key", key), ("at rest", at_rest))
        for secret in kept
        if secret in said
    ]
    assert found == [], "\n".join(found)


def around(said: str, secret: str) -> str:
    """Return where a secret was said."""
    at = said.index(secret)
    return repr(said[max(at - 150, 0) : at + 150])
