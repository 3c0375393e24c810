"""What a durable vector search costs against libraries that search in memory, on clustered vectors of 384 numbers.

All do the same work: ten neighbours with their payloads, a query a call. Ours is written to disk before it answers.
Recall@10 against brute force stands beside each figure. `--only vectors`; a million points: `--only vectors_large`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quarterdeck.storage.clock import SystemClock
from quarterdeck.storage.vectors.base import Point, Quantization, WishedIndex
from quarterdeck.storage.vectors.faiss import FaissVectorStore
from tests.clustered import Matrix, clustered

from .measure import Figure

DIMENSION = 384
LIMIT = 10
QUERIES = 200
PEER_QUERIES = 10  # of the slow peer, spread among ours
BATCH = 100
ROUNDS = 15
SIZES = (10_000, 100_000)
LARGE = 1_000_000
QUERY_TARGETS = {10_000: 1 / 40, 100_000: 1 / 300}
QDRANT = "qdrant-client :memory:"


class Data:
    """Points of a world, held-out queries, and the true neighbours of those."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.points = clustered(size, DIMENSION, world=size)
        self.queries = clustered(QUERIES, DIMENSION, world=size, seed=1)
        self.more = clustered(BATCH * ROUNDS, DIMENSION, world=size, seed=2)
        self.nearest = self.neighbours(np.arange(size))

    def neighbours(self, among: Any) -> list[set[int]]:
        rows = self.points[among]
        return [set(among[np.argpartition(-(rows @ query), LIMIT)[:LIMIT]].tolist()) for query in self.queries]


def payload(number: int) -> dict[str, Any]:
    return {"n": number, "of": number % 100, "title": f"The title of text {number}"}


def points_of(matrix: Matrix, first: int = 0) -> list[Point]:
    return [Point(str(n), row, payload(n)) for n, row in enumerate(matrix, first)]


def measure(folder: Path) -> list[Figure]:
    return asyncio.run(_measure(folder))


def measure_large(folder: Path) -> list[Figure]:
    return asyncio.run(_measure_large(folder))


async def _measure(folder: Path) -> list[Figure]:
    figures: list[Figure] = []
    for size in SIZES:
        data = Data(size)
        store = await FaissVectorStore.open(folder / f"{size}.db", SystemClock())
        try:
            figures += await _of_size(store, data, folder)
        finally:
            await store.close()
    return figures


async def _of_size(store: FaissVectorStore, data: Data, folder: Path) -> list[Figure]:
    name = "none"
    loaded = await _load(store, name, data)
    bare = _bare_load(folder / f"bare-{data.size}.db", data)
    label = f"load {data.size // 1000} K, durably"
    figures = [Figure(label, _ms(loaded), _ms(bare), "bare transaction", loaded / bare, 4)]
    await store.optimize(name)
    client = _qdrant(data)
    figures.append(await _queries(store, name, data, client))
    figures.append(await _filtered(store, name, data, client))
    figures.append(await _batch(store, name, data))
    figures.append(await _inserts(store, name, data, folder))
    await store.drop(name)
    if data.size == SIZES[-1]:
        figures.append(await _recall(store, data, "auto", "pq", "codes in RAM, vectors on disk", 0.99))
        figures.append(await _recall(store, data, "hash", "fp16", "256-bit codes + re-rank", 0.90))
    return figures


async def _load(store: FaissVectorStore, name: str, data: Data, **options: Any) -> float:
    """Seconds."""
    await store.create(name, DIMENSION, **options)
    chunks = [points_of(data.points[first : first + 10_000], first) for first in range(0, data.size, 10_000)]
    began = time.perf_counter()
    for chunk in chunks:
        await store.upsert(name, chunk)
    return time.perf_counter() - began


def _bare_load(path: Path, data: Data) -> float:
    """Seconds of the same rows in as many transactions."""
    chunks = [_rows(data.points[first : first + 10_000], first) for first in range(0, data.size, 10_000)]
    with contextlib.closing(_bare(path)) as connection:
        return sum(_insert(connection, chunk) for chunk in chunks)


