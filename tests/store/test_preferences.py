"""Preferences: what is muted is decided when a post would enter the log, and quiet by the clock of a zone."""

import asyncio
import json
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, select, update

from gateway.auth.principals import User
from gateway.database.models import notifications, users
from gateway.delivery.resume_point import ResumePoint, read_later, resume
from gateway.errors import NotFound, PreconditionFailed
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Counts
from gateway.store import preferences, users_behind
from gateway.store.arrivals import Options, Post
from gateway.store.changes import ItemUpdate
from gateway.store.inbox import Query, list_items
from gateway.store.log import head, read_after
from gateway.store.preferences import DAYS, NONE, SetPreferences, etag_of, has_muted, parse
from gateway.store.sent import find_sent
from gateway.store.writer import Writer
from tests.support.engine import Engine

ALWAYS = [
    {"days": list(DAYS), "from": "00:00", "until": "12:00"},
    {"days": list(DAYS), "from": "12:00", "until": "00:00"},
]
"""The windows of a user who never wants noise."""


def document(
    *muted: str, timezone: str | None = None, quiet_hours: Any = (), quiet_until: str | None = None
) -> str:
    """Return stored preferences."""
    categories = {category: {"muted": True} for category in muted}
    return dumps(
        {
            "categories": categories,
            "timezone": timezone,
            "quiet_hours": quiet_hours,
            "quiet_until": quiet_until,
        }
    )


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


# --- the clock on the wall ----------------------------------------------------------------------------------

EVERY_DAY = " ".join(DAYS)

