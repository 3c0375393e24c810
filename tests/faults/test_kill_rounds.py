"""A hundred rounds of SIGKILL in the middle of writing: what was acknowledged is there and whole, the files sound."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError

from quarterdeck.server.client import DeckClient

ROUNDS = 100
WORKERS = 4


def value_for(key: str) -> dict[str, Any]:
    return {"key": key, "text": f"{key} " * 60}


async def entries(deck: DeckClient, prefix: str = "") -> AsyncIterator[dict[str, Any]]:
    cursor: dict[str, Any] = {}
    while True:
        page = await deck.call("memory_usage", action="list", prefix=prefix, limit=500, **cursor)
        for entry in page["entries"]:
            yield entry
        if page["nextCursor"] is None:
            return
        cursor = {"cursor": page["nextCursor"]}


async def keys_with_whole_values(deck: DeckClient, prefix: str = "") -> set[str]:
    keys: set[str] = set()
    async for entry in entries(deck, prefix):
        assert entry["value"] == value_for(entry["key"])
        keys.add(entry["key"])
    return keys


@pytest.mark.slow
async def test_no_acknowledged_write_is_lost_over_many_kills(tmp_path: Path) -> None:
    random_moments = random.Random(7)
    memories: set[str] = set()
    points: set[str] = set()
    deck = DeckClient(tmp_path)

    async def remember(prefix: str) -> None:
        for number in range(10_000):
            key = f"{prefix}{number}"
            await deck.call("memory_usage", action="store", key=key, value=value_for(key))
            memories.add(key)

    async def upsert(round_number: int) -> None:
        for number in range(10_000):
            batch = [f"{round_number}-{number}-{n}" for n in range(5)]
            vectors = [{"id": point, "vector": [number + 1.0, n + 1.0]} for n, point in enumerate(batch)]
            await deck.call("vector_upsert", collection="c", points=vectors)
            points.update(batch)

    async with deck:
        await deck.call("vector_collections", action="create", collection="c", dimension=2)
        for round_number in range(ROUNDS):
            writers = [asyncio.create_task(remember(f"{round_number}-{worker}-")) for worker in range(WORKERS)]
            writers.append(asyncio.create_task(upsert(round_number)))
            await asyncio.sleep(random_moments.uniform(0.05, 0.4))  # any moment will do: that is the test
            await deck.kill()
            outcomes = await asyncio.gather(*writers, return_exceptions=True)
            assert all(isinstance(outcome, MCPError | RuntimeError) for outcome in outcomes), outcomes
            await deck.start()
            written = {key for key in memories if key.startswith(f"{round_number}-")}
            assert await keys_with_whole_values(deck, f"{round_number}-") >= written
            [described] = (await deck.call("vector_collections", action="describe", collection="c"))["collections"]
            assert described["count"] >= len(points)
            assert described["count"] % 5 == 0  # no batch is split
        assert await keys_with_whole_values(deck) >= memories
    assert len(memories) > 10 * ROUNDS
    for name in ("memory.db", "runs.db", "vectors.db"):
        with sqlite3.connect(tmp_path / name) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
