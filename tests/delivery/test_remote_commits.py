"""What other processes have committed and hinted at, with the orders forced.

The other process is a second engine on the same database; what it hints is said by the test.
"""

from contextlib import AsyncExitStack
from typing import Any

import pytest
import structlog

from gateway.delivery import remote_commits
from gateway.delivery.resume_point import ResumePoint
from gateway.errors import Unavailable
from gateway.store import log, users_behind
from gateway.store.changes import ItemUpdate, Seen
from gateway.store.entries import CHANGES
from tests.support.engine import Engine, Gate
from tests.support.waiting import until


async def test_a_hint_delivers_the_commits_of_another_process(engines: tuple[Engine, Engine]) -> None:
    here, there = engines
    user = await here.user()
    async with here.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        await there.store(there.post(), there.post())
        here.remote_commits.hint({user.id: 2})
        await wire.has("notification", 2)
        await here.store()
        await wire.has("notification", 3)
        await there.store()
        here.remote_commits.hint({user.id: 4})
        await wire.has("notification", 4)
    assert wire.seqs() == [1, 2, 3, 4]


async def test_a_hint_without_a_new_seq_delivers_the_seen_mark(engines: tuple[Engine, Engine]) -> None:
    here, there = engines
    user = await here.user()
    async with here.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        await here.store()
        await wire.has("notification")
        await there.writer.change(Seen(user.id, 1))
        here.remote_commits.hint({user.id: 1})
        await wire.has("seen")
    assert wire.sent[-1] == {"type": "seen", "up_to": 1, "unseen": 0}


async def test_a_seen_mark_and_a_new_seq_need_one_database_read(engines: tuple[Engine, Engine]) -> None:
    here, there = engines
    user = await here.user()
    async with here.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        await there.store(there.post(), there.post())
        await there.writer.change(Seen(user.id, 1))
        reads = here.database.reads
        here.remote_commits.hint({user.id: 2})
        await wire.has("seen")
        assert here.database.reads == reads + 1
    assert wire.types()[-3:] == ["notification", "notification", "seen"]
    assert wire.sent[-1] == {"type": "seen", "up_to": 1, "unseen": 1}


async def test_outdated_counts_of_another_process_are_not_sent(
    engines: tuple[Engine, Engine],
) -> None:
    here, there = engines
    user = await here.user()
    async with here.connected(user, ResumePoint(latest=True)) as (wire, connection):
        await wire.has("live")
        await here.store()
        await here.writer.change(Seen(user.id, 1))
        await wire.has("seen")
        await there.store(there.post(), there.post())
        await there.writer.change(Seen(user.id, 3))
        here.remote_commits.hint({user.id: 3})
        await wire.has("seen", 2)
        assert (wire.sent[-1]["up_to"], wire.sent[-1]["unseen"]) == (3, 0)
        wire.say(type="ping")
        await wire.has("heartbeat")
        said = wire.sent[-1]
        assert (said["seq"], said["unread"], said["unseen"]) == (3, 3, 0)
        assert connection.position == (3, 3, 0)


async def test_repeated_hints_cost_one_database_read(engines: tuple[Engine, Engine]) -> None:
    here, there = engines
    user = await here.user()
    async with here.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        await there.store()
        reads = here.database.reads
        for _ in range(100):
            here.remote_commits.hint({user.id: 1})
        await wire.has("notification")
        wire.say(type="ping", ref="1")
        await wire.has("ok")
        assert here.database.reads == reads + 1
        for _ in range(100):
            here.remote_commits.hint({user.id: 1})
        wire.say(type="ping", ref="2")
        await wire.has("ok", 2)
        await until(lambda: here.database.reads == reads + 2, "the log is asked once more")
    assert wire.seqs() == [1]


async def test_a_hint_during_a_read_that_finds_no_commit_is_not_lost(engines: tuple[Engine, Engine]) -> None:
    """The flag is cleared before reading: cleared after it, this mark would wait for the reconciliation."""
    here, there = engines
    user = await here.user()
    async with here.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        await here.store()
        await wire.has("notification")
        gate = here.database.after_read = Gate()
        here.remote_commits.hint({user.id: 1})
        await gate.reached()
        await there.writer.change(Seen(user.id, 1))
        here.remote_commits.hint({user.id: 1})
        gate.let_go()
        await wire.has("seen")


