"""Several processes that serve on one listener, and the supervisor that keeps them.

Each worker is the command that started the supervisor, once more, in an interpreter of its own: nothing of
threads, event loops or connections is shared but the listener. Its stdin is a pipe that ends when the
supervisor does, and its stdout one on which it says that it serves, and then that its event loop runs. A
worker that falls silent is replaced (docs/decisions/0018).
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

START_TIMEOUT = 60.0
"""How long a worker may take until it serves, in seconds."""

STEADY = 5.0
"""A worker that dies younger than this is started again later each time, in seconds."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""How long a place is empty after the first death in a row, and at most, in seconds."""


def supervise(settings: Settings, listener: socket.socket) -> int:
    """Keep `settings.workers` processes serving until a signal ends them, and return the exit code."""
    with tempfile.TemporaryDirectory(prefix="gateway-metrics-", ignore_cleanup_errors=True) as folder:
        environment = {
            # The library of the metrics adds up what the processes write there.
            METRICS_FOLDER: folder,
            **os.environ,
            "GATEWAY_WORKERS": str(settings.workers),
        }
        # The options of the command come again, and this one last.
        command = [sys.executable, *sys.orig_argv[1:], "--inherit", str(listener.fileno())]
        supervisor = Supervisor(command, environment, listener, settings.workers, settings.grace_period)
        code = asyncio.run(supervisor.run())
        for sig in (signal.SIGTERM, signal.SIGINT):
            # It ends now, and an echo of what it was told by may still be on its way.
            signal.signal(sig, signal.SIG_IGN)
        return code


def work(settings: Settings, listener: socket.socket, *, demo: bool) -> bool:
    """Serve as one of several, and return whether it ever began. It ends with its supervisor."""
    threading.Thread(target=_end_with_supervisor, name="supervisor", daemon=True).start()
    return run.serve(settings, listener, _say_that_it_serves, demo=demo)


def _end_with_supervisor() -> None:
    with suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGHUP)


def _say_that_it_serves() -> None:
    pipe = os.dup(1)
    # Only heartbeats go there from now on: what is printed goes where the log goes.
    os.dup2(2, 1)
    heartbeat.start(pipe)


