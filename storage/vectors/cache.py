"""Search answers kept under the collection's change token, so that a cached one is what the store would answer now.

The token is read before every look; a store whose token may lag (Qdrant: a second) is cached as far as it can tell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from pydantic_core import from_json, to_json

from ..cache import Made, TieredCache
from ..errors import InvalidArgumentError
from .base import Hit, Precision, Vector, VectorStore


class CachingVectorStore:
    """A `VectorStore` around another one; all but `search` is that store's own."""

    def __init__(self, store: VectorStore, cache: TieredCache) -> None:
        self._store = store
        self._cache = cache
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
        async def found(asked: Sequence[Vector]) -> list[list[Hit]]:
            return await self._store.search(
                name, asked, limit=limit, threshold=threshold, where=where, precision=precision
            )

        token = await self._store.change_token(name)
        common = _common(token, limit, threshold, where, precision)
        if common is None:
            return await found(queries)

        made: dict[int, list[Hit]] = {}

        async def make(places: Sequence[int]) -> Made:
            try:
                hits = await found([queries[place] for place in places])
            except InvalidArgumentError:
                await found(queries)  # its text names the query by its place in the call
                raise
            made.update(zip(places, hits, strict=True))
            values = [_value(hits) for hits in made.values()]  # bytes: no caller can change what is kept
            return Made(values, keep=await self._store.change_token(name) == token)

        values = await self._cache.through(name, [_digest(common, query) for query in queries], make)
        return [made[place] if place in made else _hits(value) for place, value in enumerate(values)]


def _common(
    token: str | None, limit: int, threshold: float | None, where: Mapping[str, Any] | None, precision: Precision
) -> bytes | None:
    """What the digests of a call's queries share; None: its answers cannot be kept."""
    if token is None:
        return None
    try:
        return json.dumps([token, limit, threshold, where, precision], sort_keys=True).encode()
    except (TypeError, ValueError, RecursionError):  # no filter: the store says why
        return None


def _digest(common: bytes, query: Vector) -> bytes:
    digest = blake2b(common, digest_size=24)
    digest.update(np.asarray(query, np.float64).tobytes())  # not float32: what that cannot hold, the store refuses
    return digest.digest()


def _value(hits: Sequence[Hit]) -> bytes:
    return to_json([(hit.id, hit.score, hit.payload) for hit in hits])


def _hits(value: bytes) -> list[Hit]:
    return [Hit(*each) for each in from_json(value)]
