"""Durations in settings: `90d`, `12h`, `30m`, `45s`, or a number of seconds."""

import re

_DURATION = re.compile(r"([0-9]{1,9})([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}

_SECONDS = re.compile(r"(\w+_)?(ttl|timeout|interval|period)|heartbeat|keep_alive")


def with_unit(name: str, rule: str) -> str:
    """Return the rule for a value in seconds with its unit, which the value may have had: 15m."""
    return f"{rule} of seconds" if rule.endswith(" number") and _SECONDS.fullmatch(name) else rule


def read_duration(text: str) -> int:
    """Return a duration in seconds. Raises ValueError with the rule if the text is not a duration."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("it must be a number of seconds, a duration such as 90d or 12h, or none")
    return int(match[1]) * _UNITS[match[2]]
