"""The tools `vector_upsert`, `vector_search`, `vector_delete` and `vector_collections`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import to_json
from typing_extensions import TypedDict

from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.storage.vectors.base import CollectionInfo, Hit, Metric
from quarterdeck.tools.contract import Arguments, Call, DeckTool, FromJsonText, Json, Limit, deck_tool

from .service import NewPoint, VectorService

MAX_POINTS = 1000  # of one call
MAX_QUERIES = 100
BYTES_PER_TOKEN = 4

Numbers = Annotated[list[float], FromJsonText]
Queries = Annotated[list[str], Field(min_length=1, max_length=MAX_QUERIES), FromJsonText]
Vectors = Annotated[list[list[float]], Field(min_length=1, max_length=MAX_QUERIES), FromJsonText]
Ids = Annotated[list[str], Field(min_length=1, max_length=MAX_POINTS), FromJsonText]
Filter = Annotated[
    dict[str, Json],
    FromJsonText,
    Field(description="on payload: {field: value or {eq|ne|in|gt|gte|lt|lte|exists: …}}, and, or, not"),
]


class PointArguments(Arguments):
    id: str
    vector: Numbers | None = None
    text: str | None = None
    payload: Annotated[dict[str, Json], FromJsonText] = Field(default_factory=dict[str, Json])
    ttl: Annotated[float | None, Field(ge=0, description="seconds; 0 = for ever")] = None

    @model_validator(mode="after")
    def _has_one_form(self) -> PointArguments:
        if (self.vector is None) == (self.text is None):
            raise ValueError("give either vector or text")
        return self


class UpsertArguments(Arguments):
    collection: str
    points: Annotated[list[PointArguments], Field(min_length=1, max_length=MAX_POINTS), FromJsonText]


class SearchArguments(Arguments):
    collection: str
    query: Annotated[str | None, Field(description="a text; give exactly one of query, vector, queries, vectors")] = (
        None
    )
    vector: Numbers | None = None
    queries: Queries | None = None
    vectors: Vectors | None = None
    limit: Limit = 10
    score_threshold: Annotated[
        float | None, Field(allow_inf_nan=False, description="least score; for l2 the greatest distance")
    ] = None
    filter: Filter | None = None
    max_tokens: Annotated[int | None, Field(ge=1, description="of the results; the worst hits are left out")] = None

    @model_validator(mode="after")
    def _has_one_query(self) -> SearchArguments:
        if sum(form is not None for form in (self.query, self.vector, self.queries, self.vectors)) != 1:
            raise ValueError("give exactly one of query, vector, queries, vectors")
        return self


class DeleteArguments(Arguments):
    collection: str
    ids: Ids | None = None
    filter: Filter | None = None

    @model_validator(mode="after")
    def _has_one_choice(self) -> DeleteArguments:
        if (self.ids is None) == (self.filter is None):
            raise ValueError("give either ids or filter")
        return self


class CollectionsArguments(Arguments):
    action: Literal["create", "list", "describe", "drop"]
    collection: Annotated[str | None, Field(description="all but list")] = None
    dimension: Annotated[int | None, Field(description="create: of your vectors; none for texts")] = None
    metric: Annotated[Metric | None, Field(description="create; default cosine")] = None
    limit: Limit = 50
    cursor: str | None = None


class UpsertAnswer(TypedDict):
    success: bool
    collection: str
    upserted: int
    count: int


class HitAnswer(TypedDict):
    id: str
    score: float
    payload: dict[str, Json]


class SearchAnswer(TypedDict, total=False):
    success: bool
    collection: str
    metric: Metric
    results: list[list[HitAnswer]]
    omitted: int


class DeleteAnswer(TypedDict):
    success: bool
    collection: str
    deleted: int
    count: int


class CollectionAnswer(TypedDict):
    collection: str
    dimension: int
    metric: Metric
    embedder: str | None
    count: int


class CollectionsAnswer(TypedDict, total=False):
    success: bool
    action: str
    collections: list[CollectionAnswer]
    nextCursor: str | None
    dropped: str
    deleted: int


class VectorTools:
    """The handlers."""

    def __init__(self, service: VectorService) -> None:
        self._service = service

    async def upsert(self, args: UpsertArguments, _: Call) -> UpsertAnswer:
        points = [NewPoint(p.id, p.vector, p.text, p.payload, p.ttl) for p in args.points]
        upserted = await self._service.upsert(args.collection, points)
        count = await self._service.count(args.collection)
        return {"success": True, "collection": args.collection, "upserted": upserted, "count": count}

    async def search(self, args: SearchArguments, _: Call) -> SearchAnswer:
        name, limit, threshold, where = args.collection, args.limit, args.score_threshold, args.filter
        metric = (await self._service.describe(name)).metric
        texts = args.queries if args.query is None else [args.query]
        vectors = args.vectors if args.vector is None else [args.vector]
        if texts is not None:
            found = await self._service.search_texts(name, texts, limit=limit, threshold=threshold, where=where)
        else:
            found = await self._service.search(name, vectors or [], limit=limit, threshold=threshold, where=where)
        results = [[_hit(hit) for hit in hits] for hits in found]
        answer: SearchAnswer = {"success": True, "collection": name, "metric": metric, "results": results}
        if args.max_tokens is not None and (omitted := _shorten(results, args.max_tokens * BYTES_PER_TOKEN)):
            answer["omitted"] = omitted
        return answer

    async def delete(self, args: DeleteArguments, _: Call) -> DeleteAnswer:
        name = args.collection
        if args.ids is not None:
            deleted = await self._service.delete(name, args.ids)
        else:
            deleted = await self._service.delete_where(name, args.filter or {})
        count = await self._service.count(name)
        return {"success": True, "collection": name, "deleted": deleted, "count": count}

    async def collections(self, args: CollectionsArguments, _: Call) -> CollectionsAnswer:
        if args.action != "create" and (args.dimension, args.metric) != (None, None):
            raise InvalidArgumentError("dimension, metric: only create takes them")
        if args.action == "list":
            return await self._list(args)
        if args.collection is None:
            raise InvalidArgumentError(f"{args.action} needs 'collection', a name; list shows those there are")
        if args.action == "drop":
            deleted = await self._service.drop(args.collection)
            return {"success": True, "action": "drop", "dropped": args.collection, "deleted": deleted}
        if args.action == "create":
            info = await self._service.create(args.collection, args.dimension, args.metric or "cosine")
        else:
            info = await self._service.describe(args.collection)
        return {"success": True, "action": args.action, "collections": await self._shown([info])}

    async def _list(self, args: CollectionsArguments) -> CollectionsAnswer:
        if args.collection is not None:
            raise InvalidArgumentError("collection: list takes none; describe shows one")
        infos = await self._service.collections(limit=args.limit + 1, after=args.cursor or "")
        page = infos[: args.limit]
        return {
            "success": True,
            "action": "list",
            "collections": await self._shown(page),
            "nextCursor": page[-1].name if len(infos) > len(page) else None,
        }

    async def _shown(self, infos: Sequence[CollectionInfo]) -> list[CollectionAnswer]:
        return [
            {
                "collection": info.name,
                "dimension": info.dimension,
                "metric": info.metric,
                "embedder": info.embedder,
                "count": await self._service.count(info.name),
            }
            for info in infos
        ]


def _hit(hit: Hit) -> HitAnswer:
    return {"id": hit.id, "score": float(f"{hit.score:.7g}"), "payload": dict(hit.payload)}  # a float32 has 7 digits


def _shorten(results: list[list[HitAnswer]], room: int) -> int:
    """Keep what fits in `room` bytes, the best of every query first, and return how many hits were cut off."""
    total = sum(map(len, results))
    kept = [0] * len(results)
    for rank in zip_longest(*results):
        for number, hit in enumerate(rank):
            if hit is None:
                continue
            room -= len(to_json(hit)) + 1  # and a comma
            if room < 0:
                for hits, count in zip(results, kept, strict=True):
                    del hits[count:]
                return total - sum(kept)
            kept[number] += 1
    return 0


def vector_tools(service: VectorService) -> list[DeckTool]:
    tools = VectorTools(service)
    return [
        deck_tool(
            "vector_upsert",
            "Add or replace points in a vector collection, all or none. A missing collection is created (cosine). "
            "Texts are embedded and kept in payload.text; at most 1000 points.",
            UpsertArguments,
            UpsertAnswer,
            tools.upsert,
            title="Upsert vectors",
            destructive=True,
            idempotent=True,
        ),
        deck_tool(
            "vector_search",
            "Find the nearest points of a vector collection, exactly, for one or up to 100 queries. "
            "results has one list per query.",
            SearchArguments,
            SearchAnswer,
            tools.search,
            title="Search vectors",
            read_only=True,
            idempotent=True,
        ),
        deck_tool(
            "vector_delete",
            "Delete points of a vector collection by ids or by filter.",
            DeleteArguments,
            DeleteAnswer,
            tools.delete,
            title="Delete vectors",
            destructive=True,
            idempotent=True,
        ),
        deck_tool(
            "vector_collections",
            "Create, list, describe or drop vector collections.",
            CollectionsArguments,
            CollectionsAnswer,
            tools.collections,
            title="Vector collections",
            destructive=True,
        ),
    ]
