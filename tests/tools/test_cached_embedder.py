"""Vectors of texts are remembered, and shared with decks that use the same Redis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quarterdeck.storage.cache import TieredCache
from quarterdeck.storage.redis_cache import RedisCache
from quarterdeck.tools.vectors.embedders.cached import MOST_TEXTS, CachingEmbedder
from quarterdeck.tools.vectors.embedders.lexical import LexicalEmbedder
from tests.clock import ManualClock
from tests.servers.valkey import ValkeyServer


class Counting(LexicalEmbedder):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += texts
        return await super().embed(texts)


async def test_a_text_is_embedded_once() -> None:
    inner = Counting()
    embedder = CachingEmbedder(inner, TieredCache(ManualClock()))
    first = await embedder.embed(["one fox", "two dogs"])
    first[:] = 0  # it is the caller's
    again = await embedder.embed(["two dogs", "three cats", "one fox"])
    assert inner.texts == ["one fox", "two dogs", "three cats"]
    assert np.array_equal(again, await inner.embed(["two dogs", "three cats", "one fox"]))
    assert (embedder.name, embedder.dimension) == (inner.name, inner.dimension)


async def test_batches_of_points_do_not_push_the_searches_out() -> None:
    inner, cache = Counting(), TieredCache(ManualClock())
    texts = [f"text number {n}" for n in range(MOST_TEXTS + 1)]
    assert (await CachingEmbedder(inner, cache).embed(texts)).shape == (len(texts), inner.dimension)
    assert (await CachingEmbedder(inner, cache).embed([])).shape == (0, inner.dimension)
    assert cache.report()["cache_size"] == 0


async def test_decks_share_vectors_of_texts(valkey_server: ValkeyServer) -> None:
    valkey_server.clear()
    clock = ManualClock()
    shared = RedisCache(valkey_server.url, clock)
    inner = [Counting(), Counting()]
    vectors = [await CachingEmbedder(each, TieredCache(clock, shared)).embed(["a quick fox"]) for each in inner]
    assert np.array_equal(vectors[0], vectors[1])
    assert [each.texts for each in inner] == [["a quick fox"], []]
    await shared.close()
