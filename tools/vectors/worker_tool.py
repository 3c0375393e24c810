"""The tool `vector_points`, which workers may call and MCP clients are not offered: whole collections, page by page."""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated

from pydantic import Field
from pydantic_core import to_json
from typing_extensions import TypedDict

from quarterdeck.storage.vectors.base import Metric, Point
from quarterdeck.tools.contract import Arguments, Call, DeckTool, Json, Limit, deck_tool

from .service import VectorService

PAGE_BYTES = 8 << 20  # of points; a page ends before it has more, but has at least one


class PointsArguments(Arguments):
    collection: str
    limit: Limit = 500
    after: Annotated[str, Field(description="the last id of the page before")] = ""


class PointAnswer(TypedDict):
    """`vector` is base64 of little-endian float32: as JSON numbers it would be four times as long."""

    id: str
    vector: str
    payload: dict[str, Json]


class PointsAnswer(TypedDict):
    """`count` is that of the whole collection; `isLast` says that there are no points after these."""

    success: bool
    collection: str
    metric: Metric
    count: int
    points: list[PointAnswer]
    isLast: bool


def vector_worker_tools(service: VectorService) -> list[DeckTool]:
    async def points(args: PointsArguments, _: Call) -> PointsAnswer:
        name = args.collection
        info = await service.describe(name)
        found = await service.page(name, limit=args.limit, after=args.after)
        shown = _fitting(found)
        return {
            "success": True,
            "collection": name,
            "metric": info.metric,
            "count": await service.count(name),
            "points": shown,
            "isLast": len(shown) == len(found) < args.limit,
        }

    return [
        deck_tool(
            "vector_points",
            "List the points of a vector collection with their vectors and payloads.",
            PointsArguments,
            PointsAnswer,
            points,
            title="Points of a collection",
            read_only=True,
            idempotent=True,
        )
    ]


def _fitting(points: list[Point]) -> list[PointAnswer]:
    shown: list[PointAnswer] = []
    room = PAGE_BYTES
    for point in points:
        answer = _shown(point)
        room -= len(answer["vector"]) + len(to_json(answer["payload"]))
        if room < 0 and shown:
            break
        shown.append(answer)
    return shown


def _shown(point: Point) -> PointAnswer:
    import numpy as np  # not before the store has done so

    vector = np.asarray(point.vector, "<f4").tobytes()
    return {"id": point.id, "vector": b64encode(vector).decode(), "payload": dict(point.payload)}
