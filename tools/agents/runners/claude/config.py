"""`[agents.types.NAME]` with `runner = "claude"`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ClaudeType(BaseModel):
    """An agent type on Claude Code. The client picks its name; this says where it works and what it may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runner: Literal["claude"]
    cwd: Path | None = None  # None: the folder of the type's own in the data directory
    env: list[str] = Field(default_factory=list[str])  # names that pass through, beside those every worker gets
    command: Path | None = None  # the user's own `claude`; None: the one that the SDK brings
    model: str = "medium"
    models: dict[str, str] = Field(default_factory=lambda: {"small": "haiku", "medium": "sonnet", "large": "opus"})
    system_prompt: str | None = None  # added to Claude Code's own
    allowed_tools: list[str] = Field(default_factory=list[str])
    disallowed_tools: list[str] = Field(default_factory=list[str])
    sandbox: bool = False  # Claude Code's own sandbox for commands
