"""A counter of the work of threads: bytecode instructions, and calls of functions that are written in C.

Both counts depend on the code and its input alone, not on the speed of the machine or its load. They miss the
work within a C function, such as an SQL statement or a signature.
"""

import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from types import CodeType, FrameType
from typing import Any, NamedTuple


class Counts(NamedTuple):
    """The work of the counted threads so far."""

    instructions: int
    c_calls: int


class Counter(ABC):
    """Counts the work of the threads that start within `watching`, from `begin` on.

    Create one with `new_counter`.
    """

    def __init__(self) -> None:
        # Several threads count. Advancing these iterators is atomic, unlike adding to a number.
        self._instructions, self._c_calls = count(), count()
        self._readings = 0

    @abstractmethod
    def watching(self) -> AbstractContextManager[None]:
        """Watch the threads that start within this block."""

    @abstractmethod
    def begin(self) -> None:
        """Begin to count. Work before this call, such as a start, runs much faster."""

    def read(self) -> Counts:
        """Return the counts. Their differences are exact, however often they are read."""
        read, self._readings = self._readings, self._readings + 1
        return Counts(next(self._instructions) - read, next(self._c_calls) - read)


def only_when_blocked() -> None:
    """Let a thread of this process yield only when it waits, so that threads take turns in one order."""
    sys.setswitchinterval(60)


if sys.version_info >= (3, 12):
    # Python 3.12.1 crashes if `sys.settrace` reports instructions.

    class _MonitoringCounter(Counter):
        """Counts with `sys.monitoring`, in all threads but the one that watches."""

        @contextmanager
        def watching(self) -> Iterator[None]:
            self._watcher = threading.get_ident()
            monitoring = sys.monitoring
            tool, events = monitoring.PROFILER_ID, monitoring.events
            monitoring.use_tool_id(tool, "benchmarks")
            monitoring.register_callback(tool, events.INSTRUCTION, self._instruction)
            monitoring.register_callback(tool, events.C_RETURN, self._c_call)
            monitoring.register_callback(tool, events.C_RAISE, self._c_call)
            try:
                yield
            finally:
                monitoring.set_events(tool, events.NO_EVENTS)
                monitoring.free_tool_id(tool)

        def begin(self) -> None:
            monitoring = sys.monitoring
            events = monitoring.events
            # C_RETURN and C_RAISE come with CALL.
            monitoring.set_events(monitoring.PROFILER_ID, events.INSTRUCTION | events.CALL)

        def _instruction(self, _code: CodeType, _offset: int) -> None:
            if threading.get_ident() != self._watcher:
                next(self._instructions)

        def _c_call(self, _code: CodeType, _offset: int, _function: object, _argument: object) -> None:
            if threading.get_ident() != self._watcher:
                next(self._c_calls)

else:

    class _TracingCounter(Counter):
        """Counts with `sys.settrace` and `sys.setprofile`."""

        _counting = False

        @contextmanager
        def watching(self) -> Iterator[None]:
            threading.settrace(self._trace)
            threading.setprofile(self._profile)
            try:
                yield
            finally:
                threading.settrace(None)
                threading.setprofile(None)

        def begin(self) -> None:
            self._counting = True

        def _trace(self, frame: FrameType, _event: str, _argument: Any) -> Any:
            """Count the instructions of a frame that begins or resumes, if counting has begun."""
            if not self._counting:
                return None
            frame.f_trace_lines = False
            frame.f_trace_opcodes = True
            return self._step

        def _step(self, _frame: FrameType, event: str, _argument: Any) -> Any:
            if event == "opcode":
                next(self._instructions)
            return self._step

        def _profile(self, _frame: FrameType, event: str, _argument: Any) -> None:
            if event == "c_call" and self._counting:
                next(self._c_calls)


def new_counter() -> Counter:
    """Return a counter for this version of Python."""
    if sys.version_info >= (3, 12):
        return _MonitoringCounter()
    return _TracingCounter()
