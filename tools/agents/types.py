"""What the deck must know of an agent type, whoever defined it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from .builtin.base import AgentType


@dataclass(frozen=True, slots=True)
class SpawnableType:
    """A type that agents can be spawned of: built in, or of the user's configuration."""

    name: str
    runner: str = "process"
    capabilities: Sequence[str] = ()  # of a built-in type; others take the labels that they are spawned with
    owns: frozenset[str] = frozenset()  # namespaces and collections that it may write to in mode default
    model: str | None = None
    models: Mapping[str, str] = field(default_factory=dict[str, str])  # size or name of the user's own -> model
    widest: str | None = None  # permission mode that the configuration lets its agents be raised to
    sandboxed: bool = False
    cwd: Path | None = None  # where its agents work; None: in the folder of its own
    restarted: bool = False  # its worker is started anew when it dies

    @classmethod
    def built_in(cls, kind: AgentType, widest: str | None) -> Self:
        return cls(kind.name, capabilities=list(kind.capabilities), owns=kind.owns, widest=widest)
