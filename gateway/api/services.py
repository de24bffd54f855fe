"""The services API: create, list and delete services and their API keys."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Response
from pydantic import AfterValidator, BaseModel, Field

from gateway.api.administration import Administering
from gateway.api.callers import Admin
from gateway.api.json_route import Body, ManagementRoute
from gateway.api.oauth import NO_STORE
from gateway.api.parameters import KeyCursor, Limit, NumberCursor
from gateway.api.problems import BODY, problems
from gateway.api.query import KnownQuery
from gateway.api.state import State
from gateway.auth import services
from gateway.auth.names import MAX_NAME, check_name
from gateway.auth.records import Record
from gateway.errors import NotFound
from gateway.protocol.times import timestamp

router = APIRouter(prefix="/v1/services", route_class=ManagementRoute, tags=["services"])

Scope = Literal["notify", "tokens:mint", "admin"]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(check_name)]


def _check_id(value: str) -> str:
    # Never look up a malformed id: some databases cannot even represent it.
    if not (value.isascii() and value.isprintable() and len(value) <= 64):  # noqa: PLR2004
        raise NotFound
    return value


ClientId = Annotated[str, Path(description="The id of a service."), AfterValidator(_check_id)]
KeyId = Annotated[
    str, Path(description="The id of a key, which it bears after `ngk_`."), AfterValidator(_check_id)
]


class NewService(Body):
    """A service to create."""

    name: Name
    scopes: list[Scope] = Field(min_length=1, max_length=len(services.SERVICE_SCOPES))


class ServiceAnswer(BaseModel):
    """A service."""

    client_id: str
    name: str
    scopes: list[str]
    created_at: str


class ServiceWithSecret(ServiceAnswer):
    """A service that was just created."""

    client_secret: str = Field(description="It is shown this once.")


class ServicePage(BaseModel):
    """Services, the oldest first."""

    items: list[ServiceAnswer]
    next: str | None = Field(description="The `cursor` of the next page, or null on the last one.")


class KeyAnswer(BaseModel):
    """An API key, without its secret."""

    id: str
    created_at: str


class KeyWithSecret(KeyAnswer):
    """An API key that was just created."""

    key: str = Field(description="What to send as `Authorization: Bearer`. It is shown this once.")


class KeyPage(BaseModel):
    """The keys of a service."""

    items: list[KeyAnswer]
    next: str | None = Field(description="The `cursor` of the next page, or null on the last one.")


def _answer(row: Record) -> ServiceAnswer:
    return ServiceAnswer(
        client_id=row.client_id,
        name=row.name,
        scopes=row.scopes.split(),
        created_at=timestamp(row.created_at),
    )


@router.post("", status_code=201, summary="Create a service", responses=problems(*BODY))
async def create(
    state: State, admin: Administering, body: NewService, response: Response
) -> ServiceWithSecret:
    """Create a service with the scopes it is allowed: `notify`, `tokens:mint`, `admin`."""
    made = await admin.create_service(body.name, body.scopes)
    location = f"{state.settings.mount}/v1/services/{made.row.client_id}"
    response.headers.update(NO_STORE | {"Location": location})
    return ServiceWithSecret(**_answer(made.row).model_dump(), client_secret=made.secret)


@router.get("", summary="List the services", responses=problems())
async def list_services(
    state: State, _: Admin, _known: KnownQuery, cursor: NumberCursor = 0, limit: Limit = 50
) -> ServicePage:
    """Return a page of services, the oldest first."""
    rows = await state.database.read(services.list_services, cursor, limit + 1)
    further = str(rows[limit - 1].id) if len(rows) > limit else None
    return ServicePage(items=[_answer(row) for row in rows[:limit]], next=further)


@router.get("/{client_id}", summary="Read a service", responses=problems(404))
async def read(state: State, _: Admin, client_id: ClientId) -> ServiceAnswer:
    """Return one service."""
    return _answer(await state.database.read(services.get_service, client_id))


@router.delete(
    "/{client_id}",
    status_code=204,
    response_class=Response,
    summary="Delete a service",
    responses=problems(404),
)
async def delete(admin: Administering, client_id: ClientId) -> None:
    """Delete a service with its keys; its tokens stop working. What it posted stays."""
    await admin.delete_service(client_id)


@router.post("/{client_id}/keys", status_code=201, summary="Create a key", responses=problems(404))
async def create_key(
    state: State, admin: Administering, client_id: ClientId, response: Response
) -> KeyWithSecret:
    """Create an API key, which stands for the service until it is deleted."""
    made = await admin.create_key(client_id)
    location = f"{state.settings.mount}/v1/services/{client_id}/keys/{made.id}"
    response.headers.update(NO_STORE | {"Location": location})
    return KeyWithSecret(id=made.id, created_at=timestamp(made.created_at), key=made.text)


@router.get("/{client_id}/keys", summary="List the keys", responses=problems(404))
async def list_keys(
    state: State,
    _: Admin,
    _known: KnownQuery,
    client_id: ClientId,
    cursor: KeyCursor = "",
    limit: Limit = 50,
) -> KeyPage:
    """Return a page of the keys of a service."""
    rows = await state.database.read(services.list_keys, client_id, cursor, limit + 1)
    further = rows[limit - 1].id if len(rows) > limit else None
    items = [KeyAnswer(id=row.id, created_at=timestamp(row.created_at)) for row in rows[:limit]]
    return KeyPage(items=items, next=further)


@router.delete(
    "/{client_id}/keys/{key_id}",
    status_code=204,
    response_class=Response,
    summary="Delete a key",
    responses=problems(404),
)
async def delete_key(admin: Administering, client_id: ClientId, key_id: KeyId) -> None:
    """Delete an API key; it stops working at once."""
    await admin.delete_key(client_id, key_id)
