"""`memory_usage`: the deck's memory, with the calls and result fields of claude-flow 2.7."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from quarterdeck.storage.clock import iso
from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.storage.memory.base import Entry, Hit
from quarterdeck.tools.arguments import Arguments, Limit, check_applies
from quarterdeck.tools.contract import Call, DeckTool, Json, deck_tool

from .service import MAX_TOKENS, MemoryService
from .uri import uri_of

Action = Literal["store", "retrieve", "list", "search", "delete", "touch", "restore", "namespaces"]

APPLIES: dict[str, tuple[Action, ...]] = {
    "query": ("search",),
    "prefix": ("list",),
    "include_values": ("list", "search"),
    "limit": ("list", "search", "namespaces"),
    "cursor": ("list", "search", "namespaces"),
    "if_version": ("store", "delete"),
    "max_tokens": ("list", "search"),
}
"""Where an argument has a meaning. claude-flow's own five are taken, as there, with every action."""


class MemoryArguments(Arguments):
    action: Action
    key: str | None = None
    value: Annotated[Json, Field(description="any JSON, at most 1 MiB")] = None
    namespace: str = "default"
    ttl: Annotated[float | None, Field(ge=0, description="seconds to live; 0 = for ever")] = None
    query: Annotated[str | None, Field(description="words; all must occur")] = None
    prefix: str = ""
    include_values: bool = True
    limit: Limit = 50
    cursor: Annotated[str | None, Field(description="nextCursor of the page before")] = None
    if_version: Annotated[int | None, Field(ge=0, description="compare-and-set; 0 = must not exist")] = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = MAX_TOKENS


class MemoryAnswer(TypedDict, total=False):
    success: bool
    action: Action
    namespace: str
    storage_type: str
    timestamp: str
    key: str
    id: str
    stored: bool
    found: bool
    deleted: bool
    value: Json
    size: int
    version: int | None
    expiresAt: str | None
    pattern: str
    entries: list[dict[str, Json]]
    results: list[dict[str, Json]]
    namespaces: list[dict[str, Json]]
    count: int
    nextCursor: str | None
    notice: str


