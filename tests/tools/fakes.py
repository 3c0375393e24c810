"""Agents without processes, so that tests can hold every step by an event; everything else is real."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quarterdeck.storage.memory.sqlite import SqliteMemoryStore
from quarterdeck.storage.runs.base import Agent, ProcessId
from quarterdeck.storage.runs.sqlite import SqliteRunStore
from quarterdeck.tools.agents.budget import Ledger
from quarterdeck.tools.agents.live import SpawnRequest
from quarterdeck.tools.agents.orchestrator import Orchestrator
from quarterdeck.tools.agents.recovery import Recovery
from quarterdeck.tools.agents.runners.base import (
    AgentDiedError,
    AgentSpec,
    CallDeck,
    Outcome,
    PauseLevel,
    Usage,
    Work,
    WorkCancelledError,
)
from quarterdeck.tools.agents.tracker import Tracker
from quarterdeck.tools.agents.types import SpawnableType
from quarterdeck.tools.memory.service import MemoryService
from quarterdeck.tools.queries.controls import Controls
from quarterdeck.tools.queries.desk import ControlDesk
from quarterdeck.tools.queries.live import LiveQueries
from quarterdeck.tools.queries.manager import QueryManager
from quarterdeck.tools.queries.spending import Spending
from tests.clock import ManualClock
from tests.ready import ready

OWNER = ProcessId("host", "boot", 10, 1.5)
DEAD = ProcessId(socket.gethostname(), "an earlier boot", 77, 1.0)
WORKER = SpawnableType("worker", capabilities=["toil"], owns=frozenset({"work"}))


class FakeAgent:
    """Does its work when `finish` is called."""

    def __init__(self, spec: AgentSpec, call: CallDeck) -> None:
        self.spec = spec
        self.call = call
        self.process = ProcessId("host", "boot", 11, 2.5)
        self.paused = False
        self.obedient = True
        self.started = asyncio.Event()
        self.can_pause = True
        self.boundary: asyncio.Future[Outcome] | None = None
        self.models: list[str] = []
        self.modes: list[str] = []
        self.commands: list[str] = []
        self.command_ends = asyncio.Event()
        self.command_ends.set()
        self._work: asyncio.Future[Any] | None = None
        self._dead: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.work: Work | None = None

    async def run(self, work: Work) -> Any:
        if self._dead.done():
            raise AgentDiedError(self._dead.result())
        self.work, self._work = work, asyncio.get_running_loop().create_future()
        self.started.set()
        try:
            return await self._work
        finally:
            self.work = self._work = None
            self.started.clear()
            if self.boundary is not None and not self.boundary.done():
                self.reach_boundary()

    @property
    def at_work(self) -> bool:
        """Whether its work has not come to an end."""
        return self._work is not None and not self._work.done()

    def finish(self, result: Any = "done") -> None:
        assert self._work is not None
        self._work.set_result(result)

    def fail(self, error: Exception) -> None:
        assert self._work is not None
        self._work.set_exception(error)

    async def cancel(self, work_id: str) -> None:
        if self.obedient and self.at_work:
            self.fail(WorkCancelledError(work_id))

    levels: Sequence[PauseLevel] = ("freeze", "hold")

    async def pause(self, level: PauseLevel) -> Outcome:
        if not self.can_pause:
            return {"status": "failed", "reason": "would not stand still"}
        if level == "hold" and self._work is not None:
            self.boundary = asyncio.get_running_loop().create_future()
            outcome = await self.boundary
            self.paused = outcome.get("status") == "applied"
            return outcome
        self.paused = True
        return {"status": "applied", "effectiveAt": "now", "level": level, "lossless": True}

    def reach_boundary(self) -> None:
        """What a hold waits for."""
        assert self.boundary is not None
        self.boundary.set_result({"status": "applied", "effectiveAt": "now", "level": "hold", "lossless": True})

    async def set_model(self, model: str) -> Outcome:
        self.models.append(model)
        return {"status": "queued", "effectiveAt": "next_request"}

    async def set_permissions(self, mode: str) -> Outcome:
        self.modes.append(mode)
        return {"status": "applied", "effectiveAt": "now", "observed": {"permissionMode": mode}}

    async def execute_command(self, command: str) -> Outcome:
        self.commands.append(command)
        await self.command_ends.wait()
        return {"status": "applied", "effectiveAt": "now", "observed": {"stdout": command}}

    async def resume(self) -> Outcome:
        self.paused = False
        if self.boundary is not None and not self.boundary.done():
            self.boundary.set_result({"status": "failed", "reason": "resumed before"})
        return {"status": "applied", "effectiveAt": "now", "level": "freeze", "lossless": True}

    async def end(self, grace: float) -> None:
        self.die(f"ended within {grace}")

    def die(self, reason: str) -> None:
        if not self._dead.done():
            self._dead.set_result(reason)
        if self._work is not None and not self._work.done():
            self._work.set_exception(AgentDiedError(reason))

    async def wait(self) -> str:
        return await asyncio.shield(self._dead)

    def usage(self) -> Usage | None:
        return None if self._dead.done() else Usage(1.0, 1000)


class FakeRunner:
    """Starts FakeAgents; `gate` holds starts, `failures` makes the next ones fail."""

    def __init__(self) -> None:
        self.agents: dict[str, FakeAgent] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures = 0
        self.starting: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.order: list[str] = []
        self.entered = asyncio.Condition()

    async def start(self, spec: AgentSpec, call: CallDeck) -> FakeAgent:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.order.append(spec.name)
        self.starting.append(spec.name)
        async with self.entered:
            self.entered.notify_all()
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            if self.failures > 0:
                self.failures -= 1
                raise AgentDiedError("did not get ready")
            agent = self.agents[spec.name] = FakeAgent(spec, call)
            return agent
        finally:
            self.at_once -= 1
            self.starting.remove(spec.name)

    async def until_starting(self, count: int) -> None:
        """Wait until `count` starts are held at the gate."""
        async with self.entered:
            await self.entered.wait_for(lambda: len(self.starting) >= count)


class Bridge:
    """An orchestrator and what it stands on."""

    def __init__(
        self, folder: Path, deck_budget: Mapping[str, float] | None = None, kind: SpawnableType = WORKER, **options: Any
    ) -> None:
        self.clock = ManualClock()
        self.runner = FakeRunner()
        self.runs = SqliteRunStore(folder / "runs.db")
        self._memory_store = SqliteMemoryStore(folder / "memory.db")
        self.memory = MemoryService(ready(self._memory_store), self.clock, default_ttl=60, restore_window=0)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.tracker = Tracker(self.memory, self.clock)
        self.ledger = Ledger(deck_budget or {})
        self.orchestrator = Orchestrator(
            runs=self.runs,
            tracker=self.tracker,
            clock=self.clock,
            runners={"process": self.runner},
            types={"worker": kind},
            call_deck=self.call,
            ledger=self.ledger,
            owner=OWNER,
            folders=folder / "agents",
            **options,
        )
        self.recovery = Recovery(self.runs, self.tracker, self.orchestrator.telemetry, self.clock)
        spending = Spending(self.ledger)
        parts: dict[str, Any] = {
            "runs": self.runs,
            "orchestrator": self.orchestrator,
            "spending": spending,
            "clock": self.clock,
        }
        self.live = LiveQueries(tracker=self.tracker, **parts)
        self.controls = Controls(live=self.live, **parts)
        self.queries = QueryManager(live=self.live, **parts)
        self.desk = ControlDesk(
            live=self.live,
            controls=self.controls,
            manager=self.queries,
            orchestrator=self.orchestrator,
            runs=self.runs,
            owner=OWNER,
            clock=self.clock,
        )

    async def spawn(self, name: str = "w0", **options: Any) -> tuple[Agent, FakeAgent]:
        """One agent that is ready, and the fake behind it."""
        [result] = await self.orchestrator.spawn([SpawnRequest("worker", name, **options)])
        assert result.agent is not None
        return result.agent, self.runner.agents[name]

    async def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        self.calls.append((tool, arguments))
        return {"success": True}

    async def close(self) -> None:
        await self.orchestrator.close()
        await self.queries.close()
        await self.desk.close()
        await self.controls.close()
        await self.live.close()
        await self.runs.close()
        await self._memory_store.close()
