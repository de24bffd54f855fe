"""Durations in settings: `90d`, `12h`, `30m`, `45s`, or a number of seconds."""

import re

_DURATION = re.compile(r"([0-9]{1,9})([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def read_duration(text: str) -> int:
    """Return a duration in seconds. Raises ValueError with the rule if the text is not a duration."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("it must be a number of seconds, a duration such as 90d or 12h, or none")
    return int(match[1]) * _UNITS[match[2]]
