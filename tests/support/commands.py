"""Commands run within this process, which spares each the second that a process of its own takes to load."""

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from gateway import cli


@dataclass(frozen=True)
class Done:
    """How a command has ended: its exit code, what it has printed, and its environment then."""

    returncode: int
    stdout: str
    stderr: str
    environment: Mapping[str, str]


RunCommand = Callable[..., Done]
"""Runs a command of these arguments, with settings as keywords and `stdin` as a text, and says how it ended.

An exception that leaves the command leaves this too, where a process would end with a traceback. While an
event loop runs, call it in a thread: a command runs one of its own.
"""

Here = Callable[..., tuple[int, str]]
"""Runs a command likewise, and returns its exit code and all that it has printed."""


def commands_within(capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """Return a function that runs commands in the current folder, and leaves the process as it was."""

    def run(*arguments: str, stdin: str = "", **settings: str) -> Done:
        capsys.readouterr()
        with _as_before(), pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(f"GATEWAY_{name.upper()}", value)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
            code = cli.run(list(arguments))
            environment = dict(os.environ)
        said = capsys.readouterr()
        return Done(code, said.out, said.err, environment)

    return run


@contextmanager
def _as_before() -> Iterator[None]:
    """Undo what a command does to its process: settings of the file .env, and where the log goes."""
    environment, root = dict(os.environ), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        root.handlers[:] = handlers
        root.setLevel(level)
