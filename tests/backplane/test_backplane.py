"""What every backplane does: in memory, on Postgres, on Redis and on a cluster of Redis."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis as Client
from sqlalchemy.engine import make_url

from gateway.backplane import Backplane, Receiver, open_backplane, reach
from gateway.backplane.hints import MAX_MESSAGE_BYTES, HintMessage, Hints, Outbox, decode, encode
from gateway.backplane.link import Link
from gateway.backplane.memory import MemoryBackplane
from gateway.backplane.postgres import CHANNEL, PostgresBackplane
from gateway.backplane.redis import SHARDS, RedisBackplane
from gateway.settings import SettingsError, load_settings
from tests.support.databases import settings_for
from tests.support.engine import Gate
from tests.support.postgres import Postgres, free_port
from tests.support.proxy import Proxy, proxy_to
from tests.support.redis_server import Redis, running_redis
from tests.support.waiting import until, until_none, until_sync

BIG = 2**62


@dataclass
class Ear:
    """What one process has heard, in order."""

    seqs: dict[int, int] = field(default_factory=dict)
    messages: int = 0
    ended: list[str] = field(default_factory=list)
    resumed: list[set[int] | None] = field(default_factory=list)

    def receiver(self) -> Receiver:
        return Receiver(self._hint, self.ended.extend, self._resume)

    def _hint(self, seqs: object) -> None:
        self.messages += 1
        for user_id, seq in dict(seqs).items():  # type: ignore[call-overload]
            self.seqs[user_id] = max(seq, self.seqs.get(user_id, 0))

    def _resume(self, users: Collection[int] | None) -> None:
        self.resumed.append(None if users is None else set(users))

    def is_aware_of(self, user_id: int, since: int) -> bool:
        """Whether a hint of this user was heard, or the user was to be looked at since so many times."""
        return user_id in self.seqs or any(users and user_id in users for users in self.resumed[since:])


@dataclass
class Process:
    """A process that has a backplane."""

    backplane: Backplane
    ear: Ear

    async def listens(self) -> None:
        await until(lambda: self.backplane.listening and None in self.ear.resumed, "it listens", within=30)

    async def knows(self, user_id: int, seq: int) -> None:
        await until(lambda: self.ear.seqs.get(user_id) == seq, f"user {user_id} is at {seq}", within=30)

    @property
    def everything(self) -> int:
        """How many times everything was rung."""
        return self.ear.resumed.count(None)


@asynccontextmanager
async def running(backplane: Backplane) -> AsyncIterator[Process]:
    """Run a backplane."""
    process = Process(backplane, Ear())
    task = asyncio.create_task(backplane.run(process.ear.receiver()))
    try:
        yield process
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    await until_none(lambda: asyncio.all_tasks() - before - {asyncio.current_task()}, "tasks")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two servers that share the slots of a cluster."""
    with ExitStack() as stack:
        ports, buses = [free_port(), free_port()], [free_port(), free_port()]
        for port, bus in zip(ports, buses, strict=True):
            options = ("--cluster-enabled", "yes", "--cluster-port", str(bus))
            stack.enter_context(running_redis(port, *options))
        clients = [stack.enter_context(Client(port=port, decode_responses=True)) for port in ports]
        for number, client in enumerate(clients):
            say: Any = client.execute_command
            say("CLUSTER", "ADDSLOTSRANGE", number * 8192, number * 8192 + 8191)
            say("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            say("CLUSTER", "MEET", "127.0.0.1", ports[0], buses[0])
        until_sync(lambda: all(map(_is_well, clients)), "the cluster is well", within=30)
        yield f"redis://127.0.0.1:{ports[0]}"


def _is_well(client: Client) -> bool:
    state = str(client.execute_command("CLUSTER", "INFO"))  # type: ignore[no-untyped-call]
    return "cluster_state:ok" in state and "cluster_known_nodes:2" in state


Make = Callable[[], Backplane]


def maker(kind: str, request: pytest.FixtureRequest) -> Make:
    if kind == "memory":
        peers: dict[MemoryBackplane, Receiver] = {}
        return lambda: MemoryBackplane(peers)
    if kind == "postgres":
        url: str = request.getfixturevalue("empty_postgres_url")
        return lambda: PostgresBackplane(url)
    if kind == "redis":
        redis: Redis = request.getfixturevalue("redis")
        return lambda: RedisBackplane(redis.url)
    cluster: str = request.getfixturevalue("cluster")
    return lambda: RedisBackplane(cluster)


@pytest.fixture(params=["memory", "postgres", "redis", "cluster"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a backplane of one gateway, of each kind."""
    return maker(request.param, request)


@pytest.fixture(params=["postgres", "redis", "cluster"])
def make_link(request: pytest.FixtureRequest) -> Make:
    """Makes a backplane that has a server."""
    return maker(request.param, request)


@asynccontextmanager
async def two(make: Make) -> AsyncIterator[tuple[Process, Process]]:
    async with running(make()) as one, running(make()) as other:
        await one.listens()
        await other.listens()
        yield one, other


async def followed(process: Process, *users: int) -> None:
    """Follow users, and wait until their hints are heard."""
    for user_id in users:
        process.backplane.follow(user_id)
    if isinstance(process.backplane, RedisBackplane):
        shards = {user_id % SHARDS for user_id in users}
        await until(
            lambda: (
                shards
                <= {user % SHARDS for users in process.ear.resumed if users is not None for user in users}
            ),
            "the channels are subscribed to",
        )


# --- what is told -------------------------------------------------------------------------------------------


async def test_a_hint_reaches_the_other_process_and_not_its_own(make: Make) -> None:
    async with two(make) as (one, other):
        await followed(one, 7, 8)
        await followed(other, 7, 8)
        one.backplane.publish({7: 43, 8: 1})
        await other.knows(7, 43)
        await other.knows(8, 1)
        other.backplane.publish({7: 44})
        await one.knows(7, 44)
        assert one.ear.seqs == {7: 44}
        assert other.ear.seqs == {7: 43, 8: 1}
        assert (one.backplane.sent, other.backplane.received) == (2, 2)


async def test_ended_sessions_reach_a_process_that_follows_no_user(make: Make) -> None:
    async with two(make) as (one, other):
        one.backplane.publish({}, ["first", "second"])
        await until(lambda: set(other.ear.ended) == {"first", "second"}, "both are told")
        assert one.ear.ended == []


async def test_hints_for_more_users_than_one_message_holds_all_arrive(make: Make) -> None:
    users = {BIG + number: BIG + number for number in range(1000)}
    async with two(make) as (one, other):
        await followed(other, *users)
        one.backplane.publish(users)
        await until(lambda: other.ear.seqs == users, "all are told")


async def test_waiting_hints_are_merged_to_the_highest_seq(make_link: Make) -> None:
    async with two(make_link) as (one, other):
        await followed(other, 7)
        for seq in (*range(1, 500), 3):
            one.backplane.publish({7: seq})
        await other.knows(7, 499)
        assert other.ear.messages <= 2


async def test_draining_delivers_pending_hints(make_link: Make) -> None:
    async with running(make_link()) as other:
        await other.listens()
        await followed(other, 7)
        async with running(make_link()) as one:
            await one.listens()
            one.backplane.publish({7: 1})
            await one.backplane.drain()
        await other.knows(7, 1)


async def test_draining_does_not_wait_for_an_unreachable_server() -> None:
    async with running(RedisBackplane(f"redis://127.0.0.1:{free_port()}")) as one:
        one.backplane.publish({7: 1})
        await asyncio.wait_for(one.backplane.drain(), 0.5)


async def test_no_hint_is_lost_between_following_a_user_and_subscribing(make: Make) -> None:
    """Whoever follows reads the log afterwards: a hint is heard, or the user is to be looked at after it."""
    async with two(make) as (one, other):
        for user_id in range(1, 40):
            looked_at = len(other.ear.resumed)
            other.backplane.follow(user_id)
            one.backplane.publish({user_id: 1})
            await until(partial(other.ear.is_aware_of, user_id, looked_at), f"user {user_id} is not missed")


async def test_subscribing_to_a_channel_resumes_its_users_to_find_missed_hints(redis: Redis) -> None:
    async with two(lambda: RedisBackplane(redis.url)) as (one, other):
        backplane = other.backplane
        assert isinstance(backplane, RedisBackplane)
        gate, subscribe = Gate(), backplane._subscribe

        async def hold(shards: Iterable[int]) -> None:
            await gate.hold()
            await subscribe(shards)

        backplane._subscribe = hold  # type: ignore[method-assign]
        backplane.follow(7)
        await gate.reached()
        one.backplane.publish({7: 1})
        await until(lambda: one.backplane.sent == 1, "it is told, and nobody hears it")
        gate.let_go()
        await until(lambda: {7} in other.ear.resumed, "the user is looked at")
        assert other.ear.seqs == {}


async def test_a_process_subscribes_only_to_the_channels_of_its_users(redis: Redis) -> None:
    async with two(lambda: RedisBackplane(redis.url)) as (one, other):
        await followed(other, 1, 2, 1 + SHARDS)
        one.backplane.publish({1: 1, 2: 1, 3: 1})
        await other.knows(2, 1)
        other.backplane.forget(2)
        other.backplane.forget(1)
        with Client.from_url(redis.url) as client:
            await until(
                lambda: client.pubsub_channels("gateway:0:[0-9]*") == [b"gateway:0:1"],
                "the channel of user 2 is left, that of the others is not",
            )
        one.backplane.publish({1: 2, 2: 2})
        await other.knows(1, 2)
        assert other.ear.seqs == {1: 2, 2: 1}


async def test_hints_arrive_after_a_user_is_followed_and_forgotten_repeatedly(make: Make) -> None:
    async with two(make) as (one, other):
        for _ in range(20):
            other.backplane.follow(7)
            other.backplane.forget(7)
            await asyncio.sleep(0)
        await followed(other, 7)
        # A subscription that comes after is in order behind all that was asked for before.
        await followed(other, 8)
        one.backplane.publish({7: 1})
        await other.knows(7, 1)
        assert other.everything == 1


async def test_databases_of_one_redis_separate_gateways(redis: Redis) -> None:
    async with (
        running(RedisBackplane(f"{redis.url}/0")) as one,
        running(RedisBackplane(f"{redis.url}/1")) as stranger,
        running(RedisBackplane(f"{redis.url}/0")) as other,
    ):
        for process in (one, stranger, other):
            await process.listens()
            await followed(process, 7)
        one.backplane.publish({7: 1}, ["session"])
        await other.knows(7, 1)
        await until(lambda: other.ear.ended, "the session is told of")
        assert (stranger.ear.seqs, stranger.ear.ended) == ({}, [])


# --- what goes wrong ----------------------------------------------------------------------------------------


@dataclass
class Faulty:
    """Two processes on a server, the second behind a proxy, which may fail; both check every half second."""

    one: Process
    other: Process
    proxy: Proxy


@pytest.fixture(params=["postgres", "redis"])
def server_url(request: pytest.FixtureRequest) -> str:
    if request.param == "redis":
        redis: Redis = request.getfixturevalue("redis")
        return redis.url
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


@pytest.fixture
async def faulty(server_url: str) -> AsyncIterator[Faulty]:
    kind = RedisBackplane if server_url.startswith("redis") else PostgresBackplane
    url = make_url(server_url)
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxy_to(url.port or 0))
        behind = url.set(port=proxy.port).render_as_string(hide_password=False)
        one, other = [
            await stack.enter_async_context(running(kind(each, check_interval=0.5)))
            for each in (server_url, behind)
        ]
        await one.listens()
        await other.listens()
        await followed(one, 7)
        await followed(other, 7)
        yield Faulty(one, other, proxy)


async def test_a_reconnect_wakes_all_users_once_and_hints_continue(faulty: Faulty) -> None:
    faulty.proxy.cut()
    await until(lambda: faulty.other.everything == 2, "everything is rung", within=15)
    faulty.one.backplane.publish({7: 2})
    await faulty.other.knows(7, 2)
    assert (faulty.one.everything, faulty.other.everything) == (1, 2)


async def test_hints_published_during_an_outage_arrive_after_it(faulty: Faulty) -> None:
    await faulty.proxy.close()
    await until(lambda: not faulty.other.backplane.listening, "the loss is noticed")
    for seq in range(100):
        faulty.other.backplane.publish({7: seq}, [str(seq)])
    await faulty.proxy.open()
    await faulty.one.knows(7, 99)
    await until(lambda: len(faulty.one.ear.ended) == 100, "the sessions are told of")
    await until(lambda: faulty.other.everything == 2, "everything is rung")


async def test_a_half_open_connection_is_detected_by_the_missing_loopback_message(faulty: Faulty) -> None:
    faulty.proxy.stall()
    faulty.other.backplane.publish({7: 5})
    loop = asyncio.get_running_loop()
    began = loop.time()
    await until(lambda: not faulty.other.backplane.listening, "the loss is noticed", within=15)
    # Two intervals of half a second, and what a busy machine takes.
    assert loop.time() - began < 10
    faulty.one.backplane.publish({7: 1})
    faulty.proxy.cut()
    faulty.proxy.flow()
    await until(lambda: faulty.other.everything == 2, "everything is rung", within=30)
    faulty.one.backplane.publish({7: 2})
    await faulty.other.knows(7, 2)
    # What was on its way into nowhere is told once more.
    await faulty.one.knows(7, 5)


async def test_an_outage_and_its_end_are_each_logged_once(faulty: Faulty) -> None:
    with structlog.testing.capture_logs() as events:
        await faulty.proxy.close()
        link = faulty.other.backplane
        assert isinstance(link, Link)
        await until(lambda: link._failures > 2, "it has tried some times")
        await faulty.proxy.open()
        await until(lambda: link.listening, "it is back", within=15)
    assert [(event["event"], event["log_level"]) for event in events] == [
        ("the backplane is unavailable: hints are delayed", "warning"),
        ("the backplane is back", "info"),
    ]


async def test_a_terminated_listener_reconnects_within_5_seconds(
    empty_postgres_url: str, postgres: Postgres
) -> None:
    database = make_url(empty_postgres_url).database
    async with two(lambda: PostgresBackplane(empty_postgres_url)) as (one, other):
        loop = asyncio.get_running_loop()
        began = loop.time()
        await postgres.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        )
        await until(lambda: one.everything == other.everything == 2, "both are back", within=30)
        assert loop.time() - began < 5
        one.backplane.publish({7: 1})
        await other.knows(7, 1)


async def test_the_backplane_reconnects_to_a_restarted_redis() -> None:
    port = free_port()
    with running_redis(port) as server:
        backplanes = [RedisBackplane(server.url) for _ in range(2)]
        stack = AsyncExitStack()
        one, other = [await stack.enter_async_context(running(each)) for each in backplanes]
        await one.listens()
        await other.listens()
    async with stack:
        await until(lambda: not other.backplane.listening, "the loss is noticed")
        other.backplane.follow(7)
        one.backplane.publish({7: 1})
        with running_redis(port):
            await until(lambda: one.everything == other.everything == 2, "both are back", within=30)
            one.backplane.publish({7: 2})
            await other.knows(7, 2)


async def test_the_backplane_retries_a_server_that_is_down_at_the_start() -> None:
    port = free_port()
    async with running(RedisBackplane(f"redis://127.0.0.1:{port}")) as one:
        link = one.backplane
        assert isinstance(link, Link)
        await until(lambda: link.problem, "it has tried")
        assert (link.listening, one.ear.resumed) == (False, [])
        with running_redis(port):
            await one.listens()


# --- what anybody may say -----------------------------------------------------------------------------------

GARBAGE = [
    "",
    "junk",
    "[" * 5000,
    "{}",
    "[]",
    '["x",false,[1],[]]',
    '["x",false,[1,-1],[]]',
    '["x",false,[1,true],[]]',
    '["x",false,[1,1e3],[]]',
    '["x",false,[1,99999999999999999999],[]]',
    '["x",0,[],[]]',
    '["x",false,[],[7]]',
    '["x",false,[],[""]]',
    '["x",false,[],{}]',
    '["x",false,[],["' + "y" * 41 + '"]]',
    json.dumps(["x", False, list(range(4000)), []]),
]


@pytest.mark.parametrize("text", GARBAGE, ids=range(len(GARBAGE)))
def test_a_malformed_message_is_refused_as_a_whole(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which of its kinds does not matter
        decode(text)


@settings(deadline=None, max_examples=50)
@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_message_is_decoded_or_refused(text: str) -> None:
    try:
        message = decode(text)
    except ValueError:
        return
    assert isinstance(message, HintMessage)


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), max_size=400),
    st.sets(st.text("0123456789abcdef~_", min_size=1, max_size=32), max_size=400),
    st.booleans(),
)
def test_encoded_hints_fit_into_postgres_messages_and_decode_unchanged(
    seqs: dict[int, int], ended: set[str], everything: bool
) -> None:
    messages = encode("0123456789abcdef", Hints(seqs, ended, everything))
    read = [decode(message) for message in messages]
    assert all(len(message) <= MAX_MESSAGE_BYTES for message in messages)
    assert {user: seq for one in read for user, seq in one.hints.seqs.items()} == seqs
    assert {session for one in read for session in one.hints.ended} == ended
    assert {one.hints.everything for one in read} == {everything}


async def test_malformed_messages_wake_all_users_and_are_logged_once(
    empty_postgres_url: str, postgres: Postgres, redis: Redis
) -> None:
    async with (
        running(PostgresBackplane(empty_postgres_url)) as one,
        running(RedisBackplane(redis.url)) as other,
    ):
        await one.listens()
        await other.listens()
        with structlog.testing.capture_logs() as events:
            async with postgres.connected(make_url(empty_postgres_url).database) as connection:
                for _ in range(3):
                    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, "junk")
            with Client.from_url(redis.url) as client:
                for text in (b"junk", b"\xff\xfe", b"[" * 9000):
                    client.publish("gateway:0:all", text)
            await until(lambda: one.everything == other.everything == 4, "everything is rung")
        assert [event["log_level"] for event in events] == ["warning", "warning"]
        assert one.backplane.listening
        assert other.backplane.listening


async def test_an_outbox_over_its_limit_collapses_into_an_everything_hint() -> None:
    outbox = Outbox(limit=10)
    outbox.put(Hints(dict.fromkeys(range(11), 1), ["session"]))
    outbox.put(Hints({1: 2}))
    assert await outbox.take() == Hints({1: 2}, {"session"}, everything=True)
    outbox.put(Hints({}, [str(number) for number in range(11)]))
    assert len(outbox) == 0


async def test_an_everything_hint_reaches_the_other_process(make_link: Make) -> None:
    async with two(make_link) as (one, other):
        link = one.backplane
        assert isinstance(link, Link)
        link._outbox.put(Hints(everything=True))
        await until(lambda: other.everything == 2, "everything is rung")
        assert one.everything == 1


async def test_reach_reports_whether_the_backplane_is_reachable(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.backplane.REACH_SECONDS", 20)
    assert await reach(make()) is None
    monkeypatch.setattr("gateway.backplane.REACH_SECONDS", 2)
    assert await reach(RedisBackplane(f"redis://127.0.0.1:{free_port()}")) == "Connection refused"


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("GATEWAY_BACKPLANE_URL", {"backplane_url": "postgres"}),
        ("GATEWAY_BACKPLANE_URL", {"backplane_url": "amqp://localhost"}),
        ("GATEWAY_BACKPLANE_URL", {"backplane_url": "redis://localhost:port"}),
        ("--workers", {"workers": 2}),
        ("--workers", {"workers": 0}),
    ],
)
def test_an_invalid_backplane_setting_gets_a_one_line_error_that_names_it(
    name: str, chosen: dict[str, Any]
) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: [^\n]+$"):
        load_settings(**chosen)


@pytest.mark.parametrize(
    ("chosen", "kind"),
    [
        ({}, MemoryBackplane),
        ({"workers": 2}, PostgresBackplane),
        ({"workers": 2, "backplane_url": "memory"}, MemoryBackplane),
        ({"backplane_url": "postgres"}, PostgresBackplane),
        ({"workers": 2, "backplane_url": "rediss://localhost"}, RedisBackplane),
    ],
)
def test_the_backplane_is_selected_by_the_url_or_the_number_of_workers(
    chosen: dict[str, Any], kind: type[Backplane]
) -> None:
    assert type(open_backplane(settings_for("postgresql://localhost/x", **chosen))) is kind
