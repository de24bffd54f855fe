"""All rate limits and concurrency limits of callers.

`logins` counts failed sign-ins, in Redis for all processes if `GATEWAY_RATE_LIMIT_URL` is set. All other
limits protect this process, and `token_buckets` counts them in it.
"""

from typing import Self

from gateway.auth.limits.body_queue import SMALL_BODY, BodyQueue
from gateway.auth.limits.counters import Memory, Shared
from gateway.auth.limits.held_answers import HeldAnswers
from gateway.auth.limits.logins import Logins
from gateway.auth.limits.token_buckets import Buckets, NetworkBuckets
from gateway.database.slots import Slots
from gateway.settings import Settings

CLIENT_FAILURES = 100
"""Maximum number of failures per minute to authenticate as a service from one address."""

KEY_LOOKUPS = 2
"""Maximum number of concurrent lookups of unknown API keys from one address.

More than one, so that a lookup that hangs does not block the others.
"""

LARGE_BODIES = 2
"""Maximum number of large bodies of one service in memory at a time."""

LONG_ANSWERS = 2
"""Maximum number of long responses to one user in memory at a time."""

PAGE_READS = 2
"""Maximum number of pages of one user read at a time: all users share a few threads or connections."""

USER_SOCKETS_FACTOR = 4
"""Command rate of all sockets of one user together, as a multiple of the rate of one socket."""

SENT_ON_KIB = 64
"""How many KiB of changed items a user may have sent on to all its sockets, for each request of its rate."""

USER_REFRESHES_FACTOR = 4
"""Refresh rate of all sessions of one user together, as a multiple of the rate of one session."""

ITEMS_PER_KIB = 4
"""Number of items that each KiB of a large body counts as: parsing it costs as much as storing them."""

_MINUTE_SECONDS = 60


def items_of(size: int) -> int:
    """Return how many items a body of `size` bytes counts as, beyond the size of a small body."""
    return max(size - SMALL_BODY, 0) * ITEMS_PER_KIB // 1024


class RateLimits:
    """All limits of callers. An async context manager.

    By service or user:

    - `body_queue`: large bodies.

    By network:

    - `held_answers`: larger answers that clients have not read yet.

    By service:

    - `posts`, and `items`: their recipients.
    - `large_bodies`: large bodies in memory at a time.
    - `tokens`: tokens that the service gets or mints.
    - `service_calls`: all other requests.

    By address:

    - `handshakes`.
    - `auth`: requests to the token and revocation endpoints.
    - `clients`: failures to authenticate as a service.
    - `refusals`: requests with an invalid token or API key.
    - `anonymous`: requests whose credential is not verified.
    - `refused`: 429 responses that are sent at once.
    - `key_lookups`: lookups of API keys at a time.

    By user:

    - `commands`: REST requests.
    - `socket_commands`: commands of all sockets of the user; each handshake counts as one.
    - `changes`: the KiB of the items that the user changes, once for each socket of the user.
    - `long_answers` and `page_reads`: long responses and page reads at a time.
    - `sign_ins` (successful ones), `refreshes` of a session, `user_refreshes` of all sessions, `minted`
      tokens and `tickets`, each counted separately.
    """

    def __init__(self, settings: Settings) -> None:
        posts, handshakes = settings.posts_per_second, settings.handshakes_per_second
        commands, calls = settings.commands_per_second, settings.service_calls_per_second
        self.posts = Buckets("posts", posts, posts * 4)
        self.commands = Buckets("commands", commands, commands * 4)
        sockets = USER_SOCKETS_FACTOR * commands
        self.socket_commands = Buckets("socket-commands", sockets, sockets * 4)
        sent_on = SENT_ON_KIB * commands
        self.changes = Buckets("changes", sent_on, sent_on * 4)
        self.service_calls = Buckets("service-calls", calls, calls * 4)
        self.items = Buckets("items", settings.items_per_second, settings.items_per_second * 4)
        self.large_bodies = Slots(LARGE_BODIES)
        self.long_answers = Slots(LONG_ANSWERS)
        self.page_reads = Slots(PAGE_READS)
        self.held_answers = HeldAnswers()
        self.body_queue = BodyQueue()
        self.handshakes = NetworkBuckets("handshakes", handshakes, handshakes * 10)
        tokens, auth = settings.tokens_per_second, settings.auth_per_second
        self.tokens = Buckets("tokens", tokens, tokens * 4)
        self.auth = NetworkBuckets("auth", auth, auth * 10)
        refusals = settings.refusals_per_second
        self.refusals = NetworkBuckets("refusals", refusals, refusals * 10)
        self.refused = NetworkBuckets("refused", refusals, refusals * 10)
        anonymous = settings.anonymous_per_second
        self.anonymous = NetworkBuckets("anonymous", anonymous, anonymous * 10)
        self.key_lookups = Slots(KEY_LOOKUPS)
        self.clients = NetworkBuckets("clients", CLIENT_FAILURES / _MINUTE_SECONDS, CLIENT_FAILURES)
        each = settings.tokens_per_minute
        self.sign_ins = Buckets("sign-ins", each / _MINUTE_SECONDS, each)
        self.refreshes = Buckets("refreshes", each / _MINUTE_SECONDS, each)
        refreshed = USER_REFRESHES_FACTOR * each
        self.user_refreshes = Buckets("user-refreshes", refreshed / _MINUTE_SECONDS, refreshed)
        self.minted = Buckets("minted", each / _MINUTE_SECONDS, each)
        self.tickets = Buckets("tickets", each / _MINUTE_SECONDS, each)
        url = settings.rate_limit_url
        self._shared = None if url is None else Shared(url.get_secret_value())
        self.logins = Logins(settings, self._shared or Memory())

    def begin_post(self, service: int) -> None:
        """Count a post to one recipient, before its body is read. Raises `RateLimited`."""
        self.posts.take(service)
        self.items.take(service)

    def charge_rest(self, service: int, posts: int, items: int) -> None:
        """Count the posts and items of a body beyond those that `begin_post` counted.

        Raises `RateLimited`.
        """
        if posts > 1:
            self.posts.take(service, posts - 1, least=0)
        if items > 1:
            self.items.take(service, items - 1, least=0)

    def begin_refresh(self, session: str, user_id: int) -> None:
        """Count a refresh against its session and its user.

        Raises `RateLimited`, and then counts nothing.
        """
        self.user_refreshes.check(user_id)
        self.refreshes.take(session)
        self.user_refreshes.charge(user_id)

    def charge_body(self, caller: int, size: int) -> None:
        """Count the cost of a body beyond that of a small one, before it is parsed. Raises `RateLimited`.

        `size` is in bytes. `caller` is the id of a service, or minus the id of a user.
        """
        if caller > 0:
            self.items.take(caller, items_of(size), least=0)
        else:
            self.commands.take(-caller, (size - 1) // SMALL_BODY, least=0)

    def settle_body(self, service: int, size: int, recipients: int) -> None:
        """Count a post as the most of its recipients, the KiB of its body, and its parsing.

        Before, it counted as one item and its parsing; its recipients beyond the first are counted later.
        """
        counted = 1 + items_of(size)
        self.items.charge(service, max(recipients, -(-size // 1024), counted) - counted - (recipients - 1))

    async def fault(self) -> str | None:
        """Return why the configured Redis does not answer. None if it answers, or if none is configured."""
        return None if self._shared is None else await self._shared.fault()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._shared is not None:
            await self._shared.close()
