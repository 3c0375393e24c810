"""Collections of the deck and of a Qdrant server made equal, in a real worker against the real tools and stores."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.storage.vectors.qdrant import QdrantVectorStore
from tests.clock import ManualClock
from tests.servers.qdrant import QDRANTS, SHIM, QdrantShim, qdrant_place

from .driver import Driver
from .real_tools import RealTools, real_tools

SYNC = {"do": "bidirectional_sync", "kind": "vectors", "left": "sea", "right": "sync:sea"}
NOTHING = {"left": 0, "right": 0}


@pytest.fixture(params=QDRANTS)
async def tools(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[RealTools]:
    clock = ManualClock()
    async with qdrant_place(request, monkeypatch) as (url, api_key):
        qdrant = await QdrantVectorStore.open(url, api_key, clock)
        async with real_tools(tmp_path, clock, qdrant) as tools:
            yield tools
        await qdrant.close()


@pytest.fixture
async def sync(tools: RealTools, tmp_path: Path) -> AsyncIterator[Driver]:
    async with Driver("synchronization", tools) as worker:
        await worker.start(folder=str(tmp_path))
        yield worker


async def points(tools: RealTools, collection: str) -> dict[str, Any]:
    """All of them, with vectors bit for bit."""
    found: dict[str, Any] = {}
    after, is_last = "", False
    while not is_last:
        page = await tools("vector_points", {"collection": collection, "after": after})
        after, is_last = page["points"][-1]["id"] if page["points"] else "", page["isLast"]
        found |= {point["id"]: {**point} for point in page["points"]}
    return found


async def test_both_are_made_equal_whichever_has_changed(tools: RealTools, sync: Driver) -> None:
    await tools.put("sea", whale="whales sing", tide="tides turn", coral="corals grow")
    assert (await sync.run(SYNC))["copied"] == {"left": 0, "right": 3}
    assert await points(tools, "sync:sea") == await points(tools, "sea")
    shapes = [await tools("vector_shape", {"collection": name}) for name in ("sea", "sync:sea")]
    assert shapes[0] == shapes[1]
    assert shapes[0]["embedder"] == "lexical"

    await tools.put("sea", whale="whales dive", both="one")
    await tools.put("sync:sea", tide="tides return", both="two")
    await tools("vector_delete", {"collection": "sync:sea", "ids": ["coral"]})
    second = await sync.run(SYNC)
    assert (second["copied"], second["deleted"]) == ({"left": 1, "right": 1}, {"left": 1, "right": 0})
    assert [(conflict["key"], conflict["kept"]) for conflict in second["conflicts"]] == [("both", None)]
    assert (await sync.run({**SYNC, "rule": "right"}))["conflicts"][0]["kept"] == "right"
    assert {key: point["payload"]["text"] for key, point in (await points(tools, "sea")).items()} == {
        "whale": "whales dive",
        "tide": "tides return",
        "both": "two",
    }
    last = await sync.run({**SYNC, "left": "sync:sea", "right": "sea"})
    assert (last["equal"], last["copied"], last["deleted"], last["conflicts"]) == (3, NOTHING, NOTHING, [])


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
async def test_vectors_payloads_and_lifetimes_come_across_as_they_are(
    tools: RealTools, sync: Driver, metric: str
) -> None:
    shape = {"action": "create", "collection": "sea", "dimension": 3, "metric": metric}
    await tools("vector_collections", shape)
    many: list[dict[str, Any]] = [
        {
            "id": f"p{n}",
            "vector": [n + 0.1, -1 / 3, 1e-7],
            "payload": {"n": n, "nested": {"none": None, "list": [1, 1.5, "1"]}},
            "ttl": 60 if n % 2 else 0,
        }
        for n in range(1, 601)
    ]
    await tools("vector_upsert", {"collection": "sea", "points": many})
    tools.clock.advance(20)
    assert (await sync.run(SYNC))["copied"] == {"left": 0, "right": 600}
    assert await points(tools, "sync:sea") == await points(tools, "sea")
    tools.clock.advance(40)
    answer = await sync.run(SYNC)
    assert (answer["equal"], answer["copied"], answer["deleted"]) == (300, NOTHING, NOTHING)


async def test_what_is_only_there_comes_here(tools: RealTools, sync: Driver) -> None:
    await tools.put("sync:sea", whale="whales sing")
    assert (await sync.run(SYNC))["copied"] == {"left": 1, "right": 0}
    [[hit]] = (await tools("vector_search", {"collection": "sea", "query": "whale"}))["results"]
    assert hit["id"] == "whale"


async def test_another_store_than_the_configured_one_is_refused(tools: RealTools, sync: Driver) -> None:
    await tools.put("sea", whale="whales sing")
    assert "no store 'office' (configured: sync)" in await sync.refuse({**SYNC, "right": "office:sea"})
    assert "a name is 1 to 128 letters" in await sync.refuse({**SYNC, "right": "sync:http://elsewhere"})


@pytest.mark.parametrize("tools", [SHIM], indirect=True)
async def test_a_server_that_is_away_is_no_deletion(tools: RealTools, sync: Driver, qdrant_shim: QdrantShim) -> None:
    await tools.put("sea", whale="whales sing")
    await sync.run(SYNC)
    qdrant_shim.kill()
    try:
        assert re.search("cannot (connect to|be reached)", await sync.refuse(SYNC))  # where it noticed
        assert len(await points(tools, "sea")) == 1
    finally:
        qdrant_shim.restart()
    assert (await sync.run(SYNC))["equal"] == 1
