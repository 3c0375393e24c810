"""The deck's own tools for a session: an MCP server in this process, which the SDK serves to Claude Code."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from claude_agent_sdk import McpSdkServerConfig, SdkMcpTool, create_sdk_mcp_server
from pydantic_core import to_json

from quarterdeck.storage.errors import DeckError
from quarterdeck.tools.contract import DeckTool

from ...rights import CALLABLE
from ..base import CallDeck

log = logging.getLogger(__name__)


def deck_server(name: str, tools: Iterable[DeckTool], call: CallDeck) -> McpSdkServerConfig:
    """Those of `tools` that agents may call; `call` makes the call, with the agent's rights."""
    offered = [
        SdkMcpTool[Any](
            tool.name, tool.description or "", {"properties": {}, **tool.parameters}, _handler(tool.name, call)
        )
        for tool in tools
        if tool.name in CALLABLE
    ]
    return create_sdk_mcp_server(name, tools=offered)


def _handler(tool: str, call: CallDeck) -> Callable[[Any], Awaitable[dict[str, Any]]]:
    async def handle(arguments: Any) -> dict[str, Any]:
        try:
            answer, refused = to_json(await call(tool, arguments)).decode(), False
        except DeckError as exc:
            answer, refused = exc.message, True
        except Exception:  # the top of a background task: the model waits for an answer
            log.exception("call of %s by an agent on Claude Code", tool)
            answer, refused = f"{tool}: an internal error; the server's log has it", True
        return {"content": [{"type": "text", "text": answer}], "is_error": refused}

    return handle
