"""Several workers: the supervisor with processes of a line each, and real gateways on Postgres."""

import asyncio
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import httpx
import psutil
import pytest

from gateway.server import supervisor as workers
from gateway.server.heartbeat import INTERVAL_SECONDS, MAX_SILENCE
from gateway.server.stop_signals import ECHO_SECONDS
from gateway.server.supervisor import FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, Supervisor
from tests.support.clients import Service, http_client
from tests.support.databases import API_KEY
from tests.support.servers import Process, process
from tests.support.waiting import until

INSTALLED = [sys.executable, "-E", "-c"]
PLAIN = [sys.executable, "-S", "-E", "-c"]
"""Run a script with what is installed, or without it, which starts faster."""

SERVES = "import os, time; os.write(1, b'.'); "

BEATS = """
import asyncio, os, time
from gateway.server import heartbeat

async def main() -> None:
    heartbeat.start(1)
    await asyncio.sleep(0)
    {body}

asyncio.run(main())
"""
"""A worker with an event loop, and what holds that up."""


@asynccontextmanager
async def supervised(
    command: Sequence[str],
    *,
    number: int = 2,
    grace_period: float = 60,
    max_silence: int = MAX_SILENCE,
    clock: Callable[[], float] = time.monotonic,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[tuple[Supervisor, asyncio.Task[int]]]:
    """Supervise processes of a command; they must have ended by the end of the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [one.replace("LISTENER", str(listener.fileno())) for one in command]
        environment = {**os.environ, **environment}
        supervisor = Supervisor(command, environment, listener, number, grace_period, max_silence, clock)
        running = asyncio.create_task(supervisor.run())
        try:
            yield supervisor, running
        finally:
            left = [worker for worker in supervisor._living if worker.returncode is None]
            for worker in left:
                worker.kill()
            assert left == []
            assert running.done()


def both_are_kept() -> bool:
    """Return whether both workers serve: a place is kept from then on."""
    return any(task.get_name() == "worker 1" for task in asyncio.all_tasks())


async def test_a_worker_that_fails_at_first_start_stops_the_supervisor_with_its_exit_code() -> None:
    script = "import sys; sys.exit(3)"
    async with supervised([*PLAIN, script]) as (_, running):
        assert await running == 3


async def test_a_crashing_worker_is_restarted_with_growing_pauses(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    script = SERVES + f"open({str(starts)!r}, 'a').write(f'{{time.monotonic()}}\\n')"
    async with supervised([*PLAIN, script], number=1) as (supervisor, running):
        await until(lambda: starts.exists() and len(starts.read_text().split()) == 4, "it is started again")
        supervisor.stop()
        assert await running == 0
    moments = [float(moment) for moment in starts.read_text().split()]
    pauses = [after - before for before, after in pairwise(moments)]
    assert all(pause >= FIRST_PAUSE_SECONDS * 2**number for number, pause in enumerate(pauses, 1))
    assert MAX_PAUSE_SECONDS < 10


async def test_a_worker_that_does_not_stop_is_killed_after_the_grace_period() -> None:
    script = "import signal; signal.signal(15, signal.SIG_IGN); " + SERVES + "time.sleep(600)"
    async with supervised([*PLAIN, script], grace_period=0.3) as (supervisor, running):
        await until(lambda: len(supervisor.workers) == 2, "both run")
        supervisor.stop()
        assert await running == 0


async def test_a_second_signal_kills_the_workers_at_once() -> None:
    script = "import signal; signal.signal(15, signal.SIG_IGN); " + SERVES + "time.sleep(600)"
    now = [0.0]
    async with supervised([*PLAIN, script], grace_period=600, clock=lambda: now[0]) as (supervisor, running):
        await until(lambda: len(supervisor.workers) == 2, "both run")
        supervisor.stop()
        supervisor.stop()
        assert not supervisor._forced
        now[0] = ECHO_SECONDS + 0.1
        supervisor.stop()
        assert await running == 1


async def test_the_old_workers_stay_if_a_new_worker_does_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(workers.logger, "error", lambda text, **_: said.append(text))
    broken = tmp_path / "broken"
    script = f"import sys, os; os.path.exists({str(broken)!r}) and sys.exit(1); " + SERVES + "time.sleep(600)"
    async with supervised([*PLAIN, script]) as (supervisor, running):
        await until(both_are_kept, "both serve")
        before = supervisor.workers
        broken.touch()
        supervisor.replace()
        await until(lambda: said, "the new one has failed")
        assert said == ["a new worker does not serve: the old workers stay"]
        assert supervisor.workers == before
        assert all(worker.returncode is None for worker in before)
        supervisor.stop()
        assert await running == 0


async def test_a_hanging_worker_is_replaced_and_a_busy_worker_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(
        workers.logger,
        "error",
        lambda text, *, pid, **_: killed.append(pid) if "does not respond" in text else None,
    )
    # The first to start hangs; each other is held up too, but for less than is allowed.
    first = f"os.open({str(tmp_path / 'first')!r}, os.O_CREAT | os.O_EXCL)"
    body = f"""
    try:
        {first}
    except FileExistsError:
        while True:
            time.sleep(1.5 * heartbeat.INTERVAL_SECONDS)
            await asyncio.sleep(0)
    time.sleep(600)
    """
    async with supervised([*INSTALLED, BEATS.format(body=body)], max_silence=6) as (supervisor, running):
        await until(lambda: len(supervisor.workers) == 2, "both run")
        before = supervisor.workers
        await until(lambda: killed, "one is killed", within=60)
        await until(lambda: supervisor.workers != before, "another takes its place", within=60)
        assert [worker.pid for worker in before if worker not in supervisor.workers] == killed
        assert len(killed) == 1
        supervisor.stop()
        assert await running == 0


async def test_a_restarted_worker_that_does_not_serve_in_time_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "START_TIMEOUT_SECONDS", 2 * INTERVAL_SECONDS)
    starts = tmp_path / "starts"
    # The first serves and dies; the others never serve.
    script = f"""
import os, time
with open({str(starts)!r}, "a") as file:
    number = file.tell()
    file.write(".")
if number == 0:
    os.write(1, b".")
else:
    time.sleep(600)
"""
    async with supervised([*PLAIN, script], number=1) as (supervisor, running):
        await until(lambda: starts.exists() and starts.stat().st_size == 3, "a third starts", within=30)
        supervisor.stop()
        assert await running == 0


# --- gateways -----------------------------------------------------------------------------------------------


def children(gateway: Process) -> dict[int, psutil.Process]:
    return {child.pid: child for child in psutil.Process(gateway.pid).children()}


async def all_serve(gateway: Process) -> None:
    """Wait until the first start is over: a worker that dies before that ends everything."""
    await until(lambda: "every worker serves" in gateway.log.read_text(), "every worker serves", within=60)


def mode(folder: str) -> int | None:
    """Return who may do what with a folder; None where there is none."""
    path = Path(folder)
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else None


async def test_two_workers_serve_and_a_killed_worker_is_replaced(postgres_url: str, tmp_path: Path) -> None:
    async with process(postgres_url, tmp_path, workers=2) as (gateway, server):
        await all_serve(gateway)
        await server.service.notify("ada")
        first, second = children(gateway).values()
        environment = first.environ()
        assert environment["GATEWAY_WORKERS"] == "2"
        metrics = environment["PROMETHEUS_MULTIPROC_DIR"]
        assert mode(metrics) == 0o700
        assert second.environ()["PROMETHEUS_MULTIPROC_DIR"] == metrics

        first.kill()
        async with http_client(gateway.base) as http:
            http.timeout = httpx.Timeout(60)  # Until a worker has started again.
            await Service(http, API_KEY).notify("ada")
        second.kill()
        await until(lambda: not {first.pid, second.pid} & set(children(gateway)), "both have gone")
        # Who comes now waits at the listener until one serves again.
        async with http_client(gateway.base) as http:
            http.timeout = httpx.Timeout(60)  # Until a worker has started again.
            again = Service(http, API_KEY)
            await again.notify("ada")
            assert (await (await again.user("ada")).inbox())["unread"] == 3
        await until(lambda: len(children(gateway)) == 2, "two workers run again", within=30)

        assert await asyncio.to_thread(gateway.end, signal.SIGTERM) == 0
        assert mode(metrics) is None


async def test_sighup_replaces_the_workers_and_no_connection_is_refused(
    postgres_url: str, tmp_path: Path
) -> None:
    async with process(postgres_url, tmp_path, workers=2) as (gateway, server):
        await all_serve(gateway)
        ada = await server.user("ada")
        old = set(children(gateway))
        assert len(old) == 2
        answers = 0
        async with ada.socket(since="latest") as first:
            await first.next("live")
            gateway.signal(signal.SIGHUP)
            deadline = time.monotonic() + 60
            while old & set(children(gateway)):
                assert time.monotonic() < deadline
                # A connection of its own each time: none may be refused, and none of its answers missing.
                answer = await connect_and_ask(gateway)
                assert answer == 200
                answers += 1
                await asyncio.sleep(0.01)
            assert await first.closed() == (1012, "restart")
        assert answers > 10
        await until(lambda: "all workers are replaced" in gateway.log.read_text(), "it is said", within=30)
        assert "replacing the workers one at a time" in gateway.log.read_text()
        await until(lambda: len(children(gateway)) == 2, "two workers run", within=30)
        async with ada.socket(since="latest") as second:
            await second.next("live")
        new = children(gateway)
        gateway.kill()
        await until(lambda: not any(one.is_running() for one in new.values()), "no worker is left", within=30)


async def connect_and_ask(gateway: Process) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer.split(b" ", 2)[1])


async def test_a_suspended_worker_is_killed_and_replaced(postgres_url: str, tmp_path: Path) -> None:
    environment = {
        "GATEWAY_DATABASE_URL": postgres_url,
        "GATEWAY_WORKERS": "2",
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
        "PYTHONWARNINGS": "",
    }
    command = [sys.executable, "-m", "gateway", "serve", "--inherit", "LISTENER"]
    async with supervised(command, max_silence=5, environment=environment) as (supervisor, running):
        await until(both_are_kept, "both serve", within=60)
        stopped = supervisor.workers[0]
        stopped.send_signal(signal.SIGSTOP)
        await until(lambda: supervisor.workers[0] is not stopped, "another takes its place", within=60)
        assert stopped.returncode == -signal.SIGKILL
        supervisor.stop()
        assert await running == 0
