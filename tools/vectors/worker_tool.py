"""The tools `vector_shape`, `vector_points` and `vector_put_points`, which workers may call and MCP clients are not
offered: whole collections, page by page, and points written as they were read."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from typing import Annotated

from pydantic import Field
from pydantic_core import to_json
from typing_extensions import TypedDict

from quarterdeck.storage.clock import iso
from quarterdeck.storage.errors import InvalidArgumentError, NotFoundError
from quarterdeck.storage.vectors.base import Metric, Point, Vector
from quarterdeck.tools.arguments import Arguments, Limit
from quarterdeck.tools.contract import Call, DeckTool, Json, deck_tool

from .service import NewPoint, VectorService

PAGE_BYTES = 8 << 20  # of points; a page ends before it has more, but has at least one


class ShapeArguments(Arguments):
    collection: str


class ShapeAnswer(TypedDict, total=False):
    """Without a collection of that name, only that it is not `found`."""

    success: bool
    found: bool
    dimension: int
    metric: Metric
    embedder: str | None


class PointsArguments(Arguments):
    collection: str
    limit: Limit = 500
    after: Annotated[str, Field(description="the last id of the page before")] = ""


class PointAnswer(TypedDict):
    """`vector` is base64 of little-endian float32: as JSON numbers it would be four times as long."""

    id: str
    vector: str
    payload: dict[str, Json]
    expiresAt: str | None


class PointsAnswer(TypedDict):
    """`count` is that of the whole collection; `isLast` says that there are no points after these."""

    success: bool
    collection: str
    metric: Metric
    count: int
    points: list[PointAnswer]
    isLast: bool


class PutPoint(Arguments):
    """As in PointAnswer; `ttl` in seconds, 0 for ever."""

    id: str
    vector: str
    payload: dict[str, Json]
    ttl: Annotated[float, Field(ge=0)] = 0


class PutArguments(Arguments):
    """A collection, with what `vector_collections` shows of the one that the points come from."""

    collection: str
    dimension: int
    metric: Metric
    embedder: str | None = None
    points: Annotated[list[PutPoint], Field(min_length=1, max_length=1000)]


class PutAnswer(TypedDict):
    success: bool
    collection: str
    upserted: int


def vector_worker_tools(service: VectorService) -> list[DeckTool]:
    async def shape(args: ShapeArguments, _: Call) -> ShapeAnswer:
        try:
            info = await service.describe(args.collection)
        except NotFoundError:
            return {"success": True, "found": False}
        shape: ShapeAnswer = {"dimension": info.dimension, "metric": info.metric, "embedder": info.embedder}
        return {"success": True, "found": True, **shape}

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

    async def put(args: PutArguments, _: Call) -> PutAnswer:
        points = [NewPoint(p.id, _read(p), None, p.payload, p.ttl) for p in args.points]
        upserted = await service.put(
            args.collection, points, dimension=args.dimension, metric=args.metric, embedder=args.embedder
        )
        return {"success": True, "collection": args.collection, "upserted": upserted}

    return [
        deck_tool(
            "vector_shape",
            "Show whether there is a vector collection, and its shape.",
            ShapeArguments,
            ShapeAnswer,
            shape,
            title="Shape of a collection",
            read_only=True,
            idempotent=True,
        ),
        deck_tool(
            "vector_points",
            "List the points of a vector collection with their vectors and payloads.",
            PointsArguments,
            PointsAnswer,
            points,
            title="Points of a collection",
            read_only=True,
            idempotent=True,
        ),
        deck_tool(
            "vector_put_points",
            "Add or replace points of a vector collection with vectors as vector_points showed them.",
            PutArguments,
            PutAnswer,
            put,
            title="Put points",
            destructive=True,
            idempotent=True,
        ),
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
    expires = None if point.expires_at is None else iso(point.expires_at)
    return {
        "id": point.id,
        "vector": b64encode(vector).decode(),
        "payload": dict(point.payload),
        "expiresAt": expires,
    }


def _read(point: PutPoint) -> Vector:
    import numpy as np

    try:
        return np.frombuffer(b64decode(point.vector, validate=True), "<f4")
    except (binascii.Error, ValueError) as exc:
        raise InvalidArgumentError(f"point {point.id!r}: vector is not base64 of float32: {exc}") from None
