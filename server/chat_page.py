"""The dashboard as an MCP App: a page that a host shows inside a chat, beside the answers of the tools that open it."""

from __future__ import annotations

from typing import Any

from mcp.server.apps import APP_MIME_TYPE, Apps
from mcp.server.mcpserver.resources import Resource

from quarterdeck.tools.contract import DeckTool

URI = "ui://quarterdeck/deck"
OPENED_BY = ("query_list", "agents_list", "server_status")
META: dict[str, Any] = {"ui": {"resourceUri": URI}, "ui/resourceUri": URI}
"""The second name is the one that older hosts read."""


class ChatPage(Resource):
    """Made of the dashboard's files when a host asks for it: most never do."""

    async def read(self) -> str:
        from .dashboard.app_page import app_page

        return app_page()


def chat_page() -> Apps:
    """The extension that offers the page."""
    apps = Apps()
    apps.add_resource(
        ChatPage(
            uri=URI,
            name="deck",
            title="Quarterdeck",
            description="Agents, queries, memory, vectors and uploads, live, with their controls.",
            mime_type=APP_MIME_TYPE,
        )
    )
    return apps


def opening(tool: DeckTool) -> DeckTool:
    """The tool; one that opens the page says so."""
    return tool.model_copy(update={"meta": META}) if tool.name in OPENED_BY else tool
