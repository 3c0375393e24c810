"""Short codes of vectors, scanned from end to end: by one thread, or where they are many, by two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .matrix import Matrix
from .vectors import faiss

SHARDED_FROM = 200_000  # codes: to scan half of fewer takes about as long as to wake a thread


class Codes:
    """A FAISS index, or two: of the first slots, half of all when it was built, and of the rest."""

    def __init__(self, parts: Sequence[Any], first: int) -> None:
        """`first`: how many slots the first of two parts takes."""
        self.parts = parts
        self.code_bytes = int(parts[0].sa_code_size())  # asked once: it takes FAISS some 30 µs
        self._first = first
        # A thread for each part speeds one query up. Several queries FAISS shares out among its threads by itself, as
        # many as the caller allows.
        self.for_one = parts[0] if len(parts) == 1 else _joined(parts, threaded=True)
        self.for_many = parts[0] if len(parts) == 1 else _joined(parts, threaded=False)

    @classmethod
    def trained(cls, codes: Any, points: int) -> Codes:
        """Empty, for about so many points; `codes` is a trained index without any."""
        parts = [codes] if points < SHARDED_FROM else [codes, faiss.clone_index(codes)]
        return cls(parts, points // 2)

    def __len__(self) -> int:
        return sum(int(part.ntotal) for part in self.parts)

    def add(self, matrix: Matrix) -> None:
        room = max(0, self._first - len(self)) if len(self.parts) > 1 else len(matrix)
        for part, rows in zip(self.parts, (matrix[:room], matrix[room:]), strict=False):
            if len(rows):
                part.add(rows)
        if len(self.parts) > 1:
            self.for_one.syncWithSubIndexes()
            self.for_many.syncWithSubIndexes()


def _joined(parts: Sequence[Any], *, threaded: bool) -> Any:
    successive_ids = True
    joined = faiss.IndexShards(parts[0].d, threaded, successive_ids)
    for part in parts:
        joined.add_shard(part)
    return joined
