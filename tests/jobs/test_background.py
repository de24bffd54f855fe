"""Background work ends with the application, and ends the process when it fails."""

import asyncio
import signal

import pytest
import structlog

from gateway.jobs.background import ending_the_process, running


async def test_background_work_runs_during_its_block_and_leaves_no_task() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(10), running(("work", work())):
        await begun.wait()
        assert "work" in {task.get_name() for task in asyncio.all_tasks()}
    assert "work" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_failed_background_work_is_logged_and_stops_the_process() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)

    async def work() -> None:
        raise ZeroDivisionError

    try:
        with structlog.testing.capture_logs() as logged, pytest.raises(ExceptionGroup):
            async with ending_the_process(), running(("work", work())):
                await asyncio.Event().wait()
        async with asyncio.timeout(10):
            await stopped.wait()
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
    assert [(one["event"], one["log_level"]) for one in logged] == [
        ("a background task has failed: the gateway stops", "critical")
    ]
