"""The numbers that the pages quote are those of the code."""

from pathlib import Path

import pytest

from benchmarks import gate
from gateway.api import body, notification, preferences, tickets
from gateway.auth import issuer_keys, jws, names, passwords, refresh_tokens, sessions, signing, token_cache
from gateway.auth.limits import rate_limits
from gateway.auth.limits.body_queue import SMALL_BODY
from gateway.backplane import link, redis
from gateway.database import postgres
from gateway.delivery import hub, wakes
from gateway.delivery.client_connection import EXPIRY_NOTICE_SECONDS
from gateway.delivery.commands import COMMAND_BURST_SECONDS
from gateway.delivery.recent_entries import BURST_BYTES
from gateway.errors import MAX_ERRORS, MAX_FIELD, MAX_MESSAGE
from gateway.jobs import retention, timetable
from gateway.observability import audit, readiness, sampling
from gateway.protocol.commands import MAX_REPLY
from gateway.protocol.packing import MAX_ARRAY
from gateway.protocol.times import MAX_AHEAD_MS
from gateway.protocol.wire import MAX_FRAME
from gateway.server import heartbeat, supervisor
from gateway.settings import Settings
from gateway.store import changes, idempotency, writer
from gateway.store.changes import LONG_CHANGE
from gateway.store.inbox import MAX_SCANNED_SEQS, NEWEST_UNREAD
from gateway.store.lifecycle import LEASE_MS
from gateway.store.preferences import MAX_CACHED
from gateway.transport import acceptor, inbound, slices, socket, stream, turnstile

DOCS = Path(__file__).parents[2] / "docs"
KIB, HOUR = 1024, 3_600_000
WORDS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
SILENCE = heartbeat.MAX_SILENCE * heartbeat.INTERVAL_SECONDS
COMMANDS = Settings.model_fields["commands_per_second"].default

