"""Agents of the Agent Client Protocol in a test: the program in tests/servers/acp_agent.py on the real supervisor."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.runners.acp.agent import AcpAgent
from quarterdeck.tools.agents.runners.acp.config import AcpType
from quarterdeck.tools.agents.runners.acp.runner import AcpRunner
from quarterdeck.tools.agents.runners.base import AgentSpec, Work
from quarterdeck.tools.agents.runners.children import Children, Subprocesses
from quarterdeck.tools.agents.runners.supervisor import Supervisor, is_supported
from tests.until import until

Json = Any
PROGRAM = Path(__file__).parents[2] / "servers" / "acp_agent.py"


def command(**offers: Json) -> list[str]:
    """What starts the agent."""
    return [sys.executable, str(PROGRAM), json.dumps(offers)]


@dataclass(slots=True)
class Seen:
    """What a work called back."""

    usage: dict[str, float] = field(default_factory=dict[str, float])
    progress: list[Json] = field(default_factory=list[Json])
    models: list[str] = field(default_factory=list[str])
    sessions: list[str] = field(default_factory=list[str])
    asked: int = 0  # times that the budget was asked
    within_budget: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def messages(self) -> list[str]:
        return [report["message"] for report in self.progress]

    def work(self, *steps: Json, work_id: str = "q", **options: Any) -> Work:
        """A work of these steps; a text is a prompt as it is."""
        self.within_budget.set()

        async def before_request() -> None:
            self.asked += 1
            await self.within_budget.wait()

        prompt = steps[0] if steps and isinstance(steps[0], str) else json.dumps(steps)
        return Work(
            work_id,
            prompt,
            self.progress.append,
            self.usage.update,
            self.models.append,
            self.sessions.append,
            before_request,
            **options,
        )


async def no_calls(tool: str, arguments: dict[str, Json]) -> Json:
    raise AssertionError(tool)


@dataclass(slots=True)
class Place:
    """Where the agents of a test live."""

    folder: Path
    children: Children
    started: list[AcpAgent] = field(default_factory=list[AcpAgent])

    async def start(self, kind: Json = None, spec: Json = None, **offers: Json) -> AcpAgent:
        """Start an agent; `kind` and `spec` say what differs from the plainest type and request."""
        types = {"hand": AcpType.model_validate({"runner": "acp", "command": command(**offers), **(kind or {})})}
        runner = AcpRunner(self.children, types)
        given: dict[str, Json] = spec or {}
        asked = AgentSpec("hand-1", "hand", "Ada", str(self.folder), **given)
        agent = await runner.start(asked, no_calls)
        assert isinstance(agent, AcpAgent)
        self.started.append(agent)
        return agent

    def journal(self, what: str = "") -> list[Json]:
        """What the agents were asked, of one kind or all."""
        file = self.folder / "journal"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [line[1:] if what else line for line in lines if not what or line[0] == what]

    def touch(self, name: str) -> None:
        (self.folder / name).touch()

    async def there(self, name: str) -> None:
        """Wait for a file."""
        await until(lambda: (self.folder / name).exists())


@asynccontextmanager
async def place(folder: Path) -> AsyncGenerator[Place]:
    """A supervisor; all agents that are started there end with it."""
    owner = processes.identify(os.getpid())
    children = Supervisor(owner) if is_supported() else Subprocesses(owner)
    here = Place(folder, children)
    try:
        yield here
    finally:
        for agent in here.started:
            await agent.end(grace=0)
        await children.close()
