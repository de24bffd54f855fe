"""A server in a process of its own, pinned to one core, and what it has used."""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

START_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0
RUN_TIMEOUT = 600.0

_TICKS = os.sysconf("SC_CLK_TCK")
_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = _CORES[0], _CORES[-1]


class Memory(NamedTuple):
    """What a process holds, in bytes: resident, and of that what is its alone."""

    rss: int
    uss: int


class Usage(NamedTuple):
    """CPU a server has used since it began, in seconds: all threads, and the main thread of each process."""

    total: float
    main: float


def prepare() -> None:
    """Move this process, which makes the load, to a core of its own, and let it open many sockets."""
    os.sched_setaffinity(0, {LOAD_CORE})
    resource.setrlimit(resource.RLIMIT_NOFILE, (socket_limit(), socket_limit()))


def socket_limit() -> int:
    """Return how many files a process may open; a server that is started here may open as many."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """Let what is started here run on these cores only: a process inherits it, threads and all."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def stat(path: Path) -> list[str]:
    """Return the fields of a `stat` file after the name, which may hold spaces (proc(5)); [1] is ppid."""
    return path.read_text().rpartition(") ")[2].split()


def cpu(fields: Sequence[str], *, children: bool = False) -> float:
    """Return utime + stime in seconds, with those of the children it has waited for if asked."""
    return sum(int(ticks) for ticks in fields[11 : 15 if children else 13]) / _TICKS


def children(parent: int) -> dict[int, list[str]]:
    """Return the `stat` of each process that this one has started and that runs, by its process id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat(path)
        except OSError:  # it ended while we looked
            continue
        if fields[1] == str(parent):
            found[int(path.parent.name)] = fields
    return found


class Process:
    """A server on a free port of the loopback interface. It logs to `server.log` in its folder.

    It runs on one core, with the processes it starts; on all of them where it is not `pinned`.
    """

    def __init__(
        self,
        command: Sequence[str],
        settings: Mapping[str, str],
        folder: Path,
        *,
        pinned: bool = True,
        python: str = sys.executable,
    ) -> None:
        self.port = _free_port()
        self._cores = {SERVER_CORE} if pinned else set(_CORES)
        self._command = [python, *(part.format(port=self.port) for part in command)]
        self._environment = environment(settings)
        self._folder = folder
        self._running: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start the server and wait until it takes connections.

        Raises RuntimeError with what it logged when it ends instead.
        """
        log = self._folder / "server.log"
        self._running = self._popen(log)
        deadline = time.monotonic() + START_TIMEOUT
        while not await _listens(self.port):
            if self._running.poll() is not None or time.monotonic() > deadline:
                await self.stop()
                raise RuntimeError(f"{self._command} did not start:\n{log.read_text()[-4000:]}")
            await asyncio.sleep(0.05)

    def _popen(self, log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output, _on(self._cores):
            return subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdout=output, stderr=output
            )

    async def stop(self) -> None:
        """Ask the server to stop; kill it if it does not."""
        running, self._running = self._running, None
        if running is None:
            return
        running.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(running.wait, STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()

    @property
    def pid(self) -> int:
        """Its process id."""
        if self._running is None:
            raise RuntimeError("the server is not running")
        return self._running.pid

    def usage(self) -> Usage:
        """Return the CPU it has used since it began, with the processes it has started."""
        used = {self.pid: stat(Path("/proc", str(self.pid), "stat"))} | children(self.pid)
        return Usage(
            sum(cpu(fields) for fields in used.values()),
            sum(cpu(stat(Path("/proc", str(pid), "task", str(pid), "stat"))) for pid in used),
        )

    def memory(self) -> Memory:
        """Return what it holds now."""
        kilobytes = {
            line.split(":")[0]: int(line.split()[1])
            for line in Path("/proc", str(self.pid), "smaps_rollup").read_text().splitlines()[1:]
        }
        own = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
        return Memory(kilobytes["Rss"] * 1024, own * 1024)


def run_on_server_core(command: Sequence[str], folder: Path) -> str:
    """Run a command to its end on the core of the servers; return its output.

    Raises RuntimeError with its complaint.
    """
    with _on({SERVER_CORE}):
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=RUN_TIMEOUT, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr}")
    return done.stdout


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with these settings, and none of the gateway's besides."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")} | {
        **settings
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@contextmanager
def profiled(server: Process, file: Path | None) -> Iterator[None]:
    """Sample the server's Python stacks into `file` with py-spy, where a file is given.

    The lines are collapsed stacks with their counts, as flame graph tools take them, of the thread that
    holds the interpreter. Short work in other threads is caught too seldom: what it costs is the difference
    of the two CPU figures. A profiled load's figures are not to be trusted: each sample stops the server.
    """
    if file is None:
        yield
        return
    command = [
        "py-spy",
        "record",
        "--pid",
        str(server.pid),
        "--format",
        "raw",
        "--rate",
        "500",
        "--gil",
        "--threads",
    ]
    sampler = subprocess.Popen([*command, "--output", str(file)], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        sampler.send_signal(signal.SIGINT)
        sampler.wait(STOP_TIMEOUT)
