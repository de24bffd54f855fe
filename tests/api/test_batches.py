"""What a batch may cost: items, rate, memory, and the turns of others."""

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.batch import TURN_COST, _Batch
from gateway.api.batch_body import _WINDOW_CHARACTERS, MAX_ITEM, _Values, split_array, split_lines
from gateway.api.notification import OPTIONS, Digest, Notification
from gateway.auth.limits.body_queue import BodyQueue
from gateway.auth.limits.rate_limits import LARGE_BODIES, RateLimits
from gateway.auth.principals import Service as Caller
from gateway.errors import GatewayError, Invalid, PayloadTooLarge
from gateway.store.writer import MAX_ITEMS
from tests.support.clients import Service
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, StartServer
from tests.support.waiting import until

JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}
PATH = "/v1/notifications/batch"
SUBS = [f"user-{number}" for number in range(1000)]


async def send(service: Service, posts: list[Any], *, lines: bool = False) -> Any:
    if lines:
        content = "\n".join(json.dumps(post) for post in posts)
        return await service.post(PATH, content=content, headers=LINES)
    return await service.post(PATH, json=posts)


async def another(server: LocalServer) -> Service:
    made = await server.service.post("/v1/services", json={"name": "other", "scopes": ["notify"]})
    key = await server.service.post(f"/v1/services/{made.json()['client_id']}/keys")
    return Service(server.http, key.json()["key"])


# --- items --------------------------------------------------------------------------------------------------


async def test_a_batch_with_too_many_items_gets_a_413_that_states_their_number(server: LocalServer) -> None:
    fits = MAX_ITEMS // len(SUBS)
    posts = [{"to": SUBS, "title": "x"}] * (fits + 2)
    for lines in (False, True):
        answer = await send(server.service, posts, lines=lines)
        assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
        assert f"{MAX_ITEMS + 2000:,} items" in answer.json()["detail"]
        assert f"at most {MAX_ITEMS:,}" in answer.json()["detail"]
    assert (await send(server.service, posts[:fits])).status_code == 201
    assert (await (await server.user("user-0")).inbox())["seq"] == fits


