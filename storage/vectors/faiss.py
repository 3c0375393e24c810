"""Vectors in one SQLite file, searched in FAISS indexes that each process derives from it.

A search sees every acknowledged point, whichever process wrote it: each statement that reads what an index has found
tells too whether that index has the collection's last change; if not, it first replays what is missing.
Where an index has replayed all but a few changes and is quick, the search runs inline; the rest goes to threads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..clock import Clock
from ..errors import InvalidArgumentError, NotFoundError
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
from .filters import parse_filter
from .generation import Generation
from .matrix import Matrix, to_queries
from .reader import Collection, OutdatedError, Reader
from .replicas import Replicas
from .rows import check_id, to_point, to_rows
from .snapshots import Snapshots
from .sqlite import PointDatabase
from .threads import Threads
from .verify import defects

INLINE_BYTES = 8 << 20  # that a search may read on the event loop: about half a millisecond


@dataclass(frozen=True, slots=True)
class Shortcuts:
    """What a user can switch off: the plain paths give the same results, more slowly."""

    index: bool = True  # off: all vectors are compared
    batch_insert: bool = True  # off: the points of a batch are written one by one, in its transaction
    batch_search: bool = True  # off: the queries of a call are searched one by one


class FaissVectorStore:
    """A `VectorStore`, shared with other processes through its file. Use it from one event loop."""

    def __init__(self, path: Path, clock: Clock, shortcuts: Shortcuts) -> None:
        """Use `open`."""
        self._database = PointDatabase(path)
        self._threads = Threads(self._database)
        self._snapshots = Snapshots(path.with_name(path.name + ".index"))
        self._replicas = Replicas(self._database, self._snapshots, self._threads, clock, indexed=shortcuts.index)
        self._clock = clock
        self._shortcuts = shortcuts

    @classmethod
    async def open(cls, path: Path, clock: Clock, shortcuts: Shortcuts | None = None) -> FaissVectorStore:
        """Open or create the file.

        Raises:
            StorageError: it cannot be opened, is damaged, or was written by a newer program.
        """
        return await asyncio.to_thread(cls, path, clock, shortcuts or Shortcuts())

    async def close(self) -> None:
        """Let running work end, stop building, then close the file."""
        await self._threads.close()
        self._database.close()

    # ---- collections

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
        if (index, quantization) == ("hnsw", "pq"):
            raise InvalidArgumentError("hnsw keeps its vectors in memory: quantization none, fp16, sq8 or sq4")
        info = replace(
            self._new(name, dimension, metric, embedder), index=index, quantization=quantization, stored=stored
        )
        await self._threads.write(lambda writer: writer.create(info))
        return info

    def _new(self, name: str, dimension: int, metric: Metric, embedder: str | None) -> CollectionInfo:
        if not 1 <= dimension <= MAX_DIMENSION:
            raise InvalidArgumentError(f"a dimension is 1 to {MAX_DIMENSION}, got {dimension}")
        return CollectionInfo(name, dimension, metric, embedder, self._clock.now())

    async def describe(self, name: str) -> CollectionInfo:
        return self._replicas.find(name).info

    async def inspect(self, name: str) -> CollectionState:
        replica, collection, generation = await self._replicas.follow(name)
        now = self._clock.now()

        def on_disk(reader: Reader) -> tuple[int, int]:
            size = reader.size(collection) + self._snapshots.size(collection.snapshot)
            return reader.count(collection, now), size

        points, disk_bytes = await self._threads.read(on_disk)
        return CollectionState(
            index=generation.structure[0],
            quantization=generation.structure[1],
            points=points,
            tombstones=generation.slots.tombstones,
            change_sequence=generation.sequence,
            ram_bytes=generation.ram_bytes,
            disk_bytes=disk_bytes,
            recall=generation.recall,
            building=replica.building_kind,
            note=generation.note,
        )

    async def change_token(self, name: str) -> str | None:
        now = self._clock.now()
        return self._database.read_once(lambda reader: reader.token(name, now))

    async def collections(self, *, limit: int, after: str = "") -> list[CollectionInfo]:
        with self._database.read_inline() as reader:
            return [collection.info for collection in reader.collections(limit, after)]

    async def drop(self, name: str) -> int:
        now = self._clock.now()
        collection, count = await self._threads.write(lambda writer: writer.drop(name, now))
        self._replicas.forget(name)
        await self._threads.run(partial(self._snapshots.remove_all, collection.key))
        return count

    async def replace(self, name: str, successor: str, *, unchanged_since: str | None = None) -> None:
        now = self._clock.now()
        change = unchanged_since and unchanged_since.rpartition(".")[0]  # an end is no change of the table
        replaced = await self._threads.write(lambda writer: writer.replace(name, successor, now, change))
        if replaced is not None:
            self._replicas.rename(successor, name)
            await self._threads.run(partial(self._snapshots.remove_all, replaced.key))

    # ---- points

    async def upsert(self, name: str, points: Sequence[Point], *, embedder: str | None = None) -> int:
        if points:
            try:
                info = replace(self._replicas.find(name).info, embedder=embedder)
            except NotFoundError:
                info = self._new(name, len(points[0].vector), "cosine", embedder)
            batched, now = self._shortcuts.batch_insert, self._clock.now()

            def encode_and_write() -> None:
                rows = to_rows(points, info)  # not in the transaction, for which other processes would wait
                with self._database.write() as writer:
                    writer.upsert(info, rows, now, batched=batched)

            await self._threads.alone(encode_and_write)
            self._replicas.outdate(name)
        return len(points)

    async def get(self, name: str, ids: Sequence[str]) -> list[Point]:
        for point_id in ids:
            check_id(point_id)
        collection, now = self._replicas.find(name), self._clock.now()
        rows = await self._threads.read(lambda reader: reader.get(collection.key, ids, now))
        return [to_point(rows[point_id], collection.info) for point_id in ids if point_id in rows]

    async def page(self, name: str, *, limit: int, after: str = "") -> list[Point]:
        if after:
            check_id(after)
        collection, now = self._replicas.find(name), self._clock.now()
        rows = await self._threads.read(lambda reader: reader.page(collection.key, after, limit, now))
        return [to_point(row, collection.info) for row in rows]

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        for point_id in ids:
            check_id(point_id)
        now = self._clock.now()
        return await self._threads.write(lambda writer: writer.delete(name, ids, now))

    async def delete_where(self, name: str, where: Mapping[str, Any]) -> int:
        accepts, now = parse_filter(where), self._clock.now()
        return await self._threads.write(lambda writer: writer.delete_where(name, accepts, now))

    async def count(self, name: str, where: Mapping[str, Any] | None = None) -> int:
        accepts = None if where is None else parse_filter(where)
        now = self._clock.now()
        with self._database.read_inline() as reader:
            collection = self._replicas.find_in(reader, name)
            if accepts is None:
                return reader.count(collection, now)
        return await self._threads.read(lambda reader: reader.count_where(collection.key, accepts, now))

    # ---- searching

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
        if where is not None:
            parse_filter(where)
        options: dict[str, Any] = {"limit": limit, "threshold": threshold, "where": where, "precision": precision}

        def is_quick(generation: Generation) -> bool:
            return generation.is_quick(len(queries), limit, where, precision, INLINE_BYTES)

        latest = self._replicas.latest(name)
        if latest is not None and len(queries) and is_quick(latest[1]):
            with contextlib.suppress(OutdatedError, InvalidArgumentError):  # what is wrong for it may be right by now
                asked = to_queries(queries, latest[0].info)
                return self._database.read_once(lambda reader: self._search(asked, options, reader, *latest))
        with self._database.read_inline() as reader:
            collection = self._replicas.find_in(reader, name)
            asked = to_queries(queries, collection.info)
            if not len(asked):
                return []
            generation = self._replicas.at_once(reader, collection)
            if generation is not None and is_quick(generation):
                return self._search(asked, options, reader, collection, generation)
        return await self._replicas.use(name, partial(self._search, asked, options))

    def _search(
        self, asked: Matrix, options: dict[str, Any], reader: Reader, collection: Collection, generation: Generation
    ) -> list[list[Hit]]:
        if self._shortcuts.batch_search:
            return generation.search(reader, collection, asked, **options)
        return [generation.search(reader, collection, query[None], **options)[0] for query in asked]

    async def search_text(
        self, name: str, texts: Sequence[str], *, limit: int, where: Mapping[str, Any] | None = None
    ) -> list[list[Hit]]:
        accepts = None if where is None else parse_filter(where)
        if not self._has_all_texts(self._replicas.find(name)):
            await self._threads.write(lambda writer: writer.index_texts(name))
        now = self._clock.now()

        def ranked(reader: Reader) -> list[list[Hit]]:
            collection = reader.find(name)
            return [reader.search_text(collection, tokens(text), limit, accepts, now) for text in texts]

        return await self._threads.read(ranked)

    def _has_all_texts(self, collection: Collection) -> bool:
        with self._database.read_inline() as reader:
            return collection.text_key is not None and not reader.count_after(collection, collection.text_key)

    # ---- the index

    async def optimize(self, name: str) -> CollectionState:
        await self._replicas.build(name)
        return await self.inspect(name)

    async def snapshot(self, name: str) -> str:
        folder = ""

        def save(_: Reader, collection: Collection, generation: Generation) -> None:
            nonlocal folder
            path = self._snapshots.new_folder(collection.key)
            self._snapshots.save(generation, path)
            folder = path.name

        replica, _, _ = await self._replicas.follow(name, save)
        await self._replicas.keep(replica, folder)
        return folder

    async def verify(self, name: str) -> list[str]:
        found: list[str] = []

        def compare(reader: Reader, collection: Collection, generation: Generation) -> None:
            found.extend(defects(reader, collection, generation, self._snapshots))

        await self._replicas.follow(name, compare)
        return found
