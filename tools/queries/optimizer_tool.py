"""The `optimizer` tool."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from typing_extensions import TypedDict

from quarterdeck.storage.errors import DeniedError

from ..contract import Arguments, Call, DeckTool, deck_tool
from .optimizer import DEFAULT_INTERVAL_MS, Optimizer


class OptimizerArguments(Arguments):
    action: Literal["status", "start", "stop"] = "status"
    interval_ms: int = Field(DEFAULT_INTERVAL_MS, ge=100, le=3_600_000)
    dry_run: bool = Field(False, description="start: log what a rule would do, do nothing")


class RuleEntry(TypedDict):
    name: str
    priority: int
    action: str


class OptimizerAnswer(TypedDict):
    success: bool
    isMonitoring: bool
    enabled: bool
    intervalMs: int
    dryRun: bool
    rulesCount: int
    rules: list[RuleEntry]


def optimizer_tools(optimizer: Optimizer) -> list[DeckTool]:
    async def handle(arguments: OptimizerArguments, _call: Call) -> OptimizerAnswer:
        if arguments.action == "start":
            if not optimizer.enabled:
                raise DeniedError("FEATURE_ADAPTIVE_OPT=false: no rule acts on this server; unset it and restart")
            await optimizer.start(arguments.interval_ms, dry_run=arguments.dry_run)
        elif arguments.action == "stop":
            await optimizer.stop()
        return {
            "success": True,
            "isMonitoring": optimizer.is_monitoring,
            "enabled": optimizer.enabled,
            "intervalMs": optimizer.interval_ms,
            "dryRun": optimizer.dry_run,
            "rulesCount": len(optimizer.rules),
            "rules": [{"name": r.name, "priority": r.priority, "action": r.action} for r in optimizer.rules],
        }

    return [
        deck_tool(
            "optimizer",
            "Show, start or stop the rules that watch running queries.",
            OptimizerArguments,
            OptimizerAnswer,
            handle,
            title="Adaptive optimizer",
            idempotent=True,
        )
    ]
