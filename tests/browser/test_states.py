"""What the page says when it may not, cannot, or has nothing."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import expect

from .conftest import OpenPage
from .scene import scene


async def test_the_token_is_asked_for_and_leaves_no_trace_in_the_address(tmp_path: Path, open_page: OpenPage) -> None:
    async with scene(tmp_path, QUARTERDECK_HTTP_TOKEN="eight-bells") as deck:
        page = await open_page(deck.url)
        ask = page.get_by_role("dialog", name="This deck needs a token")
        await page.keyboard.press("Escape")  # there is no way around it
        await ask.get_by_label("Token").fill("seven-bells")
        await ask.get_by_role("button", name="Open").click()
        await expect(ask.get_by_text("does not take this token")).to_be_visible()
        await ask.get_by_label("Token").fill("eight-bells")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("No queries yet.")).to_be_visible()
        await expect(ask).to_have_count(0)

        page = await open_page(f"{deck.url}/#token=eight-bells")
        await expect(page.get_by_text("No queries yet.")).to_be_visible()
        assert page.url == f"{deck.url}/"
        await page.reload()
        await expect(page.get_by_text("No queries yet.")).to_be_visible()


async def test_an_address_that_means_nothing_shows_the_queries(tmp_path: Path, open_page: OpenPage) -> None:
    async with scene(tmp_path) as deck:
        for nothing in ("constructor", "queries/%E0%A4%A"):
            page = await open_page(f"{deck.url}/#{nothing}")
            await expect(page.get_by_text("No queries yet.")).to_be_visible()


async def test_a_page_that_may_only_read_says_so_and_offers_no_control(tmp_path: Path, open_page: OpenPage) -> None:
    async with scene(tmp_path, FEATURE_QUERY_CONTROL="false") as deck:
        [agent] = await deck.spawn("Surveyor")
        await deck.start(agent, "north-bay")
        page = await open_page(deck.url)
        await expect(page.get_by_text("Live, read only")).to_be_visible()
        pause = page.get_by_role("button", name="Pause north-bay")
        await expect(pause).to_have_attribute("aria-disabled", "true")
        await pause.click(force=True)
        await expect(page.get_by_label("Change the model of north-bay")).to_be_disabled()
        await page.get_by_role("link", name="Memory").click()
        await expect(page.get_by_role("button", name="New entry")).to_have_attribute("aria-disabled", "true")
        assert (await deck.query("north-bay"))["status"] == "running"


async def test_a_lost_server_is_told_and_found_again(tmp_path: Path, open_page: OpenPage) -> None:
    async with scene(tmp_path) as deck:
        page = await open_page(deck.url)
        await expect(page.get_by_role("status").get_by_text("Live")).to_be_visible()
        await deck.call("memory_usage", action="store", key="before", value=1)
        deck.server.process.kill()
        await expect(page.get_by_role("alert")).to_contain_text("Disconnected.")
        await expect(page.get_by_role("status").get_by_text("Disconnected")).to_be_visible()
    port = deck.url.rpartition(":")[2]
    async with scene(tmp_path, QUARTERDECK_HTTP_PORT=port):
        await page.get_by_role("button", name="Try now").or_(page.get_by_text("Live")).first.click()
        await expect(page.get_by_role("status").get_by_text("Live")).to_be_visible(timeout=20_000)
        await expect(page.get_by_role("alert")).to_have_count(0)
        await page.get_by_role("link", name="Memory").click()
        await expect(page.get_by_role("row").filter(has_text="before")).to_be_visible()


async def test_the_cache_of_searches_is_shown_by_its_bytes(tmp_path: Path, open_page: OpenPage) -> None:
    async with scene(tmp_path) as deck:
        await deck.call("vector_upsert", collection="buoys", points=[{"id": "1", "text": "a buoy"}])
        await deck.call("vector_search", collection="buoys", query="buoy")
        kept = (await deck.call("server_status"))["caches"]["vectors"]["cache_bytes"]
        assert 1 < kept < 1000
        page = await open_page(f"{deck.url}/#vectors")
        await expect(page.get_by_text(f"Cache: {kept} B,")).to_be_visible()
