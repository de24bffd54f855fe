"""`gateway notification`: look at a posted notification, edit it, and take it back, over HTTP."""

from typing import Annotated, Any

import typer

from gateway.cli.messages import api_key, server_url
from gateway.cli.options import (
    ActionsOption,
    ContentOption,
    DataOption,
    IconOption,
    KeyOption,
    PriorityOption,
    ServerOption,
    UrlOption,
    group,
    members,
    print_json,
)

app = group("Look at a posted notification, edit it, or take it back, with the API key in GATEWAY_KEY.")

IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The id that `gateway send` printed for the notification.")
]

_OPTIONAL = ("body", "url", "data", "icon", "actions", "expires_at")


@app.command("show")
def show(id: IdArgument, key: KeyOption = "", server: ServerOption = None) -> None:  # noqa: A002 - the argument's name
    """Print a notification, its state and its counts. Example: gateway notification show 01a2….

    The states are scheduled, delivered, cancelled, unsent and expired.
    """
    _ask("GET", id, key, server)


@app.command("edit")
def edit(
    id: IdArgument,  # noqa: A002
    title: Annotated[str | None, typer.Option(help="The new title.")] = None,
    body: ContentOption = None,
    priority: PriorityOption = None,
    url: UrlOption = None,
    data: DataOption = None,
    icon: IconOption = None,
    actions: ActionsOption = None,
    deliver_at: Annotated[
        str | None,
        typer.Option(
            help="The new time of one that is still scheduled, such as 2026-12-24T18:00:00+01:00."
            " If it is left out, the time stays."
        ),
    ] = None,
    expires_at: Annotated[
        str | None,
        typer.Option(help="When it is removed, in the form of --deliver-at. It replaces a ttl."),
    ] = None,
    clear: Annotated[
        list[str] | None, typer.Option(help=f"A member to remove: {', '.join(_OPTIONAL)}. May be repeated.")
    ] = None,
    renotify: Annotated[
        bool, typer.Option("--renotify", help="Let it come again, at the top and unread.")
    ] = False,
    key: KeyOption = "",
    server: ServerOption = None,
) -> None:
    """Change a notification in every inbox. Example: gateway notification edit 01a2… --title "At ten"."""
    given = members(
        title=title,
        body=body,
        priority=priority,
        url=url,
        data=data,
        icon=icon,
        actions=actions,
        deliver_at=deliver_at,
        expires_at=expires_at,
        renotify=renotify or None,
    )
    for name in dict.fromkeys(one.replace("-", "_") for one in clear or ()):
        if name not in _OPTIONAL:
            raise typer.BadParameter(f"--clear: it must be one of {', '.join(_OPTIONAL)}")
        if name in given:
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"--clear {name}: give it or {option}, not both")
        given[name] = None
    if not given:
        raise typer.BadParameter("give something to change, such as --title")
    _ask("PATCH", id, key, server, given)


@app.command("unsend")
def unsend(
    id: IdArgument,  # noqa: A002
    scheduled: Annotated[bool, typer.Option("--scheduled", help="Only if it is not delivered yet.")] = False,
    key: KeyOption = "",
    server: ServerOption = None,
) -> None:
    """Take a notification back from every inbox. Example: gateway notification unsend 01a2….

    Its content is erased. The command prints how many had seen and read it.
    """
    _ask("DELETE", id, key, server, headers={"If-Match": '"scheduled"'} if scheduled else None)


def _ask(
    method: str,
    identifier: str,
    key: str,
    server: str | None,
    body: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> None:
    from gateway.cli import client
    from gateway.protocol.items import is_id

    if not is_id(identifier):
        raise typer.BadParameter("ID: it must be the id of a notification, as gateway send prints it")
    path = f"/v1/notifications/{identifier}"
    print_json(client.ask(server_url(server), api_key(key), method, path, body, headers))
