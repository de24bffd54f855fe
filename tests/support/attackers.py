"""Attackers: each kind sends what may cost a gateway more than it costs the one who sends it.

Every kind is bounded, ends by itself, and takes any answer, or none. They run in a process of their own, so
that what the good clients wait for is the gateway: `python -m tests.support.attackers` reads a `Target` as
JSON from its standard input, and prints as JSON how often each kind has begun its attack.
"""

import asyncio
import base64
import json
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from time import monotonic
from urllib.parse import urlencode

from gateway.auth.services import new_key

MIB = 1024 * 1024

SOURCE = "127.0.0.2"
"""The address that attackers call from: the limits of an address are not those of the good clients."""

STALLED = 2.0
"""Seconds for which a gateway may take nothing before an attacker goes away."""

ANSWERED = 30.0
"""Seconds that an attacker waits for one answer."""

CUT_OFF = 5.0
"""Seconds after which the gateways of these tests have cut off a client that reads nothing."""

_CHUNK = 65_536


@dataclass(frozen=True)
class Target:
    """A gateway, what an attacker holds there, and how much of each kind there is.

    `seconds` is how long each kind is repeated; with 0 it is done once. `megabytes` is the size of a flood,
    `connections` the size of a crowd, `posts` the length of a batch of 1,000 recipients each.
    """

    port: int
    token: str
    key: str
    client_id: str
    client_secret: str
    kinds: tuple[str, ...]
    seconds: float = 0.0
    megabytes: int = 1
    connections: int = 30
    posts: int = 100


Kind = Callable[[Target], Awaitable[int]]
"""Attacks a target once, and returns on how many connections it has begun to."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def _opened(target: Target) -> AsyncIterator[Streams]:
    """Open a connection of which little is read ahead, and abort it at the end."""
    async with asyncio.timeout(ANSWERED):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", target.port, limit=_CHUNK, local_addr=(SOURCE, 0)
        )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _push(writer: asyncio.StreamWriter, unit: bytes, size: int) -> None:
    """Send a unit again and again, until so many bytes are sent, or the gateway takes no more."""
    chunk = unit * max(1, min(_CHUNK, size) // len(unit))
    with suppress(OSError):
        for _ in range(0, size, len(chunk)):
            writer.write(chunk)
            async with asyncio.timeout(STALLED):
                await writer.drain()


def _request(method: str, path: str, **headers: str) -> bytes:
    """Return the head of a request. An underscore in the name of a header stands for a dash."""
    lines = [f"{method} {path} HTTP/1.1", "Host: gateway"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def _post(path: str, body: bytes, **headers: str) -> bytes:
    return _request("POST", path, Content_Length=str(len(body)), Connection="close", **headers) + body


async def _ask(target: Target, request: bytes) -> bytes:
    """Send a request, and return what comes until the gateway closes; nothing where it does not."""
    with suppress(OSError, asyncio.IncompleteReadError):
        async with asyncio.timeout(ANSWERED), _opened(target) as (reader, writer):
            writer.write(request)
            await writer.drain()
            return await reader.read(-1)
    return b""


def _json(path: str, bearer: str, body: bytes, kind: str = "application/json") -> bytes:
    return _post(path, body, Authorization=f"Bearer {bearer}", Content_Type=kind)


def _form(path: str, **fields: str) -> bytes:
    return _post(path, urlencode(fields).encode(), Content_Type="application/x-www-form-urlencoded")


@asynccontextmanager
async def _socket(target: Target, token: str | None) -> AsyncIterator[Streams]:
    """Shake hands, with a token or without one, and read no more than the answer."""
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": base64.b64encode(os.urandom(16)).decode(),
    }
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    async with _opened(target) as (reader, writer):
        writer.write(_request("GET", "/v1/ws?since=latest", **headers))
        async with asyncio.timeout(ANSWERED):
            await reader.readuntil(b"\r\n\r\n")
        yield reader, writer


def _frame(opcode: int, payload: bytes = b"", *, last: bool = True) -> bytes:
    """Return a frame (RFC 6455, section 5.2) with a mask of zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([(0x80 if last else 0) | opcode]) + length + bytes(4) + payload


