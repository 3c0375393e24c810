"""What a vector backend does: collections of points, searched by nearness and filtered by payload.

Times are milliseconds since the epoch. A point has ended once `now >= expires_at`; nothing finds it then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Metric = Literal["cosine", "dot", "l2"]
Payload: TypeAlias = Mapping[str, Any]  # a JSON object, shared: never change one
Vector: TypeAlias = "Sequence[float] | NDArray[np.float32]"

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


@dataclass(frozen=True, slots=True)
class Hit:
    """A found point. Score: cosine or dot product, higher is better; for l2 the distance, lower is better."""

    id: str
    score: float
    payload: Payload


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    name: str
    dimension: int
    metric: Metric
    embedder: str | None  # what made its vectors; None: the callers did
    created_at: int


class VectorStore(Protocol):
    """All but `upsert` raise NotFoundError if there is no such collection, all StorageError if the store fails.

    `where` is a filter as `filters.parse_filter` reads it.
    """

    async def create(
        self, name: str, dimension: int, metric: Metric = "cosine", embedder: str | None = None
    ) -> CollectionInfo:
        """Make an empty collection.

        Raises:
            ConflictError: the name is taken.
            InvalidArgumentError: the dimension is not 1 to MAX_DIMENSION.
        """
        ...

    async def describe(self, name: str) -> CollectionInfo: ...

    async def collections(self, *, limit: int, after: str = "") -> list[CollectionInfo]:
        """The next collections after the name `after`, by name."""
        ...

    async def drop(self, name: str) -> int:
        """Remove a collection and return how many points it had."""
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
        """Those of `ids` that are there, in that order, with their vectors as they were given (float32).

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
    ) -> list[list[Hit]]:
        """For each query up to `limit` (at least 1) nearest points, the best first.

        `threshold` is the least score, for l2 the greatest distance; both inclusive.

        Raises:
            InvalidArgumentError: `where` is no filter, or a query has what `upsert` refuses in a point.
        """
        ...

    async def count(self, name: str) -> int: ...

    async def close(self) -> None: ...
