"""Pages built from the examples of `docs/frontend.md`, each in a real Chromium with a real gateway.

They need Node, npm and its registry, so they run by `-m builds` only. What is checked without them is in
`test_sdk.py` and `test_sdk_types.py`.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from gateway import web
from tests.docs.test_docs import blocks, text_of
from tests.docs.test_example_backend import START, example
from tests.support.browsers import launched
from tests.support.databases import API_KEY, settings_for
from tests.support.postgres import free_port
from tests.support.servers import LocalServer, serving
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.builds
expect.set_options(timeout=PATIENCE * 1000)

PROJECTS = Path(__file__).parent / "builds"
SDK = Path(str(files(web).joinpath("sdk")))
DOCS = text_of("docs/frontend.md")
GATEWAY, BACKEND = "https://notify.example.com", "http://127.0.0.1:8080"
DEADLINE = 300
"""Seconds for one command of npm, which may have to download."""


def block(language: str, holds: str) -> str:
    """Return the one block of the page that holds a text."""
    [found] = [one for one in blocks(DOCS, language) if holds in one]
    return found


async def run(folder: Path, *command: str) -> str:
    """Run a command to its good end, and return what it said."""
    started = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(started.communicate(), DEADLINE)
    assert started.returncode == 0, f"{' '.join(command)}\n{said.decode()}"
    return said.decode()


@dataclass
class Site:
    """A page of an application, built and served by its own tools, and the gateway behind it."""

    base: str
    server: LocalServer
    browser: Browser
    troubles: list[str]
    asked: list[str]
    """The requests for a token, of the page that was opened last."""

    @asynccontextmanager
    async def page(self, path: str = "/") -> AsyncIterator[Page]:
        """Open a page; nothing may go wrong in it."""
        page = await self.browser.new_page()
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("console", lambda said: self.troubles.append(said.text) if said.type == "error" else None)
        self.asked.clear()
        page.on("request", lambda one: self.asked.append(one.url) if one.url.endswith("/token") else None)
        try:
            await page.goto(self.base + path)
            yield page
        finally:
            await page.close()
        assert self.troubles == []
        await self.server.sockets(0)


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    async with launched() as started:
        yield started


class Builder:
    """Makes a project of a template and of blocks of the docs, and serves what comes of it."""

    def __init__(self, stack: AsyncExitStack, folder: Path, database: str, browser: Browser) -> None:
        self._stack = stack
        self._folder = folder
        self._database = database
        self._browser = browser

    async def __call__(
        self, template: str, sources: dict[str, str], config: str, versions: dict[str, str] | None = None
    ) -> Site:
        """Install, check the types, build and serve.

        `sources` are blocks by their paths, `config` belongs into the configuration of Vite, and `versions`
        replace those of the template.
        """
        port, backend = free_port(), free_port()
        base = f"http://127.0.0.1:{port}"
        settings = settings_for(self._database, allowed_origins=base)
        server = await self._stack.enter_async_context(serving(settings))
        (self._folder / "backend").mkdir()
        await self._stack.enter_async_context(
            example(self._folder / "backend", backend, server.base, API_KEY)
        )
        project = self._folder / template
        shutil.copytree(PROJECTS / template, project)
        package = json.loads((project / "package.json").read_text())
        package["devDependencies"] |= versions or {}
        (project / "package.json").write_text(json.dumps(package))
        for path, text in {"src/notifications.ts": block("ts", "NotificationClient"), **sources}.items():
            (project / path).write_text(text.replace(GATEWAY, server.base))
        vite = project / "vite.config.ts"
        config += block("js", "server: { proxy")
        vite.write_text(
            vite.read_text().replace("// docs", config.replace(BACKEND, f"http://127.0.0.1:{backend}"))
        )
        await run(self._folder, "npm", "pack", str(SDK))
        [packed] = self._folder.glob("*.tgz")
        await run(project, "npm", "install", "--no-audit", "--no-fund", "--save-dev", str(packed))
        await run(project, "npm", "run", "check")
        await run(project, "npm", "run", "build")
        await self._serve(project, port)
        return Site(base, server, self._browser, [], [])

    async def _serve(self, project: Path, port: int) -> None:
        """Serve as `npm run preview` does, without npm's processes in between."""
        tool = project / "node_modules/vite/bin/vite.js"
        arguments = ("preview", "--host", "127.0.0.1", "--strictPort", "--port", str(port))
        said = self._stack.enter_context((project / "said").open("w"))
        started = await asyncio.create_subprocess_exec(
            "node",
            tool,
            *arguments,
            cwd=project,
            env=os.environ | {"NO_PROXY": "*"},
            stdout=said,
            stderr=said,
        )

        async def end() -> None:
            started.terminate()
            await started.wait()

        self._stack.push_async_callback(end)
        http = await self._stack.enter_async_context(httpx.AsyncClient(trust_env=False))

        async def answers() -> bool:
            assert started.returncode is None, (project / "said").read_text()
            try:
                return (await http.get(f"http://127.0.0.1:{port}/")).is_success
            except httpx.TransportError:
                return False

        await until(answers, "the page is served", within=START)


