"""How the requests of an agent for permission are answered: by the permission mode, since no human is there."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...rights import PermissionMode

READING = frozenset({"read", "search", "think"})
EDITING = frozenset({"edit", "delete", "move"})

KNOWN_MODES: Mapping[str, Sequence[str]] = {
    "plan": ("plan", "read-only"),
    "default": ("default",),
    "acceptEdits": ("acceptEdits", "autoEdit"),
    "bypassPermissions": ("bypassPermissions", "yolo", "full-access"),
}
"""Modes of agents that mean what a permission mode does: names of Claude Code, Gemini CLI and Codex. "auto" is not
among them, as it means something else to each agent."""


def own_mode(mode: str, offered: Collection[str], configured: Mapping[PermissionMode, str]) -> str | None:
    """The agent's own mode for a permission mode; None if there is none that is known to mean it."""
    chosen = [name for permission, name in configured.items() if permission == mode]
    return next(iter(chosen or [name for name in KNOWN_MODES[mode] if name in offered]), None)


@dataclass(slots=True)
class ToolCall:
    """What an agent has told of a call so far."""

    title: str
    kind: str = "other"
    paths: frozenset[str] = frozenset()


class Rules:
    """What agents of one type may do in `folder`; `allowed` are kinds of tools that the user's configuration allows in
    every mode but plan."""

    def __init__(self, folder: str, allowed: Iterable[str]) -> None:
        self._folder = Path(os.path.realpath(folder))
        self._allowed = frozenset(allowed)

    def objection(self, mode: str, call: ToolCall) -> str | None:
        """Why the call is not allowed in the permission mode; None if it is. The kind is the agent's own word."""
        if mode == "bypassPermissions":
            return None
        if not self._may(mode, call.kind):
            return f"permission mode {mode} does not allow it ({call.kind})"
        if outside := [path for path in sorted(call.paths) if not self._is_inside(path)]:
            return f"{outside[0]} is not below {self._folder}"
        if call.kind in EDITING and not call.paths:
            return "it does not say which file it changes"
        return None

    def _may(self, mode: str, kind: str) -> bool:
        if kind in READING:
            return True
        if mode == "plan":
            return False
        return kind in self._allowed or (mode == "acceptEdits" and kind in EDITING)

    def _is_inside(self, path: str) -> bool:
        return Path(os.path.realpath(self._folder / path)).is_relative_to(self._folder)
