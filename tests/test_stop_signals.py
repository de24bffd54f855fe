"""Stop signals: an echo is none, and what the process was started to ignore stays ignored."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway import pipes
from gateway.stop_signals import ECHO, StopSignals
from tests.postgres import free_port
from tests.waiting import until


def test_a_signal_within_a_second_is_an_echo_and_a_later_one_insists() -> None:
    now = [100.0]
    stops = StopSignals(lambda: now[0])
    assert not stops.insists()
    assert not stops.insists()
    now[0] += ECHO
    assert not stops.insists()
    now[0] += 0.01
    assert stops.insists()


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
async def test_a_signal_that_is_to_be_ignored_does_not_end_it(tmp_path: Path, sig: signal.Signals) -> None:
    with serving(tmp_path, sig) as (process, log):
        await _serves(log)
        status = await asyncio.to_thread(Path(f"/proc/{process.pid}/status").read_text)
        ignored = next(line for line in status.splitlines() if line.startswith("SigIgn:")).split()[1]
        assert int(ignored, 16) >> (sig - 1) & 1
        process.send_signal(sig)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_that_comes_twice_at_once_drains(tmp_path: Path, sig: signal.Signals) -> None:
    with serving(tmp_path) as (process, log):
        await _serves(log)
        process.send_signal(sig)
        process.send_signal(sig)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0
    assert "Application shutdown complete" in log.read_text()


# --- where a command prints to ------------------------------------------------------------------------------


async def test_who_waits_ends_when_the_reader_of_its_pipe_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        waiting = asyncio.create_task(pipes.while_read(asyncio.sleep(3600)))
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


def test_a_closed_pipe_is_neither_a_traceback_nor_a_line() -> None:
    with _python("import sys; from gateway import cli; sys.exit(cli.run(['--version']))") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == pipes.CLOSED


def test_a_terminal_of_ascii_gets_json_that_is_still_json() -> None:
    code = (
        "from gateway import pipes; from gateway.cli import options; pipes.escape_foreign_letters();"
        "options.print_json({'title': 'Gr\\u00fc\\u00dfe \\U0001f600'})"
    )
    with _python(code, PYTHONIOENCODING="ascii") as process:
        out, err = process.communicate()
    assert err == b""
    assert json.loads(out.decode("ascii")) == {"title": "Gr\u00fc\u00dfe \U0001f600"}
