"""The commands."""

import asyncio
import itertools
import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from sqlalchemy.engine import make_url

from gateway import (
    __version__,
    accounts,
    audit,
    client,
    env_file,
    issuers,
    logs,
    manage,
    open_files,
    pipes,
    schema,
    spelling,
    sqlite_file,
)
from gateway.accounts import new_session
from gateway.audit import Event
from gateway.backplane import open_backplane, reach
from gateway.backup import back_up
from gateway.database import Database, check_parameters, name_of, open_database
from gateway.endings import TOO_MANY, end_some_sessions
from gateway.errors import GatewayError, NotFound, UserDisabled
from gateway.manage import SubArgument, now_ms, print_json, record, with_database
from gateway.origins import is_loopback
from gateway.settings import LogFormat, Settings, SettingsError, load_settings
from gateway.signing import MAX_TTL
from gateway.sqlite_file import Opening
from gateway.terminal import json_line, shown
from gateway.throttle import Throttle
from gateway.tokens import INBOX, OWN_CLIENT, Tokens
from gateway.trusted_issuer import TrustedIssuer

LONGEST_MESSAGE = 2000
"""How many characters of what is wrong are printed: part of it may come from a server."""

app = typer.Typer(
    name="gateway",
    help="A self-hosted notification gateway: post over HTTP, receive over WebSocket, lose nothing.",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings are GATEWAY_… variables, or lines of .env. Try it: gateway serve --demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(manage.user_app, name="user")
app.add_typer(manage.service_app, name="service")
app.add_typer(manage.key_app, name="key")
app.add_typer(manage.signing_app, name="signing-key")


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 2 for a wrong setting or argument, 1 for what failed."""
    pipes.escape_foreign_letters()
    try:
        env_file.load()
        spelling.forget_injected()
        _leave_foreign_home()
        given = sys.argv[1:] if arguments is None else arguments
        code = int(app(_titles_last(given), standalone_mode=False) or 0)
        sys.stdout.flush()
    except (BrokenPipeError, pipes.ReaderGoneError):
        pipes.close_stdout()
        return pipes.CLOSED
    except typer.TyperException as error:
        return _fail_usage(error)
    except SettingsError as error:
        return _fail(str(error), 2)
    except (GatewayError, client.ClientError, ModuleNotFoundError, OSError) as error:
        return _fail(_explain(error) + _notes(error), 1)
    except KeyboardInterrupt:
        return 130
    return code


_OPTION = re.compile(r"--?[A-Za-z][\w-]*(=.*)?|--?", re.DOTALL)


def _titles_last(arguments: list[str]) -> list[str]:
    """Let `gateway send` take a title that begins with a hyphen, and can be no option: "-5 °C outside"."""
    if arguments[:1] != ["send"] or "--" in arguments:
        return arguments
    kept, titles = [arguments[0]], list[str]()
    for before, one in itertools.pairwise(arguments):
        # What follows an option is its value.
        is_title = one.startswith("-") and not _OPTION.fullmatch(one) and not before.startswith("--")
        (titles if is_title else kept).append(one)
    return [*kept, "--", *titles] if titles else kept


def _leave_foreign_home() -> None:
    """Have no library look for its files in a home that this user may not enter, as after sudo or su."""
    if not os.access(Path.home(), os.R_OK | os.X_OK):
        os.environ["HOME"] = "/nonexistent"


def _explain(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return _missing(error.name or "")
    if isinstance(error, NotFound) and error.name is not None:
        return f"{error.detail.removesuffix('.')}: {error.name!r}"
    cause = error.__cause__
    return f"{error} ({getattr(cause, 'orig', cause)})" if cause else str(error)


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


def _fail(message: str, code: int) -> int:
    print("gateway:", shown(" ".join(message.split()), LONGEST_MESSAGE), file=sys.stderr)
    return code


def _fail_usage(error: typer.TyperException) -> int:
    """Say in one line what is wrong with the arguments; a bare `gateway` gets the help instead."""
    text = cast("Any", error).format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return 2
    hint = f" (see {context.command_path} --help)" if context else ""
    return _fail(text + hint, getattr(error, "exit_code", 1))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"gateway {__version__}")
        raise typer.Exit


@app.callback()
def options(
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
        int | None, typer.Option(help="How many processes serve; more than one needs Postgres. Default: 1")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Make a user and a key to try it out.")] = False,
    inherit: Annotated[int | None, typer.Option(hidden=True, help="The listener of a worker.")] = None,
) -> None:
    """Bring the schema up to date, and serve. Example: gateway serve --demo.

    SIGTERM drains: sockets are closed over half of GATEWAY_GRACE_PERIOD, what is under way is finished, and
    the exit code is 0. SIGHUP replaces the workers one at a time.
    """
    # The web framework takes longer to load than the other commands take to run.
    from gateway import serving
    from gateway.workers import supervise, work

    settings = load_settings(host=host, port=port, workers=workers)
    if inherit is None:
        _warn_of_misspelt()
    if demo and not is_loopback(settings.host):
        raise SettingsError("--demo: only on a loopback address such as 127.0.0.1, for anybody may sign in")
    as_json = settings.log_format is LogFormat.JSON
    logs.configure(settings.log_level, access_log=settings.access_log, as_json=as_json)
    # The port is taken first: a demo that cannot be served must not change the one that is.
    with (
        serving.listen(settings, inherit) as listener,
        sqlite_file.served(make_url(settings.database_url)),
        audit.written_to(settings.audit_log),
    ):
        if inherit is not None:
            raise typer.Exit(int(not work(settings, listener, demo=demo)))
        demo_text = asyncio.run(serving.prepare(settings, listener.getsockname()[1], demo=demo))
        if demo_text:
            print(demo_text, flush=True)
        if settings.workers > 1:
            raise typer.Exit(supervise(settings, listener))
        raise typer.Exit(int(not serving.serve(settings, listener, demo=demo)))


def _warn_of_misspelt() -> None:
    for line in spelling.misspelt():
        _note(line)


@app.command()
def migrate() -> None:
    """Bring the schema of the database up to date."""
    manage.make_file()
    with_database(lambda _, database: database.read(schema.pending))
    print("The schema is up to date.")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write, which is not there yet.")],
) -> None:
    """Copy the SQLite database while the gateway serves. Example: gateway backup /var/backups/gateway.db.

    The copy is one snapshot, and checked. Keep GATEWAY_KEY_ENCRYPTION_KEY in another place.
    """
    settings = load_settings()
    size = back_up(make_url(settings.database_url), file)
    print(f"Wrote {shown(str(file))}: {size:,} bytes, one snapshot, checked.")


@app.command("backup-epoch")
def backup_epoch() -> None:
    """Make every client read its inbox afresh, and end all sessions: run it on a restored backup.

    Run it before the gateway serves. The numbers of the logs go on from where the backup left them, and
    clients may have seen them before. What has ended or was deleted since the backup is there again: sessions
    are ended, so that everybody signs in anew; keys and services have to be deleted again.
    """

    async def renew(_: Settings, database: Database) -> tuple[int, int]:
        users = await database.write(accounts.renew_epochs)
        record(Event.EPOCHS_RENEWED, None, number=users)
        sessions = 0
        while some := len(await database.write(end_some_sessions, now_ms())):
            sessions += some
        record(Event.SESSIONS_ENDED, None, why="restored", number=sessions)
        return users, sessions

    users, sessions = with_database(renew)
    print(f"Renewed the epochs of {users} users, and ended {sessions} sessions.")
    print("What was deleted or disabled since the backup is as it was: look at the keys, services and users.")


@app.command()
def check() -> None:
    """Validate the settings, and reach every server they name. The port is not taken: a gateway may serve."""
    from gateway import serving

    settings = load_settings()
    _warn_of_misspelt()
    serving.check_host(settings)
    audit_log = None if settings.audit_log is None else audit.check(settings.audit_log)

    async def main() -> bool:
        for line in await _database_lines(settings):
            print(line)
        if audit_log is not None:
            print(f"audit log: {settings.audit_log}: {audit_log}")
        print(open_files.report(open_files.hard_limit(), settings))
        logs.configure("error", access_log=False)
        heard = await reach(open_backplane(settings))
        print(f"backplane: {settings.backplane}: {'reached' if heard else 'not reached'}")
        for line in issuers.overlaps(settings.trusted_issuers):
            print(line)
        reached = [await _reached(one) for one in settings.trusted_issuers]
        async with Throttle(settings) as throttle:
            shared = await throttle.reached()
        if shared is not None:
            print(f"rate limits: redis: {'reached' if shared else 'not reached; sign-ins count in memory'}")
        return heard and all(reached) and shared is not False

    if not asyncio.run(main()):
        raise typer.Exit(1)


async def _database_lines(settings: Settings) -> list[str]:
    """Reach the database, see that it can be written to, and say so; its file stays as it is."""
    url = make_url(settings.database_url)
    name = shown(name_of(url), LONGEST_MESSAGE)
    check_parameters(url)
    if sqlite_file.is_missing(url):
        return [f"database: {name}: not there yet: serve or migrate makes it"]
    async with open_database(settings, Opening.LOOK) as database:
        pending = await schema.is_pending(database, writes=True)
    state = "to be brought up to date by serve or migrate" if pending else "up to date"
    return [f"database: {name}: reached, and can be written to", f"schema: {state}"]


async def _reached(trusted: TrustedIssuer) -> bool:
    """Say whether the keys of an issuer can be had."""
    try:
        number, problem = await issuers.reach(trusted), ""
    except issuers.FetchError as error:
        number, problem = 0, f" ({shown(str(error))})"
    print(f"issuer: {trusted.issuer}: usable keys at {trusted.jwks_url}: {number}{problem}")
    return number > 0


@app.command()
def token(
    sub: SubArgument,
    ttl: Annotated[
        int | None, typer.Option(min=1, max=MAX_TTL, help="How long it lives, in seconds.")
    ] = None,
    create: manage.CreateOption = False,
) -> None:
    """Print an access token of a user, who is created if need be. Example: gateway token ada --ttl 3600."""

    async def issue(settings: Settings, database: Database) -> str:
        tokens = Tokens(settings, database, on_ended=lambda _: None)
        await tokens.start()
        now = now_ms()
        expires_at = now // 1000 + (ttl or settings.access_token_ttl)
        session = new_session(expires_at * 1000)
        await database.write(accounts.add_missing_users, [sub], now)
        started = await database.write(
            accounts.start_user_session, sub, session, now, limit=settings.session_limit
        )
        if started is None:
            raise UserDisabled
        manage.record_ended(sub, started.ended, TOO_MANY)
        record(Event.TOKEN_MINTED, audit.user(sub), session=session.id, ttl=ttl or settings.access_token_ttl)
        return tokens.issue(
            sub=sub, client_id=OWN_CLIENT, scopes=[INBOX], session=session.id, expires_at=expires_at
        )

    if create:
        manage.make_file()
    print(with_database(issue))


UrlOption = Annotated[str, typer.Option("--server", envvar="GATEWAY_URL", help="Where the gateway is.")]


@app.command()
def send(
    sub: SubArgument,
    title: Annotated[str, typer.Argument(help="What it says.")],
    body: Annotated[str | None, typer.Option(help="More text.")] = None,
    category: Annotated[str | None, typer.Option(help="What kind of notification it is.")] = None,
    priority: Annotated[str | None, typer.Option(help="low, normal, high or urgent.")] = None,
    url: Annotated[str | None, typer.Option(help="Where a click leads.")] = None,
    data: Annotated[str | None, typer.Option(help="A JSON object for programs.")] = None,
    key: Annotated[
        str,
        typer.Option(
            envvar="GATEWAY_KEY",
            help="The API key to post with, or - to read it from the first line of stdin."
            " Other users of this machine can see an argument: prefer the variable.",
        ),
    ] = "",
    server: UrlOption = client.DEFAULT_URL,
) -> None:
    """Post a notification over HTTP, with the key of GATEWAY_KEY.

    Example: gateway send ada "Lunch is ready" --priority high.
    """
    fields = {"body": body, "category": category, "priority": priority, "url": url}
    given = {name: value for name, value in fields.items() if value is not None}
    if data is not None:
        try:
            given["data"] = json.loads(data)
        except ValueError:
            raise typer.BadParameter("--data: it must be a JSON object") from None
    key = _secret(key, "GATEWAY_KEY or --key")
    if not key:
        raise typer.BadParameter("GATEWAY_KEY or --key: an API key is needed")
    print_json(client.send(server, key, {"to": sub, "title": title} | given))


@app.command()
def tail(
    token: Annotated[
        str,
        typer.Option(
            envvar="GATEWAY_TOKEN",
            help="A user's access token, or - to read it from the first line of stdin."
            " Other users of this machine can see an argument: prefer the variable.",
        ),
    ] = "",
    server: UrlOption = client.DEFAULT_URL,
) -> None:
    """Print the messages of a socket as they come. Example: gateway token ada | gateway tail --token -."""
    messages = client.tail(server, _secret(token, "GATEWAY_TOKEN or --token"), _show, _note)
    asyncio.run(pipes.while_read(messages))


def _secret(given: str, name: str) -> str:
    """Return a secret without space around it, or the first line of stdin where it was given as a hyphen.

    A library would refuse a header with a line break in it, and show the whole of it.
    """
    secret = (sys.stdin.readline() if given == "-" else given).strip()
    if not all("!" <= one <= "~" for one in secret):
        raise typer.BadParameter(f"{name}: it holds a space, a line break or a letter beyond ASCII")
    return secret


def _show(message: dict[str, Any]) -> None:
    try:
        print(json_line(message), flush=True)
    except BrokenPipeError:
        raise pipes.ReaderGoneError from None


def _note(text: str) -> None:
    print("gateway:", shown(text), file=sys.stderr)
