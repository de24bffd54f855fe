"""Actions, snoozing, edits, icons and preferences in the elements, in a real Chromium, without a gateway."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import Browser, FloatRect, Locator, Page, Route, expect

from tests.support.browsers import ORIGIN, serve_stage, violations
from tests.support.waiting import until
from tests.web.test_components import (
    FINGER,
    NOTE_HARM,
    SET_THE_STAGE,
    Stage,
    button,
    calls,
    inbox,
    place,
    point_at,
    rows,
    stage,
    titles,
)

__all__ = ["stage"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACTIONS = """{ actions: [
  { id: 'yes', label: 'Approve', style: 'primary' }, { id: 'no', label: 'Decline', style: 'danger' },
  { id: 'say', label: 'Reply', reply: true }, { id: 'see', label: 'View', url: '#seen' }] }"""
ONE = inbox(f"[item(1, {ACTIONS}), item(2)]")


def row(page: Page, number: int) -> Locator:
    return page.locator(f"notification-inbox [data-id=id-{number}]")


def box(page: Page, name: str) -> Locator:
    return page.get_by_role("checkbox", name=name, exact=True)


def said(page: Page, text: str) -> Locator:
    return page.get_by_role("status").filter(has_text=text)


# --- actions ------------------------------------------------------------------------------------------------


async def test_an_action_answers_once_and_all_buttons_are_disabled(stage: Stage) -> None:
    page = await stage(ONE)
    await button(page, "Approve").click()
    await expect(said(page, "You answered: Approve")).to_be_visible()
    assert await calls(page, "act", "read") == [["act", "id-1", "yes"]]
    for name in ("Approve", "Decline", "Reply"):
        await expect(button(page, name)).to_be_disabled()
    await expect(button(page, "Mark unread: Title 1")).to_be_attached()


async def test_a_dangerous_action_takes_a_second_press_and_escape_cancels_it(stage: Stage) -> None:
    page = await stage(ONE)
    await button(page, "Decline").dblclick()
    await expect(button(page, "Press again: Decline")).to_be_visible()
    assert await calls(page, "act") == []
    await page.keyboard.press("Escape")
    await button(page, "Decline").press("Enter")
    await button(page, "Press again: Decline").press("Enter")
    # The answer is sent once the click is over.
    await page.wait_for_function("client.calls.some(([name]) => name === 'act')")
    assert await calls(page, "act") == [["act", "id-1", "no"]]


async def test_an_unconfirmed_dangerous_action_is_withdrawn_after_a_while(stage: Stage) -> None:
    page = await stage(ONE, clock=True)
    await button(page, "Decline").press("Enter")
    await page.clock.run_for(5_000)
    await expect(button(page, "Decline")).to_be_visible()
    assert await calls(page, "act") == []


async def test_a_reply_is_written_in_a_field_and_kept_if_it_is_refused(stage: Stage) -> None:
    page = await stage(ONE)
    field = page.get_by_role("textbox", name="Reply")
    await button(page, "Reply").click()
    await expect(field).to_be_focused()
    await page.keyboard.press("Enter")
    # The keys of one letter, and those of the list, are the field's.
    await page.keyboard.type("e # see you  ")
    await page.keyboard.press("Home")
    await expect(field).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(field).to_be_hidden()
    await expect(row(page, 1)).to_be_focused()
    await page.evaluate("client.refuse = true")
    await button(page, "Reply").click()
    await button(page, "Send").click()
    await expect(said(page, "That did not work: It was refused.")).to_be_visible()
    await page.evaluate("client.refuse = false")
    await button(page, "Reply").click()
    await page.keyboard.press("Enter")
    await expect(said(page, "You answered: Reply – e # see you")).to_be_visible()  # noqa: RUF001 - typography
    assert await calls(page, "act", "archive", "delete") == [["act", "id-1", "say", "e # see you"]] * 2
    await expect(field).to_be_hidden()


async def test_a_link_action_answers_and_opens_its_address_and_an_unsafe_one_is_a_button(
    stage: Stage,
) -> None:
    page = await stage(
        inbox(
            "[item(1, { actions: [{ id: 'see', label: 'View', url: '/seen' },"
            " { id: 'bad', label: 'Bad', url: 'javascript:alert(1)' }] })]"
        )
    )
    link = page.get_by_role("link", name="View")
    await page.context.route("**/seen", lambda route: route.fulfill(body="Seen"))
    assert await link.get_attribute("href") == f"{ORIGIN}/seen"
    async with page.context.expect_page() as opened:
        await link.click()
    assert (await opened.value).url == f"{ORIGIN}/seen"
    assert await calls(page, "act", "read") == [["act", "id-1", "see"]]
    await expect(button(page, "Bad")).to_be_disabled()
    assert await link.get_attribute("href") is None
    await expect(page.locator("[data-choice=see]")).to_have_attribute("aria-disabled", "true")


async def test_an_action_with_a_reply_and_an_address_is_a_button_with_a_field(stage: Stage) -> None:
    page = await stage(
        inbox("[item(1, { actions: [{ id: 'say', label: 'Reply', reply: true, url: '/seen' }] })]")
    )
    await expect(page.get_by_role("link", name="Reply")).to_have_count(0)
    await button(page, "Reply").click()
    await expect(page.get_by_role("textbox", name="Reply")).to_be_focused()
    assert await calls(page, "act") == []


async def test_an_action_refused_because_it_is_answered_elsewhere_says_so(stage: Stage) -> None:
    page = await stage(ONE)
    await page.evaluate(
        "void (client.act = () =>"
        " Promise.reject(Object.assign(new Error('x'), { detail: 'It is answered already.' })))"
    )
    await button(page, "Approve").click()
    await expect(said(page, "That did not work: It is answered already.")).to_be_visible()
    await page.evaluate("delete client.act; void client.act('id-1', 'no')")
    await expect(said(page, "You answered: Decline")).to_be_visible()


async def test_the_actions_of_an_expired_item_are_disabled(stage: Stage) -> None:
    page = await stage(clock=True)
    await page.clock.pause_at("2030-01-01T00:00:00Z")
    await page.evaluate(
        inbox("[item(1, { expires_at: '2030-01-01T00:00:50Z', actions: [{ id: 'yes', label: 'Approve' }] })]")
    )
    await expect(button(page, "Approve")).to_be_enabled()
    # At that moment, not when the list looks again.
    await page.clock.run_for(49_000)
    await expect(button(page, "Approve")).to_be_enabled()
    await page.clock.run_for(1_001)
    await expect(button(page, "Approve")).to_be_disabled()


async def test_an_answered_item_stays_on_the_unread_tab_until_it_is_left(stage: Stage) -> None:
    page = await stage(ONE)
    await page.get_by_role("tab", name="Unread").click()
    await button(page, "Approve").click()
    await expect(said(page, "You answered: Approve")).to_be_visible()
    await titles(page, "Title 2", "Title 1")


# --- replies that can no longer be sent ---------------------------------------------------------------------

LOST = {
    "withdraw('id-2', 'expired')": "this has expired",
    "withdraw('id-2', 'unsent')": "the sender has withdrawn this",
    "withdraw('id-2', 'replaced')": "something newer has replaced this",
    "edit('id-2', { actions: null })": "this has changed",
    "edit('id-2', { actions: [{ id: 'ok', label: 'OK' }] })": "this has changed",
    "archive('id-2')": "this has changed",
    "act('id-2', 'yes')": "this is answered already",
    "reset([item(1), item(3), item(4)])": "this has changed",
}


async def write_a_reply(stage: Stage, **options: bool) -> Page:
    page = await stage(inbox(f"[item(1), item(2, {ACTIONS}), item(3), item(4)]"), **options)
    await button(page, "Reply").click()
    await page.keyboard.type("maybe ")
    return page


@pytest.mark.parametrize("change", LOST)
async def test_a_reply_whose_field_goes_is_told_and_the_keys_that_follow_do_nothing(
    stage: Stage, change: str
) -> None:
    page = await write_a_reply(stage)
    await page.evaluate(f"void client.{change}; void 0")
    await expect(page.get_by_role("textbox", name="Reply")).to_be_hidden()
    before = await page.evaluate("client.calls")
    await page.keyboard.type("even later # z?")
    for key in ("Delete", "Delete", "Enter", "Space", "Backspace"):
        await page.keyboard.press(key)
    await expect(said(page, f"Your reply was not sent: {LOST[change]}. You wrote: maybe")).to_be_visible()
    assert await page.evaluate("client.calls") == before
    await expect(page.get_by_role("dialog")).to_have_count(0)
    # They act again once the user goes somewhere.
    await page.keyboard.press("Escape")
    await rows(page).nth(0).focus()
    await page.keyboard.press("e")
    assert await calls(page, "archive") == [
        *[one for one in before if one[0] == "archive"],
        ["archive", "id-4", True],
    ]


async def test_a_reply_that_is_not_begun_holds_the_keys_and_a_sent_one_does_not(stage: Stage) -> None:
    page = await stage(inbox(f"[item(1), item(2, {ACTIONS}), item(3, {ACTIONS})]"))
    await row(page, 2).get_by_role("button", name="Reply").click()
    await page.evaluate("client.withdraw('id-2')")
    await page.keyboard.type("eee")
    await expect(said(page, "Your reply was not sent: the sender has withdrawn this.")).to_be_visible()
    assert await calls(page, "archive") == []
    await page.keyboard.press("ArrowUp")
    await row(page, 3).get_by_role("button", name="Reply").press("Enter")
    await page.keyboard.type("yes")
    await page.keyboard.press("Enter")
    await expect(said(page, "You answered: Reply – yes")).to_be_visible()  # noqa: RUF001 - typography
    await page.keyboard.press("e")
    assert await calls(page, "archive") == [["archive", "id-3", True]]
    await expect(said(page, "not sent")).to_have_count(0)


async def test_an_edit_leaves_the_focus_in_the_field_of_a_reply(stage: Stage) -> None:
    page = await write_a_reply(stage)
    await page.evaluate("client.edit('id-2', { title: 'Corrected' })")
    await page.keyboard.type("even later")
    await expect(page.get_by_role("textbox", name="Reply")).to_have_value("maybe even later")


async def test_a_question_whose_button_goes_is_not_answered_by_the_row_that_follows(stage: Stage) -> None:
    page = await stage(inbox(f"[item(1, {{ url: '#one' }}), item(2, {ACTIONS})]"))
    await button(page, "Decline").press("Enter")
    await page.evaluate("client.withdraw('id-2')")
    await expect(row(page, 1)).to_be_focused()
    await page.keyboard.press("Enter")
    assert await calls(page, "read", "act") == []
    await page.keyboard.press("Tab")
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Enter")
    assert await calls(page, "read") == [["read", "id-1"]]


# --- edits, tombstones and items that enter again -----------------------------------------------------------


async def test_an_edited_item_changes_in_place_and_keeps_the_focus_and_what_is_typed(stage: Stage) -> None:
    page = await stage(ONE)
    await button(page, "Reply").click()
    await page.keyboard.type("half a ")
    await page.evaluate(
        "client.edit('id-1', { title: 'Corrected', body: 'New.', url: '/new', priority: 'high' })"
    )
    await titles(page, "Title 2", "Corrected")
    await expect(row(page, 1)).to_contain_text("edited")
    await expect(row(page, 1)).to_contain_text("High priority")
    await expect(page.get_by_role("link", name="Corrected")).to_have_attribute("href", f"{ORIGIN}/new")
    await expect(page.get_by_role("textbox", name="Reply")).to_have_value("half a ")
    await row(page, 1).focus()
    await page.evaluate("client.edit('id-1', { title: 'Again', actions: [{ id: 'ok', label: 'OK' }] })")
    await expect(row(page, 1)).to_be_focused()
    await expect(button(page, "OK")).to_be_visible()
    await expect(button(page, "Approve")).to_have_count(0)


async def test_a_withdrawn_or_edited_item_moves_no_row_in_a_scrolled_list(stage: Stage) -> None:
    page = await stage(inbox("many(40)"))
    await row(page, 20).scroll_into_view_if_needed()
    await point_at(page, row(page, 20))
    before = await place(row(page, 20))
    long = "A long line of words that goes on. " * 20
    await page.evaluate("(body) => client.edit('id-24', { body })", long)
    assert await place(row(page, 20)) == before
    for number, reason in ((22, "unsent"), (23, "expired"), (38, "replaced")):
        await page.evaluate("([id, reason]) => client.withdraw(id, reason)", [f"id-{number}", reason])
        await expect(row(page, number)).to_have_count(0)
        assert await place(row(page, 20)) == before
    await page.evaluate("client.arrive(item(41, { title: 'Successor' }))")
    assert await place(row(page, 20)) == before
    await expect(button(page, "1 new")).to_be_visible()
    await page.mouse.move(1, 1)
    x, y = await place(row(page, 19))
    await page.evaluate("client.withdraw('id-30')")
    await expect(row(page, 30)).to_have_count(0)
    assert await place(row(page, 19)) == (x, y)


async def test_an_item_that_enters_again_moves_to_the_top_once(stage: Stage) -> None:
    page = await stage(inbox("many(3)"))
    await page.evaluate("client.enter('id-1', { title: 'Title 1' })")
    await titles(page, "Title 1", "Title 3", "Title 2")
    await page.evaluate("client.enter('id-2', { title: 'New 2', edited_at: new Date().toISOString() })")
    await titles(page, "New 2", "Title 1", "Title 3")
    await page.get_by_role("tab", name="Unread").click()
    await page.evaluate("client.enter('id-3')")
    await titles(page, "Title 3", "New 2", "Title 1")


async def test_an_old_item_that_enters_again_stands_below_the_day_of_what_is_beneath_it(stage: Stage) -> None:
    page = await stage(clock=True, timezone_id="Europe/Berlin")
    await page.clock.pause_at("2030-01-10T10:00:00Z")
    await page.evaluate(inbox("[item(1, { age: 7 * 1440 }), item(2, { age: 1440 }), item(3), item(4)]"))
    shown = page.locator("notification-inbox .day, notification-inbox h3 bdi")
    await page.evaluate("client.enter('id-1')")
    await expect(shown).to_have_text(["Today", "Title 1", "Title 4", "Title 3", "Yesterday", "Title 2"])
    await page.evaluate("client.enter('id-2')")
    await expect(shown).to_have_text(["Today", "Title 2", "Title 1", "Title 4", "Title 3"])
    await page.evaluate("client.withdraw('id-4'); client.withdraw('id-3')")
    await expect(shown).to_have_text(["Yesterday", "Title 2", "Thursday, January 3", "Title 1"])


async def test_a_toast_is_edited_withdrawn_and_replaced_with_its_item(stage: Stage) -> None:
    page = await stage("() => show('notification-toasts', new FakeClient())")
    await page.evaluate("client.arrive(item(1)); client.arrive(item(2)); client.arrive(item(3))")
    toasts = page.locator("notification-toasts .toast")
    await page.evaluate("client.edit('id-1', { title: 'Corrected', url: '/new' })")
    await expect(toasts.nth(0)).to_contain_text("Corrected")
    await page.evaluate("client.withdraw('id-2'); client.enter('id-1', { title: 'Once more' })")
    await expect(toasts.locator(".title")).to_have_text(["Title 3", "Once more"])
    await page.evaluate("void client.snooze('id-3', Date.now() + 3_600_000)")
    await expect(toasts.locator(".title")).to_have_text(["Once more"])


async def toast_with_actions(stage: Stage, *, clock: bool = False) -> Page:
    page = await stage("() => show('notification-toasts', new FakeClient())", clock=clock)
    if clock:
        await page.clock.pause_at("2030-01-01T00:00:00Z")
    actions = ACTIONS.replace("#seen", "/seen")
    await page.evaluate(f"client.arrive(item(1, {{ priority: 'urgent', url: '/one', ...{actions} }}))")
    await page.evaluate("addEventListener('notification-open', () => { window.opened = true; })")
    return page


async def test_an_action_of_a_toast_answers_and_opens_nothing(stage: Stage) -> None:
    page = await toast_with_actions(stage)
    await button(page, "Approve").click()
    await expect(page.locator(".toast")).to_have_count(0)
    assert await calls(page, "act", "read") == [["act", "id-1", "yes"]]
    await page.evaluate("client.enter('id-1')")
    await expect(button(page, "Approve")).to_be_disabled()
    await expect(page.locator(".toast")).to_contain_text("You answered: Approve")
    await page.locator(".answer").click()
    assert await page.evaluate("[window.opened, location.pathname]") == [None, "/"]


async def test_a_dangerous_action_of_a_toast_takes_a_second_press_within_a_while(stage: Stage) -> None:
    page = await toast_with_actions(stage, clock=True)
    await button(page, "Decline").dblclick()
    await expect(button(page, "Press again: Decline")).to_be_visible()
    # Its button becomes smaller, but not under the pointer.
    await page.clock.run_for(5_000)
    await expect(button(page, "Press again: Decline")).to_be_visible()
    await page.mouse.move(1, 1)
    await page.clock.run_for(5_000)
    await expect(button(page, "Press again: Decline")).to_have_count(0)
    assert await calls(page, "act") == []
    await button(page, "Decline").press("Enter")
    await button(page, "Press again: Decline").press("Enter")
    await page.clock.run_for(1)
    assert await calls(page, "act") == [["act", "id-1", "no"]]
    await expect(page.locator(".toast")).to_have_count(0)


async def test_a_reply_in_a_toast_is_kept_by_an_edit_and_by_a_refusal(stage: Stage) -> None:
    page = await toast_with_actions(stage)
    field = page.get_by_role("textbox", name="Reply")
    await button(page, "Reply").click()
    await page.keyboard.press("Escape")
    await expect(field).to_be_hidden()
    await expect(button(page, "Dismiss")).to_be_focused()
    await button(page, "Reply").click()
    await page.keyboard.type("see you ")
    await page.evaluate("client.edit('id-1', { title: 'Corrected' }); client.refuse = true")
    await expect(page.locator(".toast .title")).to_have_text("Corrected")
    await button(page, "Send").click()
    await expect(page.locator(".toast.sum")).to_contain_text("That did not work: It was refused.")
    await expect(field).to_have_value("see you ")
    await page.evaluate("client.refuse = false")
    await field.press("Enter")
    await expect(field).to_have_count(0)
    assert await calls(page, "act", "read") == [["act", "id-1", "say", "see you"]] * 2
    assert await page.evaluate("window.opened") is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("withdraw('id-1', 'unsent')", "the sender has withdrawn this"),
        ("act('id-1', 'yes')", "this is answered already"),
    ],
)
async def test_a_reply_in_a_toast_that_goes_is_told(stage: Stage, change: str, why: str) -> None:
    page = await toast_with_actions(stage)
    await button(page, "Reply").click()
    await page.keyboard.type("see you ")
    await page.evaluate(f"void client.{change}")
    await expect(page.locator(".toast.sum")).to_contain_text(
        f"Your reply was not sent: {why}. You wrote: see you"
    )


async def test_a_link_action_of_a_toast_answers_and_opens_its_own_address(stage: Stage) -> None:
    page = await toast_with_actions(stage)
    await page.context.route("**/seen", lambda route: route.fulfill(body="Seen"))
    async with page.context.expect_page() as opened:
        await page.get_by_role("link", name="View").click()
    assert (await opened.value).url == f"{ORIGIN}/seen"
    await expect(page.locator(".toast")).to_have_count(0)
    assert await calls(page, "act", "read") == [["act", "id-1", "see"]]
    assert await page.evaluate("[window.opened, location.pathname]") == [None, "/"]


async def test_a_click_beside_a_link_action_of_a_toast_is_no_answer(stage: Stage) -> None:
    page = await stage("() => show('notification-toasts', new FakeClient())")
    await page.evaluate("client.arrive(item(1, { actions: [{ id: 'see', label: 'View', url: '/seen' }] }))")
    await page.locator(".toast .title").click()
    await expect(page.locator(".toast")).to_have_count(0)
    assert await calls(page, "act", "read") == [["read", "id-1"]]


async def test_a_notification_without_alert_shows_no_toast_plays_no_sound_and_is_not_announced(
    stage: Stage,
) -> None:
    page = await stage(
        "() => show('notification-toasts', new FakeClient(), { sound: '/ding.mp3' })",
        before="window.played = 0; window.Audio = class { paused = true; getAttribute() {}"
        " async play() { played += 1; } };"
        "window.shown = []; window.Notification = class { static permission = 'granted';"
        " constructor(title, { body }) { shown.push(title); } };"
        "localStorage.setItem('notify.system', 'on');"
        "Object.defineProperty(document, 'visibilityState',"
        " { get: () => window.hiddenNow ? 'hidden' : 'visible' });",
    )
    await page.evaluate(
        "() => { const bell = document.createElement('notification-bell'); bell.client = client;"
        " document.querySelector('main').append(bell); }"
    )
    await page.evaluate(
        "client.arrive(item(1), { alert: false }); client.arrive(item(2), { alert: false, missed: true })"
    )
    await page.evaluate("hiddenNow = true; client.arrive(item(3), { alert: false }); hiddenNow = false")
    await page.evaluate("client.arrive(item(4))")
    await expect(page.locator("notification-toasts .toast .title")).to_have_text(["Title 4"])
    assert await page.evaluate("[played, shown]") == [1, []]
    await page.evaluate("hiddenNow = true; client.arrive(item(5)); hiddenNow = false")
    assert await page.evaluate("shown.at(-1)") == "Title 5"


# --- snoozing -----------------------------------------------------------------------------------------------


async def test_an_item_is_snoozed_by_a_menu_of_times_listed_in_a_tab_and_woken(stage: Stage) -> None:
    page = await stage(clock=True, timezone_id="Europe/Berlin")
    await page.clock.pause_at("2030-01-02T10:40:00Z")  # A Wednesday.
    await page.evaluate(inbox("many(4)"))
    await button(page, "Snooze: Title 3").click()
    menu = page.get_by_role("dialog", name="Snooze")
    await expect(menu).to_be_focused()
    await expect(menu.locator("button.time")).to_have_text(
        [
            re.compile("^Later today.*2:00"),
            re.compile("^Tomorrow.*9:00"),
            re.compile("^Next week.*Jan 7.*9:00"),
        ]
    )
    await menu.get_by_role("button", name="Tomorrow").click()
    await titles(page, "Title 4", "Title 2", "Title 1")
    assert await calls(page, "snooze") == [["snooze", "id-3", "2030-01-03T08:00:00.000Z"]]
    await expect(said(page, "Snoozed until Thu, Jan 3, 9:00")).to_be_visible()
    await button(page, "Undo").click()
    await titles(page, "Title 4", "Title 3", "Title 2", "Title 1")
    for number, name in ((3, "Next week"), (1, "Later today")):
        await button(page, f"Snooze: Title {number}").click()
        await page.get_by_role("button", name=name).click()
    await page.get_by_role("tab", name="Snoozed").click()
    await titles(page, "Title 1", "Title 3")
    await expect(page.locator("notification-inbox .day")).to_have_text(["Today", "Monday, January 7"])
    await expect(row(page, 1)).to_contain_text("until Wed, Jan 2, 2:00")
    await expect(button(page, "Mark all read")).to_be_disabled()
    await button(page, "Wake now: Title 1").click()
    await titles(page, "Title 3")
    # It wakes by itself, and enters again.
    await page.evaluate("client.enter('id-3')")
    await expect(page.locator("notification-inbox")).to_contain_text("Nothing snoozed")
    await page.get_by_role("tab", name="All").click()
    await titles(page, "Title 3", "Title 4", "Title 2", "Title 1")


@pytest.mark.parametrize(
    ("now", "offered"),
    [("2030-01-06T20:00:00Z", ["Tomorrow"]), ("2030-01-05T22:10:00Z", ["Tomorrow", "Next week"])],
)
async def test_only_sensible_times_are_offered(stage: Stage, now: str, offered: list[str]) -> None:
    page = await stage(clock=True, timezone_id="Europe/Berlin")
    await page.clock.pause_at(now)
    await page.evaluate(inbox("many(1)"))
    await rows(page).nth(0).focus()
    await page.keyboard.press("s")
    buttons = page.get_by_role("dialog").locator("button.time")
    names = [re.match("Later today|Tomorrow|Next week", text) for text in await buttons.all_inner_texts()]
    assert [name and name[0] for name in names] == offered


async def test_an_item_is_snoozed_by_the_keyboard_until_a_chosen_moment(stage: Stage) -> None:
    page = await stage(inbox("many(3)"), timezone_id="Asia/Kolkata")
    await rows(page).nth(1).focus()
    await page.keyboard.press("s")
    await page.keyboard.press("Escape")
    await expect(rows(page).nth(1)).to_be_focused()
    await page.keyboard.press("s")
    field = page.get_by_role("textbox", name="Date and time")
    for wrong in ("2090-03-01T09:30", "2020-03-01T09:30", ""):
        await field.fill(wrong)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_have_text(
            "Choose a time within a year, and not in the past."
        )
        await expect(field).to_be_focused()
    assert await calls(page, "snooze") == []
    day = (datetime.now(UTC) + timedelta(days=30)).date()
    await field.fill(f"{day}T09:30")
    await page.keyboard.press("Enter")
    await titles(page, "Title 3", "Title 1")
    assert await calls(page, "snooze") == [["snooze", "id-2", f"{day}T04:00:00.000Z"]]
    await expect(rows(page).nth(1)).to_be_focused()
    await page.keyboard.press("z")
    await titles(page, "Title 3", "Title 2", "Title 1")
    await page.evaluate("client.refuse = true")
    await rows(page).nth(0).focus()
    await page.keyboard.press("s")
    await page.get_by_role("button", name="Tomorrow").click()
    await expect(said(page, "That did not work: It was refused.")).to_be_visible()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_contain_text("Snooze, or wake now")


async def test_a_dialog_stands_over_its_own_list(stage: Stage) -> None:
    page = await stage(inbox("many(3)"))
    # Of the width of a phone, at the side of the window.
    await page.evaluate("Object.assign(element.style, { width: '300px', marginInlineStart: 'auto' })")
    await rows(page).nth(0).focus()
    for key in ("s", "?"):
        await page.keyboard.press(key)
        dialog, own = (
            await box_of(page.get_by_role("dialog")),
            await box_of(page.locator("notification-inbox")),
        )
        assert own["x"] < dialog["x"]
        assert dialog["x"] + dialog["width"] < own["x"] + own["width"]
        await page.keyboard.press("Escape")


async def box_of(found: Locator) -> FloatRect:
    box = await found.bounding_box()
    assert box is not None
    return box


async def test_an_item_is_snoozed_and_answered_on_a_phone(stage: Stage) -> None:
    page = await stage(ONE, **FINGER)
    await button(page, "Decline").tap()
    await button(page, "Press again: Decline").tap()
    await button(page, "More actions: Title 2").tap()
    await button(page, "Snooze: Title 2").tap()
    await page.get_by_role("button", name="Tomorrow").tap()
    await titles(page, "Title 1")
    assert [one[:2] for one in await calls(page, "act", "snooze", "read")] == [
        ["act", "id-1"],
        ["snooze", "id-2"],
    ]


# --- icons --------------------------------------------------------------------------------------------------

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360f8cf50"
    "0f0003860180a34b7cd60000000049454e44ae426082"
)


async def test_an_icon_is_shown_where_it_loads_and_the_sign_stands_where_it_does_not(stage: Stage) -> None:
    asked: list[tuple[str, str | None]] = []

    async def serve(route: Route) -> None:
        asked.append((route.request.url, route.request.headers.get("referer")))
        if route.request.url.endswith("good.png"):
            await route.fulfill(body=PNG, content_type="image/png")
        else:
            await route.fulfill(body="no image", content_type="image/png")

    page = await stage()
    await page.route("**/*.png", serve)
    await page.evaluate(
        inbox(
            "[item(1, { icon: '/good.png' }), item(2, { icon: '/bad.png' }),"
            " item(3, { icon: 'data:image/png;base64,x' }), item(4, { icon: 'javascript:x' })]"
        )
    )
    await expect(row(page, 1).locator(".glyph.shown img")).to_be_visible()
    await expect(row(page, 1).locator(".glyph svg")).to_be_hidden()
    for number in (2, 3, 4):
        await expect(row(page, number).locator(".glyph img")).to_have_count(0)
        await expect(row(page, number).locator(".glyph svg")).to_be_visible()
    image = row(page, 1).locator("img")
    names = ("alt", "width", "height", "loading", "referrerpolicy")
    assert [await image.get_attribute(name) for name in names] == ["", "36", "36", "lazy", "no-referrer"]
    assert asked == [(f"{ORIGIN}/good.png", None), (f"{ORIGIN}/bad.png", None)]
    # What could not be loaded is not asked for again.
    await page.evaluate("client.arrive(item(5, { icon: '/bad.png' }))")
    await expect(row(page, 5).locator(".glyph svg")).to_be_visible()
    assert len(asked) == 2


async def test_an_icon_that_the_policy_of_the_page_forbids_is_replaced_by_the_sign(browser: Browser) -> None:
    page = await browser.new_page()
    await page.add_init_script(NOTE_HARM)
    await page.route("**/*", serve_stage)
    await page.goto(ORIGIN + "/")
    await page.evaluate(SET_THE_STAGE)
    await page.evaluate(inbox("[item(1, { icon: 'https://images.example.com/i.png' })]"))
    await expect(row(page, 1).locator(".glyph img")).to_have_count(0)
    await expect(row(page, 1).locator(".glyph svg")).to_be_visible()
    assert set(await page.evaluate("harmed")) == {"img-src https://images.example.com/i.png"}
    await page.close()


# --- preferences --------------------------------------------------------------------------------------------

PREFERENCES = """() => show('notification-preferences', new FakeClient(
  many(4, (n) => ({ category: ['default', 'ci', 'orders', 'ci'][n - 1] })),
  { kept: { categories: { promo: { muted: true } }, timezone: null, quiet_hours: [], quiet_until: null } }),
  { 'category-labels': '{"orders": "My orders", "alerts": "Alerts"}' })"""
KEPT = "client.kept"
WEEK = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


async def saved(page: Page) -> None:
    await expect(said(page, "Saved")).to_be_visible()


async def test_known_categories_are_listed_and_muted_at_once(stage: Stage) -> None:
    page = await stage(PREFERENCES)
    group = page.get_by_role("group", name="Notify me about")
    await expect(group.locator("label")).to_have_text(["Alerts", "CI", "General", "My orders", "Promo"])
    checked = await group.get_by_role("checkbox").evaluate_all("(all) => all.map((one) => one.checked)")
    assert checked == [True, True, True, True, False]
    await box(page, "CI").press("Space")
    await saved(page)
    await expect(box(page, "CI")).to_be_focused()
    await box(page, "Promo").check()
    await until(lambda: page.evaluate("!client.kept.categories.promo"), "promo is not muted")
    await expect(box(page, "Promo")).to_be_checked()
    assert await page.evaluate(KEPT) == {
        "categories": {"ci": {"muted": True}},
        "timezone": None,
        "quiet_hours": [],
        "quiet_until": None,
    }
    await page.evaluate("client.arrive(item(9, { category: 'billing' }))")
    await expect(box(page, "Billing")).to_be_checked()


async def test_quiet_hours_are_added_changed_checked_and_removed(stage: Stage) -> None:
    page = await stage(PREFERENCES, timezone_id="America/New_York")
    await button(page, "Add quiet hours").click()
    await saved(page)
    assert await page.evaluate(KEPT + ".timezone") == "America/New_York"
    night = {"days": WEEK, "from": "22:00", "until": "07:00"}
    assert await page.evaluate(KEPT + ".quiet_hours") == [night]
    await box(page, "Sat").uncheck()
    await until(lambda: page.evaluate("client.kept.quiet_hours[0].days.length === 6"), "Saturday is left out")
    await page.get_by_label("To", exact=True).fill("06:30")
    await page.get_by_role("combobox").select_option("Europe/Berlin")
    await until(lambda: page.evaluate("client.kept.timezone === 'Europe/Berlin'"), "the zone is another")
    assert await page.evaluate(KEPT + ".quiet_hours") == [
        {"days": [day for day in WEEK if day != "sat"], "from": "22:00", "until": "06:30"}
    ]
    before = len(await calls(page, "setPreferences"))
    await page.get_by_label("From", exact=True).fill("06:30")
    await expect(said(page, "Choose a day, and two different times.")).to_be_visible()
    assert len(await calls(page, "setPreferences")) == before
    await button(page, "Delete: 06:30 – 06:30").click()  # noqa: RUF001 - typography
    await until(lambda: page.evaluate("!client.kept.quiet_hours.length"), "they are removed")
    await expect(button(page, "Add quiet hours")).to_be_focused()
    await page.get_by_label("Quiet until").fill("2090-03-01T09:30")
    await until(
        lambda: page.evaluate("client.kept.quiet_until === '2090-03-01T14:30:00.000Z'"), "quiet until"
    )
    await page.get_by_label("Quiet until").fill("2020-03-01T09:30")
    await expect(said(page, "This time has passed.")).to_be_visible()
    assert await page.evaluate("client.kept.quiet_until") == "2090-03-01T14:30:00.000Z"
    await page.get_by_label("Quiet until").fill("")
    await until(lambda: page.evaluate("client.kept.quiet_until === null"), "quiet no longer")


async def test_categories_of_what_is_older_archived_or_snoozed_are_listed(stage: Stage) -> None:
    page = await stage(
        """() => show('notification-preferences', new FakeClient(many(200, (n) => ({
          category: n === 100 ? 'older' : n < 3 ? ['archived', 'snoozed'][n - 1] : 'default',
          archived_at: n === 1 ? new Date().toISOString() : null,
          snoozed_until: n === 2 ? '2090-01-01T00:00:00Z' : null }))))"""
    )
    group = page.get_by_role("group", name="Notify me about")
    await expect(group.locator("label")).to_have_text(["Archived", "General", "Older", "Snoozed"])
    await page.evaluate("client.all = []; client.become('signedout'); client.become('live')")
    await expect(group).to_contain_text("The categories of your notifications appear here.")


async def test_twenty_times_of_quiet_are_the_most_that_are_offered(stage: Stage) -> None:
    page = await stage(PREFERENCES)
    await expect(button(page, "Add quiet hours")).to_be_visible()
    await page.evaluate(
        "client.tell('preferences', { preferences: { ...client.kept, quiet_hours: Array(20).fill("
        " { days: ['mon'], from: '08:00', until: '09:00' }) } })"
    )
    await expect(page.get_by_label("From", exact=True)).to_have_count(20)
    await expect(button(page, "Add quiet hours")).to_have_count(0)


async def test_a_change_is_saved_after_one_that_a_sign_out_has_overtaken(stage: Stage) -> None:
    page = await stage(PREFERENCES)
    await box(page, "CI").wait_for()
    await page.evaluate(
        "() => { for (const one of element.shadowRoot.querySelectorAll('[type=checkbox]')) one.click();"
        " client.become('signedout'); }"
    )
    await expect(box(page, "CI")).to_have_count(0)
    await page.evaluate("client.become('live')")
    before = len(await calls(page, "setPreferences"))
    await box(page, "Alerts").click()
    await saved(page)
    assert len(await calls(page, "setPreferences")) == before + 1


async def test_a_change_that_meets_another_one_is_applied_to_the_newer_preferences(stage: Stage) -> None:
    page = await stage(PREFERENCES)
    await expect(box(page, "CI")).to_be_checked()
    await page.evaluate("client.kept.categories.orders = { muted: true }; client.conflicts = 1")
    await box(page, "CI").uncheck()
    await saved(page)
    muted = {"promo": {"muted": True}, "orders": {"muted": True}, "ci": {"muted": True}}
    assert await page.evaluate(KEPT + ".categories") == muted
    await expect(box(page, "My orders")).not_to_be_checked()
    # What is changed elsewhere is shown at once.
    await page.evaluate(
        "client.tell('preferences', { preferences: { ...client.kept, categories: {}, quiet_hours:"
        " [{ days: ['mon'], from: '08:00', until: '09:00' }] } })"
    )
    await expect(box(page, "My orders")).to_be_checked()
    await expect(page.get_by_label("From", exact=True)).to_have_value("08:00")
    # Whoever loses each time is told so.
    await page.evaluate("client.conflicts = 9")
    await box(page, "Alerts").click()
    await expect(said(page, "That did not work: It was refused.")).to_be_visible()
    await expect(box(page, "Alerts")).to_be_checked()
    await expect(box(page, "CI")).not_to_be_checked()
    assert await page.evaluate(KEPT + ".categories") == muted


async def test_a_refused_change_is_shown_as_it_was_and_says_why(stage: Stage) -> None:
    page = await stage(PREFERENCES)
    await box(page, "Alerts").wait_for()
    await page.evaluate("client.refuse = true")
    await box(page, "Alerts").click()
    await expect(said(page, "That did not work: It was refused.")).to_be_visible()
    await expect(box(page, "Alerts")).to_be_checked()
    await page.evaluate("client.refuse = false; client.become('signedout')")
    await expect(box(page, "Alerts")).to_have_count(0)
    await page.evaluate("client.become('live')")
    await expect(box(page, "Alerts")).to_be_checked()


async def test_the_bell_leads_to_the_preferences_and_back_by_keyboard(stage: Stage) -> None:
    page = await stage("() => show('notification-bell', new FakeClient(many(2, () => ({ category: 'ci' }))))")
    await button(page, "Notifications, 2 new").click()
    await button(page, "Preferences").press("Enter")
    await expect(box(page, "CI")).to_be_visible()
    await expect(button(page, "Back")).to_be_focused()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Space")
    await saved(page)
    await button(page, "Back").press("Enter")
    await expect(button(page, "Preferences")).to_be_focused()
    await button(page, "Preferences").press("Enter")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await button(page, "Notifications").click()
    await expect(rows(page).nth(0)).to_be_visible()
    await expect(box(page, "CI")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("direction", ["ltr", "rtl"])
async def test_axe_finds_no_violation_in_the_preferences(stage: Stage, scheme: str, direction: str) -> None:
    size = {"width": 360, "height": 740}
    page = await stage(color_scheme=scheme, reduced_motion="reduce", bypass_csp=True, viewport=size)
    await page.evaluate("(dir) => { document.documentElement.dir = dir; }", direction)
    await page.evaluate(PREFERENCES)
    await button(page, "Add quiet hours").click()
    await saved(page)
    assert await violations(page) == []
    assert await page.evaluate("element.scrollWidth <= element.clientWidth")


# --- accessibility ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("direction", ["ltr", "rtl"])
async def test_axe_finds_no_violation_in_actions_and_snoozing(
    stage: Stage, scheme: str, direction: str
) -> None:
    page = await stage(color_scheme=scheme, reduced_motion="reduce", bypass_csp=True)
    await page.evaluate("(dir) => { document.documentElement.dir = dir; }", direction)
    await page.evaluate(ONE)
    await button(page, "Decline").press("Enter")
    await button(page, "Reply").click()
    await page.evaluate("client.edit('id-2', { title: 'Corrected' })")
    assert await violations(page) == []
    await button(page, "Approve").click()
    await expect(button(page, "Approve")).to_be_disabled()
    assert await violations(page) == []
    await row(page, 2).focus()
    await page.keyboard.press("s")
    await expect(page.get_by_role("dialog")).to_be_visible()
    assert await violations(page) == []
    await page.get_by_role("button", name="Tomorrow").click()
    await page.get_by_role("tab", name="Snoozed").click()
    await expect(button(page, "Wake now: Corrected")).to_be_attached()
    assert await violations(page) == []
