"""How everything is measured: the same load on each subject in turn, several times, after a warm-up."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

from benchmarks.process import Process, profiled
from benchmarks.report import CPU, Figures, Recorder
from benchmarks.subjects import Subject

SETTLE = 1.2
"""How long after a load the server may finish what it does behind the answers, in seconds.

Acknowledgements are stored within about a second.
"""


class Load(NamedTuple):
    """A load and the server it is put on, or None for a process that ends with the load."""

    server: Process | None
    run: Callable[[], Awaitable[Figures]]


@dataclass(frozen=True)
class Plan:
    """What was asked for: `scale` multiplies the size of every load; `profiles` is a folder for profiles.

    `database` and `redis` are the URLs of servers to measure with, besides SQLite.
    """

    report: Recorder
    rounds: int
    scale: float
    database: str | None
    redis: str | None
    profiles: Path | None

    def size(self, count: int) -> int:
        """Return how much of a load of this size to run."""
        return max(1, round(count * self.scale))

    async def in_turn(self, name: str, loads: Mapping[str, Load]) -> dict[str, list[Figures]]:
        """Run the loads in turn, A B A B, after once unmeasured; return the figures of each.

        Where profiles are wanted, one more round is run for them; `name` is the first part of their files.
        """
        for load in loads.values():
            await load.run()
        figures: dict[str, list[Figures]] = {label: [] for label in loads}
        for _ in range(self.rounds):
            for label, load in loads.items():
                figures[label].append(await load.run())
        for label, load in loads.items():
            if self.profiles is not None and load.server is not None:
                file = self.profiles / f"{name}-{label.replace(',', '').replace(' ', '-')}.txt"
                with profiled(load.server, file):
                    await load.run()
        return figures


async def measured(subject: Subject, operations: int, load: Awaitable[object]) -> Figures:
    """Run a load and return what one of its operations cost the server."""
    server, database, began = subject.server.usage(), subject.database.cpu(), time.perf_counter()
    await load
    elapsed = time.perf_counter() - began
    await asyncio.sleep(SETTLE)
    used = subject.server.usage()
    figures = {
        CPU: (used.total - server.total) / operations * 1e6,
        "on the event loop, µs": (used.main - server.main) / operations * 1e6,
        "a second": operations / elapsed,
    }
    held = subject.database.cpu()
    if database is not None and held is not None:
        figures["Postgres CPU, µs"] = (held - database) / operations * 1e6
    return figures


def latency(seconds: list[float]) -> Figures:
    """Return the median and the 99th percentile of some times, in milliseconds."""
    cuts = quantiles(seconds, n=100, method="inclusive")
    return {"p50, ms": cuts[49] * 1e3, "p99, ms": cuts[98] * 1e3}
