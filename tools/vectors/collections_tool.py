"""The tool `vector_collections`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.storage.vectors.base import CollectionInfo, CollectionState, Metric, Quantization, WishedIndex
from quarterdeck.tools.arguments import Arguments, Limit
from quarterdeck.tools.contract import Call, DeckTool, Json, deck_tool

from .service import VectorService


class CollectionsArguments(Arguments):
    action: Literal["create", "list", "describe", "drop", "optimize", "reembed"]
    collection: Annotated[str | None, Field(description="all but list")] = None
    dimension: Annotated[int | None, Field(description="create: of your vectors; none for texts")] = None
    metric: Annotated[Metric | None, Field(description="create; default cosine")] = None
    index: Annotated[WishedIndex | None, Field(description="create; default auto, by size")] = None
    quantization: Annotated[Quantization | None, Field(description="create; default none")] = None
    embedder: Annotated[str | None, Field(description="create, reembed; default the configured one")] = None
    limit: Limit = 50
    cursor: str | None = None


class CollectionAnswer(TypedDict, total=False):
    collection: str
    dimension: int
    metric: Metric
    embedder: str | None
    count: int
    index: str
    quantization: str
    state: dict[str, Json]


class CollectionsAnswer(TypedDict, total=False):
    success: bool
    action: str
    collections: list[CollectionAnswer]
    nextCursor: str | None
    dropped: str
    deleted: int


class CollectionsTool:
    def __init__(self, service: VectorService) -> None:
        self._service = service

    async def answer(self, args: CollectionsArguments, call: Call) -> CollectionsAnswer:
        _check_options(args)
        if args.action == "list":
            return await self._list(args)
        name = args.collection
        if name is None:
            raise InvalidArgumentError(f"{args.action} needs 'collection', a name; list shows those there are")
        state = None
        match args.action:
            case "drop":
                deleted = await self._service.drop(name)
                return {"success": True, "action": "drop", "dropped": name, "deleted": deleted}
            case "create":
                await self._create(name, args)
            case "optimize":
                state = await self._service.optimize(name)
            case "reembed":
                await self._service.reembed(name, args.embedder, call.report_progress)
            case _:
                state = await self._service.inspect(name)
        shown = await self._shown(await self._service.describe(name))
        if state is not None:
            shown["state"] = _state(state)
        return {"success": True, "action": args.action, "collections": [shown]}

    async def _create(self, name: str, args: CollectionsArguments) -> None:
        if args.dimension is not None and args.embedder is not None:
            raise InvalidArgumentError("create: give dimension for your own vectors, or embedder for texts, not both")
        await self._service.create(
            name,
            args.dimension,
            args.metric or "cosine",
            embedder=args.embedder,
            index=args.index or "auto",
            quantization=args.quantization or "none",
        )

    async def _list(self, args: CollectionsArguments) -> CollectionsAnswer:
        infos = await self._service.collections(limit=args.limit + 1, after=args.cursor or "")
        page = infos[: args.limit]
        return {
            "success": True,
            "action": "list",
            "collections": await self._all_shown(page),
            "nextCursor": page[-1].name if len(infos) > len(page) else None,
        }

    async def _all_shown(self, infos: Sequence[CollectionInfo]) -> list[CollectionAnswer]:
        return [await self._shown(info) for info in infos]

    async def _shown(self, info: CollectionInfo) -> CollectionAnswer:
        return {
            "collection": info.name,
            "dimension": info.dimension,
            "metric": info.metric,
            "embedder": info.embedder,
            "count": await self._service.count(info.name),
            "index": info.index,
            "quantization": info.quantization,
        }


def _check_options(args: CollectionsArguments) -> None:
    """Refuse what the action would not look at."""
    options = {
        "dimension": ("create",),
        "metric": ("create",),
        "index": ("create",),
        "quantization": ("create",),
        "embedder": ("create", "reembed"),
    }
    for option, actions in options.items():
        if getattr(args, option) is not None and args.action not in actions:
            raise InvalidArgumentError(f"{option}: only for {' and '.join(actions)}")
    if args.action == "list" and args.collection is not None:
        raise InvalidArgumentError("collection: list takes none; describe shows one")


def _state(state: CollectionState) -> dict[str, Json]:
    """How it is; what the store cannot tell is null."""
    return {
        "index": state.index,
        "quantization": state.quantization,
        "tombstones": state.tombstones,
        "ramBytes": state.ram_bytes,
        "diskBytes": state.disk_bytes,
        "recall": state.recall,
        "building": state.building,
        "note": state.note,
    }


def collections_tool(service: VectorService) -> DeckTool:
    return deck_tool(
        "vector_collections",
        "Create, list, describe or drop vector collections; optimize builds the index anew, reembed converts texts to "
        "another embedder.",
        CollectionsArguments,
        CollectionsAnswer,
        CollectionsTool(service).answer,
        title="Vector collections",
        destructive=True,
    )
