"""Shared arguments, options and output functions of the commands.

Slow modules are imported when a command runs, so that printing its help is fast.
"""

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from gateway.protocol.terminal import json_line, shown


def checked(check: Callable[[str], str]) -> Callable[[str], str]:
    """Return a typer callback that refuses an argument if `check` raises ValueError."""

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
    bool, typer.Option("--create", help="Create the SQLite database first, if it does not exist.")
]
ServiceArgument = Annotated[
    str, typer.Argument(metavar="SERVICE", help="The service's client_id, or its name if that is unique.")
]

DEFAULT_URL = "http://127.0.0.1:8000"

ServerOption = Annotated[
    str | None,
    typer.Option("--server", envvar="GATEWAY_URL", help=f"The URL of the gateway. Default: {DEFAULT_URL}"),
]
KeyOption = Annotated[
    str,
    typer.Option(
        envvar="GATEWAY_KEY",
        help="The API key of the posting service, or - to read it from the first line of stdin."
        " Other users of this machine can see an argument: prefer the variable.",
    ),
]
ContentOption = Annotated[str | None, typer.Option(help="The text below the title.")]
PriorityOption = Annotated[str | None, typer.Option(help="low, normal, high or urgent.")]
UrlOption = Annotated[str | None, typer.Option(help="The link that a click opens.")]
DataOption = Annotated[str | None, typer.Option(help="A JSON object for programs.")]
IconOption = Annotated[str | None, typer.Option(help="The URL of an image to show beside the title.")]
ActionsOption = Annotated[
    str | None,
    typer.Option(
        help='1 to 4 buttons, a JSON array: \'[{"id": "ok", "label": "Approve"}]\'. Each may have a "style"'
        ' (primary, default or danger), a "url" to open, and "reply": true to ask for a text.'
    ),
]


def members(data: str | None, actions: str | None, **given: Any) -> dict[str, Any]:
    """Return the members of a notification that were given. `data` and `actions` are JSON text."""
    given |= {
        "data": _parsed("--data", data, dict, "a JSON object"),
        "actions": _parsed("--actions", actions, list, "a JSON array"),
    }
    return {name: value for name, value in given.items() if value is not None}


def _parsed(option: str, text: str | None, kind: type, rule: str) -> Any:
    """Return the JSON in an option. Raises `typer.BadParameter` if it is not of this kind."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise typer.BadParameter(f"{option}: it must be {rule}")
    return value


def print_json(value: dict[str, Any]) -> None:
    """Print one object as JSON on one line, with control characters escaped."""
    print(json_line(value))


def note(text: str) -> None:
    """Print a line about the progress to stderr, apart from the command's output."""
    print("gateway:", shown(text), file=sys.stderr)


class _PlainFlags:
    """A command whose help shows flags without a type: `--demo`, not `--demo <bool>`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, among them `--help`."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params


class _Command(_PlainFlags, TyperCommand):
    pass


class _Group(_PlainFlags, TyperGroup):
    pass


class Commands(typer.Typer):
    """A group of commands, whose help shows flags without a type."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=_Group, no_args_is_help=True, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Return a decorator that adds a command."""
        return super().command(name, cls=_Command, **options)


def group(about: str) -> typer.Typer:
    """Create a group of commands, which prints its help if no command is named."""
    return Commands(help=about)