async def test_a_hint_during_a_read_that_finds_a_commit_is_not_lost(engines: tuple[Engine, Engine]) -> None:
    here, there = engines
    user = await here.user()
    async with here.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        await there.store()
        gate = here.database.after_read = Gate()
        here.remote_commits.hint({user.id: 1})
        await gate.reached()
        await there.writer.change(Seen(user.id, 1))
        here.remote_commits.hint({user.id: 1})
        gate.let_go()
        await wire.has("seen")
    assert wire.types()[-2:] == ["notification", "seen"]


@pytest.mark.parametrize("promised", [0, 1, 3, 7, 2**62])
async def test_a_hint_with_a_seq_too_high_or_too_low_is_harmless(
    engines: tuple[Engine, Engine], promised: int
) -> None:
    here, there = engines
    user = await here.user()
    async with here.connected(user, ResumePoint(latest=True)) as (wire, connection):
        await wire.has("live")
        await there.store(*[there.post() for _ in range(3)])
        reads = here.database.reads
        gate = wire.blocked = Gate()
        here.remote_commits.hint({user.id: promised})
        await gate.reached()
        # What it is being sent it may acknowledge, whatever the hint has said.
        wire.say(type="ack", seq=3, ref="mine")
        wire.blocked = None
        gate.let_go()
        await wire.has("notification", 3)
        await wire.has("ok")
        assert here.database.reads <= reads + 2
        await until(lambda: connection.head == 3, "the log has the last word")
        await there.store()
        here.remote_commits.hint({user.id: 4})
        await wire.has("notification", 4)
    assert wire.seqs() == [1, 2, 3, 4]
    assert "error" not in wire.types()


async def test_one_database_read_serves_all_users_and_all_their_sockets(
    engines: tuple[Engine, Engine],
) -> None:
    here, there = engines
    users = [await here.user(name) for name in ("ada", "bob", "cyd")]
    async with AsyncExitStack() as stack:
        wires = []
        for user in users * 3:
            wire, _ = await stack.enter_async_context(here.connected(user, ResumePoint(latest=True)))
            await wire.has("live")
            wires.append(wire)
        await there.store(there.post("ada", "bob"), there.post("bob"))
        reads = here.database.reads
        here.remote_commits.hint([user.id for user in users])
        for wire, number in zip(wires, (1, 2, 0) * 3, strict=True):
            await wire.has("notification", number)
        assert here.database.reads == reads + 1
        counts = [(message["seq"], message["unread"]) for message in wires[1].sent if "unread" in message]
    assert counts[-2:] == [(1, 1), (2, 2)]


async def test_entry_counts_are_exact_back_to_the_last_change_of_status(
    engines: tuple[Engine, Engine],
) -> None:
    here, there = engines
    user = await here.user()
    posts = [there.post() for _ in range(5)]
    await there.store(*posts[:2])
    await there.writer.change(Seen(user.id, 1))
    await there.writer.change(ItemUpdate(user.id, (posts[0].content.id,), read=True))
    await there.store(*posts[2:])
    entries, counts = await here.database.read(users_behind.read_new_entries, [(user.id, 0, 0, 0)])
    assert counts[user.id][:3] == (6, 4, 4)
    assert [entry.service_id for entry in entries] == [1, CHANGES, 1, 1, 1]
    # The first number is the read one's no more.
    assert [(entry.counts.seq, entry.counts.unread, entry.counts.unseen) for entry in entries] == [
        (2, 1, 1),
        (3, 1, 1),
        (4, 2, 2),
        (5, 3, 3),
        (6, 4, 4),
    ]


async def test_a_hint_for_a_user_without_a_local_socket_is_ignored(engines: tuple[Engine, Engine]) -> None:
    here, there = engines
    user = await here.user()
    await there.store()
    reads = here.database.reads
    here.remote_commits.hint([user.id, 12345])
    assert not here.remote_commits._waiting.is_set()
    assert here.database.reads == reads


