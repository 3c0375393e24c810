"""Agents on the real Claude Code, which asks a stand-in of the Messages API, in a home of the test's own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.runners.base import AgentSpec, CallDeck, Work
from quarterdeck.tools.agents.runners.claude.agent import ClaudeAgent
from quarterdeck.tools.agents.runners.claude.config import ClaudeType
from quarterdeck.tools.agents.runners.claude.runner import ClaudeRunner
from quarterdeck.tools.agents.runners.supervisor import Supervisor
from quarterdeck.tools.contract import DeckTool
from tests.servers.anthropic import MessagesApi

QUIET = {
    "ANTHROPIC_API_KEY": "sk-stand-in",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "ENABLE_TOOL_SEARCH": "false",
}


def environment(api: MessagesApi, home: Path) -> dict[str, str]:
    """What Claude Code needs to talk to the stand-in and to nobody else."""
    config = home / "config"
    config.mkdir(parents=True, exist_ok=True)
    return {**QUIET, "HOME": str(home), "CLAUDE_CONFIG_DIR": str(config), "ANTHROPIC_BASE_URL": api.url}


@dataclass(slots=True)
class Seen:
    """What a work called back."""

    usage: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    progress: list[str] = field(default_factory=list[str])
    models: list[str] = field(default_factory=list[str])
    sessions: list[str] = field(default_factory=list[str])
    asked: int = 0  # times that the budget was asked
    within_budget: asyncio.Event = field(default_factory=asyncio.Event)

    def work(self, prompt: str = "go", work_id: str = "q", **options: Any) -> Work:
        self.within_budget.set()

        async def before_request() -> None:
            self.asked += 1
            await self.within_budget.wait()

        return Work(
            work_id,
            prompt,
            lambda report: self.progress.append(report["message"]),
            self.usage.append,
            self.models.append,
            self.sessions.append,
            before_request,
            **options,
        )


async def no_calls(tool: str, arguments: dict[str, Any]) -> Any:
    raise AssertionError(tool)


@dataclass(slots=True)
class Place:
    """Where the agents of a test live."""

    api: MessagesApi
    folder: Path
    children: Supervisor
    monkeypatch: pytest.MonkeyPatch
    tools: Sequence[DeckTool] = ()
    started: list[ClaudeAgent] = field(default_factory=list[ClaudeAgent])

    async def start(self, kind: Mapping[str, Any] | None = None, call: CallDeck = no_calls, **spec: Any) -> ClaudeAgent:
        names = list(environment(self.api, self.folder / "home"))
        options = {"allowed_tools": ["Bash"], **(kind or {})}
        types = {"pilot": ClaudeType.model_validate({"runner": "claude", "env": names, **options})}
        given = {"permission_mode": "default", "model": "sonnet", "cwd": str(self.work), **spec}
        runner = ClaudeRunner(self.children, types, {"pilot": "bypassPermissions"}, lambda: self.tools)
        agent = await runner.start(AgentSpec("pilot-1", "pilot", "Ada", str(self.folder), **given), call)
        assert isinstance(agent, ClaudeAgent)
        self.started.append(agent)
        return agent

    @property
    def work(self) -> Path:
        folder = self.folder / "work"
        folder.mkdir(exist_ok=True)
        return folder


@asynccontextmanager
async def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Place]:
    """A stand-in API and a supervisor; all agents that are started there end with it."""
    api = MessagesApi()
    await api.open()
    for name, value in environment(api, folder / "home").items():
        monkeypatch.setenv(name, value)
    children = Supervisor(processes.identify(os.getpid()))
    here = Place(api, folder, children, monkeypatch)
    try:
        yield here
    finally:
        for agent in here.started:
            await agent.end(grace=0)
        await children.close()
        await api.close()


def bash(command: str) -> tuple[str, dict[str, Any]]:
    """A call of the tool Bash."""
    return "Bash", {"command": command, "description": "a test"}
