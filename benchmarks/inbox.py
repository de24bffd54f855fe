"""The inbox of a user who has had 10⁴ or 10⁶ notifications."""

import json
import time
import uuid
from functools import partial

from sqlalchemy import Connection, insert, text

from benchmarks.audience import BODY
from benchmarks.client import HttpConnection, UnexpectedAnswer, request
from benchmarks.report import Figures
from benchmarks.rounds import Load, Plan, latency, measured
from benchmarks.subjects import Gateway, each, gateway
from gateway.database.database import open_database
from gateway.database.models import items, notifications, users
from gateway.settings import load_settings

FEW, MANY = 10_000, 1_000_000
REQUESTS = 500
SUB = "reader"
STRIDE = 200
"""The size of the pages on the way to the middle: the longest there are."""

NOT_MODIFIED = "newest page, not modified"
"""The page that the client has already: it sends the `ETag`, and gets a 304."""

PAGES = {
    "newest page": "/v1/inbox",
    NOT_MODIFIED: "/v1/inbox",
    "unread page": "/v1/inbox?unread=true",
    "page in the middle": None,
    "unread count": "/v1/inbox?limit=1",
    "rare category": "/v1/inbox?category=rare",
}
"""What is asked for, by name. Pages have 50 items. A page of one item is the cheapest way to the count."""

_CHUNK = 10_000
_BEGAN = 1_790_000_000_000

UNREAD_EVERY, ARCHIVED_EVERY, RARE_EVERY = 20, 10, 1000
"""One in so many is unread, archived, and of the category `rare`."""


def fill(connection: Connection, user: int, first: int, count: int) -> None:
    """Add `count` items to the log of a user, from `first` on."""
    contents, entries = [], []
    for seq in range(first, first + count):
        now = _BEGAN + seq * 1000
        content = {
            "id": seq,
            "uuid": str(uuid.UUID(int=now << 80 | 7 << 76 | 2 << 62 | seq)),
            "service_id": 1,
            "title": f"{seq:08}",
            "body": BODY,
            "category": "rare" if seq % RARE_EVERY == 0 else "orders.shipped",
            "priority": "normal",
            "data": json.dumps({"order": seq, "carrier": "post", "parcels": [1, 2]}),
            "recipients": 1,
            "created_at": now,
        }
        contents.append(content)
        entry = {
            "user_id": user,
            "created_seq": seq,
            "seq": seq,
            "notification_id": seq,
            "read_at": None if seq % UNREAD_EVERY == 0 else now + 1,
            "archived_at": now + 2 if seq % ARCHIVED_EVERY == 1 else None,
        }
        entries.append(entry)
    connection.execute(insert(notifications), contents)
    connection.execute(insert(items), entries)


def add_reader(connection: Connection, count: int) -> int:
    """Add the user whose log is to hold `count` items; return the user's key."""
    row = {
        "sub": SUB,
        "created_at": _BEGAN,
        "epoch": "benchmark",
        "last_seq": count,
        "unread": count // UNREAD_EVERY,
        "unseen": count // UNREAD_EVERY,
    }
    return int(connection.execute(insert(users).values(row).returning(users.c.id)).scalar_one())


async def fill_inbox(count: int, url: str) -> None:
    """Fill the database at this URL with one user's log of `count` items."""
    async with open_database(load_settings(database_url=url)) as database:
        user = await database.write(add_reader, count)
        for first in range(1, count + 1, _CHUNK):
            await database.write(fill, user, first, min(_CHUNK, count + 1 - first))
        if url.startswith("postgresql"):
            await database.write(analyze)


def analyze(connection: Connection) -> None:
    """Let Postgres count its rows, as autovacuum does within a minute."""
    connection.execute(text("ANALYZE"))


async def _middle(subject: Gateway, token: str, count: int) -> str:
    """Return the path of the page in the middle of an inbox, found as a client finds it."""
    cursor = ""
    async with subject.connections(1) as (connection,):
        for _ in range(max(1, count // 2 // STRIDE)):
            asked = request("GET", f"/v1/inbox?limit={STRIDE}{cursor}", token)
            cursor = "&cursor=" + json.loads((await connection.send(asked)).body)["next"]
    return "/v1/inbox?" + cursor.removeprefix("&")


async def _ask(subject: Gateway, path: str, token: str, count: int, *, again: bool) -> Figures:
    """Ask for the same page over and over, one request at a time; `again` is with the `ETag` of the page."""
    asked = request("GET", path, token)
    times: list[float] = []
    if again:
        async with subject.connections(1) as (connection,):
            asked = request("GET", path, token, etag=(await connection.send(asked)).etag)

    async def ask(connection: HttpConnection, _number: int) -> None:
        began = time.perf_counter()
        answer = await connection.send(asked)
        times.append(time.perf_counter() - began)
        if answer.status != (304 if again else 200):
            raise UnexpectedAnswer(f"{path}: {answer.status}")

    async with subject.connections(1) as connections:
        return await measured(subject, count, each(range(count), connections, ask)) | latency(times)


async def inbox(plan: Plan) -> None:
    """Pages of an inbox of 10⁴ and of one of 10⁶ rows, each alone in its database."""
    sizes = [plan.size(FEW), plan.size(MANY)]
    requests = plan.size(REQUESTS)
    async with (
        gateway(plan.database, partial(fill_inbox, sizes[0])) as small,
        gateway(plan.database, partial(fill_inbox, sizes[1])) as large,
    ):
        readers = []
        for size, subject in zip(sizes, (small, large), strict=True):
            (token,) = await subject.tokens([SUB])
            readers.append((size, subject, token, await _middle(subject, token, size)))
        for name, path in PAGES.items():
            loads = {
                f"{size:,} rows": Load(
                    subject.server,
                    partial(_ask, subject, path or middle, token, requests, again=name == NOT_MODIFIED),
                )
                for size, subject, token, middle in readers
            }
            figures = await plan.in_turn(f"inbox-{name}", loads)
            plan.report.add(f"Inbox: {name}, {requests} requests one after the other", figures)
