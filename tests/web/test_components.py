"""The web components in a real Chromium, with a client that has no gateway: each state, and each use."""

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from importlib.resources import files
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect

from gateway import web
from tests.support.browsers import ORIGIN, serve_stage, violations
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SDK = files(web).joinpath("sdk")
MANIFEST = json.loads(SDK.joinpath("custom-elements.json").read_text("utf-8"))


SET_THE_STAGE = """async () => {
  await import('/sdk/components.js');
  const { FakeClient, item } = await import('/fake_client.js');
  const many = (length, fields = () => ({})) =>
    Array.from({ length }, (_, index) => item(index + 1, fields(index + 1)));
  Object.assign(window, { FakeClient, item, many });
  window.show = (tag, client, attributes = {}) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.client = client;
    document.querySelector('main').append(element);
    Object.assign(window, { client, element });
    return element;
  };
}"""
NOTE_HARM = """window.harmed = [];
addEventListener('securitypolicyviolation',
  ({ violatedDirective, blockedURI }) => harmed.push(`${violatedDirective} ${blockedURI}`));"""

Stage = Callable[..., Coroutine[Any, Any, Page]]


@pytest_asyncio.fixture(loop_scope="module")
async def stage(browser: Browser) -> AsyncIterator[Stage]:
    """A function that opens an empty page with the components and runs a script on it.

    The keywords are those of a browser context. At the end no script has failed, and no policy was broken.
    """
    troubles: list[str] = []
    pages: list[Page] = []
    async with AsyncExitStack() as stack:

        async def open_stage(
            script: str = "() => {}", *, before: str = "", clock: bool = False, **options: Any
        ) -> Page:
            context = await browser.new_context(**options)
            stack.push_async_callback(context.close)
            page = await context.new_page()
            pages.append(page)
            page.set_default_timeout(PATIENCE * 1000)
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("dialog", lambda dialog: troubles.append(f"a dialog: {dialog.message}"))
            page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
            await page.add_init_script(NOTE_HARM + before)
            if clock:
                await page.clock.install()
            await page.route("**/*", serve_stage)
            await page.goto(ORIGIN + "/")
            await page.evaluate(SET_THE_STAGE)
            await page.evaluate(script)
            return page

        yield open_stage
        troubles += [one for page in pages for one in await page.evaluate("harmed")]
    assert troubles == []


async def calls(page: Page, *names: str) -> list[Any]:
    """Return what was asked of the client, as far as it has one of these names."""
    asked: list[Any] = await page.evaluate("client.calls")
    return [one for one in asked if one[0] in names]


def rows(page: Page) -> Locator:
    return page.locator("notification-inbox article")


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


async def titles(page: Page, *expected: str) -> None:
    await expect(page.locator("notification-inbox h3 bdi")).to_have_text(list(expected))


INBOX = "() => show('notification-inbox', new FakeClient({items}, {fields}))"


def inbox(items: str = "many(3)", fields: str = "{}") -> str:
    return INBOX.replace("{items}", items).replace("{fields}", fields)


# --- states -------------------------------------------------------------------------------------------------

STATES = {
    "loading": (inbox("[]", "{ epoch: null, state: 'connecting' }"), "Loading notifications"),
    "empty": (inbox("[]"), "You’re all caught up"),  # noqa: RUF001 - typography
    "list": (
        inbox(
            "many(30, (n) => ({ priority: ['low', 'normal', 'high', 'urgent'][n % 4],"
            " category: ['default', 'ci'][n % 2], body: n % 3 ? 'A body.' : null,"
            " url: n % 5 ? null : '/runs/' + n, data: { n },"
            " read_at: n < 20 ? new Date().toISOString() : null }))"
        ).removesuffix(")")
        + ", { 'show-data': '' })",
        "Title 30",
    ),
    "offline": (
        inbox("many(3)", "{ state: 'offline', retryAt: Date.now() + 3_600_000 }"),
        "Trying again in 3,600 sec.",
    ),
    "stopped": (
        inbox("many(3)", "{ state: 'stopped', problem: { code: 'x', detail: 'Too many places.' } }"),
        "Too many places.",
    ),
    "signed out": (inbox("[]", "{ state: 'signedout' }"), "You are signed out"),
}


@pytest.mark.parametrize("state", STATES)
async def test_each_state_of_the_inbox_has_a_text(stage: Stage, state: str) -> None:
    script, words = STATES[state]
    page = await stage(script)
    await expect(page.locator("notification-inbox")).to_contain_text(words)


@pytest.mark.parametrize("display", ["", "block", "grid", "inline-block"])
@pytest.mark.parametrize("size", ["height", "maxHeight"])
async def test_the_list_scrolls_whatever_the_page_makes_of_the_display(
    stage: Stage, display: str, size: str
) -> None:
    page = await stage(inbox("many(40)", "{ refuse: true }"))
    style = {"display": display, "height": "auto", size: "300px"}
    await page.evaluate("(style) => Object.assign(element.style, style)", style)
    panel = page.get_by_role("tabpanel")
    assert await panel.evaluate(
        """(one) => one.scrollHeight > one.clientHeight
          && one.getBoundingClientRect().bottom <= element.getBoundingClientRect().bottom
          && element.getBoundingClientRect().height === 300"""
    )
    await rows(page).nth(0).focus()
    await page.keyboard.press("e")
    await expect(page.locator("[part=snack]")).to_contain_text("It was refused.")
    await expect(page.locator("[part=snack]")).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("width", [318, 200])
async def test_all_tabs_can_be_reached_in_a_narrow_list(stage: Stage, width: int) -> None:
    page = await stage(inbox("many(500)"))
    await page.evaluate("(width) => { element.style.width = `${width}px`; }", width)
    await expect(page.get_by_role("tab", name="Unread")).to_have_text("Unread500")
    tabs = page.get_by_role("tablist")
    overflow = await tabs.evaluate(
        "(one) => [one.scrollWidth - one.clientWidth, one.scrollHeight - one.clientHeight]"
    )
    assert overflow == [0, 0] if width > 300 else overflow[0] > 0 and overflow[1] == 0
    await page.get_by_role("tab", name="Archived").click()
    await expect(page.get_by_role("tab", name="Archived")).to_be_in_viewport(ratio=0.98)


async def test_a_client_stopped_before_its_first_read_shows_no_placeholder_rows(stage: Stage) -> None:
    page = await stage(inbox("[]", "{ epoch: null, state: 'connecting' }"))
    bones = page.locator("notification-inbox .bone")
    await expect(bones).to_have_count(4)
    await page.evaluate("client.become('stopped', { problem: { code: 'api_key', detail: 'A key.' } })")
    await expect(page.locator("notification-inbox")).to_contain_text("A key.")
    await expect(bones).to_have_count(0)
    await expect(page.locator("notification-inbox")).not_to_contain_text("Loading")


async def test_a_failed_load_can_be_retried(stage: Stage) -> None:
    page = await stage(inbox("many(3, () => ({ archived_at: '2026-11-20T00:00:00Z' }))", "{ refuse: true }"))
    await page.get_by_role("tab", name="Archived").click()
    await expect(page.get_by_role("alert")).to_contain_text("could not be loaded")
    await page.evaluate("client.refuse = false")
    await button(page, "Try again").click()
    await titles(page, "Title 3", "Title 2", "Title 1")
    await page.evaluate("client.refuse = true")
    await page.get_by_role("tab", name="Unread").click()
    await expect(page.get_by_role("alert")).to_be_visible()
    await page.evaluate("client.refuse = false; client.become('live')")
    await expect(page.locator("notification-inbox")).to_contain_text("Nothing unread")


async def test_the_next_retry_is_counted_down_and_can_be_started_now(stage: Stage) -> None:
    page = await stage(clock=True)
    await page.clock.pause_at("2030-01-01T00:00:00Z")
    await page.evaluate(inbox("many(1)", "{ state: 'offline', retryAt: Date.now() + 12_000 }"))
    banner = page.locator(".banner")
    await expect(banner).to_contain_text("Trying again in 12 sec.")
    await page.clock.run_for(4_000)
    await expect(banner).to_contain_text("Trying again in 8 sec.")
    # A count-down that was in a live region would be read out each second.
    assert (
        await banner.get_by_role("status").inner_text()
        == "There is no connection. Nothing sent meanwhile is lost."
    )
    await button(page, "Try now").click()
    assert await calls(page, "retry") == [["retry"]]
    await page.evaluate("client.become('live', { retryAt: null })")
    await expect(banner).to_be_hidden()


async def test_an_inbox_shows_arriving_items_and_a_reset_reloads_it(stage: Stage) -> None:
    page = await stage(inbox("[]"))
    await page.evaluate("client.arrive(item(1)); client.arrive(item(3)); client.arrive(item(2))")
    await titles(page, "Title 3", "Title 2", "Title 1")
    await page.evaluate("client.reset([item(7), item(8)])")
    await titles(page, "Title 8", "Title 7")
    await page.evaluate("client.all = []; client.become('signedout')")
    await expect(page.locator("notification-inbox")).to_contain_text("You are signed out")


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("undefined", ["<notification-bell> has no client: set its property client."]),
        (
            "new FakeClient([], { state: 'idle', epoch: null })",
            ["the client was never started: call client.start()."],
        ),
        ("new FakeClient([], { state: 'connecting', epoch: null })", []),
        ("new FakeClient(many(1), { state: 'idle' })", []),
        ("null", []),
    ],
)
async def test_an_element_without_a_started_client_warns_once_in_the_console(
    stage: Stage, client: str, expected: list[str]
) -> None:
    page = await stage(clock=True)
    said: list[str] = []
    page.on("console", lambda one: said.append(one.text) if one.type == "warning" else None)
    await page.evaluate(
        f"() => {{ show('notification-bell', {client}); show('notification-bell', window.client); }}"
    )
    await page.clock.run_for(3_000)
    await page.evaluate(
        "document.querySelectorAll('notification-bell').forEach((one) => document.body.append(one))"
    )
    await page.clock.run_for(3_000)
    assert said == [f"Notifications: {text}" for text in expected]


async def test_an_element_given_something_else_than_a_client_says_so_and_shows_no_client(
    stage: Stage,
) -> None:
    page = await stage(before="console.error = (text) => { window.said = [...window.said ?? [], text]; };")
    await page.evaluate("() => show('notification-bell', { getToken() {} })")
    text = (
        "Notifications: the client of <notification-bell> is no NotificationClient: "
        "set it to new NotificationClient({ getToken })."
    )
    assert await page.evaluate("[said, element.client]") == [[text], None]
    await page.evaluate("element.client = window.client = new FakeClient(many(2))")
    await expect(page.get_by_role("button", name="Notifications, 2 new")).to_be_visible()


