"""Races between two processes under load: cancelling against delivery, and everything at once."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from gateway.database.database import Database, open_database
from gateway.jobs.retention import trim
from tests.support.checker import DeviceHistory, Json
from tests.support.clients import Device, Service, User
from tests.support.databases import settings_for
from tests.support.load import SUBS
from tests.support.postgres import Postgres
from tests.support.servers import Server, processes
from tests.support.waiting import until

Act = Callable[[Server, random.Random], Awaitable[None]]
"""What one of a crowd does."""

WAVE = 50
"""How many are scheduled at once, for times a few milliseconds apart."""


def moment(seconds: float) -> str:
    """Return a time so many seconds ahead."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def schedule(service: Service, number: int) -> list[str]:
    """Schedule so many, due from half a second on, and return their ids in the order of their times."""
    posts = [
        {"to": list(SUBS), "title": str(turn), "deliver_at": moment(0.5 + turn * 0.01)}
        for turn in range(number)
    ]
    answer = await service.post("/v1/notifications/batch", json=posts)
    assert answer.status_code == 201, answer.text
    return [item["id"] for item in answer.json()["items"]]


def has_caught_up(device: DeviceHistory, seq: int) -> bool:
    return device.seq == seq


async def cancel(service: Service, identifier: str, *, only_scheduled: bool) -> str:
    """Take one back, and return the state it was said to be in, or `kept` if it was delivered before."""
    headers = {"If-Match": '"scheduled"'} if only_scheduled else {}
    answer = await service.delete(f"/v1/notifications/{identifier}", headers=headers)
    if answer.status_code == 412:
        return "kept"
    assert answer.status_code == 200, answer.text
    state: str = answer.json()["state"]
    return state


