"""Two gateways that must answer alike, and connections that send them exact bytes."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.databases import settings_for, sqlite_copy
from tests.support.servers import LocalServer, serving_all
from tests.support.waiting import PATIENCE


@asynccontextmanager
async def serving_two(
    template: Path, folder: Path, **options: Any
) -> AsyncIterator[tuple[LocalServer, LocalServer]]:
    """Serve two gateways with the same settings, and with databases of their own."""
    asked = []
    for name in ("one", "other"):
        (folder / name).mkdir()
        asked.append(settings_for(sqlite_copy(template, folder / name), **options))
    async with serving_all(*asked) as (one, other):
        yield one, other


def counted_requests(server: LocalServer) -> dict[str, float]:
    """Return what a gateway has counted in its metrics of requests."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in server.state.metrics.registry.collect()
        for sample in family.samples
        if sample.name in {"gateway_request_seconds_count", "gateway_refusals_total"}
    }


class Answer(NamedTuple):
    """A response: its status line, its headers in their order, and its body."""

    status: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def code(self) -> int:
        return int(self.status.split()[1])


_UNIQUE = [
    (re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"), b"UUID"),
    (re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"), b"TIME"),
    (re.compile(rb"\b[0-9a-f]{32}\b"), b"ID"),
    (re.compile(rb"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"), b"DATE"),
]


def same_for_all(value: bytes) -> bytes:
    """Replace what is different in each response: ids and times."""
    for pattern, name in _UNIQUE:
        value = pattern.sub(name, value)
    return value


@dataclass
class Wire:
    """A connection that sends exact bytes."""

    server: LocalServer
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, *pieces: bytes) -> Answer:
        """Send a request in these pieces, each in a packet of its own, and return the response."""
        if self.streams is None:
            self.streams = await asyncio.open_connection(
                "127.0.0.1", int(self.server.base.rpartition(":")[2])
            )
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(0.05)
            self.streams[1].write(piece)
        return await self.read()

    async def read(self) -> Answer:
        """Read a response, and close the connection if the gateway does."""
        assert self.streams is not None
        reader = self.streams[0]
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        status, *lines = head[:-4].split(b"\r\n")
        parts = [line.partition(b": ") for line in lines]
        headers = [(name, same_for_all(value)) for name, _, value in parts]
        body = await reader.readexactly(int(dict(headers).get(b"content-length", b"0")))
        if status.split()[1] == b"100":
            return await self.read()
        if (b"connection", b"close") in headers:
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
            await self.close()
        return Answer(status, headers, same_for_all(body))

    async def close(self) -> None:
        """Close the connection, if it is open."""
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None
