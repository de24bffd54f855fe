"""The fast path of a page answers as the application does: status, headers, body, charges and metrics."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from gateway.api import inbox
from gateway.api.fast_inbox import FastInbox
from gateway.auth.limits.held_answers import UNCOUNTED_BYTES
from gateway.errors import Unavailable
from gateway.store import log
from gateway.transport.fast_path import FAST_PATHS
from gateway.transport.turnstile import TURNSTILE
from tests.support.clients import User
from tests.support.pairs import Answer, Wire, counted_requests, serving_two
from tests.support.servers import LocalServer
from tests.support.waiting import until

ROUTE = ("GET", inbox.PATH.encode())


class Spy(FastInbox):
    """A fast path that counts what it takes."""

    taken = 0

    def take(self, head: Any, body: bytearray) -> Any:
        self.taken += 1
        return super().take(head, body)


@dataclass
class Pair:
    """Two gateways with databases of their own: one takes the fast path, the other one never does."""

    fast: LocalServer
    plain: LocalServer
    users: tuple[User, User]
    spy: Spy
    wires: list[Wire] = field(init=False)

    def __post_init__(self) -> None:
        self.wires = [Wire(self.fast), Wire(self.plain)]

    @property
    def servers(self) -> tuple[LocalServer, LocalServer]:
        return self.fast, self.plain

    async def get(self, target: str = "", *lines: str, method: str = "GET") -> tuple[Answer, bool]:
        """Send a request to both, and return the response, with whether the fast path was taken.

        Both must give the same response, and must have charged and counted the same.
        """
        before = self.spy.taken
        answers = []
        for wire, user, server in zip(self.wires, self.users, self.servers, strict=True):
            tag = await etag(server)
            head = [f"{method} /v1/inbox{target} HTTP/1.1", "Host: gateway", *lines]
            text = "\r\n".join([*head, "", ""]).replace("TOKEN", str(user.token)).replace("ETAG", tag)
            answers.append(without_epoch(await wire.ask(text.encode()), tag))
        assert answers[0] == answers[1]
        assert ledger(self.fast, self.users[0]) == ledger(self.plain, self.users[1])
        return answers[0], self.spy.taken > before

    async def post(self, *notifications: dict[str, Any]) -> None:
        """Post these to the user of each."""
        for server in self.servers:
            for one in notifications:
                await server.service.notify("ada", **one)


async def etag(server: LocalServer) -> str:
    """Return the `ETag` of the inbox of the only user."""
    found = await server.state.database.read(log.head, 1)
    assert found is not None
    epoch, counts = found
    return f'W/"{epoch}-{counts.seq}-{counts.seen}"'


def without_epoch(answer: Answer, tag: str) -> Answer:
    """Replace the epoch, which each database has its own of."""
    epoch = tag.removeprefix('W/"').rpartition("-")[0].rpartition("-")[0].encode()
    headers = [(name, value.replace(epoch, b"EPOCH")) for name, value in answer.headers]
    return Answer(answer.status, headers, answer.body.replace(epoch, b"EPOCH"))


def ledger(server: LocalServer, user: User) -> dict[str, float]:
    """Return what a gateway has charged, and has counted in its metrics."""
    rate_limits = server.state.rate_limits
    caller = server.state.tokens.recall(str(user.token))
    assert caller is not None
    return counted_requests(server) | {"level": rate_limits.commands.level(caller.id)}


@asynccontextmanager
async def pair(template: Path, folder: Path, **options: Any) -> AsyncIterator[Pair]:
    """Serve both. Their clocks stand still."""
    async with serving_two(template, folder, **options) as (fast, plain):
        users = await fast.user(), await plain.user()
        spy = Spy(fast.state)
        fast.uvicorn.lifespan.state[FAST_PATHS] = {ROUTE: spy}
        plain.uvicorn.lifespan.state[FAST_PATHS] = {}
        for server, user in zip((fast, plain), users, strict=True):
            await user.inbox()
            commands = server.state.rate_limits.commands
            commands.clock = lambda: 0.0
            commands._levels.clear()
        made = Pair(fast, plain, users, spy)
        try:
            yield made
        finally:
            for wire in made.wires:
                await wire.close()


StartPair = Callable[..., Coroutine[Any, Any, Pair]]


@pytest.fixture
async def start_pair(_sqlite_template: Path, tmp_path: Path) -> AsyncIterator[StartPair]:
    """A function that starts both with the settings it is given."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Pair:
            return await stack.enter_async_context(pair(_sqlite_template, tmp_path, **options))

        yield start


