"""The fixtures of the whole suite: databases, and real servers on them."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import structlog

from gateway.database.database import Database, open_database
from tests.support.clients import Socket
from tests.support.commands import RunCommand, commands_within
from tests.support.databases import (
    open_connections,
    postgres_copy,
    postgres_template,
    settings_for,
    sqlite_copy,
    sqlite_template,
)
from tests.support.engine import Engine
from tests.support.load import ROW, TABLE, Judged, Load, Verdict
from tests.support.postgres import Postgres, running_postgres
from tests.support.redis_server import Redis, running_redis
from tests.support.servers import LocalServer, StartServer, serving
from tests.support.trail import Trail, recording
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.async_api import Browser

DATABASES = ("sqlite", "postgres")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let what a test has logged be sent to the process that reports: half of a surrogate pair cannot be."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


UNMEASURED = ("docs", "system", "web")
"""The folders whose tests are not measured: they serve under load, or run little of the gateway."""

UNMEASURED_MODULES = ("test_inbox_machine", "test_schemathesis")
"""The modules whose tests run the same code with very many inputs."""

MEASURED_ON_BOTH = ("backplane", "database", "jobs", "store")
"""The folders whose tests run other code of the gateway on Postgres than on SQLite."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure the coverage of the tests that run the code in their own process: tracing makes them slower."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        repeats = "postgres" in item.name and folder not in MEASURED_ON_BOTH
        if folder in UNMEASURED or item.path.stem in UNMEASURED_MODULES or repeats:
            item.add_marker("no_cover")


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_this_machine() -> Iterator[None]:
    """Keep the operator's own `GATEWAY_*` variables out of every test, and of every process a test starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("GATEWAY_") and not name.startswith("GATEWAY_TEST_"):
                patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def bytecode_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the processes that tests start share their bytecode, where this one is told to write none.

    Each would compile all it imports otherwise, for seconds, as containers tell them to
    (`PYTHONDONTWRITEBYTECODE`). It is kept beside the temporary folders of the run, and nowhere else.
    """
    with pytest.MonkeyPatch.context() as patch:
        if sys.dont_write_bytecode:
            base = tmp_path_factory.getbasetemp()
            run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
            patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
            patch.setenv("PYTHONPYCACHEPREFIX", str(run / "bytecode"))
        yield


@pytest.fixture(scope="session", autouse=True)
def loggers_that_are_not_kept() -> Iterator[None]:
    """Let no logger keep what a command that runs within a test has set for the console."""
    configure = structlog.configure
    with pytest.MonkeyPatch.context() as patch:
        kept = {"cache_logger_on_first_use": False}
        patch.setattr(structlog, "configure", lambda **options: configure(**options | kept))
        yield


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """Undo what a command that ran within a test has set for the console."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The Postgres of this run. It starts with the first test that needs it."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def _postgres_template(postgres: Postgres) -> Iterator[str]:
    with postgres_template(postgres) as name:
        yield name


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sqlite_template(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture
def sqlite_url(_sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh SQLite database, for what only concerns SQLite."""
    return sqlite_copy(_sqlite_template, tmp_path)


@pytest.fixture
async def postgres_url(postgres: Postgres, _postgres_template: str) -> AsyncIterator[str]:
    """A fresh Postgres database. Whoever used it must have closed every connection by the end of the test."""
    async with postgres_copy(postgres, _postgres_template) as url:
        yield url

        async def let_go() -> bool:
            return await open_connections(postgres, url) == 0

        await until(let_go, "every connection to the database is closed")


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh, migrated database. What uses this runs once on SQLite and once on Postgres."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def empty_postgres_url(postgres: Postgres) -> AsyncIterator[str]:
    """A Postgres database without any table."""
    async with postgres_copy(postgres, None) as url:
        yield url


@pytest.fixture(params=DATABASES)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without any table, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open database, once of each kind."""
    async with open_database(settings_for(database_url)) as opened:
        yield opened


@pytest.fixture
async def start_server(database_url: str) -> AsyncIterator[StartServer]:
    """A function that starts a gateway with the settings it is given, once on each kind of database."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> LocalServer:
            return await stack.enter_async_context(serving(settings_for(database_url, **settings)))

        yield start


@pytest.fixture
async def server(start_server: StartServer) -> LocalServer:
    """A gateway with default settings, once on each kind of database."""
    return await start_server()


@pytest.fixture(params=["json", "msgpack"])
def each_encoding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test once with each encoding of its users' sockets, unless they name one themselves."""
    encoding: str = request.param
    monkeypatch.setattr(Socket, "encoding", encoding)
    return encoding


@pytest.fixture
async def gateway(sqlite_url: str) -> AsyncIterator[LocalServer]:
    """A gateway with default settings on SQLite, for what the database has no part in."""
    async with serving(settings_for(sqlite_url)) as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    """A Redis for a whole module."""
    with running_redis() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator["Browser"]:
    """A browser for a whole module, on its event loop: it takes longer to start than a test takes to run."""
    # Loaded late: most modules need none.
    from tests.support.browsers import launched

    async with launched() as started:
        yield started


@pytest.fixture
def run_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """A function that runs a command in this process, and in a folder of this test's."""
    monkeypatch.chdir(tmp_path)
    return commands_within(capsys)


@pytest.fixture
def trail() -> Iterator[Trail]:
    """What is recorded in the audit log of this process."""
    with recording() as one:
        yield one


@pytest.fixture
def judged(record_property: Callable[[str, object], None], request: pytest.FixtureRequest) -> Judged:
    """Have a load judged after so many faults, note what was counted, and see that there is no complaint."""

    async def judge(load: Load, faults: int) -> Verdict:
        verdict = await load.judged(faults)
        record_property(ROW, verdict.row(request.node.name))
        assert verdict.complaints == []
        return verdict

    return judge


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what each test of a load counted, as the rows of one table."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if isinstance(report, pytest.TestReport) and report.when == "call"
    ]
    rows = [str(value) for report in reports for name, value in report.user_properties if name == ROW]
    if rows:
        terminalreporter.section("loads")
        for row in (TABLE, *rows):
            terminalreporter.write_line(row)


@pytest.fixture
async def engine(database: Database, database_url: str) -> AsyncIterator[Engine]:
    """An engine that writes, and does not relay."""
    engine = Engine(settings_for(database_url), database)
    async with engine.writer.running():
        yield engine


@pytest.fixture
async def engines(database: Database, database_url: str) -> AsyncIterator[tuple[Engine, Engine]]:
    """The engine of a process that relays, and that of another one on the same database."""
    here, there = [Engine(settings_for(database_url), database) for _ in range(2)]
    there.posted = 1_000_000  # The ids that the two give are different ones.
    async with here.writer.running(), there.writer.running():
        relaying = asyncio.create_task(here.remote_commits.run())
        yield here, there
        relaying.cancel()
