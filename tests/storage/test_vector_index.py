"""The derived index: what it finds and holds, how it is built beside the searches, kept, damaged and doubted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.storage.errors import InvalidArgumentError, NotFoundError
from quarterdeck.storage.vectors import build, codes
from quarterdeck.storage.vectors.base import CollectionState, IndexKind, Metric, Point, Quantization, WishedIndex
from quarterdeck.storage.vectors.build import Builder
from quarterdeck.storage.vectors.faiss import FaissVectorStore, Shortcuts
from quarterdeck.storage.vectors.filters import parse_filter
from quarterdeck.storage.vectors.generation import Generation
from quarterdeck.storage.vectors.postings import Postings
from quarterdeck.storage.vectors.reader import Reader
from quarterdeck.storage.vectors.snapshots import Snapshots
from tests.clock import ManualClock
from tests.clustered import Matrix, clustered
from tests.until import until

SIZE, DIMENSION = 4500, 64  # more than codes need
Open = Callable[..., Awaitable[FaissVectorStore]]


@pytest.fixture(scope="module")
def points() -> Matrix:
    return clustered(SIZE, DIMENSION, world=SIZE)


@pytest.fixture(scope="module")
def queries() -> Matrix:
    return clustered(50, DIMENSION, world=SIZE, seed=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vectors.db"


@pytest.fixture
async def open_store(path: Path) -> AsyncIterator[Open]:
    opened: list[FaissVectorStore] = []

    async def open_one(shortcuts: Shortcuts | None = None) -> FaissVectorStore:
        opened.append(await FaissVectorStore.open(path, ManualClock(), shortcuts))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


async def fill(store: FaissVectorStore, matrix: Matrix, *, name: str = "c", first: int = 0) -> None:
    rows = [Point(str(n), row, {"n": n, "of": n % 100, "third": n % 3}) for n, row in enumerate(matrix, first)]
    await store.upsert(name, rows)


async def built(store: FaissVectorStore, name: str = "c") -> CollectionState:
    """Search once, wait for what that starts to be built, and say how the collection is then."""
    await store.search(name, [np.ones((await store.describe(name)).dimension, np.float32)], limit=1)

    async def is_quiet() -> bool:
        return (await store.inspect(name)).building is None

    await until(is_quiet)
    return await store.inspect(name)


def nearest(points: Matrix, query: Matrix, metric: Metric, k: int = 10) -> list[str]:
    distances = ((points - query) ** 2).sum(axis=1) if metric == "l2" else -(points @ query)
    return [str(n) for n in np.argsort(distances)[:k]]


async def recall(
    store: FaissVectorStore, points: Matrix, queries: Matrix, metric: Metric, limit: int = 10, **options: Any
) -> float:
    answers = await store.search("c", list(queries), limit=limit, **options)
    shared = [
        len({hit.id for hit in hits} & set(nearest(points, query, metric, limit)))
        for query, hits in zip(queries, answers, strict=True)
    ]
    return sum(shared) / (limit * len(queries))


STRUCTURES: list[tuple[WishedIndex, Quantization, IndexKind, float]] = [
    ("auto", "none", "pq", 0.98),
    ("auto", "fp16", "pq", 0.98),
    ("auto", "pq", "pq", 0.98),
    ("pq", "sq8", "pq", 0.98),
    ("hash", "none", "hash", 0.99),
    ("hnsw", "none", "hnsw", 0.97),
    ("hnsw", "sq8", "hnsw", 0.97),
    ("exact", "fp16", "exact", 1.0),
    ("exact", "sq8", "exact", 0.99),
    ("exact", "sq4", "exact", 0.97),
    ("exact", "pq", "exact", 1.0),
]
L2 = (("auto", "none"), ("auto", "pq"), ("hnsw", "sq8"), ("exact", "pq"))


@pytest.mark.parametrize(
    ("metric", "index", "quantization", "kind", "least"),
    [
        *(("cosine", *structure) for structure in STRUCTURES),
        *(("l2", *structure) for structure in STRUCTURES if structure[:2] in L2),
    ],
)
async def test_every_structure_finds_the_nearest(
    open_store: Open,
    points: Matrix,
    queries: Matrix,
    metric: Metric,
    index: WishedIndex,
    quantization: Quantization,
    kind: IndexKind,
    least: float,
) -> None:
    store = await open_store()
    await store.create("c", DIMENSION, metric, index=index, quantization=quantization)
    await fill(store, points)
    state = await built(store)
    assert (state.index, state.quantization, state.note) == (kind, quantization, None)
    assert state.recall is not None
    assert state.recall >= 0.95
    assert await recall(store, points, queries, metric) >= least
    assert await recall(store, points, queries, metric, limit=1) >= least
    assert await recall(store, points, queries, metric, precision="fast") >= least - 0.05
    assert await recall(store, points, queries, metric, precision="exact") == 1
    assert await store.verify("c") == []

    (hits,) = await store.search("c", [queries[0]], limit=3)
    for hit in hits:
        exact = points[int(hit.id)].astype(np.float64)
        by_definition = np.linalg.norm(exact - queries[0]) if metric == "l2" else exact @ queries[0]
        assert hit.score == pytest.approx(by_definition, abs=1e-6), "the score is that of the stored vector"

    gone = [str(n) for n in range(0, SIZE, 3)]
    await store.delete("c", gone)
    (hits,) = await store.search("c", [queries[0]], limit=50)
    assert len(hits) == 50
    assert not {hit.id for hit in hits} & set(gone)
    await store.upsert("c", [Point("new", queries[0])])
    assert (await store.search("c", [queries[0]], limit=1))[0][0].id == "new"


async def test_narrower_forms_take_less_memory(open_store: Open, points: Matrix) -> None:
    store = await open_store()
    sizes: dict[Quantization, int] = {}
    forms: tuple[Quantization, ...] = ("none", "fp16", "sq8", "sq4", "pq")
    for quantization in forms:
        await store.create("c", DIMENSION, index="exact", quantization=quantization)
        await fill(store, points)
        sizes[quantization] = (await built(store)).ram_bytes or 0
        await store.drop("c")
    slots = sizes["pq"]  # the vectors are on disk
    plain = SIZE * DIMENSION * 4
    assert slots <= SIZE * 9 * 1.25, "a key and a mark for each point"
    for quantization, factor in zip(forms, (1, 2, 4, 8), strict=False):
        assert sizes[quantization] - slots == plain // factor


async def test_codes_alone_take_a_32nd_of_the_memory(open_store: Open) -> None:
    store = await open_store()
    await store.create("c", 384, quantization="pq")
    await fill(store, clustered(5000, 384, world=5000))
    state = await built(store)
    assert (state.index, state.quantization) == ("pq", "pq")
    assert 32 * (state.ram_bytes or 0) <= 5000 * 384 * 4


async def test_points_that_end_come_among_those_that_do_not(open_store: Open, points: Matrix) -> None:
    store = await open_store()
    for number, ends in enumerate((None, 1, None)):  # the clock stands at a later time
        await store.upsert("c", [Point(str(number), points[number], {}, ends)])
        (hits,) = await store.search("c", [points[0]], limit=9)
        assert {hit.id for hit in hits} == {"0", "2"} & set(map(str, range(number + 1)))


async def test_a_structure_that_does_not_fit_the_data_gives_way_and_says_so(open_store: Open) -> None:
    store = await open_store()
    noise = np.random.default_rng(3).normal(size=(5000, 128)).astype(np.float32)
    await store.create("c", 128, index="pq", quantization="sq4")
    await fill(store, noise)
    state = await built(store)
    assert state.index == "exact"
    assert state.note is not None
    assert state.note.startswith("pq sq4 found ")
    held_out = np.random.default_rng(4).normal(size=(20, 128)).astype(np.float32)
    unit = noise / np.linalg.norm(noise, axis=1, keepdims=True)
    assert await recall(store, unit, held_out, "cosine") >= 0.95
    assert (await built(store)).note == state.note, "not tried again for the same points"


async def test_few_points_are_compared_whatever_was_wished(open_store: Open, points: Matrix, queries: Matrix) -> None:
    store = await open_store()
    await store.create("c", DIMENSION, index="hash", quantization="sq4")
    await fill(store, points[:900])
    state = await built(store)
    assert (state.index, state.quantization) == ("exact", "none")
    assert await recall(store, points[:900], queries, "cosine") == 1


async def test_a_graph_holds_its_vectors_in_memory(open_store: Open) -> None:
    store = await open_store()
    with pytest.raises(InvalidArgumentError, match="none, fp16, sq8 or sq4"):
        await store.create("c", 8, index="hnsw", quantization="pq")


async def test_what_comes_in_batches_is_found_at_once_and_the_structure_follows(
    open_store: Open, points: Matrix, queries: Matrix
) -> None:
    store = await open_store()
    await store.create("c", DIMENSION, index="hnsw")
    for first in range(0, SIZE, 1500):
        await fill(store, points[first : first + 1500], first=first)
        (hits,) = await store.search("c", [points[first + 1499]], limit=1)
        assert hits[0].id == str(first + 1499)
    assert (await built(store)).index == "hnsw"
    assert await recall(store, points, queries, "cosine") >= 0.97


async def test_few_points_at_a_time_are_taken_in_on_the_loop_until_it_is_time_to_build(
    open_store: Open, path: Path, points: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store()
    await fill(store, points[:4000])
    assert (await built(store)).index == "exact"
    threads: list[str] = []
    follow = Generation.follow

    def spy(*arguments: Any, **options: Any) -> bool:
        threads.append(threading.current_thread().name)
        return follow(*arguments, **options)

    monkeypatch.setattr(Generation, "follow", spy)
    first = 4000
    await fill(store, points[first : first + 100], first=first)
    (hits,) = await store.search("c", [points[first + 99]], limit=1)
    assert hits[0].id == str(first + 99)
    assert threads == [threading.main_thread().name]

    def has_codes() -> bool:
        return any('"pq"' in file.read_text() for file in path.with_name("vectors.db.index").glob("*/manifest.json"))

    await until(has_codes)


# ---- filters


@pytest.mark.parametrize("quantization", ["none", "pq"])
async def test_filters_of_every_selectivity_find_the_nearest(
    open_store: Open, points: Matrix, queries: Matrix, quantization: Quantization
) -> None:
    store = await open_store()
    await store.create("c", DIMENSION, quantization=quantization)
    await fill(store, points)
    assert (await built(store)).index == "pq"
    near = set(nearest(points, queries[0], "cosine", 600))
    filters: list[tuple[dict[str, Any], Callable[[int], bool], float]] = [
        ({"of": 7}, lambda n: n % 100 == 7, 1.0),
        ({"n": {"gte": 100, "lt": 130}}, lambda n: 100 <= n < 130, 1.0),
        ({"third": 1}, lambda n: n % 3 == 1, 0.98),
        ({"not": {"n": {"in": [int(n) for n in near]}}}, lambda n: str(n) not in near, 0.95),  # what is near is out
        ({"n": 17}, lambda n: n == 17, 1.0),
        ({"n": -1}, lambda _: False, 1.0),
    ]
    for where, keeps, least in filters:
        kept = [n for n in range(SIZE) if keeps(n)]
        found = 0
        for query in queries[:10]:
            (hits,) = await store.search("c", [query], limit=10, where=where)
            assert len(hits) == min(10, len(kept))
            assert all(keeps(hit.payload["n"]) for hit in hits)
            best = sorted(kept, key=lambda n, query=query: -float(points[n] @ query))[:10]
            found += len({hit.payload["n"] for hit in hits} & set(best))
        assert found >= least * 10 * min(10, len(kept))


Strategy: TypeAlias = st.SearchStrategy[Any]

scalars: Strategy = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([0.5, 2.0, 2.0**53, -(2.0**60), 2**53 + 1, 10**400]),
    st.booleans(),
    st.none(),
    st.text("abé", max_size=2),
)


def deeper(inner: Strategy) -> Strategy:
    return st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xy"), inner)


payloads: Strategy = st.dictionaries(st.sampled_from("ab"), st.recursive(scalars, deeper, max_leaves=4), max_size=2)
ordered: Strategy = scalars.filter(lambda value: value is not None and not isinstance(value, bool))
conditions: Strategy = st.one_of(
    scalars,
    st.dictionaries(st.sampled_from(["eq", "ne"]), scalars, min_size=1),
    st.fixed_dictionaries({"in": st.lists(scalars, max_size=3)}),
    st.fixed_dictionaries({"exists": st.booleans()}),
    st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), ordered, min_size=1),
)
leaves: Strategy = st.dictionaries(st.sampled_from(["a", "b", "a.x", "b.x.y"]), conditions, max_size=2)


def combined(inner: Strategy) -> Strategy:
    parts = st.lists(inner, min_size=1, max_size=3)
    return st.fixed_dictionaries({"not": inner}) | st.dictionaries(st.sampled_from(["and", "or"]), parts, min_size=1)


filters: Strategy = st.recursive(leaves, combined, max_leaves=4)


@settings(max_examples=120, deadline=None)
@given(before=st.lists(payloads, max_size=6), after=st.lists(payloads, max_size=6), where=filters)
def test_masks_agree_with_the_definition_of_filters(before: list[Any], after: list[Any], where: dict[str, Any]) -> None:
    accepts = parse_filter(where)
    postings = Postings()
    postings.take_in(postings.missing(where), [(0, before)])
    postings.add(len(before), after)
    assert postings.missing(where) == []
    mask = postings.mask(where, len(before) + len(after))
    assert mask.tolist() == [accepts(payload) for payload in before + after]


# ---- building beside


async def test_neither_a_search_nor_a_commit_waits_for_building(
    open_store: Open, points: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store()
    await fill(store, points)
    started, release = threading.Event(), threading.Event()
    real = Builder.build

    def slow(builder: Builder, *arguments: Any) -> Generation:
        started.set()
        assert release.wait(30)
        return real(builder, *arguments)

    monkeypatch.setattr(Builder, "build", slow)
    await store.search("c", [points[0]], limit=1)
    await asyncio.to_thread(started.wait, 30)
    state = await store.inspect("c")
    assert (state.index, state.building) == ("exact", "pq")
    await store.upsert("c", [Point("late", points[0] * -1)])
    await store.delete("c", ["5"])
    (hits,) = await store.search("c", [points[0] * -1], limit=1)
    assert hits[0].id == "late"
    release.set()
    state = await built(store)
    assert (state.index, state.points) == ("pq", SIZE)
    (hits,) = await store.search("c", [points[0] * -1], limit=1)
    assert hits[0].id == "late", "replayed into the new index"
    (hits,) = await store.search("c", [points[5]], limit=1)
    assert hits[0].id != "5"
    assert await store.verify("c") == []


async def test_what_cannot_be_built_is_said_and_searched_exactly(
    open_store: Open, points: Matrix, queries: Matrix, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Generation:
        raise OSError("no space left on device")

    monkeypatch.setattr(Builder, "build", fail)
    store = await open_store()
    await fill(store, points)
    state = await built(store)
    assert (state.index, state.note) == ("exact", "pq could not be built: no space left on device")
    assert "could not be built" in caplog.text
    assert await recall(store, points, queries, "cosine") == 1
    monkeypatch.undo()
    assert (await store.optimize("c")).index == "pq"


async def test_closing_stops_building(path: Path, points: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await FaissVectorStore.open(path, ManualClock())
    await fill(store, points)
    tried = threading.Event()
    chunk = Generation.put

    def until_closed(generation: Generation, *arguments: Any, **options: Any) -> Any:
        if threading.current_thread().name.startswith("vectors-build"):
            tried.set()
            assert store._threads.stop.wait(30)  # pyright: ignore[reportPrivateUsage]
        return chunk(generation, *arguments, **options)

    monkeypatch.setattr(Generation, "put", until_closed)
    await store.search("c", [points[0]], limit=1)
    await asyncio.to_thread(tried.wait, 30)
    await store.close()
    assert list(path.with_name("vectors.db.index").iterdir()) == [], "what was half built is removed"


# ---- kept on disk


def folders(path: Path) -> list[Path]:
    return list(path.with_name("vectors.db.index").iterdir())


@pytest.fixture
def no_building(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Calling it makes any further building an error of the test."""

    def forbid(*_: Any) -> Generation:
        raise AssertionError("built")

    return lambda: monkeypatch.setattr(build.Builder, "build", forbid)


