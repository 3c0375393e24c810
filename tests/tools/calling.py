"""Calling a tool as a client does."""

from __future__ import annotations

import json
from typing import Any

from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp_types import TextContent


async def call(server: MCPServer, tool: str, arguments: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Whether it is an error, and the answer, which the text says too."""
    async with Client(server) as client:
        result = await client.call_tool(tool, arguments)
    (text,) = result.content
    assert isinstance(text, TextContent)
    answer = json.loads(text.text)
    assert answer == result.structured_content
    return bool(result.is_error), answer