async def test_a_client_set_and_started_within_a_moment_causes_no_warning(stage: Stage) -> None:
    page = await stage(clock=True)
    said: list[str] = []
    page.on("console", lambda one: said.append(one.text))
    await page.evaluate("() => show('notification-inbox', undefined)")
    await page.clock.run_for(1_000)
    await page.evaluate("element.client = window.client = new FakeClient([], { state: 'idle', epoch: null })")
    await page.clock.run_for(1_000)
    await page.evaluate("client.become('connecting')")
    await page.clock.run_for(5_000)
    assert said == []


async def test_a_new_client_replaces_the_first_one(stage: Stage) -> None:
    page = await stage(inbox("many(2)"))
    await page.evaluate("window.first = client; element.client = window.client = new FakeClient([item(9)])")
    await titles(page, "Title 9")
    await page.evaluate("first.arrive(item(5)); client.arrive(item(10))")
    await titles(page, "Title 10", "Title 9")
    await page.evaluate(
        "element.remove(); client.arrive(item(11)); document.querySelector('main').append(element)"
    )
    await titles(page, "Title 11", "Title 10", "Title 9")


async def test_properties_set_before_the_element_is_defined_are_kept(stage: Stage) -> None:
    page = await stage(
        """() => {
          class Late extends customElements.get('notification-inbox') {}
          const element = document.createElement('late-inbox');
          element.client = new FakeClient(many(1));
          element.texts = { notifications: 'Neuigkeiten' };
          document.querySelector('main').append(element);
          customElements.define('late-inbox', Late);
        }"""
    )
    await expect(page.locator("late-inbox h2")).to_have_text("Neuigkeiten")
    await expect(page.locator("late-inbox article")).to_have_count(1)


# --- accessibility ------------------------------------------------------------------------------------------

BELL = """() => show('notification-bell',
  new FakeClient(many(12, (n) => ({ category: n % 2 ? 'ci' : 'default' }))))"""
