"""A repeated query over the Qdrant store beside its first run: real texts, the lexical embedder, the wire shim.

The first run's time is the shim's, which is not Qdrant's; a server on another machine is further away still.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from quarterdeck.storage.cache import TieredCache
from quarterdeck.storage.clock import SystemClock
from quarterdeck.storage.redis_cache import RedisCache
from quarterdeck.storage.vectors.base import Point
from quarterdeck.storage.vectors.cache import CachingVectorStore
from quarterdeck.storage.vectors.qdrant import QdrantVectorStore
from quarterdeck.tools.vectors.embedders.lexical import LexicalEmbedder
from tests.docstrings import docstrings
from tests.servers.qdrant import API_KEY, QdrantShim
from tests.servers.valkey import ValkeyServer

from .measure import Figure, latency

QUERIES = 200
TARGET = 0.1


def measure(folder: Path) -> list[Figure]:
    del folder  # the servers have their own
    shim, valkey = QdrantShim(), ValkeyServer()
    try:
        return asyncio.run(_measure(shim, valkey))
    finally:
        shim.close()
        valkey.close()


async def _measure(shim: QdrantShim, valkey: ValkeyServer) -> list[Figure]:
    clock = SystemClock()
    store = await QdrantVectorStore.open(shim.url, API_KEY, clock)
    shared = RedisCache(valkey.url, clock)
    decks = [CachingVectorStore(store, TieredCache(clock, shared)) for _ in range(2)]
    texts = docstrings()
    matrix = await LexicalEmbedder().embed(list(texts.values()))
    points = [Point(key, row, {"text": texts[key]}) for key, row in zip(texts, matrix, strict=True)]
    await store.upsert("docs", points)

    first: list[float] = []
    again: list[float] = []
    elsewhere: list[float] = []
    for query in await LexicalEmbedder().embed([text[:60] for text in list(texts.values())[:QUERIES]]):
        for deck, seconds in ((decks[0], first), (decks[0], again), (decks[1], elsewhere)):
            began = time.perf_counter()
            await deck.search("docs", [query], limit=10)
            seconds.append(time.perf_counter() - began)
    await shared.close()
    await store.close()
    return [
        latency("repeated query, this process", again, first, "its first run", TARGET),
        latency("repeated query, another deck (Valkey)", elsewhere, first, "its first run", None),
    ]
