"""Batches: the work that shares one transaction, and the function that does it.

Functions take a connection and never commit. `writer` commits once for the whole batch.
"""

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from sqlalchemy import Connection

from gateway.database.units import background
from gateway.errors import GatewayError, IdempotencyKeyReused, Invalid, NotFound
from gateway.protocol.items import Counts
from gateway.store import (
    answers,
    arrivals,
    changes,
    due_steps,
    idempotency,
    lifecycle,
    preferences,
    schedule,
    snoozes,
)
from gateway.store.answers import Act
from gateway.store.arrivals import Post
from gateway.store.changes import Changed, Delivered, ItemUpdate, ReadUpTo, Seen
from gateway.store.due_steps import Advance, Advanced
from gateway.store.entries import Entry, sent_bytes
from gateway.store.idempotency import Answered, Reservation
from gateway.store.lifecycle import Begun, Edit, Withdrawal
from gateway.store.notification_rows import lock_in_order
from gateway.store.positions import Position, Positions, lock, unknown_subs
from gateway.store.preferences import SetPreferences
from gateway.store.recipients import never_made, refusal
from gateway.store.snoozes import Snooze


class Submission(NamedTuple):
    """Posts that are stored together or not at all, with the response to send once they are."""

    posts: tuple[Post, ...]
    response: str
    reservation: Reservation | None = None

    @property
    def has_options(self) -> bool:
        """Whether a post of it has options."""
        for post in self.posts:  # noqa: SIM110 - `any` costs three times as much for a single post
            if post.options is not None:
                return True
        return False


class Accepted(NamedTuple):
    """A committed submission. `replayed` says that an earlier request with the same key committed it."""

    response: str
    replayed: bool = False


ItemChange = ItemUpdate | ReadUpTo | Snooze | Act
Change = ItemChange | Seen | Delivered | SetPreferences
Request = Edit | Withdrawal | Advance
"""The work on notifications, as their services or the schedule ask for it."""

Work = Submission | Request | Change
Outcome = Accepted | Changed | Begun | Advanced | GatewayError


LOOK_UP_BYTES = 1024
"""What a look-up of changed preferences is charged, in bytes that are sent on."""


class Committed(NamedTuple):
    """The result of a transaction: the outcome of each piece of work, the new entries, the changed counts.

    `posts` is the number of posts stored, `items` that of their recipients in all, and `seconds` the
    duration. `sent_on` has the bytes of the items that each user has changed, as one socket gets them.
    """

    outcomes: list[Outcome]
    entries: list[Entry]
    counts: dict[int, Counts]
    posts: int = 0
    items: int = 0
    seconds: float = 0
    sent_on: Mapping[int, int] = MappingProxyType({})


@background
def commit(
    connection: Connection,
    batch: Sequence[Work],
    now: int,
    create_users: bool,
    followed: Container[int],
    required: Container[str] = (),
) -> Committed:
    """Do a batch of work, posts first, in a transaction that the caller commits. `now` is in ms.

    Any order within a batch is valid, because none of its callers has an answer yet. Posts to users who are
    not `followed` make no entries: those users have no socket here. The `required` categories can't be muted.
    """
    outcomes: dict[int, Outcome] = {}
    submissions, requests, changes = _by_kind(batch)
    posts: list[Post] = []
    for number in _admit(connection, submissions, now, create_users, outcomes):
        outcomes[number] = Accepted(submissions[number].response)
        posts += submissions[number].posts
    subs = {sub for post in posts for sub in post.recipients}
    user_ids = {change.user_id for change in changes.values()}
    if requests:
        user_ids |= _users_of(connection, requests.values())
    positions = lock(connection, subs, user_ids, now)
    at_once, scheduled = _by_time(posts)
    if requests or scheduled:
        _lock_notifications(connection, requests.values(), scheduled, positions)
    if scheduled:
        schedule.add(connection, scheduled, positions, now)
    entries = arrivals.append(connection, at_once, positions, followed, now, required) if at_once else []
    for number, request in requests.items():
        outcomes[number], new = _carry_out(connection, request, positions, now, followed, required)
        entries += new
    posted = len(entries)
    for number, change in changes.items():
        outcomes[number] = _change(connection, positions.by_id.get(change.user_id), change, now, entries)
    counts = positions.save()
    sent_on = _sent_on(entries[posted:])
    for number, change in changes.items():
        # They take no `seq`, and are told all the same. Each socket looks them up, which is charged, too.
        if isinstance(change, SetPreferences) and isinstance(changed := outcomes[number], Changed):
            counts[change.user_id] = changed.counts
            sent_on[change.user_id] = sent_on.get(change.user_id, 0) + LOOK_UP_BYTES + len(change.document)
    return Committed(
        [outcomes[number] for number in range(len(batch))],
        entries,
        counts,
        posts=len(posts),
        items=sum(len(post.recipients) for post in posts),
        sent_on=sent_on,
    )


def _by_kind(
    batch: Sequence[Work],
) -> tuple[dict[int, Submission], dict[int, Request], dict[int, Change]]:
    """Return the pieces of work of each kind, by their numbers."""
    submissions: dict[int, Submission] = {}
    requests: dict[int, Request] = {}
    changes: dict[int, Change] = {}
    for number, work in enumerate(batch):
        if isinstance(work, Submission):
            submissions[number] = work
        elif isinstance(work, Request):
            requests[number] = work
        else:
            changes[number] = work
    return submissions, requests, changes