BEARER = "Authorization: Bearer TOKEN"


async def test_the_fast_path_serves_a_common_page_like_the_application(start_pair: StartPair) -> None:
    both = await start_pair()
    assert (await both.get("", BEARER))[1]
    await both.post(
        {"title": "Hello"}, {"title": "Zwölf “Käfer”", "body": "1\n2", "url": "/x", "data": {"a": [1]}}
    )
    for server, user in zip(both.servers, both.users, strict=True):
        newest = (await user.inbox())["items"][0]["id"]
        await user.patch(f"/v1/inbox/{newest}", json={"read": True})
        del server
    for target in (
        "",
        "?limit=50",
        "?limit=1",
        "?limit=200",
        "?unread=true",
        "?limit=1&unread=true",
        "?unread=false",
    ):
        answer, fast = await both.get(target, BEARER, "User-Agent: tests", "X-Request-ID: mine")
        assert (answer.code, fast) == (200, True), target


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ("ETAG", 304),
        ('"other", ETAG', 304),
        ("*", 304),
        ('W/"other"', 200),
        (", ".join(["ETAG"] * 20), 200),
    ],
)
async def test_a_matching_etag_gets_a_304_on_the_fast_path(
    start_pair: StartPair, tags: str, code: int
) -> None:
    both = await start_pair()
    await both.post({"title": "Hello"})
    answer, fast = await both.get("?limit=20", BEARER, f"If-None-Match: {tags}")
    assert (answer.code, fast) == (code, True)
    assert bool(answer.body) is (code == 200)


async def test_the_fast_path_serves_long_pages_and_releases_their_bytes(
    start_pair: StartPair,
) -> None:
    both = await start_pair()
    await both.post(*[{"title": "Hello", "body": "x" * 3900, "data": {"x": "y" * 7000}}] * 3)
    answer, fast = await both.get("", BEARER)
    assert len(answer.body) > UNCOUNTED_BYTES
    assert (answer.code, fast) == (200, True)
    held = both.fast.state.rate_limits.held_answers
    await until(lambda: held.bytes.total == 0, "nothing is held")


@pytest.mark.parametrize(
    ("target", "line", "method"),
    [
        ("?limit=0", BEARER, "GET"),
        ("?limit=201", BEARER, "GET"),
        ("?limit=050", BEARER, "GET"),
        ("?limit=5&limit=6", BEARER, "GET"),
        ("?unread=1", BEARER, "GET"),
        ("?unread=true&limit=5", BEARER, "GET"),
        ("?archived=true", BEARER, "GET"),
        ("?category=orders", BEARER, "GET"),
        ("?nonsense=1", BEARER, "GET"),
        ("/", BEARER, "GET"),
        ("", "Authorization: bearer TOKEN", "GET"),
        ("", "Authorization: Bearer nonsense", "GET"),
        ("", "X-Nothing: 1", "GET"),
        ("", f"{BEARER}\r\nOrigin: https://elsewhere.example", "GET"),
        ("", f"{BEARER}\r\nContent-Length: 0", "GET"),
        ("", f"{BEARER}\r\nIf-None-Match: *\r\nIf-None-Match: *", "GET"),
        ("", BEARER, "POST"),
    ],
)
async def test_an_unusual_request_goes_to_the_application(
    start_pair: StartPair, target: str, line: str, method: str
) -> None:
    both = await start_pair()
    assert not (await both.get(target, line, method=method))[1]


