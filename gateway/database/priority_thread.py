"""A thread that runs jobs one after another, urgent jobs first."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

MAX_IN_A_ROW = 16
"""Maximum number of urgent jobs in a row while background jobs wait, so that a flood can't starve them."""


class PriorityThread:
    """An executor with one thread. Jobs of the same kind run in the order in which they were submitted.

    Submit jobs from one thread only, such as the event loop's: submitting isn't thread-safe.
    """

    def __init__(self, name: str) -> None:
        self._urgent: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._background: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._in_a_row = 0
        # One entry per job. An entry only wakes the thread, which then picks the next job.
        self._calls: SimpleQueue[bool] = SimpleQueue()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Submit an urgent job, and return its future. Cancel the future before the job starts to skip it.

        Raises RuntimeError after `shutdown`.
        """
        return self._add(self._urgent, job)

    def submit_background(self, job: Callable[[], T]) -> Future[T]:
        """Submit a job that lets urgent jobs go first. Otherwise like `submit`."""
        return self._add(self._background, job)

    def _add(self, jobs: deque[tuple[Future[Any], Callable[[], Any]]], job: Callable[[], T]) -> Future[T]:
        if self._ended:
            raise RuntimeError("The thread has ended.")
        future: Future[T] = Future()
        jobs.append((future, job))
        self._calls.put(True)
        return future

    def _run(self) -> None:
        while self._calls.get():
            self._run_next()

    def _run_next(self) -> None:
        future, job = self._next()
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001 - raised where the job is awaited
            future.set_exception(error)
            # Break the reference cycle between the error, this frame and the future.
            del future
        else:
            future.set_result(result)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]]:
        if self._urgent and not (self._background and self._in_a_row >= MAX_IN_A_ROW):
            self._in_a_row += 1
            return self._urgent.popleft()
        self._in_a_row = 0
        return self._background.popleft()

    def shutdown(self) -> None:
        """Run the submitted jobs, then end the thread."""
        if not self._ended:
            self._ended = True
            self._calls.put(False)
        self._thread.join()
