"""`[agents.types.NAME]` with `runner = "llm"`."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _plain_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("should be an http:// or https:// address")
    if "@" in parts.netloc or parts.query:
        raise ValueError("should hold no key; api_key_env names the variable that does")
    return url


class LlmType(BaseModel):
    """An agent type on a model provider, with the deck's own tools."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runner: Literal["llm"]
    model: str  # one of `models`, or the name of a model
    models: dict[str, str] = Field(default_factory=dict[str, str])  # small, medium, large or a name -> model
    base_url: Annotated[str, AfterValidator(_plain_url)] | None = None  # of a server that speaks OpenAI's chat protocol
    api_key_env: str | dict[str, str] = Field(default_factory=dict[str, str])
    """The environment variable that holds the key; provider -> variable where the models are of several providers."""
    system_prompt: str | None = None
    max_requests: int = Field(default=50, ge=1)  # to the model, of one query

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if self.base_url is not None:
            return self
        for name in (self.models.get(self.model, self.model), *self.models.values()):
            provider, colon, model = name.partition(":")
            if not (provider and colon and model):
                raise ValueError(f"{name!r} should be 'provider:model', or base_url name a server")
            if self.key_variable(provider) is None:
                raise ValueError(f"api_key_env should name the environment variable with the key of {provider}")
        return self

    def key_variable(self, provider: str) -> str | None:
        """The environment variable with the key for `provider`; None: the server of `base_url` needs none."""
        return self.api_key_env if isinstance(self.api_key_env, str) else self.api_key_env.get(provider)
