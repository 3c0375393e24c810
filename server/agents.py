"""Agents and queries, composed: what runs them, watches them and takes orders for them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.runs.base import RunStore
from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.budget import Ledger
from quarterdeck.tools.agents.orchestrator import Orchestrator
from quarterdeck.tools.agents.recovery import Recovery
from quarterdeck.tools.agents.runners.acp.config import AcpType
from quarterdeck.tools.agents.runners.acp.runner import AcpRunner
from quarterdeck.tools.agents.runners.base import CallDeck
from quarterdeck.tools.agents.runners.children import Subprocesses
from quarterdeck.tools.agents.runners.claude.config import ClaudeType
from quarterdeck.tools.agents.runners.claude.runner import ClaudeRunner
from quarterdeck.tools.agents.runners.commands import CommandType
from quarterdeck.tools.agents.runners.llm.config import LlmType
from quarterdeck.tools.agents.runners.llm.runner import LlmRunner
from quarterdeck.tools.agents.runners.process import ProcessRunner
from quarterdeck.tools.agents.runners.supervisor import Supervisor, is_supported
from quarterdeck.tools.agents.telemetry import RunTelemetry
from quarterdeck.tools.agents.tracker import Tracker
from quarterdeck.tools.contract import DeckTool
from quarterdeck.tools.memory.service import MemoryService
from quarterdeck.tools.queries.controls import Controls
from quarterdeck.tools.queries.desk import ControlDesk
from quarterdeck.tools.queries.live import LiveQueries
from quarterdeck.tools.queries.manager import QueryManager
from quarterdeck.tools.queries.optimizer import Optimizer
from quarterdeck.tools.queries.rules import with_shipped
from quarterdeck.tools.queries.spending import Spending

from .agent_types import spawnable
from .config import Settings
from .setting_types import OwnType


@dataclass(frozen=True, slots=True)
class Agents:
    """The services of the agents of one server process."""

    orchestrator: Orchestrator
    queries: QueryManager
    desk: ControlDesk
    optimizer: Optimizer
    recovery: Recovery
    telemetry: RunTelemetry
    jobs: Sequence[Callable[[], Awaitable[object]]]  # for each beat of the heart


@asynccontextmanager
async def open_agents(
    settings: Settings,
    own: Mapping[str, OwnType],
    *,
    folders: Path,
    memory: MemoryService,
    runs: RunStore,
    call_deck: CallDeck,
    tools: Callable[[], Iterable[DeckTool]],
    clock: Clock,
) -> AsyncGenerator[Agents]:
    """Build the services, and close them in the opposite order; `tools` are asked for when an agent starts."""
    commands = {name: kind for name, kind in own.items() if isinstance(kind, CommandType)}
    claude = {name: kind for name, kind in own.items() if isinstance(kind, ClaudeType)}
    models = {name: kind for name, kind in own.items() if isinstance(kind, LlmType)}
    acp = {name: kind for name, kind in own.items() if isinstance(kind, AcpType)}
    async with AsyncExitStack() as stack:
        owner = processes.identify(os.getpid())
        children = Supervisor(owner) if is_supported() else Subprocesses(owner)
        stack.push_async_callback(children.close)
        tracker = Tracker(memory, clock)
        stack.push_async_callback(tracker.close)
        ledger = Ledger(_budget(settings))
        telemetry = RunTelemetry(content=settings.telemetry_content)
        orchestrator = Orchestrator(
            runs=runs,
            tracker=tracker,
            clock=clock,
            runners={
                "process": ProcessRunner(children, commands),
                "claude": ClaudeRunner(children, claude, settings.agents.widest_mode, tools),
                "llm": LlmRunner(models, tools),
                "acp": AcpRunner(children, acp),
            },
            types=spawnable(settings, own),
            call_deck=call_deck,
            ledger=ledger,
            owner=owner,
            folders=folders,
            parallel=settings.feature_parallel_spawning,
            max_alive=settings.agents_max_alive,
            idle_timeout=settings.agents_idle_timeout,
            telemetry=telemetry,
        )
        spending = Spending(ledger)
        live = LiveQueries(runs=runs, orchestrator=orchestrator, tracker=tracker, spending=spending, clock=clock)
        stack.push_async_callback(live.close)
        controls = Controls(live=live, runs=runs, orchestrator=orchestrator, spending=spending, clock=clock)
        stack.push_async_callback(controls.close)
        queries = QueryManager(live=live, runs=runs, orchestrator=orchestrator, spending=spending, clock=clock)
        stack.push_async_callback(queries.close)
        desk = ControlDesk(
            live=live,
            controls=controls,
            manager=queries,
            orchestrator=orchestrator,
            runs=runs,
            owner=owner,
            clock=clock,
        )
        stack.push_async_callback(desk.close)
        stack.push_async_callback(orchestrator.close)
        serving = asyncio.create_task(desk.serve())
        stack.callback(serving.cancel)
        optimizer = Optimizer(
            live,
            desk,
            clock,
            with_shipped(settings.optimizer.rules),
            cores=os.cpu_count() or 1,
            enabled=settings.feature_adaptive_opt,
        )
        stack.push_async_callback(optimizer.stop)
        jobs = [
            orchestrator.tick,
            live.tick,
            tracker.tick,
            children.warm_up,  # not at the start, where a client waits for the first answer
        ]
        yield Agents(orchestrator, queries, desk, optimizer, Recovery(runs, tracker, telemetry, clock), telemetry, jobs)


def _budget(settings: Settings) -> dict[str, float]:
    """What all queries of a server may use."""
    limits = {
        "tokens": settings.budget_tokens,
        "usd": settings.budget_usd,
        "wallSeconds": settings.budget_wall_seconds,
        "outputBytes": settings.budget_output_bytes,
    }
    return {kind: limit for kind, limit in limits.items() if limit}
