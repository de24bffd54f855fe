"""The command line, run within this process."""

import pytest

from tests.support.commands import Here, RunCommand


@pytest.fixture
def here(run_command: RunCommand, monkeypatch: pytest.MonkeyPatch) -> Here:
    """A function that runs a command in this process, where no proxy is set."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    def run_here(*arguments: str, **settings: str) -> tuple[int, str]:
        done = run_command(*arguments, **settings)
        return done.returncode, done.stdout + done.stderr

    return run_here
