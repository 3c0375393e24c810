"""What a session has used, as Claude Code counts it: all requests, those of subagents and of earlier starts too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

_COUNTED = ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheCreationInputTokens")


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens of all models, and US dollars by list price."""

    tokens: int = 0
    usd: float = 0.0

    @classmethod
    def of(cls, usd: float, models: Mapping[str, Mapping[str, Any]]) -> Self:
        """From the figures of the protocol: `total_cost_usd` and the use of each model."""
        return cls(sum(int(use.get(name, 0)) for use in models.values() for name in _COUNTED), usd)

    def since(self, before: Spent) -> dict[str, float]:
        """`{tokens, usd}` that have come since."""
        return {"tokens": float(self.tokens - before.tokens), "usd": round(self.usd - before.usd, 9)}
