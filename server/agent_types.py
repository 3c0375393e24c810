"""The user's own agent types, checked against what only a running server knows: its folders and its built-in types."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from quarterdeck.tools.agents.builtin.catalogue import TYPES
from quarterdeck.tools.agents.runners.acp.config import AcpType
from quarterdeck.tools.agents.runners.claude.config import ClaudeType
from quarterdeck.tools.agents.runners.commands import CommandType
from quarterdeck.tools.agents.runners.llm.config import LlmType
from quarterdeck.tools.agents.types import SpawnableType

from .config import Settings, SettingsError
from .setting_types import OwnType


def own_types(settings: Settings) -> dict[str, OwnType]:
    """Each type by its name, its `cwd` resolved.

    Raises:
        SettingsError: a name is taken, or a folder is not there or not below an allowed root; the text names the key.
    """
    roots = [Path(os.path.realpath(root)) for root in settings.upload_roots]
    types: dict[str, OwnType] = {}
    for name, kind in settings.agents.types.items():
        if name in TYPES:
            raise SettingsError(f"agents.types.{name}: there is a built-in type of that name; choose another")
        if isinstance(kind, LlmType) or kind.cwd is None:
            types[name] = kind
        else:
            types[name] = kind.model_copy(update={"cwd": _folder(f"agents.types.{name}.cwd", kind.cwd, roots)})
    for name in settings.agents.widest_mode:
        if name not in TYPES and name not in types:
            raise SettingsError(
                f"agents.widest_mode.{name}: there is no such type (valid: {', '.join([*TYPES, *types])})"
            )
    return types


def spawnable(settings: Settings, types: Mapping[str, OwnType]) -> dict[str, SpawnableType]:
    """All types, the built-in ones first. One of the user's own owns the memory namespace and the collection of its
    own name."""
    widest = settings.agents.widest_mode
    kinds = {name: SpawnableType.built_in(kind, widest.get(name)) for name, kind in TYPES.items()}
    for name, kind in types.items():
        command = kind if isinstance(kind, CommandType) else None
        kinds[name] = SpawnableType(
            name,
            kind.runner,
            owns=frozenset({name}),
            model=None if isinstance(kind, CommandType) else kind.model,
            models={} if isinstance(kind, CommandType) else kind.models,
            widest=widest.get(name),
            sandboxed=isinstance(kind, (ClaudeType, AcpType)) and kind.sandbox,
            cwd=None if isinstance(kind, LlmType) else kind.cwd,
            restarted=command is not None and command.restart == "on-failure",
        )
    return kinds


def _folder(key: str, cwd: Path, roots: Sequence[Path]) -> Path:
    """A relative one is looked for in each root."""
    with suppress(RuntimeError):  # there is no such home
        cwd = cwd.expanduser()
    for root in roots:
        folder = Path(os.path.realpath(root / cwd))
        if folder.is_dir() and any(folder.is_relative_to(allowed) for allowed in roots):
            return folder
    allowed = os.pathsep.join(map(str, roots)) or "none"
    raise SettingsError(f"{key}: {cwd} is no folder below QUARTERDECK_UPLOAD_ROOTS ({allowed})")
