"""A deck with something in every view, and the way to each of them."""

from __future__ import annotations

from playwright.async_api import Page, expect

from .scene import Scene

PILOT_BOOK = [
    "The harbour pilot boards every ship at the fairway buoy.",
    "Keep the church spire in line with the white beacon until the breakwater is abeam.",
    "Anchoring is forbidden over the cable east of the lighthouse.",
    "In fog, one long blast every two minutes.",
]
VIEWS = {
    "queries": "survey-north",
    "agents": "Chart Alpha",
    "memory": "watch/first",
    "vectors": "pilot-book",
    "uploads": "soundings.csv",
}
"""And something that stands there."""


async def furnish(deck: Scene) -> None:
    """Fill it."""
    alpha, bravo, charlie, delta = await deck.spawn("Chart Alpha", "Chart Bravo", "Harbour", "Deep water")
    await deck.start(delta, "survey-banks", steps=24, pause=0.01)
    await deck.start(charlie, "survey-harbour", steps=5, pause=0.01, fail="the echo sounder gave no depth")
    await deck.start(bravo, "survey-south", steps=400)
    await deck.start(alpha, "survey-north", steps=900)
    await deck.call("query_wait", queryIds=["survey-banks", "survey-harbour"])
    await deck.call("query_control", action="pause", queryId="survey-south")
    await deck.call("query_start", agentId=delta, queryId="survey-shoal", prompt='{"steps": 2000, "pause": 0.05}')
    await deck.call("query_control", action="terminate", queryId="survey-shoal")
    for namespace, key, value, ttl in (
        ("default", "plan", {"goal": "chart the northern bay", "legs": [1, 2, 3]}, 0),
        ("default", "watch/first", "Ana, Bo and Chi until eight bells", 30 * 3600),
        ("default", "tide", "high water 14:20, 3.1 m", 3600),
        ("findings", "wreck-12", {"depth": 14.2, "swept": True}, 6 * 86_400),
    ):
        await deck.call("memory_usage", action="store", namespace=namespace, key=key, value=value, ttl=ttl)
    points = [{"id": f"page-{number}", "text": text} for number, text in enumerate(PILOT_BOOK, 1)]
    await deck.call("vector_upsert", collection="pilot-book", points=points)
    files = [
        {"name": "soundings.csv", "content": "lat,lon,depth\n54.1,7.9,14.2\n"},
        {"name": "notices.md", "content": "# Notices to mariners\n\nBuoy 7 is adrift.\n"},
    ]
    await deck.call("upload", files=files, index="notices")


async def show(page: Page, view: str) -> None:
    """Go to a view of a furnished deck, and wait until it is drawn."""
    await page.get_by_role("navigation", name="Views").get_by_role("link", name=view.capitalize()).click()
    await expect(page.get_by_role("main").get_by_text(VIEWS[view]).filter(visible=True).first).to_be_visible()
