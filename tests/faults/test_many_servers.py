"""Eight servers on one data directory: nothing is lost, counted twice, or refused because a file is locked."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.server.client import DeckClient, ToolRefusedError

SERVERS = 8
WRITES = 500
COUNTED = 40  # increments by each server


async def write_read_list_and_delete(deck: DeckClient, server: int) -> None:
    """500 writes, each read back at once; every tenth deleted again, with lists in between."""

    async def lane(numbers: range) -> None:
        for number in numbers:
            key = f"{server}-{number:03}"
            await deck.call("memory_usage", action="store", namespace="all", key=key, value={"n": number})
            found = await deck.call("memory_usage", action="retrieve", namespace="all", key=key)
            assert found["value"] == {"n": number}
            if number % 10 == 0:
                assert (await deck.call("memory_usage", action="delete", namespace="all", key=key))["deleted"]
            if number % 50 == 0:
                listed = await deck.call("memory_usage", action="list", namespace="all", prefix=f"{server}-", limit=20)
                assert all(entry["key"].startswith(f"{server}-") for entry in listed["entries"])

    await asyncio.gather(*(lane(range(first, WRITES, 5)) for first in range(5)))


async def count(deck: DeckClient) -> int:
    """Increment one shared counter by compare-and-set; returns how often somebody else was faster."""
    conflicts = done = 0
    while done < COUNTED:
        found = await deck.call("memory_usage", action="retrieve", key="counter")
        try:
            await deck.call(
                "memory_usage", action="store", key="counter", value=found["value"] + 1, ifVersion=found["version"]
            )
            done += 1
        except ToolRefusedError as exc:
            if exc.answer["code"] != "conflict":
                raise
            conflicts += 1
    return conflicts


async def all_keys(deck: DeckClient) -> set[str]:
    keys: set[str] = set()
    page: dict[str, Any] = {"nextCursor": None}
    while True:
        cursor = {"cursor": page["nextCursor"]} if page["nextCursor"] else {}
        page = await deck.call("memory_usage", action="list", namespace="all", limit=500, includeValues=False, **cursor)
        keys |= {entry["key"] for entry in page["entries"]}
        if not page.get("nextCursor"):
            return keys


@pytest.mark.slow
async def test_eight_servers_lose_nothing_and_count_exactly(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        decks = [DeckClient(tmp_path) for _ in range(SERVERS)]
        for deck in decks:
            await stack.enter_async_context(deck)
        await asyncio.gather(*(write_read_list_and_delete(deck, number) for number, deck in enumerate(decks)))
        expected = {f"{s}-{n:03}" for s in range(SERVERS) for n in range(WRITES) if n % 10}
        for deck in (decks[0], decks[-1]):
            assert await all_keys(deck) == expected

        first = await decks[0].call("memory_usage", action="store", key="counter", value=0)
        conflicts = await asyncio.gather(*(count(deck) for deck in decks))
        assert sum(conflicts) > 0  # they did meet
        final = await decks[3].call("memory_usage", action="retrieve", key="counter")
        assert (final["value"], final["version"] - first["version"]) == (SERVERS * COUNTED, SERVERS * COUNTED)
        for deck in decks:
            assert "locked" not in deck.stderr
