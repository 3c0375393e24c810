"""Completion of namespaces over more of them than are read at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

from quarterdeck.storage.memory.sqlite import SqliteMemoryStore
from quarterdeck.tools.memory.resource import LOOK, Completions, MemoryResource
from quarterdeck.tools.memory.service import MemoryService
from tests.clock import ManualClock
from tests.ready import ready


async def test_namespaces_are_completed_from_as_many_as_there_are(tmp_path: Path) -> None:
    clock = ManualClock()
    store = SqliteMemoryStore(tmp_path / "memory.db")
    names = [f"a{number:04}" for number in range(2 * LOOK + 10)] + ["b", "ba", "\U0010ffff"]
    await asyncio.gather(
        *(store.put(name, "k", "1", size=1, now=clock.now(), ttl=0, grace=0) for name in [*names, "a", "c"])
    )
    await store.delete("c", "k", now=clock.now())
    memory = MemoryResource(MemoryService(ready(store), clock, default_ttl=0, restore_window=0))
    assert await memory.namespaces("b") == Completions(["b", "ba"], has_more=False)
    assert await memory.namespaces("c") == Completions([], has_more=False)
    assert await memory.namespaces("\U0010ffff") == Completions(["\U0010ffff"], has_more=False)
    assert await memory.namespaces("a") == Completions(["a", *names[:99]], has_more=True)
    assert await memory.namespaces("a00") == Completions(names[:100], has_more=False)
    assert await memory.namespaces("a0") == Completions(names[:100], has_more=True)
    assert await memory.namespaces("a1009") == Completions(["a1009"], has_more=False)
    await store.close()
