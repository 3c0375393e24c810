"""What a vector backend does: collections of points, searched by nearness and filtered by payload.

Times are milliseconds since the epoch. A point has ended once `now >= expires_at`; nothing finds it then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Metric = Literal["cosine", "dot", "l2"]
IndexKind = Literal["exact", "hash", "pq", "hnsw"]
"""How points are found: every vector compared; 256-bit codes or 4 bits a number, both then re-ranked; a graph."""
WishedIndex = Literal["auto", "exact", "hash", "pq", "hnsw"]
Quantization = Literal["none", "fp16", "sq8", "sq4", "pq"]
"""How the compared vectors are held in memory: float32, 2, 1 or 1/2 bytes a number, or only codes of 4 bits for some
numbers each, and the vectors themselves on disk."""
Precision = Literal["fast", "balanced", "exact"]
Stored = Literal["float32", "float16"]
Payload: TypeAlias = Mapping[str, Any]  # a JSON object, shared: never change one
Vector: TypeAlias = "Sequence[float] | NDArray[np.float32] | NDArray[np.float64]"

MAX_DIMENSION = 4096
MAX_PAYLOAD_BYTES = 1 << 20
MAX_PAYLOAD_DEPTH = 100  # of lists and objects in each other; JSON readers give up not far above
MAX_ID_CHARS = 512


@dataclass(frozen=True, slots=True)
class Point:
    id: str
    vector: Vector
    payload: Payload = field(default_factory=dict[str, Any])
    expires_at: int | None = None  # None: kept for ever


class Hit(NamedTuple):
    """A found point. Score: cosine or dot product, higher is better; for l2 the distance, lower is better."""

    id: str
    score: float
    payload: Payload


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection as it was wished; `CollectionState` says how it is."""

    name: str
    dimension: int
    metric: Metric
    embedder: str | None  # what made its vectors; None: the callers did
    created_at: int
    index: WishedIndex = "auto"
    quantization: Quantization = "none"
    stored: Stored = "float32"  # how a vector is kept, and comes back


@dataclass(frozen=True, slots=True)
class CollectionState:
    """What serves a collection's searches now. None: this store cannot tell."""

    index: IndexKind
    quantization: Quantization
    points: int
    tombstones: int | None  # replaced and removed points that the index still carries
    change_sequence: int | None  # the number of the last change
    ram_bytes: int | None
    disk_bytes: int | None  # about: of many points some are measured
    recall: float | None  # recall@10 that the index had, on a sample of its own points against exact search
    building: IndexKind | None  # what is being built beside it
    note: str | None = None  # why the index is not as wished


class VectorStore(Protocol):
    """All but `upsert` raise NotFoundError if there is no such collection, all StorageError if the store fails.

    `where` is a filter as `filters.parse_filter` reads it.
    """

    async def create(
        self,
        name: str,
        dimension: int,
        metric: Metric = "cosine",
        embedder: str | None = None,
        *,
        index: WishedIndex = "auto",
        quantization: Quantization = "none",
        stored: Stored = "float32",
    ) -> CollectionInfo:
        """Make an empty collection.

        Raises:
            ConflictError: the name is taken.
            InvalidArgumentError: the dimension is not 1 to MAX_DIMENSION, or the store has no such index with that
                quantization.
        """
        ...

    async def describe(self, name: str) -> CollectionInfo:
        """How the collection was wished; cheap."""
        ...

    async def inspect(self, name: str) -> CollectionState:
        """How it is."""
        ...

    async def change_token(self, name: str) -> str | None:
        """What names the present contents: another text after any change, of other processes too, after a point's
        end, and for a collection made anew. None: this store cannot tell, so nothing of it may be cached."""
        ...

    async def collections(self, *, limit: int, after: str = "") -> list[CollectionInfo]:
        """The next collections after the name `after`, by name."""
        ...

    async def drop(self, name: str) -> int:
        """Remove a collection and return how many points it had."""
        ...

    async def replace(self, name: str, successor: str, *, unchanged_since: str | None = None) -> None:
        """Give the collection `successor` the name `name`, in one step; what had that name is dropped.

        A search beside it sees all of the one or all of the other. `unchanged_since` is a change token of `name`.

        Raises:
            ConflictError: points of `name` have been written or deleted since that token.
        """
        ...

    async def upsert(self, name: str, points: Sequence[Point], *, embedder: str | None = None) -> int:
        """Add or replace points, all of them or none, and return how many; every later search sees them.

        A missing collection is made with them: of their dimension, cosine. `embedder` is what made the vectors; an
        empty collection takes it over.

        Raises:
            InvalidArgumentError: a wrong dimension, a number that is not finite, a zero vector under cosine,
                an id twice, a payload that is not JSON; the text names the point.
            LimitError: a payload over MAX_PAYLOAD_BYTES or MAX_PAYLOAD_DEPTH.
            ConflictError: the points that are there were made by another embedder.
        """
        ...

    async def get(self, name: str, ids: Sequence[str]) -> list[Point]:
        """Those of `ids` that are there, in that order, with their vectors as they were given (as float32, or what
        float16 keeps of them if the collection stores that).

        Raises:
            InvalidArgumentError: an id that no point can have.
        """
        ...

    async def page(self, name: str, *, limit: int, after: str = "") -> list[Point]:
        """The next points after the one with the id `after`, in an order of the ids that never changes: a walk from
        page to page meets every point once that is there all the while.

        Raises:
            InvalidArgumentError: `after` is an id that no point can have.
        """
        ...

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        """Remove points and return how many there were.

        Raises:
            InvalidArgumentError: an id that no point can have.
        """
        ...

    async def delete_where(self, name: str, where: Mapping[str, Any]) -> int:
        """Remove the points whose payload matches and return how many there were.

        Raises:
            InvalidArgumentError: `where` is no filter.
        """
        ...

    async def search(
        self,
        name: str,
        queries: Sequence[Vector],
        *,
        limit: int,
        threshold: float | None = None,
        where: Mapping[str, Any] | None = None,
        precision: Precision = "balanced",
    ) -> list[list[Hit]]:
        """For each query up to `limit` (at least 1) nearest points, the best first.

        `threshold` is the least score, for l2 the greatest distance; both inclusive. Scores are those of the vectors as
        stored, whatever the index; it and `precision` decide which points are found: under `exact` the nearest.

        Raises:
            InvalidArgumentError: `where` is no filter, or a query has what `upsert` refuses in a point.
        """
        ...

    async def search_text(
        self, name: str, texts: Sequence[str], *, limit: int, where: Mapping[str, Any] | None = None
    ) -> list[list[Hit]]:
        """For each text up to `limit` points whose payload's `text` has any of its words, the best first; the score
        is that of the ranking (BM25), higher is better.

        Raises:
            UnsupportedError: this store has no full text.
            InvalidArgumentError: `where` is no filter.
        """
        ...

    async def count(self, name: str, where: Mapping[str, Any] | None = None) -> int:
        """Raises InvalidArgumentError if `where` is no filter."""
        ...

    async def optimize(self, name: str) -> CollectionState:
        """Build the index anew, without what was removed, and return how it is then. Searches go on meanwhile."""
        ...

    async def snapshot(self, name: str) -> str:
        """Keep the index as it is, so that the next start need not build it, and return the snapshot's name."""
        ...

    async def verify(self, name: str) -> list[str]:
        """Compare the index with the points and return what is wrong, a sentence each; none: all is well."""
        ...

    async def close(self) -> None: ...
