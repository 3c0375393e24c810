"""Vectors in one SQLite file, searched in exact FAISS indexes that each process derives from it.

A search first looks up the collection's last change: so it sees every acknowledged point, whichever process wrote it.
Where the index has already replayed that change and is small, the search runs inline; the rest goes to threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..clock import Clock
from ..errors import InvalidArgumentError, NotFoundError, UnsupportedError
from ..memory.words import tokens
from .base import (
    MAX_DIMENSION,
    CollectionInfo,
    CollectionState,
    Hit,
    Metric,
    Point,
    Precision,
    Quantization,
    Stored,
    Vector,
    WishedIndex,
)
from .filters import Predicate, parse_filter
from .flat import FlatIndex
from .matrix import to_matrix
from .rows import check_id, to_point, to_rows
from .sqlite import Collection, PointDatabase

T = TypeVar("T")

INLINE_WORK = 4 << 20  # multiplications that a search may take on the event loop: about a third of a millisecond


class _Replica:
    """A collection's index in this process, and the change that it has come to."""

    def __init__(self, collection: Collection) -> None:
        self.key = collection.key
        self.sequence = 0
        self.index = FlatIndex(collection.info.dimension, collection.info.metric)
        self.lock = asyncio.Lock()  # held while a thread may use the index


class FaissVectorStore:
    """A `VectorStore`, shared with other processes through its file. Use it from one event loop."""

    def __init__(self, database: PointDatabase, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._replicas: dict[str, _Replica] = {}
        self._tasks = set[asyncio.Task[Any]]()

    @classmethod
    async def open(cls, path: Path, clock: Clock) -> FaissVectorStore:
        """Open or create the file.

        Raises:
            StorageError: it cannot be opened, is damaged, or was written by a newer program.
        """
        return cls(await PointDatabase.open(path), clock)

    async def close(self) -> None:
        """Let running work end, then close the file."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._database.close()

    def _find(self, name: str) -> Collection:
        try:
            return self._database.find(name)
        except NotFoundError:
            self._replicas.pop(name, None)  # another process may have dropped it
            raise

    async def _to_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end even if the caller is cancelled: what it locks and writes must not be left half-way."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

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
        info = replace(
            self._new(name, dimension, metric, embedder), index=index, quantization=quantization, stored=stored
        )
        await self._to_end(self._database.create(info))
        return info

    def _new(self, name: str, dimension: int, metric: Metric, embedder: str | None) -> CollectionInfo:
        if not 1 <= dimension <= MAX_DIMENSION:
            raise InvalidArgumentError(f"a dimension is 1 to {MAX_DIMENSION}, got {dimension}")
        return CollectionInfo(name, dimension, metric, embedder, self._clock.now())

    async def describe(self, name: str) -> CollectionInfo:
        return self._find(name).info

    async def inspect(self, name: str) -> CollectionState:
        collection = self._find(name)
        replica = self._replica(collection)
        return CollectionState(
            index="exact",
            quantization="none",
            points=await self.count(name),
            tombstones=replica.index.tombstones,
            change_sequence=collection.sequence,
            ram_bytes=replica.index.ram_bytes,
            disk_bytes=await self._to_end(self._database.size(collection.key)),
            recall=1.0,
            building=None,
            note=None if collection.info.index in ("auto", "exact") else "every search is exact",
        )

    async def change_token(self, name: str) -> str | None:
        collection = self._find(name)
        ended = self._database.latest_end(collection.key, self._clock.now())
        return f"{collection.change}.{ended}"

    async def collections(self, *, limit: int, after: str = "") -> list[CollectionInfo]:
        return [collection.info for collection in self._database.collections(limit, after)]

    async def drop(self, name: str) -> int:
        count = await self._to_end(self._database.drop(name, self._clock.now()))
        self._replicas.pop(name, None)
        return count

    async def replace(self, name: str, successor: str, *, unchanged_since: str | None = None) -> None:
        change = unchanged_since and unchanged_since.rpartition(".")[0]  # an end is no change of the table
        await self._to_end(self._database.replace(name, successor, change))
        self._replicas.pop(successor, None)

    async def upsert(self, name: str, points: Sequence[Point], *, embedder: str | None = None) -> int:
        if points:
            try:
                info = replace(self._find(name).info, embedder=embedder)
            except NotFoundError:
                info = self._new(name, len(points[0].vector), "cosine", embedder)
            rows = await asyncio.to_thread(to_rows, points, info)
            await self._to_end(self._database.upsert(info, rows, self._clock.now()))
        return len(points)

    async def get(self, name: str, ids: Sequence[str]) -> list[Point]:
        for point_id in ids:
            check_id(point_id)
        rows = await self._to_end(self._database.get(self._find(name).key, ids, self._clock.now()))
        return [to_point(rows[point_id]) for point_id in ids if point_id in rows]

    async def page(self, name: str, *, limit: int, after: str = "") -> list[Point]:
        if after:
            check_id(after)
        rows = await self._to_end(self._database.page(self._find(name).key, after, limit, self._clock.now()))
        return [to_point(row) for row in rows]

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        for point_id in ids:
            check_id(point_id)
        return await self._to_end(self._database.delete(name, ids, self._clock.now()))

    async def delete_where(self, name: str, where: Mapping[str, Any]) -> int:
        return await self._to_end(self._database.delete_where(name, parse_filter(where), self._clock.now()))

    async def count(self, name: str, where: Mapping[str, Any] | None = None) -> int:
        accepts = None if where is None else parse_filter(where)
        return await self._to_end(self._database.count(self._find(name).key, self._clock.now(), accepts))

    async def optimize(self, name: str) -> CollectionState:
        replica = self._replica(self._find(name))
        await self._to_end(self._search_in_thread(name, replica, list))
        async with replica.lock:
            await asyncio.to_thread(replica.index.compact)
        return await self.inspect(name)

    async def snapshot(self, name: str) -> str:
        self._find(name)
        raise UnsupportedError("an exact index is read from the points at once: it has no snapshot")

    async def verify(self, name: str) -> list[str]:
        replica = self._replica(self._find(name))
        await self._to_end(self._search_in_thread(name, replica, list))
        indexed, there = len(replica.index), await self.count(name)
        return [] if indexed == there else [f"the index has {indexed} points, the collection {there}"]

    async def search_text(
        self, name: str, texts: Sequence[str], *, limit: int, where: Mapping[str, Any] | None = None
    ) -> list[list[Hit]]:
        accepts = None if where is None else parse_filter(where)
        rows = await self._to_end(self._database.texts(self._find(name).key, self._clock.now()))
        return await asyncio.to_thread(_rank_texts, rows, texts, limit, accepts)

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
        del precision  # every search is exact
        accepts = None if where is None else parse_filter(where)
        collection = self._find(name)
        info = collection.info
        asked = to_matrix(queries, _labels("query", len(queries)), info.dimension, info.metric)
        replica = self._replica(collection)
        index = replica.index
        search = partial(index.search, asked, limit, threshold, accepts)
        if not replica.lock.locked() and replica.sequence == collection.sequence:
            index.expire(self._clock.now())
            if not index.is_mostly_dead and index.work(len(asked), filtered=where is not None) <= INLINE_WORK:
                return search()
        return await self._to_end(self._search_in_thread(name, replica, search))

    def _replica(self, collection: Collection) -> _Replica:
        name = collection.info.name
        replica = self._replicas.get(name)
        if replica is None or replica.key != collection.key:
            replica = self._replicas[name] = _Replica(collection)
        return replica

    async def _search_in_thread(self, name: str, replica: _Replica, search: Callable[[], list[list[Hit]]]) -> Any:
        async with replica.lock:
            index = replica.index
            replica.sequence = await self._database.replay(name, replica.key, replica.sequence, index)
            index.expire(self._clock.now())
            if index.is_mostly_dead:
                await asyncio.to_thread(index.compact)
            return await asyncio.to_thread(search)


def _labels(kind: str, count: int) -> list[str]:
    return [f"{kind} {number}" for number in range(count)]


def _rank_texts(
    rows: Sequence[tuple[str, str, str]], texts: Sequence[str], limit: int, accepts: Predicate | None
) -> list[list[Hit]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE VIRTUAL TABLE texts USING fts5 (id UNINDEXED, payload UNINDEXED, body, tokenize = 'ascii')")
        db.executemany("INSERT INTO texts VALUES (?, ?, ?)", ((*row[:2], " ".join(tokens(row[2]))) for row in rows))
        sql = "SELECT id, -bm25(texts), payload FROM texts WHERE texts MATCH ? ORDER BY 2 DESC"
        found: list[list[Hit]] = []
        for text in texts:
            match = " OR ".join(f'"{word}"' for word in tokens(text))
            ranked: list[tuple[str, float, str]] = db.execute(sql, (match,)).fetchall() if match else []
            hits = (Hit(point_id, score, json.loads(payload)) for point_id, score, payload in ranked)
            found.append([hit for hit in hits if accepts is None or accepts(hit.payload)][:limit])
    return found
