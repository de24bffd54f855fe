"""`gateway token`, `send` and `tail`: mint an access token, post a notification, follow a user's socket."""

import asyncio
from typing import Annotated, Any

import typer

from gateway.cli import pipes
from gateway.cli.options import (
    DEFAULT_URL,
    ActionsOption,
    ContentOption,
    CreateOption,
    DataOption,
    IconOption,
    KeyOption,
    PriorityOption,
    ServerOption,
    SubArgument,
    UrlOption,
    members,
    note,
    print_json,
)
from gateway.cli.stdin import first_line
from gateway.protocol.terminal import json_line


class MissingSecretError(typer.BadParameter):
    """A required key or token was not given. Unlike its base class, it names no invalid value."""

    def format_message(self) -> str:
        """Return the message without typer's prefix."""
        return self.message


MAX_TTL_SECONDS = 86_400
"""Maximum lifetime of a token, in seconds. A copy of `signing.MAX_TTL`, which is slow to import."""


def token(
    sub: SubArgument,
    ttl: Annotated[
        int | None, typer.Option(min=1, max=MAX_TTL_SECONDS, help="Lifetime of the token, in seconds.")
    ] = None,
    create: CreateOption = False,
) -> None:
    """Print an access token for a user; create an unknown user. Example: gateway token ada --ttl 3600."""
    from gateway.store.recipients import check_new

    if create:
        from gateway.cli.database import make_file

        make_file()
    check_new(sub)
    print(_mint(sub, ttl, create_user=True))


def _mint(sub: str, ttl: int | None = None, *, create_user: bool = False) -> str:
    """Mint an access token of a user. Raises `NotFound` for an unknown user, and `UserDisabled`."""
    from gateway.auth import sessions, users
    from gateway.auth.principals import INBOX
    from gateway.auth.revocation import Revocation
    from gateway.auth.sessions import TOO_MANY
    from gateway.auth.tokens import OWN_CLIENT, Tokens
    from gateway.cli.database import record, record_ended, with_database
    from gateway.database.database import Database
    from gateway.errors import UserDisabled
    from gateway.observability import audit
    from gateway.observability.audit import Event
    from gateway.protocol.times import now_ms
    from gateway.settings import Settings

    async def issue(settings: Settings, database: Database) -> str:
        tokens = Tokens(settings, database, Revocation(database, on_ended=lambda _: None))
        await tokens.start()
        now = now_ms()
        expires_at = now // 1000 + (ttl or settings.access_token_ttl)
        session = sessions.new_session(expires_at * 1000)
        if create_user:
            await database.write(users.add_missing_users, [sub], now)
        else:
            await database.read(users.get_user, sub)
        started = await database.write(
            sessions.start_user_session, sub, session, now, limit=settings.session_limit
        )
        if started is None:
            raise UserDisabled
        record_ended(sub, started.ended, TOO_MANY)
        record(Event.TOKEN_MINTED, audit.user(sub), session=session.id, ttl=ttl or settings.access_token_ttl)
        return tokens.issue(
            sub=sub, client_id=OWN_CLIENT, scopes=[INBOX], session=session.id, expires_at=expires_at
        )

    return with_database(issue, offers_create=create_user)


