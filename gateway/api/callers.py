"""The callers: who makes a request or opens a socket, and whether they may.

Every dependency works on `HTTPConnection`, so HTTP and WebSocket share them. Past one of them the caller is
a type (`User`, `Service`), never a maybe. None of them holds a database connection: they live as long as
the socket they serve.
"""

from typing import Annotated

from fastapi import Depends
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.openapi.models import OAuth2 as OAuth2Model
from fastapi.openapi.models import OAuthFlowPassword, OAuthFlows
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from gateway.api.query import parameter
from gateway.api.state import Gateway, state_of
from gateway.auth.principals import INBOX, Principal, Service, User, inbox_user
from gateway.auth.services import KEY_PREFIX
from gateway.database import turns
from gateway.errors import BearerMissing, InsufficientScope, MissingToken, OriginNotAllowed, Unauthorized
from gateway.settings.networks import network_of
from gateway.settings.origins import log_refused, own_origin, read_origin

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
    state, address = state_of(connection), client_address(connection)
    if state.tokens.was_valid(token):
        return await _charged(state, token, address)
    if not token.startswith(KEY_PREFIX):
        state.throttle.refusals.check(address)
        return await _charged(state, token, address)
    async with state.throttle.key_lookups.of(network_of(address)):
        state.throttle.refusals.check(address)
        return await _charged(state, token, address)


async def _charged(state: Gateway, token: str, address: str) -> Principal:
    try:
        return await state.tokens.verify(token)
    except Unauthorized:
        state.throttle.refusals.charge(address)
        raise


async def counted_caller(connection: HTTPConnection) -> Principal:
    """Return who calls. A request of a user counts once, and before its body is read.

    Raises `RateLimited`. What a service does is counted by what it is allowed to do (`_Scoped`).
    """
    caller: Principal | None = connection.scope.get(_COUNTED)
    if caller is None:
        if (token := bearer(connection)) is None:
            raise missing(connection)
        caller = state_of(connection).tokens.recall(token) or await _verified(connection, token)
        turns.caller.set((type(caller), caller.id))
        if isinstance(caller, User):
            state_of(connection).throttle.commands.take(caller.id)
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
            state_of(connection).throttle.service_calls.take(caller.id)
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
                state_of(connection).throttle.service_calls.take(caller.id)
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
    state = state_of(connection)
    state.throttle.handshakes.take(client_address(connection))
    check_origin(connection, state.settings.allowed_origins)
    token = bearer(connection)
    ticket = parameter(connection, "ticket")
    if token is None and ticket is not None:
        return inbox_user(await state.tokens.redeem(ticket))
    if token is None:
        token = _subprotocol_token(connection)
    if token is None and state.settings.takes_query_token:
        token = parameter(connection, "token")
    if token is None:
        raise missing(connection)
    if token.startswith(KEY_PREFIX):
        # It opens no inbox. But a good one is told so, and that takes a lookup.
        return inbox_user(await _verified(connection, token))
    return inbox_user(await state.tokens.verify(token))


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
