"""One thread whose urgent jobs go first."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.database.priority_thread import MAX_IN_A_ROW, PriorityThread


@contextmanager
def busy(thread: PriorityThread) -> Iterator[None]:
    """Hold the thread while the block submits jobs, then run them all."""
    started, go = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        go.wait(10)

    thread.submit_background(hold)
    assert started.wait(10)
    yield
    go.set()
    thread.shutdown()


def test_urgent_jobs_run_first_and_each_kind_runs_in_order() -> None:
    thread, ran = PriorityThread("test"), list[str]()
    with busy(thread):
        for name in ("posts 1", "posts 2"):
            thread.submit_background(lambda name=name: ran.append(name))  # type: ignore[misc]
        for name in ("sign-in", "sign-out"):
            thread.submit(lambda name=name: ran.append(name))  # type: ignore[misc]
    assert ran == ["sign-in", "sign-out", "posts 1", "posts 2"]


def test_a_flood_of_urgent_jobs_does_not_starve_background_jobs() -> None:
    thread, ran = PriorityThread("test"), list[str]()
    with busy(thread):
        for _ in range(5 * MAX_IN_A_ROW):
            thread.submit(lambda: ran.append("urgent"))
        thread.submit_background(lambda: ran.append("posts"))
    assert ran.index("posts") == MAX_IN_A_ROW


def test_a_job_cancelled_before_its_start_does_not_run_and_uses_no_turn() -> None:
    thread, ran = PriorityThread("test"), list[str]()
    with busy(thread):
        cancelled = thread.submit(lambda: ran.append("cancelled"))
        kept = thread.submit(lambda: ran.append("kept"))
        assert cancelled.cancel()
    assert kept.done()
    assert ran == ["kept"]


def test_an_exception_in_a_job_is_raised_to_its_waiter() -> None:
    def fail() -> None:
        raise LookupError("no")

    thread = PriorityThread("test")
    with pytest.raises(LookupError):
        thread.submit(fail).result(10)
    assert thread.submit(lambda: 1).result(10) == 1
    thread.shutdown()


def test_an_error_of_a_job_is_freed_after_it_is_raised() -> None:
    class ItemUpdate(Exception):
        pass

    def fail() -> None:
        raise ItemUpdate

    thread = PriorityThread("test")
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(ItemUpdate):
            thread.submit(fail).result(10)
        thread.shutdown()
        assert not [one for one in gc.get_objects() if isinstance(one, ItemUpdate)]
    finally:
        gc.enable()