MOMENTS = {
    "an ordinary window": (
        "UTC",
        "mon 09:00 17:00",
        {
            "2025-06-02T08:59:59.999Z": False,
            "2025-06-02T09:00:00Z": True,
            "2025-06-02T16:59:59.999Z": True,
            "2025-06-02T17:00:00Z": False,
            "2025-06-03T09:00:00Z": False,
        },
    ),
    "over midnight, the day named is the one on which it begins": (
        "UTC",
        "sun 22:00 07:00",
        {
            "2025-06-01T06:59:59Z": False,
            "2025-06-01T21:59:59Z": False,
            "2025-06-01T22:00:00Z": True,
            "2025-06-01T23:59:59Z": True,
            "2025-06-02T00:00:00Z": True,
            "2025-06-02T06:59:59Z": True,
            "2025-06-02T07:00:00Z": False,
            "2025-06-02T22:00:00Z": False,
        },
    ),
    "up to midnight": (
        "UTC",
        "sat 12:00 00:00",
        {"2025-06-07T11:59:59Z": False, "2025-06-07T23:59:59Z": True, "2025-06-08T00:00:00Z": False},
    ),
    # 02:00 becomes 03:00 at 01:00Z.
    "a window that begins in the gap of Berlin": (
        "Europe/Berlin",
        "sun 02:30 03:30",
        {
            "2025-03-30T00:59:59Z": False,
            "2025-03-30T01:00:00Z": True,
            "2025-03-30T01:29:59Z": True,
            "2025-03-30T01:30:00Z": False,
        },
    ),
    "a window within the gap of Berlin": (
        "Europe/Berlin",
        "sun 02:00 03:00",
        {
            "2025-03-23T01:00:00Z": True,
            "2025-03-30T00:59:59Z": False,
            "2025-03-30T01:00:00Z": False,
            "2025-04-06T00:00:00Z": True,
        },
    ),
    "a night over the gap of Berlin": (
        "Europe/Berlin",
        "sat 22:00 07:00",
        {
            "2025-03-29T20:59:59Z": False,
            "2025-03-29T21:00:00Z": True,
            "2025-03-30T04:59:59Z": True,
            "2025-03-30T05:00:00Z": False,
        },
    ),
    # 03:00 becomes 02:00 at 01:00Z.
    "a window in the hour that comes twice in Berlin": (
        "Europe/Berlin",
        "sun 02:00 02:30",
        {
            "2025-10-25T23:59:59Z": False,
            "2025-10-26T00:00:00Z": True,
            "2025-10-26T00:29:59Z": True,
            "2025-10-26T00:30:00Z": False,
            "2025-10-26T00:59:59Z": False,
            "2025-10-26T01:00:00Z": True,
            "2025-10-26T01:29:59Z": True,
            "2025-10-26T01:30:00Z": False,
        },
    ),
    "a night over the hour that comes twice in Berlin": (
        "Europe/Berlin",
        "sat 22:00 07:00",
        {
            "2025-10-25T19:59:59Z": False,
            "2025-10-25T20:00:00Z": True,
            "2025-10-26T00:59:59Z": True,
            "2025-10-26T01:00:00Z": True,
            "2025-10-26T05:59:59Z": True,
            "2025-10-26T06:00:00Z": False,
        },
    ),
    # 02:00 becomes 03:00 at 07:00Z.
    "the gap of New York": (
        "America/New_York",
        "sun 01:30 03:15",
        {
            "2025-03-09T06:29:59Z": False,
            "2025-03-09T06:30:00Z": True,
            "2025-03-09T06:59:59Z": True,
            "2025-03-09T07:00:00Z": True,
            "2025-03-09T07:14:59Z": True,
            "2025-03-09T07:15:00Z": False,
        },
    ),
    # 02:00 becomes 01:00 at 06:00Z.
    "a night that ends in the hour that comes twice in New York": (
        "America/New_York",
        "sat 22:00 01:30",
        {
            "2025-11-02T01:59:59Z": False,
            "2025-11-02T02:00:00Z": True,
            "2025-11-02T05:29:59Z": True,
            "2025-11-02T05:30:00Z": False,
            "2025-11-02T05:59:59Z": False,
            "2025-11-02T06:00:00Z": True,
            "2025-11-02T06:29:59Z": True,
            "2025-11-02T06:30:00Z": False,
        },
    ),
    # The clock moves by half an hour: 02:00 becomes 02:30 at 15:30Z of the day before.
    "the half hour that is left out on Lord Howe": (
        "Australia/Lord_Howe",
        "sun 02:15 02:45",
        {
            "2025-10-04T15:29:59Z": False,
            "2025-10-04T15:30:00Z": True,
            "2025-10-04T15:44:59Z": True,
            "2025-10-04T15:45:00Z": False,
        },
    ),
    # 02:00 becomes 01:30 at 15:00Z of the day before.
    "the half hour that comes twice on Lord Howe": (
        "Australia/Lord_Howe",
        "sun 01:45 02:15",
        {
            "2025-04-05T14:44:59Z": False,
            "2025-04-05T14:45:00Z": True,
            "2025-04-05T14:59:59Z": True,
            "2025-04-05T15:00:00Z": False,
            "2025-04-05T15:15:00Z": True,
            "2025-04-05T15:44:59Z": True,
            "2025-04-05T15:45:00Z": False,
        },
    ),
    "a zone half an hour off": (
        "Asia/Kolkata",
        "mon 22:00 07:00",
        {
            "2025-06-02T16:29:59Z": False,
            "2025-06-02T16:30:00Z": True,
            "2025-06-03T01:29:59Z": True,
            "2025-06-03T01:30:00Z": False,
        },
    ),
    "a zone three quarters of an hour off": (
        "Asia/Kathmandu",
        "tue 00:00 06:00",
        {"2025-06-02T18:14:59Z": False, "2025-06-02T18:15:00Z": True, "2025-06-03T00:15:00Z": False},
    ),
    # At 23:30 of a Friday it was Saturday.
    "the half hour that Pyongyang gave up": (
        "Asia/Pyongyang",
        "fri 23:00 23:45",
        {
            "2018-05-04T14:29:59Z": False,
            "2018-05-04T14:30:00Z": True,
            "2018-05-04T14:59:59Z": True,
            "2018-05-04T15:00:00Z": False,
            "2018-05-11T14:00:00Z": True,
            "2018-05-11T14:45:00Z": False,
        },
    ),
    "a zone that has given up the summer time": (
        "America/Sao_Paulo",
        f"{EVERY_DAY} 22:00 07:00",
        {
            "2018-11-10T08:59:59Z": True,
            "2018-11-10T09:00:00Z": False,
            "2019-11-10T09:00:00Z": True,
            "2019-11-10T09:59:59Z": True,
            "2019-11-10T10:00:00Z": False,
        },
    ),
}


