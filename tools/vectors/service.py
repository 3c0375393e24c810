"""Vector search as every caller meets it: texts become vectors, names are checked, lifetimes are in seconds."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import ConflictError, InvalidArgumentError, NotFoundError
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.vectors.base import (
    CollectionInfo,
    CollectionState,
    Hit,
    Metric,
    Payload,
    Point,
    Precision,
    Quantization,
    Vector,
    VectorStore,
    WishedIndex,
)
from quarterdeck.tools.changes import nobody, tells
from quarterdeck.tools.memory.checks import milliseconds

from .embedders.base import Embedder
from .embedders.offered import Embedders
from .fusion import fuse
from .reembed import Report, reembed, successor_of

Mode = Literal["vector", "text", "hybrid"]

NAMES_SHOWN = 20  # of collections, in an error
FUSED = 100  # hits of either ranking that a hybrid search fuses, at least
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


class Found(NamedTuple):
    metric: Metric
    results: list[list[Hit]]  # for each query


class VectorService:
    """A bad name raises InvalidArgumentError, a missing collection NotFoundError except in `upsert`; any method
    raises StorageError if the store fails, EmbedderError if an embedder that it needs does.
    """

    def __init__(
        self,
        store: OnFirstUse[VectorStore],
        embedders: Embedders,
        clock: Clock,
        others: Mapping[str, OnFirstUse[VectorStore]] = MappingProxyType({}),
    ) -> None:
        """Collections of `others` are called `STORE:COLLECTION`."""
        self._store = store
        self._embedders = embedders
        self._clock = clock
        self._others = others
        self.on_change: Callable[[], None] = nobody

    @tells
    async def create(
        self,
        name: str,
        dimension: int | None = None,
        metric: Metric = "cosine",
        *,
        embedder: str | None = None,
        index: WishedIndex = "auto",
        quantization: Quantization = "none",
    ) -> CollectionInfo:
        """Make an empty collection: for vectors of that dimension, or without one for texts, by the named embedder or
        the default one.

        Raises:
            InvalidArgumentError: a bad name or dimension, no such embedder, no such index with that quantization.
            ConflictError: the name is taken.
        """
        store, name = await self._place(name)
        made_by = None
        if dimension is None:
            chosen = await self._embedders.named(embedder)
            dimension, made_by = chosen.dimension, chosen.name
        return await store.create(name, dimension, metric, made_by, index=index, quantization=quantization)

    async def collections(self, *, limit: int, after: str = "") -> Sequence[CollectionInfo]:
        """The next collections after the name `after`, by name.

        Raises:
            InvalidArgumentError: `after` cannot be a name.
        """
        if after and not _NAME.fullmatch(after):
            raise InvalidArgumentError("cursor: pass the nextCursor of the page before, unchanged, or none")
        return await _shown(await self._store(), limit, after)

    async def _place(self, name: str) -> tuple[VectorStore, str]:
        """The store that a name means, and the collection's name there."""
        place, found, bare = name.partition(":")
        if found and self._others:
            if place not in self._others:
                raise InvalidArgumentError(
                    f"collection: no store {place[:40]!a} (configured: {', '.join(self._others)})"
                )
            _check_name(bare)
            return await self._others[place](), bare
        _check_name(name)
        return await self._store(), name

    async def _find(self, name: str) -> tuple[VectorStore, CollectionInfo]:
        """A collection that must be there, and its store."""
        store, bare = await self._place(name)
        try:
            return store, await store.describe(bare)
        except NotFoundError:
            infos = await _shown(store, NAMES_SHOWN + 1)
            names = ", ".join(info.name for info in infos[:NAMES_SHOWN]) or "none"
            more = ", …" if len(infos) > NAMES_SHOWN else ""
            raise NotFoundError(
                f"no collection '{name}' (there: {names}{more}): vector_upsert or vector_collections create makes one"
            ) from None

    async def describe(self, name: str) -> CollectionInfo:
        _, info = await self._find(name)
        return info

    async def inspect(self, name: str) -> CollectionState:
        """What serves the collection's searches now."""
        store, info = await self._find(name)
        return await store.inspect(info.name)

    @tells
    async def optimize(self, name: str) -> CollectionState:
        """Build the collection's index anew and return how it is then."""
        store, info = await self._find(name)
        return await store.optimize(info.name)

    @tells
    async def reembed(self, name: str, embedder: str | None, report: Report) -> CollectionInfo:
        """Embed the texts of a collection anew, by the named embedder or the default one, and return what it is then.

        Raises:
            InvalidArgumentError: no such embedder, or nothing in a text can be embedded.
            ConflictError: a point has no text; the message names it.
        """
        store, info = await self._find(name)
        return await reembed(store, info.name, await self._embedders.named(embedder), report)

    async def count(self, name: str) -> int:
        store, info = await self._find(name)
        return await store.count(info.name)

    @tells
    async def drop(self, name: str) -> int:
        """Remove a collection and return how many points it had."""
        store, info = await self._find(name)
        with contextlib.suppress(NotFoundError):
            await store.drop(successor_of(info.name))
        return await store.drop(info.name)

    @tells
    async def upsert(self, name: str, points: Sequence[NewPoint]) -> int:
        """Add or replace points, all of them or none, and return how many. A missing collection is made with them.

        Texts are embedded by what made the collection's vectors, in a new collection by the default embedder.

        Raises:
            InvalidArgumentError: a bad name, ttl, text or vector; vectors and texts mixed; the text names the point.
            ConflictError: the collection was made for other vectors.
            LimitError: a payload is too large.
        """
        store, name = await self._place(name)
        texts = [point.text for point in points if point.text is not None and point.vector is None]
        vectors = [point.vector for point in points if point.vector is not None and point.text is None]
        if len(vectors) == len(points):
            return await store.upsert(name, self._points(points, vectors))
        if len(texts) < len(points):
            raise InvalidArgumentError("points: give each a text, or each a vector")
        try:
            info = await store.describe(name)
        except NotFoundError:
            embedder = await self._embedders.named(None)
        else:
            embedder = await self._embedder_for(info)
        made = list(await embedder.embed(texts))
        return await store.upsert(name, self._points(points, made), embedder=embedder.name)

    async def _embedder_for(self, info: CollectionInfo) -> Embedder:
        """What can embed texts for a collection; one for vectors may still be empty, and then takes any."""
        if info.embedder is not None:
            return await self._embedders.of(info)
        embedder = await self._embedders.named(None)
        if info.dimension != embedder.dimension:
            raise ConflictError(
                f"collection '{info.name}' has dimension {info.dimension}, the embedder '{embedder.name}' makes "
                f"{embedder.dimension}: use another collection, or give vectors"
            )
        return embedder

    @tells
    async def put(
        self, name: str, points: Sequence[NewPoint], *, dimension: int, metric: Metric, embedder: str | None
    ) -> int:
        """Write points with their vectors, whoever made those, into a collection of this shape; a missing one is made.

        Raises:
            ConflictError: the collection has another shape.
            InvalidArgumentError, LimitError: as `upsert`.
        """
        store, name = await self._place(name)
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
        store, info = await self._find(name)
        return await store.page(info.name, limit=limit, after=after)

    @tells
    async def delete(self, name: str, ids: Sequence[str]) -> int:
        """Remove points and return how many there were."""
        store, info = await self._find(name)
        return await store.delete(info.name, ids)

    @tells
    async def delete_where(self, name: str, where: Mapping[str, Any]) -> int:
        """Remove the points whose payload matches and return how many there were.

        Raises:
            InvalidArgumentError: `where` is no filter, or the empty one.
        """
        if not where:
            raise InvalidArgumentError("filter: an empty one means every point; vector_collections drop removes those")
        store, info = await self._find(name)
        return await store.delete_where(info.name, where)

    async def search(
        self,
        name: str,
        *,
        vectors: Sequence[Vector] | None = None,
        texts: Sequence[str] = (),
        mode: Mode = "vector",
        limit: int = 10,
        threshold: float | None = None,
        where: Mapping[str, Any] | None = None,
        precision: Precision = "balanced",
    ) -> Found:
        """For each query up to `limit` points, the best first; all queries are one batch.

        `vector` finds the nearest to each of `vectors`, or of `texts`, which are embedded; its `threshold` is as in
        `VectorStore.search`. `text` ranks by the words of `texts`; one without words finds nothing. `hybrid` does both
        and fuses: the scores are then those of `fusion.fuse`.

        Raises:
            InvalidArgumentError: a bad vector or filter, a text without words where it is to be embedded.
            ConflictError: texts, and the collection does not hold what an embedder made that is configured here.
            UnsupportedError: the store has no full text.
        """
        store, info = await self._find(name)
        if mode == "text":
            return Found(info.metric, await store.search_text(info.name, texts, limit=limit, where=where))
        if vectors is None:
            embedder = await self._embedders.of(info)
            vectors = list(await embedder.embed(texts))
        depth = limit if mode == "vector" else max(limit, FUSED)
        near = await store.search(
            info.name, vectors, limit=depth, threshold=threshold, where=where, precision=precision
        )
        if mode == "vector":
            return Found(info.metric, near)
        worded = await store.search_text(info.name, texts, limit=depth, where=where)
        return Found(info.metric, [fuse(rankings, limit) for rankings in zip(near, worded, strict=True)])


async def _shown(store: VectorStore, limit: int, after: str = "") -> list[CollectionInfo]:
    """The next collections, without those that `reembed` is making."""
    found: list[CollectionInfo] = []
    while len(found) < limit:
        page = await store.collections(limit=limit, after=after)
        found += [info for info in page if _NAME.fullmatch(info.name)]
        if len(page) < limit:
            break
        after = page[-1].name
    return found[:limit]


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"collection: a name is 1 to 128 letters, digits and . _ -, the first a letter or digit, got {name[:40]!a}"
        )
