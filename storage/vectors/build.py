"""Building an index anew from the truth, in a thread of its own, beside the searches and commits that go on.

What comes out has proved itself: a structure that does not find the nearest of these points gives way to a plainer one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .base import CollectionInfo
from .generation import Generation, Nearest, Structure, distances_of
from .index import new_index
from .matrix import Matrix, decode_comparable
from .reader import Collection, Reader, SlotRow
from .slots import Slots
from .vectors import MappedVectors, faiss

TRAINED_ON = 8192  # points
CHECKED_ON = 64  # points, searched for
CHECKED_AT = 10  # neighbours
LEAST_RECALL = 0.95
TIE = 1e-5  # relative: nearer than this and two neighbours are one as good as the other


class BuildStoppedError(Exception):
    """The store closes."""


class Builder:
    """Builds one index. `folder` takes what stays on disk."""

    def __init__(self, reader: Reader, collection: Collection, folder: Path, stop: threading.Event) -> None:
        self._reader = reader
        self._collection = collection
        self._info: CollectionInfo = collection.info
        self._folder = folder
        self._stop = stop

    def build(self, wish: Structure, fields: list[str]) -> Generation:
        """An index as wished, or else with every vector compared; `fields` are those of filters to keep in memory.

        Raises:
            BuildStoppedError: the store closes.
        """
        faiss.omp_set_num_threads(2)
        generation = self._try(wish, wish, fields)
        found = generation.recall
        ladder: list[Structure] = [("exact", wish[1]), ("exact", "none")]
        for plainer in ladder:
            if generation.recall < LEAST_RECALL:
                generation = self._try(plainer, wish, fields)
                generation.note = (
                    f"{' '.join(wish)} found {found:.0%} of the nearest of these points: "
                    f"{' '.join(plainer)} serves until there are twice as many"
                )
        return generation

    def _try(self, structure: Structure, wish: Structure, fields: list[str]) -> Generation:
        info, collection = self._info, self._collection
        kind, quantization = structure
        sample = decode_comparable(self._reader.sample(collection, TRAINED_ON), info)
        mapped = self._write_vectors() if quantization == "pq" else None
        held = "none" if mapped else quantization
        index = new_index(kind, held, info.dimension, info.metric, sample, collection.rows, mapped)
        generation = Generation(info, index, structure, wish)
        generation.postings.take_in(fields, [])
        exact = Nearest(sample[:CHECKED_ON], CHECKED_AT, info.metric)
        for rows in self._chunks(payloads=bool(fields)):
            first = len(generation.slots)
            matrix = generation.put(rows, stored=mapped is not None)
            exact.see(matrix, np.arange(first, first + len(rows)))
        generation.sequence = collection.sequence
        generation.built = generation.slots.living
        generation.recall = self._recall(generation, sample[:CHECKED_ON], exact)
        return generation

    def _chunks(self, *, payloads: bool) -> Iterator[list[SlotRow]]:
        for rows in self._reader.rows_after(self._collection, 0, payloads=payloads):
            if self._stop.is_set():
                raise BuildStoppedError
            yield rows

    def _write_vectors(self) -> MappedVectors:
        path = self._folder / MappedVectors.FILE
        with path.open("wb") as file:
            for rows in self._chunks(payloads=False):
                file.write(MappedVectors.encode(decode_comparable((row[1] for row in rows), self._info)))
        return MappedVectors(path, self._info.dimension, self._info.metric)

    def _recall(self, generation: Generation, queries: Matrix, exact: Nearest) -> float:
        """The share of the nearest that a balanced search finds; what is as near as the last of them counts."""
        info, size = self._info, len(generation.slots)
        if generation.structure == ("exact", "none") or not size:
            return 1.0
        k = min(CHECKED_AT, size)
        found = generation.candidates(queries, k)
        hits = 0
        for query, slots, nearest in zip(queries, found, exact.distances, strict=True):
            keys: Slots = generation.slots.keys[slots]
            rows = self._reader.found(self._collection, keys.tolist())
            vectors = decode_comparable((rows[key][3] for key in keys.tolist()), info)
            distances = distances_of(query[None], vectors, info.metric)[0]
            worst = nearest[-1]
            hits += min(int(np.count_nonzero(distances <= worst + TIE * max(1.0, abs(worst)))), k)
        return hits / (k * len(queries))