@pytest.mark.parametrize("case", MOMENTS)
def test_quiet_hours_follow_the_clock_of_the_zone_to_the_second(case: str) -> None:
    zone, window, moments = MOMENTS[case]
    *days, begin, end = window.split()
    parsed = parse(document(timezone=zone, quiet_hours=[{"days": days, "from": begin, "until": end}]))
    assert {moment: parsed.is_quiet(ms(moment), "normal") for moment in moments} == moments
    assert not any(parsed.is_quiet(ms(moment), "urgent") for moment in moments)


TIMES = st.integers(0, 24 * 60 - 1)


@given(
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    st.lists(st.tuples(st.sets(st.sampled_from(DAYS), min_size=1), TIMES, TIMES), min_size=1, max_size=3),
    st.integers(ms("2024-01-01T00:00:00Z"), ms("2027-01-01T00:00:00Z")),
)
def test_quiet_hours_are_the_minutes_that_their_windows_list(
    zone: str, windows: list[tuple[set[str], int, int]], now: int
) -> None:
    windows = [(days, begin, end if end != begin else (end + 1) % 1440) for days, begin, end in windows]
    listed = {
        (DAYS.index(day) * 1440 + minute) % (7 * 1440)
        for days, begin, end in windows
        for day in days
        for minute in range(begin, end if begin < end else end + 1440)
    }
    quiet_hours = [
        {
            "days": sorted(days),
            "from": f"{begin // 60:02}:{begin % 60:02}",
            "until": f"{end // 60:02}:{end % 60:02}",
        }
        for days, begin, end in windows
    ]
    day, hour, minute = f"{datetime.fromtimestamp(now / 1000, ZoneInfo(zone)):%u %H %M}".split()
    here = (int(day) - 1) * 1440 + int(hour) * 60 + int(minute)
    parsed = parse(document(timezone=zone, quiet_hours=quiet_hours))
    assert parsed.is_quiet(now, "normal") is (here in listed)


def test_quiet_until_ends_at_its_millisecond() -> None:
    parsed = parse(document(quiet_until="2026-01-01T12:00:00.500Z"))
    assert [parsed.is_quiet(ms("2026-01-01T12:00:00Z") + offset, "high") for offset in (0, 499, 500)] == [
        True,
        True,
        False,
    ]
    assert not parsed.is_quiet(ms("2026-01-01T12:00:00Z"), "urgent")


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "../../etc/passwd", "America"])
def test_a_zone_that_this_machine_lacks_counts_as_utc(zone: str) -> None:
    """A user may have chosen it on a process with a newer list of zones."""
    window = [{"days": ["mon"], "from": "09:00", "until": "10:00"}]
    assert parse(document(timezone=zone, quiet_hours=window)).is_quiet(ms("2025-06-02T09:00:00Z"), "normal")


# --- muted --------------------------------------------------------------------------------------------------


def post_of(engine: Engine, category: str, *to: str, priority: str = "normal") -> Post:
    post = engine.post(*to)
    return post._replace(content=post.content._replace(category=category, priority=priority))


async def prefers(engine: Engine, user: User, text: str) -> None:
    await engine.writer.change(SetPreferences(user.id, text))


async def counts_of(engine: Engine, user: User) -> Counts:
    found = await engine.database.read(head, user.id)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("category", ["timezone", "categories", "quiet_hours", "quiet_until", "muted", "a.b"])
def test_categories_may_have_the_names_of_members(category: str) -> None:
    begin, until = "2025-06-02T09:00:00.000Z", "2025-06-02T10:00:00.000Z"
    window = [{"days": ["mon"], "from": "12:00", "until": "13:00"}]
    stored = document(category, timezone="Asia/Tokyo", quiet_hours=window, quiet_until=begin)
    assert has_muted(stored, category)
    assert not has_muted(stored, "other")
    assert not has_muted(stored.replace("true", "false"), category)
    assert parse(stored).quiet_until == ms(begin)
    assert parse(stored).is_quiet(ms("2025-06-02T03:30:00Z") + 7 * 86_400_000, "normal")
    assert parse(document(category, quiet_until=until)).is_quiet(ms(begin), "normal")
    assert not parse(document(category)).is_quiet(ms(begin), "normal")