TOASTS = """() => {
  show('notification-toasts', new FakeClient());
  const actions = [{ id: 'no', label: 'No', style: 'danger' }, { id: 'say', label: 'Say', reply: true }];
  for (const [index, priority] of ['normal', 'high', 'urgent', 'normal'].entries()) {
    client.arrive(item(index + 1, { priority, actions, body: 'A body.', category: 'ci', url: '/x' }));
  }
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_no_violation_in_any_state(stage: Stage, scheme: str) -> None:
    page = await stage(color_scheme=scheme, reduced_motion="reduce", bypass_csp=True)
    scripts = {name: script for name, (script, _) in STATES.items()} | {"bell": BELL, "toasts": TOASTS}
    found = {}
    for name, script in scripts.items():
        await page.evaluate(script)
        if name == "bell":
            await button(page, "Notifications, 12 new").click()
            await expect(page.get_by_role("dialog")).to_be_visible()
        if name == "list":
            await button(page, "Archive: Title 30").click()
            await expect(button(page, "Undo")).to_be_visible()
        found[name] = await violations(page)
        await page.evaluate("element.remove()")
    assert found == {name: [] for name in scripts}


async def test_the_bell_and_the_inbox_can_be_used_with_the_keyboard_alone(stage: Stage) -> None:
    page = await stage(BELL)
    press = page.keyboard.press
    await page.locator("#before").focus()
    await press("Tab")
    await press("Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_be_focused()
    await expect(button(page, "Notifications")).to_have_attribute("aria-expanded", "true")
    focused = """() => {
      const inbox = document.activeElement.shadowRoot.activeElement;
      return inbox.shadowRoot.activeElement.getAttribute('data-tab');
    }"""
    for _ in range(4):
        await press("Tab")
    assert await page.evaluate(focused) == "all"
    await press("ArrowRight")
    assert await page.evaluate(focused) == "unread"
    await press("ArrowLeft")
    # The list is drawn anew, and one of its rows is where the Tab key goes.
    await expect(rows(page)).to_have_count(12)
    await expect(rows(page).nth(0)).to_have_attribute("tabindex", "0")
    await press("Tab")
    await press("Tab")
    await expect(rows(page).nth(0)).to_be_focused()
    await press("ArrowDown")
    await expect(rows(page).nth(1)).to_be_focused()
    await press("End")
    await expect(rows(page).nth(11)).to_be_focused()
    await press("Home")
    await press("Enter")
    await until(lambda: calls(page, "read"), "Enter has opened it")
    assert await calls(page, "read") == [["read", "id-12"]]
    await press("Delete")
    await press("Delete")
    await expect(rows(page)).to_have_count(11)
    await expect(rows(page).nth(0)).to_be_focused()
    await press("Tab")
    await expect(button(page, "Mark read: Title 11")).to_be_focused()
    await press("Tab")
    await press("Enter")
    await expect(rows(page)).to_have_count(10)
    await press("Escape")
    await expect(dialog).to_be_hidden()
    await expect(button(page, "Notifications")).to_be_focused()


async def test_only_one_row_is_a_tab_stop(stage: Stage) -> None:
    page = await stage(inbox("many(30)"))
    await expect(rows(page)).to_have_count(30)
    script = (
        "() => [...element.shadowRoot.querySelectorAll('article, article *')]"
        ".filter((one) => one.tabIndex === 0 && one.checkVisibility()).length"
    )

    async def reached() -> bool:
        return bool(await page.evaluate(script) == 5)

    await until(reached, "one row and its four buttons can be reached")
    await rows(page).nth(5).click()
    await until(reached, "another row and its four buttons can be reached")
    await expect(rows(page).nth(5)).to_have_attribute("aria-posinset", "6")
    await expect(rows(page).nth(5)).to_have_attribute("aria-setsize", "30")


async def test_reduced_motion_disables_animations(stage: Stage) -> None:
    moving = "() => element.shadowRoot.getAnimations().length"
    for motion, expected in (("no-preference", True), ("reduce", False)):
        page = await stage(TOASTS, reduced_motion=motion)
        await expect(page.locator("notification-toasts [part=toast]")).to_have_count(3)
        assert (await page.evaluate(moving) > 0) is expected


async def test_buttons_are_large_enough_to_press(stage: Stage) -> None:
    for touch, least in ((False, 24), (True, 44)):
        page = await stage(inbox("many(1)"), has_touch=touch, is_mobile=touch)
        await rows(page).hover()
        small = await page.evaluate(
            """(least) => [...element.shadowRoot.querySelectorAll('button')]
              .filter((one) => one.checkVisibility())
              .map((one) => [one.title || one.textContent, one.getBoundingClientRect()])
              .filter(([, box]) => box.height < least || box.width < 24).map(([name]) => name)""",
            least - 2,
        )
        assert small == []


# --- languages ----------------------------------------------------------------------------------------------


async def test_a_right_to_left_page_is_mirrored(stage: Stage) -> None:
    page = await stage("() => { document.documentElement.dir = 'rtl'; }")
    await page.evaluate(inbox("many(2)"))
    glyph, time = rows(page).first.locator(".glyph"), rows(page).first.locator("time")
    left, right = await time.bounding_box(), await glyph.bounding_box()
    assert left is not None
    assert right is not None
    assert left["x"] < right["x"]
    await page.get_by_role("tab", name="All").focus()
    await page.keyboard.press("ArrowLeft")
    await expect(page.get_by_role("tab", name="Unread")).to_be_focused()
    await page.evaluate("element.remove()")
    await page.evaluate(BELL)
    await button(page, "Notifications, 12 new").click()
    popover, bell = (
        await page.get_by_role("dialog").bounding_box(),
        await button(page, "Notifications").bounding_box(),
    )
    assert popover is not None
    assert bell is not None
    assert popover["x"] + popover["width"] <= (page.viewport_size or {"width": 0})["width"]


async def test_numbers_times_and_plurals_follow_the_locale(stage: Stage) -> None:
    page = await stage()
    said = await page.evaluate(
        """async () => {
          const { Words } = await import('/sdk/texts.js');
          const polish = { readNow: { one: '{count} powiadomienie', few: '{count} powiadomienia',
            many: '{count} powiadomień', other: '{count} powiadomienia' } };
          const words = new Words('pl', polish);
          const german = new Words('de');
          return [
            ...[1, 3, 5, 12345].map((count) => words.say('readNow', { count })),
            german.number(12345.5), german.ago(Date.now() - 3 * 3_600_000), german.badge(1234, 999),
            new Words('ar-EG').number(12), new Words('not a locale').number(1234),
            new Words('en').say('failed', { detail: '{count} $& <b>' }),
          ];
        }"""
    )
    assert said == [
        *("1 powiadomienie", "3 powiadomienia", "5 powiadomień", "12\u00a0345 powiadomień"),
        *("12.345,5", "vor 3 Std.", "999+", "١٢", "1,234", "That did not work: {count} $& <b>"),
    ]


async def test_the_locale_follows_the_attribute_or_the_page_and_texts_can_be_replaced(
    stage: Stage,
) -> None:
    page = await stage("() => { document.documentElement.lang = 'de'; }")
    await page.evaluate(inbox("[item(1, { age: 180 })]"))
    await expect(rows(page).locator("time")).to_have_text("vor 3 Std.")
    await page.evaluate("element.setAttribute('locale', 'fr')")
    await expect(rows(page).locator("time")).to_have_text("il y a 3 h")
    await page.evaluate("element.texts = { notifications: 'Nouveautés', markAllRead: 'Tout lire' }")
    await expect(page.locator("notification-inbox h2")).to_have_text("Nouveautés")
    await expect(button(page, "Tout lire")).to_be_visible()
    await expect(page.get_by_role("tab", name="Archived")).to_be_visible()
    await page.evaluate("element.remove(); document.querySelector('main').lang = 'es'")
    await page.evaluate("() => { show('notification-bell', new FakeClient([item(1, { age: 180 })])); }")
    await page.evaluate("element.open = true")
    await expect(rows(page).locator("time")).to_have_text("hace 3 h")


async def test_a_chosen_theme_overrides_the_system_theme(stage: Stage) -> None:
    page = await stage(inbox(), color_scheme="dark")
    ground = "getComputedStyle(element).backgroundColor"
    dark = await page.evaluate(ground)
    await page.evaluate("element.setAttribute('theme', 'light')")
    light = await page.evaluate(ground)
    assert (dark, light) == ("rgb(22, 24, 29)", "rgb(255, 255, 255)")
    await page.evaluate("element.style.setProperty('--notification-surface', 'rgb(1, 2, 3)')")
    assert await page.evaluate(ground) == "rgb(1, 2, 3)"


CONTRAST = """() => {
  const canvas = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d');
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((one) => one / 255);
    const [r, g, b] = parts.map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const contrast = (text, ground) => {
    const [high, low] = [light(text), light(ground)].sort((one, other) => other - one);
    return high / low;
  };
  const bell = document.querySelector('notification-bell').shadowRoot;
  const popover = getComputedStyle(bell.querySelector('.popover'));
  const inbox = getComputedStyle(document.querySelector('main > notification-inbox'));
  const ground = getComputedStyle(document.body).backgroundColor;
  return {
    bell: contrast(getComputedStyle(bell.querySelector('.bell')).color, ground),
    popover: contrast(popover.color, popover.backgroundColor),
    inbox: contrast(inbox.color, inbox.backgroundColor),
    isDark: light(inbox.backgroundColor) < 0.3, pageIsDark: light(ground) < 0.3,
  };
}"""
PAGES = {
    "light": "root.colorScheme = 'light'",
    "dark": "root.colorScheme = 'dark'",
    "follows the system": "root.colorScheme = 'light dark'",
    "has a switch": "root.colorScheme = 'dark'; await drawn(); root.colorScheme = 'light'",
    "is switched to dark": "root.colorScheme = 'light'; await drawn(); root.colorScheme = 'dark'",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", PAGES)
async def test_the_elements_follow_the_color_scheme_of_the_page_and_not_of_the_system(
    stage: Stage, kind: str, scheme: str
) -> None:
    page = await stage(color_scheme=scheme)
    await page.evaluate(
        """async () => {
          const root = document.documentElement.style;
          const drawn = () => new Promise((resolve) => { requestAnimationFrame(resolve); });
          for (const tag of ['notification-bell', 'notification-inbox']) show(tag, new FakeClient(many(3)));
          KIND;
        }""".replace("KIND", PAGES[kind])
    )
    is_dark = kind.endswith("dark") or (kind == "follows the system" and scheme == "dark")
    found = await page.evaluate(CONTRAST)
    assert found["isDark"] == found["pageIsDark"] == is_dark
    assert min(found[name] for name in ("bell", "popover", "inbox")) >= 4.5, found


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_bell_is_visible_on_a_dark_page_without_a_color_scheme(stage: Stage, scheme: str) -> None:
    page = await stage(BELL, color_scheme=scheme)
    await page.evaluate(
        """() => {
          document.documentElement.style.colorScheme = 'normal';
          Object.assign(document.body.style, { background: '#111', color: '#eee' });
          document.querySelector('main').append(document.createElement('notification-inbox'));
        }"""
    )
    found = await page.evaluate(CONTRAST)
    assert min(found[name] for name in ("bell", "popover", "inbox")) >= 4.5, found


async def test_an_element_follows_the_system_theme_if_configured(stage: Stage) -> None:
    page = await stage(inbox(), color_scheme="dark")
    await page.evaluate("document.documentElement.style.colorScheme = 'light'")
    ground = "getComputedStyle(element).backgroundColor"
    inherited = await page.evaluate(ground)
    await page.evaluate("element.setAttribute('theme', 'system')")
    assert (inherited, await page.evaluate(ground)) == ("rgb(255, 255, 255)", "rgb(22, 24, 29)")


# --- what is done with notifications ------------------------------------------------------------------------


async def test_a_click_marks_an_item_read_and_cancelling_the_event_prevents_navigation(stage: Stage) -> None:
    page = await stage(inbox("[item(1, { url: '/orders/7' }), item(2)]"))
    await page.evaluate(
        """() => document.addEventListener('notification-open', (event) => {
          event.preventDefault();
          (window.opened ??= []).push(event.detail.item.url);
        })"""
    )
    await rows(page).nth(1).click()
    await rows(page).nth(0).click()
    await page.get_by_role("link", name="Title 1").click()
    assert await page.evaluate("opened") == ["/orders/7", None, "/orders/7"]
    assert await calls(page, "read") == [["read", "id-1"], ["read", "id-2"]]
    assert len(page.context.pages) == 1


async def test_a_link_opens_in_a_tab_without_opener_or_referrer(stage: Stage) -> None:
    page = await stage(inbox("[item(1, { url: 'http://elsewhere.test/' })]"))
    await page.context.route("http://elsewhere.test/", lambda route: route.fulfill(body="Elsewhere"))
    async with page.context.expect_page() as opened:
        await rows(page).first.click()
    assert await (await opened.value).evaluate("[window.opener, document.referrer]") == [None, ""]


async def test_a_link_within_the_site_opens_in_the_same_tab(stage: Stage) -> None:
    page = await stage(inbox("[item(1, { url: '/?orders=7' }), item(2, { url: 'http://localhost/?runs' })]"))
    for number, address in ((1, "/?runs"), (2, "/?orders=7")):
        link = page.get_by_role("link", name=f"Title {3 - number}")
        assert await link.get_attribute("target") is None
        assert str(await link.get_attribute("href")).endswith(address)
    await rows(page).nth(1).click()
    await page.wait_for_url("**/?orders=7")
    assert len(page.context.pages) == 1


async def test_archiving_can_be_undone_and_deleting_takes_two_presses(stage: Stage) -> None:
    page = await stage(inbox())
    await button(page, "Archive: Title 2").click()
    await titles(page, "Title 3", "Title 1")
    await button(page, "Undo").click()
    await titles(page, "Title 3", "Title 2", "Title 1")
    await button(page, "Delete: Title 2").click()
    assert await calls(page, "delete") == []
    await button(page, "Press again to delete: Title 2").click()
    await titles(page, "Title 3", "Title 1")


async def test_undo_by_its_button_focuses_the_restored_row_or_the_list(stage: Stage) -> None:
    page = await stage(inbox("many(5)"))
    await rows(page).nth(2).focus()
    await page.keyboard.press("e")
    await titles(page, *[f"Title {number}" for number in (5, 4, 2, 1)])
    await button(page, "Undo").press("Enter")
    await titles(page, *[f"Title {number}" for number in (5, 4, 3, 2, 1)])
    await expect(page.locator("[data-id=id-3]")).to_be_focused()
    # Nobody is taken from where they have gone meanwhile.
    await page.keyboard.press("e")
    await page.evaluate(
        """() => {
          const { archive } = client;
          client.archive = async (...all) => {
            await new Promise((go) => { window.go = go; });
            return archive.apply(client, all);
          };
        }"""
    )
    await button(page, "Undo").press("Enter")
    await button(page, "Mark all read").focus()
    await page.evaluate("go()")
    await expect(page.locator("[data-id=id-3]")).to_be_visible()
    await expect(button(page, "Mark all read")).to_be_focused()
    await page.keyboard.press("Enter")
    await button(page, "Undo").press("Enter")
    await expect(page.locator("notification-inbox article:focus")).to_have_count(1)


async def test_undo_of_an_earlier_command_is_hidden_while_a_command_is_in_progress(stage: Stage) -> None:
    page = await stage(inbox("many(3)"))
    await button(page, "Archive: Title 2").click()
    await expect(button(page, "Undo")).to_be_visible()
    await page.evaluate("void (client.archive = client.read = () => new Promise(() => {}))")
    await button(page, "Archive: Title 1").click()
    await expect(button(page, "Undo")).to_have_count(0)
    await page.evaluate("delete client.archive")
    await button(page, "Archive: Title 3").click()
    await expect(button(page, "Undo")).to_be_visible()
    await button(page, "Mark all read").click()
    await expect(button(page, "Undo")).to_have_count(0)


async def test_a_refused_command_shows_the_reason(stage: Stage) -> None:
    page = await stage(inbox("many(1)", "{ refuse: true }"))
    await button(page, "Archive: Title 1").click()
    await expect(
        page.get_by_role("status").filter(has_text="That did not work: It was refused.")
    ).to_be_visible()
    await titles(page, "Title 1")


async def test_undo_of_mark_all_read_restores_loaded_and_unloaded_items(
    stage: Stage,
) -> None:
    page = await stage(inbox("many(420, (n) => ({ read_at: n % 2 ? null : '2026-11-20T00:00:00Z' }))"))
    await button(page, "Mark all read").click()
    await expect(page.get_by_text("210 notifications marked read")).to_be_visible()
    assert await page.evaluate("client.unread") == 0
    await button(page, "Undo").click()

    async def back() -> bool:
        return bool(await page.evaluate("client.unread") == 210)

    await until(back, "the same ones are unread again")
    assert await page.evaluate(
        "client.all.every((one) => Boolean(one.read_at) === (one.created_seq % 2 === 0))"
    )


async def test_tabs_and_categories_follow_changes_of_items(stage: Stage) -> None:
    page = await stage(inbox("many(4, (n) => ({ category: n % 2 ? 'ci' : 'orders' }))"))
    await page.get_by_role("tab", name="Unread").click()
    await titles(page, "Title 4", "Title 3", "Title 2", "Title 1")
    await page.get_by_label("Category").select_option("ci")
    await titles(page, "Title 3", "Title 1")
    await page.evaluate(
        "client.arrive(item(5, { category: 'ci' })); client.arrive(item(6, { category: 'orders' }))"
    )
    await titles(page, "Title 5", "Title 3", "Title 1")
    await page.evaluate("client.read('id-3')")
    await titles(page, "Title 5", "Title 1")
    # Of many that are read at once, the client names only those that it holds.
    await page.evaluate(
        "client.tell('items', { added: [], changed: [], removed: [], reset: false, readUpTo: 4 })"
    )
    await titles(page, "Title 5")
    await button(page, "Archive: Title 5").click()
    await expect(page.locator("notification-inbox")).to_contain_text("Nothing in CI")
    await page.get_by_role("tab", name="Archived").click()
    await titles(page, "Title 5")
    await button(page, "Move to inbox: Title 5").click()
    await expect(page.locator("notification-inbox")).to_contain_text("Nothing in CI")


async def test_an_empty_category_says_so_and_offers_all_categories_of_its_tab(stage: Stage) -> None:
    page = await stage(
        inbox(
            "many(3, (n) => ({ category: ['default', 'ci', 'orders'][n % 3],"
            " archived_at: n === 1 ? new Date().toISOString() : null }))"
        )
    )
    said = page.locator("notification-inbox .state")
    for tab, label, found in (
        ("Archived", "Orders", ["Title 1"]),
        ("Unread", "CI", ["Title 3", "Title 2"]),
    ):
        await page.get_by_role("tab", name=tab).click()
        await titles(page, *found)
        await page.get_by_label("Category").select_option(label)
        await expect(said).to_have_text(f"Nothing in {label}Show all categories")
        await button(page, "Show all categories").click()
        await titles(page, *found)
        await expect(page.get_by_label("Category")).to_have_value("")
        await expect(page.get_by_role("tab", name=tab)).to_be_focused()


async def test_mark_all_read_marks_the_chosen_category_and_undo_restores_it(stage: Stage) -> None:
    page = await stage(inbox("many(700, (n) => ({ category: n % 2 ? 'ci' : 'orders' }))"))
    await page.get_by_label("Category").select_option("ci")
    await button(page, "Mark all read").click()
    await expect(page.get_by_text("350 notifications marked read")).to_be_visible()
    unread = "client.all.filter((one) => !one.read_at).map(({ category }) => category)"
    assert set(await page.evaluate(unread)) == {"orders"}
    await button(page, "Undo").click()
    await until(lambda: page.evaluate("client.unread === 700"), "those are unread again")
    # What is archived is not in the inbox, which the button is about.
    await page.get_by_role("tab", name="Archived").click()
    await expect(button(page, "Mark all read")).to_be_disabled()


# --- a press lands on what was pressed ----------------------------------------------------------------------

MANY_LINES = "{ body: 'A long line of words that goes on. '.repeat(30) }"
FINGER = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def long_ones(number: int = 4, fields: str = "{}") -> str:
    return inbox(f"many({number}, (n) => ({{ ...{MANY_LINES}, ...{fields} }}))")


async def place(locator: Locator) -> tuple[float, float]:
    box = await locator.bounding_box()
    assert box is not None
    return box["x"], box["y"]


async def point_at(page: Page, locator: Locator) -> None:
    """Move the mouse to the middle of an element, as it stands."""
    box = await locator.bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


async def test_a_mouse_press_moves_no_rows_and_runs_the_pressed_action(stage: Stage) -> None:
    page = await stage(long_ones(), viewport={"width": 900, "height": 1200})
    await page.evaluate("element.style.height = '1000px'")
    await rows(page).nth(0).click()
    await point_at(page, button(page, "Archive: Title 2"))
    before = await place(rows(page).nth(2))
    await page.mouse.down()
    assert await place(rows(page).nth(2)) == before
    await page.mouse.up()
    assert await calls(page, "archive", "read") == [["read", "id-4"], ["archive", "id-2", True]]


@pytest.mark.parametrize("pressed", ["Archive", "Delete", "Mark read"])
async def test_the_first_tap_on_an_action_runs_it_and_opens_no_link(stage: Stage, pressed: str) -> None:
    page = await stage(long_ones(4, "{ url: '/orders/' + n }"), **FINGER)
    await button(page, "More actions: Title 3").tap()
    await button(page, f"{pressed}: Title 3").tap()
    asked = await calls(page, "archive", "read", "delete")
    expected = {"Archive": [["archive", "id-3", True]], "Delete": [], "Mark read": [["read", "id-3"]]}
    assert asked == expected[pressed]
    assert len(page.context.pages) == 1
    if pressed == "Delete":
        await button(page, "Press again to delete: Title 3").tap()
        assert await calls(page, "archive", "read", "delete") == [["delete", "id-3"]]


async def test_a_click_expands_a_long_body_and_it_stays_expanded_without_the_focus(stage: Stage) -> None:
    page = await stage(
        inbox(f"[item(1, {MANY_LINES}), item(2, {MANY_LINES}), item(3, {{ body: 'Short.' }})]"),
        viewport={"width": 600, "height": 900},
    )
    bodies = page.locator("notification-inbox [part=body]")
    tall = "(body) => body.clientHeight > 150"
    await expect(button(page, "Show more: Title 2")).to_be_visible()
    assert await button(page, "Show more: Title 3").count() == 0
    # The focus alone unfolds nothing.
    await rows(page).nth(1).focus()
    assert [await one.evaluate(tall) for one in await bodies.all()] == [False, False, False]
    await button(page, "Show more: Title 2").click()
    assert await calls(page, "read") == []
    await rows(page).nth(2).focus()
    await page.keyboard.press("Enter")
    await rows(page).nth(0).focus()
    assert [await one.evaluate(tall) for one in await bodies.all()] == [False, True, True]
    await page.get_by_role("tab", name="Unread").click()
    await page.get_by_role("tab", name="All").click()
    await expect(button(page, "Show less: Title 2")).to_have_attribute("aria-expanded", "true")
    await button(page, "Show less: Title 2").press("Enter")
    assert [await one.evaluate(tall) for one in await bodies.all()] == [False, False, True]


@pytest.mark.parametrize("height", ["500px", "auto"])
async def test_rows_do_not_move_under_a_pointer_and_a_button_announces_new_items(
    stage: Stage, height: str
) -> None:
    page = await stage(inbox("many(5)"))
    await page.evaluate("(height) => { element.style.height = height; }", height)
    third = page.locator("[data-id=id-3]")
    await point_at(page, third)
    before = await place(third)
    await page.evaluate("[6, 7, 8].forEach((number) => client.arrive(item(number)))")
    await expect(rows(page)).to_have_count(8)
    assert await place(third) == before
    # What is removed elsewhere moves nothing either: above it, or itself.
    await page.evaluate("client.archive('id-5')")
    await expect(rows(page)).to_have_count(7)
    assert await place(third) == before
    second = await place(page.locator("[data-id=id-2]"))
    await page.evaluate("client.archive('id-3')")
    await expect(rows(page)).to_have_count(6)
    assert await place(page.locator("[data-id=id-2]")) == second
    assert await calls(page, "seen") == [["seen", 5]]
    await button(page, "3 new").press("Enter")
    await expect(button(page, "3 new")).to_be_hidden()
    await expect(page.locator("[data-id=id-8]")).to_be_focused()
    top = await page.evaluate(
        "() => element.shadowRoot.querySelector('[part=day]').getBoundingClientRect().bottom"
    )
    assert (await place(page.locator("[data-id=id-8]")))[1] == top
    assert await calls(page, "seen") == [["seen", 5], ["seen", 10]]


GAP = """() => element.shadowRoot.querySelector('[role=feed]').getBoundingClientRect().top
  - element.shadowRoot.querySelector('[role=tabpanel]').getBoundingClientRect().top"""
"""Returns how many pixels of nothing stand above the list."""


async def test_a_removed_row_leaves_no_gap_and_undo_restores_it_in_view_and_not_as_new(
    stage: Stage,
) -> None:
    page = await stage(inbox("many(5)"))
    await rows(page).nth(0).focus()
    await point_at(page, page.locator("[data-id=id-3]"))
    await page.keyboard.press("e")
    await titles(page, *[f"Title {number}" for number in (4, 3, 2, 1)])
    assert await page.evaluate(GAP) == 0
    await page.keyboard.press("z")
    await titles(page, *[f"Title {number}" for number in (5, 4, 3, 2, 1)])
    assert await page.evaluate(GAP) == 0
    await expect(page.locator("notification-inbox .newer")).to_be_hidden()


async def test_only_new_items_out_of_view_are_counted(stage: Stage) -> None:
    page = await stage(inbox("many(30)"))
    await page.evaluate("element.style.height = '500px'")
    newer = page.locator("notification-inbox .newer")
    await rows(page).nth(0).focus()
    await page.keyboard.press("e")
    await expect(rows(page)).to_have_count(29)
    await page.mouse.move(1, 1)
    await rows(page).nth(15).scroll_into_view_if_needed()
    await page.keyboard.press("z")
    await expect(rows(page)).to_have_count(30)
    await expect(newer).to_be_hidden()
    await page.evaluate("client.arrive(item(31)); client.arrive(item(32))")
    await expect(newer).to_have_text("2 new")
    await page.evaluate("client.archive('id-31')")
    await expect(newer).to_have_text("1 new")
    await page.evaluate("client.archive('id-32')")
    await expect(newer).to_be_hidden()


async def test_items_that_arrive_while_the_list_is_hidden_are_not_announced_but_seen_once_it_is_shown(
    stage: Stage,
) -> None:
    page = await stage(inbox("many(3)"))
    await page.evaluate("element.style.setProperty('--notification-scroll-inset', '60px')")
    await until(lambda: calls(page, "seen"), "what is in view is seen")
    await page.evaluate("document.querySelector('main').hidden = true")
    await page.evaluate("client.arrive(item(4)); client.arrive(item(5))")
    assert await calls(page, "seen") == [["seen", 3]]
    await page.evaluate("document.querySelector('main').hidden = false")
    await until(lambda: page.evaluate("client.seenUpTo === 5"), "they are seen now")
    await expect(page.locator("notification-inbox .newer")).to_be_hidden()


async def test_items_that_arrive_while_the_list_is_hidden_for_an_instant_are_seen(stage: Stage) -> None:
    page = await stage(inbox("many(3)"))
    await until(lambda: calls(page, "seen"), "what is in view is seen")
    await page.evaluate(
        "const main = document.querySelector('main');"
        "main.hidden = true; client.arrive(item(4)); client.arrive(item(5)); main.hidden = false"
    )
    await until(lambda: page.evaluate("client.seenUpTo === 5"), "they are seen now")


async def test_items_that_arrive_while_the_bell_is_closed_are_not_announced_in_its_list(stage: Stage) -> None:
    page = await stage(BELL)
    await page.evaluate("element.style.setProperty('--notification-scroll-inset', '60px')")
    await page.evaluate("element.open = true")
    await until(lambda: page.evaluate("client.seenUpTo === 12"), "what is in view is seen")
    await page.evaluate("element.open = false; client.arrive(item(13))")
    await expect(page.locator("[part=badge]")).to_have_text("1")
    await page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    await page.evaluate("element.open = true")
    await until(lambda: page.evaluate("client.seenUpTo === 13"), "it is seen")
    await expect(page.locator("notification-inbox .newer")).to_be_hidden()


async def test_new_items_are_shown_when_the_pointer_leaves_or_rests(stage: Stage) -> None:
    page = await stage(inbox("many(5)"), clock=True)
    third = page.locator("[data-id=id-3]")
    for leaves in (True, False):
        await point_at(page, third)
        before = await place(third)
        await page.evaluate("client.arrive(item(client.seq + 1))")
        await expect(page.get_by_role("button", name="1 new", exact=True)).to_be_visible()
        assert await place(third) == before
        await (page.mouse.move(1, 1) if leaves else page.clock.run_for(5_000))
        await expect(page.get_by_role("button", name="1 new", exact=True)).to_be_hidden()
        assert (await place(third))[1] > before[1]


async def test_a_row_pressed_by_a_finger_does_not_move(stage: Stage) -> None:
    page = await stage(inbox("many(5)"), **FINGER)
    third = page.locator("[data-id=id-3]")
    x, y = await place(third)
    session = await page.context.new_cdp_session(page)
    points = [{"x": x + 100, "y": y + 20}]
    await session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": points})
    await page.evaluate("client.arrive(item(6))")
    await expect(rows(page)).to_have_count(6)
    assert await place(third) == (x, y)
    await session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    await expect(button(page, "1 new")).to_be_hidden()
    assert await calls(page, "read") == [["read", "id-3"]]


async def test_two_quick_clicks_archive_one_notification(stage: Stage) -> None:
    page = await stage(inbox("many(5)"))
    await button(page, "Archive: Title 4").dblclick()
    await titles(page, "Title 5", "Title 3", "Title 2", "Title 1")
    assert await calls(page, "archive") == [["archive", "id-4", True]]


@pytest.mark.parametrize("refuse", [False, True], ids=["undo", "refusal"])
async def test_the_result_of_a_command_is_visible_in_a_list_longer_than_the_window(
    stage: Stage, refuse: bool
) -> None:
    page = await stage(inbox("many(40)", f"{{ refuse: {str(refuse).lower()} }}"))
    await page.evaluate("element.style.height = 'auto'")
    await rows(page).nth(15).scroll_into_view_if_needed()
    await button(page, "Archive: Title 25").click()
    said = page.locator("[part=snack]")
    await expect(said).to_contain_text("It was refused." if refuse else "Archived")
    await expect(said).to_be_in_viewport(ratio=1)
    if not refuse:
        await button(page, "Undo").click()
        await expect(rows(page)).to_have_count(40)


async def test_an_item_read_on_the_unread_tab_stays_until_the_tab_is_left(
    stage: Stage,
) -> None:
    page = await stage(inbox("many(3)"))
    await page.get_by_role("tab", name="Unread").click()
    await rows(page).nth(1).click()
    await expect(button(page, "Mark unread: Title 2")).to_be_attached()
    await titles(page, "Title 3", "Title 2", "Title 1")
    await button(page, "Mark read: Title 3").click()
    await page.keyboard.press("u")
    await page.keyboard.press("u")
    await expect(button(page, "Mark unread: Title 3")).to_be_attached()
    await titles(page, "Title 3", "Title 2", "Title 1")
    # What is marked read elsewhere goes.
    await page.evaluate("client.arrive(item(4)); client.read('id-4')")
    await titles(page, "Title 3", "Title 2", "Title 1")
    await page.get_by_role("tab", name="All").click()
    await page.get_by_role("tab", name="Unread").click()
    await titles(page, "Title 1")


async def test_a_thousand_notifications_cost_as_much_as_one_screenful(
    stage: Stage, record_property: Callable[[str, object], None]
) -> None:
    page = await stage(
        """() => {
          window.long = [];
          const note = (list) => long.push(...list.getEntries().map((one) => one.duration));
          new PerformanceObserver(note).observe({ type: 'longtask' });
        }"""
    )
    await page.evaluate(inbox("many(1000, (n) => ({ body: 'A body of some length. '.repeat(n % 9) }))"))

    async def scrolled_to_the_end() -> bool:
        await page.evaluate("element.shadowRoot.querySelector('.panel').scrollTop = 1e9")
        return await rows(page).count() == 1000

    await until(scrolled_to_the_end, "all of them are here", within=60)
    # The browser lays out and paints those that are near the view; the others are skipped.
    drawn = await page.evaluate(
        """[...element.shadowRoot.querySelectorAll('article')]
          .filter((one) => one.firstChild.checkVisibility({ contentVisibilityAuto: true })).length"""
    )
    assert 0 < drawn < 60
    # What comes touches one row: the others are not made again, or painted anew.
    touched = await page.evaluate(
        """async () => {
          const list = element.shadowRoot.querySelector('[role=feed]');
          const changes = [];
          const kinds = { subtree: true, childList: true, characterData: true };
          new MutationObserver((those) => changes.push(...those)).observe(list, kinds);
          client.arrive(item(1001));
          await client.read('id-500');
          await new Promise(requestAnimationFrame);
          const rows = new Set(changes.map((one) => one.target.closest('article')).filter(Boolean));
          return [changes.filter((one) => one.target === list).length, rows.size];
        }"""
    )
    assert touched == [1, 1]
    record_property("long tasks in ms", await page.evaluate("long.map(Math.round)"))


# --- the bell -----------------------------------------------------------------------------------------------


async def test_the_bell_counts_unseen_items_and_opening_it_marks_them_seen(stage: Stage) -> None:
    page = await stage(BELL)
    badge = page.locator("notification-bell .badge")
    await expect(badge).to_have_text("12")
    await page.evaluate("client.seenUpTo = -1; for (let n = 20; n < 110; n += 1) client.arrive(item(n))")
    await expect(badge).to_have_text("99+")
    assert await calls(page, "seen") == []
    await button(page, "Notifications, 102 new").click()
    await expect(badge).to_be_hidden()
    assert await calls(page, "seen") == [["seen", 109]]
    await page.evaluate("client.arrive(item(200))")
    await until(lambda: page.evaluate("client.seenUpTo === 200"), "what comes while it is open is seen")
    await button(page, "Close").click()
    await page.evaluate("client.arrive(item(201))")
    await expect(badge).to_have_text("1")


async def test_the_unread_count_is_on_the_icon_and_optionally_in_the_title(
    stage: Stage,
) -> None:
    page = await stage(
        before="navigator.setAppBadge = async (count) => { (window.icon ??= []).push(count); };"
    )
    await page.evaluate("() => show('notification-bell', new FakeClient(many(2)))")
    await expect(page).to_have_title("App")
    await page.evaluate("element.setAttribute('count-in-title', '')")
    await expect(page).to_have_title("(2) App")
    await page.evaluate("document.title = 'Orders'; client.arrive(item(3))")
    await expect(page).to_have_title("(3) Orders")
    assert await page.evaluate("icon.at(-1)") == 3
    await page.evaluate("client.read({ upTo: 3 })")
    await expect(page).to_have_title("Orders")
    assert await page.evaluate("icon.at(-1)") == 0
    await page.evaluate("client.arrive(item(4)); element.remove()")
    await expect(page).to_have_title("Orders")


A_SYSTEM = """
  window.asked = 0;
  window.raised = [];
  window.Notification = class {
    static permission = 'default';
    static async requestPermission() { window.asked += 1; return (this.permission = 'granted'); }
    constructor(title, { body, tag }) { window.raised.push([title, body, tag]); window.last = this; }
    close() {}
  };
  let visibility = 'visible';
  Object.defineProperty(document, 'visibilityState', { get: () => visibility });
  window.look = (value) => { visibility = value; document.dispatchEvent(new Event('visibilitychange')); };
