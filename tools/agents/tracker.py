"""The tracker: what agents did, as plain memories that any client can read.

Keys, fields and lifetimes are a contract (design, "Memory"). A record that cannot be written is logged; the agent
goes on.
"""

from __future__ import annotations

import logging
from typing import Any

from quarterdeck.storage.clock import Clock, iso
from quarterdeck.storage.errors import DeckError
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


class Tracker:
    """Writes the records of agents and queries through the memory service."""

    def __init__(self, memory: MemoryService, clock: Clock) -> None:
        self._memory = memory
        self._clock = clock

    async def spawned(self, agent: Agent, task: str | None) -> None:
        """Record a start, with the work that the agent was asked for at once, if any."""
        await self._write(
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

    async def completed(self, query: Query) -> None:
        """Record the end of a query of the agent; the latest wins."""
        now = self._clock.now()
        duration = query.active_ms(now)
        status = {"completed": "success", "failed": "error"}.get(query.status, "failure")
        await self._write(
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
        await self._write(
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

    async def measured(self, agent: Agent, usage: Usage, cpu_percent: float) -> None:
        """Record what the agent's process tree uses."""
        now = self._clock.now()
        await self._write(
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

    async def _write(self, namespace: str, key: str, value: dict[str, Any], ttl: int) -> None:
        try:
            await self._memory.store(namespace, key, value, ttl=ttl, restorable=False)
        except DeckError as exc:
            log.warning("record %s/%s was not written: %s", namespace, key, exc.message)


def _preview(text: str) -> str:
    return text if len(text) <= TASK_CHARACTERS else text[: TASK_CHARACTERS - 1] + "…"
