"""Vector collections, synchronised, exported and brought back, in a real worker against the real tools."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from .driver import Driver, RefusalError
from .real_tools import RealTools, real_tools

SYNC = {"do": "bidirectional_sync", "kind": "vectors", "left": "left", "right": "right"}


@pytest.fixture
async def tools(tmp_path: Path) -> AsyncIterator[RealTools]:
    async with real_tools(tmp_path) as tools:
        yield tools


@pytest.fixture
async def sync(tools: RealTools, tmp_path: Path) -> AsyncIterator[Driver]:
    async with Driver("synchronization", tools) as worker:
        await worker.start(folder=str(tmp_path))
        yield worker


async def points(tools: RealTools, collection: str) -> dict[str, Any]:
    page = await tools("vector_points", {"collection": collection})
    return {point.pop("id"): point for point in page["points"]}


async def shape(tools: RealTools, collection: str) -> dict[str, Any]:
    [info] = (await tools("vector_collections", {"action": "describe", "collection": collection}))["collections"]
    return {field: info[field] for field in ("dimension", "metric", "embedder", "count")}


async def test_collections_are_made_equal_point_by_point(tools: RealTools, sync: Driver) -> None:
    await tools.put("left", whale="whales sing", tide="tides turn", coral="corals grow")
    first = await sync.run(SYNC)
    assert first["copied"] == {"left": 0, "right": 3}
    assert await shape(tools, "right") == await shape(tools, "left")
    assert await points(tools, "right") == await points(tools, "left")
    [[hit]] = (await tools("vector_search", {"collection": "right", "query": "whale", "limit": 1}))["results"]
    assert hit["id"] == "whale"

    await tools.put("left", whale="whales dive", both="one")
    await tools.put("right", tide="tides return", both="two")
    await tools("vector_delete", {"collection": "right", "ids": ["coral"]})
    second = await sync.run(SYNC)
    assert (second["copied"], second["deleted"]) == ({"left": 1, "right": 1}, {"left": 1, "right": 0})
    [conflict] = second["conflicts"]
    assert (conflict["key"], conflict["kept"], conflict["left"]["updated"]) == ("both", None, None)
    assert '"text":"one"' in conflict["left"]["content"]
    third = await sync.run({**SYNC, "rule": "right"})
    assert third["conflicts"][0]["kept"] == "right"
    assert await points(tools, "left") == await points(tools, "right")
    assert {key: point["payload"]["text"] for key, point in (await points(tools, "left")).items()} == {
        "whale": "whales dive",
        "tide": "tides return",
        "both": "two",
    }
    assert (await sync.run(SYNC))["equal"] == 3


async def test_many_points_with_their_lifetimes_cross_the_pages(tools: RealTools, sync: Driver) -> None:
    many = [{"id": f"p{n}", "vector": [n + 0.1, -1 / 3], "ttl": 60 if n % 2 else 0} for n in range(1, 701)]
    await tools("vector_collections", {"action": "create", "collection": "left", "dimension": 2, "metric": "l2"})
    await tools("vector_upsert", {"collection": "left", "points": many})
    tools.clock.advance(20)
    assert (await sync.run(SYNC))["copied"] == {"left": 0, "right": 700}
    assert await shape(tools, "right") == {"dimension": 2, "metric": "l2", "embedder": None, "count": 700}
    assert await points(tools, "right") == await points(tools, "left")
    tools.clock.advance(40)
    answer = await sync.run(SYNC)
    assert (answer["equal"], answer["copied"], answer["deleted"]) == (350, *[{"left": 0, "right": 0}] * 2)
    assert (await shape(tools, "right"))["count"] == 350


async def test_what_does_not_fit_or_has_gone_is_refused(tools: RealTools, sync: Driver) -> None:
    assert "no collection 'left' and no 'right'" in await sync.refuse(SYNC)
    await tools.put("left", a="whales")
    assert "points have no times" in await sync.refuse({**SYNC, "rule": "newer"})
    await tools("vector_upsert", {"collection": "other", "points": [{"id": "a", "vector": [1, 2]}]})
    assert "their points do not fit each other" in await sync.refuse({**SYNC, "right": "other"})
    await sync.run(SYNC)
    await tools("vector_collections", {"action": "drop", "collection": "right"})
    assert "only 'left' is left" in await sync.refuse(SYNC)
    await tools("vector_collections", {"action": "create", "collection": "right"})
    assert (await sync.run(SYNC))["deleted"] == {"left": 1, "right": 0}


async def test_a_dropped_collection_comes_back_from_a_snapshot(tools: RealTools, sync: Driver) -> None:
    await tools.put("sea", whale="whales sing", tide="tides turn")
    vectors = [{"id": "x", "vector": [0.1, 2e-9], "payload": {"n": None}, "ttl": 30}, {"id": "y", "vector": [1, 1]}]
    await tools("vector_collections", {"action": "create", "collection": "raw", "dimension": 2, "metric": "dot"})
    await tools("vector_upsert", {"collection": "raw", "points": vectors})
    before = {name: (await shape(tools, name), await points(tools, name)) for name in ("sea", "raw")}
    named = {"do": "disaster_recovery", "name": "all"}
    taken = await sync.run({**named, "action": "snapshot", "collections": ["sea", "raw"]})
    assert [store["records"] for store in taken["stores"]] == [2, 2]
    for name in ("sea", "raw"):
        await tools("vector_collections", {"action": "drop", "collection": name})
    restored = await sync.run({**named, "action": "restore"})
    assert [(store["name"], store["written"]) for store in restored["restored"]] == [("sea", 2), ("raw", 2)]
    assert {name: (await shape(tools, name), await points(tools, name)) for name in ("sea", "raw")} == before
    assert [one["unchanged"] for one in (await sync.run({**named, "action": "restore"}))["restored"]] == [2, 2]
    refusal = await sync.refuse({**named, "name": "no", "action": "snapshot", "collections": ["nowhere"]})
    assert "nowhere" in refusal


async def test_an_export_of_points_is_the_same_for_the_same_points(tools: RealTools, sync: Driver) -> None:
    await tools.put("sea", whale="whales sing", tide="tides turn")
    export = {"do": "git_integration", "collections": ["sea"]}
    first = await sync.run(export)
    assert [file["file"] for file in first["files"]] == ["vectors/sea.jsonl"]
    await tools.put("sea", whale="whales sing")
    assert not (await sync.run(export))["committed"]


@pytest.mark.parametrize("vector", ["no base64", "AAA=", "AACAPw=="])
async def test_a_vector_that_is_none_is_refused(tools: RealTools, vector: str) -> None:
    point: dict[str, Any] = {"id": "p", "vector": vector, "payload": {}}
    with pytest.raises(RefusalError, match="p"):
        await tools("vector_put_points", {"collection": "c", "dimension": 2, "metric": "cosine", "points": [point]})
