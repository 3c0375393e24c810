"""What every vector backend must do; a backend joins by one more parameter of the fixture."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from quarterdeck.storage.cache import TieredCache
from quarterdeck.storage.errors import (
    ConflictError,
    DeckError,
    InvalidArgumentError,
    LimitError,
    NotFoundError,
    UnsupportedError,
)
from quarterdeck.storage.vectors.base import (
    MAX_DIMENSION,
    MAX_ID_CHARS,
    MAX_PAYLOAD_BYTES,
    MAX_PAYLOAD_DEPTH,
    Hit,
    Metric,
    Point,
    VectorStore,
)
from quarterdeck.storage.vectors.cache import CachingVectorStore
from quarterdeck.storage.vectors.faiss import FaissVectorStore
from quarterdeck.storage.vectors.qdrant import QdrantVectorStore
from quarterdeck.tools.vectors.embedders.lexical import LexicalEmbedder
from tests.clock import ManualClock
from tests.docstrings import docstrings
from tests.servers.qdrant import QDRANTS, qdrant_place

Matrix = NDArray[np.float32]
METRICS: tuple[Metric, ...] = ("cosine", "dot", "l2")
EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["faiss", "cached faiss", *QDRANTS])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[VectorStore]:
    if request.param.endswith("faiss"):
        opened: VectorStore = await FaissVectorStore.open(tmp_path / "vectors.db", clock)
        yield opened if request.param == "faiss" else CachingVectorStore(opened, TieredCache(clock))
        await opened.close()
    else:
        async with qdrant_place(request, monkeypatch) as place:
            opened = await QdrantVectorStore.open(*place, clock)
            yield opened
            await opened.close()


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.id for hit in hits]


async def nearest(store: VectorStore, query: list[float], **options: Any) -> list[str]:
    (hits,) = await store.search("c", [query], limit=options.pop("limit", 100), **options)
    return ids(hits)


def scores(metric: Metric, points: Matrix, query: Matrix) -> NDArray[np.float64]:
    """The definition, in double precision."""
    wide, asked = points.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return np.linalg.norm(wide - asked, axis=1)
    products = wide @ asked
    return products if metric == "dot" else products / np.linalg.norm(wide, axis=1) / np.linalg.norm(asked)


async def test_collections_are_described_listed_and_dropped(store: VectorStore, clock: ManualClock) -> None:
    shapes: list[tuple[str, int, Metric]] = [("b", 3, "dot"), ("a", 2, "cosine"), ("c", MAX_DIMENSION, "l2")]
    for name, dimension, metric in shapes:
        info = await store.create(name, dimension, metric, embedder="e")
        assert (info.name, info.dimension, info.metric, info.embedder) == (name, dimension, metric, "e")
        assert info.created_at == clock.now()
        assert await store.describe(name) == info
        assert await store.count(name) == 0
    assert [info.name for info in await store.collections(limit=2)] == ["a", "b"]
    assert [info.name for info in await store.collections(limit=2, after="b")] == ["c"]
    assert await store.drop("b") == 0
    assert [info.name for info in await store.collections(limit=9)] == ["a", "c"]


async def test_a_name_is_taken_once(store: VectorStore) -> None:
    await store.create("c", 2)
    with pytest.raises(ConflictError):
        await store.create("c", 3)
    assert (await store.describe("c")).dimension == 2


@pytest.mark.parametrize("dimension", [0, -1, MAX_DIMENSION + 1])
async def test_a_dimension_out_of_range_is_refused(store: VectorStore, dimension: int) -> None:
    with pytest.raises(InvalidArgumentError, match=str(MAX_DIMENSION)):
        await store.create("c", dimension)


async def test_a_missing_collection_is_named(store: VectorStore) -> None:
    calls = [
        store.describe("nowhere"),
        store.drop("nowhere"),
        store.get("nowhere", ["a"]),
        store.page("nowhere", limit=1),
        store.delete("nowhere", ["a"]),
        store.delete_where("nowhere", {"a": 1}),
        store.search("nowhere", [EAST], limit=1),
        store.search_text("nowhere", ["a"], limit=1),
        store.count("nowhere"),
        store.inspect("nowhere"),
        store.change_token("nowhere"),
        store.optimize("nowhere"),
        store.snapshot("nowhere"),
        store.verify("nowhere"),
    ]
    for call in calls:
        with pytest.raises(NotFoundError, match="nowhere"):
            await call


async def test_a_collection_keeps_what_it_was_wished(store: VectorStore) -> None:
    wished = await store.create("c", 8, "l2", "e", index="hash", quantization="fp16", stored="float16")
    assert (wished.index, wished.quantization, wished.stored) == ("hash", "fp16", "float16")
    plain = await store.create("d", 8)
    assert (plain.index, plain.quantization, plain.stored) == ("auto", "none", "float32")
    assert [await store.describe(name) for name in "cd"] == [wished, plain]


async def test_a_collection_is_inspected(store: VectorStore, clock: ManualClock) -> None:
    await store.create("c", 2)
    assert (await store.inspect("c")).points == 0
    await store.upsert("c", [Point("a", EAST), Point("b", NORTH), Point("e", WEST, {}, clock.now() + 1000)])
    assert (await store.inspect("c")).points == 3
    clock.advance(1)
    assert (await store.optimize("c")).points == 2
    assert await store.verify("c") == []


async def test_a_change_token_names_the_contents(store: VectorStore, clock: ManualClock) -> None:
    await store.upsert("c", [Point("a", EAST), Point("b", EAST, {}, clock.now() + 1000)])
    seen = [await store.change_token("c")]
    assert await store.change_token("c") == seen[0]
    if seen[0] is None:
        pytest.skip("this store cannot tell")

    async def is_new() -> bool:
        seen.append(await store.change_token("c"))
        return seen[-1] not in seen[:-1]

    clock.advance(1)
    assert await is_new(), "a point has ended"
    await store.upsert("c", [Point("a", EAST)])
    assert await is_new()
    await store.delete("c", ["a"])
    assert await is_new()
    await store.drop("c")
    await store.upsert("c", [Point("a", EAST), Point("b", EAST, {}, clock.now() + 1000)])
    assert await is_new(), "made anew"


async def test_a_successor_takes_the_name_over(store: VectorStore) -> None:
    await store.upsert("c", [Point("old", EAST)])
    assert await nearest(store, EAST) == ["old"]
    await store.create("next", 3, "dot", "e", quantization="sq8")
    await store.upsert("next", [Point("new", [1, 2, 3], {"n": 1})], embedder="e")
    assert ids((await store.search("next", [[1, 0, 0]], limit=1))[0]) == ["new"]
    await store.replace("c", "next")
    assert await nearest(store, [1, 0, 0]) == ["new"]
    info = await store.describe("c")
    assert (info.name, info.dimension, info.metric, info.embedder, info.quantization) == ("c", 3, "dot", "e", "sq8")
    assert [info.name for info in await store.collections(limit=9)] == ["c"]
    with pytest.raises(NotFoundError, match="next"):
        await store.search("next", [[1, 0, 0]], limit=1)
    await store.replace("c", "c")
    assert await store.count("c") == 1
    for pair in (("c", "nowhere"), ("nowhere", "c")):
        with pytest.raises(NotFoundError, match="nowhere"):
            await store.replace(*pair)
    assert await store.count("c") == 1


async def test_a_successor_does_not_take_over_what_has_changed(store: VectorStore) -> None:
    await store.upsert("c", [Point("old", EAST)])
    token = await store.change_token("c")
    if token is None:
        pytest.skip("this store cannot tell")
    await store.upsert("next", [Point("new", EAST)])
    await store.upsert("c", [Point("late", EAST)])
    with pytest.raises(ConflictError, match="'c' was changed meanwhile"):
        await store.replace("c", "next", unchanged_since=token)
    assert sorted(await nearest(store, EAST)) == ["late", "old"]
    await store.replace("c", "next", unchanged_since=await store.change_token("c"))
    assert await nearest(store, EAST) == ["new"]


async def test_text_is_searched_by_its_words(store: VectorStore, clock: ManualClock) -> None:
    await store.create("c", 2)
    assert await text_hits(store, "fox") == []
    texts = {
        "fox": "The quick brown fox; a FOX is a fox.",
        "dog": "The lazy dog and one fox, in a text that goes on about other things for quite a while.",
        "cat": "Ein Kätzchen",
        "number": 5,
    }
    await store.upsert("c", [Point(name, EAST, {"text": text, "k": len(name)}) for name, text in texts.items()])
    await store.upsert(
        "c", [Point("none", EAST, {"words": "fox"}), Point("brief", EAST, {"text": "fox"}, clock.now() + 9)]
    )
    await store.upsert("other", [Point("o", EAST, {"text": "fox"})])
    clock.advance(1)
    assert await text_hits(store, "fox") == ["fox", "dog"]
    assert await text_hits(store, 'lazy " OR (fox*') == ["dog", "fox"]
    assert await text_hits(store, "KATZCHEN") == ["cat"]
    assert await text_hits(store, "") == []
    assert await text_hits(store, "5 missing") == []
    (hits,) = await store.search_text("c", ["fox"], limit=1, where={"text": {"in": [texts["dog"]]}})
    assert [(hit.id, hit.payload) for hit in hits] == [("dog", {"text": texts["dog"], "k": 3})]
    await store.upsert("c", [Point("fox", EAST, {"text": "now a hen"})])
    await store.delete("c", ["dog"])
    assert await text_hits(store, "fox") == []
    both = await store.search_text("c", ["hen", "kätzchen"], limit=5)
    assert list(map(ids, both)) == [["fox"], ["cat"]]


async def text_hits(store: VectorStore, text: str) -> list[str]:
    try:
        (hits,) = await store.search_text("c", [text], limit=10)
    except UnsupportedError:
        pytest.skip("this store has no full text")
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    return ids(hits)


async def test_count_takes_a_filter(store: VectorStore, clock: ManualClock) -> None:
    await store.upsert("c", [Point(str(n), EAST, {"n": n}, clock.now() + 1000 * (n % 2 + 1)) for n in range(10)])
    assert await store.count("c", {"n": {"lt": 6}}) == 6
    assert await store.count("c", {}) == 10
    clock.advance(1)
    assert await store.count("c", {"n": {"lt": 6}}) == 3
    with pytest.raises(InvalidArgumentError, match="unknown operator"):
        await store.count("c", {"n": {"about": 1}})


async def test_the_first_upsert_makes_the_collection(store: VectorStore) -> None:
    assert await store.upsert("c", [Point("a", [1, 2, 3])], embedder="e") == 1
    info = await store.describe("c")
    assert (info.dimension, info.metric, info.embedder) == (3, "cosine", "e")


async def test_a_refused_first_upsert_makes_nothing(store: VectorStore) -> None:
    with pytest.raises(InvalidArgumentError):
        await store.upsert("c", [Point("a", [1, 2, 3]), Point("b", [1, 2])])
    with pytest.raises(NotFoundError):
        await store.describe("c")


async def test_points_come_back_as_they_were_given(store: VectorStore, clock: ManualClock) -> None:
    payload = {"text": "naïve \u2028 \U0001f600 \x00", "n": 1, "x": 1.5, "deep": {"list": [None, True, "1"]}}
    end = clock.now() + 5000
    await store.upsert("c", [Point("é", [3.0, 4.0], payload, end), Point("b", [1e-3, 2.0])])
    first, second = await store.get("c", ["b", "missing", "é"])
    assert (second.id, second.payload, second.expires_at) == ("é", payload, end)
    assert np.array_equal(second.vector, np.array([3, 4], np.float32)), "not normalised"
    assert (first.id, first.payload, first.expires_at) == ("b", {}, None)
    (hits,) = await store.search("c", [[3, 4]], limit=1)
    assert hits == [Hit("é", 1.0, payload)]


async def walk(store: VectorStore, limit: int) -> list[Point]:
    """All points, from page to page."""
    found: list[Point] = []
    while page := await store.page("c", limit=limit, after=found[-1].id if found else ""):
        assert len(page) <= limit
        found += page
    return found


async def test_pages_have_every_point_once_as_it_was_given(store: VectorStore, clock: ManualClock) -> None:
    await store.create("c", 2)
    assert await store.page("c", limit=5) == []
    names = [*"zyxwvutabc", "é", "漢", "\U0001f600", "a b", "A"]
    points = {name: Point(name, [1.0, float(n)], {"n": n}, clock.now() + 1000) for n, name in enumerate(names)}
    await store.upsert("c", list(points.values()))
    await store.upsert("other", [Point("o", EAST)])
    for limit in (1, 4, len(names), 500):
        found = await walk(store, limit)
        assert sorted(point.id for point in found) == sorted(names)
    for point in found:
        given = points[point.id]
        assert np.array_equal(point.vector, np.array(given.vector, np.float32))
        assert (point.payload, point.expires_at) == (given.payload, given.expires_at)
    clock.advance(1)
    assert await walk(store, 4) == []
    with pytest.raises(InvalidArgumentError):
        await store.page("c", limit=1, after="\ud800")


async def test_a_walk_meets_what_stays_whatever_comes_and_goes(store: VectorStore) -> None:
    stay = [f"stay-{n}" for n in range(10)]
    await store.upsert("c", [Point(name, EAST) for name in (*stay, *(f"go-{n}" for n in range(10)))])
    found: list[str] = []
    for step in count():
        page = await store.page("c", limit=3, after=found[-1] if found else "")
        if not page:
            break
        found += [point.id for point in page]
        await store.delete("c", [f"go-{step}"])
        await store.upsert("c", [Point(f"come-{step}", EAST), Point(stay[step % 10], NORTH)])
    assert len(set(found)) == len(found)
    assert set(stay) <= set(found)


async def test_an_upsert_replaces_vector_payload_and_expiry(store: VectorStore, clock: ManualClock) -> None:
    await store.upsert("c", [Point("a", EAST, {"v": 1}, clock.now() + 1000), Point("b", NORTH)])
    assert await nearest(store, EAST) == ["a", "b"]
    await store.upsert("c", [Point("a", WEST, {"v": 2})])
    clock.advance(2)
    (hits,) = await store.search("c", [EAST], limit=9)
    assert [(hit.id, hit.payload) for hit in hits] == [("b", {}), ("a", {"v": 2})]
    assert await store.count("c") == 2


async def test_a_point_ends_at_its_expiry(store: VectorStore, clock: ManualClock) -> None:
    await store.upsert("c", [Point("a", EAST, {"k": 1}, clock.now() + 1000), Point("b", NORTH, {"k": 1})])
    clock.advance(0.999)
    assert await nearest(store, EAST) == ["a", "b"]
    clock.advance(0.001)
    assert await nearest(store, EAST) == ["b"]
    assert await nearest(store, EAST, where={"k": 1}) == ["b"]
    assert ids_of(await store.get("c", ["a", "b"])) == ["b"]
    assert await store.count("c") == 1
    assert await store.delete("c", ["a"]) == 0
    assert await store.delete_where("c", {"k": 1}) == 1


def ids_of(points: Sequence[Point]) -> list[str]:
    return [point.id for point in points]


async def test_an_ended_point_can_be_put_again(store: VectorStore, clock: ManualClock) -> None:
    await store.upsert("c", [Point("a", EAST, {}, clock.now() + 1000)])
    assert await nearest(store, EAST) == ["a"]
    clock.advance(1)
    assert await nearest(store, EAST) == []
    await store.upsert("c", [Point("a", NORTH)])
    assert await nearest(store, EAST) == ["a"]
    assert await store.count("c") == 1


async def test_delete_by_id_counts_what_was_there(store: VectorStore) -> None:
    await store.upsert("c", [Point(name, EAST) for name in "abcd"])
    assert await nearest(store, EAST, limit=9) != []
    assert await store.delete("c", ["a", "x", "c", "a"]) == 2
    assert sorted(await nearest(store, EAST)) == ["b", "d"]
    assert await store.count("c") == 2
    await store.upsert("c", [Point("a", EAST)])
    assert sorted(await nearest(store, EAST)) == ["a", "b", "d"]


async def test_delete_by_filter(store: VectorStore) -> None:
    await store.upsert("c", [Point(str(n), EAST, {"n": n, "even": n % 2 == 0}) for n in range(10)])
    assert await store.delete_where("c", {"even": True, "n": {"lt": 5}}) == 3
    assert sorted(await nearest(store, EAST)) == ["1", "3", "5", "6", "7", "8", "9"]
    assert await store.delete_where("c", {"n": 0}) == 0
    with pytest.raises(InvalidArgumentError, match="unknown operator"):
        await store.delete_where("c", {"n": {"about": 3}})
    assert await store.count("c") == 7


async def test_search_filters_before_it_limits(store: VectorStore) -> None:
    points = [Point(str(n), [1.0, n / 100], {"n": n, "group": "far" if n >= 95 else "near"}) for n in range(100)]
    await store.upsert("c", points)
    assert await nearest(store, EAST, limit=3) == ["0", "1", "2"]
    assert await nearest(store, EAST, limit=3, where={"group": "far"}) == ["95", "96", "97"]
    assert await nearest(store, EAST, limit=9, where={"n": {"in": [7, 50]}}) == ["7", "50"]
    assert await nearest(store, EAST, where={"group": "none"}) == []
    with pytest.raises(InvalidArgumentError, match="unknown operator"):
        await store.search("c", [EAST], limit=1, where={"n": {"about": 3}})


@pytest.mark.parametrize(
    ("metric", "threshold", "found"),
    [
        ("cosine", 1.0, ["a"]),
        ("cosine", 0.0, ["a", "n"]),
        ("dot", 0.0, ["a", "n"]),
        ("l2", 0.0, ["a"]),
        ("l2", 2, "anw"),
    ],
)
async def test_the_threshold_is_inclusive(
    store: VectorStore, metric: Metric, threshold: float, found: Sequence[str]
) -> None:
    await store.create("c", 2, metric)
    await store.upsert("c", [Point("a", EAST), Point("n", NORTH), Point("w", WEST)])
    assert await nearest(store, EAST, threshold=threshold) == list(found)


async def test_an_empty_collection_finds_nothing_for_each_query(store: VectorStore) -> None:
    await store.create("c", 2)
    assert await store.search("c", [EAST, NORTH], limit=5) == [[], []]


async def test_many_queries_are_answered_as_each_alone(store: VectorStore) -> None:
    points = np.random.default_rng(7).normal(size=(300, 8)).astype(np.float32)
    for metric in METRICS:
        await store.create(metric, 8, metric)
        await store.upsert(metric, [Point(str(n), row) for n, row in enumerate(points)])
        together = await store.search(metric, list(points[:50]), limit=5)
        for number, hits in enumerate(together):
            (alone,) = await store.search(metric, [points[number]], limit=5)
            assert ids(hits) == ids(alone)
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in alone], rel=1e-5, abs=1e-6)


async def test_short_distances_survive_far_from_the_origin(store: VectorStore) -> None:
    await store.create("c", 2, "l2")
    points = [[1000.0, float(n)] for n in range(100)]
    await store.upsert("c", [Point(str(n), point) for n, point in enumerate(points)])
    for number, hits in enumerate(await store.search("c", points, limit=2, threshold=0.5)):
        assert hits == [Hit(str(number), 0.0, {})]


@pytest.mark.parametrize(
    ("metric", "vector", "message"),
    [
        ("cosine", [1.0], "'bad' has dimension 1, the collection has 2"),
        ("cosine", [1.0, 2.0, 3.0], "'bad' has dimension 3, the collection has 2"),
        ("cosine", [0.0, 0.0], "'bad' is a zero vector"),
        ("cosine", [math.nan, 1.0], "'bad' is not finite .* at position 0"),
        ("dot", [1.0, -math.inf], "'bad' is not finite .* at position 1"),
        ("l2", [1.0, 1e39], "'bad' is not finite .* at position 1"),
        ("l2", [0.0, 1e19], "'bad' has length 1e\\+19"),
    ],
)
async def test_a_bad_vector_is_refused_by_name_with_its_batch(
    store: VectorStore, metric: Metric, vector: list[float], message: str
) -> None:
    await store.create("c", 2, metric)
    await store.upsert("c", [Point("old", EAST)])
    with pytest.raises(InvalidArgumentError, match=f"point {message}"):
        await store.upsert("c", [Point("good", EAST), Point("bad", vector), Point("old", WEST)])
    assert ids_of(await store.get("c", ["good", "bad", "old"])) == ["old"]
    (hits,) = await store.search("c", [EAST], limit=9)
    assert ids(hits) == ["old"]
    with pytest.raises(InvalidArgumentError, match=message.replace("'bad'", "query 1")):
        await store.search("c", [EAST, vector], limit=1)


async def test_tiny_and_huge_vectors_have_a_direction(store: VectorStore) -> None:
    await store.upsert("c", [Point("tiny", [1e-30, 0.0]), Point("huge", [0.0, 1e17])])
    assert await nearest(store, [1e-30, 0.0], threshold=0.99) == ["tiny"]
    assert await nearest(store, [0.0, 1e17], threshold=0.99) == ["huge"]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("point", "error"),
    [
        (Point("", EAST), InvalidArgumentError),
        (Point("x" * (MAX_ID_CHARS + 1), EAST), InvalidArgumentError),
        (Point("a\x00", EAST), InvalidArgumentError),
        (Point("\ud800", EAST), InvalidArgumentError),
        (Point("twin", EAST), InvalidArgumentError),
        (Point("p", EAST, {"x": math.nan}), InvalidArgumentError),
        (Point("p", EAST, {"x": "\ud800"}), InvalidArgumentError),
        (Point("p", EAST, {"x": object()}), InvalidArgumentError),
        (Point("p", EAST, {"x": nested(MAX_PAYLOAD_DEPTH)}), LimitError),
        (Point("p", EAST, {"x": nested(100_000)}), LimitError),
        (Point("p", EAST, {"x": "y" * MAX_PAYLOAD_BYTES}), LimitError),
    ],
    ids=range(11),
)
async def test_a_bad_id_or_payload_is_refused_with_its_batch(
    store: VectorStore, point: Point, error: type[DeckError]
) -> None:
    await store.create("c", 2)
    with pytest.raises(error, match="point"):
        await store.upsert("c", [Point("twin", EAST), point])
    assert await store.count("c") == 0


@pytest.mark.parametrize("point_id", ["", "x" * (MAX_ID_CHARS + 1), "a\x00", "\ud800"])
async def test_an_impossible_id_is_refused_everywhere(store: VectorStore, point_id: str) -> None:
    await store.upsert("c", [Point("a", EAST)])
    for call in (store.get("c", ["a", point_id]), store.delete("c", ["a", point_id])):
        with pytest.raises(InvalidArgumentError, match="point's id is 1 to"):
            await call
    assert await store.count("c") == 1


async def test_the_largest_payload_and_id_are_kept(store: VectorStore) -> None:
    payloads = [{"x": "y" * (MAX_PAYLOAD_BYTES - 8)}, {"x": nested(MAX_PAYLOAD_DEPTH - 1)}]
    await store.upsert("c", [Point("x" * (MAX_ID_CHARS - 1) + str(n), EAST, p) for n, p in enumerate(payloads)])
    (hits,) = await store.search("c", [EAST], limit=9)
    assert sorted(hits, key=lambda hit: hit.id) == [
        Hit("x" * (MAX_ID_CHARS - 1) + str(n), 1.0, p) for n, p in enumerate(payloads)
    ]


async def test_vectors_of_two_embedders_do_not_mix(store: VectorStore) -> None:
    await store.upsert("c", [Point("a", EAST)], embedder="one")
    for other in ("two", None):
        with pytest.raises(ConflictError, match="'c'"):
            await store.upsert("c", [Point("b", EAST)], embedder=other)
    assert await store.upsert("c", [Point("b", EAST)], embedder="one") == 1
    await store.delete("c", ["a", "b"])
    await store.upsert("c", [Point("b", EAST)])
    assert (await store.describe("c")).embedder is None


async def test_a_name_made_anew_has_nothing_of_the_old(store: VectorStore) -> None:
    await store.upsert("c", [Point("a", EAST), Point("b", NORTH)])
    assert await nearest(store, EAST) == ["a", "b"]
    assert await store.drop("c") == 2
    await store.create("c", 3, "l2")
    assert await nearest(store, [1, 0, 0]) == []
    await store.upsert("c", [Point("z", [1, 0, 0])])
    assert await nearest(store, [1, 0, 0]) == ["z"]


async def test_collections_are_fenced(store: VectorStore) -> None:
    await store.upsert("c", [Point("a", EAST, {"of": "c"})])
    await store.upsert("d", [Point("a", EAST, {"of": "d"}), Point("b", EAST)])
    assert await store.delete("d", ["a"]) == 1
    (hits,) = await store.search("c", [EAST], limit=9)
    assert hits == [Hit("a", 1.0, {"of": "c"})]
    assert await store.drop("d") == 1
    assert await store.count("c") == 1


async def test_nothing_upserted_is_nothing_done(store: VectorStore) -> None:
    await store.create("c", 2)
    assert await store.upsert("c", []) == 0
    assert await store.delete("c", []) == 0
    assert await store.get("c", []) == []
    assert await store.search("c", [], limit=3) == []


async def test_concurrent_writers_and_readers_see_whole_batches(store: VectorStore) -> None:
    await store.create("c", 2)

    async def write(batch: int) -> None:
        await store.upsert("c", [Point(f"{batch}-{n}", EAST, {"batch": batch}) for n in range(20)])

    async def read() -> set[int]:
        (hits,) = await store.search("c", [EAST], limit=1000)
        batches = [hit.payload["batch"] for hit in hits]
        return {batches.count(batch) for batch in batches}

    results = await asyncio.gather(*(job for batch in range(10) for job in (write(batch), read())))
    assert {size for sizes in results if sizes for size in sizes} <= {20}
    assert await store.count("c") == 200
    assert len(await nearest(store, EAST, limit=1000)) == 200


vectors = arrays(
    np.float32, st.tuples(st.integers(1, 30), st.just(4)), elements=st.floats(-8, 8, width=16, allow_subnormal=False)
)
names = map(str, count())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(
    vectors=vectors,
    metric=st.sampled_from(METRICS),
    limit=st.integers(1, 40),
    gone=st.sets(st.integers(0, 29)),
    moved=st.sets(st.integers(0, 29)),
    kept=st.integers(0, 3),
)
async def test_search_agrees_with_brute_force(
    store: VectorStore,
    vectors: Matrix,
    metric: Metric,
    limit: int,
    gone: set[int],
    moved: set[int],
    kept: int,
) -> None:
    if metric == "cosine":
        vectors[~vectors.any(axis=1)] = 1
    name = next(names)
    await store.create(name, 4, metric)
    query = vectors[-1]
    await store.upsert(
        name, [Point(str(n), query if n in moved else row, {"k": n % 4}) for n, row in enumerate(vectors)]
    )
    await store.search(name, [query], limit=1)
    await store.upsert(name, [Point(str(n), vectors[n], {"k": n % 4}) for n in sorted(moved) if n < len(vectors)])
    await store.delete(name, [str(n) for n in gone])

    alive = [n for n in range(len(vectors)) if n not in gone and n % 4 <= kept]
    (hits,) = await store.search(name, [query], limit=limit, where=None if kept == 3 else {"k": {"lte": kept}})
    assert len(hits) == len(set(ids(hits))) == min(limit, len(alive))
    exact = dict(zip(map(str, range(len(vectors))), scores(metric, vectors, query), strict=True))
    assert [hit.score for hit in hits] == pytest.approx([exact[hit.id] for hit in hits], rel=1e-5, abs=1e-4)
    ranked = sorted((exact[str(n)] for n in alive), reverse=metric != "l2")
    assert [hit.score for hit in hits] == pytest.approx(ranked[: len(hits)], rel=1e-5, abs=1e-4), "ties in any order"
    assert {int(hit.id) for hit in hits} <= set(alive)


@pytest.mark.parametrize("metric", METRICS)
async def test_real_texts_agree_with_brute_force(store: VectorStore, metric: Metric) -> None:
    texts = docstrings()
    keys = list(texts)
    assert len(keys) > 150
    matrix = await LexicalEmbedder().embed(list(texts.values()))
    await store.create("docs", matrix.shape[1], metric)
    await store.upsert("docs", [Point(key, row, {"text": texts[key]}) for key, row in zip(keys, matrix, strict=True)])
    queries = await LexicalEmbedder().embed([texts[key][:60] for key in keys[::10]])
    for query, hits in zip(queries, await store.search("docs", list(queries), limit=10), strict=True):
        exact = scores(metric, matrix, query)
        order = np.argsort(exact if metric == "l2" else -exact)[:10]
        assert [hit.score for hit in hits] == pytest.approx(exact[order].tolist(), abs=1e-5)
        assert all(hit.payload == {"text": texts[hit.id]} for hit in hits)
    if metric == "cosine":
        top = [hits[0].score for hits in await store.search("docs", list(matrix), limit=1)]
        assert max(top) == 1, "never above, whatever the rounding"
