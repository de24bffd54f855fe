"""The examples of docs/backend.md, taken from the page and run against a gateway that is not always well."""

import asyncio
import os
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright._impl._driver import compute_driver_executable

from tests.docs.test_docs import blocks, shapes_in, text_of
from tests.support.servers import Server, process

PAGE = text_of("docs/backend.md")

PYTHON = """
import httpx

first = notify("ada", "Hello", key="python-1", data={"order": 7})
assert notify("ada", "Hello", key="python-1", data={"order": 7}) == first
assert len(set(notify_all([{"to": "ada", "title": "1"}, {"to": ["bob"], "title": "2"}], key="python-2"))) == 2
assert counts(first) == {"recipients": 1, "delivered": 0, "seen": 0, "read": 0}
bearer = {"Authorization": f"Bearer {token_for('ada')['access_token']}"}
titles = [item["title"] for item in gateway.get("/v1/inbox", headers=bearer).json()["items"]]
assert titles == ["1", "Hello"], titles
try:
    notify("ada", "Another", key="python-1")
except httpx.HTTPStatusError as refused:
    problem = refused.response.json()
    assert problem["code"] == "idempotency_key_reused"
    assert str(refused) == f"{problem['code']}: {problem['detail']}"
else:
    raise AssertionError("it was not refused")


def never(_):
    raise AssertionError("it was retried")


time.sleep = never
try:
    notify("ada", "Hello", key="python\\n3")
except httpx.LocalProtocolError:
    pass
"""

NODE = """
import assert from 'node:assert/strict';

const first = await notify({ to: 'ada', title: 'Hello', data: { order: 7 } }, 'node-1');
assert.equal(await notify({ to: 'ada', title: 'Hello', data: { order: 7 } }, 'node-1'), first);
const ids = await notifyAll([{ to: 'ada', title: '1' }, { to: ['bob'], title: '2' }], 'node-2');
assert.equal(new Set(ids).size, 2);
assert.deepEqual(await counts(first), { recipients: 1, delivered: 0, seen: 0, read: 0 });
const headers = { Authorization: `Bearer ${(await tokenFor('ada')).access_token}` };
const { items } = await (await fetch(`${GATEWAY_URL}/v1/inbox`, { headers })).json();
assert.deepEqual(items.map(({ title }) => title), ['1', 'Hello']);
await assert.rejects(notify({ to: 'ada', title: 'Another' }, 'node-1'), /^Error: idempotency_key_reused: /);
globalThis.fetch = () => assert.fail('it was sent');
await assert.rejects(notify({ to: 'ada', title: 'Hello' }, 'node\\n3'), TypeError);
"""

OVERLOADED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 0\r\n"
    b"Content-Length: 37\r\nConnection: close\r\n\r\n"
    b'{"code":"unavailable","detail":"..."}'
)


@asynccontextmanager
async def unwell(server: Server) -> AsyncIterator[tuple[str, list[str]]]:
    """Yield the address of a gateway that hangs up once, then is overloaded once; and what it has done."""
    done: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        done.append(["hung up", "overloaded", "served"][min(len(done), 2)])
        if done[-1] == "served":
            await tunnel(reader, writer)
        elif done[-1] == "overloaded":
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OVERLOADED)
        writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        url = server.http.base_url
        there, out = await asyncio.open_connection(url.host, url.port)
        ways = [asyncio.create_task(pass_on(reader, out)), asyncio.create_task(pass_on(there, writer))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        out.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    front = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{front.sockets[0].getsockname()[1]}", done
    finally:
        front.close()


async def run(script: str, folder: Path, **environment: str) -> str:
    """Run a script, and return what it has said."""
    started = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        f"set -eu -o pipefail\n{script}",
        env=os.environ | environment | {"NO_PROXY": "*"},
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, failed = await asyncio.wait_for(started.communicate(), 120)
    assert started.returncode == 0, failed.decode()
    return said.decode()


async def test_the_backend_examples_run_and_return_the_output_they_show(
    sqlite_url: str, tmp_path: Path
) -> None:
    key, *calls = blocks(PAGE, "sh")
    (tmp_path / "backend.py").write_text("\n".join(blocks(PAGE, "python")) + PYTHON)
    (tmp_path / "backend.mjs").write_text("\n".join(blocks(PAGE, "js")) + NODE)
    node = compute_driver_executable()[0]
    gateway = shlex.join([sys.executable, "-m", "gateway"])
    async with process(sqlite_url, tmp_path) as (_, server):
        made = key.replace("uv run --no-dev gateway", gateway).replace("http://127.0.0.1:8000", server.base)
        settings = {"GATEWAY_DATABASE_URL": sqlite_url}
        script = f"{made}\n{''.join(calls)}\nprintf '\\n%s' \"$GATEWAY_KEY\""
        said, _, secret = (await run(script, tmp_path, **settings)).rpartition("\n")
        answers = shapes_in(said)
        assert [one for block in blocks(PAGE, "json") for one in shapes_in(block) if one not in answers] == []
        for command in (f"{sys.executable} backend.py", f"{node} backend.mjs"):
            await server.service.delete("/v1/users/ada")
            async with unwell(server) as (address, done):
                await run(f"exec {command}", tmp_path, GATEWAY_URL=f"{address}/", GATEWAY_KEY=f"{secret}\n")
            assert done[:3] == ["hung up", "overloaded", "served"], command
