"""Agent types of the user's own: command lines from the configuration. A model can only name them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from .children import Order, harmless_environment

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
CommandLine = Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1)]
"""A program and its arguments, never a shell line."""


class Limits(BaseModel):
    """Bounds of one process; None leaves what the system allows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wall: float = Field(default=600, gt=0)  # seconds that one query may take, pauses left out
    memory_mb: int | None = Field(default=None, ge=1)  # of address space
    output_kb: int = Field(default=1024, ge=1, le=16 * 1024)  # of an answer; with jsonl, of one message
    open_files: int | None = Field(default=None, ge=4)


class CommandType(BaseModel):
    """`[agents.types.NAME]` of the TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runner: Literal["process"] = "process"
    protocol: Literal["plain", "jsonl"] = "plain"
    command: CommandLine
    cwd: Path | None = None  # None: the folder of the type's own in the data directory
    env: list[str] = Field(default_factory=list[str])  # names that pass through, beside those every worker gets
    limits: Limits = Limits()
    restart: Literal["never", "on-failure"] = "never"
    commands: dict[Name, CommandLine] = Field(default_factory=dict[str, list[str]])  # what execute_command may name

    @model_validator(mode="after")
    def _only_a_worker_is_restarted(self) -> Self:
        if self.protocol == "plain" and self.restart != "never":
            raise ValueError("restart is for protocol jsonl; with plain every query starts the command anew")
        return self

    def order(self, cwd: str | None, command: CommandLine | None = None) -> Order:
        """What worker/launch.py is to run in `cwd`: an agent, or a `command` for one."""
        bounds = {
            "RLIMIT_AS": self.limits.memory_mb and self.limits.memory_mb << 20,
            "RLIMIT_NOFILE": self.limits.open_files,
        }
        return {
            "command": command or self.command,
            "cwd": cwd,
            "env": harmless_environment(*self.env),
            "limits": {name: bound for name, bound in bounds.items() if bound is not None},
        }
