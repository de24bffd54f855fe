"""What the gateway counts and measures, for Prometheus. docs/operations/monitoring.md has the table.

Names begin with `gateway_`; units are seconds, sockets, items. A label has a value out of a small set that
this code knows, never one that a client has sent. Where `PROMETHEUS_MULTIPROC_DIR` names a folder, the
processes that share it are counted together, whichever of them is asked. The variable is set before this
module is loaded, and the folder is empty when the first of them starts.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from gateway import __version__
from gateway.protocol.close_codes import Close

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable of prometheus-client for the folder where several processes are counted together."""

LOOK = 0.5
"""How often the event loop and the process are looked at, in seconds."""

CLIENT_CODES = (1000, 1001, 1005, 1006)
"""The codes that are counted where a client has closed; a client may send any, and others are `other`."""

METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "DELETE", "PUT", "OPTIONS"})
"""The methods that are counted by their names. HTTP's parser knows some 40, so what is kept is bounded."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LAG = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_ITEMS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class Now(NamedTuple):
    """How the process stands: whether it serves, its open sockets, and how many hints there have been."""

    ready: bool
    sockets: int
    hints_sent: int
    hints_received: int
    hints_missed: int


class Metrics:
    """The metrics of one application. An observation costs about a microsecond."""

    def __init__(self, *, max_sockets: int) -> None:
        self.registry = CollectorRegistry()
        build = self._gauge("build_info", "1, with the version that runs.", "max", "version")
        build.labels(__version__).set(1)
        self._ready = self._gauge("ready", "1 while every process is ready to serve, else 0.", "livemin")
        self._sockets = self._gauge("sockets", "Open sockets and streams.", "livesum")
        self._streams = self._gauge("streams", "Open streams of server-sent events.", "livesum")
        self._max_sockets = self._gauge("sockets_max", "How many sockets may be open.", "livesum")
        self._max_sockets.set(max_sockets)
        self._posts = self._counter("posts", "Notifications that were committed.")
        self._items = self._counter("items", "Notifications that were committed, times their recipients.")
        self._batch = self._histogram("commit_batch_items", "Items that one commit stored.", _ITEMS)
        self._commit = self._histogram("commit_seconds", "How long a commit took.", _SECONDS)
        self._delivery = self._histogram(
            "delivery_lag_seconds",
            "From the commit to the write to a live socket. What a socket is written in one go counts once.",
            _SECONDS,
        )
        self._loop = self._histogram("event_loop_lag_seconds", "How late the event loop runs a timer.", _LAG)
        self._replays = self._counter("replays", "Sockets that resumed, and were sent what they had missed.")
        self._resets = self._counter("resets", "Times that a client was told to read its inbox afresh.")
        self._hints_sent = self._counter("hints_sent", "Hints given to the backplane.")
        self._hints_received = self._counter("hints_received", "Hints that came from the backplane.")
        self._hints_missed = self._counter(
            "hints_missed", "Users of whom no hint came, found ahead of their sockets by the reconciliation."
        )
        closes = self._counter("closes", "Sockets that ended: who closed them, and the code.", "by", "code")
        self._closes = {
            by: {code: closes.labels(by, str(code)) for code in (*codes, "other")}
            for by, codes in (("gateway", tuple(map(int, Close))), ("client", CLIENT_CODES))
        }
        self._request_seconds = self._histogram(
            "request_seconds",
            "From the head of a request to the head of its answer; of a handshake, too.",
            _SECONDS,
            "route",
            "method",
            "status",
        )
        self._answers: dict[tuple[str, str, int], Callable[[float], None]] = {}
        self._logins = self._counter("logins", "Answers of the token endpoint.", "grant", "outcome")
        self._refusals = self._counter("refusals", "Requests and sockets refused.", "status", "code")
        self._last = Now(ready=False, sockets=0, hints_sent=0, hints_received=0, hints_missed=0)

    def _gauge(self, name: str, text: str, mode: str, *labels: str) -> Gauge:
        return Gauge(f"gateway_{name}", text, labels, registry=self.registry, multiprocess_mode=mode)  # type: ignore[arg-type]

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"gateway_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"gateway_{name}", text, labels, registry=self.registry, buckets=buckets)

    # --- what happens ---------------------------------------------------------------------------------------

    def committed(self, posts: int, items: int, seconds: float) -> None:
        """Count what one commit has stored, and how long it took."""
        self._commit.observe(seconds)
        if items:
            self._posts.inc(posts)
            self._items.inc(items)
            self._batch.observe(items)

    def delivered(self, seconds: float) -> None:
        """Note how long after its commit an entry was written to a socket."""
        self._delivery.observe(max(seconds, 0))

    def replayed(self) -> None:
        """Count a socket that begins behind the end of its log."""
        self._replays.inc()

    def reset(self) -> None:
        """Count a client that is told to read its inbox afresh."""
        self._resets.inc()

    def closed(self, code: int, *, by_client: bool) -> None:
        """Count the end of a socket; a code that means nothing here is `other`."""
        children = self._closes["client" if by_client else "gateway"]
        children.get(code, children["other"]).inc()

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answer. `route` is the template of a path, such as `/v1/users/{sub}`, or empty."""
        observe = self._answers.get((route, method, status))
        if observe is None:
            known = method if method in METHODS else "other"
            observe = self._request_seconds.labels(route or "none", known, str(status)).observe
            self._answers[route, method, status] = observe
        observe(seconds)

    def login(self, grant: str, outcome: str) -> None:
        """Count an answer of the token endpoint. Both are words of this code, never of the request."""
        self._logins.labels(grant, outcome).inc()

    def refused(self, status: int, code: str) -> None:
        """Count a request or a socket that was refused, with the HTTP status and the code of its error."""
        self._refusals.labels(str(status), code).inc()

    # --- what is --------------------------------------------------------------------------------------------

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Count an open stream while the block runs."""
        self._streams.inc()
        try:
            yield
        finally:
            self._streams.dec()

    def look(self, now: Now) -> None:
        """Take note of how the process stands."""
        self._ready.set(now.ready)
        self._sockets.set(now.sockets)
        self._hints_sent.inc(now.hints_sent - self._last.hints_sent)
        self._hints_received.inc(now.hints_received - self._last.hints_received)
        self._hints_missed.inc(now.hints_missed - self._last.hints_missed)
        self._last = now

    async def run(self, now: Callable[[], Now]) -> None:
        """Look at the event loop and at the process, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self.look(now())
            due = loop.time() + LOOK
            await asyncio.sleep(LOOK)
            self._loop.observe(max(loop.time() - due, 0))

    # --- how it is told -------------------------------------------------------------------------------------

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics, and their content type, in the format that this `Accept` header prefers."""
        registry = self.registry
        if METRICS_FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # it names a version that is none
            encode, content_type = choose_encoder("")
        return encode(registry), content_type


def mark_dead(pid: int, folder: str) -> None:
    """Take the gauges of a process that has ended out of the sums; what it has counted stays.

    Whoever starts the processes calls it for each that ends. `folder` is their `PROMETHEUS_MULTIPROC_DIR`.
    """
    mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
