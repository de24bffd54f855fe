"""The order of the steps of a connection, forced; and what a slow client costs."""

import asyncio
import gc
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

import pytest

from gateway.auth.limits.token_buckets import Buckets
from gateway.delivery.resume_point import BATCH_BYTES, ResumePoint, resume
from gateway.protocol.close_codes import Close
from gateway.protocol.items import Counts
from gateway.protocol.wire import Message
from gateway.store.changes import CHUNK, ItemUpdate, Seen
from gateway.store.entries import Entry
from gateway.store.log import PAGE, REPLAY_LIMIT, read_after
from gateway.store.transaction import Change, Committed
from tests.support.engine import Engine, Gate
from tests.support.waiting import until


async def test_a_commit_between_attaching_and_the_first_read_is_sent_once(engine: Engine) -> None:
    user = await engine.user()
    gate = engine.database.before_read = Gate()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, _):
        await gate.reached()
        await engine.store()
        gate.let_go()
        await wire.has("live")
        await engine.store()
        await wire.has("notification")
    assert wire.types() == ["hello", "live", "notification"]
    assert wire.sent[0]["seq"] == 1
    assert wire.seqs() == [2]


async def test_a_commit_after_the_snapshot_of_the_first_read_is_sent(engine: Engine) -> None:
    user = await engine.user()
    gate = engine.database.after_read = Gate()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, _):
        await gate.reached()
        await engine.store()
        gate.let_go()
        await wire.has("live")
    assert wire.types() == ["hello", "notification", "live"]
    assert wire.seqs() == [1]
    assert wire.sent[-1]["seq"] == 1


async def test_a_replay_from_memory_ends_with_the_counts_after_a_later_move_of_the_seen_mark(
    engine: Engine,
) -> None:
    """The entry in memory has the count of its commit, and the mark has moved since."""
    user = await engine.user()
    async with engine.connected(user, ResumePoint(since=0)) as (first, _):
        await first.has("live")
        await engine.store(engine.post())
        await first.has("notification")
        await engine.writer.change(Seen(user.id, 1))
        await first.has("seen")
        async with engine.connected(user, ResumePoint(since=0)) as (second, _):
            await second.has("live")
            assert second.types() == ["hello", "notification", "live"]
            assert [second.sent[-1][name] for name in ("seq", "unread", "unseen")] == [1, 1, 0]


async def test_a_commit_during_the_sending_of_hello_is_sent_before_live(engine: Engine) -> None:
    user = await engine.user()
    async with engine.connected(user, ResumePoint(since=0)) as (wire, _):
        gate = wire.blocked = Gate()
        await gate.reached()
        await engine.store(engine.post(), engine.post())
        wire.blocked = None
        gate.let_go()
        await wire.has("live")
    assert wire.types() == ["hello", "notification", "notification", "live"]
    assert wire.seqs() == [1, 2]


async def test_a_commit_after_a_replay_read_the_log_is_sent_after_the_replay(engine: Engine) -> None:
    user = await engine.user()
    await engine.store(engine.post(), engine.post())
    first = engine.database.before_read = Gate()
    async with engine.connected(user, ResumePoint(since=0)) as (wire, _):
        await first.reached()
        second = Gate()
        first.let_go()
        engine.database.after_read = None
        # The first read finds where to begin; the second reads the log, and is held with its page in hand.
        await until(lambda: engine.database.reads >= 2, "the first read has begun")
        engine.database.after_read = second
        await until(lambda: second._reached.is_set() or "live" in wire.types(), "the replay is held or over")
        await engine.store(engine.post())
        second.let_go()
        await until(lambda: 3 in wire.seqs(), "the third came")
    assert wire.seqs() == [1, 2, 3]


async def test_a_wake_between_reading_and_waiting_is_not_lost(engine: Engine) -> None:
    """The wake flag is cleared before reading: cleared after it, the second post would wait for a third."""
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, connection):
        await wire.has("live")
        gate = wire.blocked = Gate()
        await engine.store()
        await gate.reached()
        # The first is in hand and not sent yet; the second rings now, before the loop looks again.
        await engine.store()
        wire.blocked = None
        gate.let_go()
        await wire.has("notification", 2)
        assert wire.seqs() == [1, 2]
        assert connection._cursor == 2


