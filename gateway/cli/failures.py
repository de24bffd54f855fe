"""Failures: every one of a command is one line on stderr and an exit code."""

import sys
from typing import Any, cast

import typer

from gateway.errors import GatewayError, NotFound
from gateway.observability.reasons import answer
from gateway.protocol.terminal import shown
from gateway.settings.wording import rule

MAX_MESSAGE = 2000
"""Maximum number of characters of a message that are printed: part of it may come from a server."""


def fail_known(error: Exception) -> int | None:
    """Print a failure that is expected, and return the exit code; None for a fault of the program."""
    # Loaded late: most commands need neither.
    from gateway.cli.client import ClientError
    from gateway.settings import SettingsError

    if isinstance(error, SettingsError):
        return fail(str(error), 2)
    if isinstance(error, GatewayError | ClientError | ModuleNotFoundError | OSError):
        return fail(explain(error) + _notes(error), 1)
    return None


def explain(error: Exception) -> str:
    """Return what has failed, and what to do about it."""
    if isinstance(error, ModuleNotFoundError):
        return _missing(error.name or "")
    if isinstance(error, NotFound) and error.name is not None:
        kind = error.detail.removesuffix(".").rpartition(" ")[2]
        listing = f"gateway {kind} list{' SERVICE' if kind == 'key' else ''}"
        return f"{error.detail.removesuffix('.')}: {error.name!r}. To see them: {listing}"
    cause = error.__cause__
    return f"{error} ({answer(cause)})" if cause else str(error)


def _missing(module: str) -> str:
    """Say which extra has a module. The package is not published: it is installed from a checkout."""
    extra, use = _EXTRAS.get(module.partition(".")[0], ("", ""))
    if not extra:
        return f"the module {module!r} is not installed: install the gateway anew"
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
    """Print what has failed on one line, and return the exit code."""
    print("gateway:", shown(" ".join(message.split()), MAX_MESSAGE), file=sys.stderr)
    return code


def fail_usage(error: typer.TyperException) -> int:
    """Print what is wrong with the arguments, and return the exit code; a bare `gateway` gets the help."""
    cause = cast("Any", error.__cause__)
    if hasattr(cause, "errors"):
        # The library of commands shows the words of the one that converts its values.
        cast("Any", error).message = rule(cause.errors()[0])
    text = cast("Any", error).format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return 2
    hint = f" (see {context.command_path} --help)" if context else ""
    if type(error).__name__ == "NoSuchOption" and _takes_arguments(context):
        hint += ". Put -- before an argument that begins with a hyphen"
    return fail(text + hint, getattr(error, "exit_code", 1))


def _takes_arguments(context: Any) -> bool:
    """Whether the command of a context has arguments, and is no group of commands."""
    return context is not None and any(one.param_type_name == "argument" for one in context.command.params)
