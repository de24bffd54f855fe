"""The errors of the gateway: each class knows its HTTP status, its stable `code` and its close code.

`api/rendering.py` renders them, once, for HTTP (RFC 9457) and for WebSocket (a close frame).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from gateway.protocol.close_codes import Close
from gateway.protocol.terminal import shown

MAX_ERRORS = 20
"""How many of the fields that break a rule an answer names."""

MAX_DETAIL = 1000
"""How many characters the detail of an error has at most."""

MAX_FIELD = 64
"""How many characters of the name of a field are said: the name of an unknown one is the caller's own."""

MAX_MESSAGE = 200
"""How many characters the rule has that a field breaks."""


class Disconnected(Exception):
    """The client of a socket is gone, or is being closed: there is nobody to answer."""


class GatewayError(Exception):
    """An answer that is not the wished one. `detail` is a sentence for a person; it never holds a secret.

    It is of bounded length, however long what it names is, and so are `errors`: the first 20 fields.
    `actor` is who asked, as the audit log names callers, where that was known when it was refused.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "The gateway failed"
    advice: ClassVar[str] = ""
    """What to do, where no detail says it: the end of a sentence that begins with the title."""
    close_code: ClassVar[Close] = Close.INTERNAL_ERROR
    actor: str | None = None
    why: str | None = None
    """What the audit log says of the reason where the code does not say all of it: a word of this code."""

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.detail = shown(detail, MAX_DETAIL) if detail else self._default_detail()
        super().__init__(self.detail)
        self.errors = [_bounded(one) for one in errors[:MAX_ERRORS]]
        self.headers = dict(headers or {})

    def _default_detail(self) -> str:
        return f"{self.title}: {self.advice}." if self.advice else self.title


def _bounded(error: Mapping[str, str]) -> dict[str, str]:
    return {
        "field": shown(error["field"], MAX_FIELD),
        "message": shown(error["message"], MAX_MESSAGE),
    }


class Unauthorized(GatewayError):
    """Who calls is not known. RFC 6750, section 3: 401 with a challenge."""

    status = 401
    code = "invalid_token"
    title = "The token is not valid"
    close_code = Close.UNAUTHORIZED

    def __init__(self, detail: str | None = None) -> None:
        # A request that carried no token at all gets the bare challenge (RFC 6750, section 3.1).
        challenge = f'Bearer error="invalid_token", error_description="{self.title}"'
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class MissingToken(Unauthorized):
    """No carrier held a token."""

    code = "missing_token"
    title = "A token or an API key is needed"
    advice = "send it in the header 'Authorization: Bearer …'"

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail)
        self.headers["WWW-Authenticate"] = "Bearer"


class BearerMissing(MissingToken):
    """The header `Authorization` has a token or a key, but not the scheme `Bearer`."""

    title = "The header Authorization does not begin with Bearer"


class InvalidToken(Unauthorized):
    """The token is malformed, forged, or not for this gateway; `why` is for the operator alone."""

    advice = "it is incomplete, forged, or not of this gateway. Get a new one"

    def __init__(self, detail: str | None = None, *, why: str | None = None) -> None:
        super().__init__(detail)
        self.why = why


class InvalidKey(InvalidToken):
    """The API key is mistyped, deleted, or not of this gateway."""

    title = "The API key is not valid"
    advice = "it was deleted, or is of another gateway. Make a new one: gateway key add SERVICE"


class ForeignSubject(InvalidToken):
    """The token names a user whose `sub` begins with the prefix of another issuer."""

    def __init__(self) -> None:
        super().__init__(why="subject_of_another_issuer")


class TokenExpired(Unauthorized):
    """The token was good once."""

    code = "token_expired"
    title = "The token has expired"
    advice = "get a new one"


class TokenRevoked(Unauthorized):
    """The session of the token has ended, or its key was deleted."""

    code = "token_revoked"
    title = "The token has been revoked"
    advice = "its session has ended. Sign in again, or get a new one"


class KeyRevoked(TokenRevoked):
    """The API key was deleted."""

    title = "The API key has been revoked"
    advice = "it or its service was deleted. Make a new one: gateway key add SERVICE"


class InsufficientScope(GatewayError):
    """The caller is known and may not do this. RFC 6750, section 3.1."""

    status = 403
    code = "insufficient_scope"
    title = "The token does not allow this"
    close_code = Close.FORBIDDEN

    def __init__(self, scope: str, actor: str | None = None, detail: str | None = None) -> None:
        super().__init__(
            detail or f"This needs a token with the scope '{scope}'.",
            headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
        )
        self.actor = actor


class OriginNotAllowed(GatewayError):
    """A browser page of another origin asked for a socket; refused before the upgrade."""

    status = 403
    code = "origin_not_allowed"
    title = "The origin is not allowed"
    close_code = Close.FORBIDDEN


class NotFound(GatewayError):
    """There is no such thing, or it is someone else's: the two are not told apart."""

    status = 404
    code = "not_found"
    title = "Not found"

    def __init__(self, detail: str | None = None, *, name: str | None = None) -> None:
        """`name` is what was looked for. A command says it; an answer tells no value of its request."""
        super().__init__(detail)
        self.name = name