async def test_subscribers_are_woken_only_after_the_commit_is_visible(engine: Engine) -> None:
    """Whoever is rung reads at once: rung before the commit, it would find nothing and go back to sleep."""
    user = await engine.user()
    readable: list[asyncio.Task[Any]] = []

    class Reader:
        session = "reader"
        position = (0, 0, 0)

        def wake(self, seq: int) -> None:
            readable.append(asyncio.create_task(engine.database.read(read_after, user.id, seq - 1)))

        def tick(self) -> None: ...

        def close(self, code: Close, reason: str) -> None: ...

    reader = Reader()
    engine.hub.attach(user.id, reader)
    for _ in range(5):
        await engine.store()
    pages = [await task for task in readable]
    engine.hub.detach(user.id, reader)
    assert [page.entries[0].counts.seq for page in pages] == [1, 2, 3, 4, 5]


async def test_a_session_that_ends_while_its_socket_opens_closes_the_socket(engine: Engine) -> None:
    user = await engine.user()
    gate = engine.database.before_read = Gate()
    async with engine.connected(user) as (wire, _):
        await gate.reached()
        engine.revocation.end([user.session])
        gate.let_go()
        await until(lambda: wire.closed, "it is closed")
    assert wire.closed == (Close.UNAUTHORIZED, "token_revoked")
    assert wire.sent == []


async def test_a_socket_attached_after_its_session_ended_is_closed_without_messages(engine: Engine) -> None:
    user = await engine.user()
    engine.revocation.end([user.session])
    async with engine.connected(user) as (wire, _):
        await until(lambda: wire.closed, "it is closed")
    assert wire.closed == (Close.UNAUTHORIZED, "token_revoked")
    assert wire.sent == []


async def test_a_slow_client_catches_up_from_the_log_with_one_message_per_seq(engine: Engine) -> None:
    """After `live`, numbers whose items changed again come as empty changes: a client may count on each."""
    engine.recent.budget = 0
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        gate = wire.blocked = Gate()
        await engine.store()
        await gate.reached()
        posts = [engine.post() for _ in range(3)]
        await engine.store(*posts)
        await engine.writer.change(ItemUpdate(user.id, (posts[0].content.id,), read=True))
        await engine.writer.change(
            ItemUpdate(user.id, (posts[0].content.id, posts[2].content.id), archived=True)
        )
        wire.blocked = None
        gate.let_go()
        await until(lambda: wire.seqs()[-1:] == [6], "it has caught up")
        live = wire.sent[wire.types().index("live") :]
        assert [m["seq"] for m in live] == [0, 1, 2, 3, 4, 5, 6]
        by_seq = {m["seq"]: m for m in live}
        assert by_seq[2] == {"type": "changed", "seq": 2, "items": [], "unread": 2, "unseen": 2}
        assert by_seq[3]["type"] == "notification"
        assert by_seq[4]["items"] == by_seq[5]["items"] == []
        assert [item["created_seq"] for item in by_seq[6]["items"]] == [2, 4]
        assert (by_seq[6]["unread"], by_seq[6]["unseen"]) == (2, 2)


async def test_live_notifications_read_from_the_log_have_the_counts_of_their_seq(engine: Engine) -> None:
    """So it is right behind the handshake: what is committed meanwhile is not among the recent entries."""
    engine.recent.budget = 0
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        await engine.store(*[engine.post() for _ in range(3)])
        await wire.has("notification", 3)
        assert [(m["seq"], m["unread"], m["unseen"]) for m in wire.sent[-3:]] == [
            (1, 1, 1),
            (2, 2, 2),
            (3, 3, 3),
        ]


async def test_a_client_that_falls_too_far_behind_gets_a_reset(engine: Engine) -> None:
    engine.recent.budget = 0
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        gate = wire.blocked = Gate()
        await engine.store()
        await gate.reached()
        await engine.store(*[engine.post() for _ in range(REPLAY_LIMIT + 1)])
        wire.blocked = None
        gate.let_go()
        await wire.has("live", 2)
        await engine.store()
        await wire.has("notification", 2)
    kinds = wire.types()
    assert kinds[-4:] == ["notification", "reset", "live", "notification"]
    assert [m["seq"] for m in wire.sent[-4:]] == [1, REPLAY_LIMIT + 2, REPLAY_LIMIT + 2, REPLAY_LIMIT + 3]


