"""The pictures of `docs/images`, made anew by `python -m tests.support.pictures` on a machine with Chromium.

They show the page of a demo, with the font Inter where the machine has it.
"""

import asyncio
import re
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from playwright.async_api import Browser, Page, expect

from gateway.database.models import notifications
from gateway.server.run import prepare
from tests.support.browsers import launched
from tests.support.databases import settings_for
from tests.support.postgres import free_port
from tests.support.servers import serving
from tests.support.waiting import PATIENCE
from tests.web.test_sdk_browser import NO_WEBSOCKET

expect.set_options(timeout=PATIENCE * 1000)

IMAGES = Path(__file__).parents[2] / "docs/images"
WIDE = {"width": 1180, "height": 760}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 780},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 1.5,
}
MORNING = f"Etc/GMT{time.gmtime().tm_hour - 11:+d}"
"""A zone in which it is eleven o'clock, so that one day is "Today" and times later today are offered."""

MINUTE = 60_000
"""In ms, as the ages below are."""

INBOX: list[tuple[int, bool, dict[str, Any]]] = [
    (
        31 * 60,
        True,
        {"title": "Weekly summary", "body": "14 issues closed, and nobody was paged.", "priority": "low"},
    ),
    (
        28 * 60,
        True,
        {
            "title": "New sign-in from Chromium on Linux",
            "body": "Vienna, Austria. If this was not you, end the session and change your password.",
            "category": "security",
        },
    ),
    (
        120,
        True,
        {
            "title": "Invoice 2026-1107 is due in three days",
            "category": "billing",
            "priority": "high",
            "url": "/i/1107",
        },
    ),
    (
        42,
        False,
        {
            "title": "Your parcel is on its way",
            "body": "It arrives on Monday between 9 and 12.",
            "category": "order_shipped",
            "url": "/orders/7",
            "data": {"order": 7},
        },
    ),
    (
        5,
        False,
        {
            "title": "Deploy to production failed",
            "body": "Step 4 of 7: the health check of web-3 did not answer within 30 s. "
            "The previous version is still serving.",
            "category": "ci",
            "priority": "urgent",
            "url": "/runs/4211",
            "actions": [
                {"id": "retry", "label": "Run again", "style": "primary"},
                {"id": "stop", "label": "Give up", "style": "danger"},
            ],
        },
    ),
    (
        1,
        False,
        {
            "title": "Ada Lovelace mentioned you in “Q4 planning”",
            "body": "Could you look at the numbers in section 3 before the meeting tomorrow? "
            "I think the forecast is off by one quarter.",
            "category": "mentions",
            "url": "https://example.com/docs/q4",
        },
    ),
]
"""How many minutes ago each came, whether it is read, and what was posted."""

EDITED = "Invoice 2026-1107 is due in three days"

PREFERENCES = {
    "categories": {"billing": {"muted": True}},
    "timezone": "Europe/Vienna",
    "quiet_hours": [{"days": ["mon", "tue", "wed", "thu", "fri"], "from": "22:00", "until": "07:00"}],
    "quiet_until": None,
}

NO_PREFERENCES: dict[str, Any] = {"categories": {}, "timezone": None, "quiet_hours": [], "quiet_until": None}

CALL = "async ([...all]) => (await import('/session.js')).call(...all)"


async def fill(page: Page, url: str) -> None:
    """Post the inbox, and move each to the time at which it came."""
    engine = sqlalchemy.create_engine(url)
    for minutes, read, fields in INBOX:
        posted = await page.evaluate(CALL, ["POST", "/demo/notifications", {"to": "demo", **fields}])
        if read:
            await page.evaluate(CALL, ["PATCH", f"/v1/inbox/{posted['id']}", {"read": True}])
        came = int(time.time() * 1000) - minutes * MINUTE
        change = sqlalchemy.update(notifications).where(notifications.c.uuid == posted["id"])
        with engine.begin() as connection:
            edited = came + MINUTE if fields["title"] == EDITED else None
            connection.execute(change.values(created_at=came, edited_at=edited))
    engine.dispose()


