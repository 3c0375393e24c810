# /// script
# requires-python = ">=3.11"
# dependencies = ["openai-agents>=0.24"]
# ///
"""An agent of the OpenAI Agents SDK that remembers, spawns workers, waits for them and searches their results.

OPENAI_API_KEY=… uv run examples/frameworks/openai_agent.py README.md "What does a pause do?"
"""

import asyncio
import os

from agents import Agent, Model, Runner
from agents.mcp import MCPServerStdio
from task import SERVER, task


async def run(model: Model | str) -> str:
    # Waiting for agents takes longer than the five seconds that the SDK gives a call.
    async with MCPServerStdio(params=SERVER, client_session_timeout_seconds=120) as deck:
        agent = Agent(name="Navigator", model=model, mcp_servers=[deck])
        done = await Runner.run(agent, task(), max_turns=50)
    return str(done.final_output)


if __name__ == "__main__":
    print(asyncio.run(run(os.environ.get("MODEL", "gpt-5-mini"))))