class Conflict(GatewayError):
    """It exists already."""

    status = 409
    code = "already_exists"
    title = "It exists already"


class UserDisabled(GatewayError):
    """The user may not sign in, so nobody is given a token of theirs."""

    status = 409
    code = "user_disabled"
    title = "The user is disabled"
    advice = "enable the user first, by PATCH /v1/users/{sub} or gateway user enable"


class ResetRequired(GatewayError):
    """The log cannot be resumed from there: the client reads the inbox afresh."""

    status = 410
    code = "reset_required"
    title = "The log cannot be resumed from there"


class PayloadTooLarge(GatewayError):
    """The body, or one message, is over its limit."""

    status = 413
    code = "payload_too_large"
    title = "The body is too large"


class UnsupportedEncoding(GatewayError):
    """The body is compressed: what it unpacks to would have no bound (RFC 9110, section 15.5.16)."""

    status = 415
    code = "unsupported_media_type"
    title = "The body is compressed"

    def __init__(self) -> None:
        super().__init__(
            "Send the body as it is, without Content-Encoding.", headers={"Accept-Encoding": "identity"}
        )


class Invalid(GatewayError):
    """The request is understood and breaks a rule; `errors` name the fields."""

    status = 422
    code = "validation_error"
    title = "The request is not valid"

    @classmethod
    def field(cls, field: str, message: str) -> "Invalid":
        """Return the error for one field that breaks one rule."""
        return cls(f"{field}: {message}", errors=[{"field": field, "message": message}])


class IdempotencyKeyReused(Invalid):
    """The key came before with another body."""

    code = "idempotency_key_reused"
    title = "The Idempotency-Key was used with another body"
    advice = "use a new key for new content, or repeat the first body to get its answer again"


class Unavailable(GatewayError):
    """The gateway cannot do it now; nothing was stored, or it is not known whether it was.

    `retryable` says that nothing was, for certain, and that another attempt may succeed at once.
    """

    status = 503
    code = "unavailable"
    title = "The gateway cannot do this now"
    close_code = Close.OVERLOADED

    def __init__(self, detail: str | None = None, *, retry_after: int = 1, retryable: bool = False) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})
        self.retryable = retryable


class Overloaded(Unavailable):
    """More than this process may hold."""

    code = "overloaded"
    title = "The gateway is overloaded"


class Draining(Unavailable):
    """The process is ending and takes no more sockets; refused before the upgrade."""

    code = "draining"
    title = "The gateway is ending"
    close_code = Close.RESTART


class UpgradeRequired(GatewayError):
    """The path of the socket was asked for like any other."""

    status = 426
    code = "upgrade_required"
    title = "This is a WebSocket"

    def __init__(self) -> None:
        super().__init__("Open it with a WebSocket client.", headers={"Upgrade": "websocket"})


class TooManySockets(GatewayError):
    """The user holds as many sockets as one user may."""

    status = 429
    code = "too_many_sockets"
    title = "Too many sockets of this user"
    close_code = Close.TOO_MANY_SOCKETS


class RateLimited(GatewayError):
    """The caller does more than one caller may.

    `policy` names the limit, of `quota` within `window` seconds; in `retry_after` seconds there is room.
    The headers are those of draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4.
    """

    status = 429
    code = "rate_limited"
    title = "Too many requests"
    close_code = Close.OVERLOADED

    def __init__(self, policy: str, *, quota: int, window: int, retry_after: int) -> None:
        headers = {
            "Retry-After": str(retry_after),
            "RateLimit": f'"{policy}";r=0;t={retry_after}',
            "RateLimit-Policy": f'"{policy}";q={quota};w={window}',
        }
        super().__init__(f"Try again in {retry_after} s.", headers=headers)


class OAuthError(GatewayError):
    """An error of the token endpoint, which has its own body: RFC 6749, section 5.2."""

    status = 400

    def __init__(self, error: str, description: str, *, status: int = 400) -> None:
        headers = {"WWW-Authenticate": 'Basic realm="gateway"'} if status == 401 else {}  # noqa: PLR2004
        super().__init__(description, headers=headers)
        self.error = error
        self.http_status = status
