"""What was recorded in the audit log, for tests to look at."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.observability import audit
from gateway.observability.audit import Event
from gateway.observability.sampling import Sampler
from tests.support.checker import Json


class Trail(logging.Handler):
    """What was recorded, as the objects of its lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Json] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line."""
        self.lines.append(json.loads(record.getMessage()))

    def of(self, event: Event) -> list[Json]:
        """Return the lines of one event, without the time and the id of the request."""
        own = {"time", "request_id"}
        return [{k: v for k, v in one.items() if k not in own} for one in self.lines if one["event"] == event]

    def last(self, event: Event) -> Json:
        """Return the newest line of one event."""
        return self.of(event)[-1]


@contextmanager
def recording() -> Iterator[Trail]:
    """Yield what is recorded in this process while the block runs."""
    handler = Trail()
    audit.logger.addHandler(handler)
    audit.logger.setLevel(logging.INFO)
    audit.logger.propagate = False
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(audit, "_sampler", Sampler(audit._write_rest))
            yield handler
    finally:
        audit.logger.propagate = True
        audit.logger.setLevel(logging.NOTSET)
        audit.logger.removeHandler(handler)
