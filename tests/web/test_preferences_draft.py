"""Preferences that a user changes faster than they are saved, typed in a real Chromium, without a gateway."""

import json
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.support.waiting import until
from tests.web.test_components import Stage, button, calls, stage
from tests.web.test_life import WEEK, box, said

__all__ = ["stage"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOW_MS = 400
NIGHT: dict[str, Any] = {"days": WEEK, "from": "22:00", "until": "07:00"}
OPEN = """([fields, delay]) => {
  const kept = { categories: {}, timezone: 'UTC', quiet_hours: [], quiet_until: null, ...fields };
  const client = new FakeClient([], { kept });
  const save = client.setPreferences.bind(client);
  let running = 0;
  client.most = client.refusals = 0;
  client.setPreferences = async (preferences) => {
    client.most = Math.max(client.most, running += 1);
    await client.held;
    if (delay) await new Promise((done) => setTimeout(done, delay));
    if ((client.refusals -= 1) >= 0) {
      running -= 1;
      throw Object.assign(new Error('refused'), { status: 422, code: 'refused', detail: 'It was refused.' });
    }
    return save(preferences).finally(() => { running -= 1; });
  };
  const labels = { news: 'News', promo: 'Promo', chat: 'Chat' };
  show('notification-preferences', client, { 'category-labels': JSON.stringify(labels) });
}"""


async def opened(stage: Stage, delay_ms: int = 0, **fields: Any) -> Page:
    page = await stage(locale="en-US", timezone_id="UTC")
    await page.evaluate(OPEN, [fields, delay_ms])
    await box(page, "News").wait_for()
    return page


async def kept(page: Page, name: str, expected: Any) -> None:
    """Wait until the client has been given the preferences, and the element has shown that."""
    same = f"JSON.stringify(client.kept.{name}) === {json.dumps(json.dumps(expected, separators=(',', ':')))}"
    await until(lambda: page.evaluate(same), f"{name} is {expected}")
    await expect(said(page, "Saved")).to_be_visible()


async def windows_sent(page: Page) -> list[int]:
    return [len(sent["quiet_hours"]) for _, sent in await calls(page, "setPreferences")]


async def leave(page: Page) -> None:
    await page.locator("#before").focus()


@pytest.mark.parametrize("slow_ms", [0, SLOW_MS])
@pytest.mark.parametrize("delay_ms", [0, 60, 300])
async def test_a_typed_time_is_saved_whole_however_fast_it_is_typed(
    stage: Stage, delay_ms: int, slow_ms: int
) -> None:
    page = await opened(stage, slow_ms, quiet_hours=[NIGHT])
    start = page.get_by_label("From", exact=True)
    await start.focus()
    await page.keyboard.type("0915PM", delay=delay_ms)
    await expect(start).to_be_focused()
    await page.keyboard.press("Enter")
    await kept(page, "quiet_hours", [{**NIGHT, "from": "21:15"}])
    await leave(page)
    await expect(start).to_have_value("21:15")
    assert set(await windows_sent(page)) == {1}


async def test_a_typed_time_is_saved_when_its_field_is_left_or_typing_pauses(stage: Stage) -> None:
    page = await opened(stage, quiet_hours=[NIGHT])
    await page.get_by_label("From", exact=True).focus()
    await page.keyboard.type("0915PM")
    await leave(page)
    await kept(page, "quiet_hours", [{**NIGHT, "from": "21:15"}])
    await page.get_by_label("To", exact=True).focus()
    await page.keyboard.type("0645AM")
    await kept(page, "quiet_hours", [{**NIGHT, "from": "21:15", "until": "06:45"}])
    await expect(page.get_by_label("To", exact=True)).to_be_focused()
    await page.keyboard.type("P")
    await kept(page, "quiet_hours", [{**NIGHT, "from": "21:15", "until": "18:45"}])


@pytest.mark.parametrize("delay_ms", [0, 60, 300])
async def test_a_date_that_is_typed_anew_is_never_saved_as_one_in_the_past(
    stage: Stage, delay_ms: int
) -> None:
    page = await opened(stage, SLOW_MS, quiet_until="2090-03-01T09:30:00.000Z")
    field = page.get_by_label("Quiet until")
    await field.focus()
    await page.keyboard.type("12312091", delay=delay_ms)
    await leave(page)
    await kept(page, "quiet_until", "2091-12-31T09:30:00.000Z")
    await expect(field).to_have_value("2091-12-31T09:30")
    assert all(sent["quiet_until"] > "2090" for _, sent in await calls(page, "setPreferences"))


async def test_days_changed_during_a_save_are_those_of_one_window(stage: Stage) -> None:
    page = await opened(stage, SLOW_MS, quiet_hours=[NIGHT])
    for day in ("Sat", "Sun", "Fri"):
        await box(page, day).click()
    await kept(page, "quiet_hours", [{**NIGHT, "days": WEEK[:4]}])
    for day in ("Sat", "Sun", "Fri"):
        await expect(box(page, day)).not_to_be_checked()
    assert set(await windows_sent(page)) == {1}
    assert await page.evaluate("client.most") == 1


async def test_the_last_state_of_a_box_that_changes_during_a_save_is_saved(stage: Stage) -> None:
    page = await opened(stage, SLOW_MS)
    for name in ("News", "Promo", "Chat", "Promo"):
        await box(page, name).click()
    await until(lambda: page.evaluate("client.kept.categories.chat?.muted"), "the last one is saved")
    await expect(said(page, "Saved")).to_be_visible()
    for name, muted in (("news", True), ("promo", False), ("chat", True)):
        assert await page.evaluate(f"Boolean(client.kept.categories.{name}?.muted)") is muted
        await expect(box(page, name.title())).to_be_checked(checked=not muted)
    assert await page.evaluate("client.most") == 1


async def test_a_window_without_days_waits_for_one(stage: Stage) -> None:
    page = await opened(stage, SLOW_MS, quiet_hours=[NIGHT])
    for day in WEEK:
        await box(page, day.title()).click()
    await expect(said(page, "Choose a day, and two different times.")).to_be_visible()
    await box(page, "Sat").click()
    await kept(page, "quiet_hours", [{**NIGHT, "days": ["sat"]}])
    await expect(box(page, "Sun")).not_to_be_checked()
    assert set(await windows_sent(page)) == {1}


async def test_windows_added_and_removed_during_a_save_are_each_their_own(stage: Stage) -> None:
    page = await opened(stage, SLOW_MS)
    for _ in range(3):
        await button(page, "Add quiet hours").click()
    await box(page, "Sat").nth(1).click()
    await page.locator(".window button").nth(0).click()
    await kept(page, "quiet_hours", [{**NIGHT, "days": [day for day in WEEK if day != "sat"]}, NIGHT])
    await expect(page.locator(".window")).to_have_count(2)
    assert await page.evaluate("client.most") == 1


TELL = """(fields) => {
  Object.assign(client.kept, fields);
  client.tell('preferences', { preferences: structuredClone(client.kept) });
}"""


async def test_a_change_made_elsewhere_leaves_the_field_that_has_the_focus(stage: Stage) -> None:
    page = await opened(stage, quiet_hours=[NIGHT])
    start = page.get_by_label("From", exact=True)
    await start.focus()
    await page.keyboard.type("09")
    elsewhere = {"categories": {"news": {"muted": True}}, "quiet_hours": [{**NIGHT, "until": "06:00"}]}
    await page.evaluate(TELL, elsewhere)
    await expect(box(page, "News")).not_to_be_checked()
    await expect(page.get_by_label("To", exact=True)).to_have_value("06:00")
    await expect(start).to_be_focused()
    await page.keyboard.type("15PM")
    await page.keyboard.press("Enter")
    await kept(page, "quiet_hours", [{**NIGHT, "from": "21:15", "until": "06:00"}])
    assert await page.evaluate("client.kept.categories.news.muted")
    await page.evaluate(TELL, {"quiet_hours": [{**NIGHT, "from": "20:00"}]})
    await expect(page.get_by_label("To", exact=True)).to_have_value("07:00")
    await expect(start).to_have_value("21:15")
    await leave(page)
    await expect(start).to_have_value("20:00")


async def test_two_changes_of_one_window_are_merged(stage: Stage) -> None:
    page = await opened(stage, quiet_hours=[NIGHT])
    await page.evaluate("client.kept.quiet_hours[0].until = '06:30'; client.conflicts = 1")
    await box(page, "Sat").click()
    weekdays = [day for day in WEEK if day != "sat"]
    await kept(page, "quiet_hours", [{**NIGHT, "days": weekdays, "until": "06:30"}])
    await expect(page.get_by_label("To", exact=True)).to_have_value("06:30")


async def test_a_refused_change_takes_no_later_one_with_it(stage: Stage) -> None:
    page = await opened(stage)
    await page.evaluate(
        "() => { client.refusals = 1; client.held = new Promise((done) => { client.release = done; }); }"
    )
    await box(page, "News").click()
    await until(lambda: page.evaluate("client.most"), "the first is being saved")
    await box(page, "Chat").click()
    await page.evaluate("client.release()")
    await until(lambda: page.evaluate("client.kept.categories.chat?.muted"), "the second is saved")
    await expect(said(page, "That did not work: It was refused.")).to_be_visible()
    await expect(box(page, "News")).to_be_checked()
    await expect(box(page, "Chat")).not_to_be_checked()
