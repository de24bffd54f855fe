"""Recipients that a post doesn't create: names for everyone, and unknown users where these are refused."""

from collections.abc import Collection

from gateway.errors import MAX_ERRORS, MAX_FIELD, Invalid
from gateway.protocol.terminal import cut

EVERYBODY = "*"
"""The only `sub` that is never a recipient: a sender who writes it means every user."""

AUDIENCES = frozenset({"all", "everyone", "everybody", "broadcast", "@all", "@everyone", "@here"})
"""Names that probably mean every user, in any case. A post accepts them only for a user who exists."""

_MAX_COMPARED_LENGTH = 16
"""Maximum length of a `sub` that is compared with these names, in characters, with surrounding spaces."""

_EACH = "name each recipient, up to 1,000 in one post"
_CREATE_FIRST = "create the user first, with POST /v1/users or gateway user add"
NO_AUDIENCE = f"it does not stand for every user: {_EACH}"


def check_recipient(sub: str) -> str:
    """Return the `sub`. Raises ValueError for `EVERYBODY`."""
    if is_nobody(sub):
        raise ValueError(f"'*' is not a user: {_EACH}")
    return sub


def check_new(sub: str) -> None:
    """Raise `Invalid` if no post could reach a user with this `sub`."""
    if is_nobody(sub):
        raise Invalid.field("sub", "no user can be called '*', because no post reaches it: choose another id")


def is_nobody(sub: str) -> bool:
    """Whether no post can reach a user with this `sub`."""
    return len(sub) <= _MAX_COMPARED_LENGTH and sub.strip() == EVERYBODY


def never_made(subs: Collection[str], *, creates_users: bool) -> Collection[str]:
    """Return the recipients that a post doesn't create."""
    return {sub for sub in subs if _is_audience(sub)} if creates_users else subs


def _is_audience(sub: str) -> bool:
    return len(sub) <= _MAX_COMPARED_LENGTH and sub.strip().casefold() in AUDIENCES


def refusal(strangers: Collection[str]) -> Invalid | None:
    """Return the error for recipients who don't exist, or None if all exist."""
    if not strangers:
        return None
    first = sorted(strangers)[:MAX_ERRORS]
    errors = [{"field": "to", "message": _rule(sub)} for sub in first]
    named = "; ".join(f"to: {one['message']}" for one in errors[:_NAMED])
    total = f" ({len(strangers):,} unknown recipients)" if len(strangers) > 1 else ""
    # An audience comes with its own advice.
    todo = "" if all(map(_is_audience, first[:_NAMED])) else f": {_CREATE_FIRST}"
    return Invalid(f"{named}{total}{todo}", errors=errors)


_NAMED = 3
"""Number of recipients that the detail of an error names."""


def _rule(sub: str) -> str:
    there_is_none = f"there is no user '{cut(sub, MAX_FIELD)}'"
    return f"{there_is_none}, and {NO_AUDIENCE}" if _is_audience(sub) else there_is_none
