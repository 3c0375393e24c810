"""The agents of this server while they live, and their rows on disk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import DeckError, NotFoundError
from quarterdeck.storage.runs.base import Agent, Event, RunStore

from .rights import Rights
from .runners.base import AgentHandle, AgentSpec, Usage
from .types import SpawnableType

log = logging.getLogger(__name__)


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
    runner: str | None = None  # must be the type's own
    model: str | None = None
    cwd: Path | None = None  # below the type's own
    confirmed: bool = False  # a human said yes to its permission mode


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
    kind: SpawnableType
    spec: AgentSpec
    handle: AgentHandle
    rights: Rights
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # cleared while its worker is restarted
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0  # queries that run or wait for their turn
    query_id: str | None = None
    idle_since: float = 0.0
    measured: tuple[float, Usage] | None = None


class LiveAgents:
    """Finds them by id and keeps their rows. A store that fails is logged: the agent goes on."""

    def __init__(self, runs: RunStore, clock: Clock) -> None:
        self._runs = runs
        self._clock = clock
        self._live: dict[str, LiveAgent] = {}
        self._unsaved: dict[str, Agent] = {}  # rows that the store did not take

    def all(self) -> list[LiveAgent]:
        return list(self._live.values())

    def __contains__(self, agent_id: str) -> bool:
        return agent_id in self._live

    def __len__(self) -> int:
        return len(self._live)

    def get(self, agent_id: str) -> LiveAgent | None:
        return self._live.get(agent_id)

    def add(self, live: LiveAgent) -> None:
        self._live[live.row.id] = live

    async def row(self, agent_id: str) -> Agent:
        """The agent's row, live or ended, of any server. Raises NotFoundError."""
        row = await self._runs.get_agent(agent_id) or self._unsaved.get(agent_id)
        if row is None:
            raise NotFoundError(f"no agent {agent_id!r}; agents_list shows the live ones")
        return self.latest(row)

    def latest(self, row: Agent) -> Agent:
        """What is known of the agent here; `row`, from the store, may lag behind it."""
        live = self._live.get(row.id)
        return live.row if live is not None else self._unsaved.get(row.id, row)

    async def record(self, agent: Agent, kind: str, *, query_id: str | None = None, **data: Any) -> None:
        """Keep the agent's row and what has just happened to it."""
        try:
            await self.save(agent)
            await self._runs.add_event(Event(self._clock.now(), agent.id, kind, query_id, data))
        except DeckError as exc:
            log.warning("agent %s: %s was not recorded: %s", agent.id, kind, exc.message)

    async def save(self, agent: Agent) -> None:
        """Raises StorageError; `save_again` tries once more."""
        self._unsaved[agent.id] = agent
        await self._runs.put_agent(agent)
        self._unsaved.pop(agent.id, None)

    async def save_again(self) -> None:
        """Try the rows that the store did not take."""
        for agent in list(self._unsaved.values()):
            with contextlib.suppress(DeckError):
                await self.save(agent)

    async def ended(self, live: LiveAgent, reason: str) -> None:
        """Write the end of an agent, once: whoever notices first, a stop or the watcher."""
        if self._live.pop(live.row.id, None) is None:
            return
        agent = live.row
        asked_for = agent.status == "stopping"
        agent.status = "stopped" if asked_for else "failed"
        agent.error = None if asked_for else reason
        agent.ended_at = self._clock.now()
        live.ready.set()
        await self.record(agent, agent.status, reason=reason)