_TEXT, _PING, _PONG = 1, 9, 10
_FLOODS = (
    (b"", _frame(_PING, b"x" * 125)),
    (b"", _frame(_PONG)),
    (_frame(_TEXT, last=False), _frame(0, last=False)),
)
"""What begins a flood of frames, and what it consists of."""


async def _flood(target: Target, token: str | None, begin: bytes, unit: bytes) -> int:
    async with _socket(target, token) as (_, writer):
        writer.write(begin)
        await _push(writer, unit, target.megabytes * MIB)
        return 1


async def control_frames(target: Target) -> int:
    """Flood authorised sockets with pings, pongs and empty fragments, and read nothing."""
    return sum([await _flood(target, target.token, begin, unit) for begin, unit in _FLOODS])


async def frames_after_the_close(target: Target) -> int:
    """Flood sockets that were closed with 4001."""
    return sum([await _flood(target, None, begin, unit) for begin, unit in _FLOODS])


async def slashes(target: Target) -> int:
    """Ask for long paths of slashes behind answers that are not read; go away, or stay to be cut off."""
    pair = _request("GET", "/openapi.json") + _request("GET", "/" * 60_000 + "?token=x")

    async def one(stays: float) -> None:
        async with _opened(target) as (_, writer):
            await _push(writer, pair, 60 * len(pair))
            await asyncio.sleep(stays)

    await asyncio.gather(*(one(stays) for stays in (0, CUT_OFF)))
    return 2


async def trailers(target: Target) -> int:
    """Send a body that is at its end, and trailers without one."""
    kind = "application/x-www-form-urlencoded"
    head = _request("POST", "/v1/auth/token", Content_Type=kind, Transfer_Encoding="chunked")
    async with _opened(target) as (_, writer):
        writer.write(head + b"0\r\n")
        await _push(writer, b"a: b\r\n", 2 * target.megabytes * MIB)
    return 1


async def pipelined(target: Target) -> int:
    """Send pipelined requests on many connections, and read no answer."""

    async def one() -> None:
        async with _opened(target) as (_, writer):
            await _push(writer, _request("GET", "/"), 256 * 1024)

    await asyncio.gather(*(one() for _ in range(target.connections)))
    return target.connections


async def large_batches(target: Target) -> int:
    """Post a batch that names 1,000 recipients in each of its posts."""
    post = {"to": [f"crowd-{number}" for number in range(1000)], "title": "x"}
    body = json.dumps([post] * target.posts, separators=(",", ":")).encode()
    await _ask(target, _json("/v1/notifications/batch", target.key, body))
    return 1


async def storms(target: Target) -> int:
    """Mark all of a large inbox again and again, by command and by request, and hang up."""
    for number in range(3):
        async with _socket(target, target.token) as (_, writer):
            for up_to in range(100):
                kind = ("seen", "read")[(up_to + number) % 2]
                writer.write(_frame(_TEXT, json.dumps({"type": kind, "up_to": up_to + 1}).encode()))
            await _push(writer, _frame(_PING), 1)
    for path in ("/v1/inbox/read", "/v1/inbox/seen") * 10:
        async with _opened(target) as (_, writer):
            writer.write(_json(path, target.token, b'{"up_to": 1000000}'))
            await writer.drain()
    return 23


async def guesses(target: Target) -> int:
    """Guess passwords, each of another account."""
    forms = [
        _form("/v1/auth/token", grant_type="password", username=f"guessed-{number}", password="a guess")
        for number in range(target.connections)
    ]
    await asyncio.gather(*(_ask(target, form) for form in forms))
    return len(forms)


async def revocations(target: Target) -> int:
    """Get tokens of a service, and end each at once."""
    credentials = {"client_id": target.client_id, "client_secret": target.client_secret}
    ended = 0
    for _ in range(target.connections):
        answer = await _ask(target, _form("/v1/auth/token", grant_type="client_credentials", **credentials))
        body = answer.partition(b"\r\n\r\n")[2]
        if b'"access_token"' in body:
            token = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])["access_token"]
            await _ask(target, _form("/v1/auth/revoke", token=token))
            ended += 1
    return ended


