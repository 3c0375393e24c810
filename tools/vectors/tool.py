"""The tools `vector_upsert` and `vector_delete`, and the whole family."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator
from typing_extensions import TypedDict

from quarterdeck.tools.arguments import Arguments, FromJsonText
from quarterdeck.tools.contract import Call, DeckTool, Json, deck_tool

from .collections_tool import collections_tool
from .numbers import Numbers
from .search_tool import Filter, search_tool
from .service import NewPoint, VectorService

MAX_POINTS = 1000  # of one call

Ids = Annotated[list[str], Field(min_length=1, max_length=MAX_POINTS), FromJsonText]


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


class DeleteArguments(Arguments):
    collection: str
    ids: Ids | None = None
    filter: Filter | None = None

    @model_validator(mode="after")
    def _has_one_choice(self) -> DeleteArguments:
        if (self.ids is None) == (self.filter is None):
            raise ValueError("give either ids or filter")
        return self


class UpsertAnswer(TypedDict):
    success: bool
    collection: str
    upserted: int
    count: int


class DeleteAnswer(TypedDict):
    success: bool
    collection: str
    deleted: int
    count: int


class VectorTools:
    """The handlers."""

    def __init__(self, service: VectorService) -> None:
        self._service = service

    async def upsert(self, args: UpsertArguments, _: Call) -> UpsertAnswer:
        points = [NewPoint(p.id, p.vector, p.text, p.payload, p.ttl) for p in args.points]
        upserted = await self._service.upsert(args.collection, points)
        count = await self._service.count(args.collection)
        return {"success": True, "collection": args.collection, "upserted": upserted, "count": count}

    async def delete(self, args: DeleteArguments, _: Call) -> DeleteAnswer:
        name = args.collection
        if args.ids is not None:
            deleted = await self._service.delete(name, args.ids)
        else:
            deleted = await self._service.delete_where(name, args.filter or {})
        count = await self._service.count(name)
        return {"success": True, "collection": name, "deleted": deleted, "count": count}


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
        search_tool(service),
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
        collections_tool(service),
    ]
