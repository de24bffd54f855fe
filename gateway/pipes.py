"""Where a command prints to: a pipe that is closed, and an encoding that lacks letters."""

import asyncio
import codecs
import io
import json
import os
import stat
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

CLOSED = 1
"""The exit code where the reader of what is printed has gone: as the library of commands has it."""

_ESCAPES = "gateway.json"


class ReaderGoneError(Exception):
    """Nobody reads what is printed any more. It is no `OSError`, as those of a connection are."""


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101 - nothing here decodes
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(_ESCAPES, _escape)


def escape_foreign_letters() -> None:
    """Have what the terminal's encoding lacks printed as JSON escapes it, so that JSON stays JSON."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPES)


def close_stdout() -> None:
    """Let nothing be printed any more, at the end of the interpreter either: nobody reads it."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def while_read(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends. Raises `ReaderGoneError` when stdout is a pipe that its reader closes."""
    running = asyncio.ensure_future(work)
    closed = asyncio.Event()
    loop, number = asyncio.get_running_loop(), _pipe()
    if number is not None:
        # Nothing is ever to be read from this end: what wakes the loop is that the other one has gone.
        loop.add_reader(number, closed.set)
    waiting = asyncio.ensure_future(closed.wait())
    try:
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise ReaderGoneError
        await running
    finally:
        if number is not None:
            loop.remove_reader(number)
        for task in (running, waiting):
            task.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)


def _pipe() -> int | None:
    """Return the descriptor of stdout where that is a pipe."""
    with suppress(OSError, ValueError):
        number = sys.stdout.fileno()
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            return number
    return None
