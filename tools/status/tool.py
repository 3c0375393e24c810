"""server_status: what this server is, where it keeps things, and how it does."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import psutil
from typing_extensions import TypedDict

from quarterdeck.storage.clock import Clock, iso

from ..agents.orchestrator import Orchestrator
from ..arguments import Arguments
from ..contract import Call, DeckTool, deck_tool
from ..queries.manager import QueryManager
from .meter import CallMeter


class StatusArguments(Arguments):
    pass


class StatusAnswer(TypedDict):
    success: bool
    time: str
    version: str
    pid: int
    uptimeSeconds: float
    backends: dict[str, str]
    flags: dict[str, bool]
    limits: dict[str, Any]
    caches: dict[str, Any]
    performance: dict[str, Any]


class StatusTools:
    """Handler of `server_status`; `about` are the facts that do not change while the server runs."""

    def __init__(
        self,
        *,
        version: str,
        about: Mapping[str, Mapping[str, Any]],
        caches: Callable[[], Awaitable[dict[str, Any]]],
        orchestrator: Orchestrator,
        queries: QueryManager,
        meter: CallMeter,
        clock: Clock,
    ) -> None:
        self._version = version
        self._about = about
        self._caches = caches
        self._orchestrator = orchestrator
        self._queries = queries
        self._meter = meter
        self._clock = clock
        self._began = clock.monotonic()
        self._process = psutil.Process()

    async def status(self, _arguments: StatusArguments, _call: Call) -> StatusAnswer:
        times = self._process.cpu_times()
        return {
            "success": True,
            "time": iso(self._clock.now()),
            "version": self._version,
            "pid": os.getpid(),
            "uptimeSeconds": round(self._clock.monotonic() - self._began, 3),
            "backends": dict(self._about["backends"]),
            "flags": dict(self._about["flags"]),
            "limits": dict(self._about["limits"]),
            "caches": await self._caches(),
            "performance": {
                "memoryBytes": self._process.memory_info().rss,
                "cpuSeconds": round(times.user + times.system, 3),
                "agentsAlive": len(self._orchestrator.agents),
                "queries": await self._queries.count(),
                "calls": self._meter.report(),
            },
        }


def status_tools(tools: StatusTools) -> list[DeckTool]:
    return [
        deck_tool(
            "server_status",
            "Show the time, backends, flags, limits and performance of this server.",
            StatusArguments,
            StatusAnswer,
            tools.status,
            title="Server status",
            read_only=True,
            idempotent=True,
        )
    ]