@pytest_asyncio.fixture
async def build(sqlite_url: str, tmp_path: Path, browser: Browser) -> AsyncIterator[Builder]:
    async with AsyncExitStack() as stack:
        yield Builder(stack, tmp_path, sqlite_url, browser)


async def rings(page: Page, number: int) -> None:
    await expect(page.get_by_role("button", name=f"Notifications, {number} new")).to_be_visible()


# --- React --------------------------------------------------------------------------------------------------

VERSIONS: dict[str, dict[str, str]] = {
    "19": {},
    "18": {
        "react": "18.3.1",
        "react-dom": "18.3.1",
        "@types/react": "18.3.32",
        "@types/react-dom": "^18.3.0",
    },
}


@pytest.mark.parametrize("version", VERSIONS)
async def test_react_builds_a_bell_and_the_hooks_of_one_client_share_its_connection(
    build: Builder, version: str
) -> None:
    sources = {"src/Bell.tsx": block("tsx", "function Bell"), "src/Hooks.tsx": block("tsx", "useUnreadCount")}
    site = await build("react", sources, "", VERSIONS[version])
    await site.server.service.notify("ada", "First")
    async with site.page() as page:
        await rings(page, 1)
        await expect(page.get_by_role("status")).to_have_text("1")
        await expect(page.get_by_role("listitem")).to_have_text(["First"])
        await site.server.sockets(1)
        await page.get_by_role("button", name="Toggle").click()
        await expect(page.get_by_role("status")).to_have_count(0)
        await site.server.service.notify("ada", "Second")
        # The page has started this client, so the hooks have not stopped it.
        await rings(page, 2)
        await page.get_by_role("button", name="Toggle").click()
        await expect(page.get_by_role("listitem")).to_have_text(["Second", "First"])
    await hooks_alone(site)
    await hydrated(site)


async def hooks_alone(site: Site) -> None:
    """The hooks start the client once, although StrictMode mounts twice, and stop it after the last one."""
    async with site.page("/?hooks") as page:
        await expect(page.get_by_role("status")).to_have_text("2")
        await site.server.sockets(1)
        assert len(site.asked) == 1
        await page.get_by_role("button", name="Toggle").click()
        await site.server.sockets(0)
        await page.get_by_role("button", name="Toggle").click()
        await site.server.sockets(1)
        await site.server.service.notify("ada", "Third")
        await expect(page.get_by_role("listitem")).to_have_text(["Third", "Second", "First"])
        await expect(page.get_by_role("status")).to_have_text("3")


async def hydrated(site: Site) -> None:
    """What a server has rendered is an empty inbox, and the browser takes it over without a word."""
    async with httpx.AsyncClient(trust_env=False) as http:
        html = (await http.get(f"{site.base}/rendered.html")).text
    assert "<notification-bell></notification-bell>" in html
    assert "<output>0</output>" in html
    async with site.page("/rendered.html") as page:
        await rings(page, 3)
        await expect(page.get_by_role("status")).to_have_text("3")


# --- Vue and SvelteKit --------------------------------------------------------------------------------------


async def test_vue_builds_a_bell(build: Builder) -> None:
    site = await build("vue", {"src/Bell.vue": block("vue", "onUnmounted")}, block("js", "isCustomElement"))
    await site.server.service.notify("ada", "First")
    async with site.page() as page:
        await rings(page, 1)


async def test_sveltekit_renders_a_bell_on_the_server_and_the_browser_hydrates_it(
    build: Builder,
) -> None:
    client = block("ts", "NotificationClient")
    sources = {"src/lib/notifications.ts": client, "src/lib/Bell.svelte": block("svelte", "onMount")}
    site = await build("sveltekit", sources, "")
    await site.server.service.notify("ada", "First")
    async with httpx.AsyncClient(trust_env=False) as http:
        assert "<notification-bell" in (await http.get(site.base)).text
    async with site.page() as page:
        await rings(page, 1)
