"""`vector_points`: whole collections for workers, nothing for clients."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quarterdeck.server.client import DeckClient
from quarterdeck.storage.errors import InvalidArgumentError, NotFoundError
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.vectors.faiss import FaissVectorStore
from quarterdeck.tools.agents.rights import Rights
from quarterdeck.tools.contract import DeckTool
from quarterdeck.tools.vectors import worker_tool
from quarterdeck.tools.vectors.embedders.base import Embedder
from quarterdeck.tools.vectors.embedders.lexical import LexicalEmbedder
from quarterdeck.tools.vectors.service import NewPoint, VectorService
from quarterdeck.tools.vectors.worker_tool import vector_worker_tools
from tests.clock import ManualClock

VECTORS = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)


class NoClient:
    async def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        pass


@pytest.fixture
async def tool(tmp_path: Path) -> AsyncIterator[DeckTool]:
    store = await FaissVectorStore.open(tmp_path / "vectors.db", ManualClock())

    async def open_store() -> FaissVectorStore:
        return store

    async def open_embedder() -> Embedder:
        return LexicalEmbedder()

    service = VectorService(OnFirstUse(open_store), OnFirstUse(open_embedder), ManualClock())
    points = [NewPoint(f"p{n}", vector.tolist(), payload={"n": n, "x": "y" * 100}) for n, vector in enumerate(VECTORS)]
    await service.create("c", 3, "l2")
    await service.upsert("c", points)
    made, _ = vector_worker_tools(service)
    yield made
    await store.close()


async def walk(tool: DeckTool, limit: int) -> list[list[dict[str, Any]]]:
    pages: list[list[dict[str, Any]]] = []
    after = ""
    while True:
        page = await tool.answer({"collection": "c", "limit": limit, "after": after}, NoClient())
        assert (page["metric"], page["count"]) == ("l2", 7)
        pages.append(page["points"])
        if page["isLast"]:
            return pages
        after = page["points"][-1]["id"]


async def test_pages_carry_the_exact_vectors_and_payloads(tool: DeckTool) -> None:
    for limit, sizes in ((3, [3, 3, 1]), (7, [7, 0]), (500, [7])):
        pages = await walk(tool, limit)
        assert [len(page) for page in pages] == sizes
        found = [point for page in pages for point in page]
        assert [point["payload"]["n"] for point in found] == list(range(7))
        vectors = np.stack([np.frombuffer(base64.b64decode(point["vector"]), "<f4") for point in found])
        assert np.array_equal(vectors, VECTORS)
    assert json.loads(json.dumps(pages)) == pages


async def test_a_page_ends_before_it_is_too_large_but_has_a_point(
    tool: DeckTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room, sizes in ((300, [2, 2, 2, 1]), (1, [1] * 7)):
        monkeypatch.setattr(worker_tool, "PAGE_BYTES", room)
        assert [len(page) for page in await walk(tool, 500)] == sizes


async def test_mistakes_are_named(tool: DeckTool) -> None:
    with pytest.raises(NotFoundError, match=r"no collection 'nowhere' \(there: c\)"):
        await tool.answer({"collection": "nowhere"}, NoClient())
    with pytest.raises(InvalidArgumentError):
        await tool.answer({"collection": "c", "after": "\ud800"}, NoClient())
    with pytest.raises(InvalidArgumentError, match="limit"):
        await tool.answer({"collection": "c", "limit": 501}, NoClient())


def test_the_narrowest_agent_may_read_points() -> None:
    Rights("plan", ()).check("vector_points", {"collection": "anything"})


async def test_a_worker_is_served_and_a_client_is_not(tmp_path: Path) -> None:
    async with DeckClient(tmp_path) as deck:
        points = [{"id": str(n), "vector": vector.tolist()} for n, vector in enumerate(VECTORS)]
        await deck.call("vector_upsert", collection="c", points=points)
        assert "vector_points" not in {tool.name for tool in (await deck.client.list_tools()).tools}
        refused = await deck.client.call_tool("vector_points", {"collection": "c"})
        assert refused.is_error
        agent = {"type": "pattern_discovery", "name": "p", "permissionMode": "default"}
        [spawned] = (await deck.call("agents_spawn_parallel", agents=[agent]))["results"]
        prompt = json.dumps({"do": "clustering_analysis", "collection": "c", "k": 2})
        query = await deck.call("query_start", agentId=spawned["agentId"], prompt=prompt)
        [done] = (await deck.call("query_wait", queryIds=[query["queryId"]], timeout=60))["results"]
        assert done["status"] == "completed", done
        assert (done["result"]["points"], done["result"]["k"]) == (7, 2)
        kept = await deck.call("memory_usage", action="retrieve", namespace="patterns", key="clusters:c")
        assert kept["value"]["clusters"] == done["result"]["clusters"]
