"""Many rounds of SIGKILL in the middle of writing: what was acknowledged is there, and the files are sound."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from pathlib import Path

import pytest
from mcp import MCPError

from quarterdeck.server.client import DeckClient

ROUNDS = 12


@pytest.mark.slow
async def test_no_acknowledged_write_is_lost_over_many_kills(tmp_path: Path) -> None:
    random_moments = random.Random(7)
    memories: dict[str, int] = {}
    points: set[str] = set()
    deck = DeckClient(tmp_path)

    async def remember(worker: int, round_number: int) -> None:
        for number in range(10_000):
            key = f"{round_number}-{worker}-{number}"
            await deck.call("memory_usage", action="store", key=key, value=number)
            memories[key] = number

    async def upsert(round_number: int) -> None:
        for number in range(10_000):
            batch = [f"{round_number}-{number}-{n}" for n in range(5)]
            await deck.call(
                "vector_upsert",
                collection="c",
                points=[{"id": point, "vector": [number + 1.0, n + 1.0]} for n, point in enumerate(batch)],
            )
            points.update(batch)

    async with deck:
        await deck.call("vector_collections", action="create", collection="c", dimension=2)
        for round_number in range(ROUNDS):
            writers = [asyncio.create_task(remember(worker, round_number)) for worker in range(4)]
            writers.append(asyncio.create_task(upsert(round_number)))
            await asyncio.sleep(random_moments.uniform(0.05, 0.4))  # any moment will do: that is the test
            await deck.kill()
            outcomes = await asyncio.gather(*writers, return_exceptions=True)
            assert all(isinstance(outcome, MCPError | RuntimeError) for outcome in outcomes), outcomes
            await deck.start()
            lost = [key for key, value in memories.items() if not await holds(deck, key, value)]
            assert lost == []
            count = (await deck.call("vector_collections", action="describe", collection="c"))["collections"][0][
                "count"
            ]
            assert count >= len(points)
            assert count % 5 == 0  # no batch is split
    assert len(memories) > ROUNDS
    for name in ("memory.db", "runs.db", "vectors.db"):
        with sqlite3.connect(tmp_path / name) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()


async def holds(deck: DeckClient, key: str, value: int) -> bool:
    answer = await deck.call("memory_usage", action="retrieve", key=key)
    return answer["found"] and answer["value"] == value
