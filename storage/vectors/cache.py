"""Search answers kept under the collection's change token, so that a cached one is what the store would answer now.

The token is read before every look; a store whose token may lag (Qdrant: a second) is cached as far as it can tell.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from pydantic_core import from_json, to_json

from ..cache import TTL, Key, Size, TieredCache
from ..clock import Clock
from ..errors import DeckError
from .base import CollectionState, Hit, Precision, Vector, VectorStore
from .meter import Answered, SearchMeter, Tier

REPORTED = 20  # collections, the busiest


class CachingVectorStore:
    """A `VectorStore` around another one; all but `search` is that store's own."""

    def __init__(self, store: VectorStore, cache: TieredCache, clock: Clock) -> None:
        self._store = store
        self._cache = cache
        self._clock = clock
        self._meter = SearchMeter()
        self.create = store.create
        self.describe = store.describe
        self.inspect = store.inspect
        self.change_token = store.change_token
        self.collections = store.collections
        self.drop = store.drop
        self.replace = store.replace
        self.upsert = store.upsert
        self.get = store.get
        self.page = store.page
        self.delete = store.delete
        self.delete_where = store.delete_where
        self.search_text = store.search_text
        self.count = store.count
        self.optimize = store.optimize
        self.snapshot = store.snapshot
        self.verify = store.verify
        self.close = store.close

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
        began = self._clock.monotonic()
        token = await self._store.change_token(name)
        common = _common(token, limit, threshold, where, precision)
        keys = _keys(name, common, queries)
        if keys is None:
            return await self._store.search(
                name, queries, limit=limit, threshold=threshold, where=where, precision=precision
            )

        answers = {n: found for n, key in enumerate(keys) if (found := self._cache.get(key)) is not None}
        self._meter.record(name, "l1", len(answers), self._clock.monotonic() - began)

        missing = [n for n in range(len(keys)) if n not in answers]
        if missing and self._cache.has_second_tier:
            shared = await self._cache.get_shared([keys[n] for n in missing])
            found = {n: answer for n, answer in zip(missing, shared, strict=True) if answer is not None}
            self._meter.record(name, "l2", len(found), self._clock.monotonic() - began)
            answers |= found
            missing = [n for n in missing if n not in found]

        hits = {n: _hits(answer) for n, answer in answers.items()}
        if missing:
            asked = [queries[n] for n in missing]
            fresh = await self._store.search(
                name, asked, limit=limit, threshold=threshold, where=where, precision=precision
            )
            self._meter.record(name, "store", len(missing), self._clock.monotonic() - began)
            hits |= dict(zip(missing, fresh, strict=True))
            if await self._store.change_token(name) == token:
                await self._cache.put({keys[n]: _value(found) for n, found in zip(missing, fresh, strict=True)})
        return [hits[n] for n in range(len(keys))]

    async def report(self) -> dict[str, Any]:
        """Hit rates, sizes and latencies since the start, and what serves the searches now; null is unknown."""
        sizes = self._cache.sizes()
        collections: dict[str, dict[str, Any]] = {}
        for name in self._meter.busiest(REPORTED):
            flags = _flags(await self._state(name))
            collections[name] = {**flags, **_figures(self._meter.of(name), [sizes.get(name, Size())])}
        flags = {name: _any(each[name] for each in collections.values()) for name in _flags(None)}
        whole = _figures(self._meter.whole(), sizes.values())
        return {**flags, **whole, "cache_ttl": TTL, "collections": collections}

    async def _state(self, name: str) -> CollectionState | None:
        try:
            return await self._store.inspect(name)
        except DeckError:  # dropped, or the store cannot be used now
            return None


def _common(
    token: str | None, limit: int, threshold: float | None, where: Mapping[str, Any] | None, precision: Precision
) -> bytes | None:
    """What the keys of all queries of a call share; None: the answers cannot be kept."""
    if token is None:
        return None
    try:
        return json.dumps([token, limit, threshold, where, precision], sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):  # no filter: the store says why
        return None


def _keys(name: str, common: bytes | None, queries: Sequence[Vector]) -> list[Key] | None:
    if common is None:
        return None
    keys: list[Key] = []
    for query in queries:
        digest = blake2b(common, digest_size=24)
        digest.update(np.asarray(query, np.float64).tobytes())  # not float32: what it cannot hold is refused by name
        keys.append(Key(name, digest.digest()))
    return keys


def _value(hits: Sequence[Hit]) -> bytes:
    return to_json([(hit.id, hit.score, hit.payload) for hit in hits])


def _hits(value: bytes) -> list[Hit]:
    return [Hit(*each) for each in from_json(value)]


def _flags(state: CollectionState | None) -> dict[str, bool | None]:
    """As they are, not as wished."""
    return {
        "hash_embedding_enabled": state and state.index == "hash",
        "hnsw_index_enabled": state and state.index == "hnsw",
        "quantization_enabled": state and (state.quantization != "none" or state.index in ("hash", "pq")),
    }


def _any(values: Iterable[bool | None]) -> bool | None:
    known = [value for value in values if value is not None]
    return any(known) if known else None


def _figures(tiers: Mapping[Tier, Answered], sizes: Iterable[Size]) -> dict[str, Any]:
    listed = list(sizes)
    asked = sum(answered.queries for answered in tiers.values())
    hits = asked - tiers["store"].queries
    return {
        "cache_size": sum(size.entries for size in listed),
        "cache_bytes": sum(size.bytes for size in listed),
        "cache_hit_rate": round(hits / asked, 4) if asked else None,
        "tiers": {tier: answered.shown(asked) for tier, answered in tiers.items()},
    }
