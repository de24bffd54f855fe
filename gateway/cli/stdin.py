"""The first line of stdin, for a secret that must not be an argument."""

import sys

import typer

MAX_LINE_BYTES = 64 * 1024
"""Maximum bytes of the line."""


def first_line(name: str) -> str:
    """Return the first line of stdin without its line break, decoded as UTF-8 in every locale.

    Raises `typer.BadParameter` if it is too long or not UTF-8. The error contains `name`, never the text.
    """
    line = sys.stdin.buffer.readline(MAX_LINE_BYTES + 1)
    if len(line) > MAX_LINE_BYTES:
        raise typer.BadParameter(
            f"{name}: the first line of stdin must have at most {MAX_LINE_BYTES:,} bytes"
        )
    try:
        return line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{name}: the first line of stdin must be UTF-8") from None
