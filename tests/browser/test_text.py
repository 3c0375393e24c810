"""What others wrote is shown as text, wherever it stands."""

from __future__ import annotations

import json

from playwright.async_api import Browser, Page, expect

from .conftest import OpenPage
from .scene import Scene
from .test_uploads import DROPPED

SCRIPT = '<img src=x onerror="window.owned=1"><script>window.owned=1</script>'


async def test_script_in_every_field_stays_text(deck: Scene, open_page: OpenPage) -> None:
    [agent] = await deck.spawn(f"A {SCRIPT}")
    await deck.start(agent, "hostile", steps=1, pause=0, fail=f"E {SCRIPT}")
    await deck.call("query_wait", queryIds=["hostile"])
    await deck.start(agent, "alive", remark=f"P {SCRIPT}")
    await deck.call("query_control", action="change_model", queryId="alive", model=f"M {SCRIPT}")
    await deck.call("memory_usage", action="store", namespace=f"N {SCRIPT}", key=f"K {SCRIPT}", value=f"V {SCRIPT}")
    await deck.call("memory_usage", action="store", namespace=f"N {SCRIPT}", key="object", value={SCRIPT: SCRIPT})
    await deck.call("vector_upsert", collection="hostile", points=[{"id": f"I {SCRIPT}", "text": f"T {SCRIPT}"}])

    page = await open_page(deck.url)
    await expect(page.get_by_text("E <img").first).to_be_visible()
    await expect(page.get_by_role("row").filter(has_text="M <img")).to_be_visible()
    await page.get_by_role("link", name="alive", exact=True).click()
    detail = page.get_by_role("dialog")
    await expect(detail.get_by_role("region", name="Prompt")).to_contain_text("P <img")
    await expect(detail.get_by_text("A <img")).to_be_visible()
    await page.keyboard.press("Escape")
    await go(page, "Agents")
    await expect(page.get_by_text("A <img")).to_be_visible()
    await page.get_by_role("button", name=f"History of {agent}").click()
    await expect(page.get_by_role("dialog").get_by_text("A <img")).to_be_visible()
    await page.keyboard.press("Escape")
    await go(page, "Memory")
    await page.get_by_role("link", name="N <img").click()
    await expect(page.get_by_role("row").filter(has_text="K <img")).to_contain_text("V <img")
    await page.get_by_role("button", name="Edit K <img").click()
    await expect(page.get_by_label("Value, as JSON")).to_have_value(json.dumps(f"V {SCRIPT}"))
    await page.keyboard.press("Escape")
    await go(page, "Vectors")
    await page.get_by_label("What to search for").fill("script <img")
    await page.get_by_role("button", name="Search").click()
    await expect(page.get_by_label("Found").get_by_text("T <img")).to_be_visible()
    await go(page, "Uploads")
    file = ["U <img src=x onerror=window.owned=1>.txt", f"C {SCRIPT}"]
    await page.get_by_role("group", name="Upload files").dispatch_event(
        "drop", {"dataTransfer": await page.evaluate_handle(DROPPED, [file])}
    )
    await expect(page.get_by_label("Messages").get_by_text("U <img")).to_be_visible()
    stored = (await deck.call("uploads", action="list"))["uploads"][0]["originalName"]
    await page.get_by_role("button", name=stored, exact=True).click()
    await expect(page.get_by_role("region", name="Content")).to_contain_text("C <img")
    assert await page.evaluate(
        "[window.owned, document.querySelectorAll('img, main script, dialog script').length]"
    ) == [None, 0]


async def go(page: Page, view: str) -> None:
    await page.get_by_role("navigation", name="Views").get_by_role("link", name=view).click()


async def test_the_policy_lets_no_script_in(deck: Scene, browser: Browser) -> None:
    """The second line of defence, should the first one ever fail."""
    page = await browser.new_page()
    await page.goto(deck.url)
    refused = await page.evaluate(
        """() => new Promise(resolve => {
            document.addEventListener("securitypolicyviolation", event => resolve(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "window.owned = 1";
            document.body.append(script);
        })"""
    )
    assert refused == "script-src-elem"
    assert await page.evaluate("window.owned") is None
    await page.close()
