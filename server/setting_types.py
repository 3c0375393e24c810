"""What a setting may hold where that is more than a number or a text; `config.py` has the settings themselves."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_settings import NoDecode

from quarterdeck.tools.agents.rights import PermissionMode
from quarterdeck.tools.agents.runners.acp.config import AcpType
from quarterdeck.tools.agents.runners.claude.config import ClaudeType
from quarterdeck.tools.agents.runners.commands import CommandType, Name
from quarterdeck.tools.agents.runners.llm.config import LlmType
from quarterdeck.tools.queries.rules import Rule, Rules

from .web.tokens import HttpTable


def _split_paths(value: Any) -> Any:
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


def _below_home(path: Path) -> Path:
    """Clients that start servers have no shell that would read the `~`."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home folder {path.parts[0]}") from None


def _like(pattern: str, told: str) -> AfterValidator:
    """A text that matches the whole pattern; `told` says what to give."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value, re.DOTALL):
            raise ValueError(told)
        return value

    return AfterValidator(check)


UserPath = Annotated[Path, AfterValidator(_below_home)]
UserPaths = Annotated[list[UserPath], NoDecode, BeforeValidator(_split_paths)]
Embedder = Annotated[
    str,
    _like(
        r"lexical|semantic(:[^@]+)?(@[^\n]+)?|openai:[^@]+@https?://[^@?#]+",
        "give lexical, semantic, semantic:MODEL@FOLDER or openai:MODEL@URL (with no password or query in it)",
    ),
]
SyncUrl = Annotated[str, _like(r"(https?://|sqlite:///).*", "give http://…, https://… or sqlite:///path/of.db")]
VectorsUrl = Annotated[
    str,
    _like(r"https?://[^@?#]+", "give http(s)://host:port; an API key is QUARTERDECK_VECTORS_KEY, not part of it"),
]
CacheUrl = Annotated[str, _like(r"(rediss?|unix)://.*", "give redis://…, rediss://… or unix:///path/of/redis.sock")]
TelemetryUrl = Annotated[
    str,
    _like(  # a query would not reach the collector
        r"https?://[^@?#]+",
        "give http(s)://host:port, with a path or without; headers with a key are OTEL_EXPORTER_OTLP_HEADERS",
    ),
    AfterValidator(lambda url: url.rstrip("/")),
]


def _runner(value: Any) -> str:
    return str(cast("dict[str, Any]", value).get("runner", "process") if isinstance(value, dict) else value.runner)


OwnType = Annotated[
    Annotated[CommandType, Tag("process")]
    | Annotated[ClaudeType, Tag("claude")]
    | Annotated[LlmType, Tag("llm")]
    | Annotated[AcpType, Tag("acp")],
    Discriminator(
        _runner,
        custom_error_type="runner",
        custom_error_message="there is no such runner (valid: process, claude, llm, acp)",
    ),
]


class AgentsTable(BaseModel):
    """The table `[agents]` of the TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    types: dict[Name, OwnType] = Field(default_factory=dict[str, OwnType])
    widest_mode: dict[Name, PermissionMode] = Field(default_factory=dict[str, PermissionMode])
    """Type -> the permission mode that its agents may be raised to."""


class OptimizerTable(BaseModel):
    """The table `[optimizer]` of the TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: Rules = Field(default_factory=list[Rule])

    def __str__(self) -> str:
        return ", ".join(rule.name for rule in self.rules)


def _parse_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


Agents = Annotated[AgentsTable, NoDecode, BeforeValidator(_parse_json)]
Optimizer = Annotated[OptimizerTable, NoDecode, BeforeValidator(_parse_json)]
Http = Annotated[HttpTable, NoDecode, BeforeValidator(_parse_json)]
