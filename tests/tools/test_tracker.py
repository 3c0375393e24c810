"""Records of agents while memory fails, hangs, and comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.storage.errors import StorageError
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.memory.base import Entry, MemoryStore
from quarterdeck.storage.memory.sqlite import SqliteMemoryStore
from quarterdeck.tools.agents import tracker as module
from quarterdeck.tools.agents.tracker import ACTIVITIES, ACTIVITIES_TTL, Tracker
from quarterdeck.tools.memory.service import MemoryService
from tests.clock import ManualClock
from tests.tools.fakes import Bridge
from tests.until import until


class Memory:
    """A real store that can be away, or take no writes until it is let go."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock()
        self.store = SqliteMemoryStore(path)
        self.is_away = False
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.service = MemoryService(OnFirstUse(self._open), self.clock, default_ttl=60, restore_window=0)
        self.tracker = Tracker(self.service, self.clock)
        put = self.store.put

        async def held_put(*arguments: Any, **options: Any) -> Entry:
            await self.goes_on.wait()
            if self.is_away:
                raise StorageError("memory is away")
            return await put(*arguments, **options)

        self.store.put = held_put  # type: ignore[method-assign]

    async def _open(self) -> MemoryStore:
        return self.store

    async def write(self, key: str, ttl: int = ACTIVITIES_TTL) -> None:
        self.tracker._write(ACTIVITIES, key, {"key": key}, ttl)  # pyright: ignore[reportPrivateUsage]
        await self.tracker.written()

    async def until_written(self) -> None:
        await until(lambda: not self.tracker._backlog)  # pyright: ignore[reportPrivateUsage]

    async def keys(self) -> list[str]:
        return [entry.key for entry in (await self.service.list(ACTIVITIES)).entries]


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    memory = Memory(tmp_path / "memory.db")
    yield memory
    await memory.tracker.close()
    await memory.store.close()


async def test_records_are_written_when_memory_is_back_and_live_no_longer_for_it(
    memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    memory.is_away = True
    for key in ("a", "b", "short"):
        await memory.write(key, ttl=10 if key == "short" else 100)
    await memory.tracker.tick()
    memory.clock.advance(10)
    memory.is_away = False
    await memory.tracker.tick()
    await memory.until_written()
    assert await memory.keys() == ["a", "b"]
    assert caplog.text.count("wait until memory is back") == 1
    await memory.write("c")
    assert await memory.keys() == ["a", "b", "c"]
    memory.clock.advance(90)
    assert await memory.keys() == ["c"]


async def test_an_agent_does_not_wait_long_for_memory(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    memory.goes_on.clear()
    await memory.write("a")
    await memory.write("b")
    memory.goes_on.set()
    await memory.write("c")
    await memory.until_written()
    assert await memory.keys() == ["a", "b", "c"]


async def test_beyond_the_backlog_the_oldest_are_lost_and_told(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "BACKLOG", 2)
    memory.is_away = True
    for key in ("a", "b", "c"):
        await memory.write(key)
    assert "agent-activities/a is lost" in caplog.text
    await memory.tracker.close()
    assert "2 records of agents were not written" in caplog.text
    memory.is_away = False
    await memory.tracker.close()
    assert await memory.keys() == ["b", "c"]


async def test_agents_work_on_without_memory_and_their_records_follow(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path)
    store = bridge.memory._open_store  # pyright: ignore[reportPrivateUsage]
    away = True

    async def begin() -> Any:
        if away:
            raise StorageError("memory is away")
        return await store(), bridge.clock.now()

    bridge.memory.begin = begin  # type: ignore[method-assign]
    agent, fake = await bridge.spawn()
    query = await bridge.queries.start(agent.id, "toil")
    await fake.started.wait()
    fake.finish("result")
    await until(lambda: query.status == "completed")
    away = False
    await bridge.tracker.tick()
    await bridge.tracker.close()
    keys = [entry.key for entry in (await bridge.memory.list(ACTIVITIES)).entries]
    assert keys == [f"agent-{agent.id}-complete", f"agent-{agent.id}-spawn"]
    await bridge.close()


async def test_the_latest_of_one_key_wins_though_writes_overtake_each_other(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, overtaken = memory.service.store, asyncio.Event()

    async def slow_at_first(namespace: str, key: str, value: Any, **options: Any) -> Any:
        if value == {"text": "older"}:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(overtaken.wait(), 0.2)  # another write may come first
        stored = await store(namespace, key, value, **options)
        overtaken.set()
        return stored

    monkeypatch.setattr(memory.service, "store", slow_at_first)
    for text in ("older", "latest"):
        memory.tracker._write(ACTIVITIES, "a", {"text": text}, ACTIVITIES_TTL)  # pyright: ignore[reportPrivateUsage]
    await memory.until_written()
    entry = await memory.service.retrieve(ACTIVITIES, "a")
    assert entry is not None
    assert entry.value == {"text": "latest"}