async def test_an_up_to_date_client_is_served_from_memory(engine: Engine) -> None:
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        reads = engine.database.reads
        await engine.store(*[engine.post() for _ in range(50)])
        await wire.has("notification", 50)
        assert engine.database.reads == reads


async def test_an_up_to_date_client_is_sent_a_commit_before_the_post_returns(engine: Engine) -> None:
    user = await engine.user()
    async with (
        engine.connected(user, ResumePoint(latest=True)) as (wire, connection),
        engine.connected(user, ResumePoint(latest=True)) as (other, _),
    ):
        await wire.has("live")
        await other.has("live")
        await until(lambda: connection._idle, "it waits")
        sent: list[list[int]] = []
        engine.on_announced = lambda: sent.append([*wire.seqs(), *other.seqs()])
        await engine.store(engine.post(), engine.post())
        await engine.store()
        assert sent == [[1, 2, 1, 2], [1, 2, 3, 1, 2, 3]]
        assert (connection.position, connection._cursor, connection.counts.unread) == ((3, 0, 0), 3, 3)
        assert connection._idle


async def test_a_client_that_starts_to_lag_within_a_commit_gets_the_rest_later_once(engine: Engine) -> None:
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, connection):
        await wire.has("live")
        await until(lambda: connection._idle, "it waits")
        wire.lags_after = len(wire.sent) + 1
        await engine.store(*(engine.post() for _ in range(3)))
        await engine.store()
        assert (wire.writes, wire.seqs()) == ([3], [1, 2, 3])
        wire.lags_after = None
        wire.writable.set()
        await wire.has("notification", 4)
        await until(lambda: connection._idle, "it waits")
        await engine.store()
        assert (wire.writes, wire.seqs()) == ([3, 1, 1], [1, 2, 3, 4, 5])


async def test_a_large_commit_yields_to_other_tasks_after_each_burst(engine: Engine) -> None:
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, connection):
        await wire.has("live")
        await until(lambda: connection._idle, "it waits")
        passes = [len(wire.sent)]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(engine.store(*(engine.post() for _ in range(500))))
            while wire.types().count("notification") < 500:
                await asyncio.sleep(0)
                passes.append(len(wire.sent))
        assert max(after - before for before, after in pairwise(passes)) == max(wire.writes) < 50
        assert wire.seqs() == list(range(1, 501))


async def test_a_commit_does_not_overtake_an_earlier_wake(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, connection):
        await wire.has("live")
        await until(lambda: connection._idle, "it waits")
        record = engine.recent.record

        def wake_and_record(entries: Iterable[Entry], counts: Mapping[int, Counts]) -> None:
            connection.wake(1)
            record(entries, counts)

        monkeypatch.setattr(engine.recent, "record", wake_and_record)
        sent: list[list[int]] = []
        engine.on_announced = lambda: sent.append(wire.seqs())
        await engine.store()
        await wire.has("notification")
        assert (sent, wire.seqs()) == ([[]], [1])


async def test_a_wake_of_a_client_that_has_everything_starts_no_task(engine: Engine) -> None:
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, connection):
        await wire.has("live")
        await engine.store()
        await wire.has("notification")
        await until(lambda: connection._idle, "it waits")
        connection.wake(1)
        assert connection._idle


async def test_a_seen_mark_committed_with_a_post_is_sent_after_its_notification(engine: Engine) -> None:
    user = await engine.user()
    await engine.store()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, connection):
        await wire.has("live")
        await until(lambda: connection._idle, "it waits")
        await asyncio.gather(engine.store(), engine.writer.change(Seen(user.id, 1)))
        await wire.has("seen")
        assert len(engine.announced) == 2
        assert (wire.types()[-2:], wire.sent[-1]["unseen"]) == (["notification", "seen"], 1)


