"""A collection's index in this process, from one building to the next, and the change that it has come to.

Not thread-safe: the store lets one thread in at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from .base import CollectionInfo, Hit, IndexKind, Payload, Precision, Quantization
from .index import LEAST_RANKED, Index, new_index
from .matrix import Matrix, decode_comparable
from .postings import Postings
from .ranking import Ranked, rank, to_hits
from .reader import Collection, Reader, SlotRow
from .slots import NEVER, Mask, Slots, SlotTable
from .vectors import faiss, smallest

Structure = tuple[IndexKind, Quantization]

GRAPH_ADDS = 1000  # points that are added to a graph beside searches, at some 350 µs each
FEW_CHANGES = 200  # points, at some 5 µs each; to a graph they are added in a thread
RANKED_NUMBERS = 1 << 17  # of candidates' vectors that are scored at once: their copies stay in the cache
FEW = 0.07  # share of the slots: so few matching ones are found quicker by comparing them than by discarding others
MARGIN: dict[Quantization, float] = {"none": 1, "fp16": 1.25, "sq8": 1.5, "sq4": 2, "pq": 1.25}
"""How many times the limit is scored anew by the stored vectors: the order of narrower ones is not quite theirs."""


class Generation:
    def __init__(self, info: CollectionInfo, index: Index, structure: Structure, wish: Structure) -> None:
        self.info = info
        self.index = index
        self.structure = structure
        self.wish = wish  # what was tried; not `structure` if that did not find the nearest of these points
        self.slots = SlotTable()
        self.postings = Postings()
        self.sequence = 0
        self.followed: Collection | None = None  # as it was at that sequence; None: it has been written since, here
        self.built = 0  # points, when it was trained
        self.recall = 1.0  # of ten neighbours, when it was built
        self.note: str | None = None

    @classmethod
    def empty(cls, info: CollectionInfo) -> Generation:
        """One that compares all."""
        plain: Structure = ("exact", "none")
        sample = np.empty((0, info.dimension), np.float32)
        return cls(info, new_index(*plain, info.dimension, info.metric, sample, 0), plain, plain)

    @property
    def last_key(self) -> int:
        return int(self.slots.keys[-1]) if len(self.slots) else 0

    @property
    def ram_bytes(self) -> int:
        return self.index.ram_bytes + self.slots.nbytes + self.postings.nbytes

    def is_outdated(self, wish: Structure, wish_at_twice: Structure) -> bool:
        """Whether it is time to build anew: for other wishes, for more dead than living slots, or twice the points."""
        living = self.slots.living
        if self.slots.tombstones > living:
            return True
        if self.wish not in (wish, wish_at_twice):  # the second, so that a point more or less does not change it
            return True
        return self.wish != ("exact", "none") and living >= 2 * self.built

    # ---- following the truth

    def is_near(self, reader: Reader, collection: Collection) -> bool:
        """Whether the changes since are so few that even the event loop can replay them."""
        if self.sequence == collection.sequence:
            return True
        few = not reader.has_more(collection, self.sequence, self.last_key, FEW_CHANGES)
        return few and self.index.kind != "hnsw"

    def follow(self, reader: Reader, collection: Collection, *, patient: bool = False) -> bool:
        """Replay the changes since; False if that would take long, and the caller is not `patient`."""
        if self.sequence == collection.sequence:
            self.followed = collection
            return True
        if not patient and self.index.kind == "hnsw" and reader.count_after(collection, self.last_key) > GRAPH_ADDS:
            return False
        gone = reader.deleted_since(collection, self.sequence)
        if gone is None:
            self.slots.keep(np.array(reader.keys(collection.key), np.int64))
        else:
            self.slots.remove(np.array(gone, np.int64))
        for rows in reader.rows_after(collection, self.last_key, payloads=bool(self.postings.fields)):
            self.put(rows)
        self.sequence, self.followed = collection.sequence, collection
        return True

    def put(self, rows: Sequence[SlotRow], *, stored: bool = False) -> Matrix:
        """Append points, and return their vectors as they are compared; `stored`: those are on disk already."""
        keys, blobs, expiries, payloads = zip(*rows, strict=True)
        matrix = decode_comparable(blobs, self.info)
        if self.postings.fields:
            self.postings.add(len(self.slots), [json.loads(payload) for payload in payloads])
        self.index.add(matrix, stored=stored)
        ends = [NEVER if expiry is None else expiry for expiry in expiries]
        self.slots.append(np.array(keys, np.int64), np.array(ends, np.int64))
        return matrix

    # ---- searching

    def is_quick(
        self, queries: int, limit: int, where: Mapping[str, Any] | None, precision: Precision, bound: int
    ) -> bool:
        """Whether a search reads at most about `bound` bytes."""
        if where and self.postings.missing(where):
            return False
        if precision == "exact" and self.structure[1] != "none":
            return False
        size = len(self.slots)
        per_slot = 64 * bool(where)  # the masks
        return self.index.cost(queries, limit, size, precision) + size * per_slot <= bound

    def search(
        self,
        reader: Reader,
        collection: Collection,
        queries: Matrix,
        *,
        limit: int,
        threshold: float | None,
        where: Mapping[str, Any] | None,
        precision: Precision,
    ) -> list[list[Hit]]:
        """For each row of `queries`, which are comparable, the nearest points; `where` is a valid filter, or None.

        Raises OutdatedError as `Reader.found` does.
        """
        mask = self._mask(reader, collection, where)
        if precision == "exact" and self.structure[1] != "none":
            found = self._scan_truth(reader, collection, queries, limit, mask)
        else:
            found = self.candidates(queries, limit, precision, mask)
        counts = list(map(len, found))
        slots = np.concatenate(found)
        keys: list[int] = self.slots.keys[slots].tolist()
        held = self.index.vectors.unaltered()
        rows = reader.found(collection, _unique(keys)) if held is None else {}
        ranked: list[Ranked] = []
        step = max(1, RANKED_NUMBERS // (max(1, *counts) * self.info.dimension))
        first = 0
        for start in range(0, len(queries), step):
            some = slice(start, start + step)
            part = slice(first, first := first + sum(counts[some]))
            if held is None:
                points = decode_comparable((rows[key][3] for key in keys[part]), self.info)
            else:
                points = held[slots[part]]
            ranked += rank(queries[some], counts[some], keys[part], points, self.info.metric, limit, threshold)
        if held is not None:
            rows = reader.found(collection, _unique(key for key, _ in chain(*ranked)), vectors=False)
        return to_hits(ranked, rows)

    def _mask(self, reader: Reader, collection: Collection, where: Mapping[str, Any] | None) -> Mask | None:
        """The slots to search; None: all."""
        if where:
            if missing := self.postings.missing(where):
                self.postings.take_in(missing, self._payloads(reader, collection))
            return self.postings.mask(where, len(self.slots)) & self.slots.alive
        return self.slots.alive if self.slots.tombstones else None

    def _payloads(self, reader: Reader, collection: Collection) -> Iterator[tuple[int, Sequence[Payload]]]:
        """The payload of each slot, in chunks; nothing for those that are gone."""
        first = 0
        for rows in reader.rows_after(collection, 0, payloads=True):
            slots = np.searchsorted(self.slots.keys, [row[0] for row in rows])
            payloads: list[Payload] = [{}] * (int(slots[-1]) + 1 - first)
            for slot, row in zip(slots.tolist(), rows, strict=True):
                payloads[slot - first] = json.loads(row[3])
            yield first, payloads
            first += len(payloads)

    def candidates(
        self, queries: Matrix, limit: int, precision: Precision = "balanced", mask: Mask | None = None
    ) -> list[Slots]:
        """For each query the slots that may be the nearest of those in `mask`, rather a few too many."""
        size = len(self.slots)
        matching = size if mask is None else int(np.count_nonzero(mask))
        if not matching:
            return [np.empty(0, np.int64) for _ in queries]
        if (margin := MARGIN[self.structure[1]]) > 1:
            limit = math.ceil(max(limit, LEAST_RANKED) * margin)
        limit = min(limit, matching)
        faiss.omp_set_num_threads(1 if len(queries) == 1 else 2)  # holds for this thread
        found = None
        if precision != "exact" and (mask is None or matching > FEW * size):
            found = self.index.nearest(queries, limit, precision, share=matching / size, size=size)
        if found is None:
            return list(self.index.vectors.nearest(queries, limit, mask))
        if mask is None and found.min() >= 0:
            return list(found)
        kept: list[Slots] = []
        for query, slots in zip(queries, found, strict=True):
            slots = slots[slots >= 0]
            slots = (slots if mask is None else slots[mask[slots]])[:limit]
            if len(slots) < limit:  # the filter keeps what is far from this query: compare all that it keeps
                slots = self.index.vectors.nearest(query[None], limit, mask)[0]
            kept.append(slots)
        return kept

    def _scan_truth(
        self, reader: Reader, collection: Collection, queries: Matrix, limit: int, mask: Mask | None
    ) -> list[Slots]:
        """The nearest by their stored vectors, which this index holds in a narrower form."""
        best = Nearest(queries, limit, self.info.metric)
        for rows in reader.rows_after(collection, 0, payloads=False):
            slots = np.searchsorted(self.slots.keys, [row[0] for row in rows])
            matrix = decode_comparable((row[1] for row in rows), self.info)
            chosen = np.ones(len(rows), np.bool_) if mask is None else mask[slots]
            best.see(matrix[chosen], slots[chosen])
        return best.slots


def _unique(keys: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(keys))


class Nearest:
    """The nearest slots to each query of all that are shown."""

    def __init__(self, queries: Matrix, k: int, metric: str) -> None:
        self._queries = queries
        self._k = k
        self._metric = metric
        self.slots: list[Slots] = [np.empty(0, np.int64) for _ in queries]
        self.distances: list[Matrix] = [np.empty(0, np.float32) for _ in queries]

    def see(self, matrix: Matrix, slots: Slots) -> None:
        for row, distances in enumerate(distances_of(self._queries, matrix, self._metric)):
            together = np.concatenate([self.distances[row], distances])
            best = smallest(together, self._k)
            self.slots[row] = np.concatenate([self.slots[row], slots])[best]
            self.distances[row] = together[best]


def distances_of(queries: Matrix, matrix: Matrix, metric: str) -> Matrix:
    """Of shape (queries, rows): the less, the nearer."""
    if metric == "l2":
        return np.stack([((matrix - query) ** 2).sum(axis=1) for query in queries])
    distances: Matrix = -(queries @ matrix.T)
    return distances
