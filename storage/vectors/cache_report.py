"""What `server_status` shows of the vector cache. It imports no numpy: a status must not load what nobody has used."""

from __future__ import annotations

from typing import Any

from ..cache import TieredCache
from ..errors import DeckError
from .base import CollectionState, VectorStore

REPORTED = 20  # collections, the busiest
FLAGS = ("hash_embedding_enabled", "hnsw_index_enabled", "quantization_enabled")


async def cache_report(cache: TieredCache, store: VectorStore | None) -> dict[str, Any]:
    """Sizes, hit rates and latencies, and what serves the searches now: whole and for the busiest collections.

    `store` None: it was not used yet. What is unknown is null.
    """
    collections: dict[str, dict[str, Any]] = {}
    for name in cache.busiest(REPORTED):
        state = None if store is None else await _state(store, name)
        collections[name] = {**_flags(state), **cache.report(name)}
    flags = {flag: _any([shown[flag] for shown in collections.values()]) for flag in FLAGS}
    return {**flags, **cache.report(), "collections": collections}


async def _state(store: VectorStore, name: str) -> CollectionState | None:
    try:
        return await store.inspect(name)
    except DeckError:  # dropped, or the store cannot be used now
        return None


def _flags(state: CollectionState | None) -> dict[str, bool | None]:
    """As they are, not as wished."""
    if state is None:
        return dict.fromkeys(FLAGS)
    has_codes = state.quantization != "none" or state.index in ("hash", "pq")
    return dict(zip(FLAGS, (state.index == "hash", state.index == "hnsw", has_codes), strict=True))


def _any(values: list[bool | None]) -> bool | None:
    known = [value for value in values if value is not None]
    return any(known) if known else None
