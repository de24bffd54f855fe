"""The errors of the gateway. Each class has an HTTP status, a stable `code` and a close code.

`api/error_rendering.py` renders all of them, for HTTP (RFC 9457) and for WebSocket (a close frame).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from gateway.protocol.close_codes import Close
from gateway.protocol.terminal import shown

MAX_ERRORS = 20
"""Maximum number of invalid fields that a response names."""

MAX_DETAIL = 1000
"""Maximum length of the detail of an error, in characters."""

MAX_FIELD = 64
"""Maximum length of a field's name in a response, in characters; callers choose unknown fields' names."""

MAX_MESSAGE = 200
"""Maximum length of the message for an invalid field, in characters."""


class Disconnected(Exception):
    """The client of a socket has disconnected or is being closed, so no response is possible."""


class GatewayError(Exception):
    """An error response. `detail` is a sentence for people, and never holds a secret.

    `detail` has at most `MAX_DETAIL` characters, and `errors` holds the first `MAX_ERRORS` invalid fields.
    `actor` is the caller's name in the audit log, if the caller was authenticated.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "The gateway failed"
    advice: ClassVar[str] = ""
    """What to do, used if there is no detail: the end of a sentence that begins with the title."""
    close_code: ClassVar[Close] = Close.INTERNAL_ERROR
    actor: str | None = None
    why: str | None = None
    """The reason in the audit log, one word, if `code` is not specific enough."""

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
    """The caller is not authenticated: 401 with a challenge (RFC 6750, section 3)."""

    status = 401
    code = "invalid_token"
    title = "The token is not valid"
    close_code = Close.UNAUTHORIZED

    def __init__(self, detail: str | None = None) -> None:
        # A request without any token gets the bare challenge instead (RFC 6750, section 3.1).
        challenge = f'Bearer error="invalid_token", error_description="{self.title}"'
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class MissingToken(Unauthorized):
    """The request has no token in any of the token sources."""

    code = "missing_token"
    title = "A token or an API key is needed"
    advice = "send it in the header 'Authorization: Bearer …'"

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail)
        self.headers["WWW-Authenticate"] = "Bearer"


class BearerMissing(MissingToken):
    """The `Authorization` header has a token or an API key, but not the scheme `Bearer`."""

    title = "The header Authorization does not begin with Bearer"


class InvalidToken(Unauthorized):
    """The token is malformed, forged, or not for this gateway. `why` is for the operator only."""

    advice = "it is incomplete, forged, or not of this gateway. Get a new one"

    def __init__(self, detail: str | None = None, *, why: str | None = None) -> None:
        super().__init__(detail)
        self.why = why


class InvalidKey(InvalidToken):
    """The API key is mistyped, deleted, or from another gateway."""

    title = "The API key is not valid"
    advice = "it was deleted, or is of another gateway. Make a new one: gateway key add SERVICE"


class ForeignSubject(InvalidToken):
    """The token names a user whose `sub` begins with the prefix of another issuer."""

    def __init__(self) -> None:
        super().__init__(why="subject_of_another_issuer")


class TokenExpired(Unauthorized):
    """The token was valid, and has expired."""

    code = "token_expired"
    title = "The token has expired"
    advice = "get a new one"


class TokenRevoked(Unauthorized):
    """The session of the token has ended, or the API key was deleted."""

    code = "token_revoked"
    title = "The token has been revoked"
    advice = "its session has ended. Sign in again, or get a new one"


class KeyRevoked(TokenRevoked):
    """The API key was deleted."""

    title = "The API key has been revoked"
    advice = "it or its service was deleted. Make a new one: gateway key add SERVICE"


class InsufficientScope(GatewayError):
    """The caller is authenticated but lacks the scope (RFC 6750, section 3.1)."""

    status = 403
    code = "insufficient_scope"
    title = "The token or API key does not allow this"
    close_code = Close.FORBIDDEN

    def __init__(self, scope: str, actor: str | None = None, detail: str | None = None) -> None:
        super().__init__(
            detail or f"This needs the scope '{scope}'.",
            headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
        )
        self.actor = actor


class OriginNotAllowed(GatewayError):
    """A browser page of another origin requested a socket, and was refused before the upgrade."""

    status = 403
    code = "origin_not_allowed"
    title = "The origin is not allowed"
    close_code = Close.FORBIDDEN


