"""The settings with a fixed set of values."""

from enum import StrEnum


class UnknownRecipients(StrEnum):
    """The effect of a post to an unknown `sub`."""

    CREATE = "create"
    REJECT = "reject"


class BackplaneKind(StrEnum):
    """The channel through which processes notify each other of changes."""

    MEMORY = "memory"
    POSTGRES = "postgres"
    REDIS = "redis"


class LogFormat(StrEnum):
    """The format of the console log."""

    CONSOLE = "console"
    JSON = "json"
