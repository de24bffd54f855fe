"""Clients that stop reading: what they cost the others, and how much memory they hold."""

import asyncio
import json
import time
from collections.abc import Sequence
from functools import partial

from benchmarks.audience import Audience, Deliveries, audience
from benchmarks.client import HttpConnection, Socket, request
from benchmarks.report import Figures
from benchmarks.rounds import Plan, latency
from benchmarks.subjects import Subject, each, gateway

READERS = 1980
STALLED = 20
RATE = 200
"""Posts a second to the readers, and how many seconds of them there are."""
SECONDS = 30
FLOOD = 4000
"""Posts to the stalled, 4 KB each: more than the system's buffers of a socket can hold."""

CONNECTIONS = 16


async def _pace(posts: int, readers: Audience) -> list[float]:
    """Post to the readers at the rate, and return how long each took to arrive."""
    deliveries = Deliveries(posts)
    readers.listen(deliveries)
    start = time.perf_counter()

    async def post(connection: HttpConnection, number: int) -> None:
        await asyncio.sleep(max(start + number / RATE - time.perf_counter(), 0))
        deliveries.posted[number] = time.perf_counter()
        await connection.send(readers.post(number))

    async with readers.subject.connections(CONNECTIONS) as connections:
        await each(range(posts), connections, post)
        await deliveries.complete()
    return deliveries.latencies


async def _flood(posts: int, subject: Subject, users: Sequence[str]) -> None:
    """Post to the stalled, evenly over the time of the load."""
    body = json.dumps({"to": list(users), "title": "flood", "body": "x" * 4000}).encode()
    asked = request("POST", subject.posts, subject.bearer, body)
    start = time.perf_counter()
    async with subject.connections(1) as connections:
        for number in range(posts):
            await asyncio.sleep(max(start + number * SECONDS / posts - time.perf_counter(), 0))
            await connections[0].send(asked)


async def _watch(subject: Subject, peak: list[int]) -> None:
    while True:
        peak[0] = max(peak[0], subject.server.memory().rss)
        await asyncio.sleep(0.25)


async def _load(plan: Plan, subject: Subject, name: str, *, stall: bool) -> Figures:
    async with (
        audience(subject, f"reader-{name}", READERS) as readers,
        audience(subject, f"stalled-{name}", STALLED) as others,
    ):
        if stall:
            for socket in others.sockets:
                socket.stop_reading()
        before = subject.server.memory().rss
        peak = [before]
        watching = asyncio.create_task(_watch(subject, peak))
        latencies, _ = await asyncio.gather(
            _pace(plan.size(RATE * SECONDS), readers),
            _flood(plan.size(FLOOD), subject, others.users),
        )
        watching.cancel()
        ended = await _ended(others.sockets) if stall else 0
        return latency(latencies) | {
            "RSS before, MiB": before / 2**20,
            "RSS at its peak, MiB": peak[0] / 2**20,
            "sockets the server has ended": float(ended),
        }


async def _ended(sockets: Sequence[Socket]) -> int:
    """Let them read on, and return how many of them find that they were closed."""
    for socket in sockets:
        socket.read_on()
    await asyncio.sleep(2)
    return sum(socket.lost for socket in sockets)


async def slow(plan: Plan) -> None:
    """2,000 sockets, all reading, and with 1 % of them that have stopped: latency of the others, memory."""
    async with gateway(plan.database) as ours:
        figures: dict[str, list[Figures]] = {}
        for number in range(plan.rounds):
            for label, stall in (("all read", False), ("1 % do not", True)):
                load = partial(_load, plan, ours, f"{number}-{int(stall)}", stall=stall)
                figures.setdefault(label, []).append(await load())
    plan.report.add(
        f"{READERS + STALLED} sockets, {RATE} posts a second, 4 KB each to 20", figures, ratios=False
    )