def send(
    sub: SubArgument,
    title: Annotated[str, typer.Argument(metavar="TITLE", help="The title of the notification.")],
    body: ContentOption = None,
    category: Annotated[str | None, typer.Option(help="The category of the notification.")] = None,
    priority: PriorityOption = None,
    url: UrlOption = None,
    data: DataOption = None,
    icon: IconOption = None,
    actions: ActionsOption = None,
    deliver_at: Annotated[
        str | None,
        typer.Option(help="When to deliver it, such as 2026-12-24T18:00:00+01:00. In the past: now."),
    ] = None,
    ttl: Annotated[
        int | None,
        typer.Option(help="How long it is kept from its delivery: 1 to 31,622,400 seconds (366 days)."),
    ] = None,
    expires_at: Annotated[
        str | None,
        typer.Option(help="When it is removed, in the form of --deliver-at. Not together with --ttl."),
    ] = None,
    collapse_key: Annotated[
        str | None, typer.Option(help="It replaces the earlier notification with this key.")
    ] = None,
    key: KeyOption = "",
    server: ServerOption = None,
) -> None:
    """Post a notification over HTTP, with the API key in GATEWAY_KEY.

    Example: gateway send ada "Lunch is ready" --priority high.
    """
    from gateway.cli import client

    given = members(
        body=body,
        category=category,
        priority=priority,
        url=url,
        data=data,
        icon=icon,
        actions=actions,
        deliver_at=deliver_at,
        ttl=ttl,
        expires_at=expires_at,
        collapse_key=collapse_key,
    )
    print_json(client.send(server_url(server), api_key(key), {"to": sub, "title": title} | given))


def api_key(given: str) -> str:
    """Return the API key. Raises `MissingSecretError` if there is none."""
    key = _secret(given, "GATEWAY_KEY or --key")
    if not key:
        raise MissingSecretError(
            "GATEWAY_KEY or --key: an API key is needed. Create one: gateway key add SERVICE"
        )
    return key


def tail(
    sub: Annotated[
        str | None,
        typer.Argument(metavar="SUB", help="The user's id, on the gateway's machine."),
    ] = None,
    token: Annotated[
        str,
        typer.Option(
            envvar="GATEWAY_TOKEN",
            help="A user's access token, or - to read it from the first line of stdin."
            " Other users of this machine can see an argument: prefer the variable.",
        ),
    ] = "",
    server: ServerOption = None,
) -> None:
    """Print the messages of a user's socket as they arrive. Example: gateway tail ada.

    On the gateway's machine, give the SUB of an existing user: the command mints a token like `gateway
    token`, and another one when it expires. On other machines, set GATEWAY_TOKEN.
    """
    from gateway.cli import client

    if sub is None:
        secret, renew = _secret(token, "GATEWAY_TOKEN or --token"), None
        if not secret:
            raise MissingSecretError(
                "a user is needed: gateway tail SUB on the gateway's machine, GATEWAY_TOKEN on others"
            )
    else:
        name = _checked_sub(sub)
        server = _own_address() if server is None else server
        secret, renew = _mint(name), lambda: asyncio.to_thread(_mint, name)
    messages = client.tail(server_url(server), secret, _show, note, renew)
    asyncio.run(pipes.run_while_read(messages))


def server_url(server: str | None) -> str:
    """Return the URL of the gateway. Keep an empty one: the client refuses it."""
    return DEFAULT_URL if server is None else server


def _checked_sub(sub: str) -> str:
    from gateway.auth.names import check_sub

    try:
        return check_sub(sub)
    except ValueError as error:
        raise typer.BadParameter(f"SUB: {error}") from None


def _own_address() -> str:
    """Return the URL of the gateway on this machine, as the settings say."""
    from gateway.settings import load_settings

    settings = load_settings()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 (it is looked for)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _secret(given: str, name: str) -> str:
    """Return a secret without surrounding space, or the first line of stdin if it was given as a hyphen.

    Raises `typer.BadParameter` for a space, a line break or a letter beyond ASCII: a library would refuse a
    header with such a character, and print the whole header.
    """
    secret = (first_line(name) if given == "-" else given).strip()
    if not all("!" <= one <= "~" for one in secret):
        raise typer.BadParameter(f"{name}: it holds a space, a line break or a letter beyond ASCII")
    return secret


def _show(message: dict[str, Any]) -> None:
    try:
        print(json_line(message), flush=True)
    except BrokenPipeError:
        raise pipes.ReaderGoneError from None
    except OSError as error:
        raise pipes.CannotPrintError(error.strerror) from None
