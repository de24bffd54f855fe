"""What the routes are given: the parts of the gateway, and who calls.

Every dependency works on `HTTPConnection`, so HTTP and WebSocket share them. Past one of them the caller is
a type (`User`, `Service`), never a maybe. None of them holds a database connection: they live as long as
the socket they serve.
"""

from dataclasses import dataclass
from typing import Annotated, Any, cast
from urllib.parse import unquote_to_bytes

from fastapi import Depends, Path, Query
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.openapi.models import OAuth2 as OAuth2Model
from fastapi.openapi.models import OAuthFlowPassword, OAuthFlows
from fastapi.security.base import SecurityBase
from pydantic import AfterValidator, BaseModel, Field
from starlette.requests import HTTPConnection

from gateway.api.query import parameter
from gateway.auth.accounts import MAX_SUB, check_sub
from gateway.auth.limits.throttle import Throttle
from gateway.auth.passwords import Passwords
from gateway.auth.principals import INBOX, Principal, Service, User, inbox_user
from gateway.auth.services import KEY_PREFIX
from gateway.auth.tokens import Tokens
from gateway.backplane import Backplane
from gateway.database.database import Database
from gateway.delivery.drain import Drain
from gateway.delivery.hub import Hub
from gateway.delivery.reconciler import Reconciler
from gateway.delivery.tail import Tail
from gateway.errors import (
    BearerMissing,
    InsufficientScope,
    Invalid,
    MissingToken,
    OriginNotAllowed,
    Unauthorized,
)
from gateway.networks import network_of
from gateway.observability.metrics import Metrics
from gateway.observability.readiness import Readiness
from gateway.origins import log_refused, own_origin, read_origin
from gateway.settings import Settings
from gateway.settings.wording import in_words
from gateway.store.writer import Writer


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts that `create_app` has made; they live at `app.state.gateway`."""

    settings: Settings
    database: Database
    writer: Writer
    hub: Hub
    tail: Tail
    backplane: Backplane
    reconciler: Reconciler
    tokens: Tokens
    passwords: Passwords
    throttle: Throttle
    drain: Drain
    readiness: Readiness
    metrics: Metrics


def parts_of(connection: HTTPConnection) -> Gateway:
    """Return the parts of the gateway that serves this connection."""
    return cast("Gateway", connection.app.state.gateway)


async def _parts(connection: HTTPConnection) -> Gateway:
    return parts_of(connection)


Parts = Annotated[Gateway, Depends(_parts)]


MAX_ADDRESS = 64
"""Most characters of an address. A proxy may pass on any text as one, and caches have it as their key."""


def client_address(connection: HTTPConnection) -> str:
    """Return who connects: what a proxy says where proxies are believed, else the other end."""
    return connection.client.host[:MAX_ADDRESS] if connection.client else ""


def bearer(connection: HTTPConnection) -> str | None:
    """Return the token of the header `Authorization: Bearer`, the scheme in any case (RFC 9110, 11.1)."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def missing(connection: HTTPConnection) -> MissingToken:
    """Return the error for a request without a token, which says what its header `Authorization` lacks."""
    given = connection.headers.get("authorization")
    if given is None:
        return MissingToken()
    if given.startswith(KEY_PREFIX):
        return BearerMissing("The API key came without the word Bearer: send 'Authorization: Bearer ngk_…'.")
    if given[:6].lower() == "basic ":
        return BearerMissing("Basic is for /v1/auth/token alone: send 'Authorization: Bearer …' here.")
    return BearerMissing()


async def _verified(connection: HTTPConnection, token: str) -> Principal:
    """Verify a token or API key. One that does not hold counts against the budget of its address.

    Raises `RateLimited` where that is used up: only tokens and keys that were good before are then verified,
    so known callers at the same address are served. Of one address few unknown keys are looked up at a time:
    a crowd of them neither takes the connections to the database, nor passes the budget before it is charged.
    """
    parts, address = parts_of(connection), client_address(connection)
    if parts.tokens.has_held(token):
        return await _charged(parts, token, address)
    if not token.startswith(KEY_PREFIX):
        parts.throttle.refusals.check(address)
        return await _charged(parts, token, address)
    async with parts.throttle.key_lookups.of(network_of(address)):
        parts.throttle.refusals.check(address)
        return await _charged(parts, token, address)


