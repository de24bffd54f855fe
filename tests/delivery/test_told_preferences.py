"""A change of preferences reaches the user's sockets, whichever process commits it, and takes no `seq`."""

import asyncio
import json

import pytest

from gateway.auth.principals import User
from gateway.delivery import reconciler
from gateway.delivery.reconciler import Reconciler
from gateway.delivery.resume_point import ResumePoint
from gateway.protocol.encoding import dumps
from gateway.store.changes import Seen
from gateway.store.preferences import NONE, SetPreferences
from tests.support.engine import Engine, Gate
from tests.support.waiting import until

LATEST = ResumePoint(latest=True)


def muting(*categories: str) -> str:
    return dumps(json.loads(NONE) | {"categories": {one: {"muted": True} for one in categories}})


async def prefer(engine: Engine, user: User, *muted: str) -> None:
    await engine.writer.change(SetPreferences(user.id, muting(*muted)))


def told(*muted: str) -> dict[str, object]:
    return {"type": "preferences", "preferences": json.loads(muting(*muted))}


async def test_every_socket_of_the_user_and_no_other_is_told(engine: Engine) -> None:
    ada, bob = await engine.user("ada"), await engine.user("bob")
    async with (
        engine.connected(ada, LATEST) as (one, _),
        engine.connected(ada, LATEST) as (two, _),
        engine.connected(bob, LATEST) as (other, _),
    ):
        for wire in (one, two, other):
            await wire.has("live")
        await prefer(engine, ada, "promo")
        for wire in (one, two):
            await wire.has("preferences")
        await engine.store(engine.post("ada", "bob"))
        for wire in (one, two, other):
            await wire.has("notification")
    assert one.sent[2] == two.sent[2] == told("promo")
    assert one.types() == two.types() == ["hello", "live", "preferences", "notification"]
    assert other.types() == ["hello", "live", "notification"]
    assert one.seqs() == [1]


async def test_a_socket_that_connects_later_is_told_only_of_what_follows(engine: Engine) -> None:
    user = await engine.user()
    await prefer(engine, user, "promo")
    async with engine.connected(user, LATEST) as (wire, connection):
        await wire.has("live")
        await until(lambda: connection._idle, "it waits")
        assert wire.types() == ["hello", "live"]
        assert connection.position == (0, 0, 1)
        await prefer(engine, user, "orders")
        await wire.has("preferences")
    assert wire.sent[2:] == [told("orders")]


async def test_a_change_in_one_transaction_with_a_post_is_told(engine: Engine) -> None:
    """The post is written at once, as to any client that keeps up. What is left then takes a task."""
    user = await engine.user()
    async with engine.connected(user, LATEST) as (wire, connection):
        await wire.has("live")
        await until(lambda: connection._idle, "it waits")
        await asyncio.gather(engine.store(), prefer(engine, user, "promo"))
        assert len(engine.announced) == 1
        await wire.has("preferences")
    assert wire.types()[2:] == ["notification", "preferences"]


async def test_the_same_preferences_again_are_no_change(engine: Engine) -> None:
    user = await engine.user()
    async with engine.connected(user, LATEST) as (wire, _):
        await wire.has("live")
        await prefer(engine, user, "promo")
        await wire.has("preferences")
        await prefer(engine, user, "promo")
        await engine.store()
        await wire.has("notification")
    assert wire.types() == ["hello", "live", "preferences", "notification"]


async def test_a_change_during_the_handshake_is_told_after_live(engine: Engine) -> None:
    user = await engine.user()
    await engine.store()
    gate = engine.database.after_read = Gate()
    async with engine.connected(user) as (wire, _):
        await gate.reached()
        await prefer(engine, user, "promo")
        gate.let_go()
        await wire.has("preferences")
    assert wire.types() == ["hello", "notification", "live", "preferences"]
    assert wire.sent[-1] == told("promo")


async def test_a_change_during_the_read_of_the_preferences_is_told_too(engine: Engine) -> None:
    user = await engine.user()
    async with engine.connected(user, LATEST) as (wire, _):
        await wire.has("live")
        gate = engine.database.after_read = Gate()
        await prefer(engine, user, "promo")
        await gate.reached()
        await prefer(engine, user, "promo", "orders")
        gate.let_go()
        await wire.has("preferences", 2)
    assert wire.sent[2:] == [told("promo"), told("promo", "orders")]


async def test_changes_while_a_client_lags_are_told_once(engine: Engine) -> None:
    user = await engine.user()
    async with engine.connected(user, LATEST) as (wire, _):
        await wire.has("live")
        wire.writable.clear()
        await engine.store()
        await prefer(engine, user, "promo")
        await prefer(engine, user, "orders")
        wire.writable.set()
        await wire.has("preferences")
        await engine.store()
        await wire.has("notification", 2)
    assert wire.types()[2:] == ["notification", "preferences", "notification"]
    assert told("orders") in wire.sent


async def test_a_change_of_another_process_is_told_after_its_hint(engines: tuple[Engine, Engine]) -> None:
    here, there = engines
    user = await here.user()
    async with here.connected(user, LATEST) as (wire, connection):
        await wire.has("live")
        await prefer(there, user, "promo")
        here.remote_commits.hint({user.id: 0})
        await wire.has("preferences")
        await there.store()
        await there.writer.change(Seen(user.id, 1))
        await prefer(there, user)
        here.remote_commits.hint({user.id: 1})
        await wire.has("preferences", 2)
        assert connection.position == (1, 1, 2)
    assert wire.types()[2:] == ["preferences", "notification", "seen", "preferences"]
    assert wire.sent[-1] == told()


async def test_a_change_whose_hint_was_lost_is_found(
    engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "HINT_DELAY_SECONDS", 0)
    here, there = engines
    ada, bob = await here.user("ada"), await here.user("bob")
    looks = Reconciler(here.hub, here.remote_commits, here.database, 3600)
    running = asyncio.create_task(looks.run())
    async with here.connected(ada, LATEST) as (wire, _), here.connected(bob, LATEST) as (other, _):
        await wire.has("live")
        await other.has("live")
        await prefer(there, ada, "promo")
        looks.request(None)
        await wire.has("preferences")
        await until(lambda: looks.reconciled == 1, "it is counted")
        # What is known to the socket is not looked for again.
        reads = here.database.reads
        looks.request(None)
        await until(lambda: here.database.reads == reads + 1, "it has looked")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert looks.reconciled == 1
    assert wire.sent[2:] == [told("promo")]
    assert other.types() == ["hello", "live"]