@pytest.mark.parametrize("index", ["pq", "hash", "hnsw", "exact"])
@pytest.mark.parametrize("quantization", ["fp16", "pq"])
async def test_an_index_is_taken_up_again_with_what_came_after_it(
    open_store: Open,
    path: Path,
    points: Matrix,
    queries: Matrix,
    no_building: Callable[[], None],
    index: WishedIndex,
    quantization: Quantization,
) -> None:
    if (index, quantization) == ("hnsw", "pq"):
        pytest.skip("there is no such thing")
    one = await open_store()
    await one.create("c", DIMENSION, index=index, quantization=quantization)
    await fill(one, points[:-200])
    state = await built(one)
    await fill(one, points[-200:], first=SIZE - 200)
    await one.delete("c", ["1", "2"])
    (folder,) = folders(path)
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    no_building()
    two = await open_store()
    again = await two.inspect("c")
    assert (again.index, again.quantization, again.recall) == (state.index, quantization, state.recall)
    assert (again.points, again.tombstones, again.note) == (SIZE - 2, 2, None)
    assert await two.verify("c") == []
    assert await recall(two, points, queries, "cosine") >= 0.97
    name = await two.snapshot("c")
    assert [folder.name for folder in folders(path)] == [name], "the one before is gone"
    three = await open_store()
    assert (await three.inspect("c")).tombstones == 2
    assert await three.verify("c") == []
    assert await recall(three, points, queries, "cosine") >= 0.97
    await three.drop("c")
    assert folders(path) == []


