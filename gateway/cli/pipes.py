"""Standard streams of a command: closed streams, pipes whose reader has gone, and limited encodings."""

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

READER_GONE_EXIT_CODE = 1
"""Exit code when the reader of stdout has gone, the same as typer's."""

_ESCAPES = "gateway.json"


class ReaderGoneError(Exception):
    """The reader of stdout has gone. Not an `OSError`, so that it can't be taken for a connection's error."""


class CannotPrintError(Exception):
    """Stdout can't be written to, for example because a disk is full. Not an `OSError` either."""


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101 - nothing here decodes
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(_ESCAPES, _escape)


def open_closed_streams() -> None:
    """Open /dev/null in place of each closed standard stream. Call it before any other file is opened.

    A new file gets the lowest free descriptor: output to stdout would end up in the database.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        number = os.open(os.devnull, os.O_RDWR)
        # Workers inherit it: otherwise the descriptor would be free in them.
        os.set_inheritable(number, True)
        stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - it is open to the end
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def escape_unencodable() -> None:
    """Print characters that the terminal's encoding lacks as JSON escapes, so that JSON stays valid."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPES)


def discard_stdout() -> None:
    """Discard all further output, also when the interpreter exits, because its reader has gone."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def run_while_read(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends. Raises `ReaderGoneError` if stdout is a pipe and its reader closes it."""
    running = asyncio.ensure_future(work)
    closed = asyncio.Event()
    loop, number = asyncio.get_running_loop(), _pipe()
    if number is not None:
        # This end never has data to read: it becomes readable when the other end closes.
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
    """Return the file descriptor of stdout if it is a pipe, else None."""
    with suppress(OSError, ValueError):
        number = sys.stdout.fileno()
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            return number
    return None
