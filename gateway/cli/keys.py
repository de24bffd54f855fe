"""`gateway key` and `gateway signing-key`: the API keys of services, and the keys that sign access tokens."""

from typing import Annotated, Any

import typer

from gateway.cli.options import ServiceArgument, group, print_json
from gateway.protocol.terminal import escape

app = group("Manage the API keys of a service.")
signing_app = group("Manage the keys that sign access tokens.")


@app.command("add")
def add(service: ServiceArgument) -> None:
    """Create an API key for a service, and print it once. Example: gateway key add shop."""
    from gateway.auth.administration import Administration, NewKey
    from gateway.auth.services import identify
    from gateway.cli.database import administer

    async def create(admin: Administration) -> NewKey:
        return await admin.create_key(await admin.database.read(identify, service))

    key = administer(create)
    print_json({"id": key.id, "key": key.text})


@app.command("list")
def list_keys(service: ServiceArgument) -> None:
    """Print the keys of a service, without their secrets, one JSON object per line."""
    from sqlalchemy import Connection

    from gateway.auth import services
    from gateway.cli.database import print_pages
    from gateway.protocol.times import timestamp

    def work(connection: Connection, after: str, limit: int) -> list[Any]:
        return services.list_keys(connection, services.identify(connection, service), after, limit)

    print_pages(work, "id", "", lambda row: {"id": row.id, "created_at": timestamp(row.created_at)})


@app.command("delete")
def delete_key(
    service: ServiceArgument, key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's id.")]
) -> None:
    """Delete an API key; it stops working within a second."""
    from gateway.auth.administration import Administration
    from gateway.auth.services import identify
    from gateway.cli.database import administer

    async def delete(admin: Administration) -> None:
        await admin.delete_key(await admin.database.read(identify, service), key_id)

    administer(delete)
    print(f"Deleted {escape(key_id)}.")


@signing_app.command("rotate")
def rotate() -> None:
    """Create a key, which signs after ten seconds; the old key verifies until its last token expires."""
    import time

    from gateway.auth import signing
    from gateway.cli.database import record, with_database
    from gateway.database.database import Database
    from gateway.observability.audit import Event
    from gateway.protocol.times import now_ms
    from gateway.settings import Settings, SettingsError

    async def make(settings: Settings, database: Database) -> str:
        if settings.jwt_secret is not None:
            raise SettingsError("GATEWAY_JWT_SECRET: it signs the tokens, so there is no key to rotate")
        # Check the encryption key first: the serving processes must be able to decrypt the new signing key.
        await signing.Keyring(settings, database, time.time).start()
        kid = await database.write(signing.rotate, now_ms(), signing.passphrase(settings))
        record(Event.SIGNING_KEY_ROTATED, f"key:{kid}")
        return kid

    print_json({"kid": with_database(make)})


@signing_app.command("list")
def list_signing_keys() -> None:
    """Print the keys that sign or still verify, one JSON object per line."""
    from gateway.auth import signing
    from gateway.cli.database import with_database
    from gateway.protocol.times import now_ms, timestamp

    for row in with_database(lambda _, database: database.read(signing.list_keys, now_ms())):
        retired_at = row.retired_at and timestamp(row.retired_at)
        print_json(
            {"kid": row.kid, "created_at": timestamp(row.created_at), "retired_at": retired_at or None}
        )
