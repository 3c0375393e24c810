"""The tool call over stdio, 384 numbers in and ten payloads out, beside the same search in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quarterdeck.storage.vectors.faiss import FaissVectorStore
from tests.clustered import Matrix

from .measure import Figure, deck, latency
from .raw_client import ERAS, Era
from .vector_data import LIMIT, Data, recall

WARM_UP = 20
TARGET, FROM = 3, 100_000


async def measure_tool(store: FaissVectorStore, name: str, data: Data, folder: Path) -> list[Figure]:
    """`store` is open on `folder`'s data directory, where the server works too."""
    return [await _of_era(era, store, name, data, folder) for era in ERAS]


async def _of_era(era: Era, store: FaissVectorStore, name: str, data: Data, folder: Path) -> Figure:
    ours: list[float] = []
    theirs: list[float] = []
    with deck(era, folder) as client:
        for query in data.more[:WARM_UP]:
            client.call("vector_search", **_arguments(name, query))
        for query in data.queries:  # none of which the server's cache has seen
            ours += client.latencies("vector_search", [_arguments(name, query)])
            began = time.perf_counter()
            await store.search(name, [query], limit=LIMIT)
            theirs.append(time.perf_counter() - began)
        answers = [client.call("vector_search", **_arguments(name, query)) for query in data.queries]
    found = [_numbers(answer["results"][0]) for answer in answers]
    label = f"vector_search over stdio ({era}), {data.size // 1000} K, recall {recall(found, data.nearest):.3f}"
    return latency(label, ours, theirs, "in-process search", TARGET if data.size >= FROM else None)


def _arguments(name: str, query: Matrix) -> dict[str, Any]:
    return {"collection": name, "vector": np.round(query.astype(np.float64), 8).tolist(), "limit": LIMIT}


def _numbers(hits: Sequence[dict[str, Any]]) -> set[int]:
    return {hit["payload"]["n"] for hit in hits}
