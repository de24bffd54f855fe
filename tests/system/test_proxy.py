"""The proxy of the fault tests does to connections what it says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.support.proxy import BOTH_WAYS, Proxy, Way, proxy_to
from tests.support.waiting import PATIENCE, until

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def echo() -> AsyncIterator[Proxy]:
    """A proxy before a server that sends back each line, and notes it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, proxy_to(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[Ends]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(b"hello\n")
        assert await asyncio.wait_for(reader.readline(), PATIENCE) == b"hello\n"
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def silent(reader: asyncio.StreamReader) -> bool:
    """Whether nothing comes for a while."""
    waiting = asyncio.create_task(reader.readline())
    _, pending = await asyncio.wait([waiting], timeout=0.1)
    waiting.cancel()
    return bool(pending)


@pytest.mark.parametrize("way", list(Way))
async def test_stalled_data_is_delivered_later_in_either_direction(echo: Proxy, way: Way) -> None:
    async with connected(echo) as (reader, writer):
        with echo.stalled(way):
            writer.write(b"stalled\n")
            waiting = asyncio.create_task(reader.readline())
            assert await asyncio.wait([waiting], timeout=0.1) == (set(), {waiting})
        assert await asyncio.wait_for(waiting, PATIENCE) == b"stalled\n"


async def test_swallowed_data_never_arrives_and_its_connection_is_reset_at_the_end(echo: Proxy) -> None:
    async with connected(echo) as (reader, writer):
        with echo.swallowed(*BOTH_WAYS):
            writer.write(b"swallowed\n")
            waiting = asyncio.create_task(reader.readline())
            assert await asyncio.wait([waiting], timeout=0.1) == (set(), {waiting})
            assert len(echo) == 1
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(waiting, PATIENCE)


async def test_a_connection_ends_when_either_side_closes(echo: Proxy) -> None:
    async with connected(echo):
        assert len(echo) == 1
    await until(lambda: len(echo) == 0, "nothing is relayed")
