"""One collection in memory: an exact FAISS index beside ids, payloads and expiries.

Slots are append-only: a replaced or removed point leaves a dead slot behind, and `compact` drops the dead ones.
Not thread-safe; the store lets one thread in at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, cast

import faiss
import numpy as np
from numpy.typing import NDArray

from .base import Hit, Metric, Payload
from .filters import Predicate
from .matrix import STORED, Matrix, to_unit_length
from .sqlite import PointRow

Slots = NDArray[np.int64]

NEVER = int(np.iinfo(np.int64).max)  # the expiry of a point that is kept for ever
DEAD = int(np.iinfo(np.int64).min)  # the expiry of a dead slot
FILTER_COST = 20_000  # a predicate on one payload costs about as much as this many multiplications


class _Index(Protocol):
    """What is used of `faiss.IndexFlat`, with types that its own stubs leave open."""

    def add(self, x: Matrix) -> None: ...
    def search(self, x: Matrix, k: int, *, params: Any = None) -> tuple[Matrix, Slots]: ...
    def reconstruct_batch(self, key: Slots) -> Matrix: ...


class FlatIndex:
    def __init__(self, dimension: int, metric: Metric) -> None:
        self._dimension = dimension
        self._metric = metric
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._index = self._new_index()
        self._slot_of: dict[str, int] = {}  # live points only
        self._ids: list[str] = []  # this and the next two by slot
        self._payloads: list[Payload] = []
        self._expiries: Slots = np.empty(0, np.int64)
        self._next_expiry = NEVER

    def _new_index(self) -> _Index:
        kind = faiss.METRIC_L2 if self._metric == "l2" else faiss.METRIC_INNER_PRODUCT
        return cast("_Index", faiss.IndexFlat(self._dimension, kind))

    def __len__(self) -> int:
        return len(self._slot_of)

    @property
    def is_mostly_dead(self) -> bool:
        return len(self._ids) > 2 * len(self._slot_of)

    @property
    def tombstones(self) -> int:
        return len(self._ids) - len(self._slot_of)

    @property
    def ram_bytes(self) -> int:
        """Of the vectors."""
        return len(self._ids) * self._dimension * STORED.itemsize

    def work(self, queries: int, *, filtered: bool) -> int:
        """About how many multiplications a search takes."""
        return len(self._ids) * (queries * self._dimension + FILTER_COST * filtered)

    def put(self, rows: Sequence[PointRow]) -> None:
        """Add or replace points."""
        ids, blobs, payloads, expiries = zip(*rows, strict=True)
        vectors = np.frombuffer(b"".join(blobs), STORED).astype(np.float32).reshape(len(rows), self._dimension)
        self.remove(ids)
        self._slot_of.update(zip(ids, range(len(self._ids), len(self._ids) + len(ids)), strict=True))
        self._ids.extend(ids)
        self._payloads.extend(json.loads(payload) for payload in payloads)
        new = np.array([NEVER if expiry is None else expiry for expiry in expiries], np.int64)
        self._expiries = np.concatenate([self._expiries, new])
        self._next_expiry = min(self._next_expiry, int(new.min()))
        self._index.add(to_unit_length(vectors) if self._metric == "cosine" else vectors)

    def remove(self, ids: Iterable[str]) -> None:
        """Forget the points that are there."""
        for point_id in ids:
            slot = self._slot_of.pop(point_id, None)
            if slot is not None:
                self._bury(slot)

    def expire(self, now: int) -> None:
        """Forget the points whose time is over."""
        if now < self._next_expiry:
            return
        for slot in np.flatnonzero((self._expiries > DEAD) & (self._expiries <= now)).tolist():
            del self._slot_of[self._ids[slot]]
            self._bury(slot)
        self._next_expiry = int(self._expiries[self._live_slots()].min(initial=NEVER))

    def _bury(self, slot: int) -> None:
        self._expiries[slot] = DEAD
        self._payloads[slot] = {}

    def _live_slots(self) -> Slots:
        return np.flatnonzero(self._expiries > DEAD)

    def compact(self) -> None:
        """Drop the dead slots."""
        live = self._live_slots()
        index = self._new_index()
        if live.size:
            index.add(self._index.reconstruct_batch(live))
        self._index = index
        self._ids = [self._ids[slot] for slot in live]
        self._payloads = [self._payloads[slot] for slot in live]
        self._expiries = self._expiries[live]
        self._slot_of = {point_id: slot for slot, point_id in enumerate(self._ids)}

    def search(
        self, queries: Matrix, limit: int, threshold: float | None, accepts: Predicate | None
    ) -> list[list[Hit]]:
        """For each row of `queries` the nearest points that `accepts` lets through, the best first."""
        slots: Slots | None = None
        if accepts is not None:
            slots = np.array([s for s in self._slot_of.values() if accepts(self._payloads[s])], np.int64)
        elif len(self._slot_of) < len(self._ids):
            slots = self._live_slots()
        k = min(limit, len(self._ids) if slots is None else slots.size)
        if k == 0:
            return [[] for _ in queries]
        faiss.omp_set_num_threads(1)  # holds for this thread; more of them only fight over the memory bus
        params = faiss.SearchParameters()
        selector = None if slots is None else faiss.IDSelectorArray(slots)  # a name, for FAISS keeps a mere pointer
        params.sel = selector
        asked = to_unit_length(queries) if self._metric == "cosine" else queries
        scores, found = self._index.search(asked, k, params=params)
        return [self._hits(*row, threshold) for row in zip(asked, scores, found, strict=True)]

    def _hits(self, query: Matrix, scores: Matrix, slots: Slots, threshold: float | None) -> list[Hit]:
        if self._metric == "l2":
            # For many queries FAISS takes |a|² + |b|² - 2ab, which loses short distances in the rounding.
            distances: Matrix = np.linalg.norm(self._index.reconstruct_batch(slots) - query, axis=1)
            order: Slots = np.argsort(distances)
            scores, slots = distances[order], slots[order]
        elif self._metric == "cosine":
            scores = scores.clip(-1, 1)
        if threshold is not None:
            kept: NDArray[np.bool_] = scores <= threshold if self._metric == "l2" else scores >= threshold
            scores, slots = scores[kept], slots[kept]
        found: list[int] = slots.tolist()
        return [
            Hit(self._ids[slot], float(score), self._payloads[slot]) for slot, score in zip(found, scores, strict=True)
        ]
