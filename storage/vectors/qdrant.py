"""Vectors on a Qdrant server, which decks on many machines share.

A point is a Qdrant point whose id is made of the point's own; its payload holds that id, the payload as JSON text (so
that it comes back as it was), what filters need (`qdrant_filters`) and the expiry. Writes are idempotent; that a batch
is whole or absent is Qdrant's promise for a collection of one shard, which is what a server by itself makes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
from qdrant_client import models

from ..clock import Clock
from ..errors import ConflictError, InvalidArgumentError, NotFoundError, StorageError, UnsupportedError
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
from .matrix import STORED, Matrix, to_matrix, to_unit_length
from .qdrant_catalogue import Catalogue, Head, point_id
from .qdrant_filters import TERMS, index_fields, translate
from .qdrant_options import as_it_is, creation, note_on, search_params
from .qdrant_server import Server
from .rows import check_id, to_rows

T = TypeVar("T")

FRESH = (
    1.0  # seconds for which a collection's head is believed: other decks' changes are noticed after it at the latest
)
PAGE = 500
SLACK = 1e-6  # the server's threshold is exclusive, and in float32: ours is checked here
UNIT = 5e-7  # of a squared length from 1: Qdrant keeps such a vector as it is under cosine
NEVER = 1 << 62

_ID, _PAYLOAD, _EXPIRY, _GIVEN = "id", "payload", "expires_at", "given"


@dataclass(slots=True)
class _Known:
    head: Head
    read_at: float  # monotonic
    next_end: int  # when the next point ends, as far as is known


class QdrantVectorStore:
    """A `VectorStore`. `change_token` and what a search takes a collection for are at most FRESH old; the points that it
    finds are those of the server.
    """

    def __init__(self, server: Server, clock: Clock) -> None:
        """Use `open`."""
        self._server = server
        self._client = server.client
        self._catalogue = Catalogue(server)
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._tasks = set[asyncio.Task[Any]]()

    @classmethod
    async def open(cls, url: str, api_key: str | None, clock: Clock) -> QdrantVectorStore:
        """Connect to `http(s)://host:port` (6333 without a port).

        Raises:
            StorageError: the server cannot be reached, refuses the key, or is too old.
        """
        server = Server.at(url, api_key)
        try:
            await server.version()
            store = cls(server, clock)
            await store._catalogue.prepare()
        except BaseException:
            await server.close()
            raise
        return store

    async def close(self) -> None:
        """Let running writes end, then disconnect."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.close()

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
        if not 1 <= dimension <= MAX_DIMENSION:
            raise InvalidArgumentError(f"a dimension is 1 to {MAX_DIMENSION}, got {dimension}")
        info = CollectionInfo(
            name, dimension, metric, embedder, self._clock.now(), index=index, quantization=quantization, stored=stored
        )
        await self._to_end(self._make(info))
        return info

    async def _make(self, info: CollectionInfo) -> Head:
        with contextlib.suppress(NotFoundError):
            await self._catalogue.read(info.name)
            raise ConflictError(f"collection '{info.name}' exists already")
        head = Head.new(info)
        schema = models.PayloadSchemaType
        try:
            with self._server.explained():
                await self._client.create_collection(head.stored_as, **creation(info))
                for field, kind in ((TERMS, schema.KEYWORD), (_EXPIRY, schema.INTEGER)):
                    await self._client.create_payload_index(head.stored_as, field, kind)
            await self._catalogue.add(head)
        except BaseException:
            with contextlib.suppress(Exception):
                await self._client.delete_collection(head.stored_as)
            raise
        self._learn(head, NEVER)
        return head

    async def describe(self, name: str) -> CollectionInfo:
        return (await self._find(name)).head.info

    async def collections(self, *, limit: int, after: str = "") -> list[CollectionInfo]:
        infos = [head.info for head in await self._catalogue.read_all()]
        return [info for info in infos if info.name > after][:limit]

    async def inspect(self, name: str) -> CollectionState:
        async with self._current(name) as head:
            found = await self._client.get_collection(head.stored_as)
            points = await self._count(head, _live(self._clock.now()))
        index, quantization = as_it_is(found)
        return CollectionState(
            index=index,
            quantization=quantization,
            points=points,
            tombstones=None,
            change_sequence=None,
            ram_bytes=None,
            disk_bytes=None,
            recall=None,
            building=None,
            note=note_on(head.info, index),
        )

    async def change_token(self, name: str) -> str | None:
        known = await self._find(name)
        return f"{known.head.stored_as}.{known.head.change}.{known.next_end}"

    async def drop(self, name: str) -> int:
        return await self._to_end(self._drop(name))

    async def _drop(self, name: str) -> int:
        async with self._current(name, fresh=True) as head:
            count = await self._count(head, _live(self._clock.now()))
            await self._catalogue.remove(head)
            await self._client.delete_collection(head.stored_as)
        self._known.pop(name, None)
        return count

    async def replace(self, name: str, successor: str, *, unchanged_since: str | None = None) -> None:
        await self._to_end(self._replace(name, successor, unchanged_since))

    async def _replace(self, name: str, successor: str, token: str | None) -> None:
        old, new = [(await self._find(each, fresh=True)).head for each in (name, successor)]
        if token is not None and token.rpartition(".")[0] != f"{old.stored_as}.{old.change}":  # an end is no change
            raise ConflictError(f"collection '{name}' was changed meanwhile: try again")
        if old.stored_as == new.stored_as:
            return
        await self._catalogue.move(old, new)
        self._known.pop(name, None)
        self._known.pop(successor, None)
        with self._server.explained():
            await self._client.delete_collection(old.stored_as)

    # ---- writes

    async def upsert(self, name: str, points: Sequence[Point], *, embedder: str | None = None) -> int:
        if points:
            await self._to_end(self._upsert(name, points, embedder))
        return len(points)

    async def _upsert(self, name: str, points: Sequence[Point], embedder: str | None) -> None:
        try:
            head = (await self._find(name, fresh=True)).head
        except NotFoundError:
            info = CollectionInfo(name, len(points[0].vector), "cosine", embedder, self._clock.now())
            structs = await asyncio.to_thread(_to_structs, points, info)
            head = await self._make(info)
        else:
            structs = await asyncio.to_thread(_to_structs, points, head.info)
        changes: dict[str, Any] = {}
        if head.info.embedder != embedder:
            async with self._current(name, fresh=True) as head:
                if await self._count(head, _live(self._clock.now())):
                    raise ConflictError(
                        f"the vectors of collection '{name}' come from {_origin(head.info.embedder)}, these from "
                        f"{_origin(embedder)}: they cannot be compared; use another collection"
                    )
            changes["embedder"] = embedder
        if any(point.expires_at is not None for point in points):
            changes["has_ends"] = True
        await self._write(head, [models.UpsertOperation(upsert=models.PointsList(points=structs))], changes)

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        for each in ids:
            check_id(each)
        return await self._to_end(self._delete(name, [point_id(each) for each in dict.fromkeys(ids)]))

    async def delete_where(self, name: str, where: Mapping[str, Any]) -> int:
        parse_filter(where)
        return await self._to_end(self._delete_where(name, where))

    async def _delete_where(self, name: str, where: Mapping[str, Any]) -> int:
        async with self._current(name, fresh=True) as head:
            ids = [str(record.id) async for record in self._matching(head, where)]
        return await self._delete(name, ids)

    async def _delete(self, name: str, ids: Sequence[str]) -> int:
        async with self._current(name, fresh=True) as head:
            if not ids:
                return 0
            there = _live(self._clock.now(), models.HasIdCondition(has_id=list(ids)))
            count = await self._count(head, there)
        await self._write(head, [models.DeleteOperation(delete=models.PointIdsList(points=list(ids)))], {})
        return count

    async def _write(self, head: Head, operations: Sequence[Any], changes: Mapping[str, Any]) -> None:
        """Apply `operations` after removing what has ended, then let every deck know."""
        name = head.info.name
        ended = models.DeleteOperation(
            delete=models.FilterSelector(filter=models.Filter(must=[_ended(self._clock.now())]))
        )
        try:
            with self._server.explained(name):
                await self._client.batch_update_points(head.stored_as, [ended, *operations])
        except StorageError:  # it may have been made all the same: no cached answer may outlive it
            with contextlib.suppress(StorageError, ConflictError):
                await self._announce(head, changes)
            raise
        await self._announce(head, changes)

    async def _announce(self, head: Head, changes: Mapping[str, Any]) -> None:
        self._known.pop(head.info.name, None)
        after = await self._catalogue.announce(head, changes)
        self._learn(after, await self._next_end(after))

    async def optimize(self, name: str) -> CollectionState:
        """Qdrant optimises by itself all the time; this only removes what has ended."""
        head = (await self._find(name, fresh=True)).head
        await self._to_end(self._write(head, [], {}))
        return await self.inspect(name)

    async def snapshot(self, name: str) -> str:
        await self._find(name)
        raise UnsupportedError("Qdrant keeps its index on disk by itself; take snapshots with its own tools")

    async def verify(self, name: str) -> list[str]:
        async with self._current(name) as head:
            found = await self._client.get_collection(head.stored_as)
        wrong = (
            [] if found.status != models.CollectionStatus.RED else ["Qdrant says that the collection is damaged (red)"]
        )
        if isinstance(found.optimizer_status, models.OptimizersStatusOneOf1):
            wrong.append(f"Qdrant's optimizer failed: {found.optimizer_status.error}")
        return wrong

    # ---- reads

    async def get(self, name: str, ids: Sequence[str]) -> list[Point]:
        for each in ids:
            check_id(each)
        async with self._current(name) as head:
            wanted = [point_id(each) for each in dict.fromkeys(ids)]
            records = await self._client.retrieve(head.stored_as, wanted, with_vectors=True) if wanted else []
        now = self._clock.now()
        points = {point.id: point for point in (_to_point(record, head.info) for record in records)}
        found = [points[each] for each in ids if each in points]
        return [point for point in found if point.expires_at is None or point.expires_at > now]

    async def page(self, name: str, *, limit: int, after: str = "") -> list[Point]:
        if after:
            check_id(after)
        start = str(UUID(int=UUID(point_id(after)).int + 1)) if after else None
        async with self._current(name) as head:
            records, _ = await self._client.scroll(
                head.stored_as, _live(self._clock.now()), limit=limit, offset=start, with_vectors=True
            )
        return [_to_point(record, head.info) for record in records]

    async def count(self, name: str, where: Mapping[str, Any] | None = None) -> int:
        if where is not None:
            parse_filter(where)
        async with self._current(name) as head:
            condition, is_exact = translate(where or {})
            if is_exact:
                return await self._count(head, _live(self._clock.now(), condition))
            return len([record async for record in self._matching(head, where or {})])

    async def search_text(
        self, name: str, texts: Sequence[str], *, limit: int, where: Mapping[str, Any] | None = None
    ) -> list[list[Hit]]:
        await self._find(name)
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
        accepts = None if where is None else parse_filter(where)
        async with self._current(name) as head:
            metric = head.info.metric
            asked = to_matrix(queries, [f"query {n}" for n in range(len(queries))], head.info.dimension, metric)
            if metric == "cosine":
                asked = to_unit_length(asked)
            condition, _ = translate(where or {})
            request = models.QueryRequest(
                filter=_live(self._clock.now(), condition),
                params=search_params(precision),
                score_threshold=_server_threshold(threshold, metric),
                with_payload=[_ID, _PAYLOAD, _EXPIRY],
            )
            return await self._search(head, request, asked, limit, threshold, accepts)

    async def _search(
        self,
        head: Head,
        request: models.QueryRequest,
        asked: Matrix,
        limit: int,
        threshold: float | None,
        accepts: Predicate | None,
    ) -> list[list[Hit]]:
        """Ask for more where the predicate, which is stricter than the condition, has left too few."""
        found: list[list[Hit]] = [[] for _ in asked]
        open_queries, size = list(range(len(asked))), limit
        while open_queries:
            requests = [request.model_copy(update={"query": asked[n].tolist(), "limit": size}) for n in open_queries]
            answers = await self._client.query_batch_points(head.stored_as, requests)
            still_open: list[int] = []
            for number, answer in zip(open_queries, answers, strict=True):
                found[number] = self._hits(head, answer.points, threshold, accepts)[:limit]
                if accepts and len(found[number]) < limit and len(answer.points) == size:
                    still_open.append(number)
            open_queries, size = still_open, size * 4
        return found

    def _hits(
        self, head: Head, points: Sequence[models.ScoredPoint], threshold: float | None, accepts: Predicate | None
    ) -> list[Hit]:
        metric = head.info.metric
        hits: list[Hit] = []
        for point in points:
            fields = point.payload or {}
            known = self._known.get(head.info.name)
            if known is not None and (end := fields.get(_EXPIRY)) is not None:
                known.next_end = min(known.next_end, end)  # another deck may just have written it
            payload = json.loads(fields[_PAYLOAD])
            score = min(1.0, max(-1.0, point.score)) if metric == "cosine" else point.score
            if threshold is not None and (score > threshold if metric == "l2" else score < threshold):
                continue
            if accepts is None or accepts(payload):
                hits.append(Hit(fields[_ID], score, payload))
        return hits

    async def _count(self, head: Head, where: models.Filter) -> int:
        with self._server.explained(head.info.name):
            return (await self._client.count(head.stored_as, where)).count

    async def _matching(self, head: Head, where: Mapping[str, Any]) -> AsyncIterator[models.Record]:
        """The points that match, with their ids and payloads."""
        accepts, offset = parse_filter(where), None
        condition = _live(self._clock.now(), translate(where).condition)
        while True:
            records, offset = await self._client.scroll(
                head.stored_as, condition, limit=PAGE, offset=offset, with_payload=[_PAYLOAD]
            )
            for record in records:
                if accepts(json.loads((record.payload or {})[_PAYLOAD])):
                    yield record
            if offset is None:
                return

    # ---- what is known of a collection

    async def _find(self, name: str, *, fresh: bool = False) -> _Known:
        known = self._known.get(name)
        is_over = known is not None and known.next_end <= self._clock.now()
        if fresh or known is None or is_over or self._clock.monotonic() - known.read_at >= FRESH:
            self._known.pop(name, None)
            head = await self._catalogue.read(name)
            known = self._learn(head, await self._next_end(head))
        return known

    def _learn(self, head: Head, next_end: int) -> _Known:
        known = self._known[head.info.name] = _Known(head, self._clock.monotonic(), next_end)
        return known

    async def _next_end(self, head: Head) -> int:
        if not head.has_ends:
            return NEVER
        later = models.FieldCondition(key=_EXPIRY, range=models.Range(gt=self._clock.now()))
        with self._server.explained(head.info.name):
            records, _ = await self._client.scroll(
                head.stored_as,
                models.Filter(must=[later]),
                limit=1,
                order_by=models.OrderBy(key=_EXPIRY, direction=models.Direction.ASC),
                with_payload=[_EXPIRY],
            )
        return (records[0].payload or {})[_EXPIRY] if records else NEVER

    @contextlib.asynccontextmanager
    async def _current(self, name: str, *, fresh: bool = False) -> AsyncIterator[Head]:
        """The collection's head, for calls whose failures are explained."""
        head = (await self._find(name, fresh=fresh)).head
        try:
            with self._server.explained(name):
                yield head
        except (NotFoundError, StorageError):
            self._known.pop(name, None)  # another deck may have replaced or dropped it
            raise

    async def _to_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a write to its end even if the caller is cancelled: it must be announced."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)


