"""Memory on every backend as clients meet it: through real servers, and shared by several."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from quarterdeck.server.client import ToolRefusedError
from quarterdeck.server.stores import open_memory_store
from quarterdeck.storage.clock import SystemClock
from quarterdeck.storage.errors import ConflictError
from quarterdeck.tools.memory.service import MemoryService
from tests.here import DeckHere
from tests.ready import ready

NAMES = {"sqlite": "sqlite", "postgresql": "postgres", "unix": "redis"}


async def test_every_action_and_what_is_there_after_a_restart(memory_url: str, tmp_path: Path) -> None:
    backend = NAMES[memory_url.partition(":")[0]]
    async with DeckHere(tmp_path / "deck", environment={"QUARTERDECK_MEMORY_URL": memory_url}) as deck:
        assert (await deck.call("server_status"))["backends"]["memory"] == backend
        for number in range(3):
            await deck.call("memory_usage", action="store", key=f"plan:{number}", value={"text": "ship it"}, ttl=3600)
        stored = await deck.call("memory_usage", action="store", key="plan:1", value="wait", ifVersion=1)
        assert (stored["version"], stored["storage_type"]) == (2, backend)
        with pytest.raises(ToolRefusedError, match="is at version 2"):
            await deck.call("memory_usage", action="store", key="plan:1", value="no", ifVersion=1)
        read = await deck.call("memory_usage", action="retrieve", key="plan:1")
        assert (read["found"], read["value"]) == (True, "wait")
        first = await deck.call("memory_usage", action="list", prefix="plan:", limit=2)
        rest = await deck.call("memory_usage", action="list", prefix="plan:", limit=2, cursor=first["nextCursor"])
        assert [entry["key"] for entry in first["entries"] + rest["entries"]] == ["plan:0", "plan:1", "plan:2"]
        found = await deck.call("memory_usage", action="search", query="ship")
        assert {hit["key"]: hit["snippet"] for hit in found["results"]} == dict.fromkeys(
            ("plan:0", "plan:2"), "text\nship it"
        )
        assert (await deck.call("memory_usage", action="touch", key="plan:0", ttl=0))["expiresAt"] is None
        assert (await deck.call("memory_usage", action="delete", key="plan:1"))["deleted"]
        assert (await deck.call("memory_usage", action="restore", key="plan:1"))["value"] == "wait"
        [namespace] = (await deck.call("memory_usage", action="namespaces"))["namespaces"]
        assert (namespace["namespace"], namespace["count"]) == ("default", 3)
        await deck.stop()
        await deck.start()
        assert (await deck.call("memory_usage", action="retrieve", key="plan:1"))["version"] == 3


async def test_two_services_count_exactly(memory_url: str, tmp_path: Path) -> None:
    stores = [await open_memory_store(memory_url, tmp_path) for _ in range(2)]
    services = [MemoryService(ready(store), SystemClock(), default_ttl=0, restore_window=60) for store in stores]

    async def increment(service: MemoryService, times: int) -> None:
        while times:
            entry = await service.retrieve("n", "counter")
            value, version = (entry.value, entry.version) if entry else (0, 0)
            try:
                await service.store("n", "counter", value + 1, if_version=version)
            except ConflictError:
                continue
            times -= 1

    await asyncio.gather(*(increment(service, 25) for service in services for _ in range(4)))
    entry = await services[0].retrieve("n", "counter")
    assert entry is not None
    assert (entry.value, entry.version) == (200, 200)
    for store in stores:
        await store.close()
