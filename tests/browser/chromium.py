"""A headless Chromium of the system's packages, driven by playwright."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
"""For root, and without a word to anybody outside."""


@asynccontextmanager
async def chromium() -> AsyncGenerator[Browser]:
    """Start one with a profile of its own."""
    program = shutil.which("chromium")
    assert program is not None, "chromium is not installed: make setup-browser"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=QUIET)
        try:
            yield browser
        finally:
            await browser.close()