async def test_a_muted_notification_never_enters_the_log(engine: Engine) -> None:
    ada, bob = await engine.user("ada"), await engine.user("bob")
    await prefers(engine, ada, document("promo"))
    muted, other = post_of(engine, "promo", "ada", "bob"), post_of(engine, "orders", "ada", "bob")
    async with engine.connected(ada, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        await engine.store(muted)
        await engine.store(other)
        await wire.has("notification")
    assert wire.seqs() == [1]
    assert wire.sent[-1]["notification"]["id"] == other.content.id
    assert (wire.sent[-1]["unread"], wire.sent[-1]["unseen"]) == (1, 1)
    assert (await counts_of(engine, ada))[:3] == (1, 1, 1)
    assert (await counts_of(engine, bob))[:3] == (2, 2, 2)
    page = await engine.database.read(list_items, ada.id, Query())
    assert page is not None
    assert [json.loads(text)["id"] for text in page.encoded] == [other.content.id]
    assert await counts_of_sent(engine, muted) == (2, 1, 1)
    assert await counts_of_sent(engine, other) == (2, 2, 0)


async def test_a_muted_notification_replaces_nothing_and_leaves_its_key_to_the_next(engine: Engine) -> None:
    ada = await engine.user()
    await prefers(engine, ada, document("promo"))
    first, muted, last = (
        post_of(engine, category, "ada")._replace(options=Options(collapse_key="k"))
        for category in ("orders", "promo", "orders")
    )
    for post in (first, muted, last):
        await engine.store(post)
    assert (await counts_of(engine, ada))[:3] == (3, 1, 1)
    page = await engine.database.read(list_items, ada.id, Query())
    assert page is not None
    assert [json.loads(text)["id"] for text in page.encoded] == [last.content.id]


async def counts_of_sent(engine: Engine, post: Post) -> tuple[int, int, int]:
    """Return the numbers of recipients, of those reached, and of those who have muted a notification."""
    found = await engine.database.read(find_sent, post.content.id)
    assert found is not None
    sent, reach = found
    return sent.recipients, reach.reached, sent.muted


async def test_posts_of_one_transaction_count_their_own_muted_recipients(engine: Engine) -> None:
    subs = [f"user-{number}" for number in range(5)]
    for sub in subs[:3]:
        await prefers(engine, await engine.user(sub), document("promo"))
    posts = [post_of(engine, category, *subs) for category in ("promo", "orders", "promo")]
    await engine.store(*posts)
    sent = [await counts_of_sent(engine, post) for post in posts]
    assert sent == [(5, 2, 3), (5, 5, 0), (5, 2, 3)]


async def test_muting_leaves_what_is_there_and_unmuting_lets_the_next_enter(engine: Engine) -> None:
    ada = await engine.user()
    first = post_of(engine, "promo")
    await engine.store(first)
    await prefers(engine, ada, document("promo"))
    await engine.store(post_of(engine, "promo"))
    await engine.writer.change(ItemUpdate(ada.id, (first.content.id,), read=True))
    await engine.writer.change(ItemUpdate(ada.id, (first.content.id,), read=False))
    assert (await counts_of(engine, ada))[:3] == (3, 1, 1)
    await prefers(engine, ada, dumps(json.loads(NONE) | {"categories": {"promo": {"muted": False}}}))
    await engine.store(post_of(engine, "promo"))
    assert (await counts_of(engine, ada))[:3] == (4, 2, 2)


async def test_urgent_notifications_and_required_categories_cannot_be_muted(engine: Engine) -> None:
    ada = await engine.user()
    await prefers(engine, ada, document("promo", "security", timezone="Asia/Tokyo"))
    engine.writer = Writer(
        engine.writer._database,
        engine.announce,
        followed=engine.recent,
        required_categories=frozenset({"security"}),
    )
    async with engine.writer.running():
        await engine.store(post_of(engine, "promo"))
        await engine.store(post_of(engine, "promo", priority="urgent"))
        await engine.store(post_of(engine, "security"))
    page = await engine.database.read(list_items, ada.id, Query())
    assert page is not None
    shown = [json.loads(text) for text in page.encoded]
    entered = [(item["category"], item["priority"]) for item in shown]
    assert entered == [("security", "normal"), ("promo", "urgent")]


async def test_a_broken_zone_in_the_database_does_not_stop_posts(engine: Engine) -> None:
    ada = await engine.user()

    def break_it(connection: Connection) -> None:
        text = document(timezone="Europe/Atlantis", quiet_hours=ALWAYS)
        values = {"preferences": text, "preferences_version": 1}
        connection.execute(update(users).where(users.c.id == ada.id).values(values))

    await engine.database.write(break_it)
    async with engine.connected(ada, ResumePoint(latest=True)) as (wire, _):
        await wire.has("live")
        await engine.store()
        await wire.has("notification")
    assert wire.sent[-1]["alert"] is False


# --- the document -------------------------------------------------------------------------------------------


def stored_of(connection: Connection, user_id: int) -> tuple[str | None, int]:
    row = connection.execute(
        select(users.c.preferences, users.c.preferences_version).where(users.c.id == user_id)
    ).one()
    return row.preferences, row.preferences_version


async def test_of_two_changes_with_the_same_tag_one_is_refused(engine: Engine) -> None:
    ada = await engine.user()
    changes = [SetPreferences(ada.id, document(name), (etag_of(NONE),)) for name in ("promo", "orders")]
    outcomes = await asyncio.gather(*map(engine.writer.change, changes), return_exceptions=True)
    refused = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, PreconditionFailed)]
    assert len(refused) == 1
    stored, version = await engine.database.read(stored_of, ada.id)
    assert (stored, version) == (changes[1 - refused[0]].document, 1)


