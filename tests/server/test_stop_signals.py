"""Stop signals: an echo is none, and what the process was started to ignore stays ignored."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gateway.cli import pipes
from gateway.server.stop_signals import ECHO_SECONDS, StopSignals
from tests.support.clients import http_client
from tests.support.databases import settings_for
from tests.support.postgres import free_port
from tests.support.servers import Process, Server
from tests.support.servers import serving as served
from tests.support.waiting import until


def test_a_signal_within_a_second_is_an_echo_and_a_later_signal_is_a_repeat() -> None:
    now = [100.0]
    stops = StopSignals(lambda: now[0])
    assert not stops.is_repeated()
    assert not stops.is_repeated()
    now[0] += ECHO_SECONDS
    assert not stops.is_repeated()
    now[0] += 0.01
    assert stops.is_repeated()


@contextmanager
def serving(folder: Path, *ignored: signal.Signals) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Serve in a process that was started to ignore some signals."""
    log = folder / "log"
    ignore = "".join(f"signal.signal({sig:d}, signal.SIG_IGN);" for sig in ignored)
    start = (
        f"import os, signal, sys; {ignore} os.execv(sys.executable, [sys.executable, '-m', *sys.argv[1:]])"
    )
    environment = {**os.environ, "GATEWAY_PORT": str(free_port()), "GATEWAY_GRACE_PERIOD": "3"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", start, "gateway", "serve"],
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=file,
        )
        with process:
            try:
                yield process, log
            finally:
                process.kill()


async def _serves(log: Path) -> None:
    await until(lambda: "startup complete" in log.read_text(), "it serves", within=60)


@pytest.mark.parametrize("sig", [signal.SIGHUP, signal.SIGINT])
async def test_an_ignored_signal_does_not_stop_the_gateway(tmp_path: Path, sig: signal.Signals) -> None:
    with serving(tmp_path, sig) as (process, log):
        await _serves(log)
        status = await asyncio.to_thread(Path(f"/proc/{process.pid}/status").read_text)
        ignored = next(line for line in status.splitlines() if line.startswith("SigIgn:")).split()[1]
        assert int(ignored, 16) >> (sig - 1) & 1
        process.send_signal(sig)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_sent_twice_at_once_starts_a_drain(tmp_path: Path, sig: signal.Signals) -> None:
    with serving(tmp_path) as (process, log):
        await _serves(log)
        process.send_signal(sig)
        process.send_signal(sig)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0
    assert "Application shutdown complete" in log.read_text()


ROOT = Path(__file__).parents[2]
UV = ("uv", "run", "--no-sync", "--project", str(ROOT))
TIMEOUT = ("timeout", "600")


@pytest.mark.parametrize(
    ("wrapper", "workers", "sig"),
    [
        (UV, 1, signal.SIGTERM),
        (UV, 1, signal.SIGINT),
        (UV, 2, signal.SIGTERM),
        (TIMEOUT, 1, signal.SIGTERM),
        (TIMEOUT, 2, signal.SIGTERM),
    ],
    ids=lambda one: one[0] if isinstance(one, tuple) else one,
)
async def test_a_signal_to_the_process_group_drains_and_loses_nothing(
    postgres_url: str, tmp_path: Path, wrapper: tuple[str, ...], workers: int, sig: signal.Signals
) -> None:
    # A session of its own, as a supervisor makes one: the wrapper leads it, and passes the signal on.
    gateway = Process(postgres_url, tmp_path, prefix=("setsid", *wrapper), workers=workers, grace_period=6)
    await gateway.start()
    try:
        async with http_client(gateway.base) as http:
            server = Server(gateway.base, http)
            ada = await server.user("ada")
            async with ada.socket(since="latest") as one, ada.socket(since="latest") as other:
                await one.next("live")
                await other.next("live")
                for number in range(5):
                    await server.service.notify("ada", str(number))
                os.killpg(gateway.pid, sig)
                assert [await one.closed(), await other.closed()] == [(1012, "restart")] * 2
        assert await gateway.ended() == 0, gateway.log.read_text()
    finally:
        if gateway.runs:
            os.killpg(gateway.pid, signal.SIGKILL)
            await gateway.ended()
    async with served(settings_for(postgres_url)) as again:
        items = (await (await again.user("ada")).inbox())["items"]
    assert [item["title"] for item in items] == ["4", "3", "2", "1", "0"]


async def test_a_background_job_and_its_workers_survive_a_ctrl_c_of_the_script(
    postgres_url: str, tmp_path: Path
) -> None:
    script = ("sh", "-c", '"$@" & echo $! > job; wait $!', "sh")
    gateway = Process(postgres_url, tmp_path, prefix=("setsid", *script), workers=2, grace_period=6)
    await gateway.start()
    job = int((tmp_path / "job").read_text())
    try:
        # A shell lets its background jobs ignore SIGINT. The shell itself ends by it.
        os.killpg(gateway.pid, signal.SIGINT)
        await gateway.ended()
        async with http_client(gateway.base) as http:
            server = Server(gateway.base, http)
            await server.service.notify("ada", "still here")
            async with (await server.user("ada")).socket() as socket:
                await socket.next("live")
                os.kill(job, signal.SIGTERM)
                assert await socket.closed() == (1012, "restart")
        await until(lambda: not Path(f"/proc/{job}").exists(), "it has ended", within=30)
    finally:
        with suppress(ProcessLookupError):
            os.kill(job, signal.SIGKILL)


# --- where a command prints to ------------------------------------------------------------------------------


async def test_a_waiting_command_ends_when_the_reader_of_its_pipe_exits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        waiting = asyncio.create_task(pipes.run_while_read(asyncio.sleep(3600)))
        await asyncio.sleep(0)
        assert not waiting.done()
        os.close(reading)
        with pytest.raises(pipes.ReaderGoneError):
            await asyncio.wait_for(waiting, 10)


def _python(code: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_closed_pipe_prints_no_traceback_and_no_line() -> None:
    with _python("import sys; from gateway import cli; sys.exit(cli.run(['--version']))") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == pipes.READER_GONE_EXIT_CODE


def test_an_ascii_terminal_gets_valid_json() -> None:
    code = (
        "from gateway.cli import pipes; from gateway.cli import options; pipes.escape_unencodable();"
        "options.print_json({'title': 'Gr\\u00fc\\u00dfe \\U0001f600'})"
    )
    with _python(code, PYTHONIOENCODING="ascii") as process:
        out, err = process.communicate()
    assert err == b""
    assert json.loads(out.decode("ascii")) == {"title": "Gr\u00fc\u00dfe \U0001f600"}
