"""A full deck: 200 agents, 1,000 queries, and 50 changes a second by another process on the same data directory."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, expect

from quarterdeck.storage.runs.base import Agent, Query
from quarterdeck.storage.runs.sqlite import SqliteRunStore
from quarterdeck.tools.agents.processes import identify

from .conftest import OpenPage
from .scene import Scene

LONG = 200  # ms
SECONDS = 8
CATEGORIES = ["__metadata", "toplevel", "disabled-by-default-devtools.timeline"]


def longest_task(trace: bytes) -> float:
    """Of the page's main thread, in milliseconds of its own processor time: what else this machine does counts not."""
    events: list[dict[str, Any]] = json.loads(trace)["traceEvents"]
    mains = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        event["tdur"] / 1000
        for event in events
        if event["name"] == "RunTask" and (event["pid"], event["tid"]) in mains and "tdur" in event
    ]
    assert len(tasks) > 100  # it has worked
    return max(tasks)


async def test_the_page_stays_responsive(deck: Scene, browser: Browser) -> None:
    owner, now = identify(os.getpid()), time.time_ns() // 1_000_000
    store = SqliteRunStore(deck.server.data_dir / "runs.db")
    agents = [Agent(f"a-{n:03}", "surveyor", f"Agent {n}", "process", owner, now, status="idle") for n in range(200)]
    queries = [
        Query(f"q-{n:04}", f"a-{n % 200:03}", "surveyor", "{}", owner, now, status="running", started_at=now)
        for n in range(1000)
    ]
    try:
        for agent in agents:
            await store.put_agent(agent)
        for query in queries:
            await store.add_query(query)
        page = await browser.new_page()
        await browser.start_tracing(page=page, categories=CATEGORIES)
        await page.goto(deck.url)
        await expect(page.get_by_role("group", name="Queries by state")).to_contain_text("1,000")
        changes = 0
        began = time.monotonic()
        while (passed := time.monotonic() - began) < SECONDS:
            query = queries[-1 - changes % 20]  # the page shows them
            progress = {"done": changes, "total": 1000, "message": f"change {changes}"}
            await store.put_query(replace(query, progress=progress, told_at=now + changes))
            changes += 1
            await asyncio.sleep(max(0.0, changes / 50 - passed))
        await expect(page.get_by_text(f"change {changes - 1}")).to_be_visible()
        await page.get_by_role("link", name="Agents").click()
        await expect(page.get_by_text("Agent 199")).to_be_visible()
        assert changes > 45 * SECONDS
        assert longest_task(await browser.stop_tracing()) < LONG
        await page.close()
    finally:
        await store.close()


async def test_the_first_view_is_small(deck: Scene, open_page: OpenPage, tmp_path: Path) -> None:
    page = await open_page(deck.url)
    await expect(page.get_by_role("group", name="Queries by state")).to_be_visible()
    sizes = await page.evaluate(
        "performance.getEntries().filter(e => 'encodedBodySize' in e).map(e => [e.name, e.encodedBodySize])"
    )
    assert len(sizes) > 3
    assert sum(size for _, size in sizes) < 100_000, sizes
