"""The supervisor: it starts, replaces and stops the workers, which serve on one listener.

Each worker runs the supervisor's own command in a separate interpreter. Workers share only the listener, and
no threads, event loops or connections. A worker's stdin is a pipe that closes when the supervisor ends. Its
stdout is a pipe on which it reports that it serves, and then that its event loop runs. A worker that falls
silent is replaced (docs/decisions/0018).
"""

import asyncio
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import cast

import structlog

from gateway.observability.backoff import pause_after
from gateway.observability.metrics import METRICS_FOLDER, mark_dead
from gateway.server import heartbeat, run
from gateway.server.stop_signals import StopSignals, is_ignored
from gateway.settings import Settings

logger = structlog.get_logger()

START_TIMEOUT_SECONDS = 60.0
"""How long a worker may take to start serving, in seconds."""

STEADY_SECONDS = 5.0
"""Minimum uptime of a worker in seconds. If it dies earlier, the pause before a restart doubles."""

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 5.0
"""Pause before a worker is restarted, after the first death in a row and at most, in seconds."""


def supervise(settings: Settings, listener: socket.socket) -> int:
    """Keep `settings.workers` processes serving until a stop signal, and return the exit code."""
    with tempfile.TemporaryDirectory(prefix="gateway-metrics-", ignore_cleanup_errors=True) as folder:
        environment = {
            # The metrics library adds up the files that the processes write there.
            METRICS_FOLDER: folder,
            **os.environ,
            "GATEWAY_WORKERS": str(settings.workers),
        }
        # Repeat the options of the command, and add this one.
        command = [sys.executable, *sys.orig_argv[1:], "--inherit", str(listener.fileno())]
        supervisor = Supervisor(command, environment, listener, settings.workers, settings.grace_period)
        code = asyncio.run(supervisor.run())
        for sig in (signal.SIGTERM, signal.SIGINT):
            # The process is exiting, and an echo of the stop signal may still arrive.
            signal.signal(sig, signal.SIG_IGN)
        return code


def work(settings: Settings, listener: socket.socket, *, demo: bool) -> bool:
    """Serve as a worker until a signal, or the supervisor's end. Return whether it started and ended well."""
    threading.Thread(target=_end_with_supervisor, name="supervisor", daemon=True).start()
    return run.serve(settings, listener, _report_serving, demo=demo)


def _end_with_supervisor() -> None:
    with suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGHUP)


def _report_serving() -> None:
    pipe = os.dup(1)
    # Only heartbeats may go to the pipe from now on, so printed text goes to stderr, like the log.
    os.dup2(2, 1)
    heartbeat.start(pipe)


