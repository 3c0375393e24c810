"""The deck's own memory and vector tools, for the calls of a worker under test."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from quarterdeck.storage.errors import DeckError
from quarterdeck.storage.memory.sqlite import SqliteMemoryStore
from quarterdeck.storage.vectors.base import VectorStore
from quarterdeck.storage.vectors.faiss import FaissVectorStore
from quarterdeck.tools.contract import DeckTool, NoClient
from quarterdeck.tools.memory.service import MemoryService
from quarterdeck.tools.memory.tool import memory_tools
from quarterdeck.tools.vectors.service import VectorService
from quarterdeck.tools.vectors.tool import vector_tools
from quarterdeck.tools.vectors.worker_tool import vector_worker_tools
from tests.clock import ManualClock
from tests.embedders import offering
from tests.ready import ready

from .driver import FakeDeck, RefusalError


class RealTools:
    """Serves a worker's calls with the deck's own tools; `before` can get in between."""

    def __init__(self, tools: list[DeckTool], clock: ManualClock) -> None:
        self.clock = clock
        self._tools = {tool.name: tool for tool in tools}
        self.uploads = FakeDeck()
        self.before: Callable[[str, dict[str, Any]], Awaitable[None]] | None = None

    async def __call__(self, tool: str, arguments: dict[str, Any]) -> Any:
        if tool == "uploads":
            return await self.uploads(tool, arguments)
        if self.before is not None:
            await self.before(tool, arguments)
        try:
            return await self._tools[tool].answer(arguments, NoClient())
        except DeckError as exc:
            raise RefusalError(exc.message) from None

    async def put(self, collection: str, **texts: str) -> None:
        points = [{"id": key, "text": text} for key, text in texts.items()]
        await self("vector_upsert", {"collection": collection, "points": points})

    async def memory(self, action: str, namespace: str, key: str, **more: Any) -> Any:
        arguments = {"action": action, "namespace": namespace, "key": key, **more}
        return await self._tools["memory_usage"].answer(arguments, NoClient())


@asynccontextmanager
async def real_tools(
    folder: Path, clock: ManualClock | None = None, synced: VectorStore | None = None
) -> AsyncGenerator[RealTools]:
    """Memory and vectors in `folder`, on a clock that stands still; `synced` is the store called `sync`."""
    clock = clock or ManualClock()
    memory = SqliteMemoryStore(folder / "memory.db")
    vectors: VectorStore = await FaissVectorStore.open(folder / "vectors.db", clock)
    service = VectorService(ready(vectors), offering(), clock, {"sync": ready(synced)} if synced else {})
    try:
        memory_service = MemoryService(ready(memory), clock, 3600, 3600)
        yield RealTools(
            [*memory_tools(memory_service, "sqlite"), *vector_tools(service), *vector_worker_tools(service)], clock
        )
    finally:
        await memory.close()
        await vectors.close()