@pytest.mark.parametrize("rounds", [150, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_what_was_said_to_be_cancelled_reaches_nobody(
    postgres_url: str, tmp_path: Path, rounds: int, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(5)
    said: dict[str, str] = {}
    async with processes(2, postgres_url, tmp_path) as gateways:
        servers: list[Server] = [server for _, server in gateways]
        users = [await servers[0].user(sub, ttl=3600) for sub in SUBS]
        devices = [Device(User(servers[1].http, user.token, user.sub), user.sub) for user in users]
        following = [asyncio.create_task(device.run()) for device in devices]

        async def race(identifier: str, turn: int) -> None:
            await asyncio.sleep(0.5 + turn * 0.01 + chance.uniform(-0.05, 0.15))
            service = servers[turn % 2].service
            said[identifier] = await cancel(service, identifier, only_scheduled=chance.random() < 0.5)

        for _ in range(rounds // WAVE):
            ids = await schedule(servers[0].service, WAVE)
            await asyncio.gather(*(race(identifier, turn) for turn, identifier in enumerate(ids)))
        fresh = {user.sub: await user.whole_inbox() for user in users}
        for device in devices:
            mine, inbox = device.history, fresh[device.history.sub]
            await until(partial(has_caught_up, mine, inbox.seq), "it has caught up")
            kept = {identifier for identifier, state in said.items() if state == "kept"}
            assert (
                set(inbox.items) == kept == {key for key, one in mine.items.items() if not one["deleted_at"]}
            )
            ever = {item["id"] for item in mine.ever_held()}
            assert ever == {identifier for identifier, state in said.items() if state != "cancelled"}
            assert (inbox.unread, inbox.unseen) == (mine.unread, mine.unseen) == (len(kept), len(kept))
            # One number for each that came, and one more for each that was taken back.
            assert inbox.seq == len(ever) + len(ever - kept)
        for task in following:
            task.cancel()
    record_property("said", dict(Counter(said.values())))


class Crowd:
    """Services and users who do all they may to the same few notifications, at two gateways."""

    def __init__(self, servers: list[Server], users: list[User], own: Database) -> None:
        self._servers = servers
        self._users = users
        self._own = own
        self._subs = [user.sub for user in users]
        self._recent: list[str] = []
        self._guests = count(1)
        self.done: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """Let everybody work for so long."""
        end = time.monotonic() + seconds
        await self.send(self._servers[0], random.Random(0))
        each = [self.send, self.send, self.edit, self.edit, self.take_back, self.mark, self.mark]
        async with asyncio.TaskGroup() as tasks:
            for seed, act in enumerate([*each, self.erase, self.purge] * 2):
                tasks.create_task(self._work(act, self._servers[seed % 2], seed, end))

    async def _work(self, act: Act, server: Server, seed: int, end: float) -> None:
        chance = random.Random(seed)
        while time.monotonic() < end:
            await act(server, chance)
            self.done[act.__name__] += 1

    def _one(self, chance: random.Random) -> str:
        return chance.choice(self._recent[-40:])

    async def send(self, server: Server, chance: random.Random) -> None:
        """Post two, now or later, that replace earlier ones and expire."""
        fields: Json = {"title": "x"}
        if chance.random() < 0.4:
            fields["deliver_at"] = moment(chance.choice([0.1, 100]))
        if chance.random() < 0.3:
            fields["ttl"] = 1
        batch = [
            {**fields, "to": chance.sample(self._subs, 4), "collapse_key": key}
            for key in chance.sample("abc", 2)
        ]
        answer = await server.service.post("/v1/notifications/batch", json=batch)
        assert answer.status_code == 201, answer.text
        self._recent.extend(item["id"] for item in answer.json()["items"])

    async def edit(self, server: Server, chance: random.Random) -> None:
        """Edit one."""
        members = {"title": "y", "renotify": chance.random() < 0.5}
        answer = await server.service.patch(f"/v1/notifications/{self._one(chance)}", json=members)
        assert answer.status_code in {200, 404, 409}, answer.text

    async def take_back(self, server: Server, chance: random.Random) -> None:
        """Cancel or unsend one."""
        answer = await server.service.delete(f"/v1/notifications/{self._one(chance)}")
        assert answer.status_code in {200, 404}, answer.text

    async def mark(self, server: Server, chance: random.Random) -> None:
        """Read, archive or delete one."""
        user = chance.choice(self._users)
        there = User(server.http, user.token, user.sub)
        path = f"/v1/inbox/{self._one(chance)}"
        if chance.random() < 0.5:
            answer = await there.patch(path, json={"read": True, "archived": chance.random() < 0.5})
        else:
            answer = await there.delete(path)
        assert answer.status_code in {200, 204, 401, 404}, answer.text

    async def erase(self, server: Server, chance: random.Random) -> None:
        """Erase a user who has got something with others, and will get more."""
        sub = f"guest {next(self._guests)}"
        to = [sub, *chance.sample(self._subs, 2)]
        posts = [{"to": to, "title": "x", **fields} for fields in ({}, {"deliver_at": moment(0.2)})]
        answer = await server.service.post("/v1/notifications/batch", json=posts)
        assert answer.status_code == 201, answer.text
        self._recent.extend(item["id"] for item in answer.json()["items"])
        await asyncio.sleep(chance.random() / 5)
        assert (await server.service.delete(f"/v1/users/{sub}")).status_code == 204

    async def purge(self, _server: Server, _chance: random.Random) -> None:
        """Purge as if a day had gone by since everything was deleted."""
        await self._own.write(trim, int(time.time() * 1000) + 2 * 86_400_000)


@pytest.mark.parametrize("seconds", [5, pytest.param(120, marks=pytest.mark.soak)])
async def test_all_that_changes_notifications_at_once_never_deadlocks(
    postgres: Postgres,
    postgres_url: str,
    tmp_path: Path,
    seconds: float,
    record_property: Callable[[str, object], None],
) -> None:
    async with processes(2, postgres_url, tmp_path) as gateways:
        servers: list[Server] = [server for _, server in gateways]
        users = [await servers[0].user(f"user {number}") for number in range(12)]
        async with open_database(settings_for(postgres_url)) as own:
            crowd = Crowd(servers, users, own)
            await crowd.run(seconds)
        # A server process tells what it has counted when its connection ends.
        logs = [gateway.log.read_text() for gateway, _ in gateways]
        for gateway, _ in gateways:
            await asyncio.to_thread(gateway.end)
    async with postgres.connected() as connection:
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = $1"
        assert await connection.fetchval(deadlocks, make_url(postgres_url).database) == 0
    assert [log for log in logs if "Traceback" in log or "failed" in log] == []
    record_property("done", dict(crowd.done))