async def test_a_local_commit_during_the_read_of_a_remote_commit_keeps_the_order(
    engines: tuple[Engine, Engine],
) -> None:
    here, there = engines
    user = await here.user()
    async with here.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        for before in (0, 4, 8):
            await there.store()
            gate = here.database.after_read = Gate()
            here.remote_commits.hint([user.id])
            await gate.reached()
            # It follows what the relay holds in its hand, and is in the tail before that.
            await here.store()
            gate.let_go()
            await wire.has("notification", before + 2)
            await here.store()
            await there.store()
            here.remote_commits.hint([user.id])
            await wire.has("notification", before + 4)
    assert wire.seqs() == list(range(1, 13))
    assert set(wire.types()[2:]) == {"notification"}


async def test_an_item_that_a_client_may_already_have_is_not_sent_as_new(
    engines: tuple[Engine, Engine],
) -> None:
    """Sockets of one user stand at different numbers, and what is relayed goes to all of them."""
    here, there = engines
    user = await here.user()
    async with AsyncExitStack() as stack:
        slow, _ = await stack.enter_async_context(here.connected(user, ResumePoint(latest=True)))
        await slow.has("live")
        first = there.post()
        await there.store(first)
        fast, _ = await stack.enter_async_context(here.connected(user, ResumePoint(latest=True)))
        await fast.has("live")
        await there.writer.change(ItemUpdate(user.id, (first.content.id,), read=True))
        here.remote_commits.hint([user.id])
        await fast.has("changed")
        await until(lambda: slow.seqs() == [1, 2] or slow.seqs() == [2], "it has come")
    assert fast.seqs() == [2]
    assert "notification" not in fast.types()


async def test_a_user_far_ahead_is_caught_up_from_the_log(
    engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = engines
    ada, bob = await here.user("ada"), await here.user("bob")
    async with (
        here.connected(ada, ResumePoint(latest=True)) as (of_ada, _),
        here.connected(bob, ResumePoint(latest=True)) as (of_bob, _),
    ):
        await of_ada.has("live")
        await of_bob.has("live")
        await there.store(*[there.post() for _ in range(log.PAGE + 50)], there.post("bob"))
        here.remote_commits.hint([ada.id, bob.id])
        await of_ada.has("notification", log.PAGE + 50)
        await of_bob.has("notification")
    assert of_ada.seqs() == list(range(1, log.PAGE + 51))
    assert of_bob.seqs() == [1]


async def test_entries_of_a_partly_read_user_are_not_used(
    engines: tuple[Engine, Engine],
) -> None:
    here, there = engines
    ada, bob = await here.user("ada"), await here.user("bob")
    await there.store(*[there.post("ada", "bob") for _ in range(4)])
    positions = [(ada.id, 0, 0, 0), (bob.id, 0, 0, 0)]
    for limit, expected in ((8, [4, 0]), (6, [4, 0]), (9, [4, 4]), (4, [0, 0])):
        entries, counts = await here.database.read(users_behind.read_new_entries, positions, limit)
        taken = [[entry.user_id for entry in entries].count(user.id) for user in (ada, bob)]
        assert (limit, taken) == (limit, expected)
        assert {user_id: found.seq for user_id, found in counts.items()} == {ada.id: 4, bob.id: 4}


async def test_a_failed_read_is_retried_after_a_database_outage(
    engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_commits, "RETRY_SECONDS", 0)
    here, there = engines
    user = await here.user()
    async with here.connected(user, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        read, failures = here.database.read, [Unavailable(), Unavailable()]

        async def fail(work: Any, *args: Any) -> Any:
            if work is users_behind.read_new_entries and failures:
                raise failures.pop()
            return await read(work, *args)

        here.database.read = fail  # type: ignore[method-assign, assignment]
        await there.store()
        with structlog.testing.capture_logs() as events:
            here.remote_commits.hint([user.id])
            await wire.has("notification")
    assert [event["log_level"] for event in events] == ["warning", "warning"]


async def test_a_hint_before_a_socket_has_started_is_not_lost(engines: tuple[Engine, Engine]) -> None:
    here, there = engines
    user = await here.user()
    gate = here.database.after_read = Gate()
    async with here.connected(user, ResumePoint(latest=True)) as (wire, _):
        await gate.reached()
        # It has read where the log stands, and does not know of this.
        await there.store()
        here.remote_commits.hint([user.id])
        await until(lambda: here.recent.counts(user.id) is not None, "it is relayed")
        gate.let_go()
        await wire.has("notification")
    assert wire.types()[:2] == ["hello", "notification"] or wire.types()[:3] == [
        "hello",
        "live",
        "notification",
    ]
