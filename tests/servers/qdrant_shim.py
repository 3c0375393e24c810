"""`python -m tests.servers.qdrant_shim PORT FOLDER`: a wire shim, not Qdrant.

Just those calls of Qdrant's REST interface that our store makes, on loopback, over the engine of Qdrant itself as it is
embedded in qdrant-edge-py. Bodies are read by the client's own models, so what they do not know is refused. What only a
real server does (optimizing in the background, shards, replicas, consensus) is not here.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import qdrant_edge as edge
import uvicorn
from pydantic import BaseModel, ValidationError
from qdrant_client import models
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

M = TypeVar("M", bound=BaseModel)

DISTANCES = {"Cosine": edge.Distance.Cosine, "Dot": edge.Distance.Dot, "Euclid": edge.Distance.Euclid}
DATATYPES = {"float32": edge.VectorStorageDatatype.Float32, "float16": edge.VectorStorageDatatype.Float16}
MODES = {"upsert": edge.UpdateMode.Upsert, "insert_only": edge.UpdateMode.InsertOnly}
SCHEMAS = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
}
CONFIG = "create.json"


class Refused(Exception):  # noqa: N818  it is an answer
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Shim:
    """Collections, each a folder with a shard and the body that created it; one operation at a time for each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: dict[str, edge.EdgeShard] = {}
        self._made: dict[str, models.CreateCollection] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        for path in folder.glob(f"*/{CONFIG}"):
            name = path.parent.name
            self._made[name] = models.CreateCollection.model_validate_json(path.read_bytes())
            self._shards[name] = edge.EdgeShard.load(str(path.parent / "shard"))

    def close(self) -> None:
        for shard in self._shards.values():
            shard.close()

    async def create(self, request: Request) -> Any:
        name, made = request.path_params["name"], await body(request, models.CreateCollection)
        if name in self._shards:
            raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
        path = self._folder / name
        (path / "shard").mkdir(parents=True)
        (path / CONFIG).write_text(made.model_dump_json(exclude_none=True))
        self._shards[name] = edge.EdgeShard.create(str(path / "shard"), config_of(made))
        self._made[name] = made
        return True

    async def drop(self, request: Request) -> Any:
        name = request.path_params["name"]
        shard = self._shards.pop(name, None)
        if shard is None:
            return False
        async with self._lock(name):
            shard.close()
            del self._made[name]
            shutil.rmtree(self._folder / name)
        return True

    async def list(self, _: Request) -> Any:
        return {"collections": [{"name": name} for name in self._shards]}

    async def exists(self, request: Request) -> Any:
        return {"exists": request.path_params["name"] in self._shards}

    async def info(self, request: Request) -> Any:
        info = await self._run(request, lambda shard: shard.info())
        made = self._made[request.path_params["name"]].model_dump(mode="json", exclude_none=True)
        wal = {"wal_capacity_mb": 32, "wal_segments_ahead": 0}
        optimizers = {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0}
        return {
            "status": "green",
            "optimizer_status": "ok",
            "points_count": info.points_count,
            "indexed_vectors_count": info.indexed_vectors_count,
            "segments_count": info.segments_count,
            "payload_schema": {},
            "config": {
                "params": {"vectors": made["vectors"]},
                "hnsw_config": {
                    "m": 16,
                    "ef_construct": 100,
                    "full_scan_threshold": 10000,
                    **made.get("hnsw_config", {}),
                },
                "optimizer_config": {**optimizers, "flush_interval_sec": 5, **made.get("optimizers_config", {})},
                "wal_config": wal,
                "quantization_config": made.get("quantization_config"),
            },
        }

    async def index(self, request: Request) -> Any:
        asked = await body(request, models.CreateFieldIndex)
        schema = SCHEMAS[str(getattr(asked.field_schema, "value", asked.field_schema))]
        operation = edge.UpdateOperation.create_field_index(asked.field_name, schema)
        return await self._run(request, lambda shard: changed(shard, [operation]))

    async def upsert(self, request: Request) -> Any:
        asked = await body(request, models.PointsList)
        return await self._run(request, lambda shard: changed(shard, [upsertion(asked)]))

    async def batch(self, request: Request) -> Any:
        asked = await body(request, models.UpdateOperations)

        def operation(one: Any) -> edge.UpdateOperation:
            return upsertion(one.upsert) if isinstance(one, models.UpsertOperation) else deletion(one.delete)

        operations = [operation(one) for one in asked.operations]
        return await self._run(request, lambda shard: [changed(shard, [each]) for each in operations])

    async def delete(self, request: Request) -> Any:
        given = await request.json()
        kind = models.PointIdsList if "points" in given else models.FilterSelector
        operation = deletion(kind.model_validate(given))
        return await self._run(request, lambda shard: changed(shard, [operation]))

    async def set_payload(self, request: Request) -> Any:
        asked = await body(request, models.SetPayload)
        where = filter_of(asked.filter)
        operation = (
            edge.UpdateOperation.set_payload_by_filter(where, asked.payload)
            if where
            else edge.UpdateOperation.set_payload(asked.points or [], asked.payload)
        )
        return await self._run(request, lambda shard: changed(shard, [operation]))

    async def retrieve(self, request: Request) -> Any:
        asked = await body(request, models.PointRequest)
        found = await self._run(
            request,
            lambda shard: shard.retrieve(asked.ids, payload_wish(asked.with_payload), bool(asked.with_vector)),
        )
        return [record(each) for each in found]

    async def scroll(self, request: Request) -> Any:
        asked = await body(request, models.ScrollRequest)
        order = None
        if isinstance(asked.order_by, models.OrderBy):
            order = edge.OrderBy(asked.order_by.key)
        wish = edge.ScrollRequest(
            offset=asked.offset,
            limit=asked.limit,
            filter=filter_of(asked.filter),
            with_payload=payload_wish(asked.with_payload),
            with_vector=bool(asked.with_vector),
            order_by=order,
        )
        found, following = await self._run(request, lambda shard: shard.scroll(wish))
        return {"points": [record(each) for each in found], "next_page_offset": following and str(following)}

    async def count(self, request: Request) -> Any:
        asked = await body(request, models.CountRequest)
        wish = edge.CountRequest(exact=True, filter=filter_of(asked.filter))
        return {"count": await self._run(request, lambda shard: shard.count(wish))}

    async def query(self, request: Request) -> Any:
        asked = await body(request, models.QueryRequestBatch)
        wishes = edge.QueryBatchRequest([query_of(each) for each in asked.searches])
        found = await self._run(request, lambda shard: shard.query_batch(wishes))
        return [{"points": [{**record(each), "version": 0, "score": each.score} for each in hits]} for hits in found]

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _run(self, request: Request, work: Callable[[edge.EdgeShard], Any]) -> Any:
        name = request.path_params["name"]
        async with self._lock(name):
            if name not in self._shards:
                raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
            return await asyncio.to_thread(work, self._shards[name])


