"""agents_spawn_parallel, agents_list, agents_stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio import to_thread
from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from quarterdeck.storage.clock import Clock, iso
from quarterdeck.storage.errors import DeckError, InvalidArgumentError
from quarterdeck.storage.runs.base import LIVE_AGENT, Agent, AgentStatus, Event, Query, RunStore

from ..arguments import Arguments, FromJsonText, Limit, read_cursor
from ..contract import Call, DeckTool, deck_tool
from .budget import Budget
from .builtin.base import CrewMember
from .builtin.catalogue import CREWS, TYPES
from .live import LiveAgent, SpawnRequest, SpawnResult
from .orchestrator import Orchestrator
from .rights import PermissionMode, needs_consent, question
from .runners.base import MAX_PROMPT, Usage
from .runners.trees import usage_of

MAX_SPAWNS = 100  # agents in one call

StartQuery = Callable[[str, str], Awaitable[Query]]
"""Gives an agent, by its id, a prompt to work on; raises DeckError."""

Priority = Literal["low", "medium", "high", "critical"]


class AgentArguments(Arguments):
    type: str = Field(description=f"one of {', '.join(TYPES)}")
    name: str = Field(min_length=1, max_length=100)
    capabilities: Annotated[list[str], FromJsonText] = Field(
        default_factory=list[str], max_length=50, description="labels; a built-in type keeps to its own"
    )
    priority: Priority = "medium"
    task: str | None = Field(
        None, min_length=1, max_length=MAX_PROMPT, description="work to start with, as in query_start"
    )
    permission_mode: PermissionMode = "default"
    runner: str | None = Field(None, max_length=20, description="only to be sure: the type's own")
    model: str | None = Field(None, min_length=1, max_length=200, description="small, medium, large or the type's own")
    cwd: str | None = Field(None, min_length=1, description="folder below the type's own")
    budget: Annotated[Budget | None, FromJsonText] = Field(None, description="for all its queries together")


class SpawnArguments(Arguments):
    agents: Annotated[list[AgentArguments] | None, FromJsonText] = Field(None, min_length=1, max_length=MAX_SPAWNS)
    crew: str | None = Field(None, description=f"a whole crew instead of agents: {', '.join(CREWS)}")
    max_concurrency: int = Field(5, ge=1, le=50)
    batch_size: int = Field(3, ge=1, le=50)


class ListArguments(Arguments):
    status: AgentStatus | None = None
    agent_id: str | None = None
    include_history: bool = Field(False, description="ended agents too; with agentId: all that happened to it")
    limit: Limit = 50
    cursor: str | None = None


class StopArguments(Arguments):
    agent_ids: Annotated[list[str] | None, FromJsonText] = Field(None, min_length=1, max_length=500)
    all: bool = False
    grace: float = Field(2.0, ge=0, le=60, description="seconds to end by itself before it is killed")


class Spawned(TypedDict, total=False):
    agentId: str | None
    name: str
    type: str
    status: Literal["spawned", "failed"]
    error: str | None
    spawnTime: float | None
    capabilities: list[str]
    queryId: str


class Performance(TypedDict):
    totalTime: float
    averageTimePerAgent: float | None
    maxConcurrency: int
    batchSize: int
    parallel: bool


class SpawnAnswer(TypedDict):
    success: bool
    agentsSpawned: int
    agentsFailed: int
    results: list[Spawned]
    sessions: list[dict[str, Any]]
    performance: Annotated[Performance, WithJsonSchema({"type": "object"})]
    timestamp: str


class AgentEntry(TypedDict, total=False):
    agentId: str
    type: str
    name: str
    status: AgentStatus
    priority: str
    capabilities: list[str]
    runner: str
    model: str | None
    permissionMode: str
    queryId: str | None
    pid: int | None
    createdAt: str
    duration: int
    spawnTime: float | None
    budget: dict[str, Any]
    spent: dict[str, Any]
    cpuSeconds: float | None
    memoryBytes: int | None
    error: str | None
    history: list[dict[str, Any]]


class ListAnswer(TypedDict, total=False):
    success: bool
    agents: list[AgentEntry]
    count: int
    nextCursor: str | None


class StopAnswer(TypedDict):
    success: bool
    stopped: int
    agents: list[dict[str, str]]


class AgentTools:
    """Handlers of the agent family."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        start_query: StartQuery,
        runs: RunStore,
        clock: Clock,
        crews: Mapping[str, Sequence[CrewMember]],
        *,
        parallel: bool,
    ) -> None:
        self._orchestrator = orchestrator
        self._start_query = start_query
        self._runs = runs
        self._clock = clock
        self._crews = crews
        self._parallel = parallel

    async def spawn(self, arguments: SpawnArguments, call: Call) -> SpawnAnswer:
        requests = await self._confirmed(self._requests(arguments), call)
        began = self._clock.monotonic()

        async def tell(settled: int, total: int, result: SpawnResult) -> None:
            state = "ready" if result.spawned else f"failed: {result.error}"
            await call.report_progress(settled, total, f"{result.request.name} {state}")

        results = await self._orchestrator.spawn(
            requests,
            max_concurrency=arguments.max_concurrency,
            batch_size=arguments.batch_size,
            on_settled=tell,
        )
        shown = [await self._spawned(result) for result in results]
        ready = [result.spawn_ms for result in results if result.spawn_ms is not None]
        answer: SpawnAnswer = {
            "success": bool(ready),
            "agentsSpawned": len(ready),
            "agentsFailed": len(results) - len(ready),
            "results": shown,
            "sessions": [
                {"agentId": one.get("agentId"), "sessionId": one.get("agentId"), "status": one.get("status")}
                for one in shown
            ],
            "performance": {
                "totalTime": round((self._clock.monotonic() - began) * 1000, 1),
                "averageTimePerAgent": round(sum(ready) / len(ready), 1) if ready else None,
                "maxConcurrency": arguments.max_concurrency,
                "batchSize": arguments.batch_size,
                "parallel": self._parallel,
            },
            "timestamp": iso(self._clock.now()),
        }
        if not ready:  # as `upload`, where all failed: a refusal that has what a success would have
            reasons = "; ".join(dict.fromkeys(f"{result.request.name} - {result.error}" for result in results))
            raise DeckError(f"no agent was started: {reasons}", **answer)
        return answer

    def _requests(self, arguments: SpawnArguments) -> list[SpawnRequest]:
        if (arguments.agents is None) == (arguments.crew is None):
            raise InvalidArgumentError(f"give either agents or crew (crews: {', '.join(self._crews)})")
        if arguments.agents is not None:
            return [
                SpawnRequest(
                    one.type,
                    one.name,
                    one.priority,
                    one.permission_mode,
                    one.capabilities,
                    one.budget.amounts() if one.budget else {},
                    one.task,
                    one.runner,
                    one.model,
                    Path(one.cwd) if one.cwd is not None else None,
                )
                for one in arguments.agents
            ]
        crew = self._crews.get(arguments.crew or "")
        if crew is None:
            raise InvalidArgumentError(f"unknown crew {arguments.crew!r} (valid: {', '.join(self._crews)})")
        return [SpawnRequest(member.type, member.name, member.priority) for member in crew]

    async def _confirmed(self, requests: list[SpawnRequest], call: Call) -> list[SpawnRequest]:
        """With the human's yes where their permission mode needs it, asked once for all; what the configuration denies
        anyway settles by itself later."""
        asking: list[SpawnRequest] = []
        for request in requests:
            kind = self._orchestrator.kind(request.type)
            if kind is not None and needs_consent(request.permission_mode, kind):
                asking.append(request)
        if not asking or not await call.confirm(question(f"agent {request.name}" for request in asking)):
            return requests
        return [replace(request, confirmed=request in asking) for request in requests]

    async def _spawned(self, result: SpawnResult) -> Spawned:
        request, agent = result.request, result.agent
        shown: Spawned = {
            "agentId": agent.id if agent else None,
            "name": request.name,
            "type": request.type,
            "status": "spawned" if result.spawned else "failed",
            "error": result.error,
            "spawnTime": result.spawn_ms,
        }
        if agent is not None:
            shown["capabilities"] = agent.capabilities
        if request.task is not None and agent is not None and result.spawned:
            try:
                shown["queryId"] = (await self._start_query(agent.id, request.task)).id
            except DeckError as exc:
                shown["error"] = f"it is ready, but its task was not started: {exc.message}"
        return shown

    async def _entries(self, rows: Sequence[Agent]) -> list[AgentEntry]:
        agents = self._orchestrator.agents
        seen = [(agents.latest(row), agents.get(row.id)) for row in rows]
        usages = await to_thread.run_sync(lambda: [_usage(*one) for one in seen])  # 0.6 ms for a tree of three
        return [self._entry(row, live, usage) for (row, live), usage in zip(seen, usages, strict=True)]

    async def report(self, agent_id: str) -> AgentEntry:
        """One agent and all that happened to it. Raises NotFoundError."""
        [entry] = await self._entries([await self._orchestrator.agents.row(agent_id)])
        entry["history"] = [_event(event) for event in await self._runs.list_events(agent_id)]
        return entry

    async def list(self, arguments: ListArguments, _call: Call) -> ListAnswer:
        if arguments.agent_id is not None:
            if (arguments.status, arguments.cursor) != (None, None):
                raise InvalidArgumentError("agentId: names one agent; status and cursor are for lists without it")
            [entry] = await self._entries([await self._orchestrator.agents.row(arguments.agent_id)])
            if arguments.include_history:
                entry["history"] = [_event(event) for event in await self._runs.list_events(arguments.agent_id)]
            return {"success": True, "agents": [entry], "count": 1, "nextCursor": None}
        statuses: Sequence[AgentStatus] = ()
        if arguments.status is not None:
            statuses = (arguments.status,)
        elif not arguments.include_history:
            statuses = sorted(LIVE_AGENT)
        page = await self._runs.list_agents(
            statuses=statuses, before=read_cursor(arguments.cursor), limit=arguments.limit
        )
        return {
            "success": True,
            "agents": await self._entries(page.rows),
            "count": len(page.rows),
            "nextCursor": str(page.next) if page.next is not None else None,
        }

    def _entry(self, row: Agent, live: LiveAgent | None, usage: Usage | None) -> AgentEntry:
        process = live.handle.process if live else row.process
        return {
            "agentId": row.id,
            "type": row.type,
            "name": row.name,
            "status": row.status,
            "priority": row.priority,
            "capabilities": row.capabilities,
            "runner": row.runner,
            "model": row.model,
            "permissionMode": row.permission_mode,
            "queryId": live.query_id if live else None,
            "pid": process.pid if process else None,
            "createdAt": iso(row.created_at),
            "duration": (row.ended_at or self._clock.now()) - row.created_at,
            "spawnTime": row.spawn_ms,
            "budget": row.budget,
            "spent": row.spent,
            "cpuSeconds": round(usage.cpu_seconds, 3) if usage else None,
            "memoryBytes": usage.memory_bytes if usage else None,
            "error": row.error,
        }

    async def stop(self, arguments: StopArguments, _call: Call) -> StopAnswer:
        if arguments.all == (arguments.agent_ids is not None):
            raise InvalidArgumentError("give either agentIds or all=true; agents_list shows the live agents")
        ids = arguments.agent_ids or [agent.row.id for agent in self._orchestrator.agents.all()]
        before = {agent.row.id for agent in self._orchestrator.agents.all()}
        statuses = await self._orchestrator.stop(ids, arguments.grace)
        return {
            "success": True,
            "stopped": len(before & statuses.keys()),
            "agents": [{"agentId": agent_id, "status": status} for agent_id, status in statuses.items()],
        }


