"""`python -m tests.clients.conformance_server DATA_DIR`: the real HTTP server, and the suites' fixtures with its tools.

Its door is a port that it prints. What serves is the product's own application over a deck that has the fixtures among
its tools; resources and prompts are added to the MCP server that the application makes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import sys
from pathlib import Path
from typing import Any, cast

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    GetPromptResult,
    InputRequiredResult,
    Prompt,
    PromptReference,
    ResourceTemplateReference,
)

from quarterdeck.server.app import DeckServer
from quarterdeck.server.config import Settings
from quarterdeck.server.deck import Deck, open_deck
from quarterdeck.server.web import app
from quarterdeck.tools.contract import DeckTool

from .conformance_fixtures import add_resources_and_prompts, tools


class FixtureServer(DeckServer):
    """The product's MCP server, and what only the suites ask for."""

    def __init__(self, deck: Deck, *args: Any) -> None:
        super().__init__(deck, *args)
        add_resources_and_prompts(self)

    async def list_prompts(self) -> list[Prompt]:
        return [*await super().list_prompts(), *await MCPServer.list_prompts(self)]

    async def get_prompt(  # pyright: ignore[reportIncompatibleMethodOverride]  a fixture asks first
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[None, Any] | None = None
    ) -> GetPromptResult | InputRequiredResult:
        if name.startswith("test_"):
            return await MCPServer.get_prompt(self, name, arguments, context)
        return await super().get_prompt(name, arguments, context)

    async def _complete(
        self,
        ref: ResourceTemplateReference | PromptReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        if isinstance(ref, PromptReference) and ref.name.startswith("test_"):
            return Completion(values=[])
        return await super()._complete(ref, argument, context)


async def main(data_dir: Path) -> None:
    app.DeckServer = FixtureServer  # the door of the test
    async with open_deck(Settings(data_dir=data_dir, upload_roots=[], http_rate=0)) as deck:
        both = {**deck.tools, **cast("dict[str, DeckTool]", tools())}
        served = app.http_app(dataclasses.replace(deck, tools=both), asyncio.Event())
        with socket.create_server(("127.0.0.1", 0)) as listener:
            print(listener.getsockname()[1], flush=True)
            await uvicorn.Server(uvicorn.Config(served, lifespan="on", log_level="warning")).serve([listener])


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
