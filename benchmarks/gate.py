"""The gate: fails if an operation runs over a tenth more instructions or calls than `budget.toml` allows.

It counts, and measures no time, so its result does not depend on the machine or its load.
"""

import argparse
import asyncio
import gc
import json
import platform
import sys
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import quantiles

from benchmarks.audience import content
from benchmarks.client import HttpConnection, Socket, connect, open_socket, request
from benchmarks.counting import Counter, Counts, new_counter, only_when_blocked
from benchmarks.in_process import LocalGateway, local_gateway

BUDGET = Path(__file__).with_name("budget.toml")

TOLERANCE = 0.1
"""Growth of a count, as a share of its budget, above which the gate fails."""

WARM_UP, ROUNDS = 10, 30
"""How often each operation runs uncounted, and then counted."""

PAGE = 50

Budget = dict[str, dict[str, int]]
"""The counts of each operation, by name."""

Operation = Callable[[int], Awaitable[object]]
"""Runs one operation of the gateway; its argument is the number of the run."""


# --- counting -----------------------------------------------------------------------------------------------


def measure() -> Budget:
    """Return the counts of each operation of a gateway in this process."""
    only_when_blocked()
    # A collection would run at a different point in each run.
    gc.disable()
    counter = new_counter()
    with counter.watching(), local_gateway() as gateway:
        return asyncio.run(_measure(gateway, counter))


async def _measure(gateway: LocalGateway, counter: Counter) -> Budget:
    async with _operations(gateway) as operations:
        for operation in operations.values():
            for number in range(WARM_UP):
                await operation(number)
        gateway.settle()
        counter.begin()
        return {name: await _count(gateway, counter, one) for name, one in operations.items()}


async def _count(gateway: LocalGateway, counter: Counter, operation: Operation) -> dict[str, int]:
    """Return the counts of one run of an operation: the lower quartile of many.

    The periodic work of the gateway adds to some of the runs, and on a slow machine to many.
    """
    counts: list[Counts] = []
    for number in range(WARM_UP, WARM_UP + ROUNDS):
        before = counter.read()
        await operation(number)
        gateway.settle()
        after = counter.read()
        counts.append(Counts(*(b - a for a, b in zip(before, after, strict=True))))
    return {
        name: round(quantiles(values, n=4, method="inclusive")[0])
        for name, values in zip(Counts._fields, zip(*counts, strict=True), strict=True)
    }


# --- the operations -----------------------------------------------------------------------------------------


@asynccontextmanager
async def _operations(gateway: LocalGateway) -> AsyncIterator[dict[str, Operation]]:
    """Yield the operations, on one connection."""
    connection = await connect(gateway.port)
    tokens = [await _mint(connection, gateway, f"new-{number}") for number in range(WARM_UP + ROUNDS)]
    reader, listener = [await _mint(connection, gateway, sub) for sub in ("reader", "listener")]
    for number in range(PAGE + 1):
        await connection.send(_post(gateway, "reader", number))
    page = request("GET", "/v1/inbox", reader)
    same_page = request("GET", "/v1/inbox", reader, etag=(await connection.send(page)).etag)
    socket = await open_socket(gateway.port, "/v1/ws", listener)
    operations: dict[str, Operation] = {
        "post": partial(_deliver, gateway, connection, socket),
        "handshake, known token": lambda _: _shake(gateway, reader),
        "handshake, new token": lambda number: _shake(gateway, tokens[number]),
        "page": lambda _: connection.send(page),
        "page, not modified": lambda _: connection.send(same_page),
    }
    try:
        yield operations
    finally:
        await socket.close()
        connection.close()


async def _mint(connection: HttpConnection, gateway: LocalGateway, sub: str) -> str:
    asked = request("POST", f"/v1/users/{sub}/tokens", gateway.bearer, b"{}")
    return str(json.loads((await connection.send(asked)).body)["access_token"])


def _post(gateway: LocalGateway, sub: str, number: int) -> bytes:
    body = json.dumps({"to": sub, **content(number)}).encode()
    return request("POST", "/v1/notifications", gateway.bearer, body)


async def _deliver(gateway: LocalGateway, connection: HttpConnection, socket: Socket, number: int) -> None:
    """Post to a user who has a socket, and wait for the response and the message."""
    arrived = asyncio.Event()
    socket.on_text = lambda _: arrived.set()
    await connection.send(_post(gateway, "listener", number))
    await asyncio.wait_for(arrived.wait(), 60)


async def _shake(gateway: LocalGateway, token: str) -> None:
    """Open a socket, wait until it is live, and close it."""
    await (await open_socket(gateway.port, "/v1/ws?since=latest", token)).close()


# --- the budget ---------------------------------------------------------------------------------------------


def python() -> str:
    """Return the minor version of this Python: each compiles to other instructions."""
    return ".".join(platform.python_version_tuple()[:2])


def read(file: Path) -> dict[str, Budget]:
    """Return the budgets in a file, by Python version."""
    return tomllib.loads(file.read_text()) if file.exists() else {}


def write(file: Path, budgets: Mapping[str, Budget]) -> None:
    """Write the budgets."""
    lines = ["# The cost of one operation. Written by `uv run python -m benchmarks gate --write`."]
    for version in sorted(budgets, key=lambda version: [int(part) for part in version.split(".")]):
        lines += ["", f'["{version}"]']
        for name, counts in budgets[version].items():
            values = ", ".join(f"{kind} = {value}" for kind, value in counts.items())
            lines.append(f'"{name}" = {{ {values} }}')
    file.write_text("\n".join(lines) + "\n")


def judge(budget: Budget, measured: Budget) -> tuple[list[str], list[str]]:
    """Return a line for each count that is over its budget or has none, and for each that is far under it."""
    over, under = [], []
    for name, counts in measured.items():
        for kind, value in counts.items():
            allowed = budget.get(name, {}).get(kind)
            if allowed is None:
                over.append(f"no budget: {name}: {kind}")
                continue
            change = value / allowed - 1
            line = f"{name}: {value:,} {kind}, budget {allowed:,} ({change:+.1%})"
            if change > TOLERANCE:
                over.append(f"over budget: {line}")
            elif change < -TOLERANCE:
                under.append(f"under budget: {line}")
    return over, under


def main(arguments: list[str]) -> int:
    """Instructions and calls of one operation: fails if they grow by over a tenth; see `gate --help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gate", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the counts as the new budget")
    parser.add_argument("--file", type=Path, default=BUDGET, help="the budget (benchmarks/budget.toml)")
    asked = parser.parse_args(arguments)
    budgets, version = read(asked.file), python()
    if not asked.write and version not in budgets:
        print(f"{asked.file} has no budget for Python {version}. Write one with --write.", file=sys.stderr)
        return 1
    measured = measure()
    for name, counts in measured.items():
        print(f"{name:<24} " + "  ".join(f"{value:>7,} {kind}" for kind, value in counts.items()))
    if asked.write:
        write(asked.file, {**budgets, version: measured})
        return 0
    over, under = judge(budgets[version], measured)
    for line in over:
        print(line, file=sys.stderr)
    for line in under:
        print(f"{line}. Lower the budget with --write.")
    return int(bool(over))
