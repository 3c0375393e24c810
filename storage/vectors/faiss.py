"""Vectors in one SQLite file, searched in FAISS indexes that each process derives from it.

A search first looks up the collection's last change: so it sees every acknowledged point, whichever process wrote it.
Where the index has already replayed that change and is quick, the search runs inline; the rest goes to threads: two for
searches and writes, one of its own for building, so that neither a search nor a commit ever waits for that.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

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
from .build import Builder, BuildStoppedError
from .filters import parse_filter
from .generation import Generation, Structure
from .matrix import Matrix, to_matrix
from .reader import Collection, Reader
from .replica import Replica
from .rows import check_id, to_point, to_rows
from .snapshots import Snapshots
from .sqlite import PointDatabase
from .verify import defects
from .writer import Writer

T = TypeVar("T")
log = logging.getLogger(__name__)

INLINE_BYTES = 8 << 20  # that a search may read on the event loop: about half a millisecond
WORKERS = 2


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
        self._snapshots = Snapshots(path.with_name(path.name + ".index"))
        self._clock = clock
        self._shortcuts = shortcuts
        self._replicas: dict[str, Replica] = {}
        self._tasks = set[asyncio.Task[Any]]()
        self._workers = ThreadPoolExecutor(WORKERS, "vectors")
        self._builders = ThreadPoolExecutor(1, "vectors-build")
        self._writing = asyncio.Lock()
        self._stop = threading.Event()

    @classmethod
    async def open(cls, path: Path, clock: Clock, shortcuts: Shortcuts | None = None) -> FaissVectorStore:
        """Open or create the file.

        Raises:
            StorageError: it cannot be opened, is damaged, or was written by a newer program.
        """
        return await asyncio.to_thread(cls, path, clock, shortcuts or Shortcuts())

    async def close(self) -> None:
        """Let running work end, stop building, then close the file."""
        self._stop.set()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._workers.shutdown()
        self._builders.shutdown()
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
        await self._write(lambda writer: writer.create(info))
        return info

    def _new(self, name: str, dimension: int, metric: Metric, embedder: str | None) -> CollectionInfo:
        if not 1 <= dimension <= MAX_DIMENSION:
            raise InvalidArgumentError(f"a dimension is 1 to {MAX_DIMENSION}, got {dimension}")
        return CollectionInfo(name, dimension, metric, embedder, self._clock.now())

    async def describe(self, name: str) -> CollectionInfo:
        return self._find(name).info

    def _find(self, name: str) -> Collection:
        with self._database.read_inline() as reader:
            return self._known(reader, name)

    def _known(self, reader: Reader, name: str) -> Collection:
        try:
            return reader.find(name)
        except NotFoundError:
            self._replicas.pop(name, None)  # another process may have dropped it
            raise

    async def inspect(self, name: str) -> CollectionState:
        replica, collection, generation = await self._followed(name)
        now = self._clock.now()

        def on_disk(reader: Reader) -> tuple[int, int]:
            size = reader.size(collection.key) + self._snapshots.size(collection.snapshot)
            return reader.count(collection, now), size

        points, disk_bytes = await self._read(on_disk)
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
        with self._database.read_inline() as reader:
            collection = self._known(reader, name)
            ended = reader.latest_end(collection.key, self._clock.now())
        return f"{collection.change}.{ended}"

    async def collections(self, *, limit: int, after: str = "") -> list[CollectionInfo]:
        with self._database.read_inline() as reader:
            return [collection.info for collection in reader.collections(limit, after)]

    async def drop(self, name: str) -> int:
        now = self._clock.now()
        collection, count = await self._write(lambda writer: writer.drop(name, now))
        self._replicas.pop(name, None)
        await self._in_worker(partial(self._snapshots.prune, collection.key))
        return count

    async def replace(self, name: str, successor: str, *, unchanged_since: str | None = None) -> None:
        now = self._clock.now()
        change = unchanged_since and unchanged_since.rpartition(".")[0]  # an end is no change of the table
        replaced = await self._write(lambda writer: writer.replace(name, successor, now, change))
        if replaced is not None:
            self._replicas.pop(name, None)
            if successor in self._replicas:
                self._replicas[name] = self._replicas.pop(successor)
            await self._in_worker(partial(self._snapshots.prune, replaced.key))

    # ---- points

    async def upsert(self, name: str, points: Sequence[Point], *, embedder: str | None = None) -> int:
        if points:
            try:
                info = replace(self._find(name).info, embedder=embedder)
            except NotFoundError:
                info = self._new(name, len(points[0].vector), "cosine", embedder)
            batched, now = self._shortcuts.batch_insert, self._clock.now()

            def encode_and_write() -> None:
                rows = to_rows(points, info)  # not in the transaction, for which other processes would wait
                with self._database.write() as writer:
                    writer.upsert(info, rows, now, batched=batched)

            await self._alone(encode_and_write)
        return len(points)

    async def get(self, name: str, ids: Sequence[str]) -> list[Point]:
        for point_id in ids:
            check_id(point_id)
        collection, now = self._find(name), self._clock.now()
        rows = await self._read(lambda reader: reader.get(collection.key, ids, now))
        return [to_point(rows[point_id], collection.info) for point_id in ids if point_id in rows]

    async def page(self, name: str, *, limit: int, after: str = "") -> list[Point]:
        if after:
            check_id(after)
        collection, now = self._find(name), self._clock.now()
        rows = await self._read(lambda reader: reader.page(collection.key, after, limit, now))
        return [to_point(row, collection.info) for row in rows]

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        for point_id in ids:
            check_id(point_id)
        now = self._clock.now()
        return await self._write(lambda writer: writer.delete(name, ids, now))

    async def delete_where(self, name: str, where: Mapping[str, Any]) -> int:
        accepts, now = parse_filter(where), self._clock.now()
        return await self._write(lambda writer: writer.delete_where(name, accepts, now))

    async def count(self, name: str, where: Mapping[str, Any] | None = None) -> int:
        accepts = None if where is None else parse_filter(where)
        now = self._clock.now()
        with self._database.read_inline() as reader:
            collection = self._known(reader, name)
            if accepts is None:
                return reader.count(collection, now)
        return await self._read(lambda reader: reader.count_where(collection.key, accepts, now))

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
        with self._database.read_inline() as reader:
            collection = self._known(reader, name)
            info = collection.info
            asked = to_matrix(queries, _labels("query", len(queries)), info.dimension, info.metric)
            if not len(asked):
                return []
            replica = self._replica(collection)
            generation = replica.generation
            if generation is not None and replica.is_at(collection) and not replica.lock.locked():
                generation.slots.expire(self._clock.now())
                if generation.is_quick(len(asked), limit, where, precision, INLINE_BYTES):
                    return self._search(reader, collection, generation, asked, options)
        return await self._with_generation(name, partial(self._search, asked=asked, options=options))

    def _search(
        self, reader: Reader, collection: Collection, generation: Generation, asked: Matrix, options: dict[str, Any]
    ) -> list[list[Hit]]:
        if self._shortcuts.batch_search:
            return generation.search(reader, collection, asked, **options)
        return [generation.search(reader, collection, query[None], **options)[0] for query in asked]

    async def search_text(
        self, name: str, texts: Sequence[str], *, limit: int, where: Mapping[str, Any] | None = None
    ) -> list[list[Hit]]:
        accepts = None if where is None else parse_filter(where)
        if not self._has_all_texts(self._find(name)):
            await self._write(lambda writer: writer.index_texts(name))
        now = self._clock.now()

        def ranked(reader: Reader) -> list[list[Hit]]:
            collection = reader.find(name)
            return [reader.search_text(collection, tokens(text), limit, accepts, now) for text in texts]

        return await self._read(ranked)

    def _has_all_texts(self, collection: Collection) -> bool:
        with self._database.read_inline() as reader:
            return collection.text_key is not None and not reader.count_after(collection, collection.text_key)

    # ---- the index

    async def optimize(self, name: str) -> CollectionState:
        replica, collection, generation = await self._followed(name)
        while replica.building is not None:
            await asyncio.shield(replica.building)
        wish = replica.wish(collection.info, generation.slots.living)
        self._start_building(name, replica, wish)
        if replica.building is not None:
            await asyncio.shield(replica.building)
        return await self.inspect(name)

    async def snapshot(self, name: str) -> str:
        folder = ""

        def save(_: Reader, collection: Collection, generation: Generation) -> None:
            nonlocal folder
            path = self._snapshots.new_folder(collection.key)
            self._snapshots.save(generation, path)
            folder = path.name

        replica, _, _ = await self._followed(name, save)
        await self._keep(replica, folder)
        return folder

    async def verify(self, name: str) -> list[str]:
        found: list[str] = []

        def compare(reader: Reader, collection: Collection, generation: Generation) -> None:
            found.extend(defects(reader, collection, generation, self._snapshots))

        await self._followed(name, compare)
        return found

    async def _followed(
        self, name: str, work: Callable[[Reader, Collection, Generation], None] | None = None
    ) -> tuple[Replica, Collection, Generation]:
        """The collection's index as it is now; `work` has it for itself."""

        def note(reader: Reader, collection: Collection, generation: Generation) -> tuple[Collection, Generation]:
            if work is not None:
                work(reader, collection, generation)
            return collection, generation

        collection, generation = await self._with_generation(name, note)
        return self._replica(collection), collection, generation

    async def _with_generation(self, name: str, work: Callable[[Reader, Collection, Generation], T]) -> T:
        """Bring the index up to date in a thread, and let `work` use it there."""
        while True:
            replica = self._replica(self._find(name))
            done = await self._to_end(self._exclusively(name, replica, work))
            if done:
                return done[0]

    async def _exclusively(
        self, name: str, replica: Replica, work: Callable[[Reader, Collection, Generation], T]
    ) -> list[T]:
        """The result of `work`; none if the name has been given to another collection meanwhile."""

        def follow_and_work() -> tuple[Collection, list[T]]:
            with self._database.read() as reader:
                collection = reader.find(name)
                if collection.key != replica.key:
                    return collection, []
                generation = replica.follow(reader, collection, self._snapshots, self._clock.now())
                return collection, [work(reader, collection, generation)]

        async with replica.lock:
            collection, done = await self._in_worker(follow_and_work)
        if done and (wish := replica.next_structure(collection.info)) is not None:
            self._start_building(name, replica, wish)
        return done

    def _replica(self, collection: Collection) -> Replica:
        name = collection.info.name
        replica = self._replicas.get(name)
        if replica is None or replica.key != collection.key:
            replica = self._replicas[name] = Replica(collection.key, indexed=self._shortcuts.index)
        return replica

    # ---- building

    def _start_building(self, name: str, replica: Replica, wish: Structure) -> None:
        if self._stop.is_set():
            return
        replica.building_kind = wish[0]
        replica.building = asyncio.create_task(self._build(name, replica, wish))
        self._tasks.add(replica.building)
        replica.building.add_done_callback(self._tasks.discard)

    async def _build(self, name: str, replica: Replica, wish: Structure) -> None:
        try:
            built = await self._run(self._builders, partial(self._built, replica, wish))
            if built is None:
                return
            generation, folder = built
            while not await self._swapped(replica, generation):
                await self._run(self._builders, partial(self._catch_up, replica, generation))
            await self._keep(replica, folder)
        except BuildStoppedError:
            log.debug("building the index of %s was stopped", name)
            return
        except Exception as exc:  # the top of a background task: searches go on with what there is
            log.exception("the index of %s could not be built", name)
            replica.build_failed(wish, str(exc))
            return
        finally:
            replica.building = replica.building_kind = None
        if (following := replica.next_structure(generation.info)) is not None:
            self._start_building(name, replica, following)  # for what has come meanwhile

    def _built(self, replica: Replica, wish: Structure) -> tuple[Generation, str] | None:
        """In a thread: a new index and the folder that keeps it; None if the collection is gone."""
        with self._database.read() as reader:
            collection = reader.of_key(replica.key)
            if collection is None:
                return None
            fields = replica.generation.postings.fields if replica.generation is not None else []
            folder = self._snapshots.new_folder(replica.key)
            try:
                generation = Builder(reader, collection, folder, self._stop).build(wish, fields)
                self._snapshots.save(generation, folder)
            except BaseException:
                self._snapshots.discard(folder)
                raise
        return generation, folder.name

    async def _swapped(self, replica: Replica, generation: Generation) -> bool:
        """False if so much has come meanwhile that searches would wait for it."""
        async with replica.lock:
            is_there = await self._in_worker(partial(self._follow, replica.key, generation))
            if is_there:
                replica.generation = generation
        return is_there

    def _follow(self, key: int, generation: Generation, *, patient: bool = False) -> bool:
        with self._database.read() as reader:
            collection = reader.of_key(key)
            return collection is None or generation.follow(reader, collection, patient=patient)

    def _catch_up(self, replica: Replica, generation: Generation) -> None:
        """In the builders' thread, where nobody waits for it."""
        if self._stop.is_set():
            raise BuildStoppedError
        self._follow(replica.key, generation, patient=True)

    async def _keep(self, replica: Replica, folder: str) -> None:
        """Make this the collection's snapshot, and remove those before it."""
        kept = await self._write(lambda writer: writer.keep_snapshot(replica.key, folder))
        await self._in_worker(partial(self._snapshots.prune, replica.key, folder if kept else None))
        await self._alone(self._database.fold_log)

    # ---- threads

    async def _write(self, change: Callable[[Writer], T]) -> T:
        def in_thread() -> T:
            with self._database.write() as writer:
                return change(writer)

        return await self._alone(in_thread)

    async def _alone(self, work: Callable[[], T]) -> T:
        """Run what writes in a thread, one at a time."""

        async def in_turn() -> T:
            async with self._writing:
                return await self._in_worker(work)

        return await self._to_end(in_turn())

    async def _read(self, read: Callable[[Reader], T]) -> T:
        def in_thread() -> T:
            with self._database.read() as reader:
                return read(reader)

        return await self._to_end(self._in_worker(in_thread))

    async def _in_worker(self, work: Callable[[], T]) -> T:
        return await self._run(self._workers, work)

    async def _run(self, executor: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, work)

    async def _to_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end even if the caller is cancelled: what it locks and writes must not be left half-way."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)


def _labels(kind: str, count: int) -> list[str]:
    return [f"{kind} {number}" for number in range(count)]
