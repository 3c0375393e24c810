"""Vectors on a Qdrant server, which decks on many machines share.

Every write is one request, applied in its order and announced to the other decks afterwards. That a batch is whole or
absent is Qdrant's promise for a collection of one shard, which is what a server of its own makes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from qdrant_client import models

from ..clock import Clock
from ..errors import ConflictError, InvalidArgumentError, NotFoundError, StorageError, UnsupportedError
from ..tasks import Tasks
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
from .qdrant_catalogue import Catalogue, Head
from .qdrant_filters import TERMS, translate
from .qdrant_options import as_it_is, creation, defects, note_on
from .qdrant_points import EXPIRY, ended, live, to_point, to_structs, uuid_after, uuid_of
from .qdrant_search import Search
from .qdrant_server import Server
from .rows import check_id

T = TypeVar("T")


class QdrantVectorStore:
    """A `VectorStore`. The points that it finds are the server's; a collection's shape and `change_token` are at most a
    second old.
    """

    def __init__(self, server: Server, clock: Clock) -> None:
        """Use `open`."""
        self._server = server
        self._client = server.client
        self._catalogue = Catalogue(server, clock)
        self._clock = clock
        self._search = Search(server.client, self._catalogue, clock)
        self._tasks = Tasks()  # a write goes to its end even if its caller is cancelled: it must be announced

    @classmethod
    async def open(cls, url: str, api_key: str | None, clock: Clock) -> QdrantVectorStore:
        """Connect to `http(s)://host:port`; the port is 6333 unless given.

        Raises:
            StorageError: the server cannot be reached, refuses the key, or is too old.
        """
        server = Server.at(url, api_key)
        store = cls(server, clock)
        try:
            await server.version()
            await store._catalogue.prepare()
        except BaseException:
            await server.close()
            raise
        return store

    async def close(self) -> None:
        """Let running writes end, then disconnect."""
        await self._tasks.close()
        await self._server.close()

    async def _read(self, name: str, work: Callable[[Head], Awaitable[T]]) -> T:
        """Run `work` on the collection; once more if another deck has just replaced what it was taken for."""
        head = await self._catalogue.find(name)
        try:
            with self._server.explained(name):
                return await work(head)
        except (NotFoundError, StorageError):
            self._catalogue.forget(name)
            again = await self._catalogue.find(name)
            if again.stored_as == head.stored_as:
                raise
        with self._server.explained(name):
            return await work(again)

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
        now = self._clock.now()
        info = CollectionInfo(name, dimension, metric, embedder, now, index, quantization, stored)
        await self._tasks.finish(self._create(info))
        return info

    async def _create(self, info: CollectionInfo) -> Head:
        if not 1 <= info.dimension <= MAX_DIMENSION:
            raise InvalidArgumentError(f"a dimension is 1 to {MAX_DIMENSION}, got {info.dimension}")
        with contextlib.suppress(NotFoundError):
            await self._catalogue.find(info.name, fresh=True)
            raise ConflictError(f"collection '{info.name}' exists already")
        head = Head.new(info)
        schema = models.PayloadSchemaType
        try:
            with self._server.explained():
                await self._client.create_collection(head.stored_as, **creation(info))
                await self._client.create_payload_index(head.stored_as, TERMS, schema.KEYWORD)
                await self._client.create_payload_index(head.stored_as, EXPIRY, schema.INTEGER)
            await self._catalogue.add(head)
        except BaseException:
            with contextlib.suppress(StorageError), self._server.explained():
                await self._client.delete_collection(head.stored_as)
            raise
        return head

    async def describe(self, name: str) -> CollectionInfo:
        return (await self._catalogue.find(name)).info

    async def collections(self, *, limit: int, after: str = "") -> list[CollectionInfo]:
        return [head.info for head in await self._catalogue.all() if head.info.name > after][:limit]

    async def change_token(self, name: str) -> str | None:
        return await self._catalogue.token(name)

    async def inspect(self, name: str) -> CollectionState:
        async def work(head: Head) -> CollectionState:
            index, quantization = as_it_is(await self._client.get_collection(head.stored_as))
            return CollectionState(
                index=index,
                quantization=quantization,
                points=await self._count(head, live(self._clock.now())),
                tombstones=None,
                change_sequence=None,
                ram_bytes=None,
                disk_bytes=None,
                recall=None,
                building=None,
                note=note_on(head.info, index),
            )

        return await self._read(name, work)

    async def optimize(self, name: str) -> CollectionState:
        """Remove what has ended; the rest Qdrant does by itself, all the time."""
        head = await self._catalogue.find(name, fresh=True)
        await self._tasks.finish(self._write(head, [], {}))
        return await self.inspect(name)

    async def snapshot(self, name: str) -> str:
        await self._catalogue.find(name)
        raise UnsupportedError("Qdrant keeps its index on disk by itself, and takes snapshots with tools of its own")

    async def verify(self, name: str) -> list[str]:
        async def work(head: Head) -> list[str]:
            return defects(await self._client.get_collection(head.stored_as))

        return await self._read(name, work)

    async def drop(self, name: str) -> int:
        return await self._tasks.finish(self._drop(name))

    async def _drop(self, name: str) -> int:
        head = await self._catalogue.find(name, fresh=True)
        count = await self._count(head, live(self._clock.now()))
        await self._catalogue.remove(head)
        await self._delete_stored(head)
        return count

    async def replace(self, name: str, successor: str, *, unchanged_since: str | None = None) -> None:
        await self._tasks.finish(self._replace(name, successor, unchanged_since))

    async def _replace(self, name: str, successor: str, unchanged_since: str | None) -> None:
        old, new = [await self._catalogue.find(each, fresh=True) for each in (name, successor)]
        if unchanged_since is not None and not old.is_named_by(unchanged_since):
            raise ConflictError(f"collection '{name}' was changed meanwhile: try again")
        if old.stored_as != new.stored_as:
            await self._catalogue.move(old, new, only_unchanged=unchanged_since is not None)
            await self._delete_stored(old)

    async def _delete_stored(self, head: Head) -> None:
        with self._server.explained(head.info.name):
            await self._client.delete_collection(head.stored_as)

    # ---- writes

    async def upsert(self, name: str, points: Sequence[Point], *, embedder: str | None = None) -> int:
        if points:
            await self._tasks.finish(self._upsert(name, points, embedder))
        return len(points)

    async def _upsert(self, name: str, points: Sequence[Point], embedder: str | None) -> None:
        try:
            head = await self._catalogue.find(name, fresh=True)
        except NotFoundError:
            info = CollectionInfo(name, len(points[0].vector), "cosine", embedder, self._clock.now())
            structs = await asyncio.to_thread(to_structs, points, info)
            head = await self._create(info)
        else:
            structs = await asyncio.to_thread(to_structs, points, head.info)
        changes: dict[str, Any] = {}
        if head.info.embedder != embedder:
            if await self._count(head, live(self._clock.now())):
                raise ConflictError(
                    f"the vectors of collection '{name}' come from {_origin(head.info.embedder)}, these from "
                    f"{_origin(embedder)}: they cannot be compared; use another collection"
                )
            changes["embedder"] = embedder
        if any(point.expires_at is not None for point in points):
            changes["has_ends"] = True
        await self._write(head, [models.UpsertOperation(upsert=models.PointsList(points=structs))], changes)

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        uuids = _to_uuids(ids)
        return await self._tasks.finish(self._delete(await self._catalogue.find(name, fresh=True), uuids))

    async def delete_where(self, name: str, where: Mapping[str, Any]) -> int:
        parse_filter(where)
        return await self._tasks.finish(self._delete_where(await self._catalogue.find(name, fresh=True), where))

    async def _delete_where(self, head: Head, where: Mapping[str, Any]) -> int:
        with self._server.explained(head.info.name):
            uuids = [str(record.id) async for record in self._search.matching(head, where)]
        return await self._delete(head, uuids)

    async def _delete(self, head: Head, uuids: list[str]) -> int:
        if not uuids:
            return 0
        wanted: list[Any] = list(uuids)
        count = await self._count(head, live(self._clock.now(), models.HasIdCondition(has_id=wanted)))
        await self._write(head, [models.DeleteOperation(delete=models.PointIdsList(points=wanted))], {})
        return count

    async def _write(self, head: Head, operations: Sequence[Any], changes: Mapping[str, Any]) -> None:
        """Remove what has ended, apply `operations`, and let every deck know."""
        over = models.FilterSelector(filter=models.Filter(must=[ended(self._clock.now())]))
        try:
            with self._server.explained(head.info.name):
                await self._client.batch_update_points(
                    head.stored_as, [models.DeleteOperation(delete=over), *operations]
                )
        except StorageError:  # it may have been made all the same: no cached answer may outlive it
            with contextlib.suppress(StorageError, ConflictError):
                await self._catalogue.announce(head, changes)
            raise
        await self._catalogue.announce(head, changes)

    # ---- reads

    async def get(self, name: str, ids: Sequence[str]) -> list[Point]:
        uuids: list[Any] = _to_uuids(ids)

        async def work(head: Head) -> list[Point]:
            found = await self._client.retrieve(head.stored_as, uuids, with_vectors=True) if uuids else []
            points = {point.id: point for point in map(to_point, found)}
            now = self._clock.now()
            there = [points[each] for each in ids if each in points]
            return [point for point in there if point.expires_at is None or point.expires_at > now]

        return await self._read(name, work)

    async def page(self, name: str, *, limit: int, after: str = "") -> list[Point]:
        start = None
        if after:
            _to_uuids([after])
            start = uuid_after(after)

        async def work(head: Head) -> list[Point]:
            only = live(self._clock.now())
            found, _ = await self._client.scroll(head.stored_as, only, limit=limit, offset=start, with_vectors=True)
            return [to_point(record) for record in found]

        return await self._read(name, work)

    async def count(self, name: str, where: Mapping[str, Any] | None = None) -> int:
        asked = where or {}
        parse_filter(asked)

        async def work(head: Head) -> int:
            condition, is_exact = translate(asked)
            if is_exact:
                return await self._count(head, live(self._clock.now(), condition))
            return len([record async for record in self._search.matching(head, asked)])

        return await self._read(name, work)

    async def _count(self, head: Head, where: models.Filter) -> int:
        with self._server.explained(head.info.name):
            return (await self._client.count(head.stored_as, where)).count

    async def search_text(
        self, name: str, texts: Sequence[str], *, limit: int, where: Mapping[str, Any] | None = None
    ) -> list[list[Hit]]:
        del texts, limit, where
        await self._catalogue.find(name)
        raise UnsupportedError("collections on a Qdrant server have no full text: search by vector")

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

        async def work(head: Head) -> list[list[Hit]]:
            return await self._search.hits(
                head, queries, limit=limit, threshold=threshold, where=where, precision=precision
            )

        return await self._read(name, work)


def _to_uuids(ids: Sequence[str]) -> list[str]:
    """Raises InvalidArgumentError: no point can have such an id."""
    for each in ids:
        check_id(each)
    return [uuid_of(each) for each in dict.fromkeys(ids)]


def _origin(embedder: str | None) -> str:
    return "its callers" if embedder is None else f"the embedder '{embedder}'"