async def body(request: Request, model: type[M]) -> M:
    return model.model_validate_json(await request.body())


def config_of(made: models.CreateCollection) -> edge.EdgeConfig:
    params = made.vectors
    assert isinstance(params, models.VectorParams)
    hnsw, optimizers = made.hnsw_config, made.optimizers_config
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(
            size=params.size,
            distance=DISTANCES[params.distance.value],
            datatype=DATATYPES[params.datatype.value if params.datatype else "float32"],
            on_disk=params.on_disk,
        ),
        hnsw_config=hnsw
        and edge.HnswIndexConfig(
            16 if hnsw.m is None else hnsw.m, hnsw.ef_construct or 100, hnsw.full_scan_threshold or 10_000
        ),
        quantization_config=quantization_of(made.quantization_config),
        optimizers=optimizers and edge.EdgeOptimizersConfig(indexing_threshold=optimizers.indexing_threshold),
    )


def quantization_of(wish: Any) -> Any:
    match wish:
        case models.ScalarQuantization(scalar=scalar):
            return edge.ScalarQuantizationConfig(edge.ScalarType.Int8, scalar.quantile, scalar.always_ram)
        case models.ProductQuantization(product=product):
            ratio = getattr(edge.CompressionRatio, product.compression.value.upper())
            return edge.ProductQuantizationConfig(ratio, product.always_ram)
        case models.BinaryQuantization(binary=binary):
            return edge.BinaryQuantizationConfig(binary.always_ram)
        case _:
            return None


def changed(shard: edge.EdgeShard, operations: list[edge.UpdateOperation]) -> dict[str, Any]:
    for operation in operations:
        shard.update(operation)
    return {"operation_id": 0, "status": "completed"}


def upsertion(asked: Any) -> edge.UpdateOperation:
    points = [edge.Point(each.id, each.vector, each.payload or {}) for each in asked.points]
    mode = MODES[asked.update_mode.value] if asked.update_mode else None
    return edge.UpdateOperation.upsert_points(points, filter_of(asked.update_filter), mode)


