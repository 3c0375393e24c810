"""For everybody: axe's rules, the keyboard alone, and a phone."""

from __future__ import annotations

import re
from importlib.resources import files

from playwright.async_api import Page, expect

from .conftest import OpenPage
from .scene import Scene
from .views import VIEWS, furnish, show

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
CHANGED = """row => new Promise(changed => new MutationObserver(changed).observe(
    row, {subtree: true, characterData: true, childList: true, attributes: true}))"""


async def findings(page: Page) -> list[str]:
    """What axe finds to be serious or worse."""
    await page.evaluate(AXE)
    response = await page.evaluate("axe.run()")
    assert len(response["passes"]) > 10  # it has looked
    return [
        f"{page.url} {found['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for found in response["violations"]
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]


async def test_axe_finds_nothing_serious_and_a_phone_is_wide_enough(deck: Scene, open_page: OpenPage) -> None:
    await furnish(deck)
    found: list[str] = []
    for scheme in ("light", "dark"):
        found += await findings_everywhere(await open_page(deck.url, color_scheme=scheme, reduced_motion="reduce"))
    assert found == []


async def findings_everywhere(page: Page) -> list[str]:
    """In all views, in dialogs, and on a phone."""
    found: list[str] = []
    for view in VIEWS:
        await show(page, view)
        found += await findings(page)
    await show(page, "queries")
    await page.get_by_role("link", name="survey-south").click()
    await expect(page.get_by_role("dialog").get_by_text("pause: applied")).to_be_visible()
    found += await findings(page)
    await page.get_by_role("dialog").get_by_role("button", name="Terminate survey-south").click()
    found += await findings(page)
    await page.get_by_role("button", name="Cancel").click()
    await page.keyboard.press("Escape")
    await show(page, "memory")
    await page.get_by_role("button", name="Edit plan").click()
    await expect(page.get_by_label("Value, as JSON")).to_have_value(re.compile("northern bay"))
    found += await findings(page)
    await page.keyboard.press("Escape")
    await page.set_viewport_size({"width": 390, "height": 844})
    for view in VIEWS:
        await show(page, view)
        found += await findings(page)
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, f"{view} is {width} pixels wide on a phone"
    return found


async def test_the_keyboard_alone_is_enough(deck: Scene, open_page: OpenPage) -> None:
    [agent] = await deck.spawn("Surveyor")
    await deck.start(agent, "north-bay")
    page = await open_page(deck.url)
    pause = page.get_by_role("button", name="Pause north-bay")
    await expect(pause).to_be_visible()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="To the content")).to_be_focused()
    await page.keyboard.press("Enter")
    for _ in range(12):
        await page.keyboard.press("Tab")
        if await pause.evaluate("element => element === document.activeElement"):
            break
    await expect(pause).to_be_focused()
    await page.get_by_role("row").filter(has_text="north-bay").evaluate(CHANGED)  # drawn again, and the focus stays
    await expect(pause).to_be_focused()
    await page.keyboard.press("Space")
    await expect(page.get_by_role("button", name="Resume north-bay")).to_be_focused()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog", name="Terminate this query?")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name="Terminate north-bay")).to_be_focused()


async def test_light_and_dark_are_chosen_and_kept(deck: Scene, open_page: OpenPage) -> None:
    page = await open_page(deck.url, color_scheme="dark")
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    dark = await page.evaluate(paper)
    await page.get_by_role("button", name="Switch to light colours").click()
    await expect(page.get_by_role("button", name="Switch to dark colours")).to_be_visible()
    light = await page.evaluate(paper)
    assert light != dark
    await page.reload()
    await expect(page.get_by_role("button", name="Switch to dark colours")).to_be_visible()
    assert await page.evaluate(paper) == light