async def _charged(parts: Gateway, token: str, address: str) -> Principal:
    try:
        return await parts.tokens.verify(token)
    except Unauthorized:
        parts.throttle.refusals.charge(address)
        raise


async def counted_caller(connection: HTTPConnection) -> Principal:
    """Return who calls. A request of a user counts once, and before its body is read.

    Raises `RateLimited`. What a service does is counted by what it is allowed to do (`_Scoped`).
    """
    caller: Principal | None = connection.scope.get(_COUNTED)
    if caller is None:
        if (token := bearer(connection)) is None:
            raise missing(connection)
        caller = parts_of(connection).tokens.recall(token) or await _verified(connection, token)
        if isinstance(caller, User):
            parts_of(connection).throttle.commands.take(caller.id)
            connection.scope[_COUNTED] = caller
    return caller


_COUNTED = "gateway.counted"
"""Where the scope of a request keeps the user who calls."""


class UserScheme(SecurityBase):
    """What the OpenAPI says of a dependency that asks for a user with the scope `inbox`.

    The dependency is itself the security scheme, which costs a request nothing: it is what makes the
    Authorize button of /docs work.
    """

    def __init__(self) -> None:
        flow = OAuthFlowPassword(tokenUrl="/v1/auth/token", scopes={INBOX: "Read and change one's inbox."})
        self.model = OAuth2Model(flows=OAuthFlows(password=flow), description="Sign in as a user.")
        self.scheme_name = "user"


class _SignedIn(UserScheme):
    """A user with the scope `inbox`."""

    async def __call__(self, connection: HTTPConnection) -> User:
        caller = await counted_caller(connection)
        if isinstance(caller, Service):
            parts_of(connection).throttle.service_calls.take(caller.id)
        return inbox_user(caller)


class _Scoped(SecurityBase):
    """A service with one of some scopes. Its requests are `counted` where no other limit counts them.

    So is one that it may not make.
    """

    def __init__(self, *scopes: str, counted: bool = False) -> None:
        self.model = HTTPBearerModel(description="An API key, or an access token of a service.")
        self.scheme_name = "service"
        self._scopes = frozenset(scopes)
        self._wanted = scopes[0]
        self._counted = counted

    async def __call__(self, connection: HTTPConnection) -> Service:
        caller = await counted_caller(connection)
        if isinstance(caller, Service):
            allowed = not self._scopes.isdisjoint(caller.scopes)
            if self._counted or not allowed:
                parts_of(connection).throttle.service_calls.take(caller.id)
            if allowed:
                return caller
        raise InsufficientScope(self._wanted, caller.actor, self._missing(caller))

    def _missing(self, caller: Principal) -> str:
        if isinstance(caller, User):
            return (
                f"This needs the API key or token of a service with the scope '{self._wanted}', not a user's."
            )
        return (
            f"This needs the scope '{self._wanted}', which this service does not have. "
            f"Make one that has it: gateway service add NAME --scope {self._wanted}"
        )


InboxUser = Annotated[User, Depends(_SignedIn())]
poster = _Scoped("notify")
Poster = Annotated[Service, Depends(poster)]
Minter = Annotated[Service, Depends(_Scoped("tokens:mint"))]
Admin = Annotated[Service, Depends(_Scoped("admin", counted=True))]
NotificationReader = Annotated[Service, Depends(_Scoped("notify", "admin", counted=True))]


async def socket_user(connection: HTTPConnection) -> User:
    """Return who opens the socket, from the first carrier that holds a token.

    Raises `RateLimited` and `OriginNotAllowed` before anything else, `MissingToken` where no carrier holds
    one, and what `Tokens.verify` and `Tokens.redeem` raise.
    """
    parts = parts_of(connection)
    parts.throttle.handshakes.take(client_address(connection))
    check_origin(connection, parts.settings.allowed_origins)
    token = bearer(connection)
    ticket = parameter(connection, "ticket")
    if token is None and ticket is not None:
        return inbox_user(await parts.tokens.redeem(ticket))
    if token is None:
        token = _subprotocol_token(connection)
    if token is None and parts.settings.takes_query_token:
        token = parameter(connection, "token")
    if token is None:
        raise missing(connection)
    if token.startswith(KEY_PREFIX):
        # It opens no inbox. But a good one is told so, and that takes a lookup.
        return inbox_user(await _verified(connection, token))
    return inbox_user(await parts.tokens.verify(token))


