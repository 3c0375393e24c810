"""What a durable vector search costs against libraries, on real texts' embeddings of 384 numbers (`vector_data.py`).

All do the same work: ten neighbours with their payloads, a query a call. Ours is written to disk before it answers.
Recall@10 against brute force stands beside each figure, and where it is below its own bound, the target is missed.
`make bench-vectors`; with a million points too: `make bench-vectors ARGS=--large`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quarterdeck.storage.cache import TieredCache
from quarterdeck.storage.clock import SystemClock
from quarterdeck.storage.vectors.base import Hit, Quantization, WishedIndex
from quarterdeck.storage.vectors.cache import CachingVectorStore
from quarterdeck.storage.vectors.faiss import FaissVectorStore
from quarterdeck.storage.vectors.index import PQ_WIDTH, reranked
from tests.clustered import Matrix

from .measure import Figure, latency
from .vector_data import CHUNK, DIMENSION, LIMIT, QUERIES, Data, numbers, recall
from .vector_peers import EDGE_EFS, Condition, Search, chroma, qdrant_edge, qdrant_in_memory
from .vector_tool import measure_tool

PEER_QUERIES = 10  # of the slow peer, spread among ours
BATCH = 100
ROUNDS = 15
SIZES = (10_000, 100_000)
LARGE = 1_000_000
QUERY_TARGETS = {10_000: 1 / 40, 100_000: 1 / 300}
QDRANT = "qdrant :memory:"
CODE_LIMIT = 0.005  # seconds for the code of a query


def measure(folder: Path) -> list[Figure]:
    return asyncio.run(_measure(folder))


def measure_large(folder: Path) -> list[Figure]:
    return asyncio.run(_measure_large(folder))


async def _measure(folder: Path) -> list[Figure]:
    figures: list[Figure] = []
    for size in SIZES:
        data = Data(size)
        place = folder / str(size)
        (place / "data").mkdir(parents=True)
        store = await FaissVectorStore.open(place / "data" / "vectors.db", SystemClock())
        try:
            async for figure in _of_size(store, data, place):
                print(f"{figure.measure}: {figure.ours}, {figure.peer} {figure.theirs}", file=sys.stderr)
                figures.append(figure)  # a run takes minutes: whoever waits sees each
        finally:
            await store.close()
    return figures


async def _of_size(store: FaissVectorStore, data: Data, folder: Path) -> AsyncGenerator[Figure]:
    name, size = "points", f"{data.size // 1000} K"
    loaded = await _load(store, name, data)
    began = time.perf_counter()
    await store.search(name, [data.queries[0]], limit=LIMIT)  # compares all, until the index is built
    searchable = loaded + time.perf_counter() - began
    await store.optimize(name)
    indexed = loaded + time.perf_counter() - began
    bare = _bare_load(folder / "bare.db", data)
    yield Figure(f"load {size}, durably", _ms(loaded), _ms(bare), "bare transactions", loaded / bare, 4)
    if data.size == SIZES[-1]:
        yield _beside_chroma(data, folder / "chroma", searchable, indexed)

    peer = qdrant_in_memory(data)
    topics: list[Condition] = [("topic", topic) for topic in data.asked_topics]
    parts: list[Condition] = [("of", number % 5) for number in range(QUERIES)]
    target = QUERY_TARGETS[data.size]
    yield await _beside_qdrant(f"query, {size}", store, name, data, peer, [None] * QUERIES, target, 0.99)
    for label, conditions in (("1 % filter", parts), ("filter of a topic near or far", topics)):
        yield await _beside_qdrant(f"{label}, {size}", store, name, data, peer, conditions, 1 / 500, 1)
    yield await _beside_edge(store, name, data, qdrant_edge(data, folder / "edge"))
    yield await _miss(store, name, data)
    yield await _batch(store, name, data)
    for figure in await measure_tool(store, name, data, folder):
        yield figure
    yield await _inserts(store, name, data, folder)
    await store.drop(name)
    if data.size == SIZES[-1]:
        for figure in await _narrow(store, data, "auto", "pq", "codes in memory, vectors on disk", 0.99, 1 / 32):
            yield figure
        for figure in await _narrow(store, data, "hash", "fp16", "256-bit codes and re-rank", 0.90, 1):
            yield figure


async def _load(store: FaissVectorStore, name: str, data: Data, **options: Any) -> float:
    """Seconds of the upserts."""
    await store.create(name, DIMENSION, **options)
    seconds = 0.0
    for batch in data.batches():
        began = time.perf_counter()
        await store.upsert(name, batch)
        seconds += time.perf_counter() - began
    return seconds


def _bare_load(path: Path, data: Data) -> float:
    """Seconds of the same rows in as many transactions."""
    with contextlib.closing(_bare(path)) as connection:
        return sum(
            _insert(connection, _rows(data, chunk, number * CHUNK)) for number, chunk in enumerate(data.chunks())
        )


def _bare(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE points (id TEXT PRIMARY KEY, payload TEXT, vector BLOB)")
    return connection


def _rows(data: Data, matrix: Matrix, first: int) -> list[tuple[str, str, bytes]]:
    return [(str(n), json.dumps(data.payload(n)), row.tobytes()) for n, row in enumerate(matrix, first)]


def _insert(connection: sqlite3.Connection, rows: Sequence[tuple[str, str, bytes]]) -> float:
    began = time.perf_counter()
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO points VALUES (?, ?, ?)", rows)
    connection.execute("COMMIT")
    return time.perf_counter() - began


def _beside_chroma(data: Data, folder: Path, searchable: float, indexed: float) -> Figure:
    measured = chroma(data, folder)
    found = recall([set(some) for some in measured["found"]], data.nearest)
    theirs = measured["load"]
    query = statistics.median(measured["seconds"])
    label = f"{data.size // 1000} K from empty to searched (indexed after {_ms(indexed)})"
    peer = f"chroma {measured['version']}, on disk: query {query * 1e6:,.0f} µs, recall {found:.3f}"
    return Figure(label, _ms(searchable), _ms(theirs), peer, searchable / theirs, 1 / 20)


async def _beside_qdrant(
    label: str,
    store: FaissVectorStore,
    name: str,
    data: Data,
    peer: Search,
    conditions: Sequence[Condition],
    target: float,
    least: float,
) -> Figure:
    """Each query with its condition, and every now and then the peer's in between."""
    where = [None if condition is None else {condition[0]: condition[1]} for condition in conditions]
    ours: list[float] = []
    theirs: list[float] = []
    found: list[set[int]] = []
    await store.search(name, [data.queries[0]], limit=LIMIT, where=where[0])
    for number, (query, condition) in enumerate(zip(data.queries, conditions, strict=True)):
        began = time.perf_counter()
        (hits,) = await store.search(name, [query], limit=LIMIT, where=where[number])
        ours.append(time.perf_counter() - began)
        found.append(numbers(hits))
        if number % (QUERIES // PEER_QUERIES) == 0:
            began = time.perf_counter()
            peer(query, condition)
            theirs.append(time.perf_counter() - began)
    share = recall(found, data.truth(_among(data, conditions)))
    ratio = statistics.median(ours) / statistics.median(theirs)
    return Figure(f"{label}, recall {share:.3f}", _us(ours), _us(theirs), QDRANT, ratio, _if(share >= least, target))


def _among(data: Data, conditions: Sequence[Condition]) -> Any:
    """Which points each query may find, of shape (queries, points)."""
    values = {"of": np.arange(data.size) % 100, "topic": data.topics}
    everywhere = np.ones(data.size, np.bool_)
    return np.stack([everywhere if one is None else values[one[0]] == one[1] for one in conditions])


async def _beside_edge(store: FaissVectorStore, name: str, data: Data, peer: Callable[[int], Search]) -> Figure:
    """At the least breadth of the peer's search that finds as much as ours."""
    hits = [(await store.search(name, [query], limit=LIMIT))[0] for query in data.queries]
    share = recall([numbers(some) for some in hits], data.nearest)
    breadth, search, theirs_found = 0, peer(EDGE_EFS[0]), 0.0
    for breadth in EDGE_EFS:
        search = peer(breadth)
        theirs_found = recall([search(query, None) for query in data.queries], data.nearest)
        if theirs_found >= share - 0.001:
            break
    ours: list[float] = []
    theirs: list[float] = []
    for query in data.queries:
        began = time.perf_counter()
        await store.search(name, [query], limit=LIMIT)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        search(query, None)
        theirs.append(time.perf_counter() - began)
    label = f"query, {data.size // 1000} K, recall {share:.3f}"
    return latency(label, ours, theirs, f"qdrant-edge, ef {breadth}, recall {theirs_found:.3f}", 1 / 4)


async def _miss(store: FaissVectorStore, name: str, data: Data) -> Figure:
    """What the cache adds to a search that it has not seen."""
    cached = CachingVectorStore(store, TieredCache(SystemClock()))
    ours: list[float] = []
    theirs: list[float] = []
    for query in data.queries:
        for place, seconds in ((store, theirs), (cached, ours)):
            began = time.perf_counter()
            await place.search(name, [query], limit=LIMIT)
            seconds.append(time.perf_counter() - began)
    return latency(f"cache miss, {data.size // 1000} K", ours, theirs, "without the cache", None)


async def _batch(store: FaissVectorStore, name: str, data: Data) -> Figure:
    """Against FAISS alone with the same structure, which returns numbers and no payloads."""
    import faiss

    codes = faiss.IndexPQFastScan(DIMENSION, DIMENSION // PQ_WIDTH, 4, faiss.METRIC_INNER_PRODUCT)
    bare: Any = faiss.IndexRefineFlat(codes)
    bare.train(data.points[:8192])
    bare.add(data.points)
    bare.k_factor = reranked(PQ_WIDTH, "balanced", data.size, LIMIT) / LIMIT
    queries = data.queries[:BATCH]
    faiss.omp_set_num_threads(2)
    ours: list[float] = []
    theirs: list[float] = []
    answer: list[list[Hit]] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        answer = await store.search(name, list(queries), limit=LIMIT)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        bare.search(queries, LIMIT)
        theirs.append(time.perf_counter() - began)
    share = recall([numbers(hits) for hits in answer], data.nearest[:BATCH])
    ratio = statistics.median(ours) / statistics.median(theirs)
    label = f"{BATCH} queries in one call, {data.size // 1000} K, recall {share:.3f}"
    return Figure(label, _ms(statistics.median(ours)), _ms(statistics.median(theirs)), "FAISS, ids only", ratio, 1.5)


async def _inserts(store: FaissVectorStore, name: str, data: Data, folder: Path) -> Figure:
    """A hundred points written, flushed, and found by the next search."""
    ours: list[float] = []
    theirs: list[float] = []
    with contextlib.closing(_bare(folder / "inserts.db")) as connection:
        for number in range(ROUNDS):
            first = data.size + number * BATCH
            matrix = data.more[number * BATCH : (number + 1) * BATCH]
            points, rows = data.named(matrix, first), _rows(data, matrix, first)
            began = time.perf_counter()
            await store.upsert(name, points)
            (hits,) = await store.search(name, [matrix[0]], limit=1)
            ours.append(time.perf_counter() - began)
            assert hits[0].id == str(first)
            theirs.append(_insert(connection, rows))
    ratio = statistics.median(ours) / statistics.median(theirs)
    label = f"insert {BATCH} and find one, {data.size // 1000} K"
    return Figure(label, _ms(statistics.median(ours)), _ms(statistics.median(theirs)), "bare transaction", ratio, 2.5)


async def _narrow(
    store: FaissVectorStore,
    data: Data,
    index: WishedIndex,
    quantization: Quantization,
    what: str,
    least: float,
    target: float,
) -> list[Figure]:
    """What a narrower form takes of memory, and what it finds; for `hash` a search, its code included, in time."""
    await _load(store, "narrow", data, index=index, quantization=quantization)
    state = await store.optimize("narrow")
    share, times = await _recall(store, "narrow", data)
    ram, plain = state.ram_bytes or 0, data.size * DIMENSION * 4
    await store.drop("narrow")
    good = share >= least and index in ("auto", state.index)
    label = f"{what}, {data.size // 1000} K, recall {share:.3f}"
    figures = [Figure(label, _mb(ram), _mb(plain), "float32", ram / plain, _if(good, target))]
    if index == "hash":
        took = statistics.median(times)
        figures.append(Figure("a search by them, code included", _us(times), "5 ms", "a bound", took / CODE_LIMIT, 1))
    return figures


async def _recall(store: FaissVectorStore, name: str, data: Data) -> tuple[float, list[float]]:
    found: list[set[int]] = []
    times: list[float] = []
    for query in data.queries:
        began = time.perf_counter()
        (hits,) = await store.search(name, [query], limit=LIMIT)
        times.append(time.perf_counter() - began)
        found.append(numbers(hits))
    return recall(found, data.nearest), times


async def _measure_large(folder: Path) -> list[Figure]:
    """The time to read every code once is what a search in codes cannot go below."""
    data = Data(LARGE)
    store = await FaissVectorStore.open(folder / "large.db", SystemClock())
    try:
        await _load(store, "large", data, quantization="fp16")
        began = time.perf_counter()
        await store.optimize("large")
        built = time.perf_counter() - began
        share, times = await _recall(store, "large", data)
    finally:
        await store.close()
    codes = np.ones(LARGE * DIMENSION // 8, np.uint8)  # zeros would be one page of memory, read again and again
    floor = statistics.median(_timed(lambda: codes.view(np.uint64).sum()) for _ in range(ROUNDS))
    ours = statistics.median(times)
    label = f"query, 1 M, recall {share:.3f}"
    return [
        Figure("build of 1 M", f"{built:.1f} s", "10 s", "a bound", built / 10, 1),
        Figure(label, _us(times), _us([floor]), "reading all codes", ours / floor, _if(share >= 0.99, 1.7)),
    ]


def _timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _if(holds: bool, target: float) -> float:
    """The target; one that no ratio meets if the recall does not go with it."""
    return target if holds else 0.0


def _us(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1e6:,.0f} µs"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