async def test_a_disconnected_client_does_not_affect_other_clients_of_its_user(engine: Engine) -> None:
    user = await engine.user()
    async with (
        engine.connected(user, ResumePoint(latest=True)) as (gone, connection),
        engine.connected(user, ResumePoint(latest=True)) as (wire, _),
    ):
        await gone.has("live")
        await wire.has("live")
        await until(lambda: connection._idle, "it waits")
        gone.closed = (1006, "")
        await engine.store()
        assert (wire.seqs(), gone.seqs()) == ([1], [])
        await until(lambda: engine.hub.sockets_of(user.id) == 1, "it has left")


async def test_entries_missing_from_memory_are_read_from_the_log(engine: Engine) -> None:
    """A commit that began before the user was followed leaves no entry, and the ones before it are there."""
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        await engine.store()
        await wire.has("notification")
        engine.writer.followed = ()
        await engine.store()
        await wire.has("notification", 2)
        engine.writer.followed = engine.recent
        await engine.store()
        await wire.has("notification", 3)
        assert wire.seqs() == [1, 2, 3]


async def test_a_wake_for_a_seq_beyond_the_log_causes_no_repeated_reads(engine: Engine) -> None:
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, connection):
        await wire.has("live")
        reads = engine.database.reads
        connection.wake(5)
        await until(lambda: engine.database.reads > reads, "the log is asked")
        await engine.store()
        await wire.has("notification")
        assert engine.database.reads <= reads + 2


async def test_a_commit_while_a_wake_is_ahead_of_the_log_is_not_lost(engine: Engine) -> None:
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, connection):
        await wire.has("live")
        gate = engine.database.after_read = Gate()
        connection.wake(5)
        await gate.reached()
        await engine.store()
        gate.let_go()
        await wire.has("notification")


async def test_two_sockets_of_a_user_share_one_encoded_message(engine: Engine) -> None:
    user = await engine.user()
    async with (
        engine.connected(user, ResumePoint(latest=True)) as (one, _),
        engine.connected(user, ResumePoint(latest=True)) as (other, _),
    ):
        await one.has("live")
        await other.has("live")
        await engine.store()
        await one.has("notification")
        await other.has("notification")
        assert one.sent[-1]["type"] == "notification"
        assert one.messages[-1] is other.messages[-1]


async def test_a_client_that_does_not_read_is_closed_after_the_deadline(engine: Engine) -> None:
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, connection):
        await wire.has("live")
        gate = wire.blocked = Gate()
        await engine.store()
        await gate.reached()
        connection.tick()
        assert wire.closed is None
        connection.outgoing._waiting_since = time.monotonic() - engine.settings.send_timeout - 1
        connection.tick()
        assert wire.closed == (Close.TOO_SLOW, "too_slow")


async def test_the_seen_mark_reaches_the_other_sockets(engine: Engine) -> None:
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        await engine.store()
        await engine.writer.change(Seen(user.id, 1))
        await wire.has("seen")
        await engine.writer.change(Seen(user.id, 1))
        await engine.store()
        await wire.has("notification", 2)
    assert wire.types() == ["hello", "live", "notification", "seen", "notification"]
    assert wire.sent[3] == {"type": "seen", "up_to": 1, "unseen": 0}
    assert (wire.sent[4]["unread"], wire.sent[4]["unseen"]) == (2, 1)


async def test_a_socket_gets_token_expiring_and_closes_when_its_token_expires(engine: Engine) -> None:
    user = await engine.user()
    async with engine.connected(user) as (wire, connection):
        await wire.has("live")
        engine.now = user.expires_at - 61.0
        connection.tick()
        engine.now = user.expires_at - 60.0
        connection.tick()
        await wire.has("token_expiring")
        connection.tick()
        engine.now = float(user.expires_at)
        connection.tick()
        assert wire.closed == (Close.UNAUTHORIZED, "token_expired")
    assert wire.types() == ["hello", "live", "token_expiring"]


