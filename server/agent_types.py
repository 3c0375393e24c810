"""The user's own agent types, checked against what only a running server knows: its folders and its built-in types."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from quarterdeck.tools.agents.builtin.base import AgentType
from quarterdeck.tools.agents.builtin.catalogue import TYPES
from quarterdeck.tools.agents.runners.commands import CommandType

from .config import Settings, SettingsError


def command_types(settings: Settings) -> dict[str, CommandType]:
    """Each type by its name, its `cwd` resolved.

    Raises:
        SettingsError: a name is taken, or a folder is not there or not below an allowed root; the text names the key.
    """
    roots = [Path(os.path.realpath(root)) for root in settings.upload_roots]
    types: dict[str, CommandType] = {}
    for name, kind in settings.agents.types.items():
        if name in TYPES:
            raise SettingsError(f"agents.types.{name}: there is a built-in type of that name; choose another")
        types[name] = kind.model_copy(update={"cwd": kind.cwd and _folder(f"agents.types.{name}.cwd", kind.cwd, roots)})
    return types


def _folder(key: str, cwd: Path, roots: Sequence[Path]) -> Path:
    """A relative one is looked for in each root."""
    for root in roots:
        folder = Path(os.path.realpath(root / cwd))
        if folder.is_dir() and any(folder.is_relative_to(allowed) for allowed in roots):
            return folder
    allowed = os.pathsep.join(map(str, roots)) or "none"
    raise SettingsError(f"{key}: {cwd} is no folder below QUARTERDECK_UPLOAD_ROOTS ({allowed})")


def described(name: str) -> AgentType:
    """How the orchestrator sees such a type: it owns the memory namespace and the collection of its own name."""
    return AgentType(name, name, "configured by the user", {}, owns=frozenset({name}))