async def test_a_folder_in_which_another_process_builds_is_left_alone(open_store: Open, path: Path) -> None:
    store = await open_store()
    await fill(store, np.ones((1, 2), np.float32))
    first = await store.snapshot("c")
    other = Snapshots(path.with_name("vectors.db.index")).new_folder(1)
    second = await store.snapshot("c")
    assert {folder.name for folder in folders(path)} == {other.name, second} != {other.name, first}
    os.utime(other, (0, 0))  # its process must have died
    third = await store.snapshot("c")
    assert [folder.name for folder in folders(path)] == [third]


@pytest.mark.parametrize(
    ("metric", "index", "quantization"),
    [("cosine", "pq", "none"), ("l2", "pq", "fp16"), ("cosine", "pq", "pq"), ("dot", "hash", "none")],
)
async def test_many_codes_are_in_two_halves_that_grow_and_are_kept(
    open_store: Open,
    path: Path,
    points: Matrix,
    queries: Matrix,
    monkeypatch: pytest.MonkeyPatch,
    metric: Metric,
    index: WishedIndex,
    quantization: Quantization,
) -> None:
    monkeypatch.setattr(codes, "SHARDED_FROM", 3000)
    one = await open_store()
    await one.create("c", DIMENSION, metric, index=index, quantization=quantization)
    await fill(one, points[:4000])
    assert (await built(one)).note is None
    await fill(one, points[4000:], first=4000)
    assert await recall(one, points, queries, metric) >= 0.98
    assert {hits[0].id for hits in await one.search("c", list(points[[0, 1999, 2000, 4000, -1]]), limit=1)} == {
        "0",
        "1999",
        "2000",
        "4000",
        str(SIZE - 1),
    }
    assert await one.verify("c") == []
    (folder,) = folders(path)
    assert {"base.faiss", "base-2.faiss"} <= {file.name for file in folder.iterdir()}

    monkeypatch.setattr(Builder, "build", None)  # what follows is not built anew
    two = await open_store()
    assert await recall(two, points, queries, metric) >= 0.98
    assert (await two.inspect("c")).ram_bytes == (await one.inspect("c")).ram_bytes
    await fill(two, queries, first=SIZE)
    (hits,) = await two.search("c", [queries[0]], limit=1)
    assert hits[0].id == str(SIZE)
    assert await two.verify("c") == []