def _to_structs(points: Sequence[Point], info: CollectionInfo) -> list[models.PointStruct]:
    """Check and encode a batch; raises as `VectorStore.upsert` does."""
    return [_to_struct(row, point, info) for row, point in zip(to_rows(points, info), points, strict=True)]


def _to_struct(row: tuple[str, bytes, str, int | None], point: Point, info: CollectionInfo) -> models.PointStruct:
    own_id, blob, text, expires_at = row
    fields: dict[str, Any] = {_ID: own_id, _PAYLOAD: text, **index_fields(point.payload)}
    if expires_at is not None:
        fields[_EXPIRY] = expires_at
    vector = np.frombuffer(blob, STORED)
    if info.metric == "cosine" and not _is_unit(vector):
        fields[_GIVEN] = b64encode(blob).decode()  # Qdrant keeps only the direction
        vector = to_unit_length(vector[None, :])[0]
    return models.PointStruct(id=point_id(own_id), vector=vector.tolist(), payload=fields)


def _is_unit(vector: Matrix) -> bool:
    wide = vector.astype(np.float64)
    return bool(abs(wide @ wide - 1) <= UNIT)


def _to_point(record: models.Record, info: CollectionInfo) -> Point:
    fields = record.payload or {}
    given = fields.get(_GIVEN)
    kept: Any = np.array(record.vector, np.float32) if given is None else np.frombuffer(b64decode(given), STORED)
    return Point(fields[_ID], kept.astype(np.float32), json.loads(fields[_PAYLOAD]), fields.get(_EXPIRY))


def _server_threshold(threshold: float | None, metric: Metric) -> float | None:
    if threshold is None:
        return None
    slack = SLACK * max(1.0, abs(threshold))
    return threshold + slack if metric == "l2" else threshold - slack


def _ended(now: int) -> models.FieldCondition:
    return models.FieldCondition(key=_EXPIRY, range=models.Range(lte=now))


def _live(now: int, condition: models.Condition | None = None) -> models.Filter:
    return models.Filter(must=None if condition is None else [condition], must_not=[_ended(now)])


def _origin(embedder: str | None) -> str:
    return "its callers" if embedder is None else f"the embedder '{embedder}'"
