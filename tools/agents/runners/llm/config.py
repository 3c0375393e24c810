"""`[agents.types.NAME]` with `runner = "llm"`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LlmType(BaseModel):
    """An agent type on a model provider, with the deck's own tools."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runner: Literal["llm"]
    model: str  # one of `models`, or the name of a model
    models: dict[str, str] = Field(default_factory=dict[str, str])  # small, medium, large or a name -> provider:model
    base_url: str | None = None  # of an OpenAI-compatible server
    api_key_env: str | None = None  # the environment variable that holds the key
    system_prompt: str | None = None
    max_requests: int = Field(default=50, ge=1)  # to the model, of one query
