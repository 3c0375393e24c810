"""What the tracker costs a spawn: the same orchestrator in this process, with it and with one that writes nothing."""

from __future__ import annotations

import asyncio
import os
import statistics
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

from quarterdeck.storage.clock import SystemClock
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.memory.base import MemoryStore
from quarterdeck.storage.memory.sqlite import SqliteMemoryStore
from quarterdeck.storage.runs.base import Agent
from quarterdeck.storage.runs.sqlite import SqliteRunStore
from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.budget import Ledger
from quarterdeck.tools.agents.builtin.catalogue import TYPES
from quarterdeck.tools.agents.live import SpawnRequest
from quarterdeck.tools.agents.orchestrator import Orchestrator
from quarterdeck.tools.agents.runners.process import ProcessRunner
from quarterdeck.tools.agents.runners.supervisor import Supervisor
from quarterdeck.tools.agents.tracker import Tracker
from quarterdeck.tools.agents.types import SpawnableType
from quarterdeck.tools.memory.service import MemoryService

from .measure import Figure, median_ratio

ROUNDS = 150
AGENTS = 5
TARGET = 1.05


class Silent(Tracker):
    """Records nothing."""

    def spawned(self, agent: Agent, task: str | None) -> None:
        pass


def measure(folder: Path) -> list[Figure]:
    """One figure: a spawn of five with the tracker beside one without."""
    with_it, without = asyncio.run(_measure(folder))
    ours, theirs = (f"{statistics.median(seconds) * 1000:.1f} ms" for seconds in (with_it, without))
    ratio = median_ratio(with_it, without)
    return [Figure(f"spawn of {AGENTS} with the tracker", ours, theirs, "without it", ratio, TARGET)]


async def _measure(folder: Path) -> tuple[list[float], list[float]]:
    async with AsyncExitStack() as stack:
        supervisor = Supervisor(processes.identify(os.getpid()))
        stack.push_async_callback(supervisor.close)
        both: list[tuple[Orchestrator, list[float]]] = []
        for kind in (Tracker, Silent):
            orchestrator = await _orchestrator(stack, folder / kind.__name__, kind, supervisor)
            both.append((orchestrator, []))
        for number in range(ROUNDS + 1):
            for orchestrator, seconds in both if number % 2 else reversed(both):
                seconds.append(await _spawn(orchestrator))
    return both[0][1][1:], both[1][1][1:]  # the first started the supervisor


async def _orchestrator(
    stack: AsyncExitStack, folder: Path, kind: type[Tracker], supervisor: Supervisor
) -> Orchestrator:
    folder.mkdir()
    store = SqliteMemoryStore(folder / "memory.db")
    stack.push_async_callback(store.close)
    runs = SqliteRunStore(folder / "runs.db")
    stack.push_async_callback(runs.close)

    async def give() -> MemoryStore:
        return store

    async def no_calls(tool: str, arguments: dict[str, Any]) -> Any:
        raise RuntimeError(f"{tool} {arguments}: nothing is asked of these agents")

    clock = SystemClock()
    memory = MemoryService(OnFirstUse(give), clock, default_ttl=0, restore_window=0)
    orchestrator = Orchestrator(
        runs=runs,
        tracker=kind(memory, clock),
        clock=clock,
        runners={"process": ProcessRunner(supervisor)},
        types={name: SpawnableType.built_in(kind, None) for name, kind in TYPES.items()},
        call_deck=no_calls,
        ledger=Ledger({}),
        owner=processes.identify(os.getpid()),
        folders=folder / "agents",
    )
    stack.push_async_callback(orchestrator.close)
    return orchestrator


async def _spawn(orchestrator: Orchestrator) -> float:
    requests = [SpawnRequest("researcher", f"a{number}") for number in range(AGENTS)]
    began = perf_counter()
    results = await orchestrator.spawn(requests, batch_size=AGENTS)
    seconds = perf_counter() - began
    assert all(result.spawned for result in results)
    await orchestrator.stop([live.row.id for live in orchestrator.agents.all()], grace=1)
    return seconds