async def test_a_repeated_recipient_counts_as_one_item(server: LocalServer) -> None:
    posts = [{"to": ["ada"] * 1000, "title": "x"}] * (MAX_ITEMS // 1000 + 1)
    assert (await send(server.service, posts)).status_code == 201


# --- rates --------------------------------------------------------------------------------------------------


async def test_each_recipient_counts_as_an_item_and_retry_after_covers_the_debt(
    start_server: StartServer,
) -> None:
    server = await start_server(items_per_second=100)
    other = await another(server)
    assert (await server.service.notify(SUBS))["recipients"] == 1000
    refused = await server.service.post("/v1/notifications", json={"to": "ada", "title": "x"})
    assert refused.status_code == 429
    assert refused.headers["ratelimit-policy"] == '"items";q=400;w=4'
    wait = int(refused.headers["retry-after"])
    assert refused.headers["ratelimit"] == f'"items";r=0;t={wait}'
    assert 1 <= wait <= 7
    assert (await other.notify("ada"))["recipients"] == 1


async def test_a_service_over_its_item_limit_is_refused_before_its_batch_is_read(
    start_server: StartServer,
) -> None:
    server = await start_server(items_per_second=1)
    assert (await send(server.service, [{"to": SUBS[:50], "title": "x"}])).status_code == 201
    answer = await server.service.post(PATH, content=b"nonsense", headers=JSON)
    assert answer.status_code == 429


async def test_a_refused_batch_is_charged_for_its_size(start_server: StartServer) -> None:
    server = await start_server(items_per_second=1)
    content = b'[{"to": "ada", "title": ""}' + b" " * 100_000 + b"]"
    assert (await server.service.post(PATH, content=content, headers=JSON)).status_code == 422
    answer = await server.service.post("/v1/notifications", json={"to": "ada", "title": "x"})
    assert answer.status_code == 429


def test_the_default_limits_allow_a_post_to_50_000_users_at_once(sqlite_url: str) -> None:
    rate_limits = RateLimits(settings_for(sqlite_url))
    for _ in range(50):
        rate_limits.begin_post(1)
        rate_limits.charge_rest(1, 1, 1000)


def test_an_admitted_post_is_not_refused_because_of_its_own_charge(sqlite_url: str) -> None:
    rate_limits = RateLimits(settings_for(sqlite_url, posts_per_second=0.25, items_per_second=0.25))
    rate_limits.begin_post(1)
    rate_limits.charge_rest(1, 1000, 5000)


# --- the turns of others, and memory ------------------------------------------------------------------------


async def turns_while(batch: _Batch, texts: Iterator[str | bytes]) -> int:
    """Return how often another task had its turn while a batch was read."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    try:
        await batch.read(texts)
    finally:
        counting.cancel()
    return turns


def reader() -> _Batch:
    return _Batch(Caller(1, "tests", frozenset({"notify"}), None, None), BodyQueue(), hashed=True)


def in_lines(posts: list[Any]) -> Iterator[bytes]:
    return split_lines("\n".join(map(json.dumps, posts)).encode())


def in_array(posts: list[Any]) -> Iterator[str]:
    return split_array(json.dumps(posts).encode())


@pytest.mark.parametrize("split", [in_array, in_lines])
@pytest.mark.parametrize(
    ("post", "number"),
    [
        ({"to": "ada", "title": "x", "data": {"a": [[]] * 2000}}, 1000),
        ({"to": "ada", "title": "x", "body": "y" * 4000}, 1000),
        ({"to": SUBS, "title": "x"}, 5),
    ],
    ids=["values", "texts", "recipients"],
)
async def test_reading_a_batch_yields_to_other_tasks(
    monkeypatch: pytest.MonkeyPatch,
    split: Callable[[list[Any]], Iterator[str | bytes]],
    post: Any,
    number: int,
) -> None:
    # As many recipients as a batch may have are read in one turn.
    monkeypatch.setattr("gateway.api.batch.MAX_ITEMS", 5000)
    batch = reader()
    turns = await turns_while(batch, split([post] * number))
    assert len(batch.posts) == number
    cost = number * (len(json.dumps(post)) + (16 * len(SUBS) if post["to"] is SUBS else 0))
    assert turns >= cost // (2 * TURN_COST)


async def test_a_million_recipients_are_counted_without_keeping_every_post() -> None:
    batch = reader()
    with pytest.raises(PayloadTooLarge, match="1,000,000 items"):
        await turns_while(batch, in_array([{"to": SUBS, "title": "x"}] * 1000))
    assert len(batch.posts) == MAX_ITEMS // len(SUBS) + 1


LENGTH = 8 * 1024 * 1024
HOSTILE = {
    "brackets": b"[" * LENGTH,
    "numbers": b"[" + b"1," * (LENGTH // 2 - 2) + b"1]",
    "lists": b"[" + b"[]," * (LENGTH // 3 - 2) + b"[]]",
    "one long list": b'[{"data":[' + b"[]," * (LENGTH // 3 - 10) + b"[]]}]",
    "one long text": b'[{"title":"' + b"x" * (LENGTH - 20) + b'"}]',
    "one long number": b"[" + b"1" * (LENGTH - 2) + b"]",
    "one open list": b'[{"data":[' + b"[]," * (LENGTH // 3 - 10),
    "members": b"[{" + b'"a":1,' * (LENGTH // 6 - 2) + b'"a":1}]',
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_batch_is_refused_at_its_first_item(name: str) -> None:
    seen: list[int] = []

    def watched() -> Iterator[str]:
        for text in split_array(HOSTILE[name]):
            seen.append(len(text))
            yield text

    with pytest.raises((GatewayError, RequestValidationError)) as raised:
        await reader().read(watched())
    assert len(seen) <= 1
    assert sum(seen) <= MAX_ITEM
    if name.startswith("one"):
        assert isinstance(raised.value, PayloadTooLarge)
        assert seen == []


async def test_a_line_over_the_size_limit_of_a_notification_is_not_parsed() -> None:
    lines = b'{"to":"ada","title":"x"}\n{"title":"' + b"x" * MAX_ITEM + b'"}\n'
    with pytest.raises(PayloadTooLarge, match="Line 2 "):
        await reader().read(split_lines(lines))


@pytest.mark.parametrize("blank", [b"\n", b" \n", b"\r\n"])
def test_millions_of_blank_lines_are_skipped(blank: bytes) -> None:
    assert list(split_lines(blank * 1_000_000 + b"1\n" + blank * 1_000_000 + b"2")) == [b"1", b"2"]


async def test_too_many_members_are_reported_as_one_error(server: LocalServer) -> None:
    post = {"to": "ada", "title": "x"} | {f"member {n}": 1 for n in range(10_000)}
    few = dict(list(post.items())[:500])
    for path, body in (("/v1/notifications", post), (PATH, [post]), ("/v1/users", few)):
        answer = await server.service.post(path, json=body)
        assert answer.status_code == 422
        assert len(answer.json()["errors"]) == 1


async def test_each_service_has_its_own_limit_of_large_bodies_in_memory(
    server: LocalServer,
) -> None:
    other = await another(server)
    go_on = asyncio.Event()
    large = b'[{"to": "ada", "title": "x"}' + b" " * (300 * 1024)

    async def slow() -> AsyncIterator[bytes]:
        yield large
        await go_on.wait()
        yield b"]"

    slots = server.state.rate_limits.large_bodies
    held = [
        asyncio.create_task(server.service.post(PATH, content=slow(), headers=JSON))
        for _ in range(LARGE_BODIES + 1)
    ]
    mine = 1  # the id of the tests' service
    await until(lambda: mine in slots._slots and bool(slots.of(mine)._waiters), "one waits for a slot")
    assert (await other.post(PATH, content=large + b"]", headers=JSON)).status_code == 201
    assert (await send(server.service, [{"to": "ada", "title": "small"}])).status_code == 201
    go_on.set()
    assert {answer.status_code for answer in await asyncio.gather(*held)} == {201}
    await until(lambda: not slots._slots, "the slots are forgotten")


# --- finding the items --------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(VALUES, max_size=8), st.sampled_from([None, 2]), st.booleans())
def test_an_array_is_split_into_the_texts_of_its_values(values: list[Any], indent: int, plain: bool) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=plain)
    try:
        body = f" \n{text}\t".encode()
    except UnicodeEncodeError:
        return
    assert [json.loads(one) for one in split_array(body)] == values


def test_values_are_split_correctly_at_any_window_boundary() -> None:
    for size in (100, 4093, 65_521, MAX_ITEM - 2):
        values = [f"{number:06}" + "\\" * (size // 2 - 6) for number in range(2_000_000 // size + 3)]
        assert [json.loads(one) for one in split_array(json.dumps(values).encode())] == values


def test_the_search_window_stays_bounded_after_many_values() -> None:
    text = "[" + "1," * 200_000 + '"' + "x" * LENGTH + '"]'
    values = _Values(text)
    with pytest.raises(PayloadTooLarge, match="Item 200000 "):
        deque(values.split(1), maxlen=0)
    assert len(values._window) <= _WINDOW_CHARACTERS


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{}",
        b"[",
        b"[1",
        b"[1,",
        b"[1,]",
        b"[,1]",
        b"[1 2]",
        b"[1]]",
        b"[1] 2",
        b'["a]',
        b"[tru]",
        b"\xef\xbb\xbf[1]",
        b"[\xff]",
        b'["\n"]',
    ],
)
def test_a_malformed_json_array_is_invalid(body: bytes) -> None:
    with pytest.raises(Invalid):
        list(split_array(body))


def test_the_incremental_hash_of_a_batch_equals_the_hash_of_the_whole_array() -> None:
    notifications = [Notification(to=["bob", "ada"], title=title, data={"b": 1, "a": 2}) for title in "xy"]
    for begin, is_batch in ((b"[true", True), (b"[false", False)):
        digest = Digest(begin)
        for one in notifications:
            digest.add(one)
        asked = [one.model_dump(exclude=set(OPTIONS)) | {"to": ["ada", "bob"]} for one in notifications]
        whole = json.dumps([is_batch, *asked], sort_keys=True, separators=(",", ":"))
        assert digest.value() == hashlib.sha256(whole.encode()).digest()
