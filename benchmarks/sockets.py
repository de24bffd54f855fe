"""Sockets: what it costs to open one, and to hold one that is idle."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from benchmarks.client import Socket, open_socket
from benchmarks.process import socket_limit
from benchmarks.report import Figures
from benchmarks.rounds import Load, Plan, measured
from benchmarks.subjects import Subject, each, gateway, tutorial

AT_ONCE = 32
HANDSHAKES = 1000
IDLE_FEW = 2000
IDLE_MANY = 10_000
IDLE_ROUNDS = 2
WARM_UP = 200
WATCH = 30.0
"""How long idle sockets are watched for the CPU they use, in seconds: a heartbeat and a ping or two each."""

SPARE_FILES = 500


async def _open_and_close(subject: Subject, tokens: Sequence[str]) -> None:
    async def shake(_worker: int, token: str) -> None:
        await (await open_socket(subject.server.port, subject.sockets, token)).close()

    await each(tokens, range(AT_ONCE), shake)


async def handshake(plan: Plan) -> None:
    """Handshakes: with tokens that the server has not seen before, and with tokens that it has."""
    count = plan.size(HANDSHAKES)
    subs = [f"hand-{number:05}" for number in range(count)]
    async with gateway(plan.database) as ours, tutorial(plan.database) as theirs:
        known = await ours.tokens(subs)
        # One for the warm-up, one for each round, one for a profile.
        new: dict[Subject, list[list[str]]] = {ours: [], theirs: []}
        for subject, batches in new.items():
            batches += [await subject.tokens(subs) for _ in range(plan.rounds + 2)]

        async def shake(subject: Subject, tokens: Sequence[str] = ()) -> Figures:
            tokens = tokens or new[subject].pop()
            return await measured(subject, count, _open_and_close(subject, tokens))

        loads = {
            "gateway": Load(ours.server, partial(shake, ours)),
            "gateway, token seen before": Load(ours.server, partial(shake, ours, known)),
            "tutorial style": Load(theirs.server, partial(shake, theirs)),
        }
        figures = await plan.in_turn("handshake", loads)
    plan.report.add(f"Handshake with JWT, until live, then close: {count}, {AT_ONCE} at a time", figures)


@asynccontextmanager
async def _crowd() -> AsyncIterator[list[Socket]]:
    """Yield an empty list; close what is in it at the end."""
    sockets: list[Socket] = []

    async def close(_worker: int, socket: Socket) -> None:
        await socket.close()

    try:
        yield sockets
    finally:
        await each(sockets, range(AT_ONCE), close)


async def _hold(subject: Subject, tokens: Sequence[str], sockets: list[Socket]) -> None:
    """Open a socket for each token and add it to the others."""

    async def hold(_worker: int, token: str) -> None:
        sockets.append(await open_socket(subject.server.port, subject.sockets, token))

    await each(tokens, range(AT_ONCE), hold)
    await asyncio.sleep(1)


async def _memory(subject: Subject, tokens: Sequence[str], sizes: Sequence[int]) -> Figures:
    """Return what each socket holds at each of these numbers, and what the last number costs while idle."""
    figures: Figures = {}
    await _open_and_close(subject, tokens[:WARM_UP])
    await asyncio.sleep(1)
    empty = subject.server.memory()
    async with _crowd() as sockets:
        for size in sizes:
            await _hold(subject, tokens[len(sockets) : size], sockets)
            full = subject.server.memory()
            figures[f"RSS at {size}, KiB a socket"] = (full.rss - empty.rss) / size / 1024
            figures[f"USS at {size}, KiB a socket"] = (full.uss - empty.uss) / size / 1024
        began = subject.server.usage()
        await asyncio.sleep(WATCH)
        used = subject.server.usage().total - began.total
        figures[f"CPU at {sizes[-1]}, % of a core"] = used / WATCH * 100
    return figures


async def idle(plan: Plan) -> None:
    """Memory of idle sockets, each of its own user; each round is a new process of the server."""
    many = min(plan.size(IDLE_MANY), socket_limit() - SPARE_FILES)
    sizes = sorted({min(plan.size(IDLE_FEW), many), many})
    figures: dict[str, list[Figures]] = {}
    async with gateway(plan.database) as ours, tutorial(plan.database) as theirs:
        tokens = {one: await one.tokens([f"idle-{n:05}" for n in range(many)]) for one in (ours, theirs)}
        for _ in range(min(plan.rounds, IDLE_ROUNDS)):
            for subject in (ours, theirs):
                await subject.server.stop()
                await subject.server.start()
                figures.setdefault(subject.name, []).append(await _memory(subject, tokens[subject], sizes))
    plan.report.add(f"Idle sockets: {many} users with one each", figures, ratios=False)
