"""A database that fails: what left nothing is run again, the rest is a 503, and rows equal answers."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager
from itertools import count

import asyncpg
import pytest
import structlog
from alembic import command
from sqlalchemy import Connection, func, insert, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.util import await_only

from gateway.auth.users import add_missing_users
from gateway.cli import run
from gateway.database import postgres, schema, sqlite
from gateway.database.database import Database, open_database
from gateway.database.models import services, users
from gateway.database.sqlite import SqliteDatabase
from gateway.errors import Unavailable
from gateway.store import positions
from tests.support.checker import History, Post, judge
from tests.support.clients import Device
from tests.support.databases import add_service, settings_for
from tests.support.postgres import Postgres
from tests.support.servers import LocalServer, StartServer, serving
from tests.support.waiting import until


class Attempts:
    """A unit of work that adds a service, and meets trouble the first `failing` times it is run."""

    def __init__(self, trouble: Callable[[Connection], None], failing: int = 1) -> None:
        self._trouble = trouble
        self._failing = failing
        self.number = 0

    def __call__(self, connection: Connection) -> None:
        self.number += 1
        values = {"client_id": "one", "name": "one", "scopes": "", "secret_hash": b"", "created_at": 0}
        connection.execute(insert(services).values(values))
        if self.number <= self._failing:
            self._trouble(connection)


def stored(connection: Connection) -> int:
    return connection.scalar(select(func.count()).where(services.c.name == "one")) or 0


def lose_the_connection(connection: Connection) -> None:
    connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


def raising(state: str) -> Callable[[Connection], None]:
    def fail(connection: Connection) -> None:
        connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$")

    return fail


@pytest.mark.parametrize(
    "trouble",
    [lose_the_connection, raising("40001"), raising("40P01"), raising("55P03")],
    ids=["connection lost", "serialisation failure", "deadlock", "lock not available"],
)
async def test_work_rolled_back_by_postgres_is_retried(
    postgres_url: str, trouble: Callable[[Connection], None]
) -> None:
    async with open_database(settings_for(postgres_url)) as database:
        work = Attempts(trouble, failing=2)
        await database.write(work)
        assert (work.number, await database.read(stored)) == (3, 1)


async def test_retries_of_rolled_back_work_end_with_a_503(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "RETRY_SECONDS", 0.2)
    async with open_database(settings_for(postgres_url)) as database:
        work = Attempts(raising("40001"), failing=1000)
        with pytest.raises(Unavailable) as caught:
            await database.write(work)
        assert caught.value.headers["Retry-After"] == "1"
        assert 1 < work.number < 10
        assert await database.read(stored) == 0


async def test_a_permanent_failure_is_not_retried(postgres_url: str) -> None:
    async with open_database(settings_for(postgres_url)) as database:
        work = Attempts(raising("53100"))  # the disk is full
        with pytest.raises(Unavailable):
            await database.write(work)
        assert work.number == 1


@pytest.mark.parametrize(
    "state",
    ["08006", "28P01", "3D000", "42501", "53300", "55000", "55006", "57P03", "58030", "F0000", "XX000"],
)
async def test_an_unusable_server_is_unavailable_whatever_its_error_code(
    postgres_url: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "RETRY_SECONDS", 0)
    async with open_database(settings_for(postgres_url)) as database:
        for use in (database.read, database.lookup, database.write):
            with pytest.raises(Unavailable):
                await use(raising(state))


@pytest.mark.parametrize("state", ["22012", "23505", "42P01", "P0001"])
async def test_a_statement_error_is_not_reported_as_an_outage(postgres_url: str, state: str) -> None:
    async with open_database(settings_for(postgres_url)) as database:
        with pytest.raises(DBAPIError):
            await database.write(raising(state))


async def test_a_server_without_the_requested_session_attributes_is_unavailable(postgres_url: str) -> None:
    async with open_database(settings_for(f"{postgres_url}?target_session_attrs=standby")) as database:
        with structlog.testing.capture_logs() as events, pytest.raises(Unavailable):
            await database.read(stored)
    assert [(one["event"], one["reason"]) for one in events] == [
        ("the database is unavailable", "no host is what target_session_attrs asks for")
    ]


AT_COMMIT = """
CREATE FUNCTION go() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER go AFTER INSERT ON services DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION go();
"""


async def test_work_whose_connection_is_lost_during_commit_is_not_retried(
    postgres: Postgres, postgres_url: str
) -> None:
    """Nobody knows whether it was committed: a second attempt could store it twice."""
    async with postgres.connected(make_url(postgres_url).database) as connection:
        await connection.execute(AT_COMMIT)
    async with open_database(settings_for(postgres_url)) as database:
        work = Attempts(lambda _: None)
        with pytest.raises(Unavailable):
            await database.write(work)
        assert work.number == 1


async def test_a_pool_of_dead_connections_fails_no_read_and_no_write(
    postgres: Postgres, postgres_url: str
) -> None:
    async with open_database(settings_for(postgres_url, database_pool_size=5)) as database:
        await asyncio.gather(*(database.read(stored) for _ in range(5)))
        await end_every_connection(postgres, postgres_url)
        await asyncio.gather(*(database.read(stored) for _ in range(5)))
        await end_every_connection(postgres, postgres_url)
        await database.write(Attempts(lambda _: None))
        assert await database.read(stored) == 1


async def end_every_connection(postgres: Postgres, url: str) -> None:
    async with postgres.connected() as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
            make_url(url).database,
        )


async def test_both_transactions_of_a_deadlock_complete(postgres_url: str) -> None:
    attempts = count()
    ready = [asyncio.Event(), asyncio.Event()]

    def cross(connection: Connection, mine: int) -> None:
        next(attempts)
        connection.execute(text("SET LOCAL deadlock_timeout = '20ms'"))
        for step in (mine, 1 - mine):
            connection.execute(update(users).where(users.c.sub == "ab"[step]).values(unread=mine))
            ready[mine].set()
            await_only(ready[1 - mine].wait())

    async with open_database(settings_for(postgres_url)) as database:
        await database.write(add_missing_users, ["a", "b"], 0)
        await asyncio.gather(database.write(cross, 0), database.write(cross, 1))
    assert next(attempts) == 3


async def test_concurrent_creation_of_the_same_users_does_not_deadlock(
    postgres: Postgres, postgres_url: str
) -> None:
    """Each holds a user that the other wants, if users were locked before those that are missing are made."""
    made = asyncio.Event()
    attempts = count()

    def maker(connection: Connection) -> None:
        """Make `new`, and go on to lock `old`, which was made meanwhile."""
        add_missing_users(connection, ["new"], 0)
        made.set()
        await_only(until_somebody_waits(postgres, postgres_url))
        connection.execute(select(users.c.id).where(users.c.sub == "old").with_for_update())

    def locker(connection: Connection) -> None:
        next(attempts)
        positions.lock(connection, {"old", "new"}, (), 0)

    async with open_database(settings_for(postgres_url)) as database:
        await database.write(add_missing_users, ["old"], 0)
        making = asyncio.create_task(database.write(maker))
        await made.wait()
        await asyncio.gather(making, database.write(locker))
    assert next(attempts) == 1


async def until_somebody_waits(postgres: Postgres, url: str) -> None:
    async with postgres.connected() as connection:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'"

        async def somebody() -> int:
            number: int = await connection.fetchval(waiting, make_url(url).database)
            return number

        await until(somebody, "somebody waits for a lock")


# --- a gateway on it ----------------------------------------------------------------------------------------


class Posting:
    """Posts one after another, each under one key until it is answered, and a device that follows."""

    def __init__(self, server: LocalServer, device: Device) -> None:
        self._server = server
        self._numbers = count(1)
        self.device = device
        self.posts: list[Post] = []
        self.refusals = 0
        self.stopped = False

    async def run(self) -> None:
        while not self.stopped:
            post = Post(f"post {next(self._numbers)}", ("ada", f"new-{len(self.posts) % 7}"))
            self.posts.append(post)
            while post.status is None:
                await self._try(post)

    async def _try(self, post: Post) -> None:
        headers = {"Idempotency-Key": post.title}
        body = {"to": list(post.to), "title": post.title}
        answer = await self._server.service.post("/v1/notifications", json=body, headers=headers)
        if answer.status_code == 503:
            assert answer.headers["Retry-After"] == "1"
            assert answer.json()["code"] == "unavailable"
            self.refusals += 1
            await asyncio.sleep(0.01)
            return
        assert answer.status_code == 201, answer.text
        post.status = answer.status_code
        post.ids.add(answer.json()["id"])

    async def answers(self, number: int) -> None:
        """Wait until so many more posts have been answered."""
        goal = len(self.posts) + number
        await until(lambda: len(self.posts) > goal, "posts are answered", within=60)

    async def refused(self) -> None:
        """Wait until one more post has been refused."""
        goal = self.refusals + 1
        await until(lambda: self.refusals >= goal, "a post is refused", within=60)


@asynccontextmanager
async def posting(server: LocalServer) -> AsyncIterator[Posting]:
    """Post while the block runs; then all that was answered has arrived, once, and nothing else has."""
    ada = await server.user()
    load = Posting(server, Device(ada, "ada's phone"))
    following = asyncio.create_task(load.device.run())
    running = asyncio.create_task(load.run())
    try:
        yield load
        load.stopped = True
        await asyncio.wait_for(running, 60)
        end = (await ada.inbox(limit=1))["seq"]
        await until(lambda: load.device.history.seq == end, "the device has caught up", within=60)
    finally:
        for task in (following, running):
            task.cancel()
        await asyncio.gather(following, running, return_exceptions=True)
    subs = {sub for post in load.posts for sub in post.to}
    inboxes = {sub: await (await server.user(sub)).whole_inbox() for sub in subs}
    assert judge(History(load.posts, [load.device.history], inboxes)) == []
    assert sum(inbox.seq for inbox in inboxes.values()) == 2 * len(load.posts)


@contextmanager
def full(server: LocalServer) -> Iterator[None]:
    limit_pages(server, 1)
    yield
    limit_pages(server, 2**31)


def limit_pages(server: LocalServer, number: int) -> None:
    """Let the file of the gateway grow to so many pages, or not beyond those it has."""
    database = server.state.database
    assert isinstance(database, SqliteDatabase)
    pragma(database, f"PRAGMA max_page_count = {number}")


def pragma(database: SqliteDatabase, statement: str) -> None:
    def execute() -> None:
        # On the driver's own connection, for on another one a transaction would begin, and fail.
        with closing(database._writer.raw_connection()) as connection:
            connection.cursor().execute(statement)

    database._writing.submit(execute).result(10)


@contextmanager
def read_only(server: LocalServer) -> Iterator[None]:
    database = server.state.database
    assert isinstance(database, SqliteDatabase)
    pragma(database, "PRAGMA query_only = 1")
    yield
    pragma(database, "PRAGMA query_only = 0")


@contextmanager
def locked(server: LocalServer) -> Iterator[None]:
    path = make_url(server.state.settings.database_url).database
    assert path is not None
    other = sqlite3.connect(path, isolation_level=None, timeout=10)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()


@pytest.mark.parametrize("fault", [full, read_only, locked])
async def test_an_unwritable_sqlite_file_loses_no_accepted_post(
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[LocalServer], AbstractContextManager[None]],
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.05)
    async with serving(settings_for(sqlite_url)) as server, posting(server) as load:
        await load.answers(20)
        for _ in range(2):
            with fault(server):
                await load.refused()
                # Who only reads does not notice.
                assert (await load.device.user.inbox(limit=1))["seq"] > 0
            await load.answers(20)


async def test_terminating_postgres_connections_under_load_loses_no_accepted_post(
    postgres: Postgres, postgres_url: str
) -> None:
    async with serving(settings_for(postgres_url)) as server, posting(server) as load:
        for _ in range(5):
            await load.answers(10)
            await end_every_connection(postgres, postgres_url)
        await load.answers(10)


NOT_LET_IN = {
    "55000": ("{name} ALLOW_CONNECTIONS false", "{name} ALLOW_CONNECTIONS true"),
    "3D000": ("{name} RENAME TO {name}_away", "{name}_away RENAME TO {name}"),
}


@pytest.mark.parametrize("state", NOT_LET_IN)
async def test_an_outage_of_a_postgres_that_rejects_logins_ends_without_a_restart(
    postgres: Postgres, postgres_url: str, state: str
) -> None:
    name = make_url(postgres_url).database
    shut, let_in = (f"ALTER DATABASE {how.format(name=name)}" for how in NOT_LET_IN[state])
    async with serving(settings_for(postgres_url)) as server:
        server.expected.append("not ready")

        async def posts(status: int) -> bool:
            answer = await server.service.post("/v1/notifications", json={"to": "ada", "title": "x"})
            assert answer.status_code in {201, 503}, answer.text
            return answer.status_code == status

        async def readyz(status: int) -> bool:
            return (await server.http.get("/readyz")).status_code == status

        assert await posts(201)
        with structlog.testing.capture_logs() as events:
            for attempt in range(100):
                # A rename waits for nobody: somebody may have connected since.
                await end_every_connection(postgres, postgres_url)
                try:
                    await postgres.execute(shut)
                    break
                except asyncpg.ObjectInUseError:
                    assert attempt < 99
            await end_every_connection(postgres, postgres_url)
            await until(lambda: posts(503), "a post is refused", within=30)
            await until(lambda: readyz(503), "readyz says so", within=30)
            await postgres.execute(let_in)
            await until(lambda: posts(201), "a post is taken", within=30)
            await until(lambda: readyz(200), "readyz is well again", within=30)
    logged = [one for one in events if one["event"].startswith("the database is")]
    assert [one["event"] for one in logged][:2] == ["the database is unavailable", "the database is back"]
    assert f"(SQLSTATE {state})" in logged[0]["reason"]
    assert [one for one in events if one["log_level"] in {"error", "critical"}] == []


async def test_a_postgres_that_turns_read_only_loses_no_accepted_post(
    postgres: Postgres, postgres_url: str
) -> None:
    name = make_url(postgres_url).database

    async def turn(mode: str) -> None:
        await postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {mode}")
        await end_every_connection(postgres, postgres_url)

    async with serving(settings_for(postgres_url)) as server, posting(server) as load:
        await load.answers(10)
        await turn("on")
        await load.refused()
        assert (await load.device.user.inbox(limit=1))["seq"] > 0
        await turn("off")
        await load.answers(10)


def test_a_command_on_a_read_only_file_prints_a_one_line_error(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", f"{sqlite_url.replace('///', '///file:')}?mode=ro&uri=true")
    assert run(["user", "add", "ada"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "readonly database" in said


async def test_every_503_has_a_retry_after_header(start_server: StartServer, database_url: str) -> None:
    server = await start_server()
    ada = await server.user()
    database = server.state.database

    async def fails(*_args: object, **_kwargs: object) -> None:
        raise Unavailable("The database cannot be used now.")

    for name in ("read", "lookup", "write"):
        setattr(database, name, fails)
    answers = [
        await ada.get("/v1/inbox"),
        await ada.get("/v1/inbox/changes"),
        await ada.post("/v1/inbox/seen", json={"up_to": 1}),
        await ada.post("/v1/auth/ticket"),
        await server.service.post("/v1/notifications", json={"to": "ada", "title": "x"}),
        await server.service.get("/v1/users"),
    ]
    for name in ("read", "lookup", "write"):
        delattr(database, name)
    assert [(answer.status_code, answer.headers.get("Retry-After")) for answer in answers] == [
        (503, "1")
    ] * len(answers)


# --- a migration under load ---------------------------------------------------------------------------------

FIRST = "0001"


def upgrade_to_the_first(connection: Connection) -> None:
    config = schema.alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, FIRST)
    connection.execute(text("INSERT INTO users (sub, created_at, epoch) VALUES ('old', 0, 'e')"))


def post_as_the_first_version_did(connection: Connection, number: int) -> None:
    """Name the columns of the first schema and no others, as a gateway that knows no more goes on to do."""
    user_id, seq = connection.execute(
        text(
            "UPDATE users SET last_seq = last_seq + 1, unread = unread + 1, unseen = unseen + 1"
            " WHERE sub = 'old' RETURNING id, last_seq"
        )
    ).one()
    uuid = f"01a00000-0000-7000-8000-{number:012d}"
    key = connection.scalar(
        text(
            "INSERT INTO notifications (uuid, service_id, title, category, priority, recipients, created_at)"
            " VALUES (:uuid, 1, :title, 'default', 'normal', 1, 0) RETURNING id"
        ),
        {"uuid": uuid, "title": f"old {number}"},
    )
    connection.execute(
        text(
            "INSERT INTO items (user_id, created_seq, seq, notification_id) VALUES (:user, :seq, :seq, :key)"
        ),
        {"user": user_id, "seq": seq, "key": key},
    )


async def test_migrating_from_the_first_schema_while_an_old_gateway_posts_loses_no_post(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", empty_database_url)
    numbers, stopped, posted = count(1), asyncio.Event(), list[int]()

    async def old_gateway(database: Database) -> None:
        while not stopped.is_set():
            number = next(numbers)
            await database.write(post_as_the_first_version_did, number)
            posted.append(number)

    async def posts(number: int) -> None:
        goal = len(posted) + number
        await until(lambda: len(posted) >= goal, "the old gateway posts", within=60)

    async with open_database(settings_for(empty_database_url)) as database:
        await database.write(upgrade_to_the_first)
        posting_of_old = asyncio.create_task(old_gateway(database))
        await posts(50)
        assert await database.read(schema.pending)
        assert await asyncio.to_thread(run, ["migrate"]) == 0
        assert not await database.read(schema.pending)
        await posts(50)
        stopped.set()
        await posting_of_old
        await database.write(add_service)
    async with serving(settings_for(empty_database_url)) as server:
        inbox = await (await server.user("old")).whole_inbox()
        assert sorted(item["title"] for item in inbox.items.values()) == sorted(f"old {n}" for n in posted)
        assert {item["seq"] for item in inbox.items.values()} == set(range(1, len(posted) + 1))
        assert (inbox.seq, inbox.unread) == (len(posted), len(posted))
        async with posting(server) as load:
            await load.answers(10)
            assert await asyncio.to_thread(run, ["migrate"]) == 0
            await load.answers(10)
