"""The metrics of the gateway, for Prometheus. docs/operations/monitoring.md has the table.

Names begin with `gateway_`. Units are seconds, sockets and items. The values of a label come from a small
set in this code, never from a client. If `PROMETHEUS_MULTIPROC_DIR` names a folder, each process that shares
it reports the totals of all of them. The variable must be set before this module is imported, and the folder
must be empty when the first process starts.
"""

import asyncio
import os
from collections.abc import Callable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from gateway import __version__
from gateway.protocol.close_codes import Close

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable of prometheus-client for the folder in which processes share their metrics."""

SAMPLE_SECONDS = 0.5
"""How often the lag of the event loop and the state of the process are sampled."""

CLIENT_CODES = (1000, 1001, 1005, 1006)
"""The close codes of clients that are counted by number. A client may send any code; the rest are `other`."""

METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "DELETE", "PUT", "OPTIONS"})
"""The methods that are counted by name. The HTTP parser knows some 40, too many for the values of a label."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LAG = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_ITEMS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class Now(NamedTuple):
    """The state of the process: whether it is ready, its open sockets, and its numbers of hints."""

    ready: bool
    sockets: int
    hints_sent: int
    hints_received: int
    hints_missed: int


class Metrics:
    """The metrics of one application. An observation costs about a microsecond."""

    def __init__(self, *, max_sockets: int) -> None:
        self.registry = CollectorRegistry()
        build = self._gauge("build_info", "Always 1; the label is the gateway's version.", "max", "version")
        build.labels(__version__).set(1)
        self._ready = self._gauge("ready", "1 if every process is ready to serve, else 0.", "livemin")
        self._sockets = self._gauge("sockets", "Open sockets and streams.", "livesum")
        self._streams = self._gauge("streams", "Open streams of server-sent events.", "livesum")
        self._max_sockets = self._gauge(
            "sockets_max", "Maximum number of open sockets and streams.", "livesum"
        )
        self._max_sockets.set(max_sockets)
        self._posts = self._counter("posts", "Committed notifications.")
        self._items = self._counter("items", "Committed items: notifications times their recipients.")
        self._batch = self._histogram("commit_batch_items", "Items stored by a commit.", _ITEMS)
        self._commit = self._histogram("commit_seconds", "Duration of a commit.", _SECONDS)
        self._delivery = self._histogram(
            "delivery_lag_seconds",
            "Time from a commit to the write to a live socket. Messages written together count once.",
            _SECONDS,
        )
        self._loop = self._histogram("event_loop_lag_seconds", "Delay of the event loop's timers.", _LAG)
        self._replays = self._counter("replays", "Sockets that resumed and received missed changes.")
        self._resets = self._counter("resets", "Clients that were told to reload their inbox.")
        self._hints_sent = self._counter("hints_sent", "Hints sent to the backplane.")
        self._hints_received = self._counter("hints_received", "Hints received from the backplane.")
        self._hints_missed = self._counter(
            "hints_missed", "Missed hints: users whose new entries were found by reconciliation."
        )
        closes = self._counter("closes", "Closed sockets, by closing side and close code.", "by", "code")
        self._closes = {
            by: {code: closes.labels(by, str(code)) for code in (*codes, "other")}
            for by, codes in (("gateway", tuple(map(int, Close))), ("client", CLIENT_CODES))
        }
        self._request_seconds = self._histogram(
            "request_seconds",
            "Time from the head of a request or handshake to the head of its response.",
            _SECONDS,
            "route",
            "method",
            "status",
        )
        self._answers: dict[tuple[str, str, int], Callable[[float], None]] = {}
        self._logins = self._counter("logins", "Responses of the token endpoint.", "grant", "outcome")
        self._refusals = self._counter("refusals", "Refused requests and sockets.", "status", "code")
        self._last = Now(ready=False, sockets=0, hints_sent=0, hints_received=0, hints_missed=0)

    def _gauge(self, name: str, text: str, mode: str, *labels: str) -> Gauge:
        return Gauge(f"gateway_{name}", text, labels, registry=self.registry, multiprocess_mode=mode)  # type: ignore[arg-type]

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"gateway_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"gateway_{name}", text, labels, registry=self.registry, buckets=buckets)

    # --- events ---------------------------------------------------------------------------------------------

    def committed(self, posts: int, items: int, seconds: float) -> None:
        """Count the posts and items of one commit, and record its duration."""
        self._commit.observe(seconds)
        if items:
            self._posts.inc(posts)
            self._items.inc(items)
            self._batch.observe(items)

    def delivered(self, seconds: float) -> None:
        """Record the time from the commit of an entry to its write to a socket."""
        self._delivery.observe(max(seconds, 0))

    def replayed(self) -> None:
        """Count a socket whose resume point is behind the head of its log."""
        self._replays.inc()

    def reset(self) -> None:
        """Count a client that is told to reload its inbox."""
        self._resets.inc()

    def closed(self, code: int, *, by_client: bool) -> None:
        """Count a closed socket. Unknown codes are counted as `other`."""
        children = self._closes["client" if by_client else "gateway"]
        children.get(code, children["other"]).inc()

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Record a response. `route` is the path's template, such as `/v1/users/{sub}`, or empty."""
        observe = self._answers.get((route, method, status))
        if observe is None:
            known = method if method in METHODS else "other"
            observe = self._request_seconds.labels(route or "none", known, str(status)).observe
            self._answers[route, method, status] = observe
        observe(seconds)

    def login(self, grant: str, outcome: str) -> None:
        """Count a response of the token endpoint. Both labels come from this code, never from the request."""
        self._logins.labels(grant, outcome).inc()

    def refused(self, status: int, code: str) -> None:
        """Count a refused request or socket, with the HTTP status and the code of its error."""
        self._refusals.labels(str(status), code).inc()

    # --- the state of the process ---------------------------------------------------------------------------

    def count_streams(self, change: int) -> None:
        """Count a stream that has begun (1) or ended (-1)."""
        self._streams.inc(change)

    def look(self, now: Now) -> None:
        """Record the state of the process."""
        self._ready.set(now.ready)
        self._sockets.set(now.sockets)
        self._hints_sent.inc(now.hints_sent - self._last.hints_sent)
        self._hints_received.inc(now.hints_received - self._last.hints_received)
        self._hints_missed.inc(now.hints_missed - self._last.hints_missed)
        self._last = now

    async def run(self, now: Callable[[], Now]) -> None:
        """Sample the lag of the event loop and the state of the process, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self.look(now())
            due = loop.time() + SAMPLE_SECONDS
            await asyncio.sleep(SAMPLE_SECONDS)
            self._loop.observe(max(loop.time() - due, 0))

    # --- the exposition -------------------------------------------------------------------------------------

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that this `Accept` header prefers, with their content type."""
        registry = self.registry
        if METRICS_FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the header names an invalid version
            encode, content_type = choose_encoder("")
        return encode(registry), content_type


def mark_dead(pid: int, folder: str) -> None:
    """Remove the gauges of an exited process from the totals. Its counters stay.

    The supervisor calls it for each process that exits. `folder` is their `PROMETHEUS_MULTIPROC_DIR`.
    """
    mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
