"""The orchestrator: starts agents in parallel, knows the live ones, ends them, and clears up after a dead server."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import ConflictError, DeckError, InvalidArgumentError, LimitError
from quarterdeck.storage.runs.base import (
    LIVE_AGENT,
    Agent,
    AgentStatus,
    ProcessId,
    RunStore,
)
from quarterdeck.storage.tasks import Tasks

from . import processes
from .budget import Ledger
from .live import LiveAgent, LiveAgents, SpawnRequest, SpawnResult
from .models import resolve
from .rights import Rights, refuse_wider
from .runners.base import AgentDiedError, AgentHandle, AgentSpec, CallDeck, Runner
from .telemetry import RunTelemetry
from .tracker import Tracker
from .types import SpawnableType
from .watch import Watch

log = logging.getLogger(__name__)

PRIORITIES = ("critical", "high", "medium", "low")


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
        runners: Mapping[str, Runner],
        types: Mapping[str, SpawnableType],
        call_deck: CallDeck,
        ledger: Ledger,
        owner: ProcessId,
        folders: Path,
        parallel: bool = True,
        max_alive: int = 100,
        idle_timeout: float = 900.0,
        telemetry: RunTelemetry | None = None,
    ) -> None:
        """Each type gets a folder of its own below `folders`."""
        self._runs = runs
        self._tracker = tracker
        self._clock = clock
        self._runners = runners
        self._types = types
        self._call_deck = call_deck
        self._ledger = ledger
        self._owner = owner
        self._folders = folders
        self._parallel = parallel
        self._max_alive = max_alive
        self._idle_timeout = idle_timeout
        self.agents = LiveAgents(runs, clock)
        self._watch = Watch(self.agents, self._launch_again, tracker, clock)
        self.telemetry = telemetry or RunTelemetry()
        self._starting = 0
        self._tasks = Tasks()

    def kind(self, type_name: str) -> SpawnableType | None:
        """The type of that name, if there is one."""
        return self._types.get(type_name)

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
        if len(self.agents) + self._starting >= self._max_alive:
            error = (
                f"{len(self.agents) + self._starting} agents are alive, the limit is {self._max_alive}: "
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

    async def _start(self, request: SpawnRequest, kind: SpawnableType, ready: list[str]) -> SpawnResult:
        """Start one agent and add its id to `ready`."""
        try:
            refuse_wider(request.permission_mode, kind, confirmed=request.confirmed)
            model = self._model(request, kind)
            cwd = self._working_folder(request.cwd, kind)
        except (DeckError, OSError) as exc:
            return SpawnResult(request, None, str(exc), None)
        agent = Agent(
            id=f"{request.type}-{secrets.token_hex(4)}",
            type=request.type,
            name=request.name,
            runner=kind.runner,
            owner=self._owner,
            created_at=self._clock.now(),
            capabilities=list(kind.capabilities or request.capabilities),
            priority=request.priority,
            model=model,
            permission_mode=request.permission_mode,
            budget=dict(request.budget),
            cwd=str(cwd),
            status="starting",
        )
        try:
            await self._runs.put_agent(agent)  # the row is there before the process
            with self.telemetry.create_agent(agent):
                live = await self._launch(agent, kind)
        except (AgentDiedError, OSError, DeckError) as exc:
            await self._not_started(agent, str(exc))
            return SpawnResult(request, agent, agent.error, None)
        except BaseException:
            self._tasks.start(self._not_started(agent, "its spawn was given up"))
            raise
        ready.append(agent.id)
        await self.agents.record(
            live.row, "spawned", spawnTime=agent.spawn_ms, permissionMode=agent.permission_mode, model=agent.model
        )
        self._tracker.spawned(agent, request.task)
        return SpawnResult(request, agent, None, agent.spawn_ms)

    def _model(self, request: SpawnRequest, kind: SpawnableType) -> str | None:
        """Raises InvalidArgumentError: another runner or model than the type's configuration has."""
        if request.runner not in (None, kind.runner):
            raise InvalidArgumentError(f"runner: agents of type {kind.name} run on {kind.runner}")
        if request.model is not None:
            return resolve(request.model, kind.models)
        return kind.models.get(kind.model, kind.model) if kind.model is not None else None

    def _working_folder(self, wanted: Path | None, kind: SpawnableType) -> Path:
        """Where the agent works: the type's folder, or one in it.

        Raises:
            InvalidArgumentError: what was asked for is not in there.
            OSError: the type's folder cannot be made.
        """
        folder = kind.cwd or self._own_folder(kind.name)
        if wanted is None:
            return folder
        with contextlib.suppress(OSError, ValueError):  # no path has a zero byte, or so many characters
            chosen = Path(os.path.realpath(folder / wanted))
            if chosen.is_dir() and chosen.is_relative_to(os.path.realpath(folder)):
                return chosen
        shown = ascii(str(wanted)[:200])
        raise InvalidArgumentError(f"cwd: {shown} is no folder below that of type {kind.name}, {folder}")

    def _own_folder(self, type_name: str) -> Path:
        folder = self._folders / type_name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    async def _launch(self, agent: Agent, kind: SpawnableType) -> LiveAgent:
        """Start the agent of a row and watch it. Raises what `Runner.start` raises."""
        rights = Rights(agent.permission_mode, kind.owns)
        spec = AgentSpec(
            agent.id,
            agent.type,
            agent.name,
            str(self._own_folder(kind.name)),
            agent.capabilities,
            agent.permission_mode,
            agent.model,
            agent.cwd,
            agent.session,
        )
        began = self._clock.monotonic()
        handle = await self._runners[kind.runner].start(spec, self._restricted(agent.id, rights))
        agent.spawn_ms = round((self._clock.monotonic() - began) * 1000, 1)
        agent.process = handle.process
        agent.ready_at = self._clock.now()
        agent.status = "idle"
        live = LiveAgent(agent, kind, spec, handle, rights, idle_since=self._clock.monotonic())
        live.ready.set()
        self.agents.add(live)
        self._tasks.start(self._watch.until_the_end(live))
        return live

    async def _launch_again(self, live: LiveAgent) -> AgentHandle:
        return await self._runners[live.kind.runner].start(live.spec, self._restricted(live.row.id, live.rights))

    async def revive(self, agent_id: str) -> LiveAgent:
        """Start an agent of a server that is gone again, from the session that it had.

        Raises:
            NotFoundError, ConflictError: there is none; it is not interrupted; nothing can bring its session back.
            DeniedError, InvalidArgumentError: the configuration of its type, or its folder, is not what it was.
        """
        agent = await self.agents.row(agent_id)
        kind = self._types.get(agent.type)
        if agent.status != "interrupted":
            raise ConflictError(f"agent {agent_id} is {agent.status}; only an interrupted one is brought back")
        if agent.session is None or kind is None:
            why = "it kept no session" if kind is not None else f"there is no type {agent.type} here"
            raise ConflictError(f"agent {agent_id} cannot be brought back: {why}; spawn a new one")
        refuse_wider(agent.permission_mode, kind, confirmed=True)  # a human said so when it was spawned
        self._working_folder(Path(agent.cwd) if agent.cwd is not None else None, kind)
        agent.owner, agent.status, agent.ended_at = self._owner, "starting", None
        if not await self._runs.put_agent(agent, expected="interrupted"):
            raise ConflictError(f"agent {agent_id} was brought back by another server in this moment")
        try:
            live = await self._launch(agent, kind)
        except (AgentDiedError, OSError, DeckError) as exc:
            agent.status, agent.error, agent.ended_at = "interrupted", str(exc), self._clock.now()
            await self.agents.record(agent, "not_revived", error=agent.error)  # its session is there, for another try
            raise ConflictError(
                f"agent {agent_id} could not be brought back: {exc}; resume it once that is mended, or spawn a new one"
            ) from None
        agent.error = None
        await self.agents.record(agent, "revived", session=agent.session)
        return live

    async def _not_started(self, agent: Agent, reason: str) -> None:
        agent.status, agent.error, agent.ended_at = "failed", reason, self._clock.now()
        await self.agents.record(agent, "failed", error=reason)

    def _restricted(self, agent_id: str, rights: Rights) -> CallDeck:
        async def call(tool: str, arguments: dict[str, Any]) -> Any:
            with self.telemetry.execute_tool(tool, arguments, agent_id):
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
        live = self.agents.get(agent_id)
        if live is not None and live.row.status != "stopping":
            return live
        row = live.row if live is not None else await self.agents.row(agent_id)
        if live is None and row.status in LIVE_AGENT:
            pid = row.owner.pid
            if processes.has_ended(row.owner):
                raise ConflictError(
                    f"agent {agent_id} lost its server (pid {pid}); start a new one with agents_spawn_parallel"
                )
            raise ConflictError(f"agent {agent_id} belongs to the server with pid {pid}; use it through that server")
        raise ConflictError(f"agent {agent_id} is {row.status}; start a new one with agents_spawn_parallel")

    # --- work

    async def set_busy(self, live: LiveAgent, query_id: str) -> None:
        """Note that the agent works on a query now."""
        live.query_id = query_id
        live.measured = None
        if live.row.status == "idle":
            live.row.status = "busy"
            await self.agents.record(live.row, "query_started", query_id=query_id)

    async def set_idle(self, live: LiveAgent, query_id: str, outcome: str) -> None:
        """Note that it has finished one."""
        live.query_id = None
        live.idle_since = self._clock.monotonic()
        if live.row.status == "busy":
            live.row.status = "idle"
        await self.agents.record(live.row, f"query_{outcome}", query_id=query_id)

    async def tick(self) -> None:
        """End agents that have been idle for too long; measure those that work. Called about once a second."""
        await self.agents.save_again()
        now = self._clock.monotonic()
        for live in self.agents.all():
            if live.row.status == "idle" and not live.waiting and now - live.idle_since >= self._idle_timeout:
                await self.stop([live.row.id], grace=2.0)
            elif live.row.status == "busy":
                await self._watch.measure(live)

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
            if live := self.agents.get(agent_id):
                ending.append(live)
                continue
            row = await self.agents.row(agent_id)
            if row.status in LIVE_AGENT:
                await self.get(agent_id)  # raises: another server's
            statuses[agent_id] = row.status

        async def end(live: LiveAgent) -> None:
            live.row.status = "stopping"
            await live.handle.end(grace)
            await self.agents.ended(live, "ended by agents_stop or at the server's end")
            statuses[live.row.id] = live.row.status

        async def end_all() -> None:
            async with anyio.create_task_group() as group:
                for live in ending:
                    group.start_soon(end, live)

        await self._tasks.finish(end_all())
        return {agent_id: statuses[agent_id] for agent_id in dict.fromkeys(agent_ids)}

    async def close(self, grace: float = 2.0) -> None:
        """End every agent."""
        await self.stop([live.row.id for live in self.agents.all()], grace)
        await self._tasks.close()
