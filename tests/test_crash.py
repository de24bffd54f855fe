"""Nothing that was answered 2xx is lost: not by a killed process, and not by one that is told to stop."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.checker import History, Json, Post, judge
from tests.clients import GONE, Device, Service, User
from tests.servers import Process, Server, process
from tests.waiting import until

SUBS = ("ada", "bob", "cyd")
POSTERS = 4
PER_ROUND = 60
"""How many posts are answered between two kills; the kill comes while others are under way."""

GIVEN_UP = 10
"""One post in so many is not tried again when its answer is lost: its outcome stays unknown."""

REFUSED = 17
"""One post in so many breaks a rule."""


class Load:
    """Posters, devices and somebody who reads, archives and deletes, all at once; and what they did."""

    def __init__(self, service: Service, users: list[User]) -> None:
        self._service = service
        self._users = users
        self._numbers = count(1)
        self._random = random.Random(7)
        self._stopped = False
        self._deleted: set[tuple[str, str]] = set()
        self.posts: list[Post] = []
        self.devices = [
            Device(user, f"{user.sub}'s {kind}") for user in users for kind in ("phone", "laptop")
        ]

    async def answers(self, number: int) -> None:
        """Wait until so many more posts have been answered."""
        goal = self._answered() + number
        await until(lambda: self._answered() >= goal, "posts are answered", within=60)

    def _answered(self) -> int:
        return sum(post.status is not None for post in self.posts)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work while the block runs; then let every post come to its end. The devices go on."""
        async with asyncio.TaskGroup() as tasks:
            devices = [tasks.create_task(device.run()) for device in self.devices]
            workers = [tasks.create_task(self._post()) for _ in range(POSTERS)]
            workers += [tasks.create_task(self._tidy(user)) for user in self._users]
            try:
                yield
                self._stopped = True
                await asyncio.wait_for(asyncio.gather(*workers), 30)
                await until(self._drained, "every device has caught up", within=30)
            finally:
                for task in (*workers, *devices):
                    task.cancel()

    async def history(self) -> History:
        """Return all that happened, with a fresh read of each inbox."""
        inboxes = {user.sub: await user.whole_inbox() for user in self._users}
        return History(self.posts, [device.history for device in self.devices], inboxes, self._deleted)

    async def _drained(self) -> bool:
        seqs = {user.sub: (await user.inbox(limit=1))["seq"] for user in self._users}
        return all(device.history.seq == seqs[device.history.sub] for device in self.devices)

    async def _post(self) -> None:
        while not self._stopped:
            number = next(self._numbers)
            recipients = tuple(self._random.sample(SUBS, self._random.randint(1, len(SUBS))))
            post = Post(f"post {number}", recipients)
            self.posts.append(post)
            priority = "nonsense" if number % REFUSED == 0 else "normal"
            body: Json = {"to": list(recipients), "title": post.title, "priority": priority}
            while post.status is None:
                try:
                    await self._try(post, body)
                except GONE:
                    if number % GIVEN_UP == 0:
                        break
                    await asyncio.sleep(0.02)

    async def _try(self, post: Post, body: Json) -> None:
        """Send a post, under one key however often. A 503 is no answer: it may be stored or not."""
        headers = {"Idempotency-Key": post.title}
        answer = await self._service.post("/v1/notifications", json=body, headers=headers)
        if answer.status_code == 201:
            post.ids.add(answer.json()["id"])
        if answer.status_code != 503:
            post.status = answer.status_code

    async def _tidy(self, user: User) -> None:
        while not self._stopped:
            try:
                page = await user.inbox(limit=20)
                if page["items"]:
                    await self._change(user, self._random.choice(page["items"])["id"], page["seq"])
            except GONE:
                pass
            await asyncio.sleep(0.02)

    async def _change(self, user: User, identifier: str, seq: int) -> None:
        kind = self._random.randrange(8)
        path = f"/v1/inbox/{identifier}"
        if kind == 0:
            self._deleted.add((user.sub, identifier))
            await user.delete(path)
        elif kind == 1:
            await user.post("/v1/inbox/read", json={"up_to": seq - 10 if seq > 10 else 0})
        elif kind == 2:
            await user.post("/v1/inbox/seen", json={"up_to": seq})
        elif kind == 3:
            await user.patch(path, json={"archived": True})
        else:
            await user.patch(path, json={"read": kind % 2 == 0})


async def load_on(server: Server) -> Load:
    users = [await server.user(sub, ttl=3600) for sub in SUBS]
    return Load(server.service, users)


async def kill_while_it_works(gateway: Process, load: Load, rounds: int) -> None:
    for _ in range(rounds):
        await load.answers(PER_ROUND)
        gateway.kill()
        await gateway.start()


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.soak)])
async def test_kill_9_under_load_loses_nothing_that_was_answered(
    database_url: str, tmp_path: Path, rounds: int
) -> None:
    async with process(database_url, tmp_path) as (gateway, server):
        load = await load_on(server)
        async with load.running():
            await kill_while_it_works(gateway, load, rounds)
        history = await load.history()
        assert judge(history) == []
        assert sum(post.accepted for post in history.posts) > rounds * PER_ROUND / 2
        assert all(device.connections > rounds for device in load.devices)


GRACE_PERIOD = 10


async def stop_while_it_works(gateway: Process, load: Load, rounds: int) -> None:
    for _ in range(rounds):
        await load.answers(PER_ROUND)
        told_at = time.monotonic()
        assert await asyncio.to_thread(gateway.end, signal.SIGTERM) == 0
        assert time.monotonic() - told_at < GRACE_PERIOD
        await gateway.start()
        await load.answers(PER_ROUND)


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.soak)])
async def test_a_gateway_told_to_stop_under_load_closes_with_1012_and_loses_nothing(
    database_url: str, tmp_path: Path, rounds: int
) -> None:
    async with process(database_url, tmp_path, grace_period=GRACE_PERIOD) as (gateway, server):
        load = await load_on(server)
        async with load.running():
            await stop_while_it_works(gateway, load, rounds)
        assert judge(await load.history()) == []
        assert {code for device in load.devices for code in device.closes} == {1012}
        assert all(len(device.closes) == rounds for device in load.devices)