async def giant_errors(target: Target) -> int:
    """Send bodies that break a rule many times, or with a long name, or deep within."""
    bodies = (
        json.dumps({f"unknown-{number}": number for number in range(10_000)}).encode(),
        json.dumps({"to": "x", "title": "x", "y" * 200_000: 1}).encode(),
        json.dumps({"to": list(range(30_000)), "title": {}}).encode(),
        b'{"data": ' + b'{"a":' * 30_000 + b"1" + b"}" * 30_000 + b"}",
    )
    for body in bodies:
        for path, bearer in (("/v1/notifications", target.key), ("/v1/inbox/read", target.token)):
            await _ask(target, _json(path, bearer, body))
    return 2 * len(bodies)


async def hostile_lines(target: Target) -> int:
    """Post large batches of lines: empty ones, short ones, a long one, and nested ones."""
    size = min(8 * target.megabytes, 8) * MIB - 1024
    units = (b"\n", b"1\n", b"{}\n", b"[", b'{"to":"x","title":"' + b"y" * 300 + b'"}\n')
    for unit in units:
        body = unit * (size // len(unit))
        request = _json("/v1/notifications/batch", target.key, body, "application/x-ndjson")
        await _ask(target, request)
    return len(units)


async def refused_sockets(target: Target) -> int:
    """Open sockets with a token that is none, and stay when they are closed."""

    async def one() -> int:
        with suppress(OSError, asyncio.IncompleteReadError):
            async with _socket(target, "none") as (reader, _):
                async with asyncio.timeout(STALLED):
                    await reader.read(-1)
        return 1

    return sum(await asyncio.gather(*(one() for _ in range(3 * target.connections))))


async def unfinished_heads(target: Target) -> int:
    """Hold many connections, each with a head that is nearly as long as one may be, and has no end."""
    head = _request("GET", "/")[:-2] + b"X-Long: " + b"x" * 60_000

    async def one() -> None:
        async with _opened(target) as (reader, writer):
            await _push(writer, head, len(head))
            with suppress(OSError):
                async with asyncio.timeout(CUT_OFF):
                    await reader.read(-1)

    await asyncio.gather(*(one() for _ in range(10 * target.connections)), return_exceptions=True)
    return 10 * target.connections


async def unknown_keys(target: Target) -> int:
    """Ask with API keys that are well formed, and that nobody was given, on many connections."""

    async def one() -> None:
        for _ in range(20):
            key = new_key()[2]
            await _ask(
                target, _request("GET", "/v1/users", Authorization=f"Bearer {key}", Connection="close")
            )

    await asyncio.gather(*(one() for _ in range(target.connections)))
    return 20 * target.connections


async def forbidden(target: Target) -> int:
    """Ask for what the service and the user may not do."""
    for bearer in (target.key, target.token) * target.connections:
        request = _request("GET", "/v1/users", Authorization=f"Bearer {bearer}", Connection="close")
        await _ask(target, request)
    return 2 * target.connections


async def unread_answers(target: Target) -> int:
    """Ask for the longest pages of an inbox of large items on many connections, and read none."""
    post = {"to": "mallory", "title": "x", "body": "\x01" * 4000, "data": {"x": "y" * 8000}}
    body = json.dumps([post] * 100).encode()
    await _ask(target, _json("/v1/notifications/batch", target.key, body))
    since = await _end_of_log(target) - 100
    paths = (f"/v1/inbox/changes?since={since}&limit=1000", "/v1/inbox?limit=200")

    async def one(path: str) -> None:
        async with _opened(target) as (reader, writer):
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            await _push(writer, _request("GET", path, Authorization=f"Bearer {target.token}"), 4096)
            await asyncio.sleep(STALLED)

    await asyncio.gather(*(one(paths[number % 2]) for number in range(target.connections)))
    return target.connections


async def _end_of_log(target: Target) -> int:
    """Return where the log of the attacker's user stands."""
    path = "/v1/inbox?limit=1"
    answer = await _ask(
        target, _request("GET", path, Authorization=f"Bearer {target.token}", Connection="close")
    )
    found = re.search(rb'"seq":([0-9]+),"epoch"', answer)
    return 100 if found is None else int(found[1])


@asynccontextmanager
async def _crowd(target: Target, each: list[bytes]) -> AsyncIterator[list[Streams]]:
    """Open a connection for each, and send what it begins with."""
    async with AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(_opened(target)) for _ in each]
        for (_, writer), begin in zip(crowd, each, strict=True):
            writer.write(begin)
        yield crowd


