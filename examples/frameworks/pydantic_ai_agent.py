# /// script
# requires-python = ">=3.11"
# dependencies = ["pydantic-ai-slim[mcp,openai,anthropic]>=2.68,<3"]
# ///
"""A Pydantic AI agent that remembers, spawns workers, waits for them and searches their results.

OPENAI_API_KEY=… uv run examples/frameworks/pydantic_ai_agent.py README.md "What does a pause do?"
MODEL=anthropic:claude-sonnet-4-5 ANTHROPIC_API_KEY=… uv run …
"""

import asyncio
import os

from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.models import Model
from task import SERVER, task


async def run(model: Model | str) -> str:
    deck = MCPToolset(StdioTransport(**SERVER), init_timeout=60)  # on a busy machine a start can take longer than 5 s
    agent = Agent(model, toolsets=[deck])
    async with agent:  # one server for the whole run: its agents end with it
        return (await agent.run(task())).output


if __name__ == "__main__":
    print(asyncio.run(run(os.environ.get("MODEL", "openai:gpt-5-mini"))))
