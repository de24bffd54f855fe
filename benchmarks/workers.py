"""Several workers: what a hint adds to a post on each backplane, and what a second worker carries."""

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial

from benchmarks.audience import Audience, audience
from benchmarks.posting import POSTS, USERS, saturate
from benchmarks.report import CPU, Figures
from benchmarks.rounds import Load, Plan
from benchmarks.subjects import gateway

POSTGRES_CPU = "Postgres CPU, µs"
CONNECTIONS_TO_TWO = 128
"""So many that each of two workers has as much to do at once as one has in the other loads."""

LOAD_CPU = "CPU of the load, µs"


async def workers(plan: Plan) -> None:
    """What a hint adds to a post, and two workers beside one; on Postgres."""
    if plan.database is None:
        print("\nworkers: left out, for more than one worker needs --database postgresql://…")
        return
    await _hints(plan)
    await _one_and_two(plan)


async def _hints(plan: Plan) -> None:
    """One worker that tells nobody, and the same that tells everybody."""
    backplanes = {"memory": "memory", "postgres": "postgres"}
    if plan.redis is None:
        print("\nworkers: Redis is left out without --redis redis://…")
    else:
        backplanes["redis"] = plan.redis
    posts = plan.size(POSTS)
    async with AsyncExitStack() as stack:
        loads = {}
        for name, url in backplanes.items():
            subject = await stack.enter_async_context(gateway(plan.database, backplane_url=url))
            listeners = await stack.enter_async_context(audience(subject, "hints", USERS))
            loads[name] = Load(subject.server, partial(saturate, posts, listeners))
        figures = await plan.in_turn("hints", loads)
    plan.report.add(f"POST + durable delivery at saturation, by backplane: {posts} posts", figures)
    memory, *others = figures
    added = {name: _added(figures[memory], figures[name]) for name in others}
    plan.report.add("What the hint adds to a post", added, ratios=False)


def _added(without: list[Figures], having: list[Figures]) -> list[Figures]:
    pairs = list(zip(having, without, strict=True))
    return [
        {name: more[name] - less[name] for name in (CPU, POSTGRES_CPU) if name in more}
        for more, less in pairs
    ]


async def _one_and_two(plan: Plan) -> None:
    """One worker and two on all cores, which they share with Postgres and with the load.

    Two gateways that have nothing in common but these show what the machine allows.
    """
    posts = plan.size(2 * POSTS)
    async with AsyncExitStack() as stack:

        async def listeners(workers: int) -> Audience:
            subject = await stack.enter_async_context(gateway(plan.database, workers=workers, pinned=False))
            return await stack.enter_async_context(audience(subject, "workers", USERS))

        one, two, apart = await listeners(1), await listeners(2), [await listeners(1), await listeners(1)]
        loads = {
            "1 worker": Load(one.subject.server, partial(_saturate, posts, one)),
            "2 workers": Load(two.subject.server, partial(_saturate, posts, two)),
            "2 gateways": Load(apart[0].subject.server, partial(_saturate_both, posts, apart)),
        }
        figures = await plan.in_turn("workers", loads)
    plan.report.add(f"One worker and two on all cores: {posts} posts", figures)
    alone = figures["1 worker"]
    times = {f"{name} / 1 worker": _times(figures[name], alone) for name in ("2 workers", "2 gateways")}
    plan.report.add("What a second worker carries", times, ratios=False)


def _times(more: list[Figures], alone: list[Figures]) -> list[Figures]:
    """Say how many times the posts were carried; and would be, had each worker a core to itself."""
    return [
        {
            "times the posts a second": two["a second"] / one["a second"],
            "by the CPU of a post": 2 * one[CPU] / two[CPU],
        }
        for two, one in zip(more, alone, strict=True)
    ]


async def _saturate(posts: int, audience: Audience) -> Figures:
    """Saturate, and say what the load itself takes of the machine: the workers do not get it."""
    before = time.process_time()
    figures = await saturate(posts, audience, CONNECTIONS_TO_TWO)
    return figures | {LOAD_CPU: (time.process_time() - before) / posts * 1e6}


async def _saturate_both(posts: int, audiences: list[Audience]) -> Figures:
    """Saturate two gateways at once, with the same load in all."""
    share, connections = posts // 2, CONNECTIONS_TO_TWO // 2
    one, other = await asyncio.gather(*(saturate(share, each, connections) for each in audiences))
    return {CPU: (one[CPU] + other[CPU]) / 2, "a second": one["a second"] + other["a second"]}
