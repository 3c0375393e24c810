"""The tracker: what agents did, as plain memories that any client can read.

Keys, fields and lifetimes are a contract (design, "Memory"). While memory fails or is slow, agents go on, and the
records wait here, in their order, until it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Any

from quarterdeck.storage.clock import Clock, iso
from quarterdeck.storage.errors import DeckError, StorageError
from quarterdeck.storage.runs.base import Agent, Query

from ..memory.service import MemoryService
from .runners.base import Usage

log = logging.getLogger(__name__)

ACTIVITIES, ACTIVITIES_TTL = "agent-activities", 7 * 24 * 3600
METRICS, METRICS_TTL = "agent-metrics", 3600
NOTIFICATIONS, NOTIFICATIONS_TTL = "wiki-notifications", 3600
TASK_CHARACTERS = 200  # of a task's text that a record keeps
RECORDS = (ACTIVITIES, METRICS, NOTIFICATIONS)
"""Namespaces that only the tracker writes on behalf of agents."""

PATIENCE = 0.5  # seconds that anybody waits for records to be written
BATCH = 50  # records written at once: they share a commit
BACKLOG = 10_000  # records that wait at most; beyond it the oldest are lost


@dataclass(frozen=True, slots=True)
class _Record:
    namespace: str
    key: str
    value: dict[str, Any]
    expires_at: int  # milliseconds: a record does not live longer for having waited


class Tracker:
    """Writes the records of agents and queries through the memory service."""

    def __init__(self, memory: MemoryService, clock: Clock) -> None:
        self._memory = memory
        self._clock = clock
        self._backlog: deque[_Record] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._failing = False

    def spawned(self, agent: Agent, task: str | None) -> None:
        """Record a start, with the work that the agent was asked for at once, if any."""
        self._write(
            ACTIVITIES,
            f"agent-{agent.id}-spawn",
            {
                "agentId": agent.id,
                "agentType": agent.type,
                "task": _preview(task) if task is not None else None,
                "status": "spawned",
                "timestamp": iso(agent.created_at),
                "startTime": agent.created_at,
            },
            ACTIVITIES_TTL,
        )

    def completed(self, query: Query) -> None:
        """Record the end of a query of the agent; the latest wins."""
        now = self._clock.now()
        duration = query.active_ms(now)
        status = {"completed": "success", "failed": "error"}.get(query.status, "failure")
        self._write(
            ACTIVITIES,
            f"agent-{query.agent_id}-complete",
            {
                "agentId": query.agent_id,
                "agentType": query.agent_type,
                "task": _preview(query.prompt),
                "queryId": query.id,
                "status": status,
                "outcome": query.status,
                "error": query.error,
                "duration": duration,
                "timestamp": iso(now),
            },
            ACTIVITIES_TTL,
        )
        self._write(
            NOTIFICATIONS,
            f"wiki-event-{now}-{query.id}",
            {
                "type": "agent-completion",
                "agentId": query.agent_id,
                "agentType": query.agent_type,
                "duration": duration,
                "status": status,
            },
            NOTIFICATIONS_TTL,
        )

    def measured(self, agent: Agent, usage: Usage, cpu_percent: float) -> None:
        """Record what the agent's process tree uses."""
        now = self._clock.now()
        self._write(
            METRICS,
            f"agent-{agent.id}-metrics-{now}",
            {
                "agentId": agent.id,
                "cpu": round(cpu_percent, 1),
                "memory": usage.memory_bytes,
                "uptime": now - agent.created_at,
                "timestamp": iso(now),
            },
            METRICS_TTL,
        )

    async def tick(self) -> None:
        """Try again what could not be written. Called about once a second."""
        if self._backlog:
            self._start_writing()

    async def close(self) -> None:
        """Write what is left, if memory takes it."""
        if self._backlog:
            await asyncio.wait([self._start_writing()], timeout=PATIENCE)
        if self._writing is not None:
            self._writing.cancel()
        if self._backlog:
            log.warning("%d records of agents were not written", len(self._backlog))

    async def written(self) -> None:
        """Wait until all is written, but not for long."""
        if self._backlog and not self._failing:
            await asyncio.wait([self._start_writing()], timeout=PATIENCE)

    def _write(self, namespace: str, key: str, value: dict[str, Any], ttl: int) -> None:
        if len(self._backlog) >= BACKLOG:
            lost = self._backlog.popleft()
            log.warning("record %s/%s is lost: %d wait already", lost.namespace, lost.key, BACKLOG)
        self._backlog.append(_Record(namespace, key, value, self._clock.now() + ttl * 1000))
        if not self._failing:
            self._start_writing()

    def _start_writing(self) -> asyncio.Task[None]:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_backlog())
        return self._writing

    async def _write_backlog(self) -> None:
        while self._backlog:
            batch = self._next_batch()
            outcomes = await asyncio.gather(*map(self._store, batch), return_exceptions=True)
            for record, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, StorageError):
                    if not self._failing:
                        log.warning("records of agents wait until memory is back: %s", outcome.message)
                    self._failing = True
                    return
                if isinstance(outcome, DeckError):
                    log.warning("record %s/%s was not written: %s", record.namespace, record.key, outcome.message)
                elif outcome is not None:
                    raise outcome
                if self._backlog and self._backlog[0] is record:  # not lost meanwhile
                    self._backlog.popleft()
            self._failing = False

    def _next_batch(self) -> list[_Record]:
        """The next records; it ends before a key that it holds already, since its writes may take any order."""
        batch: dict[tuple[str, str], _Record] = {}
        for record in islice(self._backlog, BATCH):
            if (name := (record.namespace, record.key)) in batch:
                break
            batch[name] = record
        return list(batch.values())

    async def _store(self, record: _Record) -> None:
        left = (record.expires_at - self._clock.now()) / 1000
        if left > 0:
            await self._memory.store(record.namespace, record.key, record.value, ttl=left, own_record=True)


def _preview(text: str) -> str:
    return text if len(text) <= TASK_CHARACTERS else text[: TASK_CHARACTERS - 1] + "…"
