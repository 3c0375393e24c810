"""The page inside a chat: the official host bridge, a real MCP connection over stdio, and the layout in Chromium."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
from mcp_types import TextResourceContents
from playwright.async_api import Browser, expect

from quarterdeck.server.client import DeckClient
from tests.until import until

from .scene import TYPES

HOST = Path(".dev/browser/host.js")  # made by `make setup-browser` of host.js and the official package
URI = "ui://quarterdeck/deck"
# What the specification of MCP Apps allows a page that asks for nothing.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; media-src 'self' data:; connect-src 'none'"
)
CHAT = '<!doctype html><title>Chat</title><script src="host.js"></script><iframe title="app" width="600"></iframe>'


async def test_a_chat_shows_the_deck_and_steers_it(tmp_path: Path, browser: Browser) -> None:
    environment = {"QUARTERDECK_AGENTS": json.dumps({"types": TYPES})}
    async with DeckClient(tmp_path / "data", environment=environment) as deck:
        tools = {tool.name: tool for tool in (await deck.client.list_tools()).tools}
        for name in ("query_list", "agents_list", "server_status"):
            assert tools[name].meta == {"ui": {"resourceUri": URI}, "ui/resourceUri": URI}
        [page_read] = (await deck.client.read_resource(URI)).contents
        assert page_read.mime_type == "text/html;profile=mcp-app"
        assert isinstance(page_read, TextResourceContents)
        assert (await deck.call("query_list"))["stats"]["total"] == 0  # useful without a page, too

        context = await browser.new_context(viewport={"width": 640, "height": 900})
        page = await context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))

        not_yet = ["the server is starting"]

        async def call_tool(name: str, arguments: dict[str, Any]) -> Any:
            if name == "server_status" and not_yet:
                raise ConnectionError(not_yet.pop())
            result = await deck.client.call_tool(name, arguments)
            return result.model_dump(mode="json", by_alias=True, exclude_none=True)

        async def read_resource(uri: str) -> Any:
            result = await deck.client.read_resource(uri)
            return result.model_dump(mode="json", by_alias=True, exclude_none=True)

        await page.expose_function("callTool", call_tool)  # pyright: ignore[reportUnknownMemberType]
        await page.expose_function("readResource", read_resource)  # pyright: ignore[reportUnknownMemberType]
        csp = {"Content-Security-Policy": POLICY}
        await page.route(
            "http://chat.example/*",
            lambda route: (
                route.fulfill(path=HOST, content_type="text/javascript")
                if route.request.url.endswith("host.js")
                else route.fulfill(body=CHAT, content_type="text/html", headers=csp)
            ),
        )
        await page.goto("http://chat.example/")
        opened_by = {"theme": "dark", "toolInfo": {"tool": {"name": "agents_list", "inputSchema": {"type": "object"}}}}
        await page.evaluate("([html, context]) => show(html, context)", [page_read.text, opened_by])
        app = page.frame_locator("iframe")
        await app.get_by_role("button", name="Try now").click()
        await expect(app.get_by_role("heading", name="Live agents")).to_be_visible()  # what that tool lists
        await expect(app.locator("html")).to_have_attribute("data-theme", "dark")

        spawned = await deck.call("agents_spawn_parallel", agents=[{"type": "surveyor", "name": "Surveyor"}])
        agent = spawned["results"][0]["agentId"]
        await expect(app.get_by_role("link", name=agent)).to_be_visible()  # looked for: no event comes this way
        pid = (await deck.call("agents_list"))["agents"][0]["pid"]
        prompt = json.dumps({"steps": 100_000, "pause": 0.05})
        await deck.call("query_start", agentId=agent, queryId="north-bay", prompt=prompt)
        await app.get_by_role("link", name="Queries").click()
        await app.get_by_role("button", name="Pause north-bay").click()
        await until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
        await app.get_by_role("link", name="north-bay").click()
        await expect(app.get_by_role("dialog").get_by_text("pause: applied")).to_be_visible()
        await app.get_by_role("button", name="Close").click()
        await app.get_by_role("button", name="Terminate north-bay").click()
        await app.get_by_role("dialog").get_by_role("button", name="Terminate").click()
        await until(lambda: not psutil.pid_exists(pid))
        await expect(app.get_by_role("row").filter(has_text="north-bay")).to_contain_text("terminated")

        frame = page.frames[1]
        assert await frame.evaluate("document.documentElement.scrollWidth") <= 600  # nothing is cut off
        height = await frame.evaluate("Math.ceil(document.documentElement.getBoundingClientRect().height)")
        await until(lambda: page.locator("iframe").evaluate(f"frame => frame.offsetHeight >= {height}"))
        await page.evaluate("bridge.setHostContext({theme: 'light'})")
        await expect(app.locator("html")).to_have_attribute("data-theme", "light")
        await context.close()
        assert complaints == []
