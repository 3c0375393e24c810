"""How the tools have done since the server started."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry import metrics

from quarterdeck.storage.clock import Clock


@dataclass(slots=True)
class Figures:
    calls: int = 0
    errors: int = 0
    seconds: float = 0.0
    longest: float = 0.0


@dataclass(slots=True)
class Measured:
    """A call that is under way; one that raises has failed whatever this says."""

    failed: bool = False


class CallMeter:
    """Counts and times the calls of clients, by tool."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tools: dict[str, Figures] = {}
        self._durations = metrics.get_meter("quarterdeck").create_histogram(
            "mcp.server.operation.duration", "s", "Calls of tools by clients"
        )

    @property
    def figures(self) -> Mapping[str, Figures]:
        return self._tools

    @contextmanager
    def measure(self, tool: str) -> Generator[Measured]:
        """Count and time the call that is made within, however it ends."""
        began, call, returned = self._clock.monotonic(), Measured(), False
        try:
            yield call
            returned = True
        finally:
            self.record(tool, self._clock.monotonic() - began, failed=call.failed or not returned)

    def record(self, tool: str, seconds: float, *, failed: bool) -> None:
        figures = self._tools.setdefault(tool, Figures())
        figures.calls += 1
        figures.errors += failed
        figures.seconds += seconds
        figures.longest = max(figures.longest, seconds)
        attributes = {"mcp.method.name": "tools/call", "gen_ai.tool.name": tool}
        self._durations.record(seconds, {**attributes, "error.type": "tool_error"} if failed else attributes)

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