@pytest.mark.parametrize("trusted", ["", "127.0.0.1"])
async def test_the_fast_path_serves_a_proxied_page_like_the_application(
    start_pair: StartPair, trusted: str
) -> None:
    both = await start_pair(forwarded_allow_ips=trusted)
    lines = (BEARER, "X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https", "X-Real-IP: 10.0.0.1")
    answer, fast = await both.get("?limit=5", *lines)
    assert (answer.code, fast) == (200, True)
    assert (b"strict-transport-security" in dict(answer.headers)) is bool(trusted)


async def test_a_user_over_the_limit_is_refused_and_charged_once(start_pair: StartPair) -> None:
    both = await start_pair(commands_per_second=0.5)
    codes = [(await both.get("", BEARER))[0].code for _ in range(30)]
    assert codes[0] == 200
    assert codes[-1] == 429


async def test_an_unavailable_database_gets_a_503(
    start_pair: StartPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = await start_pair()

    async def fail(*_: Any) -> None:
        raise Unavailable

    monkeypatch.setattr(type(both.fast.state.database), "read", fail)
    exact = f"GET /v1/inbox HTTP/1.1\r\nHost: gateway\r\n{BEARER}\r\n\r\n"
    answers = [
        await wire.ask(exact.replace("TOKEN", str(user.token)).encode())
        for wire, user in zip(both.wires, both.users, strict=True)
    ]
    assert answers[0] == answers[1]
    assert answers[0].code == 503
    assert ledger(both.fast, both.users[0]) == ledger(both.plain, both.users[1])


async def test_a_client_that_disconnects_during_a_page_read_leaks_nothing(
    start_pair: StartPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = await start_pair()
    await both.post(*[{"title": "Hello", "body": "x" * 3900, "data": {"x": "y" * 7000}}] * 3)
    gate, page_response = asyncio.Event(), inbox.page_response

    read: list[Response] = []

    async def held(*arguments: Any) -> Response:
        await gate.wait()
        read.append(await page_response(*arguments))
        return read[-1]

    monkeypatch.setattr(inbox, "page_response", held)
    _, writer = await asyncio.open_connection("127.0.0.1", int(both.fast.base.rpartition(":")[2]))
    taken = both.spy.taken
    exact = f"GET /v1/inbox HTTP/1.1\r\nHost: gateway\r\n{BEARER}\r\n\r\n"
    writer.write(exact.replace("TOKEN", str(both.users[0].token)).encode())
    await until(lambda: both.spy.taken > taken, "it is taken")
    state = both.fast.uvicorn.server_state
    idle = len(state.connections) - 1
    writer.transport.abort()
    await until(lambda: len(state.connections) == idle, "the gateway sees it has gone")
    gate.set()
    await until(lambda: read, "the page was read")
    await until(lambda: not state.tasks, "it has ended")
    await until(lambda: both.fast.state.rate_limits.held_answers.bytes.total == 0, "nothing is held")


async def test_a_client_that_disconnects_just_before_its_page_is_sent_leaks_nothing(
    start_pair: StartPair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    both = await start_pair()
    await both.post(*({"title": str(number), "body": "x" * 4000} for number in range(6)))
    connections, take = both.fast.uvicorn.server_state.connections, Spy.take

    def end_first(self: Spy, head: Any, body: bytearray) -> Any:
        taken = take(self, head, body)

        def end(_: object) -> None:
            # The page is ready, and the fast path has not been told yet.
            (protocol,) = connections - others
            protocol.connection_lost(ConnectionResetError())
            protocol.transport.abort()

        taken.outcome.add_done_callback(end)
        return taken

    monkeypatch.setattr(Spy, "take", end_first)
    others = set(connections)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(both.fast.base.rpartition(":")[2]))
    head = f"GET /v1/inbox HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {both.users[0].token}\r\n\r\n"
    # In two pieces, so that the request is counted until its end.
    writer.write(head[:40].encode())
    await asyncio.sleep(0.05)
    writer.write(head[40:].encode())
    assert await reader.read() == b""
    writer.close()
    held = both.fast.state.rate_limits
    await until(lambda: held.held_answers.bytes.total == 0, "nothing is held")
    await until(lambda: both.fast.uvicorn.lifespan.state[TURNSTILE].held_bytes == 0, "nothing is counted")
    assert not [one for one in caplog.records if one.exc_info]
