"""Standard streams of a command: closed ones, a pipe whose reader leaves, an encoding that lacks letters."""

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


class CannotPrintError(Exception):
    """What is printed cannot be written: a disk is full. It is no `OSError` either."""


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101 - nothing here decodes
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(_ESCAPES, _escape)


def open_closed() -> None:
    """Open /dev/null in the place of each standard stream that is closed, before any other file is opened.

    The first file that is opened gets the lowest free number: the database would be written to as stdout.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        number = os.open(os.devnull, os.O_RDWR)
        # Workers inherit it, for which their numbers would be free otherwise.
        os.set_inheritable(number, True)
        stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - it is open to the end
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


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
