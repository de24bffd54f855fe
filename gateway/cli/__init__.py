"""The command line: its entry point, and the commands that belong to no group.

Each command imports its slow modules when it runs, so that `--help` is fast.
"""

import itertools
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway import __version__
from gateway.cli import check, keys, messages, notifications, pipes, services, users
from gateway.cli.failures import fail, fail_known, fail_usage
from gateway.cli.options import Commands, note
from gateway.protocol.terminal import counted, shown
from gateway.settings import env_file, spelling

app = Commands(
    name="gateway",
    help="A self-hosted notification gateway: post over HTTP, receive over WebSocket, lose nothing.",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings are GATEWAY_… variables, or lines of .env. Try it: gateway serve --demo",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def run(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    It is 2 for a wrong setting or argument, 130 for Ctrl-C, and 1 for any other expected failure. Unexpected
    errors are raised.
    """
    pipes.open_closed_streams()
    pipes.escape_unencodable()
    try:
        env_file.load()
        spelling.forget_injected()
        _avoid_unreadable_home()
        given = sys.argv[1:] if arguments is None else arguments
        code = int(app(_titles_last(given), prog_name="gateway", standalone_mode=False) or 0)
        sys.stdout.flush()
    except (BrokenPipeError, pipes.ReaderGoneError):
        pipes.discard_stdout()
        return pipes.READER_GONE_EXIT_CODE
    except pipes.CannotPrintError as error:
        pipes.discard_stdout()
        return fail(f"stdout: {error}", 1)
    except typer.TyperException as error:
        return fail_usage(error)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        failed = fail_known(error)
        if failed is None:
            raise
        return failed
    return code


_OPTION = re.compile(r"--?[A-Za-z][\w-]*(=.*)?|--?", re.DOTALL)


def _titles_last(arguments: list[str]) -> list[str]:
    """Let `gateway send` take a title that begins with a hyphen but is not an option: "-5 °C outside"."""
    if arguments[:1] != ["send"] or "--" in arguments:
        return arguments
    kept, titles = [arguments[0]], list[str]()
    for before, one in itertools.pairwise(arguments):
        # The argument after an option is its value.
        is_title = one.startswith("-") and not _OPTION.fullmatch(one) and not before.startswith("--")
        (titles if is_title else kept).append(one)
    return [*kept, "--", *titles] if titles else kept


def _avoid_unreadable_home() -> None:
    """Keep libraries from looking for files in a home that this user may not enter, as after sudo or su."""
    if not os.access(Path.home(), os.R_OK | os.X_OK):
        os.environ["HOME"] = "/nonexistent"


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"gateway {__version__}")
        raise typer.Exit


@app.callback()
def global_options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", help="Print the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """A self-hosted notification gateway: post over HTTP, receive over WebSocket, lose nothing."""


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen on. Default: 127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on. Default: 8000")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of processes; more than one needs Postgres. Default: 1")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Create a demo user and a demo key.")] = False,
    inherit: Annotated[int | None, typer.Option(hidden=True, help="The listener of a worker.")] = None,
) -> None:
    """Bring the schema up to date, and serve. Example: gateway serve --demo.

    SIGTERM drains: the gateway closes its sockets over half of GATEWAY_GRACE_PERIOD, finishes current
    requests, and exits with code 0. SIGHUP replaces the workers one at a time.
    """
    import asyncio

    import structlog
    from sqlalchemy.engine import make_url

    from gateway.database import sqlite_file
    from gateway.observability import audit, console_log
    from gateway.server import run
    from gateway.server.supervisor import supervise, work
    from gateway.settings import SettingsError, load_settings
    from gateway.settings.choices import LogFormat
    from gateway.settings.origins import is_loopback

    settings = load_settings(host=host, port=port, workers=workers)
    if demo and not is_loopback(settings.host):
        raise SettingsError("--demo: needs a loopback address such as 127.0.0.1, because anyone may sign in")
    as_json = settings.log_format is LogFormat.JSON
    console_log.configure(settings.log_level, access_log=settings.access_log, as_json=as_json)
    if inherit is None:
        say = structlog.get_logger().warning if as_json else note
        for line in spelling.misspelt():
            say(line)
    # Take the port first: a demo that cannot start must not change the database of a running one.
    with (
        run.listen(settings, inherit) as listener,
        sqlite_file.served(make_url(settings.database_url)),
        audit.written_to(settings.audit_log, as_json=as_json),
    ):
        if inherit is not None:
            raise typer.Exit(int(not work(settings, listener, demo=demo)))
        demo_text = asyncio.run(run.prepare(settings, listener.getsockname()[1], demo=demo))
        if demo_text:
            print(demo_text, flush=True)
        if settings.workers > 1:
            raise typer.Exit(supervise(settings, listener))
        raise typer.Exit(int(not run.serve(settings, listener, demo=demo)))


@app.command()
def migrate() -> None:
    """Bring the schema of the database up to date."""
    from gateway.cli.database import make_file, with_database
    from gateway.database import schema

    make_file()
    with_database(lambda _, database: database.read(schema.pending))
    print("The schema is up to date.")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to create; it must not exist.")],
) -> None:
    """Copy the SQLite database while the gateway serves. Example: gateway backup /var/backups/gateway.db.

    The copy is one snapshot, which the command checks. Keep GATEWAY_KEY_ENCRYPTION_KEY in another place.
    """
    from sqlalchemy.engine import make_url

    from gateway.database.backup import back_up
    from gateway.settings import load_settings

    settings = load_settings()
    size = back_up(make_url(settings.database_url), file)
    print(f"Wrote {shown(str(file))}: {size:,} bytes, one snapshot, checked.")


@app.command("backup-epoch")
def backup_epoch() -> None:
    """Make every client reload its inbox, and end all sessions: run it on a restored backup.

    Run it before you start the gateway. The restored logs continue from the numbers in the backup, which
    clients may have seen before. Sessions, keys and services that ended after the backup are valid again: the
    command ends all sessions, so every user signs in again; delete the keys and services yourself.
    """
    from sqlalchemy.engine import make_url

    from gateway.auth.sessions import end_some_sessions
    from gateway.auth.users import renew_epochs
    from gateway.cli.database import record, with_database
    from gateway.database import sqlite_file
    from gateway.database.database import Database
    from gateway.observability.audit import Event
    from gateway.protocol.times import now_ms
    from gateway.settings import Settings

    async def renew(settings: Settings, database: Database) -> tuple[int, int]:
        if sqlite_file.is_served(make_url(settings.database_url)):
            note("warning: a gateway serves from this database: stop it, and run this command again")
        renewed = await database.write(renew_epochs)
        record(Event.EPOCHS_RENEWED, None, number=renewed)
        ended = 0
        while some := len(await database.write(end_some_sessions, now_ms())):
            ended += some
        record(Event.SESSIONS_ENDED, None, why="restored", number=ended)
        return renewed, ended

    renewed, ended = with_database(renew)
    print(f"Renewed the epochs of {counted(renewed, 'user')}, and ended {counted(ended, 'session')}.")
    print("The positions of all clients are reset: each client reloads its inbox when it reconnects.")
    print("The backup has no later deletions and changes: check the keys, services and users.")


for _command in (check.check, messages.token, messages.send, messages.tail):
    app.command()(_command)
for _name, _group in {
    "user": users.app,
    "notification": notifications.app,
    "service": services.app,
    "key": keys.app,
    "signing-key": keys.signing_app,
}.items():
    app.add_typer(_group, name=_name)
