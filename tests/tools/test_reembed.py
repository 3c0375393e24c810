"""A collection converted to another embedder, on each store: complete, or as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quarterdeck.storage.errors import InvalidArgumentError, NotFoundError
from quarterdeck.storage.vectors.base import Point, VectorStore
from quarterdeck.storage.vectors.faiss import FaissVectorStore
from quarterdeck.storage.vectors.qdrant import QdrantVectorStore
from quarterdeck.tools.vectors.embedders.base import EmbedderError
from quarterdeck.tools.vectors.embedders.lexical import LexicalEmbedder
from quarterdeck.tools.vectors.reembed import PAGE, reembed, successor_of
from tests.clock import ManualClock
from tests.servers.qdrant import QDRANTS, qdrant_place


class Lengths:
    """An embedder that makes a direction of a text's length, and does what a test wants in between."""

    def __init__(self, name: str = "lengths", dimension: int = 3) -> None:
        self.name = name
        self.dimension = dimension
        self.embedded: list[str] = []
        self.meanwhile: Callable[[], Awaitable[Any]] | None = None

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        self.embedded += texts
        rows = np.ones((len(texts), self.dimension), np.float32)
        rows[:, 0] = [len(text) for text in texts]
        unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit.astype(np.float32)

    async def close(self) -> None:
        pass


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["sqlite", *QDRANTS])
async def store(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[VectorStore]:
    if request.param == "sqlite":
        store: VectorStore = await FaissVectorStore.open(tmp_path / "vectors.db", clock)
        yield store
        await store.close()
        return
    async with qdrant_place(request, monkeypatch) as (url, api_key):
        store = await QdrantVectorStore.open(url, api_key, clock)
        yield store
        await store.close()


def texts(*numbers: int) -> list[Point]:
    return [Point(f"p{number:03}", [1.0, number], {"text": "x" * (number + 1), "n": number}) for number in numbers]


async def silent(done: float, total: float, message: str) -> None:
    pass


async def check_converted(store: VectorStore, embedder: Lengths, wanted: dict[str, str]) -> None:
    """Every point has its text's vector, and there is no other."""
    info = await store.describe("c")
    assert (info.embedder, info.dimension) == (embedder.name, embedder.dimension)
    found = await store.page("c", limit=500)
    assert {point.id: point.payload["text"] for point in found} == wanted
    made = await embedder.embed(list(wanted.values()))
    stored = {point.id: np.asarray(point.vector) for point in found}
    assert all(np.allclose(stored[key], row, atol=1e-6) for key, row in zip(wanted, made, strict=True))
    assert [each.name for each in await store.collections(limit=9)] == ["c"]


async def test_options_payloads_and_ends_stay(store: VectorStore, clock: ManualClock) -> None:
    await store.create("c", 2, "dot", "old", index="hnsw", quantization="sq8")
    brief = Point("brief", [1, 1], {"text": "soon gone"}, clock.now() + 5000)
    await store.upsert("c", [*texts(1, 2), brief], embedder="old")
    reports: list[tuple[float, float, str]] = []

    async def report(done: float, total: float, message: str) -> None:
        reports.append((done, total, message))

    info = await reembed(store, "c", Lengths(), report)
    assert (info.metric, info.index, info.quantization) == ("dot", "hnsw", "sq8")
    assert reports[0] == (3, 3, "embedding with lengths")
    [point] = await store.get("c", ["brief"])
    assert (point.payload, point.expires_at) == ({"text": "soon gone"}, clock.now() + 5000)
    await check_converted(store, Lengths(), {"brief": "soon gone", "p001": "xx", "p002": "xxx"})


async def test_what_is_as_wanted_is_left_alone(store: VectorStore) -> None:
    await store.create("c", 3, "cosine", "lengths")
    await store.upsert("c", [Point("own", [1, 2, 3])], embedder="lengths")
    embedder = Lengths()
    await reembed(store, "c", embedder, silent)
    assert embedder.embedded == []


@pytest.mark.parametrize("count", [3, PAGE + 5])
async def test_what_others_write_meanwhile_is_not_lost(store: VectorStore, count: int) -> None:
    await store.upsert("c", texts(*range(count)), embedder="old")
    embedder = Lengths()

    async def meanwhile() -> None:
        await store.upsert("c", [Point("p001", [1, 1], {"text": "changed"}), *texts(900)], embedder="old")
        await store.delete("c", ["p002"])

    embedder.meanwhile = meanwhile
    await reembed(store, "c", embedder, silent)
    wanted = {point.id: str(point.payload["text"]) for point in texts(*range(count), 900) if point.id != "p002"}
    await check_converted(store, Lengths(), {**wanted, "p001": "changed"})


async def test_a_failure_leaves_the_old_and_the_next_goes_on(store: VectorStore) -> None:
    await store.upsert("c", texts(*range(PAGE + 1)), embedder="old")
    embedder = Lengths()

    async def fail(done: float, total: float, message: str) -> None:
        raise EmbedderError("no more")

    with pytest.raises(EmbedderError):
        await reembed(store, "c", embedder, fail)
    assert (await store.describe("c")).embedder == "old"
    assert (len(embedder.embedded), await store.count("c")) == (PAGE, PAGE + 1)
    again = Lengths()
    await reembed(store, "c", again, silent)
    assert len(again.embedded) == 1
    await check_converted(store, Lengths(), {point.id: point.payload["text"] for point in texts(*range(PAGE + 1))})


async def test_what_another_embedder_has_left_is_thrown_away(store: VectorStore) -> None:
    await store.upsert("c", texts(1, 2), embedder="old")
    await store.upsert(successor_of("c"), texts(1, 2), embedder="given up")
    await reembed(store, "c", Lengths(), silent)
    await check_converted(store, Lengths(), {"p001": "xx", "p002": "xxx"})


@pytest.mark.parametrize("payload", [{}, {"text": 5}, {"text": None}])
async def test_a_point_without_text_is_named(store: VectorStore, payload: dict[str, Any]) -> None:
    await store.upsert("c", [*texts(1), Point("bare", [1, 1], payload)], embedder=None)
    with pytest.raises(InvalidArgumentError, match=r"point 'bare' has no payload\.text"):
        await reembed(store, "c", Lengths(), silent)
    assert (await store.describe("c")).embedder is None


async def test_a_missing_collection_is_not_made(store: VectorStore) -> None:
    with pytest.raises(NotFoundError):
        await reembed(store, "c", Lengths(), silent)
    assert await store.collections(limit=9) == []


async def test_two_at_once_do_the_same(store: VectorStore) -> None:
    await store.create("c", 2, "dot", "old")
    await store.upsert("c", texts(*range(30)), embedder="old")
    first, second = Lengths(), Lengths()
    infos = await asyncio.gather(*(reembed(store, "c", embedder, silent) for embedder in (first, second)))
    assert {(info.embedder, info.metric) for info in infos} == {("lengths", "dot")}
    await check_converted(store, Lengths(), {point.id: point.payload["text"] for point in texts(*range(30))})


async def test_one_that_was_overtaken_does_not_undo_the_other(store: VectorStore) -> None:
    await store.create("c", 2, "dot", "old")
    await store.upsert("c", texts(1, 2), embedder="old")
    slow = Lengths()

    async def overtake() -> None:
        await reembed(store, "c", Lengths(), silent)

    slow.meanwhile = overtake
    assert (await reembed(store, "c", slow, silent)).metric == "dot"
    await check_converted(store, Lengths(), {"p001": "xx", "p002": "xxx"})


async def test_a_text_that_cannot_be_embedded_is_refused(store: VectorStore) -> None:
    await store.upsert("c", [Point("blank", [1, 1], {"text": "..."})], embedder="old")
    with pytest.raises(InvalidArgumentError, match="no letter or digit"):
        await reembed(store, "c", LexicalEmbedder(), silent)
    assert (await store.describe("c")).embedder == "old"
