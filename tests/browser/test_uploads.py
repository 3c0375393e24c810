"""Files dropped on the page."""

from __future__ import annotations

import hashlib

from playwright.async_api import expect

from .conftest import OpenPage
from .scene import Scene

DROPPED = """files => {
    const data = new DataTransfer();
    for (const [name, text] of files) data.items.add(new File([text], name));
    return data;
}"""


async def test_dropped_files_are_stored_shown_everywhere_read_and_deleted(deck: Scene, open_page: OpenPage) -> None:
    here, there = await open_page(f"{deck.url}/#uploads"), await open_page(f"{deck.url}/#uploads")
    large = "depth " * 400_000
    files = [["notes.md", "# Notes\n"], ["soundings.csv", large]]
    await here.get_by_role("group", name="Upload files").dispatch_event(
        "drop", {"dataTransfer": await here.evaluate_handle(DROPPED, files)}
    )
    await expect(here.get_by_text("2 files uploaded")).to_be_visible()
    for page in (here, there):
        await expect(page.get_by_role("row").filter(has_text="soundings.csv")).to_contain_text("2.3 MB")
    stored = {upload["originalName"]: upload for upload in (await deck.call("uploads", action="list"))["uploads"]}
    assert stored["soundings.csv"]["sha256"] == hashlib.sha256(large.encode()).hexdigest()

    async with there.expect_download() as download:
        await there.get_by_role("button", name="Download soundings.csv").click()
    assert (await (await download.value).path()).read_text() == large
    await there.get_by_role("button", name="notes.md", exact=True).click()
    await expect(there.get_by_role("region", name="Content")).to_have_text("# Notes\n")
    await there.keyboard.press("Escape")
    await there.get_by_role("button", name="Delete notes.md").click()
    await there.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(here.get_by_role("row").filter(has_text="notes.md")).to_have_count(0)
    await expect(here.get_by_role("row").filter(has_text="soundings.csv")).to_be_visible()


async def test_what_the_server_refuses_is_told(deck: Scene, open_page: OpenPage) -> None:
    page = await open_page(f"{deck.url}/#uploads")
    files = [[f"{number}.txt", "x"] for number in range(21)]
    await page.get_by_role("group", name="Upload files").dispatch_event(
        "drop", {"dataTransfer": await page.evaluate_handle(DROPPED, files)}
    )
    await expect(page.get_by_text("Maximum 20 files allowed")).to_be_visible()
    await expect(page.get_by_role("row").filter(has_text="20.txt")).to_have_count(0)
