"""Every kind of attack at once, beside 50 users who post and receive: nothing of theirs is lost or refused.

`attackers.py` has the kinds. The suite does each once, which is bounded by work; `-m soak` repeats them
for five minutes.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from tests.support.attackers import NAMES, Target, attacked
from tests.support.clients import http_client
from tests.support.load import Judged, load_on
from tests.support.nginx import nginx_before
from tests.support.servers import Process, Server
from tests.support.waiting import until

MIB = 1024 * 1024

SUBS = [f"user-{number}" for number in range(50)]

MOST_KEPT_MIB = 128
"""How much more memory than before a process may keep when the attackers are gone."""

LARGE_INBOX = 2_000
"""The items of the attacker's own inbox."""

BRIEF: dict[str, float] = {}
LONG: dict[str, float] = {"seconds": 300, "megabytes": 16, "connections": 100, "posts": 1000}


class Site(NamedTuple):
    """A gateway, and how it is called: itself, or through nginx."""

    process: Process
    server: Server

    @property
    def port(self) -> int:
        return int(self.server.base.rpartition(":")[2])


@asynccontextmanager
async def site(database_url: str, folder: Path, *, workers: int, nginx: bool) -> AsyncIterator[Site]:
    """Serve on a database, with so many workers, directly or behind nginx."""
    options = ["--workers", str(workers)] if workers > 1 else []
    # Cut off what is not read or not sent soon: a brief attack is not over before its damage is done.
    brief: dict[str, Any] = {"header_timeout": 3, "body_timeout": 3, "send_timeout": 3}
    process = Process(database_url, folder, options=options, forwarded_allow_ips="127.0.0.1", **brief)
    async with AsyncExitStack() as stack:
        stack.callback(lambda: process.runs and process.end())
        await process.start()
        port = await stack.enter_async_context(nginx_before(process.port)) if nginx else process.port
        base = f"http://127.0.0.1:{port}"
        yield Site(process, Server(base, await stack.enter_async_context(http_client(base))))


def memory(process: Process) -> dict[int, int]:
    """Return the resident bytes of each process that serves, by its id."""
    supervisor = psutil.Process(process.pid)
    return {one.pid: one.memory_info().rss for one in (supervisor, *supervisor.children())}


def tracebacks(log: Path) -> list[str]:
    """Return the beginning of each traceback in a log, short enough to be shown."""
    _, *found = log.read_text(errors="replace").split("Traceback")
    return [one[-1500:] for one in found[:3]]


async def target_of(here: Site, kinds: tuple[str, ...], amounts: dict[str, float]) -> Target:
    """Return what attackers need: a service of their own, and a user with a large inbox."""
    service = here.server.service
    theirs = (await service.post("/v1/services", json={"name": "mallory", "scopes": ["notify"]})).json()
    made = await service.post(f"/v1/services/{theirs['client_id']}/keys")
    for _ in range(LARGE_INBOX // 1000):
        await service.notify_many("mallory", 1000)
    token = await service.mint("mallory", ttl=3600)
    credentials = (theirs["client_id"], theirs["client_secret"])
    return Target(here.port, token, made.json()["key"], *credentials, kinds, **amounts)  # type: ignore[arg-type]


async def withstands(
    here: Site,
    judged: Judged,
    note: Callable[[str, object], None],
    kinds: tuple[str, ...],
    amounts: dict[str, float],
) -> None:
    """Attack beside good users, and see that those have all, at once, from the processes of before."""
    target = await target_of(here, kinds, amounts)
    load = await load_on(here.server, subs=SUBS, posters=2, tidy=False, devices=1, pace=0.02)
    async with load.running():
        await until(lambda: all(one.connections for one in load.devices), "all are connected", within=60)
        await load.answers(50)
        before = memory(here.process)
        begun = await attacked(target)
        await load.answers(50)
    note("p50_ms", round(load.percentile(0.5) * 1000))
    note("p99_ms", round(load.percentile(0.99) * 1000))
    assert {kind for kind in kinds if not begun[kind]} == set(), "each kind has attacked"
    await judged(load, begun.total())
    assert load.unanswered == 0, "each post was answered at the first attempt"
    assert [one.closes for one in load.devices if one.closes] == [], "no device has lost its socket"
    assert memory(here.process).keys() == before.keys(), "no process has ended"

    def more_memory() -> dict[int, int]:
        """Return the MiB that each process has more than before, where that is too much."""
        kept = {pid: (now - before[pid]) // MIB for pid, now in memory(here.process).items()}
        return {pid: mib for pid, mib in kept.items() if mib > MOST_KEPT_MIB}

    await until(lambda: not more_memory(), f"no process keeps more than {MOST_KEPT_MIB} MiB", within=60)
    assert tracebacks(here.process.log) == []
    assert here.process.end() == 0


CASES = [
    pytest.param("sqlite", 1, False, id="SQLite"),
    pytest.param("postgres", 1, False, id="Postgres"),
    pytest.param("postgres", 2, False, id="two workers"),
    pytest.param("sqlite", 1, True, id="through nginx"),
]


@pytest.mark.parametrize(
    "amounts",
    [pytest.param(BRIEF, id="briefly"), pytest.param(LONG, id="for five minutes", marks=pytest.mark.soak)],
)
@pytest.mark.parametrize(("database_url", "workers", "nginx"), CASES, indirect=["database_url"])
async def test_all_attacks_at_once_do_not_affect_other_users(
    database_url: str,
    workers: int,
    nginx: bool,
    amounts: dict[str, float],
    tmp_path: Path,
    judged: Judged,
    record_property: Callable[[str, object], None],
) -> None:
    async with site(database_url, tmp_path, workers=workers, nginx=nginx) as here:
        await withstands(here, judged, record_property, NAMES, amounts)


@pytest.mark.soak
@pytest.mark.parametrize("kind", NAMES)
async def test_each_attack_alone_does_not_affect_other_users(
    kind: str,
    sqlite_url: str,
    tmp_path: Path,
    judged: Judged,
    record_property: Callable[[str, object], None],
) -> None:
    async with site(sqlite_url, tmp_path, workers=1, nginx=False) as here:
        await withstands(here, judged, record_property, (kind,), BRIEF)
