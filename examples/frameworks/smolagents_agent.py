# /// script
# requires-python = ">=3.11"
# dependencies = ["smolagents[mcp,openai]>=1.26", "mcp<2"]
# ///
"""A smolagents agent that remembers, spawns workers, waits for them and searches their results.

OPENAI_API_KEY=… uv run examples/frameworks/smolagents_agent.py README.md "What does a pause do?"
"""

import os

from mcp import StdioServerParameters
from smolagents import MCPClient, Model, OpenAIModel, ToolCallingAgent
from task import SERVER, task


def run(model: Model) -> str:
    with MCPClient(StdioServerParameters(**SERVER), structured_output=False) as tools:
        for tool in tools:
            for argument in tool.inputs.values():
                argument["nullable"] = True  # or smolagents asks the model for every optional argument too
        return str(ToolCallingAgent(tools=tools, model=model).run(task()))


if __name__ == "__main__":
    print(run(OpenAIModel(os.environ.get("MODEL", "gpt-5-mini"))))
