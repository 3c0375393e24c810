"""The orchestrator: starts agents in parallel, knows the live ones, ends them, and clears up after a dead server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import ConflictError, DeckError, LimitError, NotFoundError
from quarterdeck.storage.runs.base import (
    LIVE_AGENT,
    Agent,
    AgentStatus,
    Event,
    ProcessId,
    RunStore,
)

from ..tasks import Tasks
from . import processes
from .budget import Ledger
from .builtin.base import AgentType
from .rights import Rights
from .runners.base import AgentDiedError, AgentHandle, AgentSpec, CallDeck, Runner, Usage
from .tracker import Tracker

log = logging.getLogger(__name__)

PRIORITIES = ("critical", "high", "medium", "low")
MAX_RESTARTS = 3
RESTART_PERIOD = 60.0  # seconds in which an agent is restarted so often and no more
METRICS_EVERY = 15.0  # seconds between two measurements of a working agent


@dataclass(frozen=True, slots=True)
class SpawnRequest:
    """One agent that a client asks for."""

    type: str
    name: str
    priority: str = "medium"
    permission_mode: str = "default"
    capabilities: Sequence[str] = ()  # labels; a built-in type keeps to what it knows
    budget: Mapping[str, float] = field(default_factory=dict[str, float])
    task: str | None = None  # what it is asked for at once; whoever spawns gives it the query


@dataclass(frozen=True, slots=True)
class SpawnResult:
    """What became of a request: an agent that is ready, or why there is none."""

    request: SpawnRequest
    agent: Agent | None
    error: str | None
    spawn_ms: float | None

    @property
    def spawned(self) -> bool:
        return self.error is None


@dataclass(slots=True, eq=False)
class LiveAgent:
    """An agent of this server. `turn` makes its queries wait for each other."""

    row: Agent
    spec: AgentSpec
    handle: AgentHandle
    rights: Rights
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # cleared while its worker is restarted
    restarts: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_RESTARTS))
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0  # queries that run or wait for their turn
    query_id: str | None = None
    idle_since: float = 0.0
    measured: tuple[float, Usage] | None = None


OnSettled = Callable[[int, int, SpawnResult], Awaitable[None]]


async def _nothing(_done: int, _total: int, _result: SpawnResult) -> None:
    return None


class Orchestrator:
    """Owns every agent that this server process started."""

    def __init__(
        self,
        *,
        runs: RunStore,
        tracker: Tracker,
        clock: Clock,
        runner: Runner,
        types: Mapping[str, AgentType],
        restarted: Collection[str] = (),
        call_deck: CallDeck,
        ledger: Ledger,
        owner: ProcessId,
        folders: Path,
        parallel: bool = True,
        max_alive: int = 100,
        idle_timeout: float = 900.0,
    ) -> None:
        """`restarted` are the types whose worker is started anew when it dies; each type gets a folder of its own
        below `folders`."""
        self._runs = runs
        self._tracker = tracker
        self._clock = clock
        self._runner = runner
        self._types = types
        self._restarted = restarted
        self._call_deck = call_deck
        self._ledger = ledger
        self._owner = owner
        self._folders = folders
        self._parallel = parallel
        self._max_alive = max_alive
        self._idle_timeout = idle_timeout
        self._live: dict[str, LiveAgent] = {}
        self._starting = 0
        self._unsaved: dict[str, Agent] = {}  # rows that the store did not take; tick tries again
        self._tasks = Tasks()

    @property
    def live(self) -> Sequence[LiveAgent]:
        return list(self._live.values())

    # --- start

    async def spawn(
        self,
        requests: Sequence[SpawnRequest],
        *,
        max_concurrency: int = 5,
        batch_size: int = 3,
        on_settled: OnSettled = _nothing,
    ) -> list[SpawnResult]:
        """Start all, settled one by one, results in the order of the requests.

        The most urgent go first, in batches of `batch_size`, one batch after the other, at most `max_concurrency`
        at a time. When every start failed, each that could have worked is tried once more, one after another.
        Whoever is cancelled meanwhile leaves no agent behind: nobody was told their ids.
        """
        results: list[SpawnResult | None] = [None] * len(requests)
        ready: list[str] = []
        settled, total = 0, len(requests)

        async def settle(index: int) -> None:
            nonlocal settled
            result = results[index] = await self._spawn_one(requests[index], ready)
            settled += 1
            await on_settled(settled, total, result)

        queue = sorted(range(len(requests)), key=lambda index: PRIORITIES.index(requests[index].priority))
        limiter = anyio.CapacityLimiter(max_concurrency if self._parallel else 1)

        async def limited(index: int) -> None:
            async with limiter:
                await settle(index)

        try:
            for start in range(0, len(queue), batch_size):
                async with anyio.create_task_group() as batch:
                    for index in queue[start : start + batch_size]:
                        batch.start_soon(limited, index)

            retry = [index for index in queue if (result := results[index]) and result.agent and not result.spawned]
            if self._parallel and len(requests) > 1 and len(retry) == len(requests):
                log.warning("all %d parallel starts failed; trying them one after another", len(requests))
                total += len(retry)
                for index in retry:
                    await settle(index)
            await self._tracker.written()
        except BaseException:
            self._tasks.start(self.stop(ready, grace=0))
            raise
        return [result for result in results if result is not None]

    async def _spawn_one(self, request: SpawnRequest, ready: list[str]) -> SpawnResult:
        agent_type = self._types.get(request.type)
        if agent_type is None:
            return SpawnResult(request, None, f"unknown type {request.type!r} (valid: {', '.join(self._types)})", None)
        if len(self._live) + self._starting >= self._max_alive:
            error = (
                f"{len(self._live) + self._starting} agents are alive, the limit is {self._max_alive}: "
                "end some with agents_stop or raise QUARTERDECK_AGENTS_MAX_ALIVE"
            )
            return SpawnResult(request, None, error, None)
        try:
            self._ledger.refuse_if_used_up()
        except LimitError as exc:
            return SpawnResult(request, None, exc.message, None)
        self._starting += 1
        try:
            return await self._start(request, agent_type, ready)
        finally:
            self._starting -= 1

    async def _start(self, request: SpawnRequest, agent_type: AgentType, ready: list[str]) -> SpawnResult:
        """Start one agent and add its id to `ready`."""
        agent = Agent(
            id=f"{request.type}-{secrets.token_hex(4)}",
            type=request.type,
            name=request.name,
            runner="process",
            owner=self._owner,
            created_at=self._clock.now(),
            capabilities=list(agent_type.capabilities or request.capabilities),
            priority=request.priority,
            permission_mode=request.permission_mode,
            budget=dict(request.budget),
            status="starting",
        )
        try:
            await self._runs.put_agent(agent)  # the row is there before the process
            folder = self._folders / agent.type
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            spec = AgentSpec(agent.id, agent.type, agent.name, str(folder), agent.capabilities, agent.permission_mode)
            rights = Rights(agent.permission_mode, agent_type.owns)
            began = self._clock.monotonic()
            handle = await self._runner.start(spec, self._restricted(rights))
        except (AgentDiedError, OSError, DeckError) as exc:
            await self._not_started(agent, str(exc))
            return SpawnResult(request, agent, agent.error, None)
        except BaseException:
            self._tasks.start(self._not_started(agent, "its spawn was given up"))
            raise
        agent.spawn_ms = round((self._clock.monotonic() - began) * 1000, 1)
        agent.process = handle.process
        agent.ready_at = self._clock.now()
        agent.status = "idle"
        live = LiveAgent(agent, spec, handle, rights, idle_since=self._clock.monotonic())
        live.ready.set()
        self._live[agent.id] = live
        ready.append(agent.id)
        self._tasks.start(self._watch(live))
        await self._record(agent, "spawned", spawnTime=agent.spawn_ms)
        self._tracker.spawned(agent, request.task)
        return SpawnResult(request, agent, None, agent.spawn_ms)

    async def _not_started(self, agent: Agent, reason: str) -> None:
        agent.status, agent.error, agent.ended_at = "failed", reason, self._clock.now()
        await self._record(agent, "failed", error=reason)

    def _restricted(self, rights: Rights) -> CallDeck:
        async def call(tool: str, arguments: dict[str, Any]) -> Any:
            rights.check(tool, arguments)
            return await self._call_deck(tool, arguments)

        return call

    # --- look

    async def get(self, agent_id: str) -> LiveAgent:
        """The live agent of that id.

        Raises:
            NotFoundError: there never was one.
            ConflictError: it has ended or is ending, or another server owns it.
        """
        live = self._live.get(agent_id)
        if live is not None and live.row.status != "stopping":
            return live
        row = live.row if live is not None else await self.row(agent_id)
        if live is None and row.status in LIVE_AGENT:
            pid = row.owner.pid
            if processes.has_ended(row.owner):
                raise ConflictError(
                    f"agent {agent_id} lost its server (pid {pid}); start a new one with agents_spawn_parallel"
                )
            raise ConflictError(f"agent {agent_id} belongs to the server with pid {pid}; use it through that server")
        raise ConflictError(f"agent {agent_id} is {row.status}; start a new one with agents_spawn_parallel")

    async def row(self, agent_id: str) -> Agent:
        """The agent's row, live or ended. Raises NotFoundError."""
        row = await self._runs.get_agent(agent_id) or self._unsaved.get(agent_id)
        if row is None:
            raise NotFoundError(f"no agent {agent_id!r}; agents_list shows the live ones")
        return self.latest(row)

    def latest(self, row: Agent) -> Agent:
        """What is known of the agent here; `row`, from the store, may lag behind it."""
        live = self._live.get(row.id)
        return live.row if live is not None else self._unsaved.get(row.id, row)

    # --- work

    async def set_busy(self, live: LiveAgent, query_id: str) -> None:
        """Note that the agent works on a query now."""
        live.query_id = query_id
        live.measured = None
        if live.row.status == "idle":
            live.row.status = "busy"
            await self._record(live.row, "query_started", query_id=query_id)

    async def set_idle(self, live: LiveAgent, query_id: str, outcome: str) -> None:
        """Note that it has finished one."""
        live.query_id = None
        live.idle_since = self._clock.monotonic()
        if live.row.status == "busy":
            live.row.status = "idle"
        await self._record(live.row, f"query_{outcome}", query_id=query_id)

    async def tick(self) -> None:
        """End agents that have been idle for too long; measure those that work. Called about once a second."""
        for agent in list(self._unsaved.values()):
            with contextlib.suppress(DeckError):
                await self._save(agent)
        now = self._clock.monotonic()
        for live in self.live:
            if live.row.status == "idle" and not live.waiting and now - live.idle_since >= self._idle_timeout:
                await self.stop([live.row.id], grace=2.0)
            elif live.row.status == "busy":
                await self._measure(live, now)

    async def _measure(self, live: LiveAgent, now: float) -> None:
        if live.measured is not None and now - live.measured[0] < METRICS_EVERY:
            return
        usage = live.handle.usage()
        if usage is None or usage.memory_bytes is None:
            return
        if live.measured is not None:
            since, before = live.measured
            percent = 100 * max(0.0, usage.cpu_seconds - before.cpu_seconds) / (now - since)
            self._tracker.measured(live.row, usage, percent)
        live.measured = (now, usage)

    # --- end

    async def stop(self, agent_ids: Sequence[str], grace: float) -> dict[str, AgentStatus]:
        """End agents of this server and everything that they started, at the same time, to the end once begun.

        Returns each one's status afterwards; an agent that had ended already keeps its own.

        Raises:
            NotFoundError, ConflictError: as `get`, for the first such id, before anything is ended.
        """
        statuses: dict[str, AgentStatus] = {}
        ending: list[LiveAgent] = []
        for agent_id in dict.fromkeys(agent_ids):
            if live := self._live.get(agent_id):
                ending.append(live)
                continue
            row = await self.row(agent_id)
            if row.status in LIVE_AGENT:
                await self.get(agent_id)  # raises: another server's
            statuses[agent_id] = row.status

        async def end(live: LiveAgent) -> None:
            live.row.status = "stopping"
            await live.handle.end(grace)
            await self._ended(live, "ended by agents_stop or at the server's end")
            statuses[live.row.id] = live.row.status

        async def end_all() -> None:
            async with anyio.create_task_group() as group:
                for live in ending:
                    group.start_soon(end, live)

        await self._tasks.finish(end_all())
        return {agent_id: statuses[agent_id] for agent_id in dict.fromkeys(agent_ids)}

    async def _watch(self, live: LiveAgent) -> None:
        reason = await live.handle.wait()
        while await self._restart(live, reason):
            reason = await live.handle.wait()
        await self._ended(live, reason)

    async def _restart(self, live: LiveAgent, reason: str) -> bool:
        """Start a worker that died anew; returns False if the agent ends with it."""
        agent = live.row
        while agent.type in self._restarted and agent.status != "stopping" and self._may_restart(live):
            live.ready.clear()
            agent.status = "starting"
            await self._record(agent, "restarting", reason=reason)
            try:
                handle = await self._runner.start(live.spec, self._restricted(live.rights))
            except (AgentDiedError, OSError, DeckError) as exc:
                reason = str(exc)
                continue
            if agent.id not in self._live:  # it was stopped meanwhile
                await handle.end(grace=0)
                return False
            live.handle, agent.process, agent.status = handle, handle.process, "idle"
            await self._record(agent, "restarted")
            live.ready.set()
            return True
        return False

    def _may_restart(self, live: LiveAgent) -> bool:
        now = self._clock.monotonic()
        if len(live.restarts) == MAX_RESTARTS and now - live.restarts[0] < RESTART_PERIOD:
            return False
        live.restarts.append(now)
        return True

    async def _ended(self, live: LiveAgent, reason: str) -> None:
        """Write the end of an agent, once: whoever notices first, a stop or the watcher."""
        if self._live.pop(live.row.id, None) is None:
            return
        agent = live.row
        asked_for = agent.status == "stopping"
        agent.status = "stopped" if asked_for else "failed"
        agent.error = None if asked_for else reason
        agent.ended_at = self._clock.now()
        live.ready.set()
        await self._record(agent, agent.status, reason=reason)

    async def _record(self, agent: Agent, kind: str, *, query_id: str | None = None, **data: Any) -> None:
        """Keep the agent's row and what has just happened to it. A store that fails is logged: the agent goes on."""
        try:
            await self._save(agent)
            await self._runs.add_event(Event(self._clock.now(), agent.id, kind, query_id, data))
        except DeckError as exc:
            log.warning("agent %s: %s was not recorded: %s", agent.id, kind, exc.message)

    async def _save(self, agent: Agent) -> None:
        self._unsaved[agent.id] = agent
        await self._runs.put_agent(agent)
        self._unsaved.pop(agent.id, None)

    async def close(self, grace: float = 2.0) -> None:
        """End every agent."""
        await self.stop(list(self._live), grace)
        await self._tasks.close()
