"""The judge must be able to say no: each rule, broken alone, is found; a sound history has no complaint."""

import copy
from collections.abc import Callable

import pytest

from tests.support.checker import (
    Connected,
    DeviceHistory,
    History,
    Inbox,
    Json,
    Post,
    ReadAfresh,
    Received,
    judge,
)


def item(number: int, title: str, **state: object) -> Json:
    return {
        "id": f"id-{title}",
        "created_seq": number,
        "seq": number,
        "title": title,
        "body": None,
        "category": "default",
        "priority": "normal",
        "url": None,
        "data": None,
        "created_at": "2026-11-20T09:30:00.000Z",
        "read_at": None,
        "archived_at": None,
        "deleted_at": None,
        **state,
    }


def pushed(number: int, title: str, unread: int) -> Json:
    new = item(number, title)
    return {"type": "notification", "seq": number, "notification": new, "unread": unread, "unseen": unread}


def told(kind: str, seq: int, unread: int) -> Json:
    return {"type": kind, "seq": seq, "unread": unread, "unseen": unread}


def sound() -> History:
    """A phone that was there all along, and a laptop that reconnected and dropped what it had."""
    items = {f"id-{title}": item(number, title) for number, title in enumerate("abc", 1)}
    phone = DeviceHistory(
        "phone",
        "ada",
        [
            Connected(0),
            Received(told("hello", 0, 0), applied=False),
            Received(told("live", 0, 0), applied=False),
            Received(pushed(1, "a", 1), applied=True),
            Received(pushed(2, "b", 2), applied=True),
            Received(pushed(3, "c", 3), applied=True),
        ],
        copy.deepcopy(items),
        3,
        3,
        3,
    )
    laptop = DeviceHistory(
        "laptop",
        "ada",
        [
            ReadAfresh(1, {"id-a": item(1, "a")}),
            Connected(1),
            Received(told("hello", 2, 2), applied=False),
            Received(pushed(2, "b", 2), applied=True),
            Connected(1),
            Received(told("hello", 3, 3), applied=False),
            Received(pushed(2, "b", 3), applied=False),
            Received(pushed(3, "c", 3), applied=True),
            Received(told("live", 3, 3), applied=False),
        ],
        copy.deepcopy(items),
        3,
        3,
        3,
    )
    posts = [Post(title, ("ada",), 201, {f"id-{title}"}) for title in "abc"]
    posts.append(Post("refused", ("ada",), 422))
    posts.append(Post("unknown", ("ada",)))
    inboxes = {
        "ada": Inbox("ada", 3, 3, 3, copy.deepcopy(items)),
        "bob": Inbox("bob", 0, 0, 0, {}),
    }
    return History(posts, [phone, laptop], inboxes)


def test_the_checker_accepts_a_valid_history() -> None:
    assert judge(sound()) == []


def test_the_checker_accepts_an_unanswered_post_that_was_not_stored() -> None:
    history = sound()
    history.posts[2].status = None
    history.posts[2].ids = set()
    assert judge(history) == []


def test_a_deleted_item_may_be_missing_from_a_device_that_connected_later() -> None:
    history = sound()
    history.posts.append(Post("d", ("ada",), 201, {"id-d"}))
    assert judge(history) != []
    history.deleted.add(("ada", "id-d"))
    assert judge(history) == []


def lose_from_the_inbox(history: History) -> None:
    for device in history.devices:
        del device.items["id-b"]
    del history.inboxes["ada"].items["id-b"]


def lose_on_the_way(history: History) -> None:
    history.posts.append(Post("d", ("bob",), 201, {"id-d"}))
    history.inboxes["bob"] = Inbox("bob", 1, 1, 1, {"id-d": item(1, "d")})
    history.devices.append(DeviceHistory("bob's phone", "bob", [], {"id-d": item(1, "d")}, 1, 1, 1))


def make_one_up(history: History) -> None:
    del history.posts[1]


def deliver_to_a_stranger(history: History) -> None:
    history.posts[1].to = ("bob",)


def deliver_what_was_refused(history: History) -> None:
    history.posts[1].status = 422


def send_out_of_order(history: History) -> None:
    events = history.devices[0].events
    events[3], events[4] = events[4], events[3]


def skip_a_number(history: History) -> None:
    del history.devices[0].events[4]


def apply_twice(history: History) -> None:
    history.devices[1].events[6] = Received(pushed(2, "b", 3), applied=True)


def change_a_body(history: History) -> None:
    history.inboxes["ada"].items["id-b"]["body"] = "another"


def give_a_place_twice(history: History) -> None:
    for items in (history.inboxes["ada"].items, *(device.items for device in history.devices)):
        items["id-b"].update(created_seq=1, seq=4)


def store_twice(history: History) -> None:
    history.posts[0].ids.add("id-again")


def miscount(history: History) -> None:
    history.devices[0].unread = 2


def miscount_in_the_inbox(history: History) -> None:
    history.inboxes["ada"].unread = 4


def count_differently_on_two_devices(history: History) -> None:
    history.devices[1].events[-1] = Received(told("live", 3, 7), applied=False)


def fall_behind(history: History) -> None:
    history.devices[0].seq = 2


def miss_a_change(history: History) -> None:
    history.devices[0].items["id-b"]["read_at"] = "2026-11-20T09:30:00.000Z"


def keep_what_was_deleted(history: History) -> None:
    history.devices[1].events.append(
        Received({"type": "changed", "seq": 4, "items": [item(3, "c", deleted_at="x")]}, applied=True)
    )
    del history.inboxes["ada"].items["id-c"]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lose_from_the_inbox, "lost: 'b' was answered 201 and is not in the inbox of ada"),
        (lose_on_the_way, "lost: 'd' was answered 201, never reached bob's phone"),
        (make_one_up, "made up: phone has 'b', which nobody posted"),
        (deliver_to_a_stranger, "foreign: phone has 'b', which was for bob"),
        (deliver_what_was_refused, "refused: phone has 'b', which was answered 422"),
        (send_out_of_order, "order: phone was sent 1 after 2"),
        (skip_a_number, "gap: phone was sent 3 after 1, and was live"),
        (apply_twice, "repeated: laptop applied 2 after 2"),
        (change_a_body, "body: the inbox of ada has another id-b at 2 of ada"),
        (give_a_place_twice, "body: the inbox of ada has another item at the place 1 of ada"),
        (store_twice, "twice: 'a' became 2 notifications"),
        (miscount, "counts: phone was told (2, 3) at last, a fresh read says (3, 3)"),
        (miscount_in_the_inbox, "counts: the inbox of ada says 4 unread and holds 3"),
        (count_differently_on_two_devices, "counts: laptop was told 7 unread at 3, others were not"),
        (fall_behind, "behind: phone stands at 2, the log of ada at 3"),
        (miss_a_change, "state: phone has "),
        (keep_what_was_deleted, "state: phone has "),
    ],
)
def test_each_rule_of_the_checker_can_fail(spoil: Callable[[History], None], complaint: str) -> None:
    history = sound()
    spoil(history)
    assert any(found.startswith(complaint) for found in judge(history)), judge(history)


def test_different_counts_at_one_seq_are_accepted_only_when_read_from_the_log() -> None:
    history = sound()
    count_differently_on_two_devices(history)
    assert judge(history) != []
    history.from_log = True
    assert judge(history) == []
