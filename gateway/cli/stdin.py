"""The first line of stdin: a secret that no argument holds."""

import sys

import typer

LONGEST_LINE = 64 * 1024
"""Longest line that is read, in bytes."""


def first_line(name: str) -> str:
    """Return the first line of stdin without its end, decoded as UTF-8 whatever the locale says.

    Raises `typer.BadParameter`, which names what was read and shows nothing of it.
    """
    line = sys.stdin.buffer.readline(LONGEST_LINE + 1)
    if len(line) > LONGEST_LINE:
        raise typer.BadParameter(f"{name}: the first line of stdin must have at most {LONGEST_LINE:,} bytes")
    try:
        return line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{name}: the first line of stdin must be UTF-8") from None
