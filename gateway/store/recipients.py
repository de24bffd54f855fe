"""Recipients that no post makes a user of: unknown ones where those are refused, and names for everybody."""

from collections.abc import Collection

from gateway.errors import MAX_ERRORS, MAX_FIELD, Invalid
from gateway.protocol.terminal import cut

EVERYBODY = "*"
"""The one `sub` that is never a recipient: a sender who writes it means every user."""

AUDIENCES = frozenset({"all", "everyone", "everybody", "broadcast", "@all", "@everyone", "@here"})
"""Names that a sender probably means every user by, in any case: only a user who exists can have one."""

_LONGEST = 16
"""Longest `sub`, in characters, that is compared with them: spaces around a name are no other name."""

_EACH = "name each recipient, up to 1,000 in one post"
NO_AUDIENCE = f"it does not stand for every user: {_EACH}"


def check_recipient(sub: str) -> str:
    """Return the `sub`. Raises ValueError for the one that is never a recipient."""
    if is_nobody(sub):
        raise ValueError(f"'*' stands for nobody: {_EACH}")
    return sub


def check_new(sub: str) -> None:
    """Raise `Invalid` for a user to be made whom no post could ever reach."""
    if is_nobody(sub):
        raise Invalid.field("sub", "nobody can be called '*', for no post reaches it: choose another id")


def is_nobody(sub: str) -> bool:
    """Whether no post reaches a user of this name."""
    return len(sub) <= _LONGEST and sub.strip() == EVERYBODY


def never_made(subs: Collection[str], *, creates_users: bool) -> Collection[str]:
    """Return those of the recipients that a post does not create."""
    return {sub for sub in subs if _is_audience(sub)} if creates_users else subs


def _is_audience(sub: str) -> bool:
    return len(sub) <= _LONGEST and sub.strip().casefold() in AUDIENCES


def refusal(strangers: Collection[str]) -> Invalid | None:
    """Return the error for recipients who do not exist, or None where there are none."""
    if not strangers:
        return None
    errors = [{"field": "to", "message": _rule(sub)} for sub in sorted(strangers)[:MAX_ERRORS]]
    if len(strangers) > 1:
        return Invalid(f"{len(strangers):,} recipients are not known to the gateway.", errors=errors)
    (sub,) = strangers
    if _is_audience(sub):
        return Invalid(f"to: {errors[0]['message']}", errors=errors)
    return Invalid("A recipient is not known to the gateway.", errors=errors)


def _rule(sub: str) -> str:
    there_is_none = f"There is no user '{cut(sub, MAX_FIELD)}'."
    return f"There is no user '{sub}', and {NO_AUDIENCE}" if _is_audience(sub) else there_is_none
