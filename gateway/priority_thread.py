"""One thread that runs jobs one after another, the urgent ones first."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

MAX_IN_A_ROW = 16
"""How many urgent jobs may overtake one that is not urgent, so that no flood of them stops the others."""


class PriorityThread:
    """An executor of one thread. Jobs of one kind run in the order in which they were submitted."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._urgent: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._patient: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._in_a_row = 0

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Run an urgent job, and return its future. One that is cancelled in time never runs."""
        return self._add(self._urgent, job)

    def submit_patient(self, job: Callable[[], T]) -> Future[T]:
        """Run a job that lets the urgent ones go first."""
        return self._add(self._patient, job)

    def _add(self, jobs: deque[tuple[Future[Any], Callable[[], Any]]], job: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        jobs.append((future, job))
        # One call for each job: whichever of them runs next takes the job that is next.
        self._pool.submit(self._run_next)
        return future

    def _run_next(self) -> None:
        future, job = self._next()
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001 - it is raised where the job is waited for
            future.set_exception(error)
        else:
            future.set_result(result)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]]:
        if self._urgent and not (self._patient and self._in_a_row >= MAX_IN_A_ROW):
            self._in_a_row += 1
            return self._urgent.popleft()
        self._in_a_row = 0
        return self._patient.popleft()

    def shutdown(self) -> None:
        """Run what was submitted, then end the thread."""
        self._pool.shutdown()