async def test_a_waiting_command_does_not_delay_pushed_messages(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await engine.user()
    gate, change = Gate(), engine.writer.change

    async def held(work: Change, *_: Any) -> None:
        await gate.hold()
        await change(work)

    monkeypatch.setattr(engine.writer, "change", held)
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        wire.say(type="seen", up_to=0, ref="1")
        await gate.reached()
        await engine.store()
        await wire.has("notification")
        assert wire.types() == ["hello", "live", "notification"]
        gate.let_go()
        await wire.has("ok")


async def test_an_up_to_date_client_has_no_task(engine: Engine) -> None:
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, connection):
        await until(lambda: connection._idle and not wire.tasks, "its task has ended")
        tasks: list[int] = []
        engine.on_announced = lambda: tasks.append(len(wire.tasks))
        await engine.store()
        await engine.store(engine.post(), engine.post())
        wire.say(type="ack", seq=3)
        connection.outgoing.sent_at -= engine.settings.heartbeat
        connection.tick()
        engine.now = user.expires_at - 60.0
        connection.tick()
        assert tasks == [0, 0]
        assert not wire.tasks
    assert wire.types()[2:] == ["notification"] * 3 + ["heartbeat", "token_expiring"]


async def test_a_heartbeat_to_a_lagging_client_waits_and_then_closes_the_connection(engine: Engine) -> None:
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, connection):
        await until(lambda: connection._idle, "it is idle")
        wire.writable.clear()
        connection.outgoing.sent_at -= engine.settings.heartbeat
        connection.tick()
        await until(lambda: connection.outgoing._waiting_since is not None, "it waits for the client")
        assert wire.types() == ["hello", "live"]
        connection.outgoing._waiting_since = time.monotonic() - engine.settings.send_timeout - 1
        connection.tick()
        assert wire.closed == (Close.TOO_SLOW, "too_slow")


async def test_a_commit_between_two_steps_of_a_task_is_sent_by_that_task(engine: Engine) -> None:
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, connection):
        await until(lambda: connection._idle, "it is idle")
        gate = wire.blocked = Gate()
        await engine.store()
        await gate.reached()
        assert len(wire.tasks) == 1
        await engine.store()
        await engine.store()
        assert len(wire.tasks) == 1
        wire.blocked = None
        gate.let_go()
        await wire.has("notification", 3)
        await until(lambda: connection._idle, "it is idle")
    assert wire.seqs() == [1, 2, 3]


async def test_a_commit_that_is_announced_as_the_task_ends_is_sent(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await engine.user()
    announced: list[Committed] = []
    monkeypatch.setattr(engine.writer, "_announce", announced.append)
    gate = engine.database.after_read = Gate()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, _):
        take = wire._take

        def take_and_announce(message: Message) -> None:
            take(message)
            if message.kind == "live":
                asyncio.get_running_loop().call_soon(engine.announce, announced[0])

        monkeypatch.setattr(wire, "_take", take_and_announce)
        await gate.reached()
        await engine.store()
        gate.let_go()
        await wire.has("notification")
    assert wire.types() == ["hello", "live", "notification"]


async def test_commands_behind_a_waiting_command_run_in_order(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await engine.user()
    await engine.store(engine.post(), engine.post())
    gate, change = Gate(), engine.writer.change
    done: list[Change] = []

    async def held(work: Change, *_: Any) -> None:
        if not done:
            await gate.hold()
        done.append(work)
        await change(work)

    monkeypatch.setattr(engine.writer, "change", held)
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, connection):
        await wire.has("live")
        wire.say(type="seen", up_to=1, ref="1")
        wire.say(type="ack", seq=1)
        wire.say("no command")
        wire.say(type="seen", up_to=2, ref="2")
        await gate.reached()
        assert (done, connection._commands._acknowledged) == ([], 0)
        gate.let_go()
        await wire.has("ok", 2)
    assert done == [Seen(user.id, 1), Seen(user.id, 2)]
    assert [m.get("ref") for m in wire.sent if m["type"] in {"ok", "error"}] == ["1", None, "2"]