def _usage(row: Agent, live: LiveAgent | None) -> Usage | None:
    """Of another server's agent, too, if it runs on this machine."""
    if live is not None:
        return live.handle.usage()
    return usage_of(row.process) if row.status in LIVE_AGENT else None


def _event(event: Event) -> dict[str, Any]:
    return {"at": iso(event.at), "event": event.kind, "queryId": event.query_id, **event.data}


def agent_tools(tools: AgentTools, own_types: Sequence[str] = ()) -> list[DeckTool]:
    """`own_types` are those that the user has added to the built-in ones."""
    also = f" Types of this user's own: {', '.join(own_types)}." if own_types else ""
    return [
        deck_tool(
            "agents_spawn_parallel",
            "Start agents as real worker processes, several at once; each settles by itself. "
            f"Then give them work with query_start.{also}",
            SpawnArguments,
            SpawnAnswer,
            tools.spawn,
            title="Spawn agents",
        ),
        deck_tool(
            "agents_list",
            "List the live agents with what they use, or one agent with its whole history.",
            ListArguments,
            ListAnswer,
            tools.list,
            title="List agents",
            read_only=True,
            idempotent=True,
        ),
        deck_tool(
            "agents_stop",
            "End agents and everything that they started.",
            StopArguments,
            StopAnswer,
            tools.stop,
            title="Stop agents",
            destructive=True,
            idempotent=True,
        ),
    ]
