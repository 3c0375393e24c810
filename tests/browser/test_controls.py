"""Clicks, checked in the processes that they are about."""

from __future__ import annotations

import psutil
from playwright.async_api import Locator, Page, expect

from tests.until import until

from .conftest import OpenPage
from .scene import Scene


def row(page: Page, query_id: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=query_id, exact=True))


def card(page: Page, name: str) -> Locator:
    return page.get_by_role("group", name="Queries by state").get_by_role("button", name=name)


async def test_clicks_pause_resume_change_the_model_and_terminate_for_everybody_who_looks_on(
    deck: Scene, open_page: OpenPage
) -> None:
    [agent] = await deck.spawn("Surveyor")
    process = psutil.Process((await deck.agent(agent))["pid"])
    here, there = await open_page(deck.url), await open_page(deck.url)
    await expect(card(here, "Paused")).to_contain_text("0")
    await deck.start(agent, "north-bay")  # comes up by itself
    await expect(row(here, "north-bay")).to_contain_text("running")
    await expect(row(there, "north-bay")).to_contain_text("small-1")

    await here.get_by_role("button", name="Pause north-bay").click()
    await until(lambda: process.status() == psutil.STATUS_STOPPED)
    await expect(row(there, "north-bay")).to_contain_text("paused")
    await expect(card(there, "Paused")).to_contain_text("1")
    await expect(here.get_by_text("Pause: applied")).to_be_visible()
    await expect(here.get_by_role("button", name="Resume north-bay")).to_be_focused()  # where one pressed Pause

    await there.get_by_role("button", name="Resume north-bay").click()
    await until(lambda: process.status() != psutil.STATUS_STOPPED)
    await expect(row(here, "north-bay")).to_contain_text("running")

    await here.get_by_label("Change the model of north-bay").select_option("large")
    await expect(here.get_by_text("Change of model: queued")).to_be_visible()  # not applied: nobody has seen it yet
    await expect(row(there, "north-bay")).to_contain_text("large")  # shown once the worker has said so
    assert (await deck.query("north-bay"))["model"] == "large"

    await here.get_by_role("button", name="Terminate north-bay").click()
    question = here.get_by_role("dialog", name="Terminate this query?")
    await question.get_by_role("button", name="Cancel").click()
    await expect(here.get_by_role("button", name="Terminate north-bay")).to_be_focused()
    assert process.is_running()
    await here.keyboard.press("Enter")
    await question.get_by_role("button", name="Terminate").click()
    await until(lambda: not process.is_running())
    for page in (here, there):
        await expect(row(page, "north-bay")).to_contain_text("terminated")
        await expect(card(page, "Terminated")).to_contain_text("1")
        await expect(page.get_by_role("button", name="Pause north-bay")).to_have_count(0)

    await row(here, "north-bay").get_by_role("link").click()
    detail = here.get_by_role("dialog", name="north-bay")
    for control in ("pause: applied", "resume: applied", "change model: queued", "terminate: applied"):
        await expect(detail.get_by_text(control)).to_be_visible()
    await expect(detail.get_by_text("freeze, 1 process stopped")).to_be_visible()
    await here.keyboard.press("Escape")
    await expect(row(here, "north-bay").get_by_role("link")).to_be_focused()


async def test_what_cannot_be_done_is_shown_with_its_reason(deck: Scene, open_page: OpenPage) -> None:
    [agent] = await deck.spawn("Pump", kind="pump")
    await deck.call("query_start", agentId=agent, queryId="bilge", prompt="pump")
    page = await open_page(deck.url)
    await page.get_by_label("Change the model of bilge").select_option("large")
    message = page.get_by_label("Messages").locator(".message")
    await expect(message).to_contain_text("Change of model: unsupported")
    [asked] = (await deck.query("bilge"))["audit"]
    await expect(message).to_contain_text(asked["reason"])


async def test_an_agent_is_seen_at_work_and_stopped(deck: Scene, open_page: OpenPage) -> None:
    [agent] = await deck.spawn("Surveyor")
    await deck.start(agent, "work")
    process = psutil.Process((await deck.agent(agent))["pid"])
    page = await open_page(f"{deck.url}/#agents")
    shown = page.get_by_role("row").filter(has_text=agent)
    await expect(shown).to_contain_text("busy")
    await expect(shown.locator('[data-label="Memory"]')).to_contain_text("MB")
    await expect(shown.locator('[data-label="CPU"]')).to_contain_text("%")  # after its second look
    await page.get_by_role("button", name=f"History of {agent}").click()
    await expect(page.get_by_role("dialog", name=agent).get_by_text("query started")).to_be_visible()
    await page.get_by_role("button", name="Close").click()
    await page.get_by_role("button", name=f"Stop {agent}").click()
    await page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    await until(lambda: not process.is_running())
    await expect(shown).to_have_count(0)  # it shows those that live
