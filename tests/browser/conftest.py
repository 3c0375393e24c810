"""A deck, a browser, and pages that tell when something is wrong with them."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect

from .chromium import chromium
from .scene import Scene, scene

OpenPage = Callable[..., Awaitable[Page]]
expect.set_options(timeout=20_000)  # a machine may be busy


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these tests are slow, and share an event loop, since they share the browser."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def deck(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Scene]:
    """One for the tests of a module: each leaves alone what is not its own."""
    async with scene(tmp_path_factory.mktemp("deck")) as started:
        yield started


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncGenerator[Browser]:
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Browser) -> AsyncGenerator[OpenPage]:
    """Open pages, each in a context of its own: `await open_page(url, script to run first, **options of the context)`.

    At the end the test fails if a script raised anything, if the content policy had to stop something, or if a page
    asked anybody but the server that it came from.
    """
    complaints: list[str] = []
    contexts: list[BrowserContext] = []

    async def open_page(url: str, script: str | None = None, **options: Any) -> Page:
        context = await browser.new_context(**options)
        contexts.append(context)
        page = await context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: complaints.append(f"raised: {error}"))
        page.on("console", heard)

        def asked(request: Request) -> None:
            if not re.match(rf"{re.escape(url.split('#')[0].rstrip('/'))}/|blob:|data:", request.url):
                complaints.append(f"asked {request.url}")

        page.on("request", asked)
        if script is not None:
            await page.add_init_script(script)
        await page.goto(url)
        return page

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:  # a refusal that is shown
            complaints.append(f"console: {message.text}")

    yield open_page
    for context in contexts:
        await context.close()
    assert complaints == []
