"""Short codes of vectors, scanned from end to end: by one thread, or where they are many, by two of half each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .matrix import Matrix
from .vectors import faiss

SHARDED_FROM = 200_000  # codes: to scan half of fewer takes about as long as to wake a thread


class Codes:
    """A FAISS index, or two: of the first `half` slots and of the rest."""

    def __init__(self, parts: Sequence[Any], half: int) -> None:
        self.parts = parts
        self.code_bytes = int(parts[0].sa_code_size())  # asked once: it takes FAISS some 30 µs
        self.index = parts[0]
        self._half = half
        if len(parts) > 1:
            threaded = successive_ids = True
            self.index = faiss.IndexShards(parts[0].d, threaded, successive_ids)
            for part in parts:
                self.index.add_shard(part)

    @classmethod
    def trained(cls, codes: Any, points: int) -> Codes:
        """Empty, for about so many points; `codes` is a trained index without any."""
        if points < SHARDED_FROM:
            return cls([codes], points)
        return cls([codes, faiss.clone_index(codes)], points // 2)

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def add(self, matrix: Matrix) -> None:
        if len(self.parts) == 1:
            self.index.add(matrix)
            return
        room = max(0, self._half - len(self))
        for part, rows in zip(self.parts, (matrix[:room], matrix[room:]), strict=True):
            if len(rows):
                part.add(rows)
        self.index.syncWithSubIndexes()
