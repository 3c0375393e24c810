"""`vector_points` and `vector_put_points`: whole collections for workers, nothing for clients."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quarterdeck.server.client import DeckClient
from quarterdeck.storage.errors import ConflictError, DeniedError, InvalidArgumentError, NotFoundError
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.vectors.faiss import FaissVectorStore
from quarterdeck.tools.agents.rights import Rights
from quarterdeck.tools.contract import DeckTool, NoClient
from quarterdeck.tools.vectors import worker_tool
from quarterdeck.tools.vectors.service import NewPoint, VectorService
from quarterdeck.tools.vectors.worker_tool import vector_worker_tools
from tests.clock import ManualClock
from tests.embedders import offering

VECTORS = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)


@pytest.fixture
async def tools(tmp_path: Path) -> AsyncIterator[dict[str, DeckTool]]:
    store = await FaissVectorStore.open(tmp_path / "vectors.db", ManualClock())

    async def open_store() -> FaissVectorStore:
        return store

    service = VectorService(OnFirstUse(open_store), offering(), ManualClock())
    points = [NewPoint(f"p{n}", vector.tolist(), payload={"n": n, "x": "y" * 100}) for n, vector in enumerate(VECTORS)]
    await service.create("c", 3, "l2")
    await service.upsert("c", points)
    yield {tool.name: tool for tool in vector_worker_tools(service)}
    await store.close()


@pytest.fixture
def tool(tools: dict[str, DeckTool]) -> DeckTool:
    return tools["vector_points"]


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


async def test_points_are_put_as_they_were_read(tools: dict[str, DeckTool]) -> None:
    [page] = await walk(tools["vector_points"], 500)
    points = [{**point, "ttl": 60 if number else 0} for number, point in enumerate(page)]
    for point in points:
        del point["expiresAt"]
    shape = {"dimension": 3, "metric": "l2", "embedder": "some model"}
    for _ in range(2):
        put = await tools["vector_put_points"].answer({"collection": "copy", **shape, "points": points}, NoClient())
        assert put["upserted"] == 7
    copy = await tools["vector_points"].answer({"collection": "copy"}, NoClient())
    assert [point["expiresAt"] for point in copy["points"][:2]] == [None, "2025-06-15T15:07:40.000Z"]
    assert [point["vector"] for point in copy["points"]] == [point["vector"] for point in points]
    for wrong, reason in (
        ({"metric": "cosine"}, "has dimension 3 and metric l2, the points 3 and cosine"),
        ({"dimension": 2}, "has dimension 3 and metric l2, the points 2 and l2"),
        ({"embedder": "another"}, "'some model', these from .*'another'"),
    ):
        with pytest.raises(ConflictError, match=reason):
            await tools["vector_put_points"].answer(
                {"collection": "copy", **shape, **wrong, "points": points}, NoClient()
            )


def test_the_narrowest_agent_may_read_points_but_not_put_them() -> None:
    Rights("plan", ()).check("vector_points", {"collection": "anything"})
    with pytest.raises(DeniedError, match="plan only reads"):
        Rights("plan", {"mine"}).check("vector_put_points", {"collection": "mine"})
    Rights("default", {"mine"}).check("vector_put_points", {"collection": "mine"})
    with pytest.raises(DeniedError, match="writes only to mine, not to 'yours'"):
        Rights("default", {"mine"}).check("vector_put_points", {"collection": "yours"})


async def test_a_worker_is_served_and_a_client_is_not(tmp_path: Path) -> None:
    async with DeckClient(tmp_path) as deck:
        points = [{"id": str(n), "vector": vector.tolist()} for n, vector in enumerate(VECTORS)]
        await deck.call("vector_upsert", collection="c", points=points)
        offered = {tool.name for tool in (await deck.client.list_tools()).tools}
        assert offered.isdisjoint({"vector_points", "vector_put_points"})
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