class NotFound(GatewayError):
    """The resource does not exist or belongs to another caller; the response does not say which."""

    status = 404
    code = "not_found"
    title = "Not found"

    def __init__(
        self, detail: str | None = None, *, name: str | None = None, near: str | None = None
    ) -> None:
        """Create the error for a missing resource called `name`. `near` is the most similar existing name.

        Commands print the names; HTTP responses do not repeat values of the request.
        """
        super().__init__(detail)
        self.name = name
        self.near = near


class Conflict(GatewayError):
    """The resource exists already."""

    status = 409
    code = "already_exists"
    title = "It exists already"

    def __init__(self, detail: str | None = None, *, name: str | None = None) -> None:
        """Create the error for an existing user called `name`, which only commands print."""
        super().__init__(detail)
        self.name = name


class UserDisabled(GatewayError):
    """The user is disabled, so no token is issued for this user."""

    status = 409
    code = "user_disabled"
    title = "The user is disabled"
    advice = "enable the user first, by PATCH /v1/users/{sub} or gateway user enable"


class ResetRequired(GatewayError):
    """The log can't be replayed from the resume point, so the client reloads the inbox."""

    status = 410
    code = "reset_required"
    title = "The log cannot be resumed from there"


class PreconditionFailed(GatewayError):
    """The resource is not in the state that the `If-Match` of the request names."""

    status = 412
    code = "precondition_failed"
    title = "The condition in If-Match is not met"
    advice = "read it again, and send the change with its new ETag"


class PayloadTooLarge(GatewayError):
    """The body, or one message, exceeds its size limit."""

    status = 413
    code = "payload_too_large"
    title = "The body is too large"


class UnsupportedEncoding(GatewayError):
    """The body is compressed, which is refused because it could expand without limit.

    RFC 9110, section 15.5.16.
    """

    status = 415
    code = "unsupported_media_type"
    title = "The body is compressed"

    def __init__(self) -> None:
        super().__init__(
            "Send the body as it is, without Content-Encoding.", headers={"Accept-Encoding": "identity"}
        )


class Invalid(GatewayError):
    """The request is well formed but breaks a rule. `errors` name the fields."""

    status = 422
    code = "validation_error"
    title = "The request is not valid"

    @classmethod
    def field(cls, field: str, message: str) -> "Invalid":
        """Return the error for one field that breaks one rule."""
        return cls(f"{field}: {message}", errors=[{"field": field, "message": message}])


class IdempotencyKeyReused(Invalid):
    """The idempotency key was used before with another body."""

    code = "idempotency_key_reused"
    title = "The Idempotency-Key was used with another body"
    advice = "use a new key for new content, or repeat the first body to get its answer again"


class Unavailable(GatewayError):
    """The gateway can't do this now. It has stored nothing, or doesn't know whether it has.

    `retryable` means that it has certainly stored nothing, and that another attempt may succeed at once.
    """

    status = 503
    code = "unavailable"
    title = "The gateway cannot do this now"
    close_code = Close.OVERLOADED

    def __init__(self, detail: str | None = None, *, retry_after: int = 1, retryable: bool = False) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})
        self.retryable = retryable


class Overloaded(Unavailable):
    """The process has reached a limit of what it holds."""

    code = "overloaded"
    title = "The gateway is overloaded"


class Draining(Unavailable):
    """The process drains and accepts no new sockets; this one was refused before the upgrade."""

    code = "draining"
    title = "The gateway is ending"
    close_code = Close.RESTART


class UpgradeRequired(GatewayError):
    """The path of the socket was requested without a WebSocket upgrade."""

    status = 426
    code = "upgrade_required"
    title = "This is a WebSocket"

    def __init__(self) -> None:
        super().__init__("Open it with a WebSocket client.", headers={"Upgrade": "websocket"})


class TooManySockets(GatewayError):
    """The user has the maximum number of sockets already."""

    status = 429
    code = "too_many_sockets"
    title = "Too many sockets of this user"
    close_code = Close.TOO_MANY_SOCKETS


class RateLimited(GatewayError):
    """The caller has exceeded a rate limit.

    `policy` names the limit, which is `quota` within `window` seconds. The caller may retry after
    `retry_after` seconds. The headers follow draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4.
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