def check_origin(connection: HTTPConnection, allowed: tuple[str, ...]) -> None:
    """Let a browser's page in only from the gateway's own origin or one that is listed.

    Raises `OriginNotAllowed`. The match is exact: scheme, host and port. A gateway behind a proxy knows that
    it is reached by https only where the proxy's X-Forwarded-Proto is believed.
    """
    origins, hosts = connection.headers.getlist("origin"), connection.headers.getlist("host")
    if not origins:
        return
    origin = read_origin(origins[0]) if len(origins) == 1 else None
    own = own_origin(connection.scope["scheme"], hosts[0]) if len(hosts) == 1 else None
    if origin is None or (origin != own and origin not in allowed):
        log_refused(origin, own)
        raise OriginNotAllowed(
            "List the page's origin in GATEWAY_ALLOWED_ORIGINS; where a proxy speaks https for the gateway, "
            "name the proxy in GATEWAY_FORWARDED_ALLOW_IPS."
        )


def _subprotocol_token(connection: HTTPConnection) -> str | None:
    """Return the token that a browser, which cannot set headers, sends as a subprotocol."""
    for offered in connection.scope.get("subprotocols", ()):
        if offered.startswith("bearer."):
            return str(offered.removeprefix("bearer."))
    return None


Sub = Annotated[
    str,
    Field(min_length=1, max_length=MAX_SUB, description="The id of a user, of your own choosing."),
    AfterValidator(check_sub),
]
"""A user's id in a body. The gateway never interprets it."""


async def _sub_path(
    connection: HTTPConnection,
    sub: Annotated[
        str,
        Path(
            description="The id of a user; percent-encode what a path cannot hold, `/` as `%2F`.",
            json_schema_extra={"minLength": 1, "maxLength": MAX_SUB},
        ),
    ],
) -> str:
    """Return the `sub` in the path `/v1/users/{sub}…` exactly as its client encoded it.

    The path that routing sees is decoded already, and has lost which `/` was part of the `sub`.
    """
    raw: bytes | None = connection.scope.get("raw_path")
    try:
        if raw is not None:
            before = str(connection.scope.get("root_path", "")).rstrip("/").count("/")
            sub = unquote_to_bytes(raw.split(b"/")[before + 3]).decode()
        return check_sub(sub)
    except ValueError as error:
        raise Invalid.field(
            "sub", "it must be UTF-8" if isinstance(error, UnicodeError) else str(error)
        ) from None


SubPath = Annotated[str, Depends(_sub_path)]


_KEY_CURSOR = in_words("be the `next` of a page", "^[0-9a-f]{0,32}$")
NumberCursor = Annotated[
    int, Query(ge=0, le=2**62, description="Where to go on: the `next` of the page before.")
]
KeyCursor = Annotated[
    str, Query(pattern=_KEY_CURSOR, description="Where to go on: the `next` of the page before.")
]
Limit = Annotated[int, Query(ge=1, le=200, description="How many to return at most.")]


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="A stable word for programs.")
    errors: list[dict[str, str]] | None = Field(None, description="What is wrong with which field.")


_WHY = {
    401: "No token, or one that does not hold.",
    403: "The token does not allow this.",
    404: "There is no such thing.",
    409: "It conflicts with what is there.",
    410: "The log cannot be resumed from there.",
    413: "The body is too large.",
    415: "The body is compressed.",
    422: "The request is not valid.",
    429: "The caller does more than one caller may.",
    503: "The gateway cannot do this now.",
}


BODY = (413, 415)
"""What a route with a body may answer besides."""


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI says of these errors; 401, 403, 422, 429 and 503 go without saying."""
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": _WHY[status], "content": content}
        for status in sorted({401, 403, 422, 429, 503, *statuses})
    }
