"""All the limits of what one caller may do: its failed sign-ins, and what it succeeds in.

Failed sign-ins are counted by `logins`, for all processes in Redis where that is set. The rest protects this
process, and is counted in it, by `buckets`.
"""

from typing import Self

from gateway.auth.limits.buckets import Buckets, NetworkBuckets
from gateway.auth.limits.counters import Memory, Shared
from gateway.auth.limits.intake import SMALL_BODY, Intake
from gateway.auth.limits.logins import Logins
from gateway.database.slots import Slots
from gateway.settings import Settings

CLIENT_FAILURES = 100
"""How often an address may fail to authenticate as a service within a minute."""

KEY_LOOKUPS = 2
"""How many unknown API keys of one address are looked up at a time: one that hangs does not hold up all."""

LARGE_BODIES = 2
"""How many large bodies of one service are held in memory at the same time."""

LONG_ANSWERS = 2
"""How many long answers to one user are held in memory at the same time."""

PAGE_READS = 2
"""How many pages of one user are read at the same time: few threads, or connections, read for all."""

SOCKETS = 4
"""How many sockets' worth of commands one user may send over all its sockets."""

SESSIONS = 4
"""How many sessions' worth of refreshes one user may do over all its sessions."""

ITEMS_PER_KIB = 4
"""How many items each KiB of a larger body counts as: parsing it costs about as much as storing those."""

MINUTE = 60


def items_of(size: int) -> int:
    """Return how many items the bytes of a body count as beyond a small one."""
    return max(size - SMALL_BODY, 0) * ITEMS_PER_KIB // 1024


class Throttle:
    """All of the limits. An async context manager.

    By service or user: the `intake` of larger bodies. By service: `posts` and their `items` (recipients),
    `large_bodies` at a time, `tokens` that it gets or mints, and `service_calls` (all else). By address:
    `handshakes`, `auth` (requests to the token and revocation endpoints), `clients` (failures to authenticate
    as a service), `refusals` (requests with a token or a key that does not hold), `anonymous` (requests whose
    credential nobody verifies), `refused` (answers 429 that come at once) and `key_lookups` at a time.
    By user: `commands` (requests over REST), `socket_commands` (over all its sockets; each handshake is one),
    `long_answers` and `page_reads` at a time; and, each by itself, `sign_ins` that succeeded, `refreshes` of
    a session and `user_refreshes` of all of them, `minted` tokens, `tickets`.
    """

    def __init__(self, settings: Settings) -> None:
        posts, handshakes = settings.posts_per_second, settings.handshakes_per_second
        commands, calls = settings.commands_per_second, settings.service_calls_per_second
        self.posts = Buckets("posts", posts, posts * 4)
        self.commands = Buckets("commands", commands, commands * 4)
        sockets = SOCKETS * commands
        self.socket_commands = Buckets("socket-commands", sockets, sockets * 4)
        self.service_calls = Buckets("service-calls", calls, calls * 4)
        self.items = Buckets("items", settings.items_per_second, settings.items_per_second * 4)
        self.large_bodies = Slots(LARGE_BODIES)
        self.long_answers = Slots(LONG_ANSWERS)
        self.page_reads = Slots(PAGE_READS)
        self.intake = Intake()
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
        self.clients = NetworkBuckets("clients", CLIENT_FAILURES / MINUTE, CLIENT_FAILURES)
        each = settings.tokens_per_minute
        self.sign_ins = Buckets("sign-ins", each / MINUTE, each)
        self.refreshes = Buckets("refreshes", each / MINUTE, each)
        refreshed = SESSIONS * each
        self.user_refreshes = Buckets("user-refreshes", refreshed / MINUTE, refreshed)
        self.minted = Buckets("minted", each / MINUTE, each)
        self.tickets = Buckets("tickets", each / MINUTE, each)
        url = settings.rate_limit_url
        self._shared = None if url is None else Shared(url.get_secret_value())
        self.logins = Logins(settings, self._shared or Memory())

    def begin_post(self, service: int) -> None:
        """Count a post to one user, before its body is read. Raises `RateLimited`."""
        self.posts.take(service)
        self.items.take(service)

    def go_on(self, service: int, posts: int, items: int) -> None:
        """Count what the body holds besides that one. Raises `RateLimited`."""
        if posts > 1:
            self.posts.take(service, posts - 1, least=0)
        if items > 1:
            self.items.take(service, items - 1, least=0)

    def begin_refresh(self, session: str, user_id: int) -> None:
        """Count a refresh of a session, and of its user. Raises `RateLimited`; nothing is counted then."""
        self.user_refreshes.check(user_id)
        self.refreshes.take(session)
        self.user_refreshes.charge(user_id)

    def charge_body(self, caller: int, size: int) -> None:
        """Count what a body costs beyond a small one, before it is parsed. Raises `RateLimited`.

        `size` is in bytes. The caller is a service, or minus a user.
        """
        if caller > 0:
            self.items.take(caller, items_of(size), least=0)
        else:
            self.commands.take(-caller, (size - 1) // SMALL_BODY, least=0)

    def refund_body(self, service: int, size: int, recipients: int) -> None:
        """Take back what the body of a post was counted as, as far as its recipients count as much."""
        self.items.charge(service, -min(items_of(size), recipients - 1))

    async def fault(self) -> str | None:
        """Return why the Redis that is set does not answer; None where it does, or none is set."""
        return None if self._shared is None else await self._shared.fault()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._shared is not None:
            await self._shared.close()