async def test_a_change_that_is_repeated_with_its_tag_is_accepted(engine: Engine) -> None:
    ada = await engine.user()
    for _ in range(2):
        await engine.writer.change(SetPreferences(ada.id, document("promo"), (etag_of(NONE),)))
    assert await engine.database.read(stored_of, ada.id) == (document("promo"), 1)


@pytest.mark.parametrize(
    ("tags", "accepted"),
    [
        (None, True),
        (("*",), True),
        ((etag_of(document("promo")),), True),
        (('"other"', etag_of(document("promo"))), True),
        (("W/" + etag_of(document("promo")),), False),
        ((etag_of(NONE),), False),
        (("",), False),
    ],
)
async def test_a_tag_must_be_that_of_the_stored_preferences(
    engine: Engine, tags: tuple[str, ...] | None, accepted: bool
) -> None:
    ada = await engine.user()
    await prefers(engine, ada, document("promo"))
    change = engine.writer.change(SetPreferences(ada.id, document("orders"), tags))
    if accepted:
        await change
    else:
        with pytest.raises(PreconditionFailed):
            await change
    stored, _ = await engine.database.read(stored_of, ada.id)
    assert stored == document("orders" if accepted else "promo")


async def test_only_a_change_takes_a_new_version_and_no_preferences_are_null(engine: Engine) -> None:
    ada = await engine.user()
    found = []
    for text in (NONE, document("promo"), document("promo"), NONE):
        await prefers(engine, ada, text)
        found.append(await engine.database.read(stored_of, ada.id))
    assert found == [(None, 0), (document("promo"), 1), (document("promo"), 1), (None, 2)]
    assert await engine.database.read(preferences.find, ada.id) == (NONE, 2)
    assert await engine.database.read(preferences.find, ada.id + 1000) is None
    with pytest.raises(NotFound):
        await engine.writer.change(SetPreferences(ada.id + 1000, NONE))


# --- quiet entries ------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time at which the log is read, in ms."""
    now = [ms("2025-06-02T12:00:00Z")]
    monkeypatch.setattr(preferences, "now_ms", lambda: now[0])
    return now


NIGHT = [{"days": list(DAYS), "from": "22:00", "until": "07:00"}]


