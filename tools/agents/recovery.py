"""After a crash: what a dead server left behind is ended and marked."""

from __future__ import annotations

import logging

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import DeckError
from quarterdeck.storage.runs.base import LIVE_AGENT, LIVE_QUERY, Agent, Event, Query, RunStore

from . import processes
from .telemetry import RunTelemetry
from .tracker import Tracker

log = logging.getLogger(__name__)


class Recovery:
    """Any server clears up after any other that runs no more."""

    def __init__(self, runs: RunStore, tracker: Tracker, telemetry: RunTelemetry, clock: Clock) -> None:
        self._runs = runs
        self._tracker = tracker
        self._telemetry = telemetry
        self._clock = clock

    async def recover(self) -> int:
        """Mark what dead servers left behind as interrupted and end their surviving processes. Returns how many."""
        interrupted = 0
        agents = await self._runs.list_agents(statuses=sorted(LIVE_AGENT), limit=10_000)
        dead = {agent.owner for agent in agents.rows if processes.has_ended(agent.owner)}
        for owner in dead:  # a supervisor that was killed together with its server has left something, if any did
            for process in processes.marked(owner):
                await processes.end(process, grace=0)
        for agent in agents.rows:
            if agent.owner in dead:
                if agent.process is not None and (orphan := processes.find(agent.process)) is not None:
                    await processes.end(orphan, grace=0)
                interrupted += await self._interrupt(agent)
        queries = await self._runs.list_queries(statuses=sorted(LIVE_QUERY), limit=10_000)
        for query in queries.rows:
            if processes.has_ended(query.owner):
                await self._interrupt_query(query)
        await self._tracker.written()
        return interrupted

    async def _interrupt(self, agent: Agent) -> bool:
        """Write it, unless another server that has just started was faster or the store fails."""
        before, agent.status, agent.ended_at = agent.status, "interrupted", self._clock.now()
        reason = {"reason": "its server ended without stopping it"}
        try:
            if not await self._runs.put_agent(agent, expected=before):
                return False
            await self._runs.add_event(Event(self._clock.now(), agent.id, "interrupted", None, reason))
        except DeckError as exc:
            log.warning("agent %s was not marked interrupted: %s", agent.id, exc.message)
            return False
        self._telemetry.reaped()
        return True

    async def _interrupt_query(self, query: Query) -> None:
        """As `_interrupt`."""
        before, query.status, query.ended_at = query.status, "interrupted", self._clock.now()
        query.error = f"its server ended {'before it started' if before == 'queued' else 'while it ran'}"
        try:
            if not await self._runs.put_query(query, expected=before):
                return
        except DeckError as exc:
            log.warning("query %s was not marked interrupted: %s", query.id, exc.message)
            return
        self._tracker.completed(query)
