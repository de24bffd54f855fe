"""A request may be cancelled wherever it waits: nothing is wedged, nothing is held, the next post arrives."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.support.cancelling import Cancelled
from tests.support.clients import Socket
from tests.support.databases import API_KEY
from tests.support.servers import LocalServer, connections_taken
from tests.support.waiting import until, until_none

Request = Callable[[LocalServer], Coroutine[Any, Any, None]]


def asgi(path: str, body: bytes) -> Request:
    """Return a request as uvicorn would hand it to the application."""
    sent = [{"type": "http.request", "body": body, "more_body": False}]
    headers = {
        "authorization": f"Bearer {API_KEY}",
        "content-type": "application/json",
        "content-length": str(len(body)),
    }

    async def call(server: LocalServer) -> None:
        waiting = list(sent)

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0)
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            await asyncio.sleep(0)
            if message["type"] == "http.response.start":
                assert message["status"] == 201, message

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        await server.uvicorn.config.loaded_app(scope, receive, send)

    return call


@pytest.mark.parametrize(
    ("path", "body", "least"),
    [
        ("/v1/notifications", b'{"to": ["ada", "new"], "title": "cut short"}', 4),
        ("/v1/notifications/batch", b'[{"to": "ada", "title": "1"}, {"to": "bob", "title": "2"}]', 4),
        ("/v1/users/eve/tokens", b"{}", 4),
    ],
    ids=["a post", "a batch", "a token"],
)
async def test_a_request_may_be_cancelled_at_every_await(
    server: LocalServer, path: str, body: bytes, least: int
) -> None:
    ada = await server.user()
    async with ada.socket(since="latest") as socket:
        await socket.next("live")
        tasks = asyncio.all_tasks()
        number = 0
        while await cancelled(server, asgi(path, body), number):
            number += 1
            await next_is_delivered(server, socket, f"after {number}")
            await until(lambda: not asyncio.all_tasks() - tasks, "no task is left")
            await until_none(lambda: connections_taken(server.state.database), "connections taken")
        assert number >= least


async def cancelled(server: LocalServer, request: Request, number: int) -> bool:
    """Cancel a request where it waits for the `number`th time; return whether it came that far."""
    # Each looks its token up anew: that is a part of the way.
    server.state.tokens.remembered.clear()
    driver = Cancelled(request(server), number)

    async def drive() -> None:
        await driver

    task = asyncio.create_task(drive())
    await asyncio.wait({task})
    if driver.reached:
        assert task.cancelled()
    else:
        task.result()
    return driver.reached


async def next_is_delivered(server: LocalServer, socket: Socket, title: str) -> None:
    """Post, and read until it comes: what was cut short may have been stored and come before it."""
    await server.service.notify("ada", title)
    async with asyncio.timeout(30):
        while (await socket.next("notification", within=30))["notification"]["title"] != title:
            pass
