"""The MCP server over a deck: registers its tools and serves stdio in both protocol eras."""

from __future__ import annotations

import sys
from importlib.metadata import version

from mcp.server.mcpserver import MCPServer

from .deck import Deck

INSTRUCTIONS = (
    "A deck to command agents from: durable memory (memory_usage), agents that run as real processes "
    "(agents_spawn_parallel, query_start, query_wait, query_control), uploads (upload, uploads) and vector search "
    "(vector_upsert, vector_search). Spawn agents, give each a query, wait for the results."
)


class DeckServer(MCPServer[None]):
    """An MCPServer whose stdio runs without threads where the platform allows."""

    def __init__(self, deck: Deck) -> None:
        super().__init__(
            "quarterdeck",
            title="Quarterdeck",
            version=version("quarterdeck"),
            instructions=INSTRUCTIONS,
            tools=list(deck.tools.values()),
            log_level=deck.settings.log_level,
        )

    async def run_stdio_async(self) -> None:
        """Serve stdin and stdout until the client closes them."""
        if sys.platform == "win32":
            return await super().run_stdio_async()
        from .stdio import can_serve_pipes, pipe_streams

        if not can_serve_pipes():
            return await super().run_stdio_async()
        # The SDK has no public door for a transport of one's own; tests/server/test_stdio.py keeps this one.
        server = self._lowlevel_server
        async with pipe_streams() as (reader, writer):
            return await server.run(reader, writer, server.create_initialization_options())
