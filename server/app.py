"""The MCP server over a deck: registers its tools and serves stdio in both protocol eras."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

from mcp.server.context import ServerMiddleware
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.subscriptions import InMemorySubscriptionBus
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolResult,
    Completion,
    CompletionArgument,
    CompletionContext,
    GetPromptResult,
    InputRequiredResult,
    Prompt,
    PromptReference,
    ResourceTemplate,
    ResourceTemplateReference,
)
from pydantic import AnyUrl

from quarterdeck.storage.errors import NotFoundError
from quarterdeck.tools.contract import refused
from quarterdeck.tools.memory.resource import MemoryResource
from quarterdeck.tools.uploads.resource import UploadResource
from quarterdeck.tools.vectors.completion import collections_beginning

from .chat_page import chat_page, opening
from .deck import Deck
from .prompts import Prompts
from .resources import MemoryResources
from .run_resources import RunResources
from .upload_resources import UploadResources

INSTRUCTIONS = (
    "A deck to command agents from: durable memory (memory_usage), agents that run as real processes "
    "(agents_spawn_parallel, query_start, query_wait), uploads (upload, uploads) and vector search "
    "(vector_upsert, vector_search). Spawn agents, give each a query, wait for the results."
)


class DeckServer(MCPServer[None]):
    """An MCPServer whose stdio runs without threads where the platform allows."""

    def __init__(self, deck: Deck, middleware: Sequence[ServerMiddleware[Any]] = ()) -> None:
        bus = InMemorySubscriptionBus()
        self._memory = MemoryResources(deck.memory, bus)
        self._uploads = UploadResources(deck.uploads)
        self._runs = RunResources(deck.reports)
        self._prompts = Prompts(
            deck.types,
            {
                "document": UploadResource(deck.uploads).keys,
                "namespace": MemoryResource(deck.memory).namespaces,
                "collection": partial(collections_beginning, deck.vectors),
            },
        )
        super().__init__(
            "quarterdeck",
            title="Quarterdeck",
            version=version("quarterdeck"),
            instructions=INSTRUCTIONS,
            tools=[opening(tool) for tool in deck.tools.values()],
            extensions=[chat_page()],
            log_level=deck.settings.log_level,
            subscriptions=bus,
            middleware=[*middleware, self._memory.listening],
        )
        self.completion()(self._complete)  # type: ignore[no-untyped-call]  # the SDK's decorator has no types
        self._deck = deck

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[None, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Serve one call and time it. An unknown tool is a refusal too: models do not see errors of the protocol."""
        if name not in self._deck.tools:
            return refused(NotFoundError(f"unknown tool {name[:80]!r} (tools: {', '.join(self._deck.tools)})"))
        try:
            with self._deck.meter.measure(name) as call:
                result = await super().call_tool(name, arguments, context)
                call.failed = isinstance(result, CallToolResult) and bool(result.is_error)
            return result
        finally:
            self._memory.watch.look_soon()  # what the call wrote

    async def list_prompts(self) -> list[Prompt]:
        """Plans of work for a person to choose from."""
        return self._prompts.list()

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        context: Context[None, Any] | None = None,  # noqa: ARG002  the SDK passes it
    ) -> GetPromptResult:
        """One plan, written out.

        Raises:
            MCPError: there is no such prompt, or an argument cannot be used.
        """
        return self._prompts.get(name, arguments or {})

    async def list_resource_templates(self) -> list[ResourceTemplate]:
        """The templates; of what they stand for, `resources/list` has nothing, since tools list what there is."""
        others = await super().list_resource_templates()
        return [*others, self._memory.template, self._uploads.template, *self._runs.templates]

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[None, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        """Read a memory, an upload, an agent, a query, or whatever else is registered.

        Raises:
            ResourceNotFoundError, ResourceError: it is not there, or cannot be read.
        """
        if str(uri).startswith("memory:"):
            return [await self._memory.read(str(uri))]
        if str(uri).startswith("upload:"):
            return [await self._uploads.read(str(uri))]
        if str(uri).startswith(("agent:", "query:")):
            return [await self._runs.read(str(uri))]
        return await super().read_resource(uri, context)

    async def _complete(
        self,
        ref: ResourceTemplateReference | PromptReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        if isinstance(ref, PromptReference):
            return await self._prompts.complete(ref.name, argument)
        for resources in (self._memory, self._uploads):
            if ref.uri == resources.template.uri_template:
                return await resources.complete(argument, context)
        raise MCPError(
            INVALID_PARAMS,
            f"ref: only prompts and the resource templates {self._memory.template.uri_template} and "
            f"{self._uploads.template.uri_template} have completions",
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
