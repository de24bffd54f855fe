"""Background work ends with the application, and ends the process when it fails."""

import asyncio
import signal

import pytest
import structlog

from gateway.jobs import background
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


async def test_work_that_is_cancelled_ends_before_the_cancellation() -> None:
    began, let_go, done = asyncio.Event(), asyncio.Event(), []

    async def work() -> None:
        began.set()
        await let_go.wait()
        done.append("done")

    task = asyncio.create_task(background.finished(work()))
    await began.wait()
    task.cancel()
    await asyncio.sleep(0)
    let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["done"]


async def test_work_that_goes_on_after_a_cancellation_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "LAST_SECONDS", 0)
    began, ended = asyncio.Event(), []

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    task = asyncio.create_task(background.finished(work()))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["ended"]
