"""Nothing that was answered 2xx is lost: not by a killed process, and not by one that is told to stop."""

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.load import Judged, Load, load_on
from tests.support.servers import Process, process
from tests.support.waiting import until

PER_ROUND = 60
"""How many posts are answered between two kills; the kill comes while others are under way."""


def connected_more_than(load: Load, times: int) -> Callable[[], bool]:
    return lambda: all(device.connections > times for device in load.devices)


async def kill_while_it_works(gateway: Process, load: Load, rounds: int) -> None:
    for turn in range(rounds):
        await load.answers(PER_ROUND)
        await until(connected_more_than(load, turn), "every device is connected")
        gateway.kill()
        await gateway.start()


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.soak)])
async def test_kill_9_under_load_loses_no_accepted_post(
    database_url: str, tmp_path: Path, judged: Judged, rounds: int
) -> None:
    async with process(database_url, tmp_path) as (gateway, server):
        load = await load_on(server)
        async with load.running():
            await kill_while_it_works(gateway, load, rounds)
        verdict = await judged(load, rounds)
        assert verdict.accepted > rounds * PER_ROUND / 2
        assert all(device.connections > rounds for device in load.devices)


GRACE_PERIOD = 10


async def stop_while_it_works(gateway: Process, load: Load, rounds: int) -> None:
    for turn in range(rounds):
        await load.answers(PER_ROUND)
        await until(connected_more_than(load, turn), "every device is connected")
        told_at = time.monotonic()
        assert await asyncio.to_thread(gateway.end, signal.SIGTERM) == 0
        assert time.monotonic() - told_at < GRACE_PERIOD
        await gateway.start()
        await load.answers(PER_ROUND)


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.soak)])
async def test_a_gateway_stopped_under_load_closes_with_1012_and_loses_nothing(
    database_url: str, tmp_path: Path, judged: Judged, rounds: int
) -> None:
    async with process(database_url, tmp_path, grace_period=GRACE_PERIOD) as (gateway, server):
        load = await load_on(server)
        async with load.running():
            await stop_while_it_works(gateway, load, rounds)
        await judged(load, rounds)
        assert {code for device in load.devices for code in device.closes} == {1012}
        assert {len(device.closes) for device in load.devices} == {rounds}
