"""`gateway service`: management of services, the programs that post notifications."""

from typing import Annotated, Any

import typer

from gateway.cli.options import CreateOption, ServiceArgument, checked, group, print_json
from gateway.protocol.terminal import escape

app = group("Manage the services that post notifications.")


def _check_name(value: str) -> str:
    from gateway.auth.names import check_name

    return check_name(value)


_SCOPES = "notify: post. tokens:mint: give users tokens. admin: manage users and sessions. May be repeated."


def _scope(value: list[str]) -> list[str]:
    from gateway.auth.services import SERVICE_SCOPES
    from gateway.settings.wording import nearest

    for scope in value:
        if scope not in SERVICE_SCOPES:
            near = nearest(scope, SERVICE_SCOPES)
            hint = "" if near is None else f": did you mean {near}?"
            raise typer.BadParameter(f"{scope}: it must be one of {', '.join(SERVICE_SCOPES)}{hint}")
    return value


def _service(row: Any) -> dict[str, Any]:
    from gateway.protocol.times import timestamp

    return {
        "client_id": row.client_id,
        "name": row.name,
        "scopes": row.scopes.split(),
        "created_at": timestamp(row.created_at),
    }


@app.command("add")
def add(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A name for display.", callback=checked(_check_name))
    ],
    scope: Annotated[list[str], typer.Option(help=_SCOPES, callback=_scope)],
    with_key: Annotated[
        bool, typer.Option("--with-key", help="Also create an API key, and print it once.")
    ] = False,
    create: CreateOption = False,
) -> None:
    """Create a service, and print its credentials once.

    Example: gateway service add shop --scope notify --with-key.
    """
    from gateway.cli.database import administer, make_file

    if create:
        make_file()
    made = administer(lambda admin: admin.create_service(name, scope, with_key=with_key), offers_create=True)
    key = {} if made.key is None else {"key_id": made.key.id, "key": made.key.text}
    print_json(_service(made.row) | {"client_secret": made.secret} | key)


@app.command("list")
def list_services() -> None:
    """Print the services, one JSON object per line."""
    from gateway.auth import services
    from gateway.cli.database import print_pages

    print_pages(services.list_services, "id", 0, _service)


@app.command("delete")
def delete_service(service: ServiceArgument) -> None:
    """Delete a service and its keys; its notifications stay. Example: gateway service delete shop."""
    from gateway.auth.administration import Administration
    from gateway.auth.services import identify
    from gateway.cli.database import administer

    async def delete(admin: Administration) -> str:
        client_id = await admin.database.read(identify, service)
        await admin.delete_service(client_id)
        return client_id

    client_id = administer(delete)
    name = "" if service == client_id else f" ({escape(client_id)})"
    print(f"Deleted {escape(service)}{name}.")
