"""Several workers: what a hint adds to a post on each backplane, and what a second worker carries."""

import time
from contextlib import AsyncExitStack
from functools import partial

from benchmarks.audience import Audience, audience
from benchmarks.posting import POSTS, USERS, saturate
from benchmarks.report import CPU, Figures
from benchmarks.rounds import Load, Plan
from benchmarks.subjects import gateway

POSTGRES_CPU = "Postgres CPU, µs"
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
    """One worker and two on all cores, which they share with Postgres and with the load."""
    posts = plan.size(2 * POSTS)
    async with AsyncExitStack() as stack:
        loads = {}
        for number in (1, 2):
            subject = await stack.enter_async_context(gateway(plan.database, workers=number, pinned=False))
            listeners = await stack.enter_async_context(audience(subject, "workers", USERS))
            loads[f"{number} worker{'s' if number > 1 else ''}"] = Load(
                subject.server, partial(_saturate, posts, listeners)
            )
        figures = await plan.in_turn("workers", loads)
    plan.report.add(f"One worker and two on all cores: {posts} posts", figures)
    one, two = figures.values()
    rates = [
        {"times the posts a second": b["a second"] / a["a second"]} for a, b in zip(one, two, strict=True)
    ]
    plan.report.add("What a second worker carries", {"2 workers / 1 worker": rates}, ratios=False)


async def _saturate(posts: int, audience: Audience) -> Figures:
    """Saturate, and say what the load itself takes of the machine: the workers do not get it."""
    before = time.process_time()
    figures = await saturate(posts, audience)
    return figures | {LOAD_CPU: (time.process_time() - before) / posts * 1e6}