@pytest.mark.parametrize("damage", ["cut", "flip", "manifest", "gone", "empty", "no folder"])
async def test_a_damaged_snapshot_is_built_anew(
    open_store: Open, path: Path, points: Matrix, queries: Matrix, damage: str
) -> None:
    one = await open_store()
    await fill(one, points)
    await built(one)
    (folder,) = folders(path)
    for file in list(folder.iterdir()):
        content = bytearray(file.read_bytes())
        match damage:
            case "cut":
                file.write_bytes(content[: len(content) // 2])
            case "flip":
                content[len(content) // 2] ^= 0x10
                file.write_bytes(content)
            case "manifest":
                (folder / "manifest.json").write_text('{"format": 1, "files": {}}')
            case "gone":
                file.unlink()
            case _:
                file.write_bytes(b"")
    if damage == "no folder":
        shutil.rmtree(folder)
        folder.touch()
    if damage != "manifest":
        assert any("is damaged" in defect for defect in await one.verify("c"))
    assert (await one.inspect("c")).index == "pq"
    two = await open_store()
    assert await recall(two, points, queries, "cosine") >= 0.97
    assert (await built(two)).index == "pq"
    assert await two.verify("c") == []


@pytest.mark.parametrize("quantization", ["none", "fp16", "sq8", "pq"])
async def test_a_score_is_of_the_two_vectors_whatever_is_asked_beside(
    open_store: Open, points: Matrix, quantization: Quantization
) -> None:
    store = await open_store()
    await store.create("c", DIMENSION, quantization=quantization)
    await fill(store, points * 3)
    await built(store)
    tiny = np.zeros(DIMENSION, np.float32)
    tiny[0] = 1e-15
    for number in (0, 7, SIZE - 1):
        (alone,) = await store.search("c", [points[number] * 3], limit=3, threshold=1)
        assert [(hit.id, hit.score) for hit in alone] == [(str(number), 1.0)]
        query = points[number] * 3 + points[3] / 7
        beside = await store.search("c", [tiny, query], limit=3)
        assert [beside[1]] == await store.search("c", [query], limit=3)


async def test_a_change_between_the_reads_of_one_search_begins_it_anew(
    open_store: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store()
    await store.create("c", 2)
    await store.upsert("c", [Point(str(n), [1, n]) for n in range(2500)])
    assert len((await store.search("c", [[1, 0]], limit=2500))[0]) == 2500
    reads, read = 0, vars(Reader)["_rows"]

    def delete_after_the_first(reader: Reader, sql: str, parameters: Any) -> list[Any]:
        nonlocal reads
        rows = read(reader, sql, parameters)
        reads += "LEFT JOIN" in sql
        if reads == 1:
            reads += 1
            with contextlib.closing(sqlite3.connect(path)) as other, other:
                other.execute("UPDATE collections SET sequence = sequence + 1, points = points - 1")
                other.execute("INSERT INTO deletions SELECT collection, 2, key FROM points WHERE id = '2400'")
                other.execute("DELETE FROM points WHERE id = '2400'")
        return rows

    monkeypatch.setattr(Reader, "_rows", delete_after_the_first)
    (hits,) = await store.search("c", [[1, 0]], limit=2500)
    assert {hit.id for hit in hits} == {str(n) for n in range(2500)} - {"2400"}


async def test_a_search_finds_what_another_process_has_put_under_the_name(open_store: Open) -> None:
    here, there = await open_store(), await open_store()

    async def found(name: str, *query: float) -> list[str]:
        (hits,) = await here.search(name, [query], limit=5)
        return [hit.id for hit in hits]

    async def put(store: FaissVectorStore, name: str, point: str, *vector: float) -> None:
        await store.create(name, len(vector))
        await store.upsert(name, [Point(point, vector)])

    await put(here, "c", "first", 1, 0)
    await put(here, "next", "moved", 0, 1)
    for _ in range(2):  # the second time, this process knows the collection as it is
        assert await found("c", 1, 0) == ["first"]
        assert await found("next", 1, 0) == ["moved"]
    await there.drop("c")
    await put(there, "c", "anew", 1, 1)  # with as many changes
    assert await found("c", 1, 0) == ["anew"]
    await there.drop("c")
    await put(there, "c", "wider", 1, 0, 0)
    with pytest.raises(InvalidArgumentError, match="query 0 has dimension 2, the collection has 3"):
        await found("c", 1, 0)
    assert await found("c", 1, 0, 0) == ["wider"]
    await there.replace("c", "next")
    with pytest.raises(NotFoundError):
        await found("next", 1, 0)
    assert await found("c", 1, 0) == ["moved"]
    await there.delete("c", ["moved"])
    assert await found("c", 1, 0) == []


async def test_a_restored_database_does_not_take_a_later_index(
    open_store: Open, path: Path, points: Matrix, tmp_path: Path
) -> None:
    one = await FaissVectorStore.open(path, ManualClock())
    await fill(one, points)
    await one.close()
    saved = path.read_bytes()
    one = await FaissVectorStore.open(path, ManualClock())
    await one.upsert("c", [Point("lost", points[0] * -1)])
    await built(one)
    await one.close()
    path.write_bytes(saved)
    for rest in ("-wal", "-shm"):
        path.with_name(path.name + rest).unlink(missing_ok=True)
    two = await open_store()
    await two.upsert("c", [Point("other", points[1] * -1)])
    (hits,) = await two.search("c", [points[0] * -1], limit=1)
    assert hits[0].id != "lost"
    assert await two.verify("c") == []


async def test_verify_tells_what_the_index_has_and_the_points_have_not(open_store: Open, points: Matrix) -> None:
    store = await open_store()
    await fill(store, points[:100])
    await built(store)
    replicas = store._replicas  # pyright: ignore[reportPrivateUsage]
    generation = replicas.of(replicas.find("c")).generation
    assert generation is not None
    generation.slots.alive[3] = True
    vectors: Any = generation.index.vectors
    vectors.index.reset()
    vectors.index.add(points[:100] + 0.01)
    assert await store.verify("c") == ["the index has other vectors for 100 points"]


# ---- other forms


async def test_float16_is_what_comes_back_and_is_scored(open_store: Open) -> None:
    store = await open_store()
    await store.create("c", 2, "dot", stored="float16")
    await store.upsert("c", [Point("a", [1 / 3, 1000.3])])
    (point,) = await store.get("c", ["a"])
    kept = np.array([1 / 3, 1000.3], np.float16).astype(np.float32)
    assert np.array_equal(np.asarray(point.vector), kept)
    (hits,) = await store.search("c", [[1.0, 0.0]], limit=1)
    assert hits[0].score == kept[0]
    for bad in ([1.0, 70000.0], [-1e6, 0.0]):
        with pytest.raises(InvalidArgumentError, match="point 'b' as float16 is not finite"):
            await store.upsert("c", [Point("good", [1.0, 1.0]), Point("b", bad)])
    await store.create("d", 2, stored="float16")
    with pytest.raises(InvalidArgumentError, match="point 'b' as float16 is a zero vector"):
        await store.upsert("d", [Point("b", [1e-9, 1e-9])])
    assert await store.count("c") == 1


PATHS = {
    "quick": Shortcuts(),
    "search": Shortcuts(index=False),
    "batch-insert": Shortcuts(batch_insert=False),
    "large-query": Shortcuts(batch_search=False),
    "all": Shortcuts(False, False, False),
}


async def test_every_plain_path_gives_the_same_results(tmp_path: Path, points: Matrix, queries: Matrix) -> None:
    answers: dict[str, Any] = {}
    for name, shortcuts in PATHS.items():
        store = await FaissVectorStore.open(tmp_path / f"{name}.db", ManualClock(), shortcuts)
        await store.create("c", DIMENSION, index="hash")  # which misses none of these
        await fill(store, points)
        await store.delete("c", [str(n) for n in range(0, SIZE, 7)])
        state = await built(store)
        assert state.index == ("hash" if shortcuts.index else "exact")
        wheres: list[dict[str, Any] | None] = [None, {"third": 1}, {"of": 3}]
        answer: list[Any] = [
            await store.search("c", list(queries), limit=10, where=where, threshold=0.5) for where in wheres
        ]
        kept = await store.get("c", ["1", "2", "3"])
        answer.append([(point.id, list(point.vector), point.payload) for point in kept])
        answer.append((await store.count("c"), await store.count("c", {"third": 1})))
        answers[name] = answer
        await store.close()
        assert answer == answers["quick"], name
