"""Vector search as every caller meets it: texts become vectors, names are checked, lifetimes are in seconds."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import ConflictError, InvalidArgumentError, NotFoundError
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.vectors.base import CollectionInfo, Hit, Metric, Payload, Point, Vector, VectorStore
from quarterdeck.tools.memory.checks import milliseconds

from .embedders.base import Embedder

NAMES_SHOWN = 20  # of collections, in an error
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class NewPoint:
    """What to insert: exactly one of `vector` and `text`; `ttl` in seconds, None or 0 keeps for ever.

    A text is kept in the payload as `text`, unless that has one of its own.
    """

    id: str
    vector: Vector | None = None
    text: str | None = None
    payload: Payload = field(default_factory=dict[str, Any])
    ttl: float | None = None


class VectorService:
    """A bad name raises InvalidArgumentError, a missing collection NotFoundError except in `upsert`; any method
    raises StorageError if the store fails.
    """

    def __init__(self, store: OnFirstUse[VectorStore], embedder: OnFirstUse[Embedder], clock: Clock) -> None:
        self._store = store
        self._embedder = embedder
        self._clock = clock

    async def create(self, name: str, dimension: int | None = None, metric: Metric = "cosine") -> CollectionInfo:
        """Make an empty collection; without a dimension one for texts.

        Raises:
            InvalidArgumentError: a bad name or dimension.
            ConflictError: the name is taken.
        """
        _check_name(name)
        store = await self._store()
        if dimension is not None:
            return await store.create(name, dimension, metric)
        embedder = await self._embedder()
        return await store.create(name, embedder.dimension, metric, embedder.name)

    async def collections(self, *, limit: int, after: str = "") -> Sequence[CollectionInfo]:
        """The next collections after the name `after`, by name.

        Raises:
            InvalidArgumentError: `after` cannot be a name.
        """
        if after and not _NAME.fullmatch(after):
            raise InvalidArgumentError("cursor: pass the nextCursor of the page before, unchanged, or none")
        return await (await self._store()).collections(limit=limit, after=after)

    async def describe(self, name: str) -> CollectionInfo:
        _check_name(name)
        store = await self._store()
        try:
            return await store.describe(name)
        except NotFoundError:
            infos = await store.collections(limit=NAMES_SHOWN + 1)
            names = ", ".join(info.name for info in infos[:NAMES_SHOWN]) or "none"
            more = ", …" if len(infos) > NAMES_SHOWN else ""
            raise NotFoundError(
                f"no collection '{name}' (there: {names}{more}): vector_upsert or vector_collections create makes one"
            ) from None

    async def _store_with(self, name: str) -> VectorStore:
        """The store, once it is sure that the collection is there."""
        await self.describe(name)
        return await self._store()

    async def count(self, name: str) -> int:
        store = await self._store_with(name)
        return await store.count(name)

    async def drop(self, name: str) -> int:
        """Remove a collection and return how many points it had."""
        store = await self._store_with(name)
        return await store.drop(name)

    async def upsert(self, name: str, points: Sequence[NewPoint]) -> int:
        """Add or replace points, all of them or none, and return how many. A missing collection is made with them.

        Raises:
            InvalidArgumentError: a bad name, ttl, text or vector; vectors and texts mixed; the text names the point.
            ConflictError: the collection was made for other vectors.
            LimitError: a payload is too large.
        """
        _check_name(name)
        store = await self._store()
        texts = [point.text for point in points if point.text is not None and point.vector is None]
        vectors = [point.vector for point in points if point.vector is not None and point.text is None]
        if len(vectors) == len(points):
            return await store.upsert(name, self._points(points, vectors))
        if len(texts) < len(points):
            raise InvalidArgumentError("points: give each a text, or each a vector")
        embedder = await self._embedder()
        with contextlib.suppress(NotFoundError):
            _check_dimension(await store.describe(name), embedder)
        made = list(await embedder.embed(texts))
        return await store.upsert(name, self._points(points, made), embedder=embedder.name)

    async def put(
        self, name: str, points: Sequence[NewPoint], *, dimension: int, metric: Metric, embedder: str | None
    ) -> int:
        """Write points with their vectors, whoever made those, into a collection of this shape; a missing one is made.

        Raises:
            ConflictError: the collection has another shape.
            InvalidArgumentError, LimitError: as `upsert`.
        """
        _check_name(name)
        store = await self._store()
        with contextlib.suppress(ConflictError):  # it is there
            await store.create(name, dimension, metric, embedder)
        info = await store.describe(name)
        if (info.dimension, info.metric) != (dimension, metric):
            raise ConflictError(
                f"collection '{name}' has dimension {info.dimension} and metric {info.metric}, "
                f"the points {dimension} and {metric}: use another collection"
            )
        vectors = [point.vector for point in points if point.vector is not None]
        return await store.upsert(name, self._points(points, vectors), embedder=embedder)

    def _points(self, points: Sequence[NewPoint], vectors: Sequence[Vector]) -> list[Point]:
        now = self._clock.now()
        return [
            Point(
                point.id,
                vector,
                point.payload if point.text is None else {"text": point.text, **point.payload},
                now + milliseconds(point.ttl) if point.ttl else None,
            )
            for point, vector in zip(points, vectors, strict=True)
        ]

    async def page(self, name: str, *, limit: int, after: str = "") -> list[Point]:
        """The next points after the one with the id `after`, as `VectorStore.page`.

        Raises:
            InvalidArgumentError: `after` is an id that no point can have.
        """
        store = await self._store_with(name)
        return await store.page(name, limit=limit, after=after)

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        """Remove points and return how many there were."""
        store = await self._store_with(name)
        return await store.delete(name, ids)

    async def delete_where(self, name: str, where: Mapping[str, Any]) -> int:
        """Remove the points whose payload matches and return how many there were.

        Raises:
            InvalidArgumentError: `where` is no filter, or the empty one.
        """
        if not where:
            raise InvalidArgumentError("filter: an empty one means every point; vector_collections drop removes those")
        store = await self._store_with(name)
        return await store.delete_where(name, where)

    async def search(
        self,
        name: str,
        vectors: Sequence[Vector],
        *,
        limit: int = 10,
        threshold: float | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> list[list[Hit]]:
        """For each vector the nearest points, the best first; `threshold` as in `VectorStore.search`.

        Raises:
            InvalidArgumentError: a bad vector or filter.
        """
        store = await self._store_with(name)
        return await store.search(name, vectors, limit=limit, threshold=threshold, where=where)

    async def search_texts(
        self,
        name: str,
        texts: Sequence[str],
        *,
        limit: int = 10,
        threshold: float | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> list[list[Hit]]:
        """For each text the nearest points, as `search`.

        Raises:
            ConflictError: the collection does not hold texts of this embedder.
            InvalidArgumentError: a text without words, or a bad filter.
        """
        info = await self.describe(name)
        embedder = await self._embedder()
        if (info.embedder, info.dimension) != (embedder.name, embedder.dimension):
            holds = "vectors of its callers" if info.embedder is None else f"texts embedded by '{info.embedder}'"
            raise ConflictError(
                f"collection '{name}' holds {holds} ({info.dimension} numbers), not texts embedded by "
                f"'{embedder.name}' ({embedder.dimension}): search it with 'vector' or 'vectors'"
            )
        vectors = list(await embedder.embed(texts))
        return await self.search(name, vectors, limit=limit, threshold=threshold, where=where)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"collection: a name is 1 to 128 letters, digits and . _ -, the first a letter or digit, got {name[:40]!a}"
        )


def _check_dimension(info: CollectionInfo, embedder: Embedder) -> None:
    if info.dimension != embedder.dimension:
        raise ConflictError(
            f"collection '{info.name}' has dimension {info.dimension}, the embedder '{embedder.name}' makes "
            f"{embedder.dimension}: give vectors, or use another collection"
        )
