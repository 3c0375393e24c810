"""Takes the pictures of the dashboard that the README shows: `python -m tests.browser.screenshots FOLDER`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from playwright.async_api import Page, ViewportSize, expect

from .chromium import chromium
from .scene import scene
from .views import VIEWS, furnish, show

DESK, PHONE = ViewportSize(width=1240, height=620), ViewportSize(width=390, height=760)


async def take(folder: Path) -> None:
    """Every view, light and dark; one query from near; a phone."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data:
        async with scene(Path(data)) as deck, chromium() as browser:
            await furnish(deck)
            for scheme in ("light", "dark"):
                page = await browser.new_page(viewport=DESK, color_scheme=scheme, reduced_motion="reduce")
                await page.goto(deck.url)
                for view in VIEWS:
                    await show(page, view)
                    if view == "agents":
                        await expect(page.locator('[data-label="CPU"]').first).to_contain_text("%")
                    if view == "vectors":
                        await page.get_by_label("Collection").first.select_option("pilot-book")
                        await page.get_by_label("What to search for").fill("where does the harbour pilot board")
                        await page.get_by_role("button", name="Search").click()
                        await expect(page.get_by_label("Found")).to_be_visible()
                        await expect(page.get_by_text("of searches answered by it")).to_be_visible()
                    await snap(page, folder / f"{view}-{scheme}.png")
                await show(page, "queries")
                await page.get_by_role("link", name="survey-south").click()
                await expect(page.get_by_role("dialog").get_by_text("pause: applied")).to_be_visible()
                await snap(page, folder / f"query-{scheme}.png")
                await page.close()
            page = await browser.new_page(viewport=PHONE, color_scheme="dark", reduced_motion="reduce")
            await page.goto(deck.url)
            await show(page, "queries")
            await snap(page, folder / "phone-dark.png")


async def snap(page: Page, path: Path) -> None:
    await page.mouse.move(0, 0)
    await page.screenshot(path=path, animations="disabled")


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1])))