async def test_a_commit_decides_whether_its_notification_is_quiet(engine: Engine) -> None:
    ada, bob = await engine.user("ada"), await engine.user("bob")
    await prefers(engine, ada, document(timezone="Europe/Berlin", quiet_hours=NIGHT))
    now = [0.0]
    engine.writer.clock = lambda: now[0]
    moments = {
        "2025-06-02T19:59:59Z": True,
        "2025-06-02T20:00:00Z": False,
        "2025-06-03T04:59:59Z": False,
        "2025-06-03T05:00:00Z": True,
    }
    async with (
        engine.connected(ada, ResumePoint(latest=True)) as (of_ada, _),
        engine.connected(bob, ResumePoint(latest=True)) as (of_bob, _),
    ):
        await of_ada.has("live")
        await of_bob.has("live")
        for moment in moments:
            now[0] = ms(moment) / 1000
            await engine.store(engine.post("ada", "bob"))
        now[0] = ms("2025-06-02T20:00:00Z") / 1000
        await engine.store(post_of(engine, "orders", "ada", "bob", priority="urgent"))
        await of_ada.has("notification", 5)
        await of_bob.has("notification", 5)
    alerts = [[one["alert"] for one in wire.sent if "alert" in one] for wire in (of_ada, of_bob)]
    assert alerts == [[*moments.values(), True], [True] * 5]
    # They enter and count all the same.
    assert (await counts_of(engine, ada))[:3] == (5, 5, 5)


async def test_entries_read_from_the_log_are_quiet_if_their_user_wants_it_now(
    engine: Engine, clock: list[int]
) -> None:
    ada = await engine.user()
    urgent = post_of(engine, "orders", priority="urgent")
    await engine.store(engine.post(), urgent, engine.post())

    async def alerts() -> dict[str, list[bool]]:
        counts = await counts_of(engine, ada)
        page = await engine.database.read(read_after, ada.id, 0)
        resumed = await engine.database.read(resume, ada.id, ResumePoint())
        # The counts of a handshake before the first preferences.
        before = counts._replace(preferences=0)
        later = await engine.database.read(read_later, ada.id, before, [1, 2, 3])
        new = await engine.database.read(users_behind.read_new_entries, [(ada.id, 0, 0, 0)])
        assert page is not None
        assert resumed is not None
        found = {
            "replay": page.entries,
            "handshake": resumed.entries,
            "later": later,
            "other process": new.entries,
        }
        return {
            name: [json.loads(entry.message.payload)["alert"] for entry in entries]
            for name, entries in found.items()
        }

    everywhere = ("replay", "handshake", "later", "other process")
    assert await alerts() == {name: [True, True, True] for name in everywhere}
    await prefers(engine, ada, document(timezone="Europe/Berlin", quiet_hours=NIGHT))
    clock[0] = ms("2025-06-02T19:59:59Z")
    assert await alerts() == {name: [True, True, True] for name in everywhere}
    clock[0] = ms("2025-06-02T20:00:00Z")
    assert await alerts() == {name: [False, True, False] for name in everywhere}
    await prefers(engine, ada, NONE)
    assert await alerts() == {name: [True, True, True] for name in everywhere}


async def test_each_user_of_one_read_has_their_own_quiet(engine: Engine, clock: list[int]) -> None:
    quiet, other, plain = [await engine.user(sub) for sub in ("ada", "bob", "cyd")]
    await prefers(engine, quiet, document(quiet_hours=ALWAYS))
    await prefers(engine, other, document("promo"))
    await engine.store(engine.post("ada", "bob", "cyd"))
    positions = [(user.id, 0, 0, 0) for user in (quiet, other, plain)]
    entries, _ = await engine.database.read(users_behind.read_new_entries, positions)
    assert {entry.user_id: entry.quiet for entry in entries} == {
        quiet.id: True,
        other.id: False,
        plain.id: False,
    }


async def test_a_notification_that_all_have_muted_is_there_for_its_sender(engine: Engine) -> None:
    await prefers(engine, await engine.user(), document("promo"))
    post = post_of(engine, "promo")
    await engine.store(post)
    assert await counts_of_sent(engine, post) == (1, 0, 1)

    def muted(connection: Connection) -> list[int]:
        return list(connection.scalars(select(notifications.c.muted)))

    assert await engine.database.read(muted) == [1]