def _users_of(connection: Connection, requests: Iterable[Request]) -> set[int]:
    """Return the ids of the users whose inboxes the requests change."""
    user_ids: set[int] = set()
    for request in requests:
        if isinstance(request, Advance):
            user_ids |= due_steps.users_of(connection, request)
    return user_ids


def _lock_notifications(
    connection: Connection, requests: Collection[Request], scheduled: Sequence[Post], positions: Positions
) -> None:
    """Lock all notifications that the batch changes, because each piece of work locks only its own."""
    keys = schedule.earlier_of(connection, scheduled, positions)
    uuids = set()
    for request in requests:
        if isinstance(request, Advance):
            keys.update(one.key for one in request.due)
        else:
            uuids.add(request.uuid)
    lock_in_order(connection, keys, uuids)


def _by_time(posts: Sequence[Post]) -> tuple[list[Post], list[Post]]:
    """Return the posts that are delivered at once, and those that are scheduled."""
    at_once: list[Post] = []
    scheduled: list[Post] = []
    for post in posts:
        options = post.options
        (at_once if options is None or options.deliver_at is None else scheduled).append(post)
    return at_once, scheduled


def _carry_out(
    connection: Connection,
    request: Request,
    positions: Positions,
    now: int,
    followed: Container[int],
    required: Container[str],
) -> tuple[Outcome, list[Entry]]:
    """Do work on notifications, and return its outcome and its entries."""
    if isinstance(request, Advance):
        return due_steps.advance(connection, request, positions, now, followed, required)
    if isinstance(request, Edit):
        return lifecycle.edit(connection, request, now), []
    return lifecycle.withdraw(connection, request, now), []


def _sent_on(entries: Sequence[Entry]) -> dict[int, int]:
    sizes: dict[int, int] = {}
    for entry in entries:
        sizes[entry.user_id] = sizes.get(entry.user_id, 0) + sent_bytes(entry)
    return sizes


def _admit(
    connection: Connection,
    submissions: dict[int, Submission],
    now: int,
    create_users: bool,
    outcomes: dict[int, Outcome],
) -> list[int]:
    """Return the numbers of the submissions to store, and put the outcome of the others into `outcomes`."""
    reservations = [submission.reservation for submission in submissions.values() if submission.reservation]
    answered = idempotency.answered(connection, reservations, now) if reservations else {}
    doubtful = never_made(_subs(submissions.values()), creates_users=create_users)
    unknown = unknown_subs(connection, doubtful) if doubtful else set()
    firsts: dict[tuple[int, str], Reservation] = {}
    candidates = []
    for number, submission in submissions.items():
        reservation = submission.reservation
        if reservation and reservation.name in answered:
            outcomes[number] = _replay(reservation, answered[reservation.name])
        elif refused := refusal(_subs([submission]) & unknown if unknown else ()):
            outcomes[number] = refused
        elif submission.has_options and (expired := _expired(submission, now)) is not None:
            outcomes[number] = expired
        else:
            candidates.append(number)
            if reservation:
                firsts.setdefault(reservation.name, reservation)
    if not firsts:
        return candidates
    stored = idempotency.reserve(connection, list(firsts.values()), now)
    # A duplicate was stored first, by another process or earlier in this batch. Its response is the answer.
    answered = {
        name: Answered(reservation.digest, reservation.response) for name, reservation in firsts.items()
    }
    answered |= idempotency.answered(connection, [firsts[name] for name in firsts.keys() - stored], now)
    admitted = []
    for number in candidates:
        reservation = submissions[number].reservation
        if reservation is None or (reservation.name in stored and reservation is firsts[reservation.name]):
            admitted.append(number)
        else:
            outcomes[number] = _replay(reservation, answered[reservation.name])
    return admitted


def _expired(submission: Submission, now: int) -> Invalid | None:
    """Return the error for a post that expires before it is stored, or None.

    A repetition of an earlier request gets that one's answer instead, whatever the time. A time to live that
    is over because the post had to wait is no mistake of its sender.
    """
    for number, (content, _, _, options) in enumerate(submission.posts):
        if options is None or options.ttl is not None or content.expires_at is None:
            continue
        if content.expires_at <= now:
            field = "expires_at" if len(submission.posts) == 1 else f"{number}.expires_at"
            return Invalid.field(field, "it must be in the future")
    return None


def _subs(submissions: Iterable[Submission]) -> set[str]:
    return {sub for submission in submissions for post in submission.posts for sub in post.recipients}


def _replay(reservation: Reservation, earlier: Answered) -> Outcome:
    if reservation.digest != earlier.digest:
        return IdempotencyKeyReused()
    return Accepted(earlier.response, replayed=True)


def _change(
    connection: Connection, position: Position | None, change: Change, now: int, entries: list[Entry]
) -> Outcome:
    if position is None:
        return NotFound("There is no such user.")
    if isinstance(change, Seen):
        return changes.move_seen(connection, position, change)
    if isinstance(change, Delivered):
        return changes.move_delivered(position, change)
    if isinstance(change, SetPreferences):
        return preferences.replace(connection, position, change) or Changed([], position.counts())
    outcome, new = _change_items(connection, position, change, now)
    entries += new
    return outcome


def _change_items(
    connection: Connection, position: Position, change: ItemChange, now: int
) -> tuple[Changed | GatewayError, list[Entry]]:
    if isinstance(change, ReadUpTo):
        return changes.read_up_to(connection, position, change, now)
    if isinstance(change, Snooze):
        return snoozes.snooze(connection, position, change, now)
    if isinstance(change, Act):
        return answers.act(connection, position, change, now)
    return changes.mark(connection, position, change, now)
