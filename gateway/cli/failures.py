"""Failures of commands: each one prints one line to stderr and sets an exit code."""

import shlex
import sys
from typing import Any, cast

import typer

from gateway.errors import Conflict, GatewayError, NotFound
from gateway.observability.reasons import answer
from gateway.protocol.terminal import shown
from gateway.settings.durations import with_unit
from gateway.settings.wording import rule

MAX_MESSAGE_CHARACTERS = 2000
"""Maximum characters of a printed message, part of which may come from a server."""


def fail_known(error: Exception) -> int | None:
    """Print an expected failure and return its exit code. Return None for a bug in the program."""
    # Imported late: most commands need neither.
    from gateway.cli.client import ClientError, WrongUrlError
    from gateway.settings import SettingsError

    if isinstance(error, SettingsError | WrongUrlError):
        return fail(str(error), 2)
    if isinstance(error, GatewayError | ClientError | ModuleNotFoundError | OSError):
        return fail(explain(error) + _notes(error), 1)
    return None


def explain(error: Exception) -> str:
    """Return what failed, and what to do about it."""
    if isinstance(error, ModuleNotFoundError):
        return _missing(error.name or "")
    if isinstance(error, NotFound) and error.name is not None:
        kind = error.detail.removesuffix(".").rpartition(" ")[2]
        listing = f"gateway {kind} list{' SERVICE' if kind == 'key' else ''}"
        hint = f"Did you mean {error.near!r}? " if error.near else ""
        return f"{error.detail.removesuffix('.')}: {error.name!r}. {hint}To see them: {listing}"
    if isinstance(error, Conflict) and error.name is not None:
        command = f"gateway user password {shlex.quote(error.name)}"
        return f"There is a user with this sub already: {error.name!r}. To change the password: {command}"
    cause = error.__cause__
    return f"{error} ({answer(cause)})" if cause else str(error)


def _missing(module: str) -> str:
    """Return how to install a missing module: from a checkout, because the package is not published."""
    extra, use = _EXTRAS.get(module.partition(".")[0], ("", ""))
    if not extra:
        return f"the module {module!r} is not installed: reinstall the gateway"
    how = f"uv run --extra {extra} gateway …, or pip install '.[{extra}]' in the checkout"
    return f"{use} needs the module {module!r} of the extra {extra}: {how}"


_EXTRAS = {
    "asyncpg": ("postgres", "Postgres"),
    "redis": ("redis", "Redis"),
    "hiredis": ("redis", "Redis"),
    "opentelemetry": ("otel", "GATEWAY_OTEL"),
}


def _notes(error: Exception) -> str:
    return "".join(f" ({note})" for note in getattr(error, "__notes__", ()))


def fail(message: str, code: int) -> int:
    """Print a failure on one line, and return the exit code."""
    print("gateway:", shown(" ".join(message.split()), MAX_MESSAGE_CHARACTERS), file=sys.stderr)
    return code


def fail_usage(error: typer.TyperException) -> int:
    """Print what is wrong with the arguments, and return the exit code. Without any, the help is printed."""
    cause = cast("Any", error.__cause__)
    if hasattr(cause, "errors"):
        # typer would print the wording of pydantic, which converts the values.
        name = getattr(getattr(error, "param", None), "name", None) or ""
        cast("Any", error).message = with_unit(name, rule(cause.errors()[0]))
    text = cast("Any", error).format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return 2
    hint = f" (see {context.command_path} --help)" if context else ""
    if type(error).__name__ == "NoSuchOption" and _takes_arguments(context):
        hint += ". Put -- before an argument that begins with a hyphen"
    return fail(text + hint, getattr(error, "exit_code", 1))


def _takes_arguments(context: Any) -> bool:
    """Return whether the context is of a command with arguments, and not of a group."""
    return context is not None and any(one.param_type_name == "argument" for one in context.command.params)