"""


async def test_system_notifications_need_a_click_and_appear_only_while_the_page_is_hidden(
    stage: Stage,
) -> None:
    page = await stage(BELL, before=A_SYSTEM)
    await page.evaluate("look('hidden'); client.arrive(item(20)); look('visible')")
    await button(page, "Notifications, 13 new").click()
    assert await page.evaluate("[asked, raised]") == [0, []]
    await button(page, "Turn on").click()
    await expect(page.get_by_text("Notifications on this device are on")).to_be_visible()
    assert await page.evaluate("asked") == 1
    await page.evaluate(
        "client.arrive(item(21)); look('hidden'); client.arrive(item(22, { body: '<b>x</b>' }))"
    )
    await page.evaluate(
        "client.arrive(item(23), { first: false }); client.arrive(item(24), { missed: true })"
    )
    assert await page.evaluate("raised") == [["Title 22", "<b>x</b>", "id-22"]]
    await page.evaluate("last.onclick()")
    assert ["read", "id-22"] in await calls(page, "read")
    await button(page, "Turn off").click()
    await page.evaluate("client.arrive(item(25))")
    assert await page.evaluate("raised.length") == 1


ANDROID = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 Chrome/142.0.0.0 Mobile Safari/537.36"
ILLEGAL = """
  let permission = 'default';
  window.Notification = class {
    static get permission() { return permission; }
    static async requestPermission() { return (permission = 'granted'); }
    constructor() { throw new TypeError('Illegal constructor.'); }
  };"""


@pytest.mark.parametrize(
    ("before", "options"),
    [(ILLEGAL, {}), (A_SYSTEM, {"user_agent": ANDROID})],
    ids=["throws", "Chrome on Android"],
)
async def test_system_notifications_that_need_a_service_worker_are_not_offered(
    stage: Stage, before: str, options: dict[str, str]
) -> None:
    page = await stage(BELL, before=before, **options)
    await button(page, "Notifications, 12 new").click()
    await expect(page.get_by_role("dialog")).to_be_visible()
    await expect(page.locator("notification-bell [part=settings]")).to_be_hidden()
    await page.evaluate("Notification.requestPermission().then(() => client.arrive(item(20)))")
    await expect(page.locator("notification-bell [part=settings]")).to_be_hidden()


async def test_the_settings_row_says_that_system_notifications_need_an_open_page(stage: Stage) -> None:
    page = await stage(BELL, before=A_SYSTEM)
    await button(page, "Notifications, 12 new").click()
    settings = page.locator("notification-bell [part=settings]")
    await expect(settings).to_contain_text("Get notifications on this device while this page is open")
    await button(page, "Turn on").click()
    await expect(settings).to_contain_text("Notifications on this device are on while this page is open")


# --- toasts -------------------------------------------------------------------------------------------------


async def toasts_at(stage: Stage, **attributes: str) -> Page:
    page = await stage(clock=True)
    await page.clock.pause_at("2030-01-01T00:00:00Z")
    await page.evaluate("(those) => { show('notification-toasts', new FakeClient(), those); }", attributes)
    return page


async def shown(page: Page, *titles: str) -> None:
    await expect(page.locator(".toast:not(.sum) .title")).to_have_text(list(titles))


async def test_a_toast_disappears_by_priority_and_an_urgent_toast_only_when_dismissed(
    stage: Stage,
) -> None:
    page = await toasts_at(stage)
    await page.evaluate(
        "for (const [n, priority] of ['low', 'normal', 'high', 'urgent'].entries())"
        " client.arrive(item(n, { priority }))"
    )
    await shown(page, "Title 1", "Title 2", "Title 3")
    await expect(page.locator("[role=alert]")).to_have_text("Urgent. Title 3")
    await expect(page.locator("[role=status]")).to_have_text("High priority. Title 2")
    await page.clock.run_for(6_100)
    await shown(page, "Title 2", "Title 3")
    await page.clock.run_for(6_100)
    await shown(page, "Title 3")
    await page.clock.run_for(600_000)
    await shown(page, "Title 3")
    await button(page, "Dismiss").click()
    await shown(page)
    # Dismissing is not reading.
    assert await calls(page, "read") == []


async def test_a_sound_plays_once_in_the_tab_that_shows_the_toast(stage: Stage) -> None:
    page = await toasts_at(stage, sound="/ding.ogg")
    await page.evaluate(
        """() => {
          window.played = [];
          window.Audio = class {
            paused = true;
            constructor(src) { this.src = src; window.player = this; }
            getAttribute() { return this.src; }
            async play() { this.paused = false; played.push(this.src); }
          };
        }"""
    )
    # Another tab shows it; it has no toast; and it has.
    await page.evaluate("client.arrive(item(1), { first: false })")
    await page.evaluate("client.arrive(item(2, { priority: 'low' }))")
    assert await page.evaluate("played") == []
    await page.evaluate("client.arrive(item(3)); client.arrive(item(4))")
    assert await page.evaluate("played") == ["/ding.ogg"]
    await page.evaluate("player.paused = true; client.arrive(item(5))")
    assert await page.evaluate("played.length") == 2
    # What was missed is told of in one line, and by one sound.
    await page.evaluate("player.paused = true; client.arrive(item(6), { missed: true })")
    await page.evaluate("client.arrive(item(7), { missed: true })")
    await page.clock.run_for(1_000)
    assert await page.evaluate("played.length") == 3
    await page.evaluate("player.paused = true; element.removeAttribute('sound'); client.arrive(item(8))")
    assert await page.evaluate("played.length") == 3


async def test_toasts_stay_while_hovered_or_focused(stage: Stage) -> None:
    page = await toasts_at(stage)
    await page.evaluate("client.arrive(item(1)); client.arrive(item(2))")
    await page.clock.run_for(5_000)
    await page.locator(".toast").first.hover()
    await page.clock.run_for(60_000)
    await shown(page, "Title 1", "Title 2")
    await page.locator("#before").focus()
    await page.mouse.move(0, 0)
    await page.locator(".toast button").first.focus()
    await page.clock.run_for(60_000)
    await shown(page, "Title 1", "Title 2")
    await page.keyboard.press("Escape")
    await shown(page, "Title 2")
    await expect(page.locator(".toast button")).to_be_focused()
    await page.keyboard.press("Escape")
    await shown(page)
    await expect(page.locator("#before")).to_be_focused()


async def test_only_one_tab_shows_toasts_and_missed_items_are_summarized(stage: Stage) -> None:
    page = await toasts_at(stage)
    await page.evaluate("client.arrive(item(1), { first: false })")
    await page.evaluate("for (let n = 2; n < 52; n += 1) client.arrive(item(n), { missed: true })")
    # One of low priority gets no toast. It has come all the same.
    await page.evaluate("client.arrive(item(52, { priority: 'low' }), { missed: true })")
    await page.clock.run_for(1_000)
    await shown(page)
    await expect(page.locator(".sum")).to_have_text("51 notifications while you were away")
    await page.clock.run_for(7_000)
    await expect(page.locator(".toast")).to_have_count(0)


async def test_missed_items_of_low_priority_get_no_summary(stage: Stage) -> None:
    page = await toasts_at(stage)
    await page.evaluate("client.arrive(item(1, { priority: 'low' }), { missed: true })")
    await page.clock.run_for(1_000)
    await expect(page.locator(".toast")).to_have_count(0)
    # Nor is it counted the next time.
    await page.evaluate("client.arrive(item(2), { missed: true })")
    await page.clock.run_for(1_000)
    await expect(page.locator(".sum")).to_have_text("1 notification while you were away")


LONG = "A title of two hundred characters, which is the most that there can be. ".ljust(200, "x")


@pytest.mark.parametrize("size", [(390, 844), (844, 390)], ids=["upright", "on its side"])
async def test_on_a_phone_one_toast_at_a_time_leaves_the_bell_within_reach(
    stage: Stage, size: tuple[int, int]
) -> None:
    width, height = size
    page = await stage(BELL, clock=True, viewport={"width": width, "height": height}, has_touch=True)
    await page.clock.pause_at("2030-01-01T00:00:00Z")
    await page.evaluate(
        """(title) => {
          element.style.cssText = 'position: fixed; inset: 8px 8px auto auto';
          show('notification-toasts', client);
          for (let n = 20; n < 23; n += 1) client.arrive(item(n, { title, body: title }));
          for (let n = 23; n < 25; n += 1) client.arrive(item(n, { title, body: title, priority: 'urgent' }));
        }""",
        LONG,
    )
    await expect(page.locator("[data-priority=urgent].toast")).to_have_count(1)
    await expect(page.locator(".toast:not(.sum)")).to_have_count(1)
    await expect(page.locator(".sum")).to_have_text("3 more notifications")
    await page.locator("notification-bell [part=bell]").tap()
    await expect(page.locator("notification-bell [part=popover]")).to_be_visible()


async def test_a_burst_shows_a_few_toasts_the_count_of_the_rest_and_an_urgent_toast(
    stage: Stage,
) -> None:
    page = await toasts_at(stage)
    await page.evaluate("for (let n = 1; n < 51; n += 1) client.arrive(item(n))")
    await shown(page, "Title 1", "Title 2", "Title 3")
    await expect(page.locator(".sum")).to_have_text("47 more notifications")
    await page.evaluate("client.arrive(item(51, { priority: 'urgent' }))")
    await shown(page, "Title 2", "Title 3", "Title 51")
    await page.evaluate("for (let n = 52; n < 56; n += 1) client.arrive(item(n, { priority: 'urgent' }))")
    await shown(page, "Title 51", "Title 52", "Title 53")
    await button(page, "Dismiss").first.click()
    await shown(page, "Title 52", "Title 53", "Title 54")
    # What is read elsewhere needs no toast any more.
    await page.evaluate("client.read(['id-52', 'id-53', 'id-55'])")
    await shown(page, "Title 54")


@pytest.mark.parametrize("how", ["click", "keyboard", "tap"])
async def test_the_count_of_further_toasts_opens_the_bell(stage: Stage, how: str) -> None:
    page = await stage(BELL, clock=True, has_touch=how == "tap")
    await page.clock.pause_at("2030-01-01T00:00:00Z")
    await page.evaluate("show('notification-toasts', client)")
    await page.evaluate("for (let n = 1; n < 8; n += 1) client.arrive(item(n))")
    opener = button(page, "4 more notifications")
    if how == "click":
        await opener.click()
    elif how == "tap":
        await opener.tap()
    else:
        await opener.focus()
        await page.keyboard.press("Enter")
    popover = page.locator("notification-bell [part=popover]")
    await expect(popover).to_be_visible()
    await expect(popover).to_be_focused()
    await expect(page.locator(".sum")).to_have_count(0)
    await page.keyboard.press("Escape")
    await expect(popover).to_be_hidden()
    await expect(page.locator("notification-bell [part=bell]")).to_be_focused()


async def test_the_summary_of_missed_items_opens_the_inbox_on_a_page_without_a_bell(stage: Stage) -> None:
    page = await toasts_at(stage)
    await page.evaluate(
        """() => {
          const far = document.createElement('div');
          far.style.height = '5000px';
          document.querySelector('main').append(far);
          const { client } = window;
          show('notification-inbox', null);
          show('notification-inbox', client);
        }"""
    )
    await page.evaluate("for (let n = 1; n < 4; n += 1) client.arrive(item(n), { missed: true })")
    await page.clock.run_for(1_000)
    await button(page, "3 notifications while you were away").click()
    await expect(page.locator("notification-inbox").last).to_be_in_viewport()
    assert await page.evaluate("document.activeElement === element")


async def test_a_summary_is_not_a_button_on_a_page_without_a_list(stage: Stage) -> None:
    page = await toasts_at(stage)
    await page.evaluate("for (let n = 1; n < 8; n += 1) client.arrive(item(n))")
    await expect(page.locator(".sum")).to_have_text("4 more notifications")
    await expect(page.locator(".sum [part=open]")).to_be_hidden()


async def test_the_number_and_the_priority_of_toasts_are_configurable(stage: Stage) -> None:
    page = await toasts_at(stage, **{"max": "1", "min-priority": "low"})
    await page.evaluate("client.arrive(item(1, { priority: 'low' })); client.arrive(item(2))")
    await shown(page, "Title 1")
    await page.locator(".toast .title").first.click()
    assert await calls(page, "read") == [["read", "id-1"]]
    await shown(page)


# --- hostile content ----------------------------------------------------------------------------------------

PAYLOADS = (
    "<script>harmed.push('script')</script>",
    "<img src=x onerror=\"harmed.push('img')\">",
    "<svg onload=\"harmed.push('svg')\">",
    "<svg><script>harmed.push('svg script')</script></svg>",
    "<iframe srcdoc=\"<script>parent.harmed.push('frame')</script>\"></iframe>",
    "<iframe src=javascript:parent.harmed.push(1)>",
    "<a href=\"javascript:harmed.push('a')\">x</a>",
    "<body onload=harmed.push(1)>",
    "<input autofocus onfocus=harmed.push(1)>",
    "<details open ontoggle=harmed.push(1)>",
    "<video><source onerror=harmed.push(1)></video>",
    "<math><mtext><table><mglyph><style><img src onerror=harmed.push(1)>",
    "<template><img src onerror=harmed.push(1)></template>",
    "<style>*{display:none}</style>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    '<meta http-equiv=refresh content="0;url=https://evil.example">',
    "<base href=https://evil.example/>",
    "<form action=https://evil.example><button>Sign in</button></form>",
    "<object data=https://evil.example></object>",
    "<embed src=https://evil.example>",
    '"><img src=x onerror=harmed.push(1)>',
    "' onmouseover='harmed.push(1)",
    "]]><script>harmed.push(1)</script>",
    "--><script>harmed.push(1)</script><!--",
    "</textarea></title></style></template><script>harmed.push(1)</script>",
    "&lt;script&gt;harmed.push(1)&lt;/script&gt;",
    "{{constructor.constructor('harmed.push(1)')()}} ${harmed.push(1)}",
    "javascript:harmed.push(1)",
    "data:text/html,<script>harmed.push(1)</script>",
    "\u202eevil\u202d \u0000\ufeff\u2028 é\u0301\u0301\u0301 👩‍👩‍👧",
)


async def test_thirty_hostile_texts_are_shown_as_text_and_none_is_run(stage: Stage) -> None:
    assert len(set(PAYLOADS)) == 30
    page = await stage("() => { window.parts = ['bdi', '[part=body]', '[part=category]']; }")
    await page.evaluate(
        """(payloads) => {
          const fields = (text) =>
            ({ title: text, body: text, category: text, url: text, data: { [text]: text } });
          const all = payloads.map((text, index) => item(index + 1, fields(text)));
          show('notification-inbox', new FakeClient(all), { 'show-data': '' });
          const toasts = show('notification-toasts', new FakeClient(), { max: '30', always: '' });
          for (const one of all) client.arrive(one);
          window.list = document.querySelector('notification-inbox').shadowRoot;
        }""",
        PAYLOADS,
    )
    await expect(page.locator(".toast")).to_have_count(30)
    said = await page.evaluate(
        """() => [...list.querySelectorAll('article')].reverse().map((row) => [
          ...parts.map((part) => row.querySelector(part).textContent), row.querySelector('a')?.href ?? null,
          JSON.parse(row.querySelector('pre').textContent),
        ])"""
    )
    # A text node keeps each of its characters.
    labels = await page.evaluate("(all) => all.map((one) => element.words.category(one))", list(PAYLOADS))
    assert said == [
        [text, text, label, None, {text: text}] for text, label in zip(PAYLOADS, labels, strict=True)
    ]
    toasts = await page.evaluate(
        "[...element.shadowRoot.querySelectorAll('.toast bdi')].map((one) => one.textContent)"
    )
    assert toasts == list(PAYLOADS)
    made = "script, img, iframe, style, link, meta, base, form, object, embed, video, input, math, template"
    for root in ("list", "element.shadowRoot"):
        assert await page.evaluate(f"{root}.querySelectorAll('{made}').length") == 0
    await page.locator(".toast").last.click()
    for row in await rows(page).all():
        await row.locator("summary").click()
    await rows(page).first.click()
    assert await page.evaluate("harmed") == []
    assert len(page.context.pages) == 1


# --- how a list reads, and what covers it -------------------------------------------------------------------


async def in_order(page: Page) -> list[str]:
    """Return the headings of days, and the titles, as they stand in the list."""
    found: list[str] = await page.evaluate(
        """() => [...element.shadowRoot.querySelector('[part=list]').children]
          .map((one) => one.row ? one.querySelector('bdi').textContent : `- ${one.textContent}`)"""
    )
    return found


async def test_rows_are_grouped_below_the_day_of_their_arrival(stage: Stage) -> None:
    noon = "new Date(2026, 4, 20, 12)"
    page = await stage(
        f"""() => {{
          const at = (days) => new Date({noon} - days * 86_400_000).toISOString();
          const of = (n, days) => item(n, {{ created_at: at(days) }});
          window.at = at;
          show('notification-inbox', new FakeClient([of(5, 0), of(4, 0), of(3, 1), of(2, 7), of(1, 200)]));
        }}""",
        before=f"Date = class extends Date {{ static now() {{ return +{noon}; }}"
        f" constructor(...all) {{ super(...(all.length ? all : [Date.now()])); }} }};".replace(
            str(noon), "1779278400000 + new Date(0).getTimezoneOffset() * 60_000"
        ),
        timezone_id="UTC",
        locale="en-GB",
    )
    days = ["- Today", "- Yesterday", "- Wednesday, May 13", "- Saturday, November 1, 2025"]
    expected = [days[0], "Title 5", "Title 4", days[1], "Title 3", days[2], "Title 2", days[3], "Title 1"]
    assert await in_order(page) == expected
    await page.evaluate("client.archive('id-3')")
    await page.evaluate("client.arrive(item(6, { created_at: at(0) }))")
    expected = [days[0], "Title 6", "Title 5", "Title 4", days[2], "Title 2", days[3], "Title 1"]
    assert await in_order(page) == expected
    # One that belongs between two days takes the heading of neither.
    await page.evaluate("client.arrive(item(2.5, { created_at: at(0) }))")
    expected.insert(4, "Title 2.5")
    assert await in_order(page) == expected
    # One that was sent earlier than the one beneath it stands below the day of that one.
    await page.evaluate("client.arrive(item(7, { created_at: at(1) }))")
    expected.insert(1, "Title 7")
    assert await in_order(page) == expected
    await rows(page).nth(0).focus()
    await page.keyboard.press("End")
    for _ in range(6):
        await page.keyboard.press("ArrowUp")
    await expect(rows(page).nth(0)).to_be_focused()
    await page.evaluate("client.delete(['id-7', 'id-1'])")
    expected.remove("Title 7")
    assert await in_order(page) == expected[:-2]


async def tap_at(page: Page, locator: Locator) -> None:
    """Tap where an element is, whatever lies over it."""
    box = await locator.bounding_box()
    assert box is not None
    await page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


async def test_a_tap_beside_the_menu_of_a_row_closes_it_and_presses_nothing_on_the_page(stage: Stage) -> None:
    page = await stage(inbox("many(4)"), **FINGER)
    await page.evaluate("""() => {
      window.heard = [];
      for (const type of ['pointerdown', 'mousedown', 'click']) {
        document.querySelector('#before').addEventListener(type, () => heard.push(type));
      }
    }""")
    menu = page.locator("notification-inbox .actions:popover-open")
    await button(page, "More actions: Title 3").tap()
    await expect(menu).to_be_visible()
    await tap_at(page, page.locator("#before"))
    await expect(menu).to_have_count(0)
    assert await page.evaluate("heard") == []
    await tap_at(page, page.locator("#before"))
    assert await page.evaluate("heard") == ["pointerdown", "mousedown", "click"]


async def test_a_row_on_a_phone_has_one_button_with_a_menu(stage: Stage) -> None:
    page = await stage(inbox("many(4, (n) => ({ url: '/?' + n }))"), **FINGER)
    shown = rows(page).nth(1).get_by_role("button")
    await expect(shown).to_have_count(1)
    more = button(page, "More actions: Title 3")
    await more.tap()
    await expect(more).to_have_attribute("aria-expanded", "true")
    await expect(button(page, "Mark read: Title 3")).to_be_focused()
    await expect(shown).to_have_count(5)
    # A tap beside the menu closes it, and does nothing else.
    await tap_at(page, rows(page).nth(0))
    await expect(shown).to_have_count(1)
    await expect(more).to_have_attribute("aria-expanded", "false")
    await more.tap()
    await page.keyboard.press("Escape")
    await expect(more).to_be_focused()
    assert await calls(page, "read", "archive", "delete") == []
    await more.tap()
    await button(page, "Delete: Title 3").tap()
    await button(page, "Press again to delete: Title 3").tap()
    await titles(page, "Title 4", "Title 2", "Title 1")
    await button(page, "More actions: Title 4").press("Enter")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await titles(page, "Title 2", "Title 1")
    assert page.url == ORIGIN + "/"


@pytest.mark.parametrize("height", ["300px", "auto"])
async def test_a_button_to_the_top_announces_new_items_while_the_list_is_scrolled(
    stage: Stage, height: str
) -> None:
    page = await stage(inbox("many(30)"))
    await page.evaluate("(height) => { element.style.height = height; }", height)
    await expect(rows(page)).to_have_count(30)
    await page.mouse.move(1, 1)
    await rows(page).nth(15).scroll_into_view_if_needed()
    await until(lambda: calls(page, "seen"), "what is in view is seen")
    before = await place(rows(page).nth(15))
    await page.evaluate("client.arrive(item(31)); client.arrive(item(32))")
    assert await place(rows(page).nth(17)) == before
    newer = button(page, "2 new")
    await expect(newer).to_be_in_viewport()
    assert await calls(page, "seen") == [["seen", 30]]
    await newer.click()
    await expect(rows(page).nth(0)).to_be_in_viewport()
    await expect(rows(page).nth(0)).to_be_focused()
    await expect(page.get_by_role("tab", name="Archived")).to_be_in_viewport(ratio=1)
    await expect(newer).to_be_hidden()
    await until(lambda: page.evaluate("client.seenUpTo === 32"), "they are seen now")


async def test_single_letter_keys_work_in_the_list_and_never_in_a_text_field(stage: Stage) -> None:
    page = await stage(
        inbox("many(4, (n) => ({ category: ['ci', 'orders'][n % 2] }))")
        + ".append(Object.assign(document.createElement('input'), { slot: 'footer', ariaLabel: 'Search' }))"
    )
    press = page.keyboard.press
    await expect(rows(page)).to_have_count(4)
    await page.evaluate("element.focus()")
    await press("j")
    await press("j")
    await press("k")
    await expect(rows(page).nth(1)).to_be_focused()
    await press("u")
    await press("u")
    await press("e")
    await titles(page, "Title 4", "Title 2", "Title 1")
    await expect(rows(page).nth(1)).to_be_focused()
    await press("z")
    await titles(page, "Title 4", "Title 3", "Title 2", "Title 1")
    await press("#")
    await press("Control+e")
    await press("#")
    await titles(page, "Title 4", "Title 3", "Title 1")
    done = [["read", "id-3"], ["unreadAgain", "id-3"], ["archive", "id-3", True], ["archive", "id-3", False]]
    assert await calls(page, "read", "unreadAgain", "archive", "delete") == [*done, ["delete", "id-2"]]
    await press("z")
    await expect(page.get_by_role("status").filter(has_text="nothing to undo")).to_be_visible()
    await press("?")
    help_ = page.get_by_role("dialog", name="Keyboard shortcuts")
    await expect(help_).to_contain_text("Mark read or unread")
    await expect(help_).to_contain_text("# DeleteDelete: press twice; Escape cancels")
    await press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(rows(page).nth(2)).to_be_focused()
    before = await page.evaluate("client.calls.length")
    for field in (page.get_by_label("Search"), page.get_by_label("Category")):
        await field.focus()
        for key in "jkeu#z?":
            await press(key)
    await expect(page.get_by_label("Search")).to_have_value("jkeu#z?")
    await page.evaluate("element.setAttribute('no-shortcuts', '')")
    await rows(page).nth(1).focus()
    for key in "jeu?":
        await press(key)
    await expect(rows(page).nth(1)).to_be_focused()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert await page.evaluate("client.calls.length") == before


async def test_escape_cancels_the_delete_confirmation_and_a_held_key_does_not_confirm_it(
    stage: Stage,
) -> None:
    page = await stage(BELL)
    await page.evaluate("element.open = true")
    rows_of_bell = page.locator("notification-bell article")
    for key in ("#", "Delete"):
        await rows_of_bell.first.focus()
        await page.keyboard.down(key)
        await page.keyboard.down(key)
        await page.keyboard.up(key)
        await expect(button(page, "Press again to delete: Title 12")).to_be_attached()
        await page.keyboard.press("Escape")
        await expect(button(page, "Delete: Title 12")).to_be_attached()
    await button(page, "Delete: Title 12").press("Enter")
    await expect(button(page, "Press again to delete: Title 12")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(button(page, "Delete: Title 12")).to_be_attached()
    assert await calls(page, "delete") == []
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_be_hidden()


async def test_row_buttons_are_shown_only_on_the_hovered_or_focused_row(stage: Stage) -> None:
    page = await stage(inbox("many(3)"), reduced_motion="reduce")
    actions = rows(page).locator(".actions")

    async def shown_in(*numbers: int) -> None:
        for number in range(3):
            await expect(actions.nth(number)).to_have_css("opacity", "1" if number in numbers else "0")

    await page.mouse.move(1, 1)
    await rows(page).nth(0).focus()
    await shown_in(0)
    await rows(page).nth(2).hover()
    await shown_in(2)
    # A button that has the focus is never out of sight.
    await actions.nth(0).get_by_role("button").first.focus()
    await shown_in(0, 2)


async def test_categories_and_links_are_shown_in_words(stage: Stage) -> None:
    names = "['ci', 'order_shipped', 'user.signed-up', 'default', 'billing'][n - 1]"
    urls = "['/runs/7', 'https://user@shop.example:8443/x', null, null, null][n - 1]"
    page = await stage(
        "() => show('notification-bell', new FakeClient(many(5, (n) =>"
        f" ({{ category: {names}, url: {urls} }}))))"
    )
    await page.evaluate("element.setAttribute('category-labels', '{\"billing\": \"Invoices\"}')")
    await page.evaluate("element.open = true")
    chips = page.locator("notification-inbox [part=category]")
    await expect(chips).to_have_text(["Invoices", "User signed up", "Order shipped", "CI"])
    await expect(page.get_by_label("Category").locator("option")).to_have_text(
        ["All categories", "CI", "General", "Invoices", "Order shipped", "User signed up"]
    )
    await expect(page.locator("notification-inbox [part=address]")).to_have_text(["shop.example:8443"])
    await page.evaluate("element.categoryLabels = { ci: 'Builds' }")
    await page.evaluate("element.open = true")
    await expect(chips).to_have_text(["Billing", "User signed up", "Order shipped", "Builds"])
    await page.get_by_label("Category").select_option("Builds")
    await titles(page, "Title 1")
    glyphs = await page.locator("notification-inbox [part=glyph]").all()
    assert [await one.text_content() for one in glyphs] == [""] * len(glyphs)


async def test_a_long_title_is_cut_to_two_lines_until_expanded_and_is_read_out_in_full(stage: Stage) -> None:
    title = ("word " * 40).strip()
    page = await stage(inbox(f"[item(1, {{ title: '{title}' }})]"), viewport={"width": 390, "height": 800})
    heading = page.locator("notification-inbox h3")
    await expect(page.get_by_role("heading", name=f"Unread: {title}")).to_be_visible()
    lines = "(one) => Math.round(one.clientHeight / parseFloat(getComputedStyle(one).lineHeight))"
    assert await heading.evaluate(lines) == 2
    await button(page, f"Show more: {title}").click()
    assert await heading.evaluate(lines) > 3
    await page.get_by_role("button", name="Show less").click()
    await rows(page).first.click()
    assert await heading.evaluate(lines) > 3


@pytest.mark.parametrize("width", [318, 390, 700])
async def test_the_choice_of_a_category_is_never_cut(stage: Stage, width: int) -> None:
    page = await stage(
        inbox("many(3, (n) => ({ category: ['ci', 'orders', 'a_long_name_of_a_category'][n - 1] }))"),
        viewport={"width": width, "height": 700},
    )
    choice = page.get_by_label("Category")
    for value in ("", "a_long_name_of_a_category"):
        await choice.select_option(value)
        room, needed, right = await choice.evaluate(
            """(one) => {
              const context = document.createElement('canvas').getContext('2d');
              const { font, paddingLeft, paddingRight } = getComputedStyle(one);
              context.font = font;
              const { width } = context.measureText(one.selectedOptions[0].text);
              const box = one.getBoundingClientRect();
              return [box.width, width + parseFloat(paddingLeft) + parseFloat(paddingRight), box.right];
            }"""
        )
        assert room >= needed
        assert right <= width


async def test_an_empty_list_offers_a_next_step(stage: Stage) -> None:
    page = await stage(inbox("many(1, () => ({ archived_at: new Date().toISOString() }))"))
    await button(page, "Show archived").click()
    await titles(page, "Title 1")
    await expect(page.get_by_role("tab", name="Archived")).to_be_focused()
    await page.get_by_role("tab", name="Unread").click()
    await button(page, "Show all").click()
    await expect(page.get_by_role("tab", name="All")).to_have_attribute("aria-selected", "true")
    await page.evaluate(
        """() => element.append(Object.assign(document.createElement('a'),
          { slot: 'empty-action', href: '/shop', textContent: 'Go shopping' }))"""
    )
    await expect(page.get_by_role("link", name="Go shopping")).to_be_visible()
    await expect(button(page, "Show archived")).to_be_hidden()
    # Where another tab has something, the page's own offer is of no use.
    await page.get_by_role("tab", name="Unread").click()
    await expect(button(page, "Show all")).to_be_visible()
    await expect(page.get_by_role("link", name="Go shopping")).to_be_hidden()


TOASTS_BESIDE = """() => {
  show('notification-inbox', new FakeClient(many(3)), { id: 'list' });
  const { client } = window;
  show('notification-toasts', client);
}"""


async def test_an_item_shown_by_an_inbox_in_view_gets_no_toast_and_is_read_out(stage: Stage) -> None:
    page = await stage(TOASTS_BESIDE)
    toasts = page.locator(".toast")
    aloud = page.get_by_role("status").filter(has_text="Title 4")
    await page.evaluate("client.arrive(item(4))")
    await expect(aloud).to_have_count(1)
    assert await toasts.count() == 0
    # Another list of that inbox does not show it.
    await page.get_by_role("tab", name="Archived").click()
    await page.evaluate("client.arrive(item(5, { priority: 'urgent' }))")
    await expect(toasts).to_have_count(1)
    await page.evaluate("list.hidden = true; client.arrive(item(6, { priority: 'urgent' }))")
    await expect(toasts).to_have_count(2)
    # What is hidden and shown again between two frames was never out of view.
    await page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    await page.evaluate("list.shadowRoot.querySelector('[data-tab=all]').click(); list.hidden = false")
    await expect(toasts).to_have_count(0)
    await page.evaluate("element.setAttribute('always', ''); client.arrive(item(7))")
    await expect(toasts).to_have_count(1)


async def test_a_hidden_list_is_out_of_view_immediately(stage: Stage) -> None:
    page = await stage(TOASTS_BESIDE)
    await page.evaluate("client.arrive(item(4))")
    await until(lambda: calls(page, "seen"), "what is in view is seen")
    seen = await calls(page, "seen")
    # The browser tells of it with its next frame, which a busy machine draws late.
    await page.evaluate("list.hidden = true; client.arrive(item(5, { priority: 'urgent' }))")
    await expect(page.locator(".toast")).to_have_count(1)
    assert await calls(page, "seen") == seen


async def test_toasts_disappear_when_a_list_in_view_shows_their_items(stage: Stage) -> None:
    page = await stage(TOASTS_BESIDE)
    toasts = page.locator(".toast")
    await until(lambda: calls(page, "seen"), "the list is in view")
    await page.get_by_role("tab", name="Archived").click()
    await page.evaluate("client.arrive(item(4, { priority: 'urgent' }))")
    await expect(toasts).to_have_count(1)
    await page.get_by_role("tab", name="Unread").click()
    await expect(toasts).to_have_count(0)
    # Of an inbox that connects, it is not known yet whose it is.
    await page.evaluate("client.become('connecting', { sub: null })")
    await page.evaluate(
        "element.client = new FakeClient(); element.client.arrive(item(5, { priority: 'urgent' }))"
    )
    await expect(toasts).to_have_count(1)
    await page.evaluate("client.become('live', { sub: 'ada' })")
    await expect(toasts).to_have_count(0)


async def test_a_toast_shows_an_error_if_marking_it_read_fails(stage: Stage) -> None:
    page = await stage(TOASTS.replace("/x", "/#x"))
    await page.evaluate("client.refuse = true")
    await page.locator(".toast").first.click()
    said = page.locator(".toast").filter(has_text="That did not work: It was refused.")
    await expect(said).to_be_in_viewport()
    assert await calls(page, "read") != []


@pytest.mark.parametrize(
    ("width", "height"), [(1000, 700), (390, 844), (844, 390), (320, 568), (800, 250)], ids=str
)
async def test_the_popover_never_covers_the_bell_at_any_position(
    stage: Stage, width: int, height: int
) -> None:
    page = await stage(BELL, viewport={"width": width, "height": height})
    for inset in ("10px 10px auto auto", "auto auto 10px 10px"):
        await page.evaluate(
            "(inset) => { Object.assign(element.style, { position: 'fixed', inset }); element.open = true; }",
            inset,
        )
        bell = await page.locator("[part=bell]").bounding_box()
        popover = page.locator("[part=popover]")
        await expect(popover).to_be_visible()
        await popover.evaluate("(one) => Promise.all(one.getAnimations().map(({ finished }) => finished))")
        box = await popover.bounding_box()
        assert bell is not None
        assert box is not None
        assert box["y"] >= bell["y"] + bell["height"] or box["y"] + box["height"] <= bell["y"]
        assert box["x"] >= 0 <= box["y"]
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= height
        assert box["height"] >= 160
        await page.evaluate("element.open = false")


async def test_the_popover_links_to_the_page_with_all_items_if_configured(stage: Stage) -> None:
    page = await stage(BELL)
    await page.evaluate("element.open = true")
    see_all = page.get_by_role("link", name="See all")
    await expect(see_all).to_have_count(0)
    await page.evaluate("element.setAttribute('see-all', '#inbox')")
    await see_all.click()
    await expect(page.get_by_role("dialog")).to_be_hidden()
    assert page.url == ORIGIN + "/#inbox"
    assert len(page.context.pages) == 1


async def test_the_link_of_the_popover_is_large_enough_for_a_finger(stage: Stage) -> None:
    page = await stage(BELL.removesuffix(")") + ", { 'see-all': '#inbox' })", **FINGER)
    await page.evaluate("element.open = true")
    # Not the bounding box, which is smaller while the popover opens.
    assert await page.get_by_role("link", name="See all").evaluate("link => link.offsetHeight") >= 44


# --- the manifest -------------------------------------------------------------------------------------------


async def test_the_manifest_names_exactly_the_attributes_and_members_of_the_elements(stage: Stage) -> None:
    page = await stage()
    declared = {
        one["tagName"]: [one["name"], sorted(attribute["name"] for attribute in one["attributes"])]
        for one in MANIFEST["modules"][0]["declarations"]
    }
    observed = await page.evaluate(
        """(tags) => Object.fromEntries(tags.map((tag) => {
          const { name, observedAttributes } = customElements.get(tag);
          return [tag, [name, [...observedAttributes].sort()]];
        }))""",
        list(declared),
    )
    assert declared == observed
    for one in MANIFEST["modules"][0]["declarations"]:
        missing = await page.evaluate(
            "([tag, names]) => names.filter((name) => !(name in customElements.get(tag).prototype))",
            [one["tagName"], [member["name"] for member in one["members"]]],
        )
        assert missing == []
