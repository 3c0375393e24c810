"""How the tools have done since the server started."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class _Figures:
    calls: int = 0
    errors: int = 0
    seconds: float = 0.0
    longest: float = 0.0


@dataclass(slots=True)
class CallMeter:
    """Counts and times the calls of clients, by tool."""

    _tools: dict[str, _Figures] = field(default_factory=dict[str, _Figures])

    def record(self, tool: str, seconds: float, *, failed: bool) -> None:
        figures = self._tools.setdefault(tool, _Figures())
        figures.calls += 1
        figures.errors += failed
        figures.seconds += seconds
        figures.longest = max(figures.longest, seconds)

    def report(self) -> dict[str, dict[str, Any]]:
        """Per tool: calls, errors among them, mean and longest time in milliseconds."""
        return {
            tool: {
                "calls": figures.calls,
                "errors": figures.errors,
                "meanMs": round(figures.seconds / figures.calls * 1000, 3),
                "maxMs": round(figures.longest * 1000, 3),
            }
            for tool, figures in sorted(self._tools.items())
        }