def _bare(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE points (id TEXT PRIMARY KEY, payload TEXT, vector BLOB)")
    return connection


def _rows(matrix: Matrix, first: int) -> list[tuple[str, str, bytes]]:
    return [(str(n), json.dumps(payload(n)), row.tobytes()) for n, row in enumerate(matrix, first)]


def _insert(connection: sqlite3.Connection, rows: Sequence[tuple[str, str, bytes]]) -> float:
    began = time.perf_counter()
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO points VALUES (?, ?, ?)", rows)
    connection.execute("COMMIT")
    return time.perf_counter() - began


def _qdrant(data: Data) -> Callable[[Matrix, int | None], Any]:
    """A search of the peer's, in a collection with the same points."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    client.create_collection("c", models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a server were better for so many points
        for first in range(0, data.size, 1000):
            chunk = data.points[first : first + 1000]
            numbers: Any = list(range(first, first + len(chunk)))
            client.upsert("c", models.Batch(ids=numbers, vectors=chunk.tolist(), payloads=[*map(payload, numbers)]))

    def search(query: Matrix, of: int | None) -> Any:
        condition = models.FieldCondition(key="of", match=models.MatchValue(value=of)) if of is not None else None
        where = models.Filter(must=[condition]) if condition else None
        return client.query_points("c", query.tolist(), query_filter=where, limit=LIMIT, with_payload=True).points

    return search


async def _queries(store: FaissVectorStore, name: str, data: Data, peer: Callable[..., Any]) -> Figure:
    ours: list[float] = []
    theirs: list[float] = []
    found = 0
    await store.search(name, [data.queries[0]], limit=LIMIT)
    for number, query in enumerate(data.queries):
        began = time.perf_counter()
        (hits,) = await store.search(name, [query], limit=LIMIT)
        ours.append(time.perf_counter() - began)
        found += len({hit.payload["n"] for hit in hits} & data.nearest[number])
        if number % (QUERIES // PEER_QUERIES) == 0:
            began = time.perf_counter()
            peer(query, None)
            theirs.append(time.perf_counter() - began)
    ratio = statistics.median(ours) / statistics.median(theirs)
    recall = found / LIMIT / QUERIES
    label = f"query, {data.size // 1000} K, recall {recall:.3f}"
    return Figure(label, _us(ours), _us(theirs), QDRANT, ratio, _if(recall >= 0.99, QUERY_TARGETS[data.size]))


async def _filtered(store: FaissVectorStore, name: str, data: Data, peer: Callable[..., Any]) -> Figure:
    """One payload in a hundred passes."""
    ours: list[float] = []
    theirs: list[float] = []
    found = 0
    of = {value: data.neighbours(np.arange(value, data.size, 100)) for value in range(5)}
    await store.search(name, [data.queries[0]], limit=LIMIT, where={"of": 0})
    for number, query in enumerate(data.queries):
        value = number % 5
        began = time.perf_counter()
        (hits,) = await store.search(name, [query], limit=LIMIT, where={"of": value})
        ours.append(time.perf_counter() - began)
        found += len({hit.payload["n"] for hit in hits} & of[value][number])
        if number % (QUERIES // 5) == 0:
            began = time.perf_counter()
            peer(query, value)
            theirs.append(time.perf_counter() - began)
    recall = found / LIMIT / QUERIES
    ratio = statistics.median(ours) / statistics.median(theirs)
    label = f"query, {data.size // 1000} K, 1 % filter, recall {recall:.3f}"
    return Figure(label, _us(ours), _us(theirs), QDRANT, ratio, _if(recall == 1, 1 / 500))


async def _batch(store: FaissVectorStore, name: str, data: Data) -> Figure:
    """Against FAISS alone with the same structure, which returns numbers and no payloads."""
    import faiss

    codes = faiss.IndexPQFastScan(DIMENSION, DIMENSION // 4, 4, faiss.METRIC_INNER_PRODUCT)
    bare: Any = faiss.IndexRefineFlat(codes)
    bare.train(data.points[:8192])
    bare.add(data.points)
    bare.k_factor = 16
    queries = data.queries[:BATCH]
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await store.search(name, list(queries), limit=LIMIT)
        ours.append(time.perf_counter() - began)
        faiss.omp_set_num_threads(2)
        began = time.perf_counter()
        bare.search(queries, LIMIT)
        theirs.append(time.perf_counter() - began)
    ratio = statistics.median(ours) / statistics.median(theirs)
    label = f"{BATCH} queries in one call, {data.size // 1000} K"
    return Figure(label, _ms(statistics.median(ours)), _ms(statistics.median(theirs)), "faiss alone", ratio, 1.5)


async def _inserts(store: FaissVectorStore, name: str, data: Data, folder: Path) -> Figure:
    """A hundred points written, flushed, and found by the next search."""
    ours: list[float] = []
    theirs: list[float] = []
    with contextlib.closing(_bare(folder / f"inserts-{data.size}.db")) as connection:
        for number in range(ROUNDS):
            first = data.size + number * BATCH
            matrix = data.more[number * BATCH : (number + 1) * BATCH]
            points, rows = points_of(matrix, first), _rows(matrix, first)
            began = time.perf_counter()
            await store.upsert(name, points)
            (hits,) = await store.search(name, [matrix[0]], limit=1)
            ours.append(time.perf_counter() - began)
            assert hits[0].id == str(first)
            theirs.append(_insert(connection, rows))
    ratio = statistics.median(ours) / statistics.median(theirs)
    label = f"insert 100 and find one, {data.size // 1000} K"
    return Figure(label, _ms(statistics.median(ours)), _ms(statistics.median(theirs)), "bare transaction", ratio, 2.5)


async def _recall(
    store: FaissVectorStore, data: Data, index: WishedIndex, quantization: Quantization, what: str, least: float
) -> Figure:
    """What a narrower form finds, and the memory that it takes: ours in place of a time, float32's of theirs."""
    await _load(store, "narrow", data, index=index, quantization=quantization)
    state = await store.optimize("narrow")
    recall, times = await _recall_of(store, "narrow", data)
    plain = data.size * DIMENSION * 4
    label = f"{what}: {data.size // 1000} K, recall {recall:.3f}, {_us(times)}"
    ram = state.ram_bytes or 0
    await store.drop("narrow")
    good = recall >= least and index in ("auto", state.index)
    return Figure(label, _mb(ram), _mb(plain), "float32", ram / plain, _if(good, 1))


async def _recall_of(store: FaissVectorStore, name: str, data: Data) -> tuple[float, list[float]]:
    found = 0
    times: list[float] = []
    for query, nearest in zip(data.queries, data.nearest, strict=True):
        began = time.perf_counter()
        (hits,) = await store.search(name, [query], limit=LIMIT)
        times.append(time.perf_counter() - began)
        found += len({hit.payload["n"] for hit in hits} & nearest)
    return found / LIMIT / QUERIES, times


async def _measure_large(folder: Path) -> list[Figure]:
    """The time to read every code once is what a search in codes cannot go below."""
    data = Data(LARGE)
    store = await FaissVectorStore.open(folder / "large.db", SystemClock())
    try:
        await _load(store, "large", data, quantization="fp16")
        began = time.perf_counter()
        await store.optimize("large")
        built = time.perf_counter() - began
        recall, times = await _recall_of(store, "large", data)
    finally:
        await store.close()
    codes = np.zeros(LARGE * DIMENSION // 8, np.uint8)
    floor = min(_timed(lambda: codes.view(np.uint64).sum()) for _ in range(ROUNDS))
    ours = statistics.median(times)
    target = _if(recall >= 0.99, 1.7)
    return [
        Figure("build of 1 M", f"{built:.1f} s", "10 s", "a bound", built / 10, 1),
        Figure(
            f"query, 1 M, recall {recall:.3f}",
            _us(times),
            _us([floor]),
            "reading all codes",
            ours / floor,
            target,
        ),
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