def deletion(asked: Any) -> edge.UpdateOperation:
    if isinstance(asked, models.PointIdsList):
        return edge.UpdateOperation.delete_points(asked.points)
    where = filter_of(asked.filter)
    assert where is not None
    return edge.UpdateOperation.delete_points_by_filter(where)


def query_of(asked: models.QueryRequest) -> edge.QueryRequest:
    params = asked.params
    quantization = params and params.quantization
    vector: Any = asked.query.nearest if isinstance(asked.query, models.NearestQuery) else asked.query
    return edge.QueryRequest(
        limit=asked.limit or 10,
        query=edge.Query.Nearest(vector),
        filter=filter_of(asked.filter),
        score_threshold=asked.score_threshold,
        with_payload=payload_wish(asked.with_payload),
        params=params
        and edge.SearchParams(
            hnsw_ef=params.hnsw_ef,
            exact=bool(params.exact),
            quantization=quantization
            and edge.QuantizationSearchParams(
                bool(quantization.ignore), quantization.rescore, quantization.oversampling
            ),
        ),
    )


def filter_of(asked: models.Filter | None) -> edge.Filter | None:
    if asked is None:
        return None

    def conditions(given: Any) -> list[Any] | None:
        listed = cast("list[Any]", given) if isinstance(given, list) else [] if given is None else [given]
        return [condition(each) for each in listed] or None

    return edge.Filter(conditions(asked.must), conditions(asked.should), conditions(asked.must_not))


def condition(asked: Any) -> Any:
    match asked:
        case models.Filter():
            return filter_of(asked)
        case models.HasIdCondition(has_id=ids):
            return edge.HasIdCondition(set(ids))
        case models.FieldCondition(key=key, match=models.MatchValue(value=value)):
            return edge.FieldCondition(key, match=edge.MatchValue(value))
        case models.FieldCondition(key=key, match=models.MatchAny(any=values)):
            return edge.FieldCondition(key, match=edge.MatchAny(values))
        case models.FieldCondition(key=key, range=models.Range() as bounds):
            return edge.FieldCondition(key, range=edge.RangeFloat(**bounds.model_dump()))
        case _:
            raise Refused(400, f"the shim has no such condition: {asked}")


def payload_wish(asked: Any) -> Any:
    return bool(asked) if asked is None or isinstance(asked, bool) else list(asked)


def record(found: Any) -> dict[str, Any]:
    return {"id": str(found.id), "payload": found.payload, "vector": found.vector}


async def answered(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    key = os.environ.get("QDRANT__SERVICE__API_KEY")
    if key and request.headers.get("api-key") != key:
        return JSONResponse("Must provide an API key or an Authorization bearer token", 401)
    try:
        return await call_next(request)
    except Refused as exc:
        return JSONResponse({"status": {"error": str(exc)}, "time": 0}, exc.status)
    except ValidationError as exc:
        return JSONResponse({"status": {"error": f"Format error in JSON body: {exc}"}, "time": 0}, 400)
    except Exception as exc:  # noqa: BLE001  what the engine refuses comes in many classes
        return JSONResponse({"status": {"error": f"Wrong input: {exc}"}, "time": 0}, 400)


def application(shim: Shim) -> Starlette:
    async def about(_: Request) -> Response:
        return JSONResponse({"title": "wire shim, not Qdrant", "version": "1.17.0"})

    def endpoint(work: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            text = json.dumps({"result": await work(request), "status": "ok", "time": 0.0})
            return Response(text, media_type="application/json")

        return answer

    def route(path: str, method: str, work: Callable[[Request], Awaitable[Any]]) -> Route:
        return Route(f"/collections/{{name}}{path}", endpoint(work), methods=[method])

    return Starlette(
        routes=[
            Route("/", about),
            Route("/collections", endpoint(shim.list)),
            route("", "PUT", shim.create),
            route("", "DELETE", shim.drop),
            route("", "GET", shim.info),
            route("/exists", "GET", shim.exists),
            route("/index", "PUT", shim.index),
            route("/points", "PUT", shim.upsert),
            route("/points", "POST", shim.retrieve),
            route("/points/batch", "POST", shim.batch),
            route("/points/delete", "POST", shim.delete),
            route("/points/payload", "POST", shim.set_payload),
            route("/points/scroll", "POST", shim.scroll),
            route("/points/count", "POST", shim.count),
            route("/points/query/batch", "POST", shim.query),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=answered)],
    )


def main() -> None:
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    shim = Shim(folder)
    uvicorn.run(application(shim), host="127.0.0.1", port=port, log_level="error")
    shim.close()


if __name__ == "__main__":
    main()
