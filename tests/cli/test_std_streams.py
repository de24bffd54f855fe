"""Commands whose stdin, stdout or stderr is closed, full, or not UTF-8."""

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from gateway import cli
from gateway.cli.stdin import first_line
from tests.support.postgres import free_port
from tests.support.waiting import until

GATEWAY = [sys.executable, "-m", "gateway"]
CLOSED = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"]
DATABASE = "gateway: database: "


def run(
    folder: Path, streams: str, *arguments: str, given: bytes = b"", more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose standard streams a shell has redirected."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {streams}', "sh", *GATEWAY, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "", **(more or {})},
        input=given,
        capture_output=True,
        timeout=60,
        check=False,
    )


# --- closed streams -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", CLOSED)
def test_a_command_works_with_any_standard_streams_closed(tmp_path: Path, streams: str) -> None:
    added = run(tmp_path, streams, "user", "add", "ada", "--create")
    assert added.returncode == 0
    if ">&-" in streams.split():
        assert added.stdout == b""
    else:
        assert json.loads(added.stdout)["sub"] == "ada"
    if "2>&-" in streams.split():
        assert added.stderr == b""
    else:
        assert added.stderr.decode().splitlines()[-1].startswith(DATABASE)
    assert b'"ada"' in run(tmp_path, "", "user", "list").stdout


@pytest.mark.parametrize("streams", CLOSED)
def test_a_failing_command_prints_one_line_with_any_standard_streams_closed(
    tmp_path: Path, streams: str
) -> None:
    done = run(tmp_path, streams, "user", "password", "ada")
    said = b"" if "2>&-" in streams else b"gateway: the password: it must have 12 to 256 characters\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", said)


@pytest.mark.parametrize("streams", [">&-", "<&- >&- 2>&-"])
async def test_a_gateway_serves_and_stops_with_any_standard_streams_closed(
    tmp_path: Path, streams: str
) -> None:
    port = free_port()
    command = [*GATEWAY, "serve", "--demo", "--port", str(port)]
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$@" {streams}', "sh", *command),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:

            async def is_ready() -> bool:
                try:
                    return (await http.get("/readyz")).status_code == 200
                except httpx.TransportError:
                    assert process.returncode is None
                    return False

            await until(is_ready, "it serves", within=60)
    finally:
        process.terminate()
        out, err = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in err
    if ">&-" in streams.split():
        assert out == b""
    assert (tmp_path / "gateway.db").read_bytes().startswith(b"SQLite format 3\0")


# --- a secret on stdin --------------------------------------------------------------------------------------

SECRETS = {
    "the password": ["user", "add", "zed", "--password-stdin"],
    "GATEWAY_KEY or --key": ["send", "ada", "Hello", "--key", "-"],
    "GATEWAY_TOKEN or --token": ["tail", "--token", "-"],
}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    ("given", "rule"),
    [
        (b"secret-of-m\xfcne\n", "must be UTF-8"),
        ("secret-of-mine".encode("utf-16"), "must be UTF-8"),
        (b"s" * 10**6, "must have at most 65,536 bytes"),
    ],
    ids=["latin-1", "utf-16", "long"],
)
def test_an_invalid_secret_on_stdin_gets_a_one_line_error_without_the_secret(
    name: str, given: bytes, rule: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for errors in ("strict", "surrogateescape"):
        stdin = io.TextIOWrapper(io.BytesIO(given), encoding="utf-8", errors=errors)
        monkeypatch.setattr(sys, "stdin", stdin)
        assert cli.run(SECRETS[name]) == 2
        said = capsys.readouterr().err
        assert said.startswith(
            f"gateway: Invalid value: {name}: the first line of stdin {rule} (see gateway "
        )
        assert (said.count("\n"), "mine" in said, "secret-of" in said) == (1, False, False)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_secret_on_stdin_is_read_as_utf_8_in_any_locale(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = "\ufeffein länger Schlüssel 🔑\r\nnot this\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding=encoding))
    assert first_line("the password") == "ein länger Schlüssel 🔑"
