"""Dependencies that authenticate and authorise the caller of a request or socket.

They take an `HTTPConnection`, so HTTP and WebSocket routes share them. A route gets a `User` or a `Service`,
never None. They hold no database connection, because they live as long as the socket that they open.
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
from gateway.protocol.fields import first_field
from gateway.settings.networks import network_of
from gateway.settings.origins import log_refused, own_origin, read_origin
from gateway.transport.fast_path import FAILURE

MAX_ADDRESS_CHARACTERS = 64
"""Maximum characters of an address. A proxy may pass on any text, and caches use it as a key."""


def client_address(connection: HTTPConnection) -> str:
    """Return the client's address: from a trusted proxy's header, or else the peer's address."""
    client: tuple[str, int] | None = connection.scope.get("client")
    return client[0][:MAX_ADDRESS_CHARACTERS] if client else ""


def bearer(connection: HTTPConnection) -> str | None:
    """Return the token of `Authorization: Bearer`, or None. The scheme ignores case (RFC 9110, 11.1)."""
    given = first_field(connection.scope["headers"], b"authorization") or b""
    scheme, _, token = given.decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def missing(connection: HTTPConnection) -> MissingToken:
    """Return the error for a request without a token. It says what is wrong with `Authorization`."""
    given = connection.headers.get("authorization")
    if given is None:
        return MissingToken()
    if given.startswith(KEY_PREFIX):
        return BearerMissing("The API key came without the word Bearer: send 'Authorization: Bearer ngk_…'.")
    if given.strip().lower() == "bearer":
        return MissingToken(
            "Nothing follows Bearer in the header Authorization: is the variable of the token or key set?"
        )
    if given[:6].lower() == "basic ":
        return BearerMissing("Basic is for /v1/auth/token alone: send 'Authorization: Bearer …' here.")
    return BearerMissing()


async def _verified(connection: HTTPConnection, token: str) -> Principal:
    """Verify a token or API key. An invalid one counts against the rate limit of its address.

    Raises `RateLimited` over that limit. Tokens and keys that were valid before are still verified then, so
    known callers at the same address are served. Only a few unknown keys per address are looked up at a time:
    a burst of them can neither take all database connections, nor pass the limit before it is charged.
    """
    state, address = state_of(connection), client_address(connection)
    if state.tokens.was_valid(token):
        return await _charged(state, token, address)
    if not token.startswith(KEY_PREFIX):
        state.rate_limits.refusals.check(address)
        return await _charged(state, token, address)
    async with state.rate_limits.key_lookups.of(network_of(address)):
        state.rate_limits.refusals.check(address)
        return await _charged(state, token, address)


async def _charged(state: Gateway, token: str, address: str) -> Principal:
    try:
        return await state.tokens.verify(token)
    except Unauthorized:
        state.rate_limits.refusals.charge(address)
        raise


async def counted_caller(connection: HTTPConnection) -> Principal:
    """Return the caller. Counts a user's request once, before its body is read.

    Raises the error of a request that a fast path has taken in vain. Otherwise, raises `MissingToken`,
    `RateLimited` and what `Tokens.verify` raises. Requests of services are counted
    elsewhere, depending on what they do (`_Scoped`).
    """
    if FAILURE in connection.scope:
        raise connection.scope.pop(FAILURE)
    caller: Principal | None = connection.scope.get(_COUNTED)
    if caller is None:
        if not (token := bearer(connection)):
            raise missing(connection)
        caller = state_of(connection).tokens.recall(token) or await _verified(connection, token)
        turns.caller.set((type(caller), caller.id))
        if isinstance(caller, User):
            state_of(connection).rate_limits.commands.take(caller.id)
            connection.scope[_COUNTED] = caller
    return caller


_COUNTED = "gateway.counted"
"""Key of the ASGI scope that caches the counted user."""


class UserScheme(SecurityBase):
    """The OpenAPI security scheme of a dependency that requires a user with the scope `inbox`.

    The dependency itself is the security scheme, which makes the Authorize button of /docs work and costs
    requests nothing.
    """

    def __init__(self) -> None:
        flow = OAuthFlowPassword(tokenUrl="/v1/auth/token", scopes={INBOX: "Read and change one's inbox."})
        self.model = OAuth2Model(flows=OAuthFlows(password=flow), description="Sign in as a user.")
        self.scheme_name = "user"


class _SignedIn(UserScheme):
    """Dependency: a user with the scope `inbox`."""

    async def __call__(self, connection: HTTPConnection) -> User:
        caller = await counted_caller(connection)
        if isinstance(caller, Service):
            state_of(connection).rate_limits.service_calls.take(caller.id)
        return inbox_user(caller)


class _Scoped(SecurityBase):
    """Dependency: a service that has at least one of `scopes`.

    Set `counted` if no other rate limit counts the requests. A request that the service lacks the scope for
    always counts.
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
                state_of(connection).rate_limits.service_calls.take(caller.id)
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
    """Return the user who opens the socket, from the first token source that holds a token.

    Raises `RateLimited` and `OriginNotAllowed` before anything else, `MissingToken` if no source holds a
    token, and what `Tokens.verify`, `Tokens.redeem` and `inbox_user` raise.
    """
    state = state_of(connection)
    state.rate_limits.handshakes.take(client_address(connection))
    check_origin(connection, state.settings.allowed_origins)
    token = bearer(connection)
    ticket = parameter(connection, "ticket")
    if token is None and ticket is not None:
        return inbox_user(await state.tokens.redeem(ticket))
    if token is None:
        token = _subprotocol_token(connection)
    if token is None and state.settings.takes_query_token:
        token = parameter(connection, "token")
    if not token:
        raise missing(connection)
    if token.startswith(KEY_PREFIX):
        # An API key opens no inbox. The error tells a valid key from an unknown one, which takes a lookup.
        return inbox_user(await _verified(connection, token))
    return inbox_user(await state.tokens.verify(token))


def check_origin(connection: HTTPConnection, allowed: tuple[str, ...]) -> None:
    """Raise `OriginNotAllowed` for a page of any origin but the gateway's own and those in `allowed`.

    The match is exact: scheme, host and port. A gateway behind a proxy learns that clients use https only if
    it trusts the proxy's X-Forwarded-Proto. A request without an `Origin` header passes: no page sent it.
    """
    if first_field(connection.scope["headers"], b"origin") is None:
        return
    origins, hosts = connection.headers.getlist("origin"), connection.headers.getlist("host")
    origin = read_origin(origins[0]) if len(origins) == 1 else None
    own = own_origin(connection.scope["scheme"], hosts[0]) if len(hosts) == 1 else None
    if origin is None or (origin != own and origin not in allowed):
        log_refused(origin, own)
        raise OriginNotAllowed(
            "List the page's origin in GATEWAY_ALLOWED_ORIGINS; where a proxy speaks https for the gateway, "
            "name the proxy in GATEWAY_FORWARDED_ALLOW_IPS."
        )


def _subprotocol_token(connection: HTTPConnection) -> str | None:
    """Return the token that a browser sends as a subprotocol, because it cannot set headers."""
    for offered in connection.scope.get("subprotocols", ()):
        if offered.startswith("bearer."):
            return str(offered.removeprefix("bearer."))
    return None