async def _at_once(target: Target, requests: list[bytes]) -> int:
    """Send requests but for their last bytes, then these in the same moment; read some of each answer."""
    async with _crowd(target, [request[:-1] for request in requests]) as crowd:
        await asyncio.sleep(0.5)
        for (_, writer), request in zip(crowd, requests, strict=True):
            writer.write(request[-1:])
        for reader, _ in crowd:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(ANSWERED):
                    await reader.read(100)
    return len(requests)


async def unfinished_bodies(target: Target) -> int:
    """Begin posts of the largest size, and leave them unfinished until they are cut off."""
    request = _json("/v1/notifications", target.key, b'{"to":"x","title":"' + b"y" * (256 * 1024 - 19))
    async with _crowd(target, [request[:-1000]] * 4 * target.connections) as crowd:
        await asyncio.sleep(CUT_OFF)
        return len(crowd)


async def bodies_at_once(target: Target) -> int:
    """Complete the bodies that are dearest to read in the same moment."""
    dear = (
        {"to": "x", "title": "x", "data": {f"{number}": 1 for number in range(20_000)}},
        {"to": "x", "title": "x", "data": {"a": [number / 1000 for number in range(30_000)]}},
        {"to": [f"{number:04}{'y' * 250}" for number in range(1000)], "title": ""},
    )
    texts = [json.dumps(one, separators=(",", ":")).encode() for one in dear]
    requests = [_json("/v1/notifications", target.key, text) for text in texts]
    requests += [_json("/v1/notifications/batch", target.key, b"[" + text + b"]") for text in texts]
    requests += [_json("/v1/inbox/read", target.token, json.dumps({"ids": ["x"] * 10_000}).encode())]
    return await _at_once(target, (requests * target.connections)[: 2 * target.connections])


async def tiny_chunks(target: Target) -> int:
    """Send bodies in chunks of one byte on many connections."""
    fields = {"Authorization": f"Bearer {target.key}", "Content_Type": "application/json"}
    head = _request("POST", "/v1/notifications", Transfer_Encoding="chunked", **fields)
    return await _at_once(target, [head + b"1\r\n1\r\n" * 20_000 + b"0\r\n\r\n"] * target.connections)


async def documents(target: Target) -> int:
    """Ask for the OpenAPI document on many connections in the same moment."""
    return await _at_once(target, [_request("GET", "/openapi.json")] * 2 * target.connections)


KINDS: tuple[Kind, ...] = (
    slashes,
    control_frames,
    frames_after_the_close,
    trailers,
    pipelined,
    large_batches,
    storms,
    guesses,
    revocations,
    giant_errors,
    hostile_lines,
    refused_sockets,
    unfinished_heads,
    unknown_keys,
    forbidden,
    unread_answers,
    unfinished_bodies,
    bodies_at_once,
    tiny_chunks,
    documents,
)
NAMES = tuple(kind.__name__ for kind in KINDS)


async def attack(target: Target) -> Counter[str]:
    """Attack in every kind at once, and return how often each has begun to."""
    begun: Counter[str] = Counter()
    end = monotonic() + target.seconds

    async def repeat(kind: Kind) -> None:
        while True:
            # A gateway that refuses a connection, or closes one early, defends itself.
            with suppress(OSError, asyncio.IncompleteReadError):
                begun[kind.__name__] += await kind(target)
            if monotonic() >= end:
                return
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        for kind in KINDS:
            if kind.__name__ in target.kinds:
                tasks.create_task(repeat(kind))
    return begun


async def attacked(target: Target) -> Counter[str]:
    """Do so in a process of its own. Raises TimeoutError where that takes two minutes more than it should."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.attackers",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(target.seconds + 120):
            said, _ = await process.communicate(json.dumps(asdict(target)).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return Counter(json.loads(said))


if __name__ == "__main__":
    print(json.dumps(asyncio.run(attack(Target(**json.load(sys.stdin))))))  # noqa: T201 - the parent reads it
