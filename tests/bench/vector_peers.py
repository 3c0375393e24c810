"""What vector search is measured against: libraries that run in this process, and Chroma in one of its own."""

from __future__ import annotations

import json
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from qdrant_client import QdrantClient, models

from tests.clustered import Matrix

from .peers import pip_install
from .vector_data import CHUNK, DIMENSION, LIMIT, Data

CHROMA_LIMIT = 900.0  # seconds
EDGE_EFS = (32, 64, 128, 256, 512)

Condition = tuple[str, int] | None  # a payload's field and what it is to be
Search = Callable[[Matrix, Condition], set[int]]
"""A query's nearest points, with their payloads."""


def qdrant_in_memory(data: Data) -> Search:
    client = QdrantClient(":memory:")
    client.create_collection("c", models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a server were better for so many points
        for first in range(0, data.size, 1000):
            chunk = data.points[first : first + 1000]
            ids: Any = list(range(first, first + len(chunk)))
            client.upsert("c", models.Batch(ids=ids, vectors=chunk.tolist(), payloads=[*map(data.payload, ids)]))

    def search(query: Matrix, condition: Condition) -> set[int]:
        where = None
        if condition is not None:
            key, value = condition
            where = models.Filter(must=[models.FieldCondition(key=key, match=models.MatchValue(value=value))])
        found = client.query_points("c", query.tolist(), query_filter=where, limit=LIMIT, with_payload=True).points
        return {(point.payload or {})["n"] for point in found}

    return search


def qdrant_edge(data: Data, folder: Path) -> Callable[[int], Search]:
    """The engine of Qdrant's server, with its graph (16, 100) built: a search for each breadth (`ef`)."""
    folder.mkdir()
    config = edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(DIMENSION, edge.Distance.Cosine, hnsw_config=edge.HnswIndexConfig(16, 100, 1)),
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=1),
    )
    shard = edge.EdgeShard.create(str(folder), config)
    for at, chunk in enumerate(data.chunks()):
        numbers = range(at * CHUNK, at * CHUNK + len(chunk))
        points = [edge.Point(n, row.tolist(), data.payload(n)) for n, row in zip(numbers, chunk, strict=True)]
        shard.update(edge.UpdateOperation.upsert_points(points))
    shard.flush()
    while shard.optimize():
        pass
    assert shard.info().indexed_vectors_count > 0.9 * data.size

    def of_breadth(breadth: int) -> Search:
        params = edge.SearchParams(hnsw_ef=breadth)

        def search(query: Matrix, _: Condition) -> set[int]:
            nearest = edge.Query.Nearest(query.tolist())
            found = shard.query(edge.QueryRequest(LIMIT, query=nearest, params=params, with_payload=True))
            return {(point.payload or {})["n"] for point in found}

        return search

    return of_breadth


def chroma(data: Data, folder: Path) -> dict[str, Any]:
    """What `chroma_peer.py` prints: seconds to load, seconds of each query, and what those found."""
    folder.mkdir()
    for name, matrix in (("points", data.points), ("queries", data.queries)):
        np.save(folder / f"{name}.npy", matrix)
    (folder / "payloads.json").write_text(json.dumps([data.payload(number) for number in range(data.size)]))
    script = Path(__file__).with_name("chroma_peer.py")
    command = [pip_install("chromadb"), script, folder, str(CHUNK // 4), str(LIMIT)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=CHROMA_LIMIT)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured
