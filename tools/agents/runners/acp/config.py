"""`[agents.types.NAME]` with `runner = "acp"`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ...rights import PermissionMode
from ..children import LOGIN_ENVIRONMENT, Order, harmless_environment
from ..commands import CommandLine

ToolKind = Literal["read", "edit", "delete", "move", "search", "execute", "think", "fetch", "switch_mode", "other"]
"""What an agent says that a tool of its does."""


class AcpType(BaseModel):
    """An agent type that any program of the Agent Client Protocol can be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runner: Literal["acp"]
    command: CommandLine  # as an editor would start the agent
    cwd: Path | None = None  # None: the folder of the type's own in the data directory
    env: list[str] = Field(default_factory=list[str])  # names that pass through, beside those every worker gets
    auth_method: str | None = None  # one that the agent names, where it must be told how to log in
    model: str | None = None  # None: the agent's own choice
    models: dict[str, str] = Field(default_factory=dict[str, str])  # small, medium, large or a name -> the agent's name
    modes: dict[PermissionMode, str] = Field(default_factory=dict[PermissionMode, str])  # -> the agent's own mode
    allow: list[ToolKind] = Field(default_factory=list[ToolKind])  # what it may do unless in mode plan, beside reading
    sandbox: bool = False  # `command` confines the agent: the user's word, without which there is no bypassPermissions

    def order(self, cwd: str) -> Order:
        """What worker/launch.py is to run in `cwd`."""
        environment = harmless_environment(*LOGIN_ENVIRONMENT, *self.env)
        return {"command": self.command, "cwd": cwd, "env": environment, "limits": {}}
