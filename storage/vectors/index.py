"""How slots are found by nearness: exactly, by codes and a re-rank of the best of them, or in a graph.

PQ: Jégou, Douze, Schmid, "Product quantization for nearest neighbor search", 2011; its 4-bit codes are scanned in
registers: André, Kermarrec, Le Scouarnec, "Cache locality is not enough", 2015. HNSW: Malkov, Yashunin, "Efficient and
robust approximate nearest neighbor search using hierarchical navigable small world graphs", 2016.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .base import CollectionInfo, IndexKind, Metric, Precision, Quantization
from .codes import Codes
from .matrix import Matrix
from .slots import Slots
from .vectors import MappedVectors, RamVectors, Vectors, faiss, faiss_metric, flat_index, graph_index, smallest

CODES_FROM = 4096  # points, from which codes are faster than comparing all
TRAIN_FROM = 1024  # fewer points are compared exactly, and held as float32, whatever was wished
PQ_WIDTH = 4  # numbers for each 4-bit code
NARROW_WIDTH = 6  # where the codes are all that is in memory
HASH_CODES = 64  # of 4 bits: 256 in all
TRAINING_ITERATIONS = 10
HNSW_LINKS, HNSW_BUILD = 16, 200
HNSW_SEARCH: dict[Precision, int] = {"fast": 32, "balanced": 64}
LEAST_RANKED = 10  # a smaller limit is ranked anew like this one: codes put the nearest as far down as the tenth
MOST_CANDIDATES = 0.25  # of all slots: to fetch and compare more is dearer than to compare all in a row


def wanted(info: CollectionInfo, points: int) -> tuple[IndexKind, Quantization]:
    """The structure for so many points."""
    if points < TRAIN_FROM:
        return "exact", "none"
    if info.index != "auto":
        return info.index, info.quantization
    codes = points >= CODES_FROM or info.quantization == "pq"
    return "pq" if codes else "exact", info.quantization


def reranked(width: float, precision: Precision, size: int, limit: int) -> int:
    """How many are re-ranked for a limit, by codes of so many numbers each: measured on sentence embeddings, for a
    recall of .99 when balanced."""
    factor = 16 if size < 200_000 else 32 if size < 600_000 else 64
    return factor * (2 if width > PQ_WIDTH else 1) // (2 if precision == "fast" else 1) * max(limit, LEAST_RANKED)


class Index:
    """With a FAISS graph, with codes, or with neither, where all vectors are compared."""

    def __init__(
        self, kind: IndexKind, dimension: int, vectors: Vectors, *, graph: Any = None, codes: Codes | None = None
    ) -> None:
        self.kind: IndexKind = kind
        self.vectors = vectors
        self.graph = graph
        self.codes = codes
        self._dimension = dimension
        self._refined: list[Any] = []  # for one query, and for several
        if codes is not None and isinstance(vectors, RamVectors):
            self._refined = [faiss.IndexRefine(some, vectors.index) for some in (codes.for_one, codes.for_many)]

    @property
    def ram_bytes(self) -> int:
        size = self.vectors.ram_bytes
        if self.graph is not None:
            size += self.graph.hnsw.neighbors.size() * 4
        if self.codes is not None:
            size += len(self.codes) * self.codes.code_bytes
        return int(size)

    def add(self, matrix: Matrix, *, stored: bool = False) -> None:
        """Append; `stored`: the vectors themselves are there already."""
        if self.graph is not None:
            self.graph.add(matrix)  # its own storage is `vectors`
            return
        if self.codes is not None:
            self.codes.add(matrix)
        if not stored:
            self.vectors.add(matrix)
        for refined in self._refined:
            refined.ntotal += len(matrix)  # its own `add` would deal the rows out to both parts of the codes

    def cost(self, queries: int, limit: int, size: int, precision: Precision) -> int:
        """About how many bytes a search reads."""
        row = 4 * self._dimension
        if precision != "exact" and self.graph is not None:
            return queries * HNSW_SEARCH[precision] * HNSW_LINKS * row
        if precision != "exact" and self.codes is not None:
            scanned = size * self.codes.code_bytes
            return queries * (scanned + self._reranked(self.codes, precision, size, limit) * row)
        return queries * size * row

    def _reranked(self, codes: Codes, precision: Precision, size: int, limit: int) -> int:
        return reranked(self._dimension / (2 * codes.code_bytes), precision, size, limit)

    def nearest(self, queries: Matrix, limit: int, precision: Precision, *, share: float, size: int) -> Slots | None:
        """Slots of shape (queries, some), the nearest first, -1 for none: about `limit` of them are among the `share`
        of all `size` slots that the caller keeps. None: it is better to compare all of those.
        """
        if self.codes is not None:
            candidates = self._reranked(self.codes, precision, size, limit)
        elif self.graph is not None:
            candidates = HNSW_SEARCH[precision]
        else:
            return None
        want = limit if share == 1 else math.ceil(2 * limit / share) + 8
        candidates = max(math.ceil(candidates / share), want)
        if candidates > MOST_CANDIDATES * size:
            return None
        if self.codes is None:
            params = faiss.SearchParametersHNSW(efSearch=candidates)
            return _slots(self.graph.search(queries, want, params=params))
        several = len(queries) > 1
        if self._refined:
            refined = self._refined[several]
            refined.k_factor = candidates / want
            return _slots(refined.search(queries, want))
        codes = self.codes.for_many if several else self.codes.for_one
        return self._rerank_mapped(queries, _slots(codes.search(queries, candidates)), want)

    def _rerank_mapped(self, queries: Matrix, candidates: Slots, want: int) -> Slots:
        assert isinstance(self.vectors, MappedVectors)  # noqa: S101  all others are in FAISS's hands
        found = np.full((len(queries), want), -1, np.int64)
        for row, (query, slots) in enumerate(zip(queries, candidates, strict=True)):
            there = slots[slots >= 0]
            best = smallest(self.vectors.distances(query, there), want)
            found[row, : len(best)] = there[best]
        return found


def _slots(found: tuple[Matrix, Slots]) -> Slots:
    """Of what a FAISS search returns."""
    return found[1]


def new_index(
    kind: IndexKind,
    quantization: Quantization,
    dimension: int,
    metric: Metric,
    sample: Matrix,
    points: int,
    mapped: MappedVectors | None = None,
) -> Index:
    """Train an empty index for about so many points on a sample; `mapped` are the vectors where they stay on disk."""
    if kind == "hnsw":
        graph = graph_index(quantization, dimension, metric, HNSW_LINKS)
        graph.hnsw.efConstruction = HNSW_BUILD
        graph.train(sample)
        return graph_over(graph, dimension, metric)
    vectors: Vectors
    if mapped is not None:
        vectors = mapped
    else:
        flat = flat_index(quantization, dimension, metric)
        flat.train(sample)
        vectors = RamVectors(flat, metric)
    if kind == "exact":
        return Index(kind, dimension, vectors)
    wide = PQ_WIDTH if mapped is None else NARROW_WIDTH
    width = wide if kind == "pq" else math.ceil(dimension / HASH_CODES)
    padded = math.ceil(dimension / width) * width
    codes = faiss.IndexPQFastScan(padded, padded // width, 4, faiss_metric(metric))
    codes.pq.cp.niter = TRAINING_ITERATIONS
    whole: Any = codes
    if padded != dimension:  # with zeros
        whole = faiss.IndexPreTransform(faiss.RemapDimensionsTransform(dimension, padded, False), codes)
    whole.train(sample)
    return Index(kind, dimension, vectors, codes=Codes.trained(whole, points))


def graph_over(graph: Any, dimension: int, metric: Metric) -> Index:
    return Index("hnsw", dimension, RamVectors(faiss.downcast_index(graph.storage), metric), graph=graph)