class Supervisor:
    """Keeps `number` workers, each a process of `command` that inherits the listener.

    A worker whose event loop misses `max_silence` heartbeats is killed, and replaced like any that dies.
    SIGTERM and SIGINT drain them all; a second one, more than a second later, kills them. SIGHUP replaces
    them, one at a time.
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
        # Who serves, or is to: each place is kept.
        self._places: list[Process] = []
        self._stopping = asyncio.Event()
        self._stops = StopSignals(clock)
        self._forced = False
        self._hang_up = asyncio.Event()

    @property
    def workers(self) -> tuple[Process, ...]:
        """Who serves, or is to; empty until all are launched."""
        return tuple(self._places)

    async def run(self) -> int:
        """Keep them until a signal ends it, and return the exit code.

        It is 0, 1 where a second signal had to come, and that of a worker which does not even start.
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
        """Replace the workers, one at a time."""
        logger.info("each worker is replaced, one at a time", signal=sig.name)
        self._hang_up.set()

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """Drain the workers, and kill them when it is called again, more than a second later."""
        if not self._stopping.is_set():
            logger.info("the workers are told to end", signal=sig.name)
        if self._stops.insists():
            self._forced = True
            for worker in self._living:
                _signal(worker, signal.SIGKILL)
        self._stopping.set()

    async def _serve(self) -> int:
        """Start the workers and keep them; return the exit code of one that does not even start."""
        self._places = [await self._launch() for _ in range(self._number)]
        for worker in self._places:
            if not await _serves(worker):
                _signal(worker, signal.SIGKILL)
                return max(await worker.wait(), 1)
        logger.info("every worker serves", number=self._number)
        async with asyncio.TaskGroup() as tasks:
            for place in range(self._number):
                tasks.create_task(self._keep(place), name=f"worker {place}")
            while True:
                await self._hang_up.wait()
                self._hang_up.clear()
                await self._roll()

    async def _launch(self) -> Process:
        worker = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=PIPE,
            stdout=PIPE,
            env=self._environment,
            pass_fds=[self._listener.fileno()],
            # A Ctrl+C, or the end of a terminal, is for the supervisor.
            start_new_session=True,
        )
        self._living.add(worker)
        return worker

    async def _keep(self, place: int) -> None:
        """Start a worker anew when it dies, unless another has taken its place."""
        failures, started_at = 0, time.monotonic()
        serves = True
        while True:
            worker = self._places[place]
            code = await self._end_of(worker, serves=serves)
            self._gone(worker)
            serves = True
            if self._places[place] is worker:
                failures = failures + 1 if time.monotonic() - started_at < STEADY else 0
                pause = pause_after(failures + 1, FIRST_PAUSE, LONGEST_PAUSE)
                logger.error("a worker has died", pid=worker.pid, code=code, again_in=pause)
                await asyncio.sleep(pause)
            if self._places[place] is worker:
                # A machine that has no room for a process now may have it after the next, longer pause.
                with suppress(OSError):
                    self._places[place] = await self._launch()
                    serves = False
            started_at = time.monotonic()

    async def _end_of(self, worker: Process, *, serves: bool) -> int:
        """Wait until a worker has ended, and return its exit code. Kill it if it falls silent."""
        watch = asyncio.create_task(self._watch(worker, serves=serves), name="watch")
        try:
            return await worker.wait()
        finally:
            watch.cancel()

    async def _watch(self, worker: Process, *, serves: bool) -> None:
        """Kill a worker that does not serve in time, or whose event loop hangs later."""
        starting = round(START_TIMEOUT / heartbeat.INTERVAL)
        first = self._max_silence if serves else starting
        if await heartbeat.is_lost(_output(worker), first, self._max_silence):
            logger.error("a worker is silent: it is killed", pid=worker.pid)
            _signal(worker, signal.SIGKILL)

    async def _roll(self) -> None:
        """Replace each worker by a new one that serves already. Where one does not, the others stay."""
        for place in range(self._number):
            new = await self._replacement()
            if new is None:
                logger.error("a new worker does not serve: the old ones stay")
                return
            old, self._places[place] = self._places[place], new
            await self._end({old}, signal.SIGHUP)
        logger.info("every worker is a new one")

    async def _replacement(self) -> Process | None:
        """Start a worker and wait until it serves; None where it does not."""
        with suppress(OSError):
            worker = await self._launch()
            if await _serves(worker):
                return worker
            await self._end({worker}, signal.SIGKILL)
        return None

    async def _end(self, workers: Iterable[Process], how: signal.Signals) -> None:
        """Tell workers to end, and kill those that have not when the grace period is over."""
        workers = set(workers)
        for worker in workers:
            _signal(worker, how)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace_period):
                await asyncio.gather(*(worker.wait() for worker in workers))
        for worker in workers:
            _signal(worker, signal.SIGKILL)
            await worker.wait()
            self._gone(worker)

    def _gone(self, worker: Process) -> None:
        self._living.discard(worker)
        if folder := self._environment.get(METRICS_FOLDER):
            mark_dead(worker.pid, folder)


async def _serves(worker: Process) -> bool:
    """Wait until a worker serves; it does not when it ends instead, or takes too long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(START_TIMEOUT):
            return await _output(worker).read(1) != b""
    return False


def _output(worker: Process) -> asyncio.StreamReader:
    return cast("asyncio.StreamReader", worker.stdout)


def _signal(worker: Process, sig: signal.Signals) -> None:
    # Not with the worker's own method: that reaps a process which has just ended, and then nobody learns
    # its exit code any more.
    if worker.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(worker.pid, sig)
