"""The state machine of queries, as small as it can be said: what each control does, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from quarterdeck.storage.runs.base import Audit, Query
from quarterdeck.tools.agents.runners.base import Control
from quarterdeck.tools.queries.controls import POSSIBLE, Options

ENDED = ("completed", "failed", "terminated")


@dataclass
class Expected:
    """What a query must look like. `came` is the end that it came to while it was held."""

    agent: int
    budget: dict[str, float]
    status: str = "queued"
    level: str | None = None
    came: str | None = None
    worked: float = 0.0
    tokens: float = 0.0
    mode: str = "default"
    audited: int = 0
    ended_as: Query | None = field(default=None, repr=False)
    audit: list[Audit] = field(default_factory=list[Audit], repr=False)

    def used_up(self) -> set[str]:
        used = {"tokens": self.tokens, "wallSeconds": self.worked}
        return {kind for kind, limit in self.budget.items() if used[kind] >= limit}

    def control(self, action: Control, options: Options) -> str:
        """Take the control; returns the status of its outcome, or the name of its error."""
        if self.status in ENDED:
            return "applied" if (action, self.status) == ("terminate", "terminated") else "ConflictError"
        self.audited += 1
        status, level = self.status, options.level
        match action:
            case "pause" if status == "paused" and level in (None, self.level):
                return "applied"
            case "pause" if status == "pausing" and level in (None, self.level):
                return "pending"
            case "resume" if status == "running":
                self.budget |= options.budget or {}
                return "applied"
            case _ if action not in POSSIBLE[status]:  # type: ignore[index]
                return "ConflictError"
            case "pause" if level == "interrupt":
                return "unsupported"
            case "pause" if level == "hold" and self.came is None:
                self.status, self.level = "pausing", "hold"
                return "pending"
            case "pause":
                self.status, self.level = "paused", level or "freeze"
            case "resume":
                old, self.budget = self.budget, {**self.budget, **(options.budget or {})}
                if self.used_up():
                    self.budget = old
                    return "LimitError"
                self.status = self.came or "running"
            case "terminate":
                self.status = "terminated"
            case "change_model":
                return "queued"
            case "change_permissions":
                same, self.mode = self.mode == options.permission_mode, str(options.permission_mode)
                return "applied" if same or status != "queued" else "queued"
            case "execute_command":
                pass
        return "applied"

    def enforce_budget(self) -> None:
        """What happens when somebody looks at it."""
        if self.status == "running" and (over := self.used_up()):
            self.control("pause" if over == {"tokens"} else "terminate", Options())
