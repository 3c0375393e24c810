"""The vectors that candidates are compared with, by slot: in memory, in one of several widths, or mapped from disk."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .base import Metric, Quantization
from .matrix import Matrix
from .slots import Growing, Mask, Slots

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, by FAISS's OpenMP: its spinning starves the machine
faiss: Any = import_module("faiss")  # untyped: its own stubs lack some classes and are wrong about others

L2_AT_ONCE = 16  # more queries at once, and FAISS takes |a|² + |b|² - 2ab, which loses short distances in the rounding
SCAN_ROWS = 4096
GATHERED = 1000  # vectors that are compared sooner when copied together than when FAISS looks for them
_WIDTHS = {
    "fp16": faiss.ScalarQuantizer.QT_fp16,
    "sq8": faiss.ScalarQuantizer.QT_8bit,
    "sq4": faiss.ScalarQuantizer.QT_4bit,
}


def faiss_metric(metric: Metric) -> int:
    return int(faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)


class Vectors(Protocol):
    @property
    def ram_bytes(self) -> int: ...

    def add(self, matrix: Matrix) -> None: ...

    def nearest(self, queries: Matrix, k: int, mask: Mask | None) -> Slots:
        """Compare every slot that `mask` has (None: all) and return slots of shape (queries, k), the best first; -1
        where there are no more.
        """
        ...

    def unaltered(self) -> Matrix | None:
        """A view of all vectors as they were added, valid until more are; None if they are held in a narrower form."""
        ...


def flat_index(quantization: Quantization, dimension: int, metric: Metric) -> Any:
    """An empty FAISS index that compares every vector."""
    if quantization == "none":
        return faiss.IndexFlat(dimension, faiss_metric(metric))
    return faiss.IndexScalarQuantizer(dimension, _WIDTHS[quantization], faiss_metric(metric))


def graph_index(quantization: Quantization, dimension: int, metric: Metric, links: int) -> Any:
    """An empty HNSW graph over such vectors."""
    if quantization == "none":
        return faiss.IndexHNSWFlat(dimension, links, faiss_metric(metric))
    return faiss.IndexHNSWSQ(dimension, _WIDTHS[quantization], links, faiss_metric(metric))


class RamVectors:
    """A FAISS index of flat codes."""

    def __init__(self, index: Any, metric: Metric) -> None:
        self.index = index
        self._metric: Metric = metric
        self._is_plain = isinstance(index, faiss.IndexFlat)
        self._held: Matrix | None = None
        self._at_once = L2_AT_ONCE if metric == "l2" else None

    @property
    def ram_bytes(self) -> int:
        return int(self.index.ntotal * self.index.sa_code_size())

    def add(self, matrix: Matrix) -> None:
        self.index.add(matrix)

    def nearest(self, queries: Matrix, k: int, mask: Mask | None) -> Slots:
        if mask is not None and (held := self.unaltered()) is not None:
            slots = np.flatnonzero(mask)
            if k <= len(slots) <= GATHERED:
                rows = held[slots]
                return np.stack([slots[smallest(_distances(rows, query, self._metric), k)] for query in queries])
        params = faiss.SearchParameters()
        # Both names are needed: FAISS keeps mere pointers.
        bits = None if mask is None else np.packbits(mask, bitorder="little")
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)
        params.sel = selector
        step = self._at_once or len(queries)
        found = [
            self.index.search(queries[start : start + step], k, params=params)[1]
            for start in range(0, len(queries), step)
        ]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def unaltered(self) -> Matrix | None:
        if not self._is_plain:
            return None
        index, size = self.index, self.index.ntotal
        if self._held is None or len(self._held) != size:
            self._held = faiss.rev_swig_ptr(index.get_xb(), size * index.d).reshape(-1, index.d)
        return self._held


class MappedVectors:
    """Two bytes a number in a file that is mapped, and what came after it was written in memory."""

    DTYPE = np.dtype("<f2")
    FILE = "vectors.f16"

    def __init__(self, path: Path, dimension: int, metric: Metric) -> None:
        self._path = path
        self._metric: Metric = metric
        self._dimension = dimension
        numbers = np.memmap(path, self.DTYPE, "r") if path.stat().st_size else np.empty(0, self.DTYPE)
        self._disk: NDArray[np.float16] = numbers.reshape(-1, dimension)
        self._tail = Growing(np.float16, dimension)

    @classmethod
    def encode(cls, matrix: Matrix) -> bytes:
        """Rows as they are in the file."""
        return matrix.astype(cls.DTYPE).tobytes()

    def save(self, path: Path) -> None:
        """Write all rows to a file, unless it is the one that has them."""
        if path == self._path and not len(self._tail.items):
            return
        with path.open("wb") as file:
            file.write(self._disk.tobytes())
            file.write(self._tail.items.tobytes())

    @property
    def ram_bytes(self) -> int:
        return self._tail.nbytes

    def add(self, matrix: Matrix) -> None:
        self._tail.extend(matrix.astype(np.float16))

    def __len__(self) -> int:
        return len(self._disk) + len(self._tail.items)

    def rows(self, slots: Slots) -> Matrix:
        on_disk = len(self._disk)
        if not len(self._tail.items):
            return self._disk[slots].astype(np.float32)
        rows = np.empty((len(slots), self._dimension), np.float32)
        late = slots >= on_disk
        rows[~late] = self._disk[slots[~late]]
        rows[late] = self._tail.items[slots[late] - on_disk]
        return rows

    def unaltered(self) -> Matrix | None:
        return None

    def distances(self, query: Matrix, slots: Slots) -> Matrix:
        """Of some slots to a query: the less, the nearer."""
        return _distances(self.rows(slots), query, self._metric)

    def nearest(self, queries: Matrix, k: int, mask: Mask | None) -> Slots:
        slots = np.arange(len(self)) if mask is None else np.flatnonzero(mask)
        found = np.full((len(queries), k), -1, np.int64)
        for row, query in enumerate(queries):
            parts = [self.distances(query, slots[at : at + SCAN_ROWS]) for at in range(0, len(slots), SCAN_ROWS)]
            if parts:
                best = smallest(np.concatenate(parts), k)
                found[row, : len(best)] = slots[best]
        return found


def _distances(rows: Matrix, query: Matrix, metric: Metric) -> Matrix:
    distances: Matrix = ((rows - query) ** 2).sum(axis=1) if metric == "l2" else -(rows @ query)
    return distances


def smallest(values: Matrix, k: int) -> Slots:
    """The places of the k smallest values, the least first."""
    if len(values) > k:
        chosen = np.argpartition(values, k - 1)[:k]
        return chosen[np.argsort(values[chosen], kind="stable")]
    return np.argsort(values, kind="stable")
