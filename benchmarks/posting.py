"""Posts: one by one with delivery, to many sockets, and in bulk."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.audience import Audience, Deliveries, audience, content
from benchmarks.client import HttpConnection, request
from benchmarks.floor import floor
from benchmarks.report import CPU, Figures
from benchmarks.rounds import Load, Plan, latency, measured
from benchmarks.subjects import each, gateway, tutorial

CONNECTIONS = 64
USERS = 200
POSTS = 4000
POSTS_AT_RATE = {500: 2500, 50: 500}
"""Posts of a load, by their rate a second."""

FAN_OUT_POSTS = 1000
FAN_OUT_USERS = 20
FAN_OUT = 20
BULK_RECIPIENTS = 1000
BULK_POSTS = 20
FLOORS = {"one post, bare sqlite3": "post", "batch, bare sqlite3": "batch"}
"""The floors of the bulks that begin with the same words, and what `floor` calls them."""


async def saturate(
    posts: int, audience: Audience, at_once: int = CONNECTIONS, *, acknowledge: bool = False
) -> Figures:
    """Post from so many connections as fast as the server answers, until all is delivered."""
    deliveries = Deliveries(posts, audience.copies, packed=audience.packed)
    audience.listen(deliveries, acknowledge=acknowledge)
    requests = [audience.post(number) for number in range(posts)]

    async def post(connection: HttpConnection, number: int) -> None:
        deliveries.posted[number] = time.perf_counter()
        await connection.send(requests[number])

    async def load(connections: list[HttpConnection]) -> None:
        await each(range(posts), connections, post)
        await deliveries.complete()

    async with audience.subject.connections(at_once) as connections:
        return await measured(audience.subject, posts, load(connections)) | latency(deliveries.latencies)


async def pace(posts: int, audience: Audience, rate: int) -> Figures:
    """Post at this rate a second, whatever the server does; a late post counts from when it was due."""
    deliveries = Deliveries(posts, audience.copies, packed=audience.packed)
    audience.listen(deliveries)
    requests = [audience.post(number) for number in range(posts)]

    async def load(connections: list[HttpConnection]) -> None:
        start = time.perf_counter()

        async def post(connection: HttpConnection, number: int) -> None:
            due = start + number / rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
                due = time.perf_counter()
            deliveries.posted[number] = due
            await connection.send(requests[number])

        await each(range(posts), connections, post)
        await deliveries.complete()

    async with audience.subject.connections(CONNECTIONS) as connections:
        return await measured(audience.subject, posts, load(connections)) | latency(deliveries.latencies)


async def post(plan: Plan) -> None:
    """Posts with delivery, at saturation, at 500 and at 50 a second, beside the tutorial style."""
    posts = plan.size(POSTS)
    async with (
        gateway(plan.database) as ours,
        tutorial(plan.database) as theirs,
        audience(ours, "post", USERS) as a,
        audience(theirs, "post", USERS) as b,
    ):
        figures = await plan.in_turn(
            "post",
            {
                ours.name: Load(ours.server, partial(saturate, posts, a)),
                theirs.name: Load(theirs.server, partial(saturate, posts, b)),
            },
        )
        plan.report.add(f"POST + durable delivery at saturation: {posts} posts to {USERS} users", figures)

        load = Load(ours.server, partial(saturate, posts, a, acknowledge=True))
        figures = await plan.in_turn("post-acknowledged", {ours.name: load})
        plan.report.add("The same, each delivery acknowledged by its client", figures)

        for rate, most in POSTS_AT_RATE.items():
            paced = plan.size(most)
            figures = await plan.in_turn(
                f"post-{rate}",
                {
                    ours.name: Load(ours.server, partial(pace, paced, a, rate)),
                    theirs.name: Load(theirs.server, partial(pace, paced, b, rate)),
                },
            )
            plan.report.add(f"POST + durable delivery at {rate} a second: {paced} posts", figures)


async def fan_out(plan: Plan) -> None:
    """Push alone: what 19 more sockets of a user add to a post, divided by 19."""
    posts = plan.size(FAN_OUT_POSTS)
    async with (
        gateway(plan.database) as ours,
        tutorial(plan.database) as theirs,
        audience(ours, "one", FAN_OUT_USERS) as our_one,
        audience(ours, "many", FAN_OUT_USERS, FAN_OUT) as our_many,
        audience(theirs, "one", FAN_OUT_USERS) as their_one,
        audience(theirs, "many", FAN_OUT_USERS, FAN_OUT) as their_many,
    ):
        audiences = {
            "gateway, 1 socket": our_one,
            f"gateway, {FAN_OUT} sockets": our_many,
            "tutorial style, 1 socket": their_one,
            f"tutorial style, {FAN_OUT} sockets": their_many,
        }
        loads = {
            label: Load(one.subject.server, partial(saturate, posts, one)) for label, one in audiences.items()
        }
        figures = await plan.in_turn("fan-out", loads)
        plan.report.add(
            f"POST + durable delivery to all sockets of a user: {posts} posts", figures, ratios=False
        )
        our_few, our_lots, their_few, their_lots = figures.values()
        alone = {"gateway": _push(our_few, our_lots), "tutorial style": _push(their_few, their_lots)}
        plan.report.add("Push alone, to one more socket of the user", alone)


def _push(few: list[Figures], lots: list[Figures]) -> list[Figures]:
    pairs = zip(few, lots, strict=True)
    return [{CPU: (more[CPU] - less[CPU]) / (FAN_OUT - 1)} for less, more in pairs]


async def send_all(requests: Sequence[bytes], items: int, audience: Audience) -> Figures:
    """Send these requests one after the other; return what each of their `items` cost.

    Each item is awaited at the sockets of the audience, if it has any.
    """
    deliveries = Deliveries(BULK_RECIPIENTS, items // BULK_RECIPIENTS)
    audience.listen(deliveries)

    async def send(connection: HttpConnection, data: bytes) -> None:
        await connection.send(data)

    async def load(connections: list[HttpConnection]) -> None:
        await each(requests, connections, send)
        if audience.sockets:
            await deliveries.complete()

    async with audience.subject.connections(1) as connections:
        return await measured(audience.subject, items, load(connections))


def _to_many(audience: Audience) -> bytes:
    """Return one post to everybody."""
    body = json.dumps({"to": audience.users, **content(0)}).encode()
    return request("POST", audience.subject.posts, audience.subject.bearer, body)


def _batch(audience: Audience, *, lines: bool) -> bytes:
    """Return a batch with a post to each; `lines` has them as NDJSON."""
    path, bearer = audience.subject.posts + "/batch", audience.subject.bearer
    posts = [{"to": sub, **content(number)} for number, sub in enumerate(audience.users)]
    if lines:
        body = "\n".join(json.dumps(one) for one in posts).encode()
        return request("POST", path, bearer, body, "application/x-ndjson")
    return request("POST", path, bearer, json.dumps(posts).encode())


async def bulk(plan: Plan) -> None:
    """One post to 1,000 users, and batches of 1,000 posts, for each item; on SQLite beside bare sqlite3."""
    posts = plan.size(BULK_POSTS)
    items = posts * BULK_RECIPIENTS
    async with (
        gateway(plan.database) as subject,
        audience(subject, "here", BULK_RECIPIENTS) as here,
        floor() as bare,
    ):
        away = Audience(subject, [f"away-{number:05}" for number in range(BULK_RECIPIENTS)], [])
        requests = {
            "one post, all away": (_to_many(away), away),
            "one post, all connected": (_to_many(here), here),
            "batch, all away": (_batch(away, lines=False), away),
            "batch (NDJSON), all away": (_batch(away, lines=True), away),
            "batch, all connected": (_batch(here, lines=False), here),
        }
        loads = {
            label: Load(subject.server, partial(send_all, [data] * posts, items, listeners))
            for label, (data, listeners) in requests.items()
        }
        if plan.database is None:
            for label, kind in FLOORS.items():
                loads[label] = Load(None, partial(bare, kind, posts, BULK_RECIPIENTS))
        figures = await plan.in_turn("bulk", loads)
    plan.report.add(f"Bulk, an item: {posts} times {BULK_RECIPIENTS} items", figures, ratios=False)
    if plan.database is None:
        plan.report.add("Bulk beside the same rows written by bare sqlite3", _times(figures), ratios=False)


def _times(figures: Mapping[str, list[Figures]]) -> dict[str, list[Figures]]:
    """Return how many times the CPU of its floor each bulk takes."""
    times = {}
    for lowest in FLOORS:
        kind = lowest.partition(",")[0]
        for label in figures:
            if label.startswith(kind) and label != lowest:
                pairs = zip(figures[label], figures[lowest], strict=True)
                times[label] = [{"times the floor": one[CPU] / bare[CPU]} for one, bare in pairs]
    return times
