# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "langchain>=1.5",
#     "langchain-mcp-adapters>=0.3.2",
#     "langchain-openai>=1",
#     "mcp<2",  # the adapters are written for it
# ]
# ///
"""A LangGraph agent that remembers, spawns workers, waits for them and searches their results.

OPENAI_API_KEY=… uv run examples/frameworks/langgraph_agent.py README.md "What does a pause do?"
"""

import asyncio
import os

from langchain.agents import create_agent
from langchain.chat_models import BaseChatModel, init_chat_model
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools
from task import SERVER, task


async def run(model: BaseChatModel) -> str:
    client = MultiServerMCPClient({"quarterdeck": {"transport": "stdio", **SERVER}})
    async with client.session("quarterdeck") as session:  # one server for the whole run: its agents end with it
        agent = create_agent(model, await load_mcp_tools(session))
        done = await agent.ainvoke({"messages": [("user", task())]}, {"recursion_limit": 100})
    return done["messages"][-1].text


if __name__ == "__main__":
    print(asyncio.run(run(init_chat_model(os.environ.get("MODEL", "openai:gpt-5-mini")))))
