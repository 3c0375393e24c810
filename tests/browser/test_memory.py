"""Memory by hand: nobody's change is lost, no number is bent, and what has expired goes by itself."""

from __future__ import annotations

import re

from playwright.async_api import expect

from .conftest import OpenPage
from .scene import Scene

EXACT = '{"id": 12345678901234567890, "share": 1.0}'


async def test_an_entry_is_edited_exactly_and_never_over_another_change(deck: Scene, open_page: OpenPage) -> None:
    stored = await deck.client.post(
        "/api/tools/memory_usage",
        content=f'{{"action": "store", "namespace": "exact", "key": "log", "ttl": 0, "value": {EXACT}}}',
        headers={"Content-Type": "application/json"},
    )
    assert stored.status_code == 200
    page = await open_page(f"{deck.url}/#memory/exact")
    await page.get_by_role("button", name="Edit log").click()
    editor = page.get_by_role("dialog", name="log")
    value = editor.get_by_label("Value, as JSON")
    await expect(value).to_have_value('{\n  "id": 12345678901234567890,\n  "share": 1.0\n}')
    await value.fill((await value.input_value()).replace("1.0", "2.0"))
    await editor.get_by_role("button", name="Store", exact=True).click()
    await expect(page.get_by_text("log, version 2")).to_be_visible()
    text = (
        await deck.client.get("/api/memory", params={"action": "retrieve", "namespace": "exact", "key": "log"})
    ).text
    assert "12345678901234567890" in text
    assert "2.0" in text

    await page.get_by_role("button", name="Edit log").click()
    await expect(value).to_have_value(re.compile("2.0"))
    await deck.call("memory_usage", action="store", namespace="exact", key="log", value="by somebody else", ttl=0)
    await editor.get_by_role("button", name="Store", exact=True).click()
    await expect(editor.get_by_text("version")).to_have_count(2)  # the one that it was read at, and the refusal
    await editor.get_by_role("button", name="Load anew").click()
    await expect(value).to_have_value('"by somebody else"')
    await editor.get_by_role("button", name="Cancel").click()


async def test_an_entry_counts_down_and_goes_and_a_deleted_one_comes_back(deck: Scene, open_page: OpenPage) -> None:
    await deck.call("memory_usage", action="store", key="kept", value="the old course", ttl=0)
    page = await open_page(f"{deck.url}/#memory")
    await deck.call("memory_usage", action="store", key="tide", value="high water", ttl=6)
    left = page.get_by_role("row").filter(has_text="tide").locator('[data-label="Time left"]')
    await expect(left).to_have_text("4 s")
    await expect(left).to_have_text("3 s")
    await expect(left).to_have_count(0)

    await page.get_by_role("button", name="Delete kept").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("No entries.")).to_be_visible()
    await page.get_by_role("button", name="Undo").click()
    await expect(page.get_by_role("row").filter(has_text="kept")).to_contain_text("the old course")
    await page.get_by_label("Search default").fill("course")
    await expect(page.get_by_role("row").filter(has_text="kept")).to_be_visible()
    await page.get_by_label("Search default").fill("nothing of this kind")
    await expect(page.get_by_text("Nothing found.")).to_be_visible()