@asynccontextmanager
async def opened(
    browser: Browser, base: str, session: str = "", *, before: str = "", live: bool = True, **options: Any
) -> AsyncIterator[Page]:
    """Open the page, signed in by the session of another tab."""
    context = await browser.new_context(**({"viewport": WIDE, "timezone_id": MORNING} | options))
    await context.add_init_script(before)
    if not live:
        for path in ("**/healthz", "**/v1/stream*"):
            await context.route(path, lambda route: route.abort())
    if session:
        script = f"Object.entries({session}).forEach(([key, value]) => sessionStorage.setItem(key, value));"
        await context.add_init_script(script)
    page = await context.new_page()
    await page.goto(base)
    if session and live:
        await expect(page.locator("#connection")).to_have_text("Live")
        await expect(page.locator("#list article")).not_to_have_count(0)
    await page.wait_for_timeout(1_800)  # Rows that have just come are coloured for a moment.
    yield page
    await context.close()


async def shoot(page: Page, name: str) -> None:
    await page.screenshot(path=IMAGES / f"{name}.png", animations="disabled")


async def with_toasts(page: Page) -> None:
    """Show the form beside three toasts."""
    await page.set_viewport_size({"width": 1000, "height": 740})
    await page.get_by_role("link", name="Send", exact=True).click()
    # None of them goes while a pointer is over them.
    await page.locator("#toasts [part=stack]").dispatch_event("pointerenter")
    for _ in range(2):
        await page.get_by_role("button", name="Fill in a sample").click()
        await page.get_by_role("button", name="Send", exact=True).click()
        await expect(page.locator("#sent")).to_have_text("Sent.")
    *_, (_, _, fields), _ = INBOX
    await page.evaluate(CALL, ["POST", "/demo/notifications", {"to": "demo", **fields}])
    await expect(page.locator("#toasts .toast")).to_have_count(3)
    await page.wait_for_timeout(400)
    await shoot(page, "toasts")


async def main() -> None:
    """Make all of them."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/pictures.db"
        settings = settings_for(url, port=port)
        [code] = re.findall(r"#code=(\S+)", await prepare(settings, port, demo=True))
        async with launched() as browser, serving(settings, demo=True) as server:
            async with opened(browser, server.base) as page:
                await shoot(page, "sign-in")
                await page.goto(f"{server.base}/#code={code}")
                await expect(page.locator("#connection")).to_have_text("Live")
                await fill(page, url)
                session = await page.evaluate("JSON.stringify(sessionStorage)")
            for name, options in {
                "inbox": {},
                "inbox-dark": {"color_scheme": "dark"},
                "phone": PHONE,
                "phone-dark": PHONE | {"color_scheme": "dark"},
            }.items():
                async with opened(browser, server.base, session, **options) as page:
                    await shoot(page, name)
            async with opened(browser, server.base, session) as page:
                await page.locator("#list article").first.focus()
                await page.keyboard.press("s")
                await page.wait_for_timeout(400)
                await shoot(page, "snooze")
            async with opened(browser, server.base, session) as page:
                await page.evaluate("document.documentElement.dir = 'rtl'")
                await shoot(page, "rtl")
            async with opened(browser, server.base, session, viewport={"width": 1040, "height": 720}) as page:
                await page.get_by_role("link", name="Side by side").click()
                await expect(page.locator("#view-devices article")).to_have_count(2 * len(INBOX))
                await page.wait_for_timeout(1_800)
                await shoot(page, "devices")
            async with opened(browser, server.base, session, viewport={"width": 1000, "height": 740}) as page:
                await page.get_by_role("link", name="Send", exact=True).click()
                await page.locator("#bell [part=bell]").click()
                await page.mouse.move(1, 1)
                await page.wait_for_timeout(1_800)
                await shoot(page, "bell")
                await page.evaluate(CALL, ["PUT", "/v1/inbox/preferences", PREFERENCES])
                await page.locator("#bell").get_by_role("button", name="Preferences").click()
                await page.mouse.move(1, 1)
                await expect(page.locator("#bell [type=time]")).to_have_count(2)
                await shoot(page, "preferences")
                await page.evaluate(CALL, ["PUT", "/v1/inbox/preferences", NO_PREFERENCES])
            async with opened(browser, server.base, session, before=NO_WEBSOCKET, live=False) as page:
                await expect(page.locator("#connection")).to_have_text("Offline")
                await shoot(page, "offline")
            async with opened(browser, server.base, session) as page:
                await with_toasts(page)


if __name__ == "__main__":
    asyncio.run(main())