QUOTED: list[tuple[str, str, tuple[float, ...]]] = [
    ("protocol.md", "newest {} unread items, in the order", (NEWEST_UNREAD,)),
    ("protocol.md", "instead of a `changed` with more than {} items", (LONG_CHANGE,)),
    ("protocol.md", "One change touches at most {} items", (changes.CHUNK,)),
    ("protocol.md", "{} minute to {} days ahead", (1, MAX_AHEAD_MS / 24 / HOUR)),
    ("api.md", "is {} minute to {} days ahead", (1, MAX_AHEAD_MS / 24 / HOUR)),
    ("protocol.md", "`text` has 1 to {} characters", (MAX_REPLY,)),
    ("api.md", "goes on within {} s", (LEASE_MS / 1000,)),
    ("api.md", "with 1 to {} characters, if the action has `reply`", (MAX_REPLY,)),
    ("api.md", "at most {} log numbers, or {} snoozed items, for a page", (MAX_SCANNED_SEQS,) * 2),
    ("protocol.md", "A frame or a message over {} KiB closes the socket with 1009", (MAX_FRAME / KIB,)),
    ("protocol.md", "the client sent a frame or a message over {} KiB", (MAX_FRAME / KIB,)),
    ("protocol.md", "an array has at most {} elements", (MAX_ARRAY,)),
    ("security.md", "an array at most {} elements", (MAX_ARRAY,)),
    ("protocol.md", "Sent {} s before the token expires", (EXPIRY_NOTICE_SECONDS,)),
    ("protocol.md", "It opens one socket, within {} s.", (tickets.TICKET_TTL_SECONDS,)),
    (
        "errors.md",
        "among the {} tokens and keys that this process accepted last. For any",
        (token_cache.MAX_TOKENS,),
    ),
    (
        "protocol.md",
        "may send {} a second, plus a burst of {}",
        (COMMANDS, COMMANDS * COMMAND_BURST_SECONDS),
    ),
    ("protocol.md", "may send {} times as many together", (rate_limits.USER_SOCKETS_FACTOR,)),
    ("protocol.md", "has not replied within {} s", (socket.LINGER_SECONDS,)),
    ("protocol.md", "reads at most {} KiB more from it", (inbound.MAX_UNCOUNTED_BYTES / KIB,)),
    ("protocol.md", "a random time from {} to {} s", tuple(ms / 1000 for ms in stream.RETRY_MS)),
    (
        "architecture.md",
        "the number of their items plus the KiB of their text is at most {}.",
        (writer.MAX_BATCH,),
    ),
    (
        "architecture.md",
        "A request that stores more than {} items gets a separate transaction",
        (writer.MAX_BATCH,),
    ),
    ("architecture.md", "One request stores at most {} items", (writer.MAX_ITEMS,)),
    ("architecture.md", "is done in steps of {} items, each in a transaction", (changes.CHUNK,)),
    ("architecture.md", "have {word} spare connections", (postgres.SPARE_CONNECTIONS,)),
    ("architecture.md", "retries it for up to {word} seconds", (postgres.RETRY_SECONDS,)),
    ("architecture.md", "pub/sub on {word} channels", (redis.SHARDS,)),
    ("architecture.md", "sends itself a message every {word} seconds", (link.CHECK_INTERVAL,)),
    ("architecture.md", "expects to hear it within {word}.", (link.CHECK_INTERVAL,)),
    ("architecture.md", "after growing pauses of {} seconds at most", (link.MAX_PAUSE_SECONDS,)),
    ("architecture.md", "does a round every {word} minutes", (retention.INTERVAL_SECONDS / 60,)),
    ("architecture.md", "of its steps touches up to about {} items", (retention.STEP,)),
    ("architecture.md", "checks for new signing keys every {word} seconds", (timetable.KEY_REFRESH_SECONDS,)),
    ("architecture.md", "a pause that doubles up to {word} seconds", (supervisor.MAX_PAUSE_SECONDS,)),
    ("architecture.md", "A worker that misses {} of them is killed", (heartbeat.MAX_SILENCE,)),
    ("architecture.md", "each check times out after {word} seconds", (readiness.TIMEOUT_SECONDS,)),
    ("auth.md", "It opens one socket, once, within {} seconds", (tickets.TICKET_TTL_SECONDS,)),
    ("auth.md", "A user can have up to [{} sessions at once]", (sessions.SESSIONS_PER_USER,)),
    ("auth.md", "{} seconds before the token expires, the socket gets", (EXPIRY_NOTICE_SECONDS,)),
    ("auth.md", "A password has {} to {} characters", (passwords.MIN_LENGTH, passwords.MAX_LENGTH)),
    ("auth.md", "the same request again within {word} seconds", (refresh_tokens.RETRY_WINDOW_MS / 1000,)),
    ("auth.md", "if their `iat` is up to {} seconds later", (jws.LEEWAY_SECONDS,)),
    (
        "api.md",
        "bodies up to {} KiB, of requests without a response yet, for all clients together | {} MiB",
        (SMALL_BODY / KIB, turnstile.MAX_HELD_BYTES / KIB**2),
    ),
    ("api.md", "up to {} categories", (preferences.MAX_CATEGORIES,)),
    ("api.md", "up to {} windows, each with 1 to", (preferences.MAX_WINDOWS,)),
    (
        "security.md",
        "at most {} categories and {} windows",
        (preferences.MAX_CATEGORIES, preferences.MAX_WINDOWS),
    ),
    ("security.md", "for up to {} users", (MAX_CACHED,)),
    ("backend.md", "of 1 to {} characters", (names.MAX_SUB,)),
    (
        "configuration.md",
        "({} times as many over all of the user's sessions)",
        (rate_limits.USER_REFRESHES_FACTOR,),
    ),
    ("backend.md", "The gateway keeps a key for {} hours", (idempotency.TTL_MS / HOUR,)),
    ("backend.md", "have up to {} recipients", (notification.MAX_RECIPIENTS,)),
    ("backend.md", "A batch stores at most {} items", (writer.MAX_ITEMS,)),
    ("configuration.md", "whose event loop hangs for {} seconds", (SILENCE,)),
    ("operations/monitoring.md", "event loop hung for {} seconds", (SILENCE,)),
    (
        "operations/monitoring.md",
        "did not serve within {} seconds after a restart",
        (supervisor.START_TIMEOUT_SECONDS,),
    ),
    ("decisions/0018", "that misses {} heartbeats is killed", (heartbeat.MAX_SILENCE,)),
    (
        "errors.md",
        "A response names at most {} fields, each in at most {} characters with a message of at most {}",
        (MAX_ERRORS, MAX_FIELD, MAX_MESSAGE),
    ),
    ("errors.md", "would store more than {} items", (writer.MAX_ITEMS,)),
    ("configuration.md", "may be {} seconds ahead", (jws.LEEWAY_SECONDS,)),
    ("configuration.md", "whose `iat` is up to {} seconds after the sign-out", (jws.LEEWAY_SECONDS,)),
    ("architecture.md", "tokens issued up to {} seconds after it", (jws.LEEWAY_SECONDS,)),
    ("configuration.md", "may take to read {} KiB of a response", (slices.SLICE_BYTES / KIB,)),
    ("configuration.md", "waits at most {} seconds for the fetch", (issuer_keys.FETCH_TIMEOUT_SECONDS,)),
    (
        "configuration.md",
        "A new key is published {word} seconds before it signs",
        (signing.SIGNING_DELAY_SECONDS,),
    ),
    (
        "configuration.md",
        "one of up to {} KiB as 1, one of {} KiB as 16",
        (body.FREE_BODY_BYTES / KIB, SMALL_BODY / KIB),
    ),
    ("decisions/0012", "in steps of about {} items", (retention.STEP,)),
    ("testing.md", "its budget in `benchmarks/budget.toml` by more than {} %", (gate.TOLERANCE * 100,)),
    ("security.md", "About {} sockets at most are woken in one pass of the event loop", (hub.TURN,)),
    ("architecture.md", "{} sockets are woken, for at most {} ms", (hub.TURN, hub.TURN_SECONDS * 1000)),
    ("security.md", "Services take turns, {} sockets each", (wakes.SHARE,)),
    ("architecture.md", "**senders take turns**, {} sockets each", (wakes.SHARE,)),
    ("security.md", "in one pass of the event loop, for at most {} ms", (hub.TURN_SECONDS * 1000,)),
    (
        "security.md",
        "A pass of the event loop accepts up to {} connections, or {} while requests wait, for at most {} ms",
        (acceptor.MAX_PER_PASS, acceptor.MAX_PER_BUSY_PASS, acceptor.MAX_PASS_SECONDS * 1000),
    ),
    (
        "security.md",
        "Reads of up to {} bytes need none, unless over {} KiB of them arrive within {} ms; then",
        (
            inbound.InboundProtocol.free_bytes,
            turnstile.MAX_SMALL_BYTES / 1024,
            turnstile.SMALL_SECONDS * 1000,
        ),
    ),
    ("security.md", "then they are handled for at most {} ms", (turnstile.MAX_PASS_SECONDS * 1000,)),
    ("security.md", "in bursts of at most {} KiB", (BURST_BYTES / 1024,)),
    ("security.md", "the first {} in a minute get a line each", (sampling.FIRST,)),
    ("security.md", "one service gets {} lines a minute", (audit.ONE_SERVICE,)),
    ("security.md", "A value takes at most {} bytes of a line", (audit.MAX_VALUE_BYTES,)),
    (
        "security.md",
        "A value over {} characters, or over {} bytes when escaped, is cut",
        (audit.MAX_VALUE_LENGTH, audit.MAX_VALUE_BYTES),
    ),
]


@pytest.mark.parametrize(
    ("page", "sentence", "numbers"), QUOTED, ids=[f"{one[0]}: {one[1]}" for one in QUOTED]
)
def test_a_number_on_a_page_matches_the_code(page: str, sentence: str, numbers: tuple[float, ...]) -> None:
    [path] = DOCS.glob(f"{page}*")
    text = " ".join(path.read_text().split())
    figures = [f"{number:,g}" for number in numbers]
    word = WORDS[int(numbers[0])] if numbers[0] < len(WORDS) else ""
    assert sentence.format(*figures, word=word) in text