async def test_a_failing_command_closes_only_its_own_socket(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await engine.user()

    async def fail(*_: Any) -> None:
        raise RuntimeError

    async with (
        engine.connected(user, ResumePoint(latest=True)) as (one, _),
        engine.connected(user, ResumePoint(latest=True)) as (other, _),
    ):
        await one.has("live")
        await other.has("live")
        with monkeypatch.context() as patch:
            patch.setattr(engine.writer, "change", fail)
            one.say(type="seen", up_to=0)
            await until(lambda: one.closed, "it is closed")
        assert one.closed == (Close.INTERNAL_ERROR, "internal_error")
        assert engine.hub.sockets_of(user.id) == 1
        await engine.store()
        await other.has("notification")
        assert "notification" not in one.types()


async def test_too_many_commands_close_the_socket_and_acknowledgements_do_not_count(engine: Engine) -> None:
    engine.settings = engine.settings.model_copy(update={"commands_per_second": 50})
    user = await engine.user()
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        await engine.store(*[engine.post() for _ in range(400)])
        await wire.has("notification", 400)
        for seq in range(1, 401):
            wire.say(type="ack", seq=seq)
        wire.say(type="ping", ref="still here")
        await wire.has("ok")
        for _ in range(400):
            wire.say(type="ping")
        await until(lambda: wire.closed, "it is closed")
    assert wire.closed == (Close.TOO_MANY_COMMANDS, "too_many_commands")


async def test_the_command_budget_of_a_user_is_shared_by_all_sockets_and_outlives_them(
    engine: Engine,
) -> None:
    engine.commands = Buckets("socket-commands", 4, 16, clock=lambda: 0.0)
    user, other = await engine.user(), await engine.user("bob")
    await engine.store(*[engine.post("ada", "bob") for _ in range(30)])
    async with engine.connected(user, ResumePoint(0)) as (one, _):
        await one.has("live")
        for seq in range(1, 31):
            one.say(type="ack", seq=seq)
        for number in range(10):
            one.say(type="ping", ref=str(number))
        await one.has("ok", 10)
    async with engine.connected(user, ResumePoint(latest=True)) as (two, connection):
        for number in range(6):
            two.say(type="ping", ref=str(number))
        await two.has("ok", 6)
        connection.count_frame()
        assert two.closed == (Close.TOO_MANY_COMMANDS, "too_many_commands")
    async with engine.connected(user, ResumePoint(latest=True)) as (three, _):
        await three.has("live")
        three.say(type="ping", ref="one more")
        await until(lambda: three.closed, "it is closed")
        assert (three.closed, three.types()) == (two.closed, ["hello", "live"])
    async with engine.connected(other, ResumePoint(latest=True)) as (wire, _):
        wire.say(type="ping", ref="of somebody else")
        await wire.has("ok")


async def test_acks_of_changes_that_a_socket_was_not_sent_count_as_commands(engine: Engine) -> None:
    engine.commands = Buckets("socket-commands", 4, 16, clock=lambda: 0.0)
    user = await engine.user()
    await engine.store(*[engine.post() for _ in range(30)])
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        for seq in range(1, 31):
            wire.say(type="ack", seq=seq)
        await until(lambda: wire.closed, "it is closed")
    assert wire.closed == (Close.TOO_MANY_COMMANDS, "too_many_commands")


@pytest.mark.parametrize(
    ("start", "how"),
    [(ResumePoint(), "read"), (ResumePoint(latest=True), "lookup"), (ResumePoint(0), "lookup")],
)
async def test_only_a_resume_point_that_reads_no_items_uses_a_lookup(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, start: ResumePoint, how: str
) -> None:
    user = await engine.user()
    await engine.store()
    asked: list[str] = []

    def told(name: str) -> Callable[..., Any]:
        answer = getattr(engine.database, name)

        def ask(work: Callable[..., Any], *args: Any) -> Any:
            if work is resume:
                asked.append(name)
            return answer(work, *args)

        return ask

    for name in ("lookup", "read"):
        monkeypatch.setattr(engine.database, name, told(name))
    async with engine.connected(user, start) as (wire, _):
        await wire.has("live")
    assert asked[0] == how


LARGE = "x" * 8000


async def test_all_newest_items_are_sent_in_order_and_few_large_items_are_buffered(engine: Engine) -> None:
    user = await engine.user()
    posts = [engine.post("ada", title=LARGE) for _ in range(CHUNK + 30)]
    await engine.store(*posts)
    marked = [post.content.id for post in posts[:CHUNK]]
    for read in (True, False):
        await engine.writer.change(ItemUpdate(user.id, tuple(marked), read=read))
    resumption = await engine.database.read(resume, user.id, ResumePoint())
    assert resumption is not None
    assert sum(entry.size for entry in resumption.entries) <= BATCH_BYTES
    async with engine.connected(user) as (wire, _):
        await wire.has("live")
    assert wire.types() == ["hello", *["notification"] * 30, "changed", "live"]
    assert wire.seqs() == [*range(CHUNK + 1, CHUNK + 31), CHUNK + 32]
    assert [item["id"] for item in wire.sent[-2]["items"]] == marked


async def test_an_item_changed_before_it_is_sent_is_sent_only_with_its_change(engine: Engine) -> None:
    user = await engine.user()
    posts = [engine.post("ada", title=LARGE) for _ in range(60)]
    await engine.store(*posts)
    async with engine.connected(user) as (wire, _):
        gate = wire.blocked = Gate()
        await gate.reached()
        await engine.writer.change(ItemUpdate(user.id, (posts[59].content.id,), deleted=True))
        await engine.writer.change(ItemUpdate(user.id, (posts[58].content.id,), archived=True))
        wire.blocked = None
        gate.let_go()
        await wire.has("live")
    assert wire.types() == ["hello", *["notification"] * 58, "changed", "changed", "live"]
    assert wire.seqs() == [*range(1, 59), 61, 62]
    assert wire.sent[-2]["items"][0]["archived_at"] is not None


@pytest.mark.parametrize("start", [ResumePoint(), ResumePoint(since=0)])
async def test_unread_messages_of_a_lagging_client_are_held_only_by_the_transport(
    engine: Engine, start: ResumePoint
) -> None:
    user = await engine.user()
    title = f"{LARGE} unread"
    await engine.store(*(engine.post("ada", title=title) for _ in range(40)))

    def held() -> list[Entry]:
        gc.collect()
        entries = [one for one in gc.get_objects() if isinstance(one, Entry)]
        return [one for one in entries if one.items and one.items[0].content.title == title]

    async with engine.connected(user, start) as (wire, connection):
        wire.lags_after = 3
        await until(lambda: connection.outgoing._waiting_since is not None, "it waits for the client")
        assert (wire.seqs(), held()) == ([1, 2], [])
        while "live" not in wire.types():
            wire.writable.set()
            await asyncio.sleep(0)
    assert wire.seqs() == list(range(1, 41))


async def test_a_client_that_lags_behind_live_changes_gets_each_seq_once(engine: Engine) -> None:
    user = await engine.user()
    posts = [engine.post("ada") for _ in range(10)]
    await engine.store(*posts)
    async with engine.connected(user, ResumePoint(latest=True)) as (wire, connection):
        await wire.has("live")
        wire.lags_after = 1
        await engine.store()
        await until(lambda: not wire.writable.is_set(), "it lags")
        for post in posts:
            for read in (True, False):
                await engine.writer.change(ItemUpdate(user.id, (post.content.id,), read=read))
        # Read from the log: of each item, the second change only.
        engine.recent.forget(user.id)
        engine.recent.follow(user.id)
        await until(lambda: connection.head == 31, "all is committed")
        while 31 not in wire.seqs():
            wire.writable.set()
            await asyncio.sleep(0)
    assert wire.seqs() == list(range(11, 32))
    assert [len(message["items"]) for message in wire.sent[3:]] == [0, 1] * 10


async def test_a_client_that_lags_for_too_long_is_closed_even_without_buffered_messages(
    engine: Engine,
) -> None:
    engine.settings = engine.settings.model_copy(update={"send_timeout": 0.0})
    user = await engine.user()
    await engine.store(engine.post(), engine.post())
    async with engine.connected(user, ResumePoint(since=0)) as (wire, connection):
        wire.lags_after = 1
        await until(lambda: connection.outgoing._waiting_since is not None, "it waits for the client")
        connection.tick()
        assert wire.closed == (Close.TOO_SLOW, "too_slow")


async def test_a_replay_of_large_items_is_read_in_parts_and_is_complete(engine: Engine) -> None:
    user = await engine.user()
    await engine.store(*(engine.post("ada", title=LARGE) for _ in range(PAGE)))
    async with engine.connected(user, ResumePoint(since=0)) as (wire, _):
        await wire.has("live")
        assert engine.database.reads > 3
    assert wire.seqs() == list(range(1, PAGE + 1))