class MemoryTool:
    """Serves one call: the method named like the action."""

    def __init__(self, service: MemoryService, backend: str) -> None:
        self._service = service
        self._backend = backend
        self._actions: dict[Action, Callable[[MemoryArguments], Awaitable[MemoryAnswer]]] = {
            "store": self._store,
            "retrieve": self._retrieve,
            "list": self._list,
            "search": self._search,
            "delete": self._delete,
            "touch": self._touch,
            "restore": self._restore,
            "namespaces": self._namespaces,
        }

    async def __call__(self, args: MemoryArguments, _: Call) -> MemoryAnswer:
        check_applies(args, args.action, APPLIES)
        answer = await self._actions[args.action](args)
        return {
            "success": True,
            "action": args.action,
            **answer,
            "storage_type": self._backend,
            "timestamp": iso(self._service.clock.now()),
        }

    async def _store(self, args: MemoryArguments) -> MemoryAnswer:
        key = _key(args)
        if "value" not in args.model_fields_set:
            raise InvalidArgumentError("store needs 'value', any JSON; to remove an entry use the action delete")
        entry = await self._service.store(args.namespace, key, args.value, ttl=args.ttl, if_version=args.if_version)
        return {**_identity(entry), "stored": True, "size": entry.size, **_state(entry)}

    async def _retrieve(self, args: MemoryArguments) -> MemoryAnswer:
        key = _key(args)
        entry = await self._service.retrieve(args.namespace, key)
        if entry is None:
            return {
                "key": key,
                "namespace": args.namespace,
                "found": False,
                "value": None,
                "version": None,
                "expiresAt": None,
            }
        return {**_identity(entry), "found": True, "value": entry.value, "size": entry.size, **_state(entry)}

    async def _list(self, args: MemoryArguments) -> MemoryAnswer:
        page = await self._service.list(
            args.namespace,
            prefix=args.prefix,
            include_values=args.include_values,
            limit=args.limit,
            cursor=args.cursor,
            max_tokens=args.max_tokens,
        )
        answer: MemoryAnswer = {
            "namespace": args.namespace,
            "entries": [_entry(entry) for entry in page.entries],
            "count": len(page.entries),
            "nextCursor": page.next_cursor,
        }
        return {**answer, "notice": page.notice} if page.notice else answer

    async def _search(self, args: MemoryArguments) -> MemoryAnswer:
        query = args.value if args.query is None else args.query
        if not isinstance(query, str):
            raise InvalidArgumentError("search needs 'query' (or 'value'): the words to look for")
        page = await self._service.search(
            args.namespace,
            query,
            include_values=args.include_values,
            limit=args.limit,
            cursor=args.cursor,
            max_tokens=args.max_tokens,
        )
        answer: MemoryAnswer = {
            "namespace": args.namespace,
            "pattern": query,
            "results": [_hit(hit) for hit in page.hits],
            "count": len(page.hits),
            "nextCursor": page.next_cursor,
        }
        return {**answer, "notice": page.notice} if page.notice else answer

    async def _delete(self, args: MemoryArguments) -> MemoryAnswer:
        key = _key(args)
        deleted = await self._service.delete(args.namespace, key, if_version=args.if_version)
        return {"key": key, "namespace": args.namespace, "deleted": deleted}

    async def _touch(self, args: MemoryArguments) -> MemoryAnswer:
        entry = await self._service.touch(args.namespace, _key(args), ttl=args.ttl)
        return {**_identity(entry), **_state(entry)}

    async def _restore(self, args: MemoryArguments) -> MemoryAnswer:
        entry = await self._service.restore(args.namespace, _key(args), ttl=args.ttl)
        return {**_identity(entry), "value": entry.value, "size": entry.size, **_state(entry)}

    async def _namespaces(self, args: MemoryArguments) -> MemoryAnswer:
        page = await self._service.namespaces(limit=args.limit, cursor=args.cursor)
        return {
            "namespaces": [
                {
                    "namespace": stats.namespace,
                    "count": stats.count,
                    "bytes": stats.size,
                    "nextExpiry": _iso_or_none(stats.next_expiry),
                }
                for stats in page.namespaces
            ],
            "count": len(page.namespaces),
            "nextCursor": page.next_cursor,
        }


def _key(args: MemoryArguments) -> str:
    if args.key is None:
        raise InvalidArgumentError(f"{args.action} needs 'key'; the action list shows the keys of a namespace")
    return args.key


def _identity(entry: Entry) -> MemoryAnswer:
    return {"key": entry.key, "namespace": entry.namespace, "id": uri_of(entry.namespace, entry.key)}


def _state(entry: Entry) -> MemoryAnswer:
    return {"version": entry.version, "expiresAt": _iso_or_none(entry.expires_at)}


def _entry(entry: Entry) -> dict[str, Json]:
    """One entry of a list; what claude-flow shows and nobody counts here (reads are not written down) is null."""
    shown: dict[str, Json] = {
        "key": entry.key,
        "namespace": entry.namespace,
        "size": entry.size,
        **_state(entry),
        "createdAt": iso(entry.created_at),
        "updatedAt": iso(entry.updated_at),
        "metadata": None,
        "accessCount": None,
    }
    if entry.text:
        shown["value"] = entry.value
    return shown


def _hit(hit: Hit) -> dict[str, Json]:
    return {**_entry(hit.entry), "score": hit.score, "snippet": hit.snippet}


def _iso_or_none(moment: int | None) -> str | None:
    return None if moment is None else iso(moment)


def memory_tools(service: MemoryService, backend: str) -> list[DeckTool]:
    """`memory_usage` on `service`; `backend` is the kind of its store, as answers name it."""
    return [
        deck_tool(
            "memory_usage",
            "Store and find durable memories with TTLs, versions and full-text search. "
            "Restore undoes a delete, an overwrite or an expiry.",
            MemoryArguments,
            MemoryAnswer,
            MemoryTool(service, backend),
            title="Memory",
            destructive=True,
        )
    ]