class Supervisor:
    """Runs `number` workers, each a process of `command` that inherits the listener.

    A worker whose event loop misses `max_silence` heartbeats is killed, and replaced like any that dies.
    SIGTERM and SIGINT drain all workers. A second signal, more than a second after the first, kills them.
    SIGHUP replaces the workers, one at a time.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        listener: socket.socket,
        number: int,
        grace_period: float,
        max_silence: int = heartbeat.MAX_SILENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = command
        self._environment = environment
        self._listener = listener
        self._number = number
        self._grace_period = grace_period
        self._max_silence = max_silence
        self._living: set[Process] = set()
        # The worker in each place. A dead worker is replaced in its place.
        self._places: list[Process] = []
        self._stopping = asyncio.Event()
        self._stops = StopSignals(clock)
        self._forced = False
        self._hang_up = asyncio.Event()

    @property
    def workers(self) -> tuple[Process, ...]:
        """The current workers, serving or starting. Empty until all are launched."""
        return tuple(self._places)

    async def run(self) -> int:
        """Keep the workers running until a stop signal, and return the exit code.

        The code is 0, or 1 after a second signal. If a worker fails to start, it is that worker's code.
        """
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: self.replace}
        for sig, handler in handlers.items():
            if not is_ignored(sig):
                loop.add_signal_handler(sig, handler, sig)
        serving = asyncio.create_task(self._serve(), name="workers")
        stopping = asyncio.create_task(self._stopping.wait(), name="stop")
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        code = 0 if self._stopping.is_set() else serving.result()
        serving.cancel()
        stopping.cancel()
        await asyncio.wait({serving, stopping})
        self._listener.close()
        await self._end(self._living, signal.SIGTERM)
        return int(self._forced) or code

    def replace(self, sig: signal.Signals = signal.SIGHUP) -> None:
        """Request the replacement of all workers, one at a time."""
        logger.info("replacing the workers one at a time", signal=sig.name)
        self._hang_up.set()

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """Drain the workers. Kill them if called again, more than a second later."""
        if not self._stopping.is_set():
            logger.info("stopping the workers", signal=sig.name)
        if self._stops.is_repeated():
            self._forced = True
            for worker in self._living:
                _signal(worker, signal.SIGKILL)
        self._stopping.set()

    async def _serve(self) -> int:
        """Start the workers and keep them running. Return the exit code of the first that fails to start."""
        self._places = [await self._launch() for _ in range(self._number)]
        for worker in self._places:
            if not await _serves(worker):
                _signal(worker, signal.SIGKILL)
                return max(await worker.wait(), 1)
        logger.info("every worker serves", number=self._number)
        async with asyncio.TaskGroup() as tasks:
            for place in range(self._number):
                tasks.create_task(self._keep_running(place), name=f"worker {place}")
            while True:
                await self._hang_up.wait()
                self._hang_up.clear()
                await self._replace_all()

    async def _launch(self) -> Process:
        worker = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=PIPE,
            stdout=PIPE,
            env=self._environment,
            pass_fds=[self._listener.fileno()],
            # Ctrl+C, or closing the terminal, must signal only the supervisor.
            start_new_session=True,
        )
        self._living.add(worker)
        return worker

    async def _keep_running(self, place: int) -> None:
        """Restart the worker in a place when it dies, unless another worker has taken the place."""
        failures, started_at = 0, time.monotonic()
        serves = True
        while True:
            worker = self._places[place]
            code = await self._end_of(worker, serves=serves)
            self._forget(worker)
            serves = True
            if self._places[place] is worker:
                failures = failures + 1 if time.monotonic() - started_at < STEADY_SECONDS else 0
                pause = pause_after(failures + 1, FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
                logger.error("a worker has died", pid=worker.pid, code=code, again_in=pause)
                await asyncio.sleep(pause)
            if self._places[place] is worker:
                # A machine without room for another process may have some after the next, longer pause.
                with suppress(OSError):
                    self._places[place] = await self._launch()
                    serves = False
            started_at = time.monotonic()

    async def _end_of(self, worker: Process, *, serves: bool) -> int:
        """Wait until a worker ends, and return its exit code. Kill it if it falls silent."""
        watch = asyncio.create_task(self._watch(worker, serves=serves), name="watch")
        try:
            return await worker.wait()
        finally:
            watch.cancel()

    async def _watch(self, worker: Process, *, serves: bool) -> None:
        """Kill a worker that doesn't start serving in time, or whose event loop hangs later."""
        starting = round(START_TIMEOUT_SECONDS / heartbeat.INTERVAL_SECONDS)
        first = self._max_silence if serves else starting
        if await heartbeat.falls_silent(_output(worker), first, self._max_silence):
            logger.error("a worker does not respond: killing it", pid=worker.pid)
            _signal(worker, signal.SIGKILL)

    async def _replace_all(self) -> None:
        """Replace each worker once its successor serves. If one fails to, keep the remaining workers."""
        for place in range(self._number):
            new = await self._replacement()
            if new is None:
                logger.error("a new worker does not serve: the old workers stay")
                return
            old, self._places[place] = self._places[place], new
            await self._end({old}, signal.SIGHUP)
        logger.info("all workers are replaced")

    async def _replacement(self) -> Process | None:
        """Start a worker and wait until it serves. Return None if it doesn't."""
        with suppress(OSError):
            worker = await self._launch()
            if await _serves(worker):
                return worker
            await self._end({worker}, signal.SIGKILL)
        return None

    async def _end(self, workers: Iterable[Process], how: signal.Signals) -> None:
        """Signal workers to end, and kill those still running after the grace period."""
        workers = set(workers)
        for worker in workers:
            _signal(worker, how)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace_period):
                await asyncio.gather(*(worker.wait() for worker in workers))
        for worker in workers:
            _signal(worker, signal.SIGKILL)
            await worker.wait()
            self._forget(worker)

    def _forget(self, worker: Process) -> None:
        self._living.discard(worker)
        if folder := self._environment.get(METRICS_FOLDER):
            mark_dead(worker.pid, folder)


async def _serves(worker: Process) -> bool:
    """Wait for a worker to start. Return whether it serves: False if it ends or takes too long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
            return await _output(worker).read(1) != b""
    return False


def _output(worker: Process) -> asyncio.StreamReader:
    return cast("asyncio.StreamReader", worker.stdout)


def _signal(worker: Process, sig: signal.Signals) -> None:
    # Not with the worker's own method: it would reap a process that has just ended, and lose its exit code.
    if worker.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(worker.pid, sig)
