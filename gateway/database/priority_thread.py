"""One thread that runs jobs one after another, the urgent ones first."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

MAX_IN_A_ROW = 16
"""How many urgent jobs may overtake one that is not urgent, so that no flood of them stops the others."""


class PriorityThread:
    """An executor of one thread. Jobs of one kind run in the order in which they were submitted.

    It belongs to one thread, such as that of the event loop: no two submit at the same time.
    """

    def __init__(self, name: str) -> None:
        self._urgent: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._patient: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._in_a_row = 0
        # One call for each job: whichever is taken from here, the job that is next is run.
        self._calls: SimpleQueue[bool] = SimpleQueue()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Run an urgent job, and return its future. One that is cancelled in time never runs.

        Raises RuntimeError after `shutdown`.
        """
        return self._add(self._urgent, job)

    def submit_patient(self, job: Callable[[], T]) -> Future[T]:
        """Run a job that lets the urgent ones go first."""
        return self._add(self._patient, job)

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
        except BaseException as error:  # noqa: BLE001 - it is raised where the job is waited for
            future.set_exception(error)
            # The error holds this frame, and the frame would hold it.
            del future
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
        if not self._ended:
            self._ended = True
            self._calls.put(False)
        self._thread.join()
