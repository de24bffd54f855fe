"""A load with a history: posters, devices and somebody who tidies up, spread over all gateways at once."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import count, cycle
from time import monotonic
from typing import NamedTuple

from tests.support.checker import History, Json, Post, judge
from tests.support.clients import GONE, Device, Service, User
from tests.support.servers import Server
from tests.support.waiting import until

SUBS = ("ada", "bob", "cyd")
KINDS = ("phone", "laptop")
ENCODINGS = {"phone": "msgpack", "laptop": "json"}

GIVEN_UP = 10
"""One post in so many is not tried again when its answer is lost: its outcome stays unknown."""

REFUSED = 17
"""One post in so many breaks a rule."""

PAUSE = 0.02
"""How long somebody who got no answer waits before the next attempt, in seconds."""

LONGEST = 1200
"""How long a load may take, in seconds."""


class Load:
    """Posters, devices and somebody who reads, archives and deletes, all at once; and what they did.

    `users` are the same users as each of the gateways knows them. A poster without an answer goes on at
    the next gateway, under the same key, and a device that loses its gateway does too. `devices` are those
    of one user, and `pace` is how long a poster rests between two posts, in seconds.
    """

    def __init__(
        self,
        services: Sequence[Service],
        users: Sequence[Sequence[User]],
        posters: int,
        *,
        tidy: bool,
        devices: int = len(KINDS),
        pace: float = 0.0,
    ) -> None:
        self._services = services
        self._users = users[0]
        self._posters = posters
        self._tidy_up = tidy
        self._pace = pace
        self._numbers = count(1)
        self._random = random.Random(7)
        self._stopped = False
        self._deleted: set[tuple[str, str]] = set()
        self._answered: dict[str, float] = {}
        self.posts: list[Post] = []
        self.statuses: Counter[int] = Counter()
        self.unanswered = 0
        """Attempts that brought no answer, or a 503."""
        self.answered_in: list[float] = []
        """How long each answer took, in seconds."""
        self.devices = [
            Device(home, f"{home.sub}'s {kind}", *elsewhere, encoding=ENCODINGS[kind])
            for one in zip(*users, strict=True)
            for kind, (home, *elsewhere) in zip(KINDS[:devices], cycle(_turns(one)), strict=False)
        ]

    async def answers(self, number: int, *, within: float = 120) -> None:
        """Wait until so many more posts have been answered."""
        goal = self.statuses.total() + number
        await until(lambda: self.statuses.total() >= goal, "posts are answered", within=within)

    @asynccontextmanager
    async def running(self, *, pause: float = PAUSE) -> AsyncIterator[None]:
        """Work while the block runs; then let every post come to its end, and every device catch up.

        A device that has lost its gateway tries again after `pause` seconds. Raises TimeoutError where all of
        it takes longer than `LONGEST`.
        """
        async with asyncio.timeout(LONGEST), asyncio.TaskGroup() as tasks:
            devices = [tasks.create_task(device.run(pause=pause)) for device in self.devices]
            workers = [tasks.create_task(self._post(turn)) for turn in range(self._posters)]
            workers += [tasks.create_task(self._tidy(user)) for user in self._users if self._tidy_up]
            try:
                yield
                self._stopped = True
                await asyncio.wait_for(asyncio.gather(*workers), 90)
                for turn in range(len(self._services)):
                    await until(self._caught_up, "every device has caught up", within=90)
                    await self._post_alone(turn)
                await until(self._caught_up, "every device has caught up", within=90)
            finally:
                for task in (*workers, *devices):
                    task.cancel()

    async def history(self) -> History:
        """Return all that happened, with a fresh read of each inbox."""
        inboxes = {user.sub: await user.whole_inbox() for user in self._users}
        devices = [device.history for device in self.devices]
        return History(self.posts, devices, inboxes, self._deleted, from_log=len(self._services) > 1)

    async def judged(self, faults: int) -> "Verdict":
        """Return what the judge says of it all, after so many faults."""
        history = await self.history()
        complaints = judge(history)
        complaints += [f"failed: {number} times {status}" for status, number in self.failures().items()]
        return Verdict(
            len(self.posts),
            sum(post.accepted for post in self.posts),
            faults,
            _count(complaints, "lost"),
            _count(complaints, "gap", "order"),
            _count(complaints, "twice", "repeated"),
            self.percentile(0.99),
            max(self._waits(), default=0),
            complaints[:20],
        )

    def failures(self) -> Counter[int]:
        """Return the statuses of posts that nobody should ever see, and how often they were seen."""
        return Counter({code: number for code, number in self.statuses.items() if code not in {201, 422}})

    def percentile(self, part: float) -> float:
        """Return within how many seconds this part of the posts was answered."""
        answers = sorted(self.answered_in)
        return answers[min(len(answers) - 1, int(len(answers) * part))] if answers else 0.0

    def _waits(self) -> Iterator[float]:
        """Yield how long each device waited for each item after its post had been answered, in seconds."""
        for device in self.devices:
            for identifier, arrived in device.arrived.items():
                yield arrived - self._answered.get(identifier, arrived)

    async def _caught_up(self) -> bool:
        try:
            fresh = {user.sub: await user.inbox(limit=1) for user in self._users}
        except GONE:
            return False
        return all(
            (mine.seq, mine.unread, mine.unseen) == (inbox["seq"], inbox["unread"], inbox["unseen"])
            for mine, inbox in ((one.history, fresh[one.history.sub]) for one in self.devices)
        )

    async def _post(self, turn: int) -> None:
        subs = [user.sub for user in self._users]
        while not self._stopped:
            number = next(self._numbers)
            recipients = tuple(self._random.sample(subs, self._random.randint(1, min(len(subs), len(SUBS)))))
            post = Post(f"post {number}", recipients)
            self.posts.append(post)
            priority = "nonsense" if number % REFUSED == 0 else "normal"
            body: Json = {"to": list(recipients), "title": post.title, "priority": priority}
            while not await self._try(post, body, turn):
                if number % GIVEN_UP == 0:
                    break
                turn += 1
                await asyncio.sleep(PAUSE)
            if self._pace:
                await asyncio.sleep(self._pace)

    async def _post_alone(self, turn: int) -> None:
        """Post to everybody through one gateway while nobody else works.

        Under load whatever another gateway stores for a user brings along what no hint has told it of. Here
        nothing but the hint brings it to the devices there.
        """
        post = Post(f"alone {turn}", tuple(user.sub for user in self._users))
        self.posts.append(post)
        body: Json = {"to": list(post.to), "title": post.title}
        await until(lambda: self._try(post, body, turn), "it is answered", within=60)

    async def _try(self, post: Post, body: Json, turn: int) -> bool:
        """Send a post, under one key however often, and return whether that brought an answer.

        A 503 is none: the post may be stored or not.
        """
        headers = {"Idempotency-Key": post.title}
        service = self._services[turn % len(self._services)]
        began = monotonic()
        try:
            answer = await service.post("/v1/notifications", json=body, headers=headers)
        except GONE:
            self.unanswered += 1
            return False
        if answer.status_code == 503:
            self.unanswered += 1
            return False
        self.answered_in.append(monotonic() - began)
        if answer.status_code == 201:
            identifier = answer.json()["id"]
            post.ids.add(identifier)
            self._answered[identifier] = monotonic()
        post.status = answer.status_code
        self.statuses[answer.status_code] += 1
        return True

    async def _tidy(self, user: User) -> None:
        while not self._stopped:
            try:
                page = await user.inbox(limit=20)
                if page["items"]:
                    await self._change(user, self._random.choice(page["items"])["id"], page["seq"])
            except GONE:
                pass
            await asyncio.sleep(PAUSE)

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


ROW = "row"
"""The name under which a test records its row of the table that the run ends with."""

TABLE = """| test | posts | 2xx | faults | lost | gaps | twice | p99, ms | longest wait after a 2xx, s |
|---|---|---|---|---|---|---|---|---|"""


class Verdict(NamedTuple):
    """What became of a load.

    `p99` is within how many seconds 99 of 100 posts were answered. `longest_wait` is from the answer to the
    application by a device, in seconds.
    """

    posts: int
    accepted: int
    faults: int
    lost: int
    gaps: int
    twice: int
    p99: float
    longest_wait: float
    complaints: list[str]

    def row(self, name: str) -> str:
        """Return its row of the table."""
        figures = " | ".join(f"{figure:,}" for figure in self[:6])
        return f"| {name} | {figures} | {self.p99 * 1000:.0f} | {self.longest_wait:.1f} |"


Judged = Callable[[Load, int], Awaitable[Verdict]]
"""Judges a load after so many faults."""


async def load_on(
    *servers: Server,
    subs: Sequence[str] = SUBS,
    posters: int = 4,
    tidy: bool = True,
    devices: int = len(KINDS),
    pace: float = 0.0,
) -> Load:
    """Return a load for these gateways: the devices of a user begin at different ones. See `Load`."""
    services = [server.service for server in servers]
    tokens = [await services[0].mint(sub, ttl=3600) for sub in subs]
    users = [
        [User(server.http, token, sub) for sub, token in zip(subs, tokens, strict=True)] for server in servers
    ]
    return Load(services, users, posters, tidy=tidy, devices=devices, pace=pace)


def _turns(users: Sequence[User]) -> list[Sequence[User]]:
    """Return the users, beginning with each of them in turn."""
    return [[*users[start:], *users[:start]] for start in range(len(users))]


def _count(complaints: Sequence[str], *kinds: str) -> int:
    return sum(complaint.startswith(kinds) for complaint in complaints)
