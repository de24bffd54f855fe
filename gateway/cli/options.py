"""The arguments and options that several commands have, and how they print.

What takes long to load is loaded by the command that runs, and not by the one that prints its help.
"""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from gateway.protocol.terminal import json_line, shown


def checked(check: Callable[[str], str]) -> Callable[[str], str]:
    """Return a callback that refuses an argument for which `check` raises ValueError."""

    def callback(value: str) -> str:
        try:
            return check(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return callback


def _check_sub(value: str) -> str:
    from gateway.auth.names import check_sub

    return check_sub(value)


SubArgument = Annotated[
    str, typer.Argument(metavar="SUB", help="The user's id.", callback=checked(_check_sub))
]
CreateOption = Annotated[
    bool, typer.Option("--create", help="Make the database of SQLite first, where there is none.")
]
ServiceArgument = Annotated[
    str, typer.Argument(metavar="SERVICE", help="The service: its client_id, or its name where one has it.")
]


def print_json(value: dict[str, Any]) -> None:
    """Print one object on one line, whatever it holds."""
    print(json_line(value))


def note(text: str) -> None:
    """Print a line about what happens, beside what the command prints."""
    print("gateway:", shown(text), file=sys.stderr)


def group(about: str) -> typer.Typer:
    """Return a group of commands, which prints its help where none of them is named."""
    return typer.Typer(help=about, no_args_is_help=True)
